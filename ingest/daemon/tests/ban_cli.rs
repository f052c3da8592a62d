//! `bondgate ban` as an operator meets it: the real binary and its file, alone and beside a running daemon.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use bondgate_srt::{ConnectOptions, Endpoint, EndpointConfig, Event, TRANSMIT_MIN};
use serde_json::Value;
use tempfile::TempDir;

struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// A directory with a state directory in it, and the binary with a clean environment.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn bans(&self) -> PathBuf {
        self.dir.path().join("state/bans.json")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bondgate"));
        command.args(args).env_clear().current_dir(self.dir.path());
        command.env("BONDGATE__RUNTIME__STATE_DIR", self.dir.path().join("state"));
        command.env("BONDGATE__ADMIN__LISTEN", "off").stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Run {
        let output = self.command(args).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Run { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Runs what must succeed.
    #[track_caller]
    fn ok(&self, args: &[&str]) -> Run {
        let run = self.run(args);
        assert_eq!(run.code, Some(0), "{args:?}: {}", run.stderr);
        run
    }

    /// What must fail, with this code and these words.
    #[track_caller]
    fn refused(&self, args: &[&str], code: i32, words: &str) {
        let run = self.run(args);
        assert_eq!(run.code, Some(code), "{args:?}: {}", run.stderr);
        assert!(run.stderr.contains(words), "{args:?}: {}", run.stderr);
    }

    fn networks(&self) -> Vec<String> {
        let list: Value = serde_json::from_str(&self.ok(&["ban", "list", "--json"]).stdout).unwrap();
        let bans = list["bans"].as_array().unwrap().iter();
        bans.map(|ban| ban["network"].as_str().unwrap().to_owned()).collect()
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

#[test]
fn a_ban_is_added_shown_and_ended() {
    let place = Place::new();
    assert!(place.ok(&["ban", "list"]).stderr.contains("nobody is banned"));
    let said = place.ok(&["ban", "add", "192.0.2.7", "--for", "2h", "--reason", "scans"]).stderr;
    assert!(said.starts_with("192.0.2.7 is banned until 20") && said.contains("0.1 s"), "{said}");
    place.ok(&["ban", "add", "2001:db8::/32"]);
    place.ok(&["ban", "add", "192.0.2.0/24", "--for", "3600"]);
    place.ok(&["ban", "add", "198.51.100.1", "--for", "-1"]);
    assert_eq!(place.networks(), ["192.0.2.0/24", "192.0.2.7", "198.51.100.1", "2001:db8::/32"]);
    let mode = fs::metadata(place.bans()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let table = place.ok(&["ban", "list", "192.0.2.7"]).stdout;
    let rows: Vec<&str> = table.lines().collect();
    assert!(rows[1].starts_with("192.0.2.7 ") && rows[1].ends_with("scans"), "{table}");
    assert!(rows[2].starts_with("192.0.2.0/24") && rows.len() == 3, "{table}");
    let said = place.ok(&["ban", "del", "192.0.2.7"]).stderr;
    assert!(said.contains("warning: it still is as part of 192.0.2.0/24"), "{said}");
    place.refused(&["ban", "del", "192.0.2.7"], 1, "not banned by itself, but 192.0.2.0/24 is");
    place.refused(&["ban", "del", "203.0.113.1"], 1, "203.0.113.1 is not banned");
    place.ok(&["ban", "del", "203.0.113.1", "--missing-ok"]);
    let said = place.ok(&["ban", "add", "198.51.100.1", "--for", "1m"]).stderr;
    assert!(said.contains("(it was until it is deleted)"), "{said}");
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let place = Place::new();
    place.refused(&["ban", "add", "0.0.0.0/0"], 2, "is everybody");
    place.refused(&["ban", "add", "::/0", "--for", "1h"], 2, "--force");
    place.refused(&["ban", "add", "10.0.0.1/8"], 2, "did you mean 10.0.0.0/8?");
    place.refused(&["ban", "add", "home"], 2, "is not an IP address");
    place.refused(&["ban", "add", "192.0.2.1", "--for", "0"], 2, "bans nobody");
    place.refused(&["ban", "add", "192.0.2.1", "--for", "soon"], 2, "write a time such as");
    place.refused(&["ban", "add", "192.0.2.1", "--reason", "a\nb"], 2, "control characters");
    place.refused(
        &["ban", "add", "192.0.2.1", "--set", "runtime.state_dir=off", "--set", "srtla.auth=open"],
        78,
        "--state-dir",
    );
    assert!(place.networks().is_empty());
    place.ok(&["ban", "add", "0.0.0.0/0", "--force"]);
    assert_eq!(place.networks(), ["0.0.0.0/0"]);
    let warned = |ban: &str| {
        place
            .ok(&[
                "ban",
                "add",
                ban,
                "--set",
                "srtla.allow=192.0.2.0/24",
                "--set",
                "srtla.stock_allow=2001:db8::/32",
            ])
            .stderr
    };
    assert!(warned("192.0.2.7").contains("warning: 192.0.2.7 and srtla.allow = 192.0.2.0/24 overlap"));
    assert!(warned("192.0.0.0/16").contains("overlap"));
    assert!(warned("2001:db8:7::/48").contains("srtla.stock_allow = 2001:db8::/32"));
    assert!(!warned("198.51.100.1").contains("warning"));
}

/// Two hundred thousand, in and out again; one more is refused with all that came with it.
#[test]
fn two_hundred_thousand_are_imported() {
    let place = Place::new();
    let addr = |n: u32| std::net::Ipv4Addr::from(0x0B00_0000 + n * 3);
    let lines = (0..199_999).fold(String::new(), |text, n| text + &addr(n).to_string() + "\n");
    let file = place.write("list.txt", &lines);
    let said = place.ok(&["ban", "import", &file, "--dry-run"]).stderr;
    assert!(said.starts_with("199999 bans would be new") && !place.bans().exists(), "{said}");
    let start = Instant::now();
    let said = place.ok(&["ban", "import", &file]).stderr;
    eprintln!("import of 199,999: {:?}", start.elapsed());
    assert!(said.starts_with("199999 bans are new, 0 changed"), "{said}");
    let start = Instant::now();
    place.ok(&["ban", "add", "203.0.113.1"]);
    eprintln!("one more: {:?}", start.elapsed());
    place.refused(&["ban", "add", "203.0.113.2"], 1, "more than 200000 bans");
    let before = fs::read(place.bans()).unwrap();
    let more = place.write("more.txt", "203.0.113.1\n203.0.113.3\n");
    place.refused(&["ban", "import", &more], 1, "nothing has changed");
    assert_eq!(fs::read(place.bans()).unwrap(), before);
    // The round trip.
    let exported = place.ok(&["ban", "export"]).stdout;
    let copy = Place::new();
    let file = copy.write("bans.json", &exported);
    assert!(copy.ok(&["ban", "import", &file]).stderr.starts_with("200000 bans are new"));
    assert!(copy.ok(&["ban", "import", &file]).stderr.starts_with("0 bans are new, 0 changed"));
    assert_eq!(fs::read(copy.bans()).unwrap(), before);
}

#[test]
fn exports_for_others() {
    let place = Place::new();
    for ban in ["192.0.2.7", "198.51.100.0/24", "2001:db8::/32"] {
        place.ok(&["ban", "add", ban]);
    }
    let set = place.ok(&["ban", "export", "--format", "nft-set"]).stdout;
    assert!(set.contains("elements = { 192.0.2.7,\n        198.51.100.0/24 }"), "{set}");
    assert!(set.contains("type ipv6_addr") && set.contains("2001:db8::/32"), "{set}");
    let commands = place.ok(&["ban", "export", "--format", "fail2ban"]).stdout;
    assert_eq!(commands.lines().next(), Some("fail2ban-client set bondgate banip 192.0.2.7"));
    assert_eq!(commands.lines().count(), 3);
}

/// A damaged file is named with the place of the damage, and nothing writes over it.
#[test]
fn a_damaged_file_is_left_alone() {
    let place = Place::new();
    place.ok(&["ban", "add", "192.0.2.7"]);
    place.ok(&["ban", "add", "192.0.2.8"]);
    let whole = fs::read_to_string(place.bans()).unwrap();
    for damaged in
        [whole[..whole.len() / 2].to_owned(), whole.replace("192.0.2.8", "192.0.2.888"), String::new()]
    {
        fs::write(place.bans(), &damaged).unwrap();
        place.refused(&["ban", "list"], 1, "is damaged: ");
        place.refused(&["ban", "add", "192.0.2.9"], 1, "nothing was changed. Mend it, or move it away");
        place.refused(
            &["run", "--set", "srtla.listen=127.0.0.1:0", "--set", "srt.listen=127.0.0.1:0"],
            1,
            "is damaged",
        );
        assert_eq!(fs::read_to_string(place.bans()).unwrap(), damaged);
    }
    fs::write(place.bans(), &whole).unwrap();
    fs::set_permissions(place.bans(), fs::Permissions::from_mode(0o644)).unwrap();
    place.refused(&["ban", "list"], 1, "chmod 600");
}

/// Many at once: none is lost.
#[test]
fn writers_take_turns() {
    let place = Place::new();
    thread::scope(|scope| {
        for writer in 0..8 {
            let place = &place;
            scope.spawn(move || {
                for n in 0..5 {
                    place.ok(&["ban", "add", &format!("192.0.{writer}.{n}")]);
                }
            });
        }
    });
    assert_eq!(place.networks().len(), 40);
}

/// A command that is killed leaves the file as it was or as it shall be, and no lock.
#[test]
fn a_killed_writer_leaves_a_whole_file() {
    let place = Place::new();
    let lines = (0..20_000u32)
        .fold(String::new(), |text, n| text + &std::net::Ipv4Addr::from(0x0B00_0000 + n).to_string() + "\n");
    let file = place.write("list.txt", &lines);
    place.ok(&["ban", "import", &file]);
    let (mut done, mut undone) = (0, 0);
    for n in 0..40u64 {
        let addr = format!("198.51.100.{n}");
        let mut child = place.command(&["ban", "add", &addr]).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_micros(n * 2500));
        child.kill().unwrap();
        child.wait().unwrap();
        let networks = place.networks();
        if networks.contains(&addr) {
            done += 1;
        } else {
            undone += 1;
        }
        assert!(networks.len() >= 20_000 + done);
    }
    eprintln!("{done} were done when the kill came, {undone} were not");
    assert!(undone > 0, "none was killed in time");
    place.ok(&["ban", "add", "203.0.113.1"]);
    let left: Vec<_> =
        fs::read_dir(place.dir.path().join("state")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "bans.json and its lock: {left:?}");
}

/// A daemon that everybody may register at.
struct Daemon {
    child: Child,
    port: u16,
}

impl Daemon {
    fn start(place: &Place, port: u16) -> Self {
        let listen = format!("srtla.listen=127.0.0.1:{port}");
        let child = place
            .command(&["run", "--accept-open-ingest", "--set", "srtla.auth=open", "--set", &listen])
            .args(["--set", "srt.listen=127.0.0.1:0"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let daemon = Self { child, port };
        daemon.wait(true);
        daemon
    }

    /// Whether a stranger's REG2 is answered.
    fn answers(&self) -> bool {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(40))).unwrap();
        let mut probe = [7; 258];
        probe[..2].copy_from_slice(&[0x92, 0x01]);
        socket.send_to(&probe, ("127.0.0.1", self.port)).unwrap();
        socket.recv(&mut [0; 300]).is_ok()
    }

    #[track_caller]
    fn wait(&self, answers: bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.answers() != answers {
            assert!(Instant::now() < deadline, "expected answers: {answers}");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_running_daemon_takes_bans_up_and_survives_a_damaged_file() {
    let place = Place::new();
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let daemon = Daemon::start(&place, port);
    place.ok(&["ban", "add", "127.0.0.0/8"]);
    daemon.wait(false);
    place.ok(&["ban", "del", "127.0.0.0/8"]);
    daemon.wait(true);
    place.ok(&["ban", "add", "127.0.0.1"]);
    daemon.wait(false);
    let whole = fs::read(place.bans()).unwrap();
    fs::write(place.bans(), "{\"bondgate_bans\"").unwrap();
    thread::sleep(Duration::from_millis(300));
    assert!(!daemon.answers(), "what was in force stays");
    fs::write(place.bans(), &whole).unwrap();
    place.ok(&["ban", "add", "127.0.0.1", "--for", "1s"]);
    daemon.wait(true);
    // In force again after a restart, a violent one too.
    place.ok(&["ban", "add", "127.0.0.2"]);
    place.ok(&["ban", "add", "127.0.0.1"]);
    drop(daemon);
    let child = place
        .command(&["run", "--accept-open-ingest", "--set", "srtla.auth=open"])
        .args(["--set", &format!("srtla.listen=0.0.0.0:{port}"), "--set", "srt.listen=127.0.0.1:0"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let daemon = Daemon { child, port };
    // From an address that is not banned it answers.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let socket = UdpSocket::bind("127.0.0.3:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(40))).unwrap();
        let mut probe = [7; 258];
        probe[..2].copy_from_slice(&[0x92, 0x01]);
        socket.send_to(&probe, ("127.0.0.1", port)).unwrap();
        if socket.recv(&mut [0; 300]).is_ok() {
            break;
        }
        assert!(Instant::now() < deadline);
    }
    assert!(!daemon.answers());
}

/// Calls the SRT port once with a stream ID; whether it was answered at all.
fn call(port: u16, stream_id: &str, patience: Duration) -> bool {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    let config = EndpointConfig { connections_max: 2, listen: false, ..EndpointConfig::default() };
    let seed = u64::from(socket.local_addr().unwrap().port());
    let mut caller = Endpoint::new(config, [9; 16], seed, Instant::now());
    let stream_id = bytes::Bytes::copy_from_slice(stream_id.as_bytes());
    caller.connect(Instant::now(), (), ConnectOptions { stream_id, ..ConnectOptions::default() }).unwrap();
    let (mut buf, mut answered) = ([0; TRANSMIT_MIN], false);
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        caller.handle_timeout(Instant::now());
        while let Some(transmit) = caller.poll_transmit(Instant::now(), &mut buf) {
            socket.send_to(&buf[..transmit.len], ("127.0.0.1", port)).unwrap();
        }
        if let Ok(len) = socket.recv(&mut buf) {
            answered = true;
            caller.handle(Instant::now(), (), 0, &buf[..len]);
        }
        while let Some(event) = caller.poll_event() {
            assert!(!matches!(event, Event::Connected { .. }), "let in");
            if matches!(event, Event::Closed { .. }) {
                return true;
            }
        }
    }
    answered
}

/// Tokens that do not exist, from an address that receives the answers: five of them, and it is banned, on disk too. Devices
/// are not concerned.
#[test]
fn guessing_leads_to_a_ban() {
    let place = Place::new();
    let ports = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port());
    let flags = [
        format!("srtla.listen=127.0.0.1:{}", ports[0]),
        format!("srt.listen=127.0.0.1:{}", ports[1]),
        "srtla.auth=mixed".to_owned(),
        "srtla.stock_allow=127.0.0.0/8".to_owned(),
        "streams.default=token".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().flat_map(|flag| ["--set", flag]).collect();
    let child = place.command(&["run"]).args(&flags).stderr(Stdio::null()).spawn().unwrap();
    let daemon = Daemon { child, port: ports[0] };
    daemon.wait(true);
    // A well-formed token of somewhere else's.
    let elsewhere = Place::new();
    let token = elsewhere.ok(&["token", "create", "cam1"]).stdout.trim().to_owned();
    let id = format!("cam1?token={token}");
    // Whoever merely forgets a token has a right to be clumsy.
    for _ in 0..6 {
        assert!(call(ports[1], "cam1", Duration::from_secs(10)));
    }
    assert!(place.networks().is_empty());
    for _ in 0..5 {
        assert!(call(ports[1], &id, Duration::from_secs(10)));
    }
    daemon.wait(false);
    assert!(!call(ports[1], &id, Duration::from_millis(700)), "the SRT port too");
    let deadline = Instant::now() + Duration::from_secs(20);
    while place.networks().is_empty() {
        assert!(Instant::now() < deadline, "not on disk");
        thread::sleep(Duration::from_millis(50));
    }
    let list: Value = serde_json::from_str(&place.ok(&["ban", "list", "--json"]).stdout).unwrap();
    let ban = &list["bans"][0];
    assert_eq!(
        (&ban["network"], &ban["origin"], &ban["times"]),
        (&"127.0.0.1".into(), &"failures".into(), &1.into())
    );
    let term_ms = ban["until_ms"].as_u64().unwrap() - ban["since_ms"].as_u64().unwrap();
    assert_eq!(term_ms, 60_000);
    let run = place.run(&[&["policy", "test", "127.0.0.1"], &flags[..]].concat());
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    assert!(run.stdout.contains("127.0.0.1/32 is banned for whoever has no key"), "{}", run.stdout);
    // Pardoned by hand.
    place.ok(&["ban", "del", "127.0.0.1"]);
    daemon.wait(true);
}
