//! Runs workloads in callgrind and compares what it counted.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::ratchet::{Change, Origin, Ratchet};
use crate::workloads::{ALL, Workload};

/// Exit code of "cannot be said here".
const CANNOT_SAY: u8 = 77;

/// Counts the workloads whose name contains `filter`, prints them, and compares them with the ratchet or writes it anew.
///
/// # Errors
/// When a workload does not run in callgrind, or the ratchet cannot be read or written.
pub fn count(filter: Option<&str>, bless: bool) -> Result<ExitCode> {
    if Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("SKIPPED instruction counts: valgrind is not installed (package valgrind)");
        return Ok(ExitCode::from(CANNOT_SAY));
    }
    ensure!(!cfg!(debug_assertions), "count with --release: a debug build's instructions mean nothing");
    let path = Ratchet::path();
    let old = Ratchet::read(&path)?;
    let here = Origin::here();
    let comparable = old.as_ref().filter(|ratchet| ratchet.origin == here);
    let mut new = Ratchet { origin: here.clone(), instructions: [].into() };
    let mut worse = Vec::new();
    println!("{:<28} {:>14}  change", "workload", "instructions");
    for workload in ALL.iter().filter(|workload| filter.is_none_or(|part| workload.name.contains(part))) {
        let instructions = in_callgrind(workload).with_context(|| workload.name.to_owned())?;
        // Tenths are enough, and keep the file steady.
        let instructions = (instructions * 10.0).round() / 10.0;
        let change = comparable.map_or(Change::New, |ratchet| ratchet.compare(workload.name, instructions));
        let text = match change {
            Change::New => "new".to_owned(),
            Change::Same(percent) => format!("{percent:+.1} %"),
            Change::Better(percent) => format!("{percent:+.1} %, worth holding: --bless"),
            Change::Worse(percent) => {
                worse.push(workload.name);
                format!("{percent:+.1} %, more than agreed")
            }
        };
        println!("{:<28} {instructions:>14.1}  {text}", workload.name);
        new.instructions.insert(workload.name.to_owned(), instructions);
    }
    if bless {
        if let Some(ratchet) = comparable {
            for (name, instructions) in &ratchet.instructions {
                if ALL.iter().any(|workload| workload.name == name) {
                    new.instructions.entry(name.clone()).or_insert(*instructions);
                }
            }
        }
        new.write(&path)?;
        println!("wrote {}", path.display());
        return Ok(ExitCode::SUCCESS);
    }
    match (old, worse.is_empty()) {
        (Some(old), _) if old.origin != here => {
            let Origin { rustc, arch } = &old.origin;
            println!(
                "SKIPPED ratchet: agreed with {rustc} on {arch}, this is {} on {}",
                here.rustc, here.arch
            );
            Ok(ExitCode::from(CANNOT_SAY))
        }
        (_, true) => Ok(ExitCode::SUCCESS),
        (_, false) => {
            println!(
                "more instructions than agreed: {}; if that is on purpose, count --bless and say why",
                worse.join(", ")
            );
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Instructions per operation, by callgrind.
fn in_callgrind(workload: &Workload) -> Result<f64> {
    let dir = tempfile::tempdir()?;
    let out = dir.path().join("callgrind.out");
    let program = std::env::current_exe()?;
    let output = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--collect-atstart=no",
            "--toggle-collect=*bondgate_micro*measured*",
            "--quiet",
        ])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .args(["once", workload.name])
        // Where things lie in memory must not depend on who asks.
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        bail!("callgrind ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let operations: u64 = said
        .split_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .with_context(|| format!("the workload said {said:?}"))?;
    let total = total_instructions(&out)?;
    ensure!(total > 0, "callgrind saw nothing: was the program stripped of its symbols?");
    Ok(total as f64 / operations.max(1) as f64)
}

/// The sum callgrind writes at the end of its file.
fn total_instructions(path: &Path) -> Result<u64> {
    let text = std::fs::read_to_string(path)?;
    let sum = |key: &str| text.lines().filter_map(|line| line.strip_prefix(key)).next_back();
    let line = sum("totals:").or_else(|| sum("summary:")).context("callgrind wrote no totals")?;
    line.split_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .with_context(|| format!("totals:{line}"))
}
