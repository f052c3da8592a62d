//! `bondgate send` with a key, as a process on loopback: against a receiver of keys made of `auth`'s verifier, and one that
//! knows nothing of keys.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use bondgate_auth::keyring::Provision;
use bondgate_auth::sa1::keys::{CookieKeys, DeviceKey, DeviceKeys, GateKey, GateKeys, Standing};
use bondgate_auth::sa1::receiver::{Joining, Unlimited, Verifier};
use bondgate_auth::sa1::replay::SeenFilter;
use bondgate_auth::sa1::wire::{Refusal, RefusalCode, Terms};
use bondgate_auth::sa1::{Flags, KeyId, ListenerId, Now};

const KEY_ID: KeyId = [0x1A; 8];
const SECRET: [u8; 32] = [0x42; 32];
const GATE: (u32, [u8; 16]) = (3, [0x55; 16]);
const LISTENER: ListenerId = ListenerId([0x77; 16]);

/// What the receiver is like.
#[derive(Clone, Copy)]
enum Manners {
    Keys { refuse: Option<Refusal> },
    Stock,
}

/// A receiver on a thread.
struct Receiver {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    fn start(manners: Manners) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (addr, stop) = (socket.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let flag = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut answer = answers(manners);
            let mut buf = [0; 2048];
            while !flag.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut buf) else { continue };
                if let Some(bytes) = answer(&buf[..len], from) {
                    socket.send_to(&bytes, from).unwrap();
                }
            }
        });
        Self { addr, stop, thread: Some(thread) }
    }

    fn uri(&self) -> String {
        let provision = Provision {
            server: self.addr.to_string(),
            device: "backpack-1".to_owned(),
            tenant: String::new(),
            stream: String::new(),
            key_id: KEY_ID,
            secret: SECRET,
            gate: Some(GATE),
            listener: LISTENER,
        };
        provision.to_uri()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// What a receiver answers; keepalives without trailers, because that is agreed on.
fn answers(manners: Manners) -> impl FnMut(&[u8], SocketAddr) -> Option<Vec<u8>> + Send {
    let gate = GateKeys::new(GateKey::new(GATE.0, &GATE.1));
    let mut verifier =
        Verifier::new(LISTENER, Some(gate), CookieKeys::new(&[1; 32], 0), SeenFilter::new(&[2; 16], 0));
    let device =
        DeviceKey { keys: DeviceKeys::derive(&SECRET), standing: Standing::Active, clockless_allowed: false };
    let keyring = HashMap::from([(KEY_ID, device)]);
    let start = Instant::now();
    move |bytes, from| {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64;
        let now = Now { boot_ms: 1 + start.elapsed().as_millis() as u64, wall_ms: wall };
        match (manners, bytes.get(..2)?) {
            (_, [0x90, 0x00]) => Some(bytes.to_vec()),
            (Manners::Keys { refuse }, [0x92, 0x00]) => {
                let hello = verifier.m1(bytes, from, now, &keyring, &mut Unlimited).ok()?;
                Some(match refuse {
                    Some(refusal) => hello.refuse(refusal).to_vec(),
                    None => verifier.challenge(&hello, now, &[9; 10], Flags::NONE, Terms::default()).to_vec(),
                })
            }
            (Manners::Keys { .. }, [0x92, 0x01]) => {
                match verifier.m3(bytes, from, now, &keyring, &mut Unlimited, |_, _| false).ok()? {
                    Joining::Proven(join) => Some(join.confirm(0).to_vec()),
                    Joining::Rechallenge(..) => None,
                }
            }
            (Manners::Stock, [0x92, 0x00]) => {
                let mut reg2 = bytes.to_vec();
                reg2[1] = 0x01;
                reg2[130..].fill(0xA7);
                Some(reg2)
            }
            (Manners::Stock, [0x92, 0x01]) if bytes[130..].iter().all(|b| *b == 0xA7) => {
                Some(vec![0x92, 0x02])
            }
            _ => None,
        }
    }
}

fn send() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bondgate"));
    command
        .args(["send", "--listen", "127.0.0.1:0", "--log-format", "human", "--backend", "mmsg", "--json"])
        .env_remove("BONDGATE_KEY")
        .env_remove("BONDGATE_KEY_FILE")
        .env_remove("BONDGATE_LOG")
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Lets it run until `done` holds for what it wrote to standard output, or for 5 s; then SIGTERM.
fn run_until(command: &mut Command, done: impl Fn(&str) -> bool) -> (String, String) {
    let mut child: Child = command.spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let log = std::thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).unwrap();
        text
    });
    let deadline = Instant::now() + Duration::from_secs(5);
    let (mut text, mut buf) = (String::new(), [0; 4096]);
    while !done(&text) && Instant::now() < deadline {
        match stdout.read(&mut buf) {
            Ok(0) | Err(_) => break,
            Ok(len) => text.push_str(&String::from_utf8_lossy(&buf[..len])),
        }
    }
    let pid = child.id().to_string();
    drop(Command::new("kill").args(["-TERM", &pid]).status());
    drop(stdout);
    assert!(child.wait().unwrap().success(), "a signal is no failure");
    (text, log.join().unwrap())
}

fn fails(command: &mut Command) -> (i32, String) {
    let Output { status, stderr, .. } = command.output().unwrap();
    (status.code().unwrap(), String::from_utf8_lossy(&stderr).into_owned())
}

fn key_file(dir: &tempfile::TempDir, text: &str, mode: u32) -> PathBuf {
    let path = dir.path().join("backpack.key");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

fn is_up(text: &str) -> bool {
    text.contains("\"up\":true")
}

#[test]
fn a_key_is_enough() {
    let receiver = Receiver::start(Manners::Keys { refuse: None });
    let dir = tempfile::tempdir().unwrap();
    let file = key_file(&dir, &format!("# backpack 1\n\n{}\n", receiver.uri()), 0o600);
    for by_file in [true, false] {
        let mut command = send();
        command.args(["--link", "127.0.0.1", "--link", "127.0.0.2"]);
        if by_file {
            command.arg("--key-file").arg(&file);
        } else {
            command.env("BONDGATE_KEY", receiver.uri());
        }
        let (status, log) = run_until(&mut command, is_up);
        assert!(is_up(&status) && status.contains("\"registration\":\"sa1\""), "{status}\n{log}");
        let line = format!("registered with key 1a1a1a1a1a1a1a1a at {} over 127.0.0.", receiver.addr);
        assert!(log.contains(&line), "{log}");
        assert!(!log.contains("bgk_") && !log.contains("process list"), "{log}");
    }
    // On the command line, and for another address than the key says.
    let mut command = send();
    let uri = receiver.uri().replace(&receiver.addr.to_string(), "receiver.invalid:5000");
    command.args(["--link", "127.0.0.1", "--to", &receiver.addr.to_string(), "--key", &uri]);
    let (status, log) = run_until(&mut command, is_up);
    assert!(is_up(&status), "{status}\n{log}");
    assert!(log.contains("process list") && log.contains("the key is for receiver.invalid:5000"), "{log}");
    assert!(!log.contains("bgk_"), "{log}");
}

#[test]
fn a_receiver_without_keys_is_used_only_if_that_is_preferred() {
    let receiver = Receiver::start(Manners::Stock);
    let with = |auth: &str| {
        let mut command = send();
        command.args(["--link", "127.0.0.1", "--auth", auth]).env("BONDGATE_KEY", receiver.uri());
        let lines = if auth == "require" { 3 } else { 99 };
        run_until(&mut command, move |text| is_up(text) || text.lines().count() >= lines)
    };
    let (status, log) = with("prefer");
    assert!(is_up(&status) && status.contains("\"registration\":\"downgraded\""), "{status}\n{log}");
    assert!(status.contains("\"downgrades\":1") && log.contains("DOWNGRADED"), "{status}\n{log}");
    let (status, log) = with("stock");
    assert!(is_up(&status) && status.contains("\"registration\":\"stock\""), "{status}\n{log}");
    assert!(log.contains("the key is not used"), "{log}");
    let (status, log) = with("require");
    assert!(!is_up(&status) && status.lines().count() >= 2, "{status}\n{log}");
    assert!(!log.contains("registered"), "{log}");
}

#[test]
fn a_refusal_for_good_ends_it_with_the_reason() {
    for (refusal, reason) in [
        (Refusal::new(RefusalCode::Stream, 0), "may not publish"),
        (Refusal::new(RefusalCode::KeyExpired, 0), "expired"),
        (Refusal::version(), "versions 1 to 1"),
    ] {
        let receiver = Receiver::start(Manners::Keys { refuse: Some(refusal) });
        let (code, log) = fails(send().args(["--link", "127.0.0.1"]).env("BONDGATE_KEY", receiver.uri()));
        assert_eq!(code, 1, "{log}");
        let last = log.lines().last().unwrap_or_default();
        assert!(last.contains("refuses for good") && last.contains(reason), "{log}");
    }
}

#[test]
fn unusable_keys_are_named() {
    let receiver = Receiver::start(Manners::Stock);
    let dir = tempfile::tempdir().unwrap();
    let open = key_file(&dir, &receiver.uri(), 0o644);
    let (code, log) = fails(send().arg("--key-file").arg(&open));
    assert!(code == 1 && log.contains("chmod 600"), "{code} {log}");
    let (code, log) = fails(send().arg("--key-file").arg(dir.path().join("nothing")));
    assert!(code == 1 && log.contains("no such file"), "{code} {log}");
    let empty = key_file(&dir, "# nothing\n", 0o600);
    let (code, log) = fails(send().arg("--key-file").arg(&empty));
    assert!(code == 1 && log.contains("it is empty"), "{code} {log}");

    let uri = receiver.uri();
    let (code, log) = fails(send().env("BONDGATE_KEY", &uri[..uri.len() - 3]));
    assert!(code == 2 && log.contains("key=") && !log.contains("bgk_"), "{code} {log}");
    let (code, log) = fails(send().args(["--auth", "require", "--to", "127.0.0.1:1", "--link", "127.0.0.1"]));
    assert!(code == 2 && log.contains("--key"), "{code} {log}");
    let (code, log) = fails(send().args(["--link", "127.0.0.1"]));
    assert!(code == 2 && log.contains("--to"), "{code} {log}");
}
