//! How bans are written: one JSON schema for `bans.json`, import and export, and plain lists for import.
//!
//! ```json
//! {"bondgate_bans": 1, "bans": [
//! {"network": "203.0.113.7", "until_ms": 1795368000000, "since_ms": 1795364400000, "origin": "operator", "note": "scans"},
//! {"network": "2001:db8::/32"}
//! ]}
//! ```
//!
//! `network` is an address or `address/prefix`. Times are milliseconds since 1970, UTC; without `until_ms` a ban has no
//! end. `origin` is `operator`, `import` or `failures`; `times` counts bans for failures in a row. All but `network` may be
//! left out; what is not named here is refused. A plain list has one network per line; what follows `#` or `;` is not read.
//!
//! Promise: what is written reads back as itself, and nothing is read halfway: one bad entry refuses the whole text, and
//! the message says which.

use serde::{Deserialize, Serialize};

use super::list::{BanList, Full, NOTE_MAX, Origin, Record};
use crate::config::cidr;

/// How many bad entries a message names.
const SHOWN_MAX: usize = 10;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<'a> {
    bondgate_bans: u32,
    #[serde(borrow)]
    bans: Vec<Entry<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry<'a> {
    network: std::borrow::Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "is_zero")]
    since_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<std::borrow::Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "is_zero_u32")]
    times: u32,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    note: std::borrow::Cow<'a, str>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn is_zero_u32(number: &u32) -> bool {
    *number == 0
}

/// A network as it is written: a single address without its length.
pub fn network(network: cidr::Cidr) -> String {
    let width = if network.addr.is_ipv4() { 32 } else { 128 };
    if network.prefix == width { network.addr.to_string() } else { network.to_string() }
}

/// The document: one line per ban, so that it can be compared and edited by line.
pub fn write<'a>(records: impl IntoIterator<Item = &'a Record>) -> String {
    let mut text = Vec::from(b"{\"bondgate_bans\": 1, \"bans\": [".as_slice());
    for (index, record) in records.into_iter().enumerate() {
        let entry = Entry {
            network: network(record.network).into(),
            until_ms: record.until_ms,
            since_ms: record.since_ms,
            origin: Some(record.origin.name().into()),
            times: record.times,
            note: record.note.as_str().into(),
        };
        text.extend_from_slice(if index == 0 { b"\n" } else { b",\n" });
        // Nothing in an entry can fail to be written, and memory takes all.
        let _ = serde_json::to_writer(&mut text, &entry);
    }
    text.extend_from_slice(b"\n]}\n");
    String::from_utf8(text).unwrap_or_default()
}

/// Reads a document.
///
/// # Errors
/// A sentence for people, with line or index of what is wrong.
pub fn read(text: &str) -> Result<BanList, String> {
    let mut list = BanList::default();
    put_all(&mut list, entries(text)?, |index| format!("bans[{index}]"))?;
    Ok(list)
}

/// Reads what is to be imported, a document or a plain list, into `list`. Bans that say nothing of their origin are of
/// [`Origin::Import`], made at `now_ms`. Those that have run out are left out. Returns how many networks were new, and how many
/// were there already and have changed.
///
/// # Errors
/// A sentence for people; `list` is unchanged then.
pub fn import(list: &mut BanList, text: &str, now_ms: u64) -> Result<(usize, usize), String> {
    let mut merged = list.clone();
    let is_document = text.trim_start().starts_with('{');
    let entries: Vec<(usize, Result<Record, String>)> =
        if is_document { entries(text)?.collect() } else { lines(text).collect() };
    let counted = |at: usize| if is_document { format!("bans[{at}]") } else { format!("line {at}") };
    let mut wanted = Vec::with_capacity(entries.len());
    let entries = entries.into_iter().map(|(at, record)| {
        let fill = |record: Record| Record {
            since_ms: if record.since_ms == 0 { now_ms } else { record.since_ms },
            ..record
        };
        (at, record.map(fill).and_then(everywhere))
    });
    collect(&mut wanted, entries, counted)?;
    let (mut new, mut changed) = (0, 0);
    for (_, record) in wanted {
        if !record.is_in_force(now_ms) {
            continue;
        }
        match merged.put(record.clone()).map_err(|full| full.to_string())? {
            None => new += 1,
            Some(before) => changed += usize::from(before != record),
        }
    }
    *list = merged;
    Ok((new, changed))
}

/// Nobody means to ban everybody.
fn everywhere(record: Record) -> Result<Record, String> {
    if record.network.prefix == 0 {
        return Err(format!("{} is everybody", record.network));
    }
    Ok(record)
}

fn entries(text: &str) -> Result<impl Iterator<Item = (usize, Result<Record, String>)>, String> {
    let document: Document<'_> = serde_json::from_str(text).map_err(|error| {
        format!("not a list of bans: {error} (expected {{\"bondgate_bans\": 1, \"bans\": [{{\"network\": \"192.0.2.7\"}}]}})")
    })?;
    if document.bondgate_bans != 1 {
        return Err(format!("bondgate_bans is {}; this version reads 1", document.bondgate_bans));
    }
    Ok(document.bans.into_iter().enumerate().map(|(index, entry)| (index, record(&entry))))
}

fn lines(text: &str) -> impl Iterator<Item = (usize, Result<Record, String>)> {
    text.lines().enumerate().filter_map(|(index, line)| {
        let network = line.split(['#', ';']).next().unwrap_or_default().trim();
        if network.is_empty() {
            return None;
        }
        let entry = Entry {
            network: network.into(),
            until_ms: None,
            since_ms: 0,
            origin: None,
            times: 0,
            note: "".into(),
        };
        Some((index + 1, record(&entry)))
    })
}

fn record(entry: &Entry<'_>) -> Result<Record, String> {
    let network = cidr::parse(&entry.network)?;
    let origin = match entry.origin.as_deref() {
        None => Origin::Import,
        Some(name) => Origin::ALL
            .into_iter()
            .find(|origin| origin.name() == name)
            .ok_or_else(|| format!("origin \"{name}\" is none of operator, import, failures"))?,
    };
    if origin == Origin::Failures && entry.until_ms.is_none() {
        return Err("a ban for failures has an end: until_ms is missing".to_owned());
    }
    check_note(&entry.note)?;
    Ok(Record {
        network,
        until_ms: entry.until_ms,
        since_ms: entry.since_ms,
        origin,
        times: entry.times,
        note: entry.note.clone().into_owned(),
    })
}

/// Whether something can be a note.
///
/// # Errors
/// A sentence for people.
pub fn check_note(note: &str) -> Result<(), String> {
    if note.len() > NOTE_MAX {
        return Err(format!("the note has {} bytes; {NOTE_MAX} are allowed", note.len()));
    }
    if note.chars().any(char::is_control) {
        return Err("the note holds control characters".to_owned());
    }
    Ok(())
}

fn collect(
    good: &mut Vec<(usize, Record)>,
    entries: impl Iterator<Item = (usize, Result<Record, String>)>,
    shown: impl Fn(usize) -> String,
) -> Result<(), String> {
    let mut bad = Vec::new();
    for (at, record) in entries {
        match record {
            Ok(record) => good.push((at, record)),
            Err(why) => bad.push(format!("{}: {why}", shown(at))),
        }
    }
    if bad.is_empty() {
        return Ok(());
    }
    let more = bad.len().saturating_sub(SHOWN_MAX);
    bad.truncate(SHOWN_MAX);
    let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
    Err(format!("{}{more}", bad.join("\n  ")))
}

fn put_all(
    list: &mut BanList,
    entries: impl Iterator<Item = (usize, Result<Record, String>)>,
    shown: impl Fn(usize) -> String,
) -> Result<(), String> {
    let mut good = Vec::new();
    collect(&mut good, entries, shown)?;
    for (_, record) in good {
        list.put(record).map_err(|full: Full| full.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW_MS: u64 = 1_800_000_000_000;

    fn refused(text: &str) -> String {
        let mut list = BanList::default();
        let why = import(&mut list, text, NOW_MS).unwrap_err();
        assert!(list.is_empty(), "{text}");
        why
    }

    #[test]
    fn what_is_left_out_has_a_meaning() {
        let list = read("{\"bondgate_bans\": 1, \"bans\": [{\"network\": \"2001:db8::/32\"}]}").unwrap();
        let record = list.iter().next().unwrap();
        assert_eq!((record.origin, record.until_ms, record.note.as_str()), (Origin::Import, None, ""));
        assert!(read("{\"bondgate_bans\": 1, \"bans\": []}").unwrap().is_empty());
    }

    #[test]
    fn plain_lists_are_read_with_their_comments() {
        let mut list = BanList::default();
        let text = "# a list\r\n192.0.2.7\r\n\n198.51.100.0/24 ; a range\n2001:db8::/32 # more\n192.0.2.7\n";
        assert_eq!(import(&mut list, text, NOW_MS), Ok((3, 0)));
        assert!(list.iter().all(|record| record.origin == Origin::Import && record.since_ms == NOW_MS));
        assert_eq!(import(&mut list, text, NOW_MS), Ok((0, 0)), "twice is as good as once");
    }

    #[test]
    fn nonsense_is_refused_by_line_and_by_index() {
        assert_eq!(
            refused("192.0.2.7\nhome\n10.0.0.1/8\n0.0.0.0/0\n"),
            "line 2: \"home\" is not an IP address\n  line 3: \"10.0.0.1/8\" has host bits set; did you mean \
             10.0.0.0/8?\n  line 4: 0.0.0.0/0 is everybody"
        );
        let document = |bans: &str| {
            format!("{{\"bondgate_bans\": 1, \"bans\": [{{\"network\": \"192.0.2.1\"}}, {bans}]}}")
        };
        for (bans, why) in [
            ("{\"network\": \"x\"}", "bans[1]: \"x\" is not an IP address"),
            ("{\"network\": \"::/0\"}", "bans[1]: ::/0 is everybody"),
            ("{\"network\": \"192.0.2.2\", \"origin\": \"me\"}", "bans[1]: origin \"me\" is none of"),
            (
                "{\"network\": \"192.0.2.2\", \"origin\": \"failures\"}",
                "bans[1]: a ban for failures has an end",
            ),
            ("{\"network\": \"192.0.2.2\", \"note\": \"a\\nb\"}", "bans[1]: the note holds control"),
            ("{\"network\": \"192.0.2.2\", \"untl_ms\": 5}", "unknown field `untl_ms`"),
            ("{\"network\": \"192.0.2.2\", \"until_ms\": -5}", "line 1 column"),
            ("{\"network\": 5}", "line 1 column"),
            ("{}", "missing field `network`"),
        ] {
            let said = refused(&document(bans));
            assert!(said.contains(why), "{said}");
        }
        assert!(refused("{\"bondgate_bans\": 2, \"bans\": []}").contains("this version reads 1"));
        assert!(refused("{\"bans\": [").contains("not a list of bans"));
        let many = refused(&"x\n".repeat(25));
        assert!(many.ends_with("line 10: \"x\" is not an IP address\n  and 15 more"), "{many}");
    }

    #[test]
    fn what_has_run_out_is_not_imported() {
        let mut list = BanList::default();
        let text = "{\"bondgate_bans\": 1, \"bans\": [{\"network\": \"192.0.2.1\", \"until_ms\": 5}]}";
        assert_eq!(import(&mut list, text, NOW_MS), Ok((0, 0)));
        assert!(list.is_empty());
    }

    #[test]
    fn too_many_are_refused_as_a_whole() {
        let addrs =
            (0..=super::super::list::NAMED_MAX as u32).map(|n| std::net::Ipv4Addr::from(0x0A00_0000 + n));
        let text = addrs.fold(String::new(), |text, addr| text + &addr.to_string() + "\n");
        assert!(refused(&text).contains("more than 200000 bans"));
    }

    fn any_record() -> impl Strategy<Value = Record> {
        let network = prop_oneof![
            (any::<u32>(), 1u8..=32).prop_map(|(bits, prefix)| {
                let bits = bits & (u32::MAX << (32 - prefix));
                cidr::Cidr { addr: std::net::IpAddr::V4(bits.into()), prefix }
            }),
            (1u128.., 20u8..=128).prop_map(|(bits, prefix)| {
                let bits = (bits | 1 << 125) & (u128::MAX << (128 - prefix));
                cidr::Cidr { addr: std::net::IpAddr::V6(bits.into()), prefix }
            }),
        ];
        (network, prop::option::of(NOW_MS + 1..), any::<u64>(), 0usize..3, any::<u32>(), "[ -~\u{e4}]{0,60}")
            .prop_map(|(network, until_ms, since_ms, origin, times, note)| {
                let origin = Origin::ALL[origin];
                let until_ms =
                    if origin == Origin::Failures { until_ms.or(Some(NOW_MS + 9)) } else { until_ms };
                Record { network, until_ms, since_ms: since_ms.max(1), origin, times, note }
            })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_as_itself(records in prop::collection::vec(any_record(), 0..30)) {
            let mut list = BanList::default();
            for record in records {
                list.put(record).unwrap();
            }
            prop_assert_eq!(&read(&write(list.iter())).unwrap(), &list);
            let mut imported = BanList::default();
            prop_assert_eq!(import(&mut imported, &write(list.iter()), NOW_MS), Ok((list.len(), 0)));
            prop_assert_eq!(imported, list);
        }

        #[test]
        fn no_text_is_too_strange(text in "\\PC{0,200}") {
            let _ = import(&mut BanList::default(), &text, NOW_MS);
            let _ = read(&text);
        }
    }
}
