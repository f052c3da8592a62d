use std::fs::File;
use std::time::{Duration, Instant};

use bondgate_mmdb::{Database, Metadata, Value, Written, assemble};

use super::*;

/// No file of these tests is large; whatever is wrong with one must be found in no time.
const AT_ONCE: Duration = Duration::from_secs(20);

fn country(read: &GeoDatabase, addr: &str) -> Option<String> {
    read.networks.longest(addr.parse().unwrap()).map(|(_, country)| country.to_string())
}

fn message(bytes: &[u8]) -> String {
    let started = Instant::now();
    let error = GeoDatabase::parse(bytes).unwrap_err();
    assert!(started.elapsed() < AT_ONCE);
    format!("{error:#}")
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn typical(record_size: u16) -> Written {
    let mut database = Database::new(Metadata::country(6, record_size));
    database.insert_country(Ipv4Addr::new(203, 0, 113, 0), 25, "DE");
    database.insert_country(Ipv4Addr::new(203, 0, 113, 128), 25, "FR");
    database.insert_country(Ipv4Addr::new(198, 51, 100, 0), 25, "US");
    database.insert_country(Ipv4Addr::new(198, 51, 100, 128), 26, "US");
    database.insert_country(Ipv4Addr::new(198, 51, 100, 192), 26, "US");
    database.insert_country(v6("2001:db8::"), 33, "DE");
    database.insert_country(v6("2001:db8:8000::"), 33, "DE");
    database.alias_v4();
    database.write()
}

#[test]
fn networks_by_country() {
    for record_size in [24, 28, 32] {
        let read = GeoDatabase::parse(&typical(record_size).bytes).unwrap();
        let shown: Vec<String> =
            read.networks.iter().map(|(network, country)| format!("{network} {country}")).collect();
        // Neighbours are joined; aliases of IPv4 are not repeated.
        assert_eq!(
            shown,
            ["198.51.100.0/24 US", "203.0.113.0/25 DE", "203.0.113.128/25 FR", "2001:db8::/32 DE"],
            "{record_size} bits"
        );
        assert_eq!(
            (read.kind.as_str(), read.built_unix_s, read.is_v4_only),
            ("Test-Country", 1_780_000_000, false)
        );
        assert_eq!(country(&read, "::ffff:203.0.113.200").as_deref(), Some("FR"));
        for tunnel in ["2002:cb00:7101::1", "2001:0:cb00:7101::1"] {
            assert_eq!(country(&read, tunnel), None, "{tunnel} says nothing about a place");
        }
    }
}

#[test]
fn v4_alone() {
    let mut database = Database::new(Metadata::country(4, 24));
    database.insert_country(Ipv4Addr::new(203, 0, 113, 7), 32, "DE");
    let read = GeoDatabase::parse(&database.write().bytes).unwrap();
    assert!(read.is_v4_only);
    assert_eq!(country(&read, "203.0.113.7").as_deref(), Some("DE"));
    assert_eq!(country(&read, "203.0.113.6"), None);
}

#[test]
fn what_is_said_of_everything_is_said_of_ipv4() {
    for prefix in [1, 64, 96] {
        let mut database = Database::new(Metadata::country(6, 24));
        database.insert_country(Ipv6Addr::UNSPECIFIED, prefix, "DE");
        let read = GeoDatabase::parse(&database.write().bytes).unwrap();
        assert_eq!(country(&read, "203.0.113.7").as_deref(), Some("DE"), "::/{prefix}");
        assert_eq!(country(&read, "8000::"), None);
    }
}

#[test]
fn which_country_counts() {
    let text = |text: &str| Value::Text(text.into());
    let record = |pairs: &[(&str, Value)]| {
        Value::Map(pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect())
    };
    let registered = ("registered_country", Value::place("FR"));
    let mut database = Database::new(Metadata::country(4, 28));
    let nameless = record(&[("geoname_id", Value::U32(1))]);
    for (last, value) in [
        (0, record(&[("country", Value::place("DE")), registered.clone()])),
        (1, record(std::slice::from_ref(&registered))),
        (2, record(&[("country", nameless), registered.clone()])),
        (3, record(&[("country", Value::place("Mars")), registered])),
        (4, record(&[("continent", record(&[("code", text("EU"))]))])),
        (5, record(&[])),
        (6, record(&[("country", Value::place("de"))])),
        (7, record(&[("city", Value::List(vec![Value::Bool(true)])), ("country", Value::place("US"))])),
    ] {
        database.insert(Ipv4Addr::new(203, 0, 113, last), 32, &value);
    }
    let read = GeoDatabase::parse(&database.write().bytes).unwrap();
    let found: Vec<_> = (0..8).map(|last| country(&read, &format!("203.0.113.{last}"))).collect();
    let expected = [Some("DE"), Some("FR"), Some("FR"), Some("FR"), None, None, None, Some("US")];
    assert_eq!(found, expected.map(|code| code.map(str::to_owned)));
}

#[test]
fn a_hundred_thousand_networks() {
    let codes = ["DE", "FR", "US", "JP", "BR"];
    let mut rng = fastrand::Rng::with_seed(1);
    let mut database = Database::new(Metadata::country(6, 24));
    for _ in 0..60_000 {
        let addr = Ipv4Addr::from_bits(rng.u32(..));
        database.insert_country(addr, rng.u8(12..=28), codes[rng.usize(..codes.len())]);
    }
    for _ in 0..60_000 {
        let addr = Ipv6Addr::from_bits(0x2 << 124 | rng.u128(..) >> 4);
        database.insert_country(addr, rng.u8(20..=48), codes[rng.usize(..codes.len())]);
    }
    database.alias_v4();
    let written = database.write();
    let reader = Reader::from_source(&written.bytes[..]).unwrap();
    let read = GeoDatabase::parse(&written.bytes).unwrap();
    assert!(read.networks.len() > 90_000, "{}", read.networks.len());
    for index in 0..40_000 {
        let ip: IpAddr = if index % 2 == 0 {
            Ipv4Addr::from_bits(rng.u32(..)).into()
        } else {
            Ipv6Addr::from_bits(0x2 << 124 | rng.u128(..) >> 4).into()
        };
        if is_alias(ip) {
            continue;
        }
        let record: Option<maxminddb::geoip2::Country> = reader.lookup(ip).unwrap().decode().unwrap();
        let expected = record.and_then(|record| record.country.iso_code.map(str::to_owned));
        assert_eq!(country(&read, &ip.to_string()), expected, "{ip}");
    }
}

#[test]
fn other_databases_are_refused() {
    assert_eq!(message(b""), "invalid database: could not find MaxMind DB metadata in file");
    let mut database =
        Database::new(Metadata { database_type: "GeoLite2-ASN".into(), ..Metadata::country(4, 24) });
    let record = vec![("autonomous_system_number".to_owned(), Value::U32(64_496))];
    database.insert(Ipv4Addr::new(203, 0, 113, 0), 24, &Value::Map(record));
    assert_eq!(
        message(&database.write().bytes),
        "no network in it has a country (it calls itself \"GeoLite2-ASN\")"
    );
    let record = vec![("country".to_owned(), Value::Text("DE".into()))];
    database.insert(Ipv4Addr::new(203, 0, 113, 0), 24, &Value::Map(record));
    let message = message(&database.write().bytes);
    assert!(message.starts_with("the record of 203.0.113.0/24: "), "{message}");
}

#[test]
fn files_that_are_none_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.mmdb");
    let said = |path: &Path| format!("{:#}", GeoDatabase::read(path).unwrap_err());
    let shown = path.display();
    assert_eq!(said(&path), format!("cannot read {shown}: No such file or directory (os error 2)"));
    assert_eq!(said(dir.path()), format!("{} is not a file", dir.path().display()));
    // Sparse: it takes no room.
    File::create(&path).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
    assert_eq!(said(&path), format!("{shown} has 268435457 bytes, more than any database of countries"));
    let written = typical(24);
    fs::write(&path, &written.bytes[..written.data.end]).unwrap();
    assert_eq!(
        said(&path),
        format!(
            "{shown} is no good database of countries; get GeoLite2-Country.mmdb or the like anew: \
             invalid database: could not find MaxMind DB metadata in file"
        )
    );
    fs::write(&path, &written.bytes).unwrap();
    assert_eq!(GeoDatabase::read(&path).unwrap().networks.len(), 4);
}

#[test]
fn cut_short_is_always_refused() {
    for record_size in [24, 28, 32] {
        let written = typical(record_size);
        // The metadata come last and every one of them is needed.
        for end in 0..written.bytes.len() {
            assert!(GeoDatabase::parse(&written.bytes[..end]).is_err(), "first {end} bytes");
        }
    }
}

#[test]
fn a_hole_in_any_section_ends_well() {
    let started = Instant::now();
    let written = typical(28);
    let ranges = [&written.tree, &written.data, &written.metadata];
    for (start, end) in
        ranges.into_iter().flat_map(|range| (range.start..range.end).map(|at| (at, range.end)))
    {
        let mut bytes = written.bytes.clone();
        bytes.drain(start..end);
        // The lengths do not fit any more. It may be found out by the tree, a record, or the metadata.
        let read = GeoDatabase::parse(&bytes);
        assert!(read.is_err() || start >= written.data.start, "without {start}..{end}: {read:?}");
    }
    assert!(started.elapsed() < AT_ONCE);
}

#[test]
fn nonsense_in_the_metadata_is_refused() {
    for (metadata, said) in [
        (Metadata::country(6, 20), "record_size - Expected: 24, 28, or 32 Actual: 20"),
        (Metadata::country(6, 0), "record_size - Expected: 24, 28, or 32 Actual: 0"),
        (Metadata::country(5, 24), "ip_version - Expected: 4 or 6 Actual: 5"),
        (Metadata { build_epoch: u64::MAX, ..Metadata::country(4, 24) }, "build_epoch"),
    ] {
        let written = assemble(&metadata, &[[1, 1]], &[]);
        let message = message(&written.bytes);
        assert!(message.contains(said), "{message}");
    }
    let message = message(&assemble(&Metadata::country(4, 24), &[], &[]).bytes);
    assert!(message.contains("node_count - Expected: positive integer Actual: 0"), "{message}");
}

/// Nodes that each lead to the next on both sides: as many paths as there are addresses.
fn fan(nodes: u32, last: u32) -> Vec<[u32; 2]> {
    (1..=nodes).map(|next| if next == nodes { [last; 2] } else { [next; 2] }).collect()
}

#[test]
fn trees_that_are_none_are_refused_in_time() {
    let record = {
        let mut bytes = Vec::new();
        Value::country("DE").encode(&mut bytes);
        bytes
    };
    let to_data = |count: u32| count + 16;
    for (name, ip_version, nodes) in [
        ("itself", 4, vec![[0, 0]]),
        ("itself", 6, vec![[0, 0]]),
        ("back and forth", 6, vec![[1, 1], [0, 0]]),
        ("back on the right", 6, vec![[to_data(2), 1], [to_data(2), 0]]),
        ("all paths to nothing", 4, fan(32, 32)),
        ("all paths to nothing", 6, fan(128, 128)),
        ("all paths to a record", 6, fan(128, to_data(128))),
        // All paths to the IPv4 part, which a reader may take for aliases and step over.
        ("all paths to IPv4", 6, fan(97, to_data(97))),
        ("deeper than an address", 4, fan(33, to_data(33))),
        ("beyond the data", 4, vec![[1 << 20, 1]]),
        ("between tree and data", 4, vec![[1 + 15, 1]]),
    ] {
        let message = message(&assemble(&Metadata::country(ip_version, 24), &nodes, &record).bytes);
        assert!(
            message.contains("search tree") || message.contains("pointer") || message.contains("no network"),
            "{name}: {message}"
        );
    }
}

#[test]
fn records_that_are_none_are_refused_in_time() {
    let bomb = |values: &[Value]| {
        let mut bytes = Vec::new();
        for value in values {
            value.encode(&mut bytes);
        }
        bytes
    };
    let pointer_pair = |to: u32| Value::List(vec![Value::Pointer(to), Value::Pointer(to)]);
    // Each list holds the one before twice: 2^40 values, if somebody counted them.
    let doubling: Vec<Value> =
        (0..40).map(|level: u32| pointer_pair(if level == 0 { 0 } else { (level - 1) * 12 })).collect();
    let mut deep = Value::U16(1);
    for _ in 0..5_000 {
        deep = Value::List(vec![deep]);
    }
    let country = |value: Value| Value::Map(vec![("country".to_owned(), value)]);
    for (name, data) in [
        ("to itself", bomb(&[Value::Pointer(0)])),
        ("to and fro", bomb(&[Value::Pointer(5), Value::Pointer(0)])),
        ("beyond the end", bomb(&[Value::Pointer(1 << 30)])),
        ("country leads to itself", bomb(&[country(Value::Pointer(0))])),
        ("a list that holds itself", bomb(&[pointer_pair(0)])),
        ("doubling", {
            let mut d = bomb(&[country(Value::Pointer(9 + 39 * 12))]);
            d.extend(bomb(&doubling));
            d
        }),
        ("deep", bomb(&[country(deep)])),
        ("a map without end", vec![7 << 5 | 31, 0xff, 0xff, 0xff]),
        (
            "a text without end",
            bomb(&[country(Value::U16(0))])[..9]
                .iter()
                .copied()
                .chain([2 << 5 | 31, 255, 255, 255])
                .collect(),
        ),
        ("no UTF-8", {
            let mut d = bomb(&[country(Value::place("DE"))]);
            let at = d.windows(2).position(|w| w == b"DE").unwrap();
            d[at] = 0xff;
            d
        }),
        ("an unknown type", vec![0, 99]),
        ("nothing", vec![]),
    ] {
        let message = message(&assemble(&Metadata::country(4, 24), &[[1 + 16, 1]], &data).bytes);
        assert!(
            message.starts_with("the record of 0.0.0.0/1: ")
                || message.contains("pointer")
                || message.contains("no network"),
            "{name}: {message}"
        );
    }
}

#[test]
fn ten_thousand_spoilt_files() {
    let mut rng = fastrand::Rng::with_seed(2);
    let (mut read, mut refused) = (0, 0);
    for round in 0..10_000 {
        let mut bytes = typical([24, 28, 32][round % 3]).bytes;
        for _ in 0..rng.usize(1..6) {
            let at = rng.usize(..bytes.len());
            bytes[at] = if rng.bool() { rng.u8(..) } else { bytes[at] ^ 1 << rng.u8(..8) };
        }
        match GeoDatabase::parse(&bytes) {
            Ok(database) => {
                assert!(database.networks.len() <= 8 * bytes.len());
                read += 1;
            }
            Err(error) => {
                assert!(!format!("{error:#}").is_empty());
                refused += 1;
            }
        }
    }
    assert!(read > 100 && refused > 100, "{read} read, {refused} refused: the rounds test nothing");
}
