//! Runs the models of the handshake in `auth/models`: the bounded check always (it needs `python3`), those for `proverif`
//! where it is installed. What cannot run shows as ignored.
#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing fails, as it should")]

use libtest_mimic::{Arguments, Failed, Trial};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models");

fn python(script: &str, arguments: &[&str], proverif: &str) -> Output {
    let mut command = Command::new("python3");
    command.arg("-B").arg(format!("{DIR}/{script}")).args(arguments).env("PROVERIF", proverif);
    command.output().unwrap()
}

fn ends_with(output: &Output, code: i32, last: &str) -> Result<(), Failed> {
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.code() == Some(code) && said.lines().last().is_some_and(|line| line.contains(last)) {
        return Ok(());
    }
    Err(format!("{:?}, {}{said}", output.status.code(), String::from_utf8_lossy(&output.stderr)).into())
}

/// SA1 holds within the bound, and every mutant falls.
fn bounded() -> Result<(), Failed> {
    ends_with(&python("bounded.py", &[], ""), 0, " checks, 0 wrong")
}

fn proverif() -> Result<(), Failed> {
    ends_with(&python("run", &[], "proverif"), 0, " models and mutants, 0 wrong")
}

/// Every replacement that makes a mutant still finds its text.
fn mutants_apply() -> Result<(), Failed> {
    let output = python("run", &["--list"], "");
    ends_with(&output, 0, "mutant of stock_ticket.pv")?;
    let cases = String::from_utf8_lossy(&output.stdout).lines().count();
    if cases == 9 { Ok(()) } else { Err(format!("{cases} models and mutants").into()) }
}

/// A prover that calls everything true, and one that says nothing, do not pass for one that finds what is expected.
fn wrong_results_are_noticed() -> Result<(), Failed> {
    let dir = tempfile::tempdir().unwrap();
    let stub = |name: &str, script: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let all_true =
        stub("all_true", "for query in 1 2 3 4 5 6; do echo \"RESULT query $query is true.\"; done");
    ends_with(&python("run", &[], &all_true), 1, "9 wrong")?;
    ends_with(&python("run", &[], &stub("mute", "true")), 1, "9 wrong")
}

/// Nothing checked is neither success nor failure.
fn a_missing_prover_is_a_skip() -> Result<(), Failed> {
    ends_with(&python("run", &[], "no-such-prover"), 77, "SKIPPED: proverif is not installed")
}

fn main() {
    let arguments = Arguments::from_args();
    let has = |program: &str, argument: &str| {
        Command::new(program).arg(argument).output().is_ok_and(|output| output.status.success())
    };
    let python = has("python3", "--version");
    let proverif_found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("proverif").is_file()));
    if !python {
        eprintln!("SKIPPED models: python3 not installed");
    } else if !proverif_found {
        eprintln!("SKIPPED proverif: proverif not installed");
    }
    let trials = vec![
        Trial::test("bounded", bounded).with_ignored_flag(!python),
        Trial::test("proverif", proverif).with_ignored_flag(!python || !proverif_found),
        Trial::test("mutants_apply", mutants_apply).with_ignored_flag(!python),
        Trial::test("wrong_results_are_noticed", wrong_results_are_noticed).with_ignored_flag(!python),
        Trial::test("a_missing_prover_is_a_skip", a_missing_prover_is_a_skip).with_ignored_flag(!python),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}
