//! Packets and their verdicts.

use std::format;
use std::string::String;
use std::vec::Vec;

use super::{
    DRY, EPOCHS, Extension, FrameSpec, OTHER_PORT, SRT_PORT, SRTLA_PORT, World, gate_key, sa1, sa1_with,
    stock,
};
use crate::abi::{
    Budget, CHECK_ALLOW, CHECK_GATE_TAG, CHECK_GEO, FOR_EVER, GEO_UNKNOWN_REFUSED, GateKey, List,
    STOCK_LISTED, STOCK_NEVER,
};
use crate::reason::Reason;

/// Frames that arrive one after the other at a gate of their own, and what becomes of each.
#[derive(Debug)]
pub struct Row {
    /// What it is about.
    pub name: String,
    /// The gate.
    pub world: World,
    /// The frames.
    pub frames: Vec<(Vec<u8>, Reason)>,
}

/// All rows.
pub fn rows() -> Vec<Row> {
    let mut table = Table(Vec::new());
    others(&mut table);
    shapes(&mut table);
    fragments(&mut table);
    extension_headers(&mut table);
    truncated(&mut table);
    links(&mut table);
    unregistered(&mut table);
    link_ports(&mut table);
    admission(&mut table);
    plain_srt(&mut table);
    devices(&mut table);
    stock_senders(&mut table);
    budgets(&mut table);
    table.0
}

struct Table(Vec<Row>);

impl Table {
    fn add(
        &mut self,
        name: impl Into<String>,
        world: World,
        frames: impl IntoIterator<Item = (Vec<u8>, Reason)>,
    ) {
        self.0.push(Row { name: name.into(), world, frames: frames.into_iter().collect() });
    }

    /// One frame at the standard gate.
    fn one(&mut self, name: impl Into<String>, frame: Vec<u8>, reason: Reason) {
        self.add(name, World::standard(), [(frame, reason)]);
    }

    /// A registration from each of `sources` to the SRTLA port of a changed gate.
    fn from(&mut self, name: &str, change: fn(&mut World), payload: &[u8], reason: Reason, sources: &[&str]) {
        for source in sources {
            let frame = FrameSpec::new(source, SRTLA_PORT, payload.to_vec()).build();
            self.add(format!("{name}: {source}"), World::standard_with(change), [(frame, reason)]);
        }
    }
}

fn keep(_: &mut World) {}

/// Registered, listed for everything, of an allowed country; one per family.
const LINKS: [&str; 2] = ["198.51.100.10", "2001:db8:1::10"];
/// The source port of no registered link.
const NO_LINKS_PORT: u16 = 50_123;
/// Admitted, not registered, may register without a key.
const GOOD: [&str; 2] = ["198.51.100.20", "2001:db8:1:1::20"];
/// In no list.
const STRANGERS: [&str; 2] = ["203.0.113.20", "2001:db8:ffff::20"];

fn current() -> Vec<u8> {
    sa1(0, &gate_key(EPOCHS[1]))
}

fn spec(source: &str) -> FrameSpec {
    FrameSpec::new(source, SRTLA_PORT, current())
}

/// An SRT data packet.
fn data() -> Vec<u8> {
    std::vec![0x11; 1332]
}

fn others(table: &mut Table) {
    for source in LINKS.into_iter().chain(STRANGERS) {
        let other = FrameSpec::new(source, OTHER_PORT, current());
        table.one(format!("another port: {source}"), other.build(), Reason::Other);
        let mut fragment = other.clone();
        fragment.fragment = Some((0, true));
        table.one(format!("a fragment for another port: {source}"), fragment.build(), Reason::Other);
        let mut tcp = spec(source).build();
        let protocol_at = if source.contains(':') { 20 } else { 23 };
        tcp[protocol_at] = 6;
        table.one(format!("TCP to our port: {source}"), tcp.clone(), Reason::Other);
        table.one(format!("TCP, cut: {source}"), tcp[..54].to_vec(), Reason::Other);
        table.add(
            format!("a gate that guards nothing: {source}"),
            World::empty(),
            [(spec(source).build(), Reason::Other)],
        );
    }
    let mut arp = spec(LINKS[0]).build();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    table.one("ARP", arp, Reason::Other);
    let mut length = spec(LINKS[0]).build();
    length[12..14].copy_from_slice(&[0x00, 0x40]);
    table.one("an 802.3 length instead of a type", length, Reason::Other);
    let mut ports = spec(GOOD[0]);
    ports.dest_port = 0;
    table.one("port 0, while entries are free", ports.build(), Reason::Other);
}

fn shapes(table: &mut Table) {
    for (vlans, reason) in [
        (&[0x8100][..], Reason::Sa1),
        (&[0x88a8][..], Reason::Sa1),
        (&[0x88a8, 0x8100][..], Reason::Sa1),
        (&[0x8100, 0x8100][..], Reason::Sa1),
        (&[0x8100, 0x8100, 0x8100][..], Reason::Other),
    ] {
        for source in GOOD {
            let mut tagged = spec(source);
            tagged.vlans = vlans.to_vec();
            table.one(format!("VLAN {vlans:x?}: {source}"), tagged.build(), reason);
        }
    }
    for words in 0..=10 {
        let mut options = spec(GOOD[0]);
        options.option_words = words;
        table.one(format!("{words} words of options"), options.build(), Reason::Sa1);
        let mut stranger = options.clone();
        stranger.source = STRANGERS[0].parse().expect("an address");
        table.one(format!("{words} words of options, stranger"), stranger.build(), Reason::NotAdmitted);
    }
    for source in GOOD {
        let mut padded = spec(source);
        padded.padding = 9;
        table.one(format!("padding is not payload: {source}"), padded.build(), Reason::Sa1);
        let mut short = FrameSpec::new(source, SRTLA_PORT, std::vec![0x92, 0]);
        short.padding = 256;
        table.one(format!("padding makes no registration: {source}"), short.build(), Reason::Unregistered);
    }
    let v4 = |at: usize, bytes: &[u8]| {
        let mut frame = spec(GOOD[0]).build();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    for (name, frame) in [
        ("version 6 in IPv4", v4(14, &[0x65])),
        ("a header of 4 words", v4(14, &[0x44])),
        ("a header of 0 words", v4(14, &[0x40])),
        ("a header longer than the packet", v4(14, &[0x4f])),
        ("a total length of 0", v4(16, &[0, 0])),
        ("a total length of its header", v4(16, &[0, 28])),
        ("a total length one too short", v4(16, &[0x01, 0x1d])),
        ("a total length one too long", v4(16, &[0x01, 0x1f])),
        ("a UDP length of 0", v4(38, &[0, 0])),
        ("a UDP length of 7", v4(38, &[0, 7])),
        ("a UDP length one too long", v4(38, &[0x01, 0x0b])),
        ("a UDP length of 65535", v4(38, &[0xff, 0xff])),
    ] {
        table.one(format!("IPv4, {name}"), frame, Reason::Malformed);
    }
    table.one("IPv4, a UDP length one too short", v4(38, &[0x01, 0x09]), Reason::Unregistered);
    table.one("IPv4, don't fragment", v4(20, &[0x40, 0]), Reason::Sa1);
    table.one("IPv4, the reserved bit", v4(20, &[0x80, 0]), Reason::Sa1);
    let v6 = |at: usize, bytes: &[u8]| {
        let mut frame = spec(GOOD[1]).build();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    for (name, frame) in [
        ("version 4 in IPv6", v6(14, &[0x40])),
        ("a payload length of 0", v6(18, &[0, 0])),
        ("a payload length one too short", v6(18, &[0x01, 0x09])),
        ("a payload length one too long", v6(18, &[0x01, 0x0b])),
        ("a UDP length of 0", v6(58, &[0, 0])),
        ("a UDP length one too long", v6(58, &[0x01, 0x0b])),
    ] {
        table.one(format!("IPv6, {name}"), frame, Reason::Malformed);
    }
    table.one("IPv6, a UDP length one too short", v6(58, &[0x01, 0x09]), Reason::Unregistered);
    table.one("IPv6, traffic class and flow label", v6(14, &[0x6f, 0xff, 0xff, 0xff]), Reason::Sa1);
    for source in ["::ffff:198.51.100.10", "::ffff:198.51.100.20", "::ffff:203.0.113.20"] {
        for (port, reason) in
            [(SRTLA_PORT, Reason::BadSource), (SRT_PORT, Reason::BadSource), (OTHER_PORT, Reason::Other)]
        {
            let mut mapped = spec(LINKS[1]);
            mapped.source = source.parse().expect("an address");
            mapped.dest_port = port;
            table.one(format!("IPv6 from {source} to {port}"), mapped.build(), reason);
        }
    }
}

fn fragments(table: &mut Table) {
    for source in LINKS.into_iter().chain(GOOD).chain(STRANGERS) {
        for (fragment, reason) in [
            ((0, true), Reason::Fragment),
            ((1, true), Reason::Other),
            ((1, false), Reason::Other),
            ((0x1fff, false), Reason::Other),
        ] {
            for port in [SRTLA_PORT, SRT_PORT] {
                let mut spec = spec(source);
                spec.fragment = Some(fragment);
                spec.dest_port = port;
                table.one(format!("fragment {fragment:?} to {port}: {source}"), spec.build(), reason);
            }
        }
        let mut short = FrameSpec::new(source, SRTLA_PORT, Vec::new());
        short.fragment = Some((0, true));
        table.one(format!("a first fragment of nothing: {source}"), short.build(), Reason::Fragment);
        let frame = short.build();
        let cut = frame[..frame.len() - 1].to_vec();
        table.one(format!("a first fragment without its UDP header: {source}"), cut, Reason::Malformed);
    }
    let mut atomic = spec(GOOD[1]);
    atomic.fragment = Some((0, false));
    table.one("a fragment header on a whole datagram", atomic.build(), Reason::Fragment);
}

fn extension_headers(table: &mut Table) {
    for kind in [0, 43, 51, 60, 135, 139, 140] {
        for len in [0, 1, 31] {
            let mut one = spec(GOOD[1]);
            one.extensions = std::vec![Extension { kind, len }];
            table.one(format!("extension header {kind} of length {len}"), one.build(), Reason::Sa1);
        }
    }
    for kind in [50, 59, 58, 6, 255] {
        let mut other = spec(GOOD[1]).build();
        other[20] = kind;
        table.one(format!("next header {kind}"), other, Reason::Other);
    }
    for count in 1..=9 {
        let mut many = spec(GOOD[1]);
        many.extensions = std::vec![Extension { kind: 60, len: 0 }; count];
        let reason = if count <= 6 { Reason::Sa1 } else { Reason::ExtensionHeaders };
        table.one(format!("{count} extension headers"), many.build(), reason);
        many.source = STRANGERS[1].parse().expect("an address");
        let reason = if count <= 6 { Reason::NotAdmitted } else { Reason::ExtensionHeaders };
        table.one(format!("{count} extension headers, stranger"), many.build(), reason);
        if count <= 7 {
            let mut end = many.build();
            end[54 + 8 * (count - 1)] = 59;
            let reason = if count <= 6 { Reason::Other } else { Reason::ExtensionHeaders };
            table.one(format!("{count} extension headers and nothing"), end, reason);
        }
    }
    let mut mixed = spec(LINKS[1]);
    mixed.extensions = std::vec![
        Extension { kind: 0, len: 0 },
        Extension { kind: 60, len: 2 },
        Extension { kind: 43, len: 0 },
        Extension { kind: 51, len: 1 },
    ];
    table.one("mixed extension headers of a link", mixed.build(), Reason::Link);
    let mut long = spec(GOOD[1]).build();
    long[20] = 60;
    long[54] = 17;
    long[55] = 255;
    table.one("an extension header longer than the frame", long, Reason::Malformed);
    let mut later = spec(GOOD[1]);
    later.extensions = std::vec![Extension { kind: 44, len: 0 }; 2];
    table.one("two fragment headers", later.build(), Reason::Fragment);
    let mut later = later.build();
    later[65] = 8;
    table.one("two fragment headers, the second of a later fragment", later, Reason::Other);
}

/// Nothing that ends too early is taken for something else, wherever it ends.
fn truncated(table: &mut Table) {
    for source in GOOD {
        for vlans in [&[][..], &[0x88a8, 0x8100]] {
            let mut whole = spec(source);
            whole.vlans = vlans.to_vec();
            let frame = whole.build();
            let name = format!("cut anywhere, {} tags: {source}", vlans.len());
            let cut = (0..frame.len()).map(|len| (frame[..len].to_vec(), Reason::Malformed));
            table.add(name, World::standard(), cut);
        }
    }
    let mut chain = spec(GOOD[1]);
    chain.extensions = std::vec![Extension { kind: 60, len: 1 }, Extension { kind: 43, len: 0 }];
    let frame = chain.build();
    let cut = (54..frame.len()).map(|len| (frame[..len].to_vec(), Reason::Malformed));
    table.add("cut anywhere, with extension headers", World::standard(), cut);
}

fn links(table: &mut Table) {
    for source in LINKS.into_iter().chain(["203.0.113.10"]) {
        for (name, payload) in [
            ("data", data()),
            ("keepalive", std::vec![0x90, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
            ("nothing", std::vec![]),
            ("one byte", std::vec![0x92]),
            ("REG1", stock(0)),
            ("REG_ERR", std::vec![0x92, 0x10]),
            ("M1 with a wrong tag", sa1(0, &GateKey::new(EPOCHS[1], &[9; 16]))),
        ] {
            let frame = FrameSpec::new(source, SRTLA_PORT, payload).build();
            table.one(format!("{name} from a link: {source}"), frame, Reason::Link);
        }
        let mut port = FrameSpec::new(source, SRTLA_PORT, data());
        port.source_port += 1;
        table.one(
            format!("from another port of a link's address: {source}"),
            port.build(),
            Reason::Unregistered,
        );
        let banned = World::standard_with(|world| {
            world.list_prefix(List::Bans, "0.0.0.0/0", FOR_EVER);
            world.list_prefix(List::Bans, "2001:db8::/32", FOR_EVER);
        });
        let frame = FrameSpec::new(source, SRTLA_PORT, data()).build();
        table.add(format!("a link is not looked up again: {source}"), banned, [(frame, Reason::Link)]);
    }
}

fn unregistered(table: &mut Table) {
    for source in GOOD.into_iter().chain(STRANGERS) {
        for (name, payload) in [
            ("data", data()),
            ("keepalive", std::vec![0x90, 0]),
            ("nothing", std::vec![]),
            ("one byte", std::vec![0x92]),
            ("REG3", {
                let mut packet = stock(0);
                packet[1] = 2;
                packet
            }),
            ("a packet of 258 bytes", std::vec![0x11; 258]),
            ("REG1 of 257 bytes", stock(0)[..257].to_vec()),
            ("REG1 of 259 bytes", [&stock(0)[..], &[0]].concat()),
            ("M1 of 257 bytes", current()[..257].to_vec()),
        ] {
            let mut spec = FrameSpec::new(source, SRTLA_PORT, payload);
            table.one(format!("{name} from a stranger: {source}"), spec.build(), Reason::Unregistered);
            spec.source_port = NO_LINKS_PORT;
            table.one(
                format!("{name} from a port that no link has: {source}"),
                spec.build(),
                Reason::Unregistered,
            );
        }
    }
}

/// The port of a frame's source matters only to what is not registered and no registration.
fn link_ports(table: &mut Table) {
    let send = |source: &str, port, payload: Vec<u8>, change: fn(&mut FrameSpec)| {
        let mut spec = FrameSpec { source_port: port, ..FrameSpec::new(source, SRTLA_PORT, payload) };
        change(&mut spec);
        spec.build()
    };
    for source in GOOD {
        for port in [NO_LINKS_PORT, 0, 63, 64, u16::MAX] {
            let frame = send(source, port, current(), |_| ());
            table.one(format!("M1 from port {port}: {source}"), frame, Reason::Sa1);
        }
    }
    for source in LINKS {
        for port in [0, 63, 64, 127, u16::MAX] {
            let mut world = World::standard();
            world.register(source, port, 0);
            let beside = send(source, port ^ 1, data(), |_| ());
            let frames = [(send(source, port, data(), |_| ()), Reason::Link), (beside, Reason::Unregistered)];
            table.add(format!("a link with port {port}: {source}"), world, frames);
        }
        let to_srt = send(source, NO_LINKS_PORT, data(), |spec| spec.dest_port = SRT_PORT);
        table.one(format!("plain SRT from a port that no link has: {source}"), to_srt, Reason::Srt);
        let fragment = send(source, NO_LINKS_PORT, data(), |spec| spec.fragment = Some((0, true)));
        table.one(format!("a fragment from a port that no link has: {source}"), fragment, Reason::Fragment);
    }
}

fn admission(table: &mut Table) {
    for (name, payload, welcome) in
        [("M1", current(), Reason::Sa1), ("REG1", stock(0), Reason::Stock), ("REG2", stock(1), Reason::Stock)]
    {
        let banned =
            ["198.51.100.66", "198.51.100.96", "198.51.100.111", "2001:db8:1:66::9", "2001:db8:1:77::7"];
        table.from(&format!("{name}, banned"), keep, &payload, Reason::Banned, &banned);
        let expired: fn(&mut World) = |world| {
            world.config.flags &= !(STOCK_LISTED | CHECK_GEO);
        };
        let served = ["198.51.100.67", "198.51.100.112", "198.51.100.127", "2001:db8:1:77::8"];
        table.from(&format!("{name}, ban over"), expired, &payload, welcome, &served);
        let soon: fn(&mut World) = |world| {
            world.bans.values_mut().for_each(|until| *until = world.now_ns.max(2) << 20);
            world.bans.insert(crate::abi::ban_key(&super::address("198.51.100.20")), u64::MAX / 2);
        };
        table.from(&format!("{name}, banned for a while"), soon, &payload, Reason::Banned, &GOOD[..1]);
        let unchecked: fn(&mut World) = |world| world.config.flags &= !crate::abi::CHECK_BANS;
        table.from(&format!("{name}, banned address"), unchecked, &payload, Reason::Banned, &banned[..1]);
        table.from(&format!("{name}, stranger"), keep, &payload, Reason::NotAdmitted, &STRANGERS);
        let edge =
            ["198.51.101.0", "198.51.99.255", "192.0.3.0", "2001:db8:3::", "2001:db8:0:ffff::1", "::1"];
        table.from(&format!("{name}, beside the list"), keep, &payload, Reason::NotAdmitted, &edge);
        let open: fn(&mut World) = |world| world.config.flags &= !(CHECK_ALLOW | STOCK_LISTED);
        table.from(&format!("{name}, no allowlist"), open, &payload, welcome, &STRANGERS);
        let abroad = ["198.51.100.128", "198.51.100.191", "2001:db8:1:8000::1"];
        table.from(&format!("{name}, refused country"), keep, &payload, Reason::Geo, &abroad);
        let unknown: fn(&mut World) = |world| {
            world.config.flags = (world.config.flags | GEO_UNKNOWN_REFUSED) & !STOCK_LISTED;
        };
        let nowhere = ["198.51.100.192", "192.0.2.1", "2001:db8:2::1"];
        table.from(&format!("{name}, unknown country refused"), unknown, &payload, Reason::Geo, &nowhere);
        table.from(&format!("{name}, known country"), unknown, &payload, welcome, &["198.51.100.129"]);
        table.from(
            &format!("{name}, unknown country"),
            keep,
            &payload,
            welcome,
            &["198.51.100.193", nowhere[2]],
        );
        // An IPv6 default route is not one of IPv4, with the entry that says so.
        let all: fn(&mut World) = |world| {
            world.config.flags &= !(STOCK_LISTED | CHECK_GEO);
            world.list_prefix(List::Allow, "::/0", crate::abi::allow_value(0));
            world.list_prefix(List::Allow, "::ffff:0:0/96", 0);
        };
        table.from(&format!("{name}, all of IPv6"), all, &payload, welcome, &[STRANGERS[1], GOOD[0]]);
        table.from(
            &format!("{name}, all of IPv6 alone"),
            all,
            &payload,
            Reason::NotAdmitted,
            &STRANGERS[..1],
        );
        let every: fn(&mut World) = |world| {
            world.config.flags &= !(STOCK_LISTED | CHECK_GEO);
            world.list_prefix(List::Allow, "0.0.0.0/0", crate::abi::allow_value(0));
        };
        table.from(&format!("{name}, all of IPv4"), every, &payload, welcome, &STRANGERS[..1]);
        table.from(
            &format!("{name}, all of IPv4 alone"),
            every,
            &payload,
            Reason::NotAdmitted,
            &STRANGERS[1..],
        );
    }
}

fn plain_srt(table: &mut Table) {
    let mut send = |name: &str, source: &str, reason| {
        let frame = FrameSpec::new(source, SRT_PORT, data()).build();
        table.one(format!("plain SRT, {name}: {source}"), frame, reason);
    };
    for source in GOOD.into_iter().chain(LINKS) {
        send("admitted", source, Reason::Srt);
    }
    for source in STRANGERS.into_iter().chain(["203.0.113.10"]) {
        send("stranger", source, Reason::NotAdmitted);
    }
    for source in ["198.51.100.66", "198.51.100.97", "2001:db8:1:66::66"] {
        send("banned", source, Reason::Banned);
    }
    for source in ["198.51.100.130", "2001:db8:1:8000::1"] {
        send("refused country", source, Reason::Geo);
    }
}

fn devices(table: &mut Table) {
    for (index, epoch) in EPOCHS.into_iter().enumerate() {
        for kind in [0, 1] {
            let name = format!("M{}, gate key {index}", 1 + 2 * kind);
            table.from(&name, keep, &sa1(kind, &gate_key(epoch)), Reason::Sa1, &GOOD);
        }
    }
    for epoch in [0, 5, 9, u32::MAX] {
        let packet = sa1(0, &gate_key(epoch));
        table.from(&format!("M1 of epoch {epoch}"), keep, &packet, Reason::Sa1GateEpoch, &GOOD);
    }
    let one: fn(&mut World) = |world| {
        world.config.gate_keys = [gate_key(EPOCHS[1]), GateKey::default(), GateKey::default()];
    };
    table.from("M1 of epoch 0, one key", one, &sa1(0, &GateKey::default()), Reason::Sa1GateEpoch, &GOOD);
    table.from("M1, one key", one, &current(), Reason::Sa1, &GOOD);
    let mut wrong = sa1(0, &gate_key(EPOCHS[0]));
    wrong[54..58].copy_from_slice(&EPOCHS[1].to_be_bytes());
    table.from("the tag of another epoch", keep, &wrong, Reason::Sa1GateTag, &GOOD);
    for at in [2 + 8, 2 + 63, 2 + 64, 2 + 71] {
        let mut flipped = current();
        flipped[at] ^= 1;
        table.from(&format!("byte {at} flipped"), keep, &flipped, Reason::Sa1GateTag, &GOOD);
    }
    let mut behind = current();
    behind[2 + 72] ^= 1;
    table.from("the byte behind the tag flipped", keep, &behind, Reason::Sa1, &GOOD);
    for (kind, message) in [(0, 0), (0, 2), (0, 3), (1, 1), (1, 2), (1, 255)] {
        let packet = sa1_with(kind, &gate_key(EPOCHS[1]), |packet| packet[8] = message);
        table.from(
            &format!("message {message} in REG{}", 1 + kind),
            keep,
            &packet,
            Reason::Sa1Message,
            &GOOD,
        );
    }
    for (version, suite) in [(2, 1), (1, 2), (0, 0)] {
        for kind in [0, 1] {
            let packet = sa1_with(kind, &gate_key(EPOCHS[1]), |packet| {
                packet[6..9].copy_from_slice(&[version, suite, 77]);
            });
            let name = format!("version {version}, suite {suite}, in REG{}", 1 + kind);
            table.from(&name, keep, &packet, Reason::Sa1, &GOOD);
        }
    }
    let without: fn(&mut World) = |world| world.config.flags &= !CHECK_GATE_TAG;
    table.from("wrong tag, no gate keys", without, &wrong, Reason::Sa1, &GOOD);
    let mut magic = current();
    magic[2] = b's';
    table.from("almost the magic", keep, &magic, Reason::Stock, &GOOD);
}

fn stock_senders(table: &mut Table) {
    let never: fn(&mut World) = |world| world.config.flags |= STOCK_NEVER;
    let anywhere: fn(&mut World) = |world| world.config.flags &= !STOCK_LISTED;
    for kind in [0, 1] {
        let packet = stock(kind);
        let name = format!("REG{}", kind + 1);
        table.from(&name, keep, &packet, Reason::Stock, &GOOD);
        let unlisted = ["198.51.100.32", "198.51.100.64", "2001:db8:1:2::1"];
        table.from(&format!("{name}, not listed"), keep, &packet, Reason::StockNotAdmitted, &unlisted);
        table.from(&format!("{name}, keys required"), never, &packet, Reason::StockNotAdmitted, &GOOD);
        table.from(&format!("{name}, from anywhere"), anywhere, &packet, Reason::Stock, &unlisted);
    }
}

/// Each budget gives three and no more, to whom it belongs and to nobody else.
fn budgets(table: &mut Table) {
    let send = |source: &str, payload: &[u8], reason| {
        (FrameSpec::new(source, SRTLA_PORT, payload.to_vec()).build(), reason)
    };
    let limited = |budgets: &[Budget]| {
        World::standard_with(|world| {
            world.config.flags &= !STOCK_LISTED;
            for budget in budgets {
                world.limit(*budget, DRY);
            }
        })
    };
    for source in LINKS {
        let other = if source == LINKS[0] { LINKS[1] } else { LINKS[0] };
        let mut frames: Vec<_> = (0..3).map(|_| send(source, &stock(1), Reason::Link)).collect();
        frames.extend((0..3).map(|_| send(source, &current(), Reason::LinkBudget)));
        frames.push(send(source, &data(), Reason::Link));
        frames.push(send(source, &[0x90, 0], Reason::Link));
        frames.push(send(source, &[0x92], Reason::Link));
        frames.push(send(source, &[0x92, 0x10], Reason::LinkBudget));
        frames.push(send(other, &stock(1), Reason::Link));
        table.add(format!("a link's budget: {source}"), limited(&[Budget::Link]), frames);
    }
    for (one, same, other) in [
        ("198.51.100.20", "198.51.100.21", "192.0.2.20"),
        ("2001:db8:1:ff::1", "2001:db8:1:1::2", "2001:db8:1:100::1"),
    ] {
        let mut frames: Vec<_> = (0..3).map(|_| send(one, &current(), Reason::Sa1)).collect();
        frames.push(send(one, &current(), Reason::Sa1SourceBudget));
        frames.push(send(same, &sa1(1, &gate_key(EPOCHS[0])), Reason::Sa1SourceBudget));
        frames.push(send(other, &current(), Reason::Sa1));
        frames.push(send(same, &stock(0), Reason::Stock));
        frames.push(send(same, &sa1(0, &gate_key(1)), Reason::Sa1GateEpoch));
        table.add(format!("a source's budget: {one}"), limited(&[Budget::Sa1Source]), frames);
    }
    for (one, same, other) in [
        ("198.51.100.20", "198.51.100.20", "198.51.100.21"),
        ("2001:db8:1:1::1", "2001:db8:1:1:ffff::2", "2001:db8:1:2::1"),
    ] {
        let mut frames: Vec<_> = (0..3).map(|_| send(one, &stock(0), Reason::Stock)).collect();
        frames.push(send(one, &stock(1), Reason::StockBudget));
        frames.push(send(same, &stock(0), Reason::StockBudget));
        frames.push(send(other, &stock(0), Reason::Stock));
        frames.push(send(same, &current(), Reason::Sa1));
        table.add(format!("a source's budget without a key: {one}"), limited(&[Budget::StockSource]), frames);
    }
    // Everybody's budget; what one source has too much does not come out of it.
    let all = [Budget::StockSource, Budget::StockTotal];
    let mut world = limited(&all);
    world.limit(Budget::StockSource, crate::bucket::Rate { tolerance_ns: 0, ..DRY });
    let frames = [
        send("198.51.100.1", &stock(0), Reason::Stock),
        send("198.51.100.1", &stock(0), Reason::StockBudget),
        send("198.51.100.1", &stock(0), Reason::StockBudget),
        send("198.51.100.1", &stock(0), Reason::StockBudget),
        send("198.51.100.2", &stock(0), Reason::Stock),
        send("2001:db8:1:1::3", &stock(0), Reason::Stock),
        send("198.51.100.4", &stock(0), Reason::StockBudget),
        send("2001:db8:1:1::5", &stock(0), Reason::StockBudget),
        send("198.51.100.4", &current(), Reason::Sa1),
    ];
    table.add("everybody's budget without a key", world, frames);
    // The budget of an entry of the allowlist; a wrong tag does not draw on it.
    let mut frames: Vec<_> =
        (0..5).map(|_| send("192.0.2.1", &sa1(0, &gate_key(1)), Reason::Sa1GateEpoch)).collect();
    frames.push(send("192.0.2.1", &current(), Reason::Sa1));
    frames.push(send("192.0.2.2", &stock(0), Reason::Stock));
    frames.push(send("192.0.2.3", &current(), Reason::Sa1));
    frames.push(send("192.0.2.4", &current(), Reason::PrefixBudget));
    frames.push(send("192.0.2.4", &stock(0), Reason::PrefixBudget));
    frames.push(send("192.0.2.200", &current(), Reason::Sa1));
    frames.push(send("2001:db8:2::1", &current(), Reason::Sa1));
    frames.extend((0..5).map(|_| send("198.51.100.20", &current(), Reason::Sa1)));
    table.add("the budget of a listed network", limited(&[Budget::Prefix]), frames);
}
