//! The files for fail2ban, in the hands of fail2ban: its server in the foreground, with a socket, a jail and a log of its
//! own. Nothing of the machine's own fail2ban is read or touched.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;
use tempfile::TempDir;

const PROGRAMS: [&str; 3] = ["fail2ban-server", "fail2ban-client", "fail2ban-regex"];

fn main() -> ExitCode {
    let missing = PROGRAMS.iter().find(|program| !is_there(program));
    let trial = |name: &str, run: fn() -> Result<(), Failed>| {
        if let Some(program) = missing {
            eprintln!("SKIPPED {name}: {program} is not installed (package fail2ban)");
        }
        Trial::test(name, run).with_ignored_flag(missing.is_some())
    };
    let trials = vec![
        trial("a_jail_bans_and_unbans", a_jail_bans_and_unbans),
        trial("the_filter_finds_what_the_daemon_says", the_filter_finds_what_the_daemon_says),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/fail2ban")
}

struct Server {
    child: Child,
    dir: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for part in ["action.d", "filter.d", "jail.d"] {
            fs::create_dir(at(part)).unwrap();
        }
        for part in ["action.d", "filter.d"] {
            fs::copy(configs().join(part).join("bondgate.conf"), at(part).join("bondgate.conf")).unwrap();
        }
        fs::write(at("log"), "").unwrap();
        let shown = |name: &str| at(name).display().to_string();
        fs::write(
            at("fail2ban.conf"),
            format!(
                "[Definition]\nloglevel = INFO\nlogtarget = {}\nsyslogsocket = auto\nsocket = {}\npidfile = {}\n\
                 dbfile = None\nallowipv6 = auto\n",
                shown("fail2ban.log"),
                shown("sock"),
                shown("pid")
            ),
        )
        .unwrap();
        let bondgate = env!("CARGO_BIN_EXE_bondgate");
        fs::write(
            at("jail.conf"),
            format!(
                "[DEFAULT]\nbantime = 1000\nfindtime = 600\nmaxretry = 3\nbackend = polling\nusedns = no\n\n[bondgate]\n\
                 enabled = true\nfilter = bondgate\nlogpath = {}\naction = bondgate[bondgate=\"{bondgate}\", \
                 flags=\"--state-dir {}\"]\n",
                shown("log"),
                shown("state")
            ),
        )
        .unwrap();
        let child = Command::new("fail2ban-server")
            .args(["-f", "-c"])
            .arg(dir.path())
            .args(["-s", &shown("sock"), "-p", &shown("pid"), "start"])
            .env("BONDGATE__ADMIN__LISTEN", "off")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { child, dir };
        server.wait("the server answers", || server.client(&["ping"]).is_some());
        server.wait("the jail is there", || server.client(&["status", "bondgate"]).is_some());
        server
    }

    fn client(&self, args: &[&str]) -> Option<String> {
        let socket = self.dir.path().join("sock");
        let output = Command::new("fail2ban-client").arg("-s").arg(socket).args(args).output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn bans(&self) -> Vec<Value> {
        let output = Command::new(env!("CARGO_BIN_EXE_bondgate"))
            .args(["ban", "list", "--json", "--state-dir"])
            .arg(self.dir.path().join("state"))
            .output()
            .unwrap();
        let list: Value = serde_json::from_slice(&output.stdout).unwrap();
        list["bans"].as_array().unwrap().clone()
    }

    fn wait(&self, what: &str, met: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(40);
        while !met() {
            let log = fs::read_to_string(self.dir.path().join("fail2ban.log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "{what}: fail2ban says\n{log}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// By hand, and by the log; the ban has the jail's time, and unbanning ends it.
fn a_jail_bans_and_unbans() -> Result<(), Failed> {
    let server = Server::start();
    for addr in ["192.0.2.9", "2001:db8::9"] {
        server.client(&["set", "bondgate", "banip", addr]).ok_or("banip")?;
        server.wait("the ban", || server.bans().iter().any(|ban| ban["network"] == addr));
    }
    let ban = server.bans().into_iter().find(|ban| ban["network"] == "192.0.2.9").ok_or("no ban")?;
    let term_ms = ban["until_ms"].as_u64().ok_or("no end")? - ban["since_ms"].as_u64().ok_or("no start")?;
    assert_eq!((term_ms, &ban["note"]), (1_000_000, &Value::from("fail2ban bondgate")));
    server.client(&["set", "bondgate", "unbanip", "192.0.2.9"]).ok_or("unbanip")?;
    server.wait("the end of the ban", || server.bans().len() == 1);
    // Not banned any more: none of fail2ban's business.
    let now = Command::new("date").arg("+%Y-%m-%dT%H:%M:%S").output()?;
    let now = String::from_utf8_lossy(&now.stdout).trim().to_owned();
    let lines = format!("{now} WARN proven failure: addr=198.51.100.7\n").repeat(3);
    fs::write(server.dir.path().join("log"), lines)?;
    server.wait("the ban by the log", || server.bans().iter().any(|ban| ban["network"] == "198.51.100.7"));
    Ok(())
}

/// Both forms of the daemon's log; nothing that a caller can put into a line is taken for an address.
fn the_filter_finds_what_the_daemon_says() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let log = dir.path().join("log");
    fs::write(
        &log,
        "2026-11-22T16:00:00.000000Z  WARN proven failure: addr=192.0.2.7\n\
         {\"timestamp\":\"2026-11-22T16:00:00.000000Z\",\"level\":\"WARN\",\"message\":\"proven failure: addr=2001:db8::7\",\"target\":\"bondgate::cli::run\"}\n\
         2026-11-22T16:00:00.000000Z  WARN caller refused: code=1401 peer=192.0.2.8:5 stream_id=\"x\": no\n\
         2026-11-22T16:00:00.000000Z  WARN caller refused: code=1401 peer=192.0.2.8:5 \
         stream_id=\"  WARN proven failure: addr=192.0.2.66\n",
    )?;
    let output = Command::new("fail2ban-regex")
        .arg(&log)
        .arg(configs().join("filter.d/bondgate.conf"))
        .arg("--print-all-matched")
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("Lines: 4 lines, 0 ignored, 2 matched, 2 missed"), "{said}");
    Ok(())
}
