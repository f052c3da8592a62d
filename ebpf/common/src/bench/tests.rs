use super::*;

fn offer() -> Offer {
    Offer {
        origin_ns: 1000,
        start_ns: 5000,
        interval: Offer::interval_of(1000, 1),
        interface: 7,
        magic: 0x1234_5678,
        groups: 3,
        links: 2,
        burst: 1,
        datagram_bytes: 1332,
        flood: Flood::Mixed as u32,
        flood_interval: Offer::interval_of(3000, 1),
        flood_bytes: 100,
        flood_first: 0xc612_0000,
        flood_sources: 1000,
        to: 0x0a63_0001,
        to_port: 5000,
        ethernet: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 8, 0, 0, 0],
    }
}

/// Ones' complement sum over bytes; 0xffff if a checksum among them is right.
fn sum(bytes: &[u8]) -> u32 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| (u32::from(pair[0]) << 8) | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

fn assert_checksums(frame: &[u8]) {
    assert_eq!(sum(&frame[14..34]), 0xffff, "IPv4 header");
    let udp_len = (frame.len() - 34) as u16;
    let pseudo = [&frame[26..34], &[0, 17], &udp_len.to_be_bytes(), &frame[34..]].concat();
    assert_eq!(sum(&pseudo), 0xffff, "UDP");
    assert_ne!(frame[40..42], [0, 0], "zero means that there is none");
    assert_eq!(frame[38..40], udp_len.to_be_bytes());
    assert_eq!(frame[16..18], (udp_len + 20).to_be_bytes());
}

#[test]
fn frames_have_right_checksums_and_say_who_they_are() {
    let offer = offer();
    for number in 0..5000 {
        let place = Place::of(number, 1, 3, 2);
        let stamp = Stamp { group: place.group, number, intended_ns: number * 77 };
        let sender = Sender { address: 0x0a40_0001 + place.group, port: 20_000 + number as u32 };
        let frame = offer.load_front(sender, &stamp, place.sequence).frame(&offer);
        assert_checksums(&frame);
        let head = frame[42..82].try_into().unwrap();
        let check = frame[frame.len() - 8..].try_into().unwrap();
        assert_eq!(Stamp::read(head, check, offer.magic), Some(stamp));
        assert_eq!(Stamp::read(head, check, offer.magic + 1), None);
        assert_eq!(frame[26..30], sender.address.to_be_bytes());
        assert_eq!(frame[34..36], (20_000 + number as u16).to_be_bytes());
    }
}

#[test]
fn a_flood_comes_from_its_own_addresses() {
    let offer = offer();
    let mut seen = std::collections::BTreeSet::new();
    let mut kinds = [0; 3];
    for number in 0..30_000 {
        let frame = offer.flood_front(number).frame(&offer);
        assert_checksums(&frame);
        let from = u32::from_be_bytes(frame[26..30].try_into().unwrap());
        assert!((0xc612_0000..0xc612_0000 + 1000).contains(&from), "{from:08x}");
        seen.insert(from);
        let kind = match (frame[42], frame[43], frame.len() - 42) {
            (0x92, 0, 258) => 1,
            (0x92, 1, 258) => 2,
            (first, _, 100) if first < 0x80 => 0,
            other => panic!("{other:?}"),
        };
        kinds[kind] += 1;
    }
    assert_eq!(kinds, [10_000; 3]);
    assert!(seen.len() > 990, "{} of 1000 addresses", seen.len());
}

#[test]
fn one_datagram_per_due_time_and_none_before() {
    let offer = Offer { flood: 0, ..offer() };
    let mut progress = Progress::default();
    assert_eq!(progress.take(&offer, 4999), Next::Nothing);
    for number in 0..1000 {
        let due_ns = 5000 + number * 1_000_000;
        if number > 0 {
            assert_eq!(progress.take(&offer, due_ns - 1), Next::Nothing);
        }
        let intended_ns = due_ns - 1000;
        assert_eq!(progress.take(&offer, due_ns + 300), Next::Load { number, intended_ns });
        assert_eq!(progress.take(&offer, due_ns + 300), Next::Nothing);
    }
    assert_eq!((progress.next, progress.late_ns_max, progress.behind), (1000, 300, 0));
    // After a stall everything is made up for, each with its own time.
    let now = 5000 + 1_004_500_000;
    for number in 1000..=1004 {
        let intended_ns = 4000 + number * 1_000_000;
        assert_eq!(progress.take(&offer, now), Next::Load { number, intended_ns });
    }
    assert_eq!(progress.take(&offer, now), Next::Nothing);
    assert_eq!((progress.late_ns_max, progress.behind), (4_500_000, 4));
}

#[test]
fn rates_hold_to_the_fraction() {
    let offer = Offer { flood: 0, interval: Offer::interval_of(700_001, 1), ..offer() };
    let mut progress = Progress::default();
    while progress.take(&offer, 5000 + 1_000_000_000) != Next::Nothing {}
    assert!(progress.next.abs_diff(700_001) <= 1, "{}", progress.next);
    assert_eq!(Offer::interval_of(0, 1), 0);
    assert_eq!(Offer::interval_of(1000, 4), 4 * Offer::interval_of(1000, 1));
}

#[test]
fn load_comes_before_flood() {
    let offer = Offer { flood_interval: 0, ..offer() };
    let mut progress = Progress::default();
    assert!(matches!(progress.take(&offer, 5000), Next::Load { number: 0, .. }));
    assert_eq!(progress.take(&offer, 5001), Next::Flood(0));
    assert_eq!(progress.take(&offer, 5002), Next::Flood(1));
    assert!(matches!(progress.take(&offer, 1_005_000), Next::Load { number: 1, .. }));
    assert_eq!((progress.next, progress.flood_sent), (2, 2));
}

#[test]
fn buckets_keep_latencies_to_a_percent() {
    let mut last = 0;
    let samples = (0..1000).chain((0..63).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit, 3 << bit]));
    let mut samples: std::vec::Vec<u64> = samples.chain([u64::MAX]).collect();
    samples.sort_unstable();
    for ns in samples {
        let bucket = bucket_of(ns);
        assert!(bucket >= last && bucket < LATENCY_BUCKETS, "{ns}: {bucket} after {last}");
        last = bucket;
        let least = bucket_ns(bucket);
        assert!(least <= ns && ns - least <= ns / 128, "{ns}: {least}");
        assert_eq!(bucket_of(least), bucket);
    }
}

#[test]
fn the_map_holds_the_structure() {
    let bytes = offer().to_bytes();
    assert_eq!(bytes[..8], 1000_u64.to_le_bytes());
    assert_eq!(bytes[core::mem::offset_of!(Offer, magic)..][..4], 0x1234_5678_u32.to_le_bytes());
    assert_eq!(bytes[core::mem::offset_of!(Offer, flood_sources)..][..4], 1000_u32.to_le_bytes());
    assert_eq!(bytes[core::mem::offset_of!(Offer, ethernet)..][..2], [1, 2]);
    assert_eq!(offer().longest(), 1332);
    assert_eq!(Offer { datagram_bytes: 100, ..offer() }.longest(), 258);
    assert_eq!(Offer { flood: 0, datagram_bytes: 100, ..offer() }.longest(), 100);
}
