//! Held against `maxminddb`; `tests/libmaxminddb.rs` holds it against libmaxminddb.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use maxminddb::Reader;

use super::*;

fn country(reader: &Reader<Vec<u8>>, addr: &str) -> Option<(String, String)> {
    let found = reader.lookup(addr.parse().unwrap()).unwrap();
    let record = found.decode::<maxminddb::geoip2::Country>().unwrap()?;
    Some((record.country.iso_code.unwrap().to_owned(), found.network().unwrap().to_string()))
}

#[test]
fn another_reader_agrees() {
    for record_size in [24, 28, 32] {
        let mut database = Database::new(Metadata::country(6, record_size));
        database.insert_country(Ipv4Addr::new(203, 0, 113, 0), 24, "DE");
        database.insert_country(Ipv4Addr::new(203, 0, 113, 64), 26, "FR");
        database.insert_country("2001:db8::".parse::<Ipv6Addr>().unwrap(), 32, "US");
        database.alias_v4();
        let written = database.write();
        let reader = Reader::from_source(written.bytes).unwrap();
        reader.verify().unwrap();
        assert_eq!(reader.metadata().record_size, record_size);
        for (addr, expected) in [
            ("203.0.113.1", Some(("DE", "203.0.113.0/26"))),
            ("203.0.113.65", Some(("FR", "203.0.113.64/26"))),
            ("203.0.113.200", Some(("DE", "203.0.113.128/25"))),
            ("2001:db8:1::", Some(("US", "2001:db8::/32"))),
            ("::ffff:203.0.113.65", Some(("FR", "::ffff:203.0.113.64/122"))),
            ("2002:cb00:7141::1", Some(("FR", "2002:cb00:7140::/42"))),
            ("2001:0:cb00:7141::1", Some(("FR", "2001:0:cb00:7140::/58"))),
            ("192.0.2.1", None),
            ("2001:db9::", None),
        ] {
            let expected = expected.map(|(code, network)| (code.to_owned(), network.to_owned()));
            assert_eq!(country(&reader, addr), expected, "{addr}, {record_size} bits");
        }
    }
}

#[test]
fn v4_alone() {
    let mut database = Database::new(Metadata::country(4, 24));
    database.insert_country(Ipv4Addr::UNSPECIFIED, 1, "DE");
    database.insert_country(Ipv4Addr::new(128, 0, 0, 0), 1, "FR");
    let reader = Reader::from_source(database.write().bytes).unwrap();
    reader.verify().unwrap();
    assert_eq!(country(&reader, "127.0.0.1").unwrap().0, "DE");
    assert_eq!(country(&reader, "255.0.0.1").unwrap().1, "128.0.0.0/1");
}

#[test]
fn values_of_all_kinds_and_sizes() {
    for size in [0, 1, 28, 29, 284, 285, 65_820, 65_821, 100_000] {
        let text = "x".repeat(size);
        let mut database = Database::new(Metadata::country(4, 32));
        let items = (0..size.min(300)).map(|n| Value::U64(n as u64)).collect();
        let record = vec![("text".into(), Value::Text(text.clone())), ("list".into(), Value::List(items))];
        database.insert(Ipv4Addr::LOCALHOST, 8, &Value::Map(record));
        let reader = Reader::from_source(database.write().bytes).unwrap();
        reader.verify().unwrap();
        let found = reader.lookup(IpAddr::from([127, 0, 0, 1])).unwrap();
        assert_eq!(found.decode_path::<String>(&["text".into()]).unwrap(), Some(text));
        let list: Vec<u64> = found.decode_path(&["list".into()]).unwrap().unwrap();
        assert_eq!(list, (0..size.min(300) as u64).collect::<Vec<_>>());
    }
    let mut data = Vec::new();
    Value::Text("told once".into()).encode(&mut data);
    let at = u32::try_from(data.len()).unwrap();
    Value::Pointer(0).encode(&mut data);
    let written = assemble(&Metadata::country(4, 24), &[[1 + 16 + at, 1]], &data);
    let reader = Reader::from_source(written.bytes).unwrap();
    let found = reader.lookup(IpAddr::from([127, 0, 0, 1])).unwrap();
    assert_eq!(found.decode::<String>().unwrap().as_deref(), Some("told once"));
}

#[test]
fn the_sections_are_where_it_says() {
    let mut database = Database::new(Metadata::country(6, 28));
    database.insert_country(Ipv6Addr::LOCALHOST, 128, "DE");
    let written = database.write();
    assert_eq!(written.tree.len(), database.node_count() * 7);
    assert_eq!(written.data.start, written.tree.end + 16);
    assert!(written.bytes[written.metadata.clone()].starts_with(MARKER));
    assert_eq!(written.metadata.end, written.bytes.len());
}
