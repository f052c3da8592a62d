//! The command line from outside: the built binary, its exit codes, stdout and stderr.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs the binary in `directory` with a clean environment.
fn bondgate_in(directory: &Path, args: &[&str], env: &[(&str, &str)]) -> Run {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_bondgate"))
        .args(args)
        .current_dir(directory)
        .env_clear()
        .envs(env.iter().copied())
        .output()
        .unwrap();
    Run {
        code: status.code(),
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
    }
}

fn bondgate(args: &[&str]) -> Run {
    bondgate_in(tempfile::tempdir().unwrap().path(), args, &[])
}

#[test]
fn wrong_usage_ends_with_2_and_help_with_0() {
    for args in [
        &[][..],
        &["fly"],
        &["run", "--nope"],
        &["send", "--to", "host:5000"],
        &["send", "--to", "host", "--auto"],
        &["send", "--to", "host:5000", "--auto", "--link", "eth0"],
        &["send", "--auto"],
        &["demo", "--seconds", "0"],
        &["completions", "tcl"],
        &["init", "--mode", "forward", "--output", "-"],
        &["init", "--server", "a:1", "--mode", "relay", "--output", "-"],
    ] {
        let run = bondgate(args);
        assert_eq!(run.code, Some(2), "{args:?}: {}", run.stderr);
        assert!(!run.stderr.is_empty() && run.stdout.is_empty(), "{args:?}");
    }
    for args in [&["--help"][..], &["run", "--help"], &["--version"], &["version"]] {
        let run = bondgate(args);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{args:?}");
        assert!(!run.stdout.is_empty());
    }
}

#[test]
fn help_documents_the_exit_codes() {
    let help = bondgate(&["--help"]).stdout;
    for line in ["0   success", "1   failure while running", "2   wrong usage", "78  invalid configuration"] {
        assert!(help.contains(line), "{line}\n{help}");
    }
}

#[test]
fn an_invalid_configuration_ends_with_78_and_one_message() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    fs::write(path.join("b.toml"), "[srtla]\nlisen = \"x\"\n[srt]\nlatency_ms = 1\n").unwrap();
    let expected = "bondgate: invalid configuration, all problems:\n\
        b.toml:2:1: srtla.lisen: unknown key (did you mean listen?)\n\
        b.toml:4:14: srt.latency_ms: expected an integer from 20 to 8000, found 1\n";
    for args in [&["check-config", "b.toml"][..], &["run", "--config", "b.toml"], &["run", "-c", "b.toml"]] {
        let run = bondgate_in(path, args, &[]);
        assert_eq!(
            (run.code, run.stderr.as_str(), run.stdout.as_str()),
            (Some(78), expected, ""),
            "{args:?}"
        );
    }
    for command in ["run", "check-config"] {
        let run = bondgate_in(path, &[command], &[("BONDGATE_CONFIG", "b.toml")]);
        assert_eq!((run.code, run.stderr.as_str()), (Some(78), expected), "{command}");
        let run = bondgate_in(path, &[command], &[("BONDGATE_CONFIG", "none.toml")]);
        assert_eq!(run.code, Some(78), "a file that is named must exist");
        let run = bondgate_in(path, &[command], &[("BONDGATE__SRT__X", "1")]);
        assert_eq!(run.code, Some(78));
        assert!(
            run.stderr.contains("environment variable BONDGATE__SRT__X: srt.x: unknown key"),
            "{}",
            run.stderr
        );
        let run = bondgate_in(path, &[command, "--log-level", "loud"], &[]);
        assert_eq!(run.code, Some(78));
        assert!(run.stderr.contains("--log-level"), "{}", run.stderr);
    }
}

#[test]
fn check_config_finds_the_file_run_would_use() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("bondgate.toml"), "[srt]\nlatency_ms = 77\n").unwrap();
    let run = bondgate_in(directory.path(), &["check-config"], &[]);
    assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (Some(0), "bondgate.toml: ok\n", ""));
    let run = bondgate_in(
        directory.path(),
        &["check-config", "--print-effective", "--set", "srt.listen=[::]:1"],
        &[],
    );
    assert!(run.stdout.contains("[srt]\nlisten = \"[::]:1\"\nlatency_ms = 77\n"), "{}", run.stdout);
    let run = bondgate_in(directory.path(), &["check-config", "--set", "forward.server=a:1"], &[]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), "bondgate.toml: ok, 1 warning\n"));
    assert!(
        run.stderr.starts_with("warning: --set forward.server=a:1: forward.server: has no effect"),
        "{}",
        run.stderr
    );
}

#[test]
fn what_is_printed_as_effective_is_a_valid_file() {
    let directory = tempfile::tempdir().unwrap();
    let first = bondgate_in(
        directory.path(),
        &["check-config", "--print-effective"],
        &[("BONDGATE__SRT__LATENCY_MS", "99")],
    );
    fs::write(directory.path().join("bondgate.toml"), &first.stdout).unwrap();
    let second = bondgate_in(directory.path(), &["check-config", "--print-effective"], &[]);
    assert_eq!((second.code, second.stdout), (Some(0), first.stdout));
}

#[test]
fn init_writes_a_file_that_passes_check_config_and_prints_the_urls() {
    for (flags, urls, state) in [
        (
            &["--host", "gate.example"][..],
            &[
                "bondgate send --auto --key 'srtla://gate.example:5000?device=encoder1&",
                "srt://127.0.0.1:9000?streamid=cam1&latency=2000000&pkt_size=1316",
                "srt://gate.example:9710?streamid=play/cam1",
            ][..],
            true,
        ),
        (
            &["--profile", "phones", "--host", "gate.example", "--stream", "live/a"],
            &[
                "srtla://gate.example:5000?streamid=live/a?token=bgt_",
                "srt://gate.example:9710?streamid=publish/live/a?token=bgt_",
                "BELABOX",
                "ffmpeg",
            ],
            true,
        ),
        (
            &[
                "--network",
                "192.0.2.0/24",
                "--host",
                "2001:db8::1",
                "--srtla-port",
                "6000",
                "--srt-port",
                "6001",
            ],
            &["srtla://[2001:db8::1]:6000?streamid=cam1", "srt://[2001:db8::1]:6001?streamid=play/cam1"],
            false,
        ),
        (
            &["--profile", "open", "--mode", "forward", "--server", "127.0.0.1:4001", "--host", "h"],
            &["srtla://h:5000?streamid=cam1", "SRT server 127.0.0.1:4001", "--accept-open-ingest"],
            false,
        ),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let run = bondgate_in(directory.path(), &[&["init", "--state-dir", "state"], flags].concat(), &[]);
        assert_eq!(run.code, Some(0), "{flags:?} {}", run.stderr);
        assert_eq!(run.stderr.contains("seal key lies beside it"), state, "{}", run.stderr);
        for url in urls {
            assert!(run.stdout.contains(url), "{url}\n{}", run.stdout);
        }
        let check = bondgate_in(directory.path(), &["check-config"], &[]);
        assert_eq!((check.code, check.stdout.as_str()), (Some(0), "bondgate.toml: ok\n"), "{}", check.stderr);
        assert_eq!(check.stderr, "", "{flags:?}");
        let mut names: Vec<_> =
            fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        let expected = if state { &["bondgate.toml", "state"][..] } else { &["bondgate.toml"] };
        assert_eq!(names, expected, "nothing else is left behind");
        for flag in flags.iter().skip_while(|flag| **flag != "--srtla-port").skip(1).step_by(2) {
            let effective = bondgate_in(directory.path(), &["check-config", "--print-effective"], &[]).stdout;
            assert!(effective.contains(&format!("listen = \"[::]:{flag}\"")), "{effective}");
        }
        // Once more: what was made before stays good and is not shown again.
        let again = [&["init", "--force", "--state-dir", "state"], flags].concat();
        let run = bondgate_in(directory.path(), &again, &[]);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        assert!(!run.stdout.contains("bgt_") && !run.stdout.contains("bgk_"), "{}", run.stdout);
        assert_eq!(run.stdout.contains("already"), state, "{}", run.stdout);
    }
}

#[test]
fn init_never_replaces_a_file_without_force() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bondgate.toml");
    fs::write(&file, "precious").unwrap();
    let init = ["init", "--state-dir", "state"];
    let run = bondgate_in(directory.path(), &init, &[]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
    assert!(
        run.stderr.contains("bondgate.toml exists already") && run.stderr.contains("--force"),
        "{}",
        run.stderr
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    let forced = [&init[..], &["--force"]].concat();
    assert_eq!(bondgate_in(directory.path(), &forced, &[]).code, Some(0));
    assert_eq!(bondgate_in(directory.path(), &["check-config"], &[]).code, Some(0));
}

#[test]
fn init_refuses_what_check_config_would_refuse() {
    let directory = tempfile::tempdir().unwrap();
    let run = bondgate_in(directory.path(), &["init", "--srtla-port", "7000", "--srt-port", "7000"], &[]);
    assert_eq!(run.code, Some(78), "{}", run.stderr);
    assert!(run.stderr.contains("same UDP port"), "{}", run.stderr);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    let run = bondgate_in(directory.path(), &["init", "--output", "no/such/directory.toml"], &[]);
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains("no/such/directory.toml: cannot be written"), "{}", run.stderr);
}

#[test]
fn init_to_stdout_keeps_data_and_words_apart() {
    let directory = tempfile::tempdir().unwrap();
    let run = bondgate_in(directory.path(), &["init", "--output", "-", "--host", "h"], &[]);
    assert!(run.stderr.contains("bondgate device enroll encoder1 --stream cam1"), "{}", run.stderr);
    fs::write(directory.path().join("b.toml"), run.stdout).unwrap();
    assert_eq!(bondgate_in(directory.path(), &["check-config", "b.toml"], &[]).code, Some(0));
}

#[test]
fn version_completions_and_manual_pages() {
    let run = bondgate(&["version", "--json"]);
    let version: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    for shell in ["bash", "zsh", "fish"] {
        let script = bondgate(&["completions", shell]).stdout;
        assert!(script.contains("check-config") && script.contains("print-effective"), "{shell}");
    }
    assert!(bondgate(&["man"]).stdout.contains(".TH bondgate 1"));
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(bondgate_in(directory.path(), &["man", "--dir", "pages"], &[]).code, Some(0));
    for page in ["bondgate.1", "bondgate-run.1", "bondgate-check-config.1"] {
        assert!(
            fs::read_to_string(directory.path().join("pages").join(page)).unwrap().contains(".TH"),
            "{page}"
        );
    }
}
