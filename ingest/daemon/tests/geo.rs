//! Countries in the running daemon: the database is enforced, followed and reported. The country of this machine's own
//! addresses is what the test's database says.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bondgate_mmdb::{Database, Metadata};

/// Another machine may be busy.
const DEADLINE: Duration = Duration::from_secs(60);

fn database(code: &str) -> Vec<u8> {
    let mut database = Database::new(Metadata::country(6, 24));
    database.insert_country(Ipv4Addr::new(127, 0, 0, 0), 8, code);
    database.write().bytes
}

fn bondgate(path: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bondgate"));
    command.args(arguments).current_dir(path.parent().unwrap());
    for assignment in [
        &format!("geo.database={}", path.display()),
        "geo.allow=DE",
        "geo.exempt_private=false",
        "srtla.auth=open",
        "srtla.listen=127.0.0.1:0",
        "srt.listen=127.0.0.1:0",
        "admin.listen=127.0.0.1:0",
        "runtime.state_dir=off",
        "log.format=human",
    ] {
        command.args(["--set", assignment]);
    }
    command
}

struct Daemon {
    child: Child,
    srtla: String,
    srt: String,
    admin: String,
}

impl Daemon {
    fn start(path: &Path) -> Self {
        let mut command = bondgate(path, &["run", "--accept-open-ingest"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let unknown = String::new;
        let mut daemon = Self { child, srtla: unknown(), srt: unknown(), admin: unknown() };
        let mut log = BufReader::new(daemon.child.stderr.take().unwrap());
        let mut said = String::new();
        let word = |line: &str, before: &str| {
            let rest = line.split_once(before).unwrap().1;
            rest.split(|c: char| c == '/' || c.is_whitespace()).next().unwrap().to_owned()
        };
        loop {
            let mut line = String::new();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "it ended: {said}");
            said.push_str(&line);
            if line.contains("metrics and health") {
                daemon.admin = word(&line, "http://");
            }
            if line.contains("ready: relay") {
                (daemon.srtla, daemon.srt) = (word(&line, "srtla="), word(&line, " srt="));
                // What it says further must not fill the pipe.
                std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
                return daemon;
            }
        }
    }

    /// A metric by the beginning of its line.
    fn metric(&self, line: &str) -> Option<f64> {
        let mut stream = TcpStream::connect(&self.admin).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        page.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok())
    }

    fn wait_for(&self, line: &str, least: f64) {
        let deadline = Instant::now() + DEADLINE;
        while self.metric(line).is_none_or(|value| value < least) {
            assert!(Instant::now() < deadline, "{line} stays {:?}", self.metric(line));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Asks for registration; whether anything is answered within `patience`.
    fn answers(&self, patience: Duration) -> bool {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut reg1 = vec![7_u8; 258];
        reg1[..2].copy_from_slice(&[0x92, 0x00]);
        let until = Instant::now() + patience;
        while Instant::now() < until {
            socket.send_to(&reg1, &self.srtla).unwrap();
            if socket.recv(&mut [0; 512]).is_ok() {
                return true;
            }
        }
        false
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_database_is_enforced_and_followed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("countries.mmdb");
    fs::write(&path, database("FR")).unwrap();
    let daemon = Daemon::start(&path);
    let geo = "bondgate_srtla_dropped_datagrams_total{shard=\"0\",reason=\"geo\"} ";
    let loads = |result: &str| format!("bondgate_geo_loads_total{{result=\"{result}\"}} ");

    assert!(!daemon.answers(Duration::from_millis(600)));
    daemon.wait_for(geo, 1.0);
    // The beginning of an SRT handshake.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut induction = vec![0_u8; 64];
    (induction[0], induction[19], induction[39]) = (0x80, 4, 1);
    socket.send_to(&induction, &daemon.srt).unwrap();
    daemon.wait_for("bondgate_srt_dropped_datagrams_total{shard=\"0\",reason=\"geo\"} ", 1.0);

    let replace = |code: &str| {
        let new = dir.path().join("new");
        fs::write(&new, database(code)).unwrap();
        fs::rename(&new, &path).unwrap();
    };
    replace("DE");
    daemon.wait_for(&loads("ok"), 2.0);
    assert!(daemon.answers(DEADLINE));
    fs::write(&path, &database("FR")[..100]).unwrap();
    daemon.wait_for(&loads("refused"), 1.0);
    assert!(daemon.answers(DEADLINE), "the database before stays in force");
    let dropped = daemon.metric(geo).unwrap();
    replace("FR");
    daemon.wait_for(&loads("ok"), 3.0);
    assert!(!daemon.answers(Duration::from_millis(600)));
    daemon.wait_for(geo, dropped + 1.0);
    assert!(daemon.metric("bondgate_geo_networks ").unwrap() > 0.0);
}

#[test]
fn the_command_says_what_the_daemon_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("countries.mmdb");
    fs::write(&path, database("FR")).unwrap();
    let said = |arguments: &[&str]| {
        let output = bondgate(&path, arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(
        said(&["geo", "lookup", "127.0.0.1", "192.0.2.1"]),
        "ADDR       COUNTRY  WHY\n\
         127.0.0.1  FR       FR (127.0.0.0/8), not named: blocked\n\
         192.0.2.1  -        country unknown: blocked\n"
    );
    let found: serde_json::Value =
        serde_json::from_str(&said(&["geo", "lookup", "--json", "127.0.0.1"])).unwrap();
    assert_eq!((&found[0]["country"], &found[0]["admitted"]), (&"FR".into(), &false.into()));
    let status = said(&["geo", "status"]);
    assert!(status.contains("(Test-Country)\nbuilt     2026-05-28 20:26 UTC, "), "{status}");
    assert!(status.contains("networks  1 IPv4, 0 IPv6\n"), "{status}");
    fs::remove_file(&path).unwrap();
    for arguments in [&["geo", "status"][..], &["run", "--accept-open-ingest"]] {
        let output = bondgate(&path, arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("cannot read ") && said.contains("No such file"), "{said}");
    }
}
