//! Signals and the service manager's socket, each in a process of its own: both are properties of a whole process.
//!
//! The parent tests start this same test binary again, with the child's part selected by its name.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests; the child reports to its parent"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bondgate::control::notify::Notify;
use bondgate::control::signals::Signals;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::raise;

/// This test binary, about to run only the ignored test `name`.
fn child(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--ignored", "--exact", name, "--test-threads=1"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    for variable in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        command.env_remove(variable);
    }
    command
}

#[test]
#[ignore = "part of the_second_signal_ends_the_process, which runs it in a process of its own"]
fn child_two_signals() {
    let signals = Signals::install().unwrap();
    assert!(!signals.stop_requested());
    raise(SIGINT).unwrap();
    assert!(signals.stop_requested());
    println!("first signal survived");
    if std::env::var_os("SECOND").is_some() {
        raise(SIGTERM).unwrap();
        unreachable!("the second signal ends the process");
    }
}

#[test]
fn the_first_signal_asks_to_stop_and_the_second_ends_the_process() {
    let first_only = child("child_two_signals").status().unwrap();
    assert_eq!(first_only.code(), Some(0));
    let both = child("child_two_signals")
        .env("SECOND", "1")
        .arg("--nocapture")
        .stdout(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(both.status.code(), Some(1), "ended by the handler: a failed assertion would give 101");
    assert!(String::from_utf8_lossy(&both.stdout).contains("first signal survived"));
}

#[test]
#[ignore = "part of the tests below, which run it in a process of its own"]
fn child_notifies() {
    let notify = Notify::from_env();
    notify.ready("serving");
    notify.watchdog();
    notify.status("2 groups");
    notify.stopping();
}

fn heard(command: &mut Command) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    assert!(command.env("NOTIFY_SOCKET", &path).status().unwrap().success());
    // The child has ended: all it said is in the socket already.
    socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let mut buffer = [0; 512];
    std::iter::from_fn(|| {
        let len = socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..len]).trim_end().replace('\n', " "))
    })
    .collect()
}

#[test]
fn the_service_manager_hears_every_state() {
    assert_eq!(
        heard(child("child_notifies").env("WATCHDOG_USEC", "10000000")),
        ["READY=1 STATUS=serving", "WATCHDOG=1", "STATUS=2 groups", "STOPPING=1 STATUS=stopping"]
    );
}

#[test]
fn no_watchdog_is_fed_unless_asked_for() {
    assert_eq!(
        heard(&mut child("child_notifies")),
        ["READY=1 STATUS=serving", "STATUS=2 groups", "STOPPING=1 STATUS=stopping"]
    );
}

#[test]
fn without_a_service_manager_nothing_happens() {
    assert!(child("child_notifies").status().unwrap().success());
}

/// Sends a signal with the shell's own `kill`.
fn signal(process: &Child, name: &str) {
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {}", process.id())]).status().unwrap();
    assert!(status.success());
}

/// Ends with its test, whatever happens.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn http_status(addr: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn run_is_ready_when_it_says_so_and_stops_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bondgate"));
    command.args(["run", "--accept-open-ingest", "--log-format", "human"]);
    for set in [
        "srtla.auth=open",
        "runtime.state_dir=off",
        "srtla.listen=127.0.0.1:0",
        "srt.listen=127.0.0.1:0",
        "admin.listen=127.0.0.1:0",
    ] {
        command.args(["--set", set]);
    }
    command.current_dir(directory.path()).env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "5000000");
    let mut server = Server(command.stderr(Stdio::piped()).spawn().unwrap());

    let mut buffer = [0; 512];
    let mut heard = || {
        let len = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    };
    assert!(heard().starts_with("READY=1\n"));
    let mut log = BufReader::new(server.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    let line = log.by_ref().find(|line| line.contains("metrics and health: http://")).unwrap();
    let admin = line.split("http://").nth(1).unwrap().trim_end_matches('/');
    for path in ["/readyz", "/livez", "/metrics"] {
        assert_eq!(http_status(admin, path), "200", "{path}");
    }
    assert_eq!(heard().trim(), "WATCHDOG=1");
    signal(&server.0, "TERM");
    let last = std::iter::repeat_with(heard).find(|states| states.trim() != "WATCHDOG=1");
    assert!(last.unwrap().starts_with("STOPPING=1\n"));
    assert_eq!(server.0.wait().unwrap().code(), Some(0));
    assert!(log.any(|line| line.contains("stopping")));
}
