//! The bits of the links' source ports: one for every port that a link has, whatever fails and whoever writes.

use std::path::Path;

use aya::maps::{Array, HashMap, Map, MapData};
use bondgate_ebpf::{Gate, GateError};
use bondgate_ebpf_common::abi::{GLOBALS, Globals, LINKS_MAX, Link, LinkKey, v4_mapped};
use libtest_mimic::Failed;

use crate::{Outcome, check};

type Bytes = [u8; Globals::LEN];

fn pinned(dir: &Path, name: &str) -> Result<Map, Failed> {
    Ok(Map::from_map_data(MapData::from_pin(dir.join("maps").join(name))?)?)
}

fn map(dir: &Path) -> Result<Array<MapData, Bytes>, Failed> {
    Ok(Array::try_from(pinned(dir, GLOBALS)?)?)
}

/// The ports whose bits are set.
fn ports(dir: &Path) -> Result<Vec<u16>, Failed> {
    let now = map(dir)?.get(&0, 0)?;
    Ok((0..=u16::MAX).filter(|port| Globals::has_link_port(&now, *port)).collect())
}

fn key(number: u32, port: u16) -> LinkKey {
    let [_, b, c, d] = number.to_be_bytes();
    LinkKey::new(v4_mapped([10, b, c, d]), port, 5000)
}

/// Two links on one port: the bit stays until the last is gone.
pub fn the_last_link_takes_the_bit(dir: &Path) -> Outcome {
    let mut gate = Gate::open(dir)?;
    let expect = |ports_now: &[u16]| {
        let found = ports(dir)?;
        check(found == ports_now, &format!("{found:?}, not {ports_now:?}"))
    };
    expect(&[])?;
    gate.insert_link(key(1, 7000), Link::default())?;
    gate.insert_link(key(2, 7000), Link::default())?;
    // Told to another shard: no third one.
    gate.insert_link(key(2, 7000), Link { shard: 1, ..Link::default() })?;
    gate.insert_link(key(3, 7001), Link::default())?;
    expect(&[7000, 7001])?;
    let shard =
        gate.links()?.into_iter().find(|(found, _)| *found == key(2, 7000)).map(|(_, link)| link.shard);
    check(shard == Some(1), "the link was not changed")?;
    gate.remove_link(key(1, 7000))?;
    // Not there any more, and never there.
    gate.remove_link(key(1, 7000))?;
    gate.remove_link(key(9, 7000))?;
    expect(&[7000, 7001])?;
    gate.remove_link(key(2, 7000))?;
    expect(&[7001])?;
    gate.remove_link(key(3, 7001))?;
    expect(&[])?;
    Gate::detach(dir, None).map(drop).map_err(Into::into)
}

/// Whoever takes the pins over counts the links that are there: none of their bits goes early, and what a predecessor left
/// between two writes is put right.
pub fn a_successor_counts_the_links(dir: &Path) -> Outcome {
    let mut first = Gate::open(dir)?;
    first.insert_link(key(1, 7000), Link::default())?;
    first.insert_link(key(2, 7000), Link::default())?;
    drop(first);
    // As if it had ended after the bit and before the link.
    let mut now = map(dir)?.get(&0, 0)?;
    Globals::set_link_port(&mut now, 64, true);
    map(dir)?.set(0, now, 0)?;
    let mut second = Gate::open_pinned(dir)?;
    second.remove_link(key(1, 7000))?;
    check(ports(dir)? == [7000], "the bit of the link that stays, and no other")?;
    second.remove_link(key(2, 7000))?;
    check(ports(dir)?.is_empty(), "none")?;
    Gate::detach(dir, None).map(drop).map_err(Into::into)
}

/// A link that the map has no room for leaves no bit, and takes none that another link needs.
pub fn a_link_too_many_leaves_no_bit(dir: &Path) -> Outcome {
    let mut gate = Gate::open(dir)?;
    {
        let mut links: HashMap<MapData, [u8; LinkKey::LEN], [u8; Link::LEN]> =
            HashMap::try_from(pinned(dir, "LINKS")?)?;
        for number in 0..LINKS_MAX {
            links.insert(key(number, 7000).to_bytes(), Link::default().to_bytes(), 0)?;
        }
    }
    for port in [7001, 7000] {
        let refused = gate.insert_link(key(LINKS_MAX, port), Link::default());
        check(matches!(refused, Err(GateError::Full { .. })), &format!("{refused:?}"))?;
        check(ports(dir)? == [7000], &format!("after a link too many with port {port}"))?;
    }
    Gate::detach(dir, None).map(drop).map_err(Into::into)
}
