//! `bondgate device`, `key` and `token` as an operator meets them: the real binary, its files, and what it never prints.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use bondgate_auth::keyring::{Provision, hex, key_id_text};
use serde_json::Value;
use tempfile::TempDir;

const SERVER: &str = "gate.example:5000";

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

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bondgate"));
        command.args(args).env_clear().current_dir(self.dir.path());
        command.env("BONDGATE__RUNTIME__STATE_DIR", self.state()).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Run {
        run(self.command(args))
    }

    /// Runs what must succeed; stdout.
    fn ok(&self, args: &[&str]) -> String {
        let run = self.run(args);
        assert_eq!(run.code, Some(0), "{args:?}: {}", run.stderr);
        run.stdout
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).unwrap()
    }

    fn enroll(&self, name: &str) -> Provision {
        Provision::parse(&self.ok(&["device", "enroll", name, "--server", SERVER])).unwrap()
    }

    fn names(&self) -> BTreeSet<String> {
        let list = self.json(&["device", "list", "--json"]);
        let names = list["devices"].as_array().unwrap().iter();
        names.map(|device| device["name"].as_str().unwrap().to_owned()).collect()
    }

    /// What must fail, with this code and these words.
    #[track_caller]
    fn fails(&self, args: &[&str], code: i32, words: &[&str]) {
        let run = self.run(args);
        assert_eq!((run.code, run.stdout.as_str()), (Some(code), ""), "{args:?}: {}", run.stderr);
        for word in words {
            assert!(run.stderr.contains(word), "{args:?}: {word:?} in {}", run.stderr);
        }
    }
}

fn run(mut command: Command) -> Run {
    let Output { status, stdout, stderr } = command.output().unwrap();
    Run {
        code: status.code(),
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn enrolling_prints_one_uri_that_a_sender_can_read() {
    let place = Place::new();
    let run =
        place.run(&["device", "enroll", "pack", "--tenant", "acme", "--stream", "cam1", "--server", SERVER]);
    assert_eq!((run.code, run.stdout.lines().count()), (Some(0), 1), "{}", run.stderr);
    let given = Provision::parse(&run.stdout).unwrap();
    assert_eq!(
        (given.server.as_str(), given.device.as_str(), given.tenant.as_str(), given.stream.as_str()),
        (SERVER, "pack", "acme", "acme/cam1")
    );
    assert!(given.gate.is_some());
    for hint in ["not shown again", "--key-file", "within 0.25 s", "seal key lies beside it"] {
        assert!(run.stderr.contains(hint), "{hint}: {}", run.stderr);
    }
    // The weak seal is said once, not every time.
    let run = place.run(&["device", "enroll", "two", "--json"]);
    assert!(!run.stderr.contains("seal key"), "{}", run.stderr);
    let json: Value = serde_json::from_str(&run.stdout).unwrap();
    let given = Provision::parse(json["uri"].as_str().unwrap()).unwrap();
    assert_eq!(json["key_id"], key_id_text(&given.key_id));
    assert_eq!(given.server, SERVER, "the address the last device was told");
    for file in ["keyring", "seal.key", "keyring.lock"] {
        let mode = fs::metadata(place.state().join(file)).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o600, "{file}");
    }
    assert_eq!(fs::metadata(place.state()).unwrap().mode() & 0o7777, 0o700);
}

#[test]
fn secrets_are_shown_once_and_stored_nowhere_in_the_clear() {
    let place = Place::new();
    let uri = place.ok(&["device", "enroll", "pack", "--server", SERVER]);
    let given = Provision::parse(&uri).unwrap();
    let token = place.ok(&["token", "create", "cam1"]);
    let key = &uri[uri.find("bgk_").unwrap() + 4..];
    let gate = &uri[uri.find("bgg_").unwrap() + 4..uri.find("&key").unwrap()];
    let secrets = [
        key[15..40].to_owned(),
        gate[8..30].to_owned(),
        token.trim()[4..].to_owned(),
        hex(&given.secret),
        hex(&given.gate.unwrap().1),
    ];
    let mut shown = format!("{given:?}");
    for args in [
        &["device", "list"][..],
        &["device", "list", "--json"],
        &["device", "show", "pack"],
        &["device", "show", "pack", "--json"],
        &["device", "disable", "pack"],
        &["device", "enable", "pack"],
        &["key", "list"],
        &["key", "list", "--json"],
        &["token", "list"],
        &["token", "list", "--json"],
        &["device", "enroll", "pack", "--server", SERVER],
        &["key", "revoke", "pack", "--json"],
    ] {
        let run = run({
            let mut command = place.command(args);
            command.args(["--log-level", "trace"]);
            command
        });
        shown += &run.stdout;
        shown += &run.stderr;
    }
    assert!(shown.contains("pack") && shown.contains("cam1"));
    for entry in fs::read_dir(place.state()).unwrap() {
        shown += &String::from_utf8_lossy(&fs::read(entry.unwrap().path()).unwrap());
    }
    for secret in &secrets {
        assert!(!shown.contains(secret.as_str()), "{secret}");
    }
}

#[test]
fn the_qr_code_holds_the_uri() {
    let place = Place::new();
    let text = place.ok(&[
        "device", "enroll", "pack", "--tenant", "acme", "--stream", "cam1", "--server", SERVER, "--qr",
    ]);
    let (uri, blocks) = text.split_once("\n\n").unwrap();
    // A photograph of a dark terminal: what a character paints is white, each module 4 by 4 pixels.
    let lines: Vec<Vec<char>> = blocks.lines().map(|line| line.chars().collect()).collect();
    let (width, height) = (lines[0].len() * 4, lines.len() * 8);
    let mut image = vec![0_u8; width * height];
    for (at, pixel) in image.iter_mut().enumerate() {
        let (x, y) = (at % width, at / width);
        let upper = y % 8 < 4;
        *pixel = match lines[y / 8][x / 4] {
            '\u{2588}' => 255,
            '\u{2580}' if upper => 255,
            '\u{2584}' if !upper => 255,
            _ => 0,
        };
    }
    let mut reader = quircs::Quirc::default();
    let codes: Vec<_> = reader.identify(width, height, &image).collect();
    assert_eq!(codes.len(), 1);
    let read = codes.into_iter().next().unwrap().unwrap().decode().unwrap();
    assert_eq!(String::from_utf8(read.payload).unwrap(), uri);
    assert!(Provision::parse(uri).is_ok());
    assert!(
        !place.ok(&["key", "rotate", "pack"]).contains('\u{2588}'),
        "no QR code in a pipe unless asked for"
    );
}

#[test]
fn the_address_devices_are_told_comes_from_the_first_that_says_it() {
    let place = Place::new();
    let said = |args: &[&str]| Provision::parse(&place.ok(args)).unwrap().server;
    place.fails(
        &["device", "enroll", "a"],
        2,
        &["--server HOST:5000", "[keys] server = \"HOST:5000\"", "[::]:5000"],
    );
    place.fails(&["device", "enroll", "a", "--server", "gate"], 2, &["the port is missing"]);
    assert_eq!(said(&["device", "enroll", "a", "--set", "srtla.listen=192.0.2.1:5001"]), "192.0.2.1:5001");
    assert_eq!(said(&["device", "enroll", "b"]), "192.0.2.1:5001", "what the last one was told");
    assert_eq!(said(&["device", "enroll", "c", "--set", "keys.server=gate.example:7"]), "gate.example:7");
    let both =
        ["device", "enroll", "d", "--set", "keys.server=gate.example:7", "--server", "[2001:db8::1]:8"];
    assert_eq!(said(&both), "[2001:db8::1]:8");
    assert_eq!(said(&["key", "rotate", "a", "--server", "x.example:9"]), "x.example:9");
}

#[test]
fn keys_rotate_and_end() {
    let place = Place::new();
    let first = place.enroll("pack");
    let second = Provision::parse(&place.ok(&["key", "rotate", "pack", "--grace", "1h"])).unwrap();
    assert_eq!((second.listener, second.server.as_str()), (first.listener, SERVER));
    assert!(second.secret != first.secret && second.key_id != first.key_id);
    let states = || -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let list = place.json(&["key", "list", "--json"]);
        list["keys"]
            .as_array()
            .unwrap()
            .iter()
            .map(|key| (text(&key["key_id"]), text(&key["state"])))
            .collect()
    };
    let [one, two] = [first.key_id, second.key_id].map(|id| key_id_text(&id));
    let pair = |id: &String, state: &str| (id.clone(), state.to_owned());
    assert_eq!(states(), [pair(&one, "retiring"), pair(&two, "active")]);
    let table = place.ok(&["key", "list"]);
    assert!(
        table.starts_with("KEY               DEVICE  STATE     CREATED (UTC)     UNTIL (UTC)"),
        "{table}"
    );

    let run = place.run(&["key", "revoke", &one]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), ""));
    assert!(
        run.stderr.contains("1 key of device pack revoked") && run.stderr.contains("0.25 s"),
        "{}",
        run.stderr
    );
    assert_eq!(states(), [pair(&one, "revoked"), pair(&two, "active")]);
    place.fails(&["key", "revoke", &one], 1, &["there is no key", &one, "key list"]);
    place.fails(&["key", "revoke", "nobody"], 1, &["there is no device \"nobody\""]);
    place.ok(&["key", "revoke", "pack"]);
    assert_eq!(states(), [pair(&one, "revoked"), pair(&two, "revoked")]);
    let third = Provision::parse(&place.ok(&["key", "rotate", "pack", "--grace", "0"])).unwrap();
    assert_eq!(states()[2], pair(&key_id_text(&third.key_id), "active"));
}

#[test]
fn the_gate_key_is_not_taken_from_a_device_unasked() {
    let place = Place::new();
    assert_eq!(place.enroll("early").gate.unwrap().0, 1);
    let run = place.run(&["key", "rotate", "--gate"]);
    assert_eq!(run.code, Some(0));
    assert!(run.stderr.contains("hold the one before") && run.stderr.contains("early"), "{}", run.stderr);
    assert_eq!(place.enroll("late").gate.unwrap().0, 2);
    place.fails(&["key", "rotate", "--gate"], 1, &["would lock out early", "key rotate NAME", "--force"]);
    assert_eq!(place.json(&["key", "list", "--json"])["devices_behind_gate"], serde_json::json!(["early"]));
    let forced = place.json(&["key", "rotate", "--gate", "--force", "--json"]);
    assert_eq!((&forced["gate_epoch"], &forced["locked_out"]), (&3.into(), &serde_json::json!(["early"])));
    let again = Provision::parse(&place.ok(&["key", "rotate", "early"])).unwrap();
    assert_eq!(again.gate.unwrap().0, 3);
}

#[test]
fn devices_are_disabled_enabled_shown_and_removed() {
    let place = Place::new();
    place.enroll("pack");
    place.ok(&["device", "enroll", "two", "--tenant", "acme", "--stream", "cam1,cam2", "--clockless"]);
    let list = place.ok(&["device", "list"]);
    let lines: Vec<&str> = list.lines().collect();
    assert!(
        lines[0].starts_with("NAME  TENANT  STREAMS              STATE    KEYS  ENROLLED (UTC)"),
        "{list}"
    );
    assert!(lines[1].starts_with("pack  -       any                  enabled  1     20"), "{list}");
    assert!(lines[2].starts_with("two   acme    acme/cam1,acme/cam2  enabled  1     20"), "{list}");
    place.ok(&["device", "disable", "two"]);
    let shown = place.json(&["device", "show", "two", "--json"]);
    assert_eq!((&shown["enabled"], &shown["clockless"]), (&false.into(), &true.into()));
    assert!(place.ok(&["device", "show", "two"]).contains("state     disabled\nclock     not needed"));
    place.ok(&["device", "enable", "two"]);
    assert_eq!(place.json(&["device", "show", "two", "--json"])["enabled"], true);
    place.ok(&["device", "remove", "two"]);
    assert_eq!(place.names(), BTreeSet::from(["pack".to_owned()]));
    for command in ["show", "disable", "enable", "remove"] {
        place.fails(&["device", command, "two"], 1, &["there is no device \"two\"; `bondgate device list`"]);
    }
    place.fails(&["device", "enroll", "pack"], 1, &["exists already", "key rotate pack"]);
}

#[test]
fn tokens_are_made_listed_and_ended() {
    let place = Place::new();
    let token = place.ok(&[
        "token",
        "create",
        "cam1",
        "--ttl",
        "2h",
        "--once",
        "--from",
        "192.0.2.0/24,2001:db8::/32",
    ]);
    assert!(token.starts_with("bgt_") && token.len() == 44, "{token}");
    let play = place.json(&["token", "create", "cam1", "--play", "--ttl", "never", "--json"]);
    assert_eq!((&play["scope"], &play["expires_ms"]), (&"play".into(), &Value::Null));
    let list = place.json(&["token", "list", "--json"]);
    let first = &list["tokens"][0];
    assert_eq!(first["from"], serde_json::json!(["192.0.2.0/24", "2001:db8::/32"]));
    assert_eq!(
        (&first["state"], &first["once"], &first["scope"]),
        (&"good".into(), &true.into(), &"publish".into())
    );
    let life_ms = first["expires_ms"].as_u64().unwrap() - first["created_ms"].as_u64().unwrap();
    assert_eq!(life_ms, 2 * 3_600_000);
    let table = place.ok(&["token", "list"]);
    assert!(
        table.starts_with("ID            STREAM  SCOPE    STATE  EXPIRES (UTC)     USE   FROM\n"),
        "{table}"
    );
    assert!(table.lines().nth(2).unwrap().contains("play     good   never             -     -"), "{table}");

    place.fails(&["token", "revoke", "bgt_nonsense"], 2, &["12 hexadecimal digits", "truncated"]);
    place.fails(&["token", "revoke", "000000000000"], 1, &["there is no token 000000000000"]);
    place.ok(&["token", "revoke", first["id"].as_str().unwrap()]);
    place.ok(&["token", "revoke", play["token"].as_str().unwrap()]);
    place.ok(&["token", "create", "cam1", "--ttl", "1s"]);
    place.ok(&["token", "create", "cam2"]);
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(place.json(&["token", "prune", "--json"])["pruned"].as_array().unwrap().len(), 1);
    assert_eq!(place.json(&["token", "list", "--json"])["tokens"].as_array().unwrap().len(), 1);
}

#[test]
fn wrong_usage_ends_with_2_and_changes_nothing() {
    let place = Place::new();
    for args in [
        &["device"][..],
        &["device", "enroll"],
        &["device", "enroll", "a b", "--server", SERVER],
        &["device", "enroll", "a", "--server", SERVER, "--stream", "a//b"],
        &["device", "enroll", "a", "--server", SERVER, "--tenant", "a/b"],
        &["device", "enroll", "a", "--server", SERVER, "--qr", "--no-qr"],
        &["key", "rotate"],
        &["key", "rotate", "a", "--gate"],
        &["key", "rotate", "a", "--force"],
        &["key", "rotate", "a", "--grace", "1 day"],
        &["token", "create", "a b"],
        &["token", "create", "a", "--ttl", "0"],
        &["token", "create", "a", "--from", "10.0.0.1/8"],
    ] {
        place.fails(args, 2, &[]);
    }
    assert!(!place.state().exists());
    // Reading makes nothing either.
    assert_eq!(place.json(&["device", "list", "--json"])["devices"], serde_json::json!([]));
    place.ok(&["key", "list"]);
    place.ok(&["token", "list"]);
    place.ok(&["token", "prune"]);
    assert!(!place.state().exists());
    place.fails(
        &["device", "list", "--set", "srtla.auth=open", "--set", "runtime.state_dir=off"],
        78,
        &["state_dir = \"/var/lib/bondgate\"", "--state-dir DIRECTORY"],
    );
    let elsewhere = place.dir.path().join("elsewhere");
    place.ok(&["token", "create", "cam1", "--state-dir", elsewhere.to_str().unwrap()]);
    assert!(elsewhere.join("keyring").exists() && !place.state().exists());
}

#[test]
fn what_others_could_read_or_replace_is_refused() {
    let place = Place::new();
    place.enroll("pack");
    let state = place.state();
    for (path, bad, good) in [
        (state.join("keyring"), 0o640, 0o600),
        (state.join("keyring"), 0o604, 0o600),
        (state.join("seal.key"), 0o644, 0o600),
    ] {
        set_mode(&path, bad);
        let chmod = format!("(mode {bad:o}); run: chmod 600 {}", path.display());
        for args in [&["device", "list"][..], &["device", "enroll", "two"], &["token", "create", "cam1"]] {
            place.fails(args, 1, &[&chmod]);
        }
        // The server does not start either.
        place.fails(
            &[
                "run",
                "--set",
                "srtla.listen=127.0.0.1:0",
                "--set",
                "srt.listen=127.0.0.1:0",
                "--set",
                "admin.listen=off",
            ],
            1,
            &[&chmod],
        );
        set_mode(&path, good);
    }
    set_mode(&state, 0o770);
    let chmod =
        format!("(mode 770), who could replace the secrets in it; run: chmod go-w {}", state.display());
    place.fails(&["device", "list"], 1, &[&chmod]);
    place.fails(&["device", "enroll", "two"], 1, &[&chmod]);
    set_mode(&state, 0o755);
    place.ok(&["device", "list"]);
}

#[test]
fn a_keyring_that_was_changed_cut_or_sealed_otherwise_is_told_apart() {
    let place = Place::new();
    place.enroll("pack");
    let path = place.state().join("keyring");
    let good = fs::read(&path).unwrap();
    let mut changed = good.clone();
    *changed.last_mut().unwrap() ^= 1;
    let mut later = good.clone();
    later[8] = 9;
    let shown = path.display().to_string();
    for (bytes, words) in [
        (&changed[..], "was changed after it was sealed"),
        (&good[..good.len() - 7], "is truncated"),
        (&good[..20], "is truncated"),
        (b"", "this is no keyring"),
        (b"[srtla]\nlisten = \"[::]:5000\"\n# and more of it\n", "this is no keyring"),
        (&later, "has version 9, this program knows version 1"),
    ] {
        fs::write(&path, bytes).unwrap();
        place.fails(&["device", "list"], 1, &[&shown, words]);
        place.fails(&["device", "enroll", "two"], 1, &[&shown, words]);
        assert_eq!(fs::read(&path).unwrap(), bytes, "a keyring that is not understood is not touched");
    }
    fs::write(&path, &good).unwrap();
    let seal = place.state().join("seal.key");
    let right = fs::read(&seal).unwrap();
    fs::write(&seal, [7; 32]).unwrap();
    place.fails(&["device", "list"], 1, &[&shown, "sealed under another key", "seal.key"]);
    fs::write(&seal, [7; 31]).unwrap();
    place.fails(&["device", "list"], 1, &["seal.key is no seal key: it must be 32 bytes"]);
    fs::remove_file(&seal).unwrap();
    place.fails(&["device", "list"], 1, &["there is no seal key", "keys.seal_key_file", "bondgate-seal"]);
    place.fails(&["device", "enroll", "two"], 1, &["there is no seal key"]);
    assert!(!seal.exists(), "a new seal key would lock out the keyring for good");
    fs::write(&seal, right).unwrap();
    set_mode(&seal, 0o600);
    assert_eq!(place.names(), BTreeSet::from(["pack".to_owned()]));
}

#[test]
fn the_seal_key_comes_from_a_file_or_from_systemd_first() {
    let place = Place::new();
    let file = place.dir.path().join("seal");
    let setting = format!("keys.seal_key_file={}", file.display());
    let enroll = ["device", "enroll", "a", "--server", SERVER, "--set", &setting];
    place.fails(&enroll, 1, &["keys.seal_key_file", "does not exist", "openssl rand -hex 32"]);
    fs::write(&file, format!("{}\n", "5a".repeat(32))).unwrap();
    set_mode(&file, 0o640);
    place.fails(&enroll, 1, &["open to others (mode 640); run: chmod 600"]);
    set_mode(&file, 0o600);
    let run = place.run(&enroll);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(!run.stderr.contains("lies beside it"), "{}", run.stderr);
    assert!(!place.state().join("seal.key").exists());
    place.fails(&["device", "list"], 1, &["there is no seal key"]);

    // The same key as 32 bytes, from systemd: in a file that shows the service's right as the group's.
    let credentials = place.dir.path().join("credentials");
    fs::create_dir(&credentials).unwrap();
    fs::write(credentials.join("bondgate-seal"), [0x5A; 32]).unwrap();
    set_mode(&credentials.join("bondgate-seal"), 0o440);
    let listed = run_with_credentials(&place, &credentials);
    assert_eq!(listed.code, Some(0), "{}", listed.stderr);
    assert!(listed.stdout.contains("a     -"), "{}", listed.stdout);
    set_mode(&credentials.join("bondgate-seal"), 0o444);
    let listed = run_with_credentials(&place, &credentials);
    assert_eq!(listed.code, Some(1), "{}", listed.stdout);
    assert!(listed.stderr.contains("open to others (mode 444)"), "{}", listed.stderr);
}

fn run_with_credentials(place: &Place, credentials: &Path) -> Run {
    let mut command = place.command(&["device", "list"]);
    command.env("CREDENTIALS_DIRECTORY", credentials);
    run(command)
}

#[test]
fn eight_at_once_lose_nothing() {
    let place = Place::new();
    for round in 0..3 {
        let children: Vec<_> = (0..8)
            .map(|n| {
                let name = format!("d{round}-{n}");
                let mut command = place.command(&["device", "enroll", &name, "--server", SERVER]);
                command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        for child in children {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        assert_eq!(place.names().len(), 8 * (round + 1));
    }
}

#[test]
fn a_kill_at_any_moment_loses_nothing_that_was_confirmed() {
    let place = Place::new();
    place.enroll("first");
    // How long a whole command takes here, so that kills fall all over it.
    let started = std::time::Instant::now();
    place.enroll("second");
    let whole = started.elapsed();
    let mut confirmed = BTreeSet::from(["first".to_owned(), "second".to_owned()]);
    let mut killed = 0;
    for n in 0..40_u32 {
        let name = format!("d{n}");
        let mut child = place
            .command(&["device", "enroll", &name, "--server", SERVER])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(whole.mul_f64(f64::from(n % 20 + 1) / 16.0));
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            confirmed.insert(name);
        } else {
            killed += 1;
        }
        if n % 8 == 7 {
            let names = place.names();
            assert!(confirmed.is_subset(&names), "{n}: {names:?}");
        }
    }
    assert!(killed > 0, "no kill came in time, so nothing was tried");
    place.enroll("last");
    confirmed.insert("last".to_owned());
    assert!(confirmed.is_subset(&place.names()));
    let mut files: Vec<_> = fs::read_dir(place.state())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(files, ["keyring", "keyring.lock", "seal.key"], "what killed writers left is swept away");
}
