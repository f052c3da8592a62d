//! What a user sees of the configuration: messages with their places, precedence, and the manual.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::keys::KEYS;
use super::raw::Raw;
use super::*;

mod countries;

const PLENTY: usize = 64;

fn from_text(text: &str) -> Result<Loaded, ConfigError> {
    let mut raw = Raw::default();
    raw.read_toml(Path::new("b.toml"), text);
    resolve(raw, PLENTY)
}

/// The messages for a file, one per line.
fn messages(text: &str) -> String {
    from_text(text).map_or_else(|error| error.to_string(), |_| "accepted".to_owned())
}

fn sources(env: &[(&str, &str)], set: &[&str]) -> Sources {
    Sources {
        file: None,
        env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        flags: set.iter().map(|assignment| ("--set", (*assignment).to_owned())).collect(),
        cores: PLENTY,
    }
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn an_empty_file_means_the_defaults() {
    let loaded = from_text("").unwrap();
    assert_eq!(loaded.config, Config::default());
    assert!(loaded.warnings.is_empty());
}

#[test]
fn the_manual_equals_the_defaults_and_sets_every_key() {
    let mut raw = Raw::default();
    raw.read_toml(Path::new("default.toml"), MANUAL);
    assert!(raw.problems.is_empty(), "{:?}", raw.problems);
    let in_manual: Vec<&str> = raw.assignments.iter().map(|assignment| assignment.key.path).collect();
    for key in KEYS {
        assert_eq!(
            in_manual.iter().filter(|path| **path == key.path).count(),
            1,
            "{} in the manual",
            key.path
        );
        // Each key stands right below a comment of its own, and an integer's comment names its range.
        let line = format!("{} = {}", key.name(), key.literal(&Config::default()));
        let section = MANUAL.split(&format!("\n[{}]\n", key.section())).nth(1).unwrap();
        let section = section.split("\n[").next().unwrap();
        let above = section.split(&format!("\n{line}\n")).next().unwrap();
        assert_ne!(above, section, "{line} in [{}]", key.section());
        let comment: Vec<&str> = above.lines().rev().take_while(|line| line.starts_with('#')).collect();
        assert!(!comment.is_empty(), "{} has no comment", key.path);
        if let Some((least, greatest)) = key.bounds {
            let comment: Vec<&str> = comment.iter().rev().map(|line| line.trim_start_matches("# ")).collect();
            let comment = comment.join(" ");
            assert!(comment.contains(&format!("{least} to {greatest}")), "{}: {comment}", key.path);
        }
    }
    assert_eq!(resolve(raw, PLENTY).unwrap().config, Config::default());
}

#[test]
fn the_example_for_development_is_valid() {
    let text = include_str!("../../../../configs/dev.toml");
    let loaded = from_text(text).unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    assert_ne!(loaded.config, Config::default());
}

#[test]
fn effective_values_read_back_as_themselves() {
    let set = [
        "log.level=info,bondgate_srt=debug",
        "log.format=json",
        "runtime.shards=3",
        "runtime.pin_cores=true",
        "runtime.backend=mmsg",
        "runtime.steering=off",
        "runtime.state_dir=/var/lib/a \"b\"",
        "runtime.socket_buffer_bytes=65536",
        "runtime.linger_us=0",
        "srtla.listen=127.0.0.1:1",
        "srtla.groups_max=1",
        "srtla.links_per_group_max=2",
        "srtla.link_timeout_ms=3000",
        "srtla.ack_flush_ms=5",
        "srtla.auth=mixed",
        "srtla.stock_allow=198.51.100.0/24",
        "srtla.allow=192.0.2.0/24,2001:db8::/32",
        "srtla.roaming=false",
        "srtla.data_mac=false",
        "keys.seal_key_file=/etc/bondgate/seal.key",
        "keys.server=gate.example:5000",
        "keys.tenant_groups_max=4",
        "streams.default=token",
        "streams.sa1=a",
        "streams.sa1_token=c",
        "streams.token=d,e/f",
        "streams.cidr=g",
        "streams.play=token",
        "limits.stock_per_source_per_s=1",
        "limits.stock_per_source_burst=2",
        "limits.stock_per_s=3",
        "limits.stock_burst=4",
        "limits.sa1_per_network_per_s=5",
        "limits.sa1_per_network_burst=6",
        "bans.automatic=false",
        "bans.strikes=7",
        "bans.window_s=8",
        "bans.first_s=9",
        "bans.max_s=10",
        "geo.database=/var/lib/GeoIP/GeoLite2-Country.mmdb",
        "geo.allow=DE,FR",
        "geo.unknown=allow",
        "geo.exempt_private=false",
        "geo.max_age_days=0",
        "srt.listen=[::1]:2",
        "srt.latency_ms=20",
        "srt.connections_max=7",
        "output.mode=forward",
        "relay.streams=a,b/c",
        "relay.default_stream=a",
        "relay.linger_ms=0",
        "relay.players_per_stream_max=9",
        "forward.server=srt.example:4001",
        "admin.listen=off",
        "gate.attach=on",
        "gate.interfaces=eth0,eth0.100",
        "gate.mode=native",
        "gate.on_detach=closed",
        "gate.pin_dir=/run/bpf/gate",
        "gate.drop_privileges=false",
    ];
    // One list of countries excludes the other.
    let (mut changed, mut block) = (set.to_vec(), set.to_vec());
    block.extend(["geo.allow=", "geo.block=RU"]);
    changed.push("geo.block=RU");
    assert_eq!(changed.len(), KEYS.len(), "every key is changed here");
    for (set, same) in [(set.to_vec(), "geo.block"), (block, "geo.allow")] {
        let config = load(&sources(&[], &set)).unwrap().config;
        for key in KEYS.iter().filter(|key| key.path != same) {
            assert_ne!(key.literal(&config), key.literal(&Config::default()), "{}", key.path);
        }
        assert_eq!(from_text(&effective(&config)).unwrap().config, config);
        every_key_is_taken_as_it_says(&config);
    }
}

#[test]
fn the_profile_for_phones_is_valid() {
    let loaded = from_text(include_str!("../../../../configs/phones.toml")).unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    assert_eq!(loaded.config.srtla.auth, AuthMode::Mixed);
}

#[test]
fn unknown_keys_are_refused_with_place_and_suggestion() {
    for (text, expected) in [
        ("[srtla]\nlisen = 1", "b.toml:2:1: srtla.lisen: unknown key (did you mean listen?)"),
        ("[srtla]\n  group_max = 1", "b.toml:2:3: srtla.group_max: unknown key (did you mean groups_max?)"),
        ("[srlta]\nlisten = 1", "b.toml:1:2: srlta: unknown section (did you mean [srtla]?)"),
        ("srtla.rooming = true", "b.toml:1:7: srtla.rooming: unknown key (did you mean roaming?)"),
        (
            "[srt]\ngroups_max = 5",
            "b.toml:2:1: srt.groups_max: unknown key (groups_max belongs into [srtla])",
        ),
        (
            "[srt]\npassphrase = \"x\"",
            "b.toml:2:1: srt.passphrase: unknown key ([srt] has listen, latency_ms, connections_max)",
        ),
        (
            "listen = \"x\"",
            "b.toml:1:1: listen: unknown key outside of any section (listen belongs into [srtla] or [srt] or [admin])",
        ),
        (
            "name = \"x\"",
            "b.toml:1:1: name: unknown key outside of any section (every key belongs to a section such as [srtla])",
        ),
        (
            "[database]\nurl = \"x\"",
            "b.toml:1:2: database: unknown section (there are log, runtime, srtla, keys, streams, limits, bans, geo, srt, output, relay, forward, admin, gate)",
        ),
        ("[relay.streams.cam1]", "b.toml:1:8: relay.streams: expected a list of strings, found a table"),
        (
            "srt = 9710",
            "b.toml:1:7: srt: expected a section, found the number 9710 (write [srt] and its keys below)",
        ),
        (
            "[[srt]]",
            "b.toml:1:1: srt: expected a section, found a list with other values than strings (write [srt] and its keys below)",
        ),
    ] {
        assert_eq!(messages(text), expected, "{text}");
    }
}

#[test]
fn wrong_types_and_ranges_say_what_was_expected_and_found() {
    for (text, expected) in [
        (
            "[runtime]\nshards = \"two\"",
            "b.toml:2:10: runtime.shards: expected an integer from 1 to 64, found the string \"two\"",
        ),
        ("[runtime]\nshards = 0", "b.toml:2:10: runtime.shards: expected an integer from 1 to 64, found 0"),
        ("[runtime]\nshards = -1", "b.toml:2:10: runtime.shards: expected an integer from 1 to 64, found -1"),
        (
            "[runtime]\nshards = 0x141",
            "b.toml:2:10: runtime.shards: expected an integer from 1 to 64, found 321",
        ),
        (
            "[runtime]\nshards = 99999999999999999999999999999999999999999",
            "b.toml:2:10: runtime.shards: expected an integer from 1 to 64, found a number out of range",
        ),
        (
            "[srt]\nlatency_ms = 1.5",
            "b.toml:2:14: srt.latency_ms: expected an integer from 20 to 8000, found a number with a decimal point",
        ),
        (
            "[srt]\nlatency_ms = 8001",
            "b.toml:2:14: srt.latency_ms: expected an integer from 20 to 8000, found 8001",
        ),
        (
            "[srtla]\nroaming = \"yes\"",
            "b.toml:2:11: srtla.roaming: expected true or false, found the string \"yes\"",
        ),
        (
            "[output]\nmode = \"relai\"",
            "b.toml:2:8: output.mode: expected one of \"relay\", \"forward\", found the string \"relai\"",
        ),
        (
            "[runtime]\nbackend = true",
            "b.toml:2:11: runtime.backend: expected one of \"auto\", \"uring\", \"mmsg\", found true",
        ),
        (
            "[relay]\nstreams = \"a\"",
            "b.toml:2:11: relay.streams: expected a list of strings, found the string \"a\"",
        ),
        (
            "[relay]\nstreams = [\"a\", 1]",
            "b.toml:2:11: relay.streams: expected a list of strings, found a list with other values than strings",
        ),
        (
            "[srtla]\nlisten = 5000",
            "b.toml:2:10: srtla.listen: expected an address and port such as \"[::]:5000\", found the number 5000",
        ),
        (
            "[srtla]\nlisten = \"5000\"",
            "b.toml:2:10: srtla.listen: expected an address and port such as \"0.0.0.0:5000\" or \"[::]:5000\", found \"5000\"; did you mean \"[::]:5000\"?",
        ),
        (
            "[srtla]\nlisten = \":5000\"",
            "b.toml:2:10: srtla.listen: expected an address and port such as \"0.0.0.0:5000\" or \"[::]:5000\", found \":5000\"; did you mean \"[::]:5000\"?",
        ),
        (
            "[srtla]\nlisten = \"::1\"",
            "b.toml:2:10: srtla.listen: expected an address and port such as \"0.0.0.0:5000\" or \"[::]:5000\", found \"::1\"; the port is missing",
        ),
        (
            "[srtla]\nallow = [\"10.0.0.1/8\"]",
            "b.toml:2:9: srtla.allow: \"10.0.0.1/8\" has host bits set; did you mean 10.0.0.0/8?",
        ),
        (
            "[admin]\nlisten = false",
            "b.toml:2:10: admin.listen: expected an address and port such as \"127.0.0.1:8080\", or \"off\", found false",
        ),
        (
            "[runtime]\nstate_dir = \"\"",
            "b.toml:2:13: runtime.state_dir: expected a path such as \"/var/lib/bondgate\", or \"off\", found the string \"\"",
        ),
        ("[log]\nlevel = 1979-05-27", "b.toml:2:9: log.level: expected a string, found a date"),
    ] {
        assert_eq!(messages(text), expected, "{text}");
    }
}

#[test]
fn values_that_cannot_work_are_refused() {
    for (text, expected) in [
        ("[log]\nlevel = \"inf\"", "b.toml:2:9: log.level: \"inf\" is not a log level (did you mean info?)"),
        (
            "[log]\nlevel = \"info,x=loud\"",
            "b.toml:2:9: log.level: \"loud\" is not a log level (levels are off, error, warn, info, debug, trace; for one part write target=level)",
        ),
        (
            "[runtime]\nshards = 2",
            "b.toml:2:10: runtime.shards: relay serves from one shard for now (set runtime.shards = 1 or output.mode = \"forward\")",
        ),
        (
            "[srt]\nlisten = \"127.0.0.1:5000\"",
            "b.toml:2:10: srt.listen: same UDP port as srtla.listen ([::]:5000) (give each listener its own port)",
        ),
        (
            "[srtla]\nlisten = \"[::]:9710\"",
            "configuration: srt.listen: same UDP port as srtla.listen ([::]:9710) (give each listener its own port)",
        ),
        (
            "[admin]\nlisten = \"0.0.0.0:8080\"",
            "b.toml:2:10: admin.listen: 0.0.0.0:8080 can be reached from outside, and there is no authentication yet (use a loopback address such as \"127.0.0.1:8080\", or \"off\")",
        ),
        (
            "[output]\nmode = \"forward\"",
            "configuration: forward.server: missing, but output.mode is \"forward\" (set forward.server = \"host:port\" of the SRT server)",
        ),
        (
            "output.mode = \"forward\"\nforward.server = \"localhost\"",
            "b.toml:2:18: forward.server: \"localhost\" has no port (write host:port, for example \"127.0.0.1:4001\")",
        ),
        (
            "output.mode = \"forward\"\nforward.server = \"::1:4001\"",
            "b.toml:2:18: forward.server: \"::1:4001\": an IPv6 address before a port needs brackets (write host:port, for example \"127.0.0.1:4001\")",
        ),
        (
            "[relay]\nstreams = [\"live\", \"a b\"]",
            "b.toml:2:11: relay.streams: \"a b\": a stream name may hold letters, digits, '_', '-', '.' and '/' (for example \"cam1\", at most 128 bytes)",
        ),
        (
            "[runtime]\nstate_dir = \"off\"",
            "b.toml:2:13: runtime.state_dir: off, but device keys have to be kept somewhere (set runtime.state_dir, for example \"/var/lib/bondgate\", or let `bondgate init` write a file)",
        ),
        (
            "streams.play = \"token\"\nsrtla.auth = \"open\"\nruntime.state_dir = \"off\"",
            "b.toml:3:21: runtime.state_dir: off, but tokens have to be kept somewhere (set runtime.state_dir, for example \"/var/lib/bondgate\", or let `bondgate init` write a file)",
        ),
        (
            "[srtla]\nauth = \"mixed\"\n[streams]\ntoken = [\"a\"]",
            "configuration: srtla.stock_allow: empty, but srtla.auth is \"mixed\" (name the networks of senders without a key, or set srtla.auth = \"required\")",
        ),
        (
            "[streams]\ndefault = \"open\"",
            "b.toml:2:11: streams.default: \"open\" lets in everybody, but srtla.auth does not (use \"token\" or \"cidr\" for senders without a key, or set srtla.auth = \"open\")",
        ),
        (
            "[srtla]\nauth = \"mixed\"\nstock_allow = [\"0.0.0.0/0\"]\n[streams]\ncidr = [\"a\"]",
            "b.toml:3:15: srtla.stock_allow: names every address, so an address proves nothing for \"cidr\" streams (let these streams demand a token, or name smaller networks)",
        ),
        (
            "[streams]\nsa1 = [\"a\", \"b\"]\ntoken = [\"b\"]",
            "b.toml:3:9: streams.token: \"b\" is in streams.sa1 too (name a stream in one list only)",
        ),
        (
            "[streams]\ncidr = [\"a b\"]",
            "b.toml:2:8: streams.cidr: \"a b\": a stream name may hold letters, digits, '_', '-', '.' and '/' (for example \"cam1\", at most 128 bytes)",
        ),
        (
            "[keys]\nserver = \"gate\"",
            "b.toml:2:10: keys.server: \"gate\" has no port (write host:port, for example \"gate.example.net:5000\")",
        ),
        (
            "[srtla]\nauth = \"mixd\"",
            "b.toml:2:8: srtla.auth: expected one of \"required\", \"mixed\", \"open\", found the string \"mixd\"",
        ),
        (
            "[relay]\ndefault_stream = \"\"",
            "b.toml:2:18: relay.default_stream: a stream name is empty (for example \"cam1\", at most 128 bytes)",
        ),
    ] {
        assert_eq!(messages(text), expected, "{text}");
    }
}

#[test]
fn all_problems_are_reported_at_once_in_order() {
    let text = "\
[srt]
latency_ms = 5
lisen = \"x\"
[runtime]
shards = 2
[admin]
listen = \"0.0.0.0:1\"
[nope]
";
    assert_eq!(
        messages(text),
        "\
b.toml:2:14: srt.latency_ms: expected an integer from 20 to 8000, found 5
b.toml:3:1: srt.lisen: unknown key (did you mean listen?)
b.toml:5:10: runtime.shards: relay serves from one shard for now (set runtime.shards = 1 or output.mode = \"forward\")
b.toml:7:10: admin.listen: 0.0.0.0:1 can be reached from outside, and there is no authentication yet (use a loopback address such as \"127.0.0.1:8080\", or \"off\")
b.toml:8:2: nope: unknown section (there are log, runtime, srtla, keys, streams, limits, bans, geo, srt, output, relay, forward, admin, gate)"
    );
}

#[test]
fn a_value_that_was_refused_causes_no_second_message() {
    let text = "output.mode = \"forward\"\nforward.server = 1";
    assert_eq!(messages(text), "b.toml:2:18: forward.server: expected a string, found the number 1");
}

#[test]
fn broken_toml_names_the_place_and_the_rest_is_still_read() {
    let text = "[srtla]\nlisten = \n[srt]\nlatency = 1\n";
    let shown = messages(text);
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].starts_with("b.toml:2:"), "{shown}");
    assert!(lines[0].contains("not valid TOML"), "{shown}");
    assert_eq!(&lines[1..], ["b.toml:4:1: srt.latency: unknown key (did you mean latency_ms?)"]);
}

#[test]
fn a_key_given_twice_is_refused() {
    let shown = messages("[srt]\nlatency_ms = 100\nlatency_ms = 200\n");
    assert!(shown.starts_with("b.toml:3:1: not valid TOML: duplicate key"), "{shown}");
}

#[test]
fn columns_count_characters() {
    assert_eq!(
        messages("relay = { default_stream = \"ü\", lingar_ms = 1 }").lines().last().unwrap(),
        "b.toml:1:33: relay.lingar_ms: unknown key (did you mean linger_ms?)"
    );
}

/// Cut anywhere, the manual is refused with a place inside it, or means the defaults up to its last line (a number
/// can be cut into a smaller one, which nobody can tell).
#[test]
fn a_truncated_file_is_refused_or_harmless() {
    let mut refused = 0;
    for (end, _) in MANUAL.char_indices() {
        let text = &MANUAL[..end];
        match from_text(text) {
            Ok(loaded) => {
                let complete =
                    text.lines().all(|line| line.is_empty() || MANUAL.lines().any(|full| full == line));
                assert!(loaded.config == Config::default() || !complete, "cut at {end}");
            }
            Err(error) => {
                refused += 1;
                let lines = text.lines().count().max(1);
                for problem in &error.problems {
                    let Place::File { line, column, .. } = &problem.place else {
                        assert_eq!(problem.place, Place::Default, "cut at {end}: {problem}");
                        continue;
                    };
                    assert!((1..=lines + 1).contains(line) && *column > 0, "cut at {end}: {problem}");
                }
            }
        }
    }
    assert!(refused > 100, "cutting inside keys and values must be noticed: {refused}");
}

#[test]
fn a_file_cut_inside_a_string_says_so() {
    assert_eq!(
        messages("[srtla]\nlisten = \"[::]:50"),
        "b.toml:2:18: not valid TOML: invalid basic string, expected `\"` (the file ends too early; was it truncated?)"
    );
}

#[test]
fn files_that_cannot_be_read_say_why() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("none.toml");
    let mut from = sources(&[], &[]);
    from.file = Some(missing.clone());
    assert_eq!(
        load(&from).unwrap_err().to_string(),
        format!(
            "{}: cannot be read: No such file or directory (os error 2) (write one with `bondgate init`, or leave out --config)",
            missing.display()
        )
    );
    let latin1 = directory.path().join("latin1.toml");
    std::fs::write(&latin1, b"[relay]\ndefault_stream = \"caf\xe9\"\n").unwrap();
    from.file = Some(latin1.clone());
    assert_eq!(
        load(&from).unwrap_err().to_string(),
        format!("{}:2:22: not valid UTF-8 text (save the file as UTF-8)", latin1.display())
    );
}

#[test]
fn each_source_overrides_the_one_before() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("b.toml");
    std::fs::write(&file, "[srt]\nlatency_ms = 100\nconnections_max = 10\nlisten = \"[::]:1\"\n").unwrap();
    let mut from = sources(
        &[
            ("BONDGATE__SRT__CONNECTIONS_MAX", "20"),
            ("BONDGATE__SRT__LISTEN", "[::]:2"),
            ("BONDGATE_CONFIG", "x"),
        ],
        &["srt.listen=[::]:3"],
    );
    from.file = Some(file);
    let config = load(&from).unwrap().config;
    assert_eq!((config.srt.latency_ms, config.srt.connections_max), (100, 20));
    assert_eq!(config.srt.listen, addr("[::]:3"));
    assert_eq!(config.srtla, Srtla::default());
}

#[test]
fn the_log_level_has_its_own_variable_and_flag() {
    let env = [("BONDGATE__LOG__LEVEL", "warn"), ("BONDGATE_LOG", "info,bondgate=debug")];
    assert_eq!(load(&sources(&env[..1], &[])).unwrap().config.log.level, "warn");
    assert_eq!(load(&sources(&env, &[])).unwrap().config.log.level, "info,bondgate=debug");
    let mut from = sources(&env, &["log.level=error"]);
    from.flags.push(("--log-level", "log.level=trace".to_owned()));
    assert_eq!(load(&from).unwrap().config.log.level, "trace");
    assert_eq!(
        load(&sources(&[("BONDGATE_LOG", "verbose")], &[])).unwrap_err().to_string(),
        "environment variable BONDGATE_LOG: log.level: \"verbose\" is not a log level (levels are off, error, warn, \
         info, debug, trace; for one part write target=level)"
    );
}

#[test]
fn systemd_state_directory_is_the_weakest_source() {
    let env = [("STATE_DIRECTORY", "/var/lib/gate:/other"), ("BONDGATE__RUNTIME__STATE_DIR", "off")];
    assert_eq!(
        load(&sources(&env[..1], &[])).unwrap().config.runtime.state_dir,
        Some(PathBuf::from("/var/lib/gate"))
    );
    let open = ["srtla.auth=open"]; // without a state directory nobody can have a key
    assert_eq!(load(&sources(&env, &open)).unwrap().config.runtime.state_dir, None);
}

#[test]
fn wrong_variables_and_flags_are_named() {
    let env =
        [("BONDGATE__SRTLA__LISEN", "x"), ("BONDGATE__NOPE__X", "1"), ("BONDGATE__SRT__LATENCY_MS", "fast")];
    let set = ["relay.linger=1", "srt.latency_ms", "runtime.shards=abc"];
    assert_eq!(
        load(&sources(&env, &set)).unwrap_err().to_string(),
        "\
environment variable BONDGATE__NOPE__X: nope.x: unknown key (`bondgate check-config --print-effective` lists all keys)
environment variable BONDGATE__SRTLA__LISEN: srtla.lisen: unknown key (did you mean BONDGATE__SRTLA__LISTEN?)
environment variable BONDGATE__SRT__LATENCY_MS: srt.latency_ms: expected an integer from 20 to 8000, found the string \"fast\"
--set relay.linger=1: relay.linger: unknown key (did you mean relay.linger_ms?)
--set runtime.shards=abc: runtime.shards: expected an integer from 1 to 64, found the string \"abc\"
--set srt.latency_ms: no `=` in it (write section.key=value)"
    );
}

#[test]
fn doubtful_values_are_warned_about() {
    let mut from = sources(&[], &["output.mode=forward", "forward.server=a:1", "runtime.shards=4"]);
    from.cores = 2;
    let warnings = |from: &Sources| -> Vec<String> {
        load(from).unwrap().warnings.iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        warnings(&from),
        [
            "--set runtime.shards=4: runtime.shards: 4 shards on 2 cores: shards will take turns on a core (use one shard per core at most)"
        ]
    );
    assert_eq!(
        warnings(&sources(&[], &["forward.server=a:1", "relay.streams=cam1"])),
        [
            "--set forward.server=a:1: forward.server: has no effect while output.mode is \"relay\" (set output.mode = \"forward\" to send streams there)",
            "configuration: relay.default_stream: \"live\" is not in relay.streams: encoders without a stream ID will be refused (add it to relay.streams if they should be let in)"
        ]
    );
}

#[test]
fn admission_that_lets_in_nobody_is_warned_about() {
    let warnings = |set: &[&str]| -> Vec<String> {
        load(&sources(&[], set)).unwrap().warnings.iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        warnings(&["srtla.auth=mixed", "srtla.stock_allow=192.0.2.0/24"]),
        [
            "configuration: streams.default: senders without a key may register, but every stream demands one (set streams.default = \"token\", or name streams in streams.token or streams.cidr)"
        ]
    );
    assert_eq!(
        warnings(&["srtla.stock_allow=192.0.2.0/24"]),
        [
            "--set srtla.stock_allow=192.0.2.0/24: srtla.stock_allow: has no effect on registration unless srtla.auth is \"mixed\" (set srtla.auth = \"mixed\", or leave it empty)"
        ]
    );
    let phones = ["srtla.auth=mixed", "srtla.stock_allow=0.0.0.0/0,::/0", "streams.default=token"];
    assert!(warnings(&phones).is_empty());
}

#[test]
fn a_gate_that_cannot_be_is_refused() {
    assert_eq!(
        messages("[gate]\nattach = \"on\""),
        "b.toml:2:10: gate.attach: \"on\", but gate.interfaces names no interface (set gate.interfaces, for example [\"eth0\"])"
    );
    assert_eq!(
        messages("[gate]\nattach = \"off\"\non_detach = \"closed\""),
        "b.toml:3:13: gate.on_detach: \"closed\", but gate.attach is \"off\": nobody could ever register (set gate.attach = \"auto\" or gate.on_detach = \"app\")"
    );
    for name in ["", "a b", "sixteen-letters.", "a/b", ".."] {
        let text = format!("[gate]\ninterfaces = [\"{name}\"]");
        assert!(messages(&text).contains("is not the name of an interface"), "{name}");
    }
    assert!(messages("[gate]\npin_dir = \"bpf\"").contains("an absolute path"));
    assert_eq!(messages("[gate]\nattach = \"on\"\ninterfaces = [\"eth0.100\"]"), "accepted");
    assert_eq!(messages("[gate]\non_detach = \"closed\""), "accepted");
}

#[test]
fn ports_may_be_left_to_the_system_and_addresses_split_a_port() {
    let text = "[srtla]\nlisten = \"127.0.0.1:0\"\n[srt]\nlisten = \"127.0.0.1:0\"";
    assert_eq!(messages(text), "accepted");
    let text = "[srtla]\nlisten = \"127.0.0.1:5000\"\n[srt]\nlisten = \"127.0.0.2:5000\"";
    assert_eq!(messages(text), "accepted");
    // In forward mode nothing listens on the SRT port.
    let text = "srtla.listen = \"[::]:9710\"\noutput.mode = \"forward\"\nforward.server = \"a:1\"";
    assert_eq!(messages(text), "accepted");
    let text = "[admin]\nlisten = \"[::ffff:127.0.0.1]:8080\"";
    assert_eq!(messages(text), "accepted");
}

#[test]
fn the_manual_with_choices_reads_back_as_the_choices() {
    let key = Key::find("srt.latency_ms").unwrap();
    let text = manual_with(&[(key, "2000".to_owned())]);
    let config = from_text(&text).unwrap().config;
    let mut expected = Config::default();
    expected.srt.latency_ms = 2000;
    assert_eq!(config, expected);
}

/// What a key says of itself is what happens beside a process that runs with `running`: a value that can be taken up is, any
/// other stays.
fn every_key_is_taken_as_it_says(running: &Config) {
    let mut loaded = from_text("").unwrap();
    // Whether both together are valid is another question.
    let _ = loaded.beside(running);
    for key in KEYS {
        let source = if key.taken == Taken::Live { &Config::default() } else { running };
        assert_eq!(key.literal(&loaded.config), key.literal(source), "{}", key.path);
    }
}

#[test]
fn what_is_taken_up_and_what_waits_is_named() {
    let mut loaded = from_text("[bans]\nstrikes = 2\n[srt]\nlatency_ms = 50\n").unwrap();
    let changed = loaded.beside(&Config::default()).unwrap();
    assert_eq!((changed.live, changed.waiting), (vec!["bans.strikes"], vec!["srt.latency_ms"]));
    assert_eq!(from_text("").unwrap().beside(&Config::default()).unwrap(), Changed::default());
}
