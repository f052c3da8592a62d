use super::*;

fn load(groups: u32, links: u32, burst: u32) -> Load {
    Load {
        groups,
        links,
        active_groups: groups,
        rate_pps: 1000,
        burst,
        datagram_bytes: 200,
        loss: 0.0,
        duplicates: 0.0,
        keepalive: None,
        registrations_per_s: None,
        magic: 1,
    }
}

/// Every group gets the same share over all its links, in bursts, with sequence numbers of its own that have no gap.
#[test]
fn numbers_say_where_and_when() {
    let load = load(3, 2, 4);
    let mut sequences = [0; 3];
    let mut per_link = [[0; 2]; 3];
    let mut last = None;
    for number in 0..240 {
        let place = load.place(number);
        assert_eq!(place.sequence, sequences[place.group as usize]);
        sequences[place.group as usize] += 1;
        per_link[place.group as usize][place.link as usize] += 1;
        if number % 4 != 0 {
            assert_eq!(last, Some((place.group, place.link)), "a burst stays on its link");
            assert_eq!(load.due_ns(number), load.due_ns(number - 1), "and is due at once");
        }
        last = Some((place.group, place.link));
    }
    assert_eq!(per_link, [[40; 2]; 3]);
    assert_eq!(load.due_ns(240), 240_000_000);
}

/// The generator offers by the clock, no matter how often it is asked, and tells how late it was.
#[test]
fn the_clock_decides_what_is_due() {
    let origin = Instant::now();
    let mut swarm = Swarm::new(load(1, 1, 1), SwarmAuth::Stock, origin);
    swarm.start(origin + Duration::from_millis(10));
    let mut offered = |at_ms: u64| {
        swarm.send_due(origin + Duration::from_millis(at_ms), |_, _| {});
        swarm.next_number()
    };
    assert_eq!(offered(10), 1);
    assert_eq!(offered(10), 1);
    assert_eq!(offered(30), 21);
    assert_eq!(offered(1000), 21 + u64::from(OFFER_MAX), "a stall is made up for in portions");
    assert!(swarm.counters.late_ns_max > 900_000_000);
}

#[test]
fn losses_on_purpose_are_known_one_by_one() {
    let origin = Instant::now();
    let lossy = Load { loss: 0.25, rate_pps: 0, ..load(1, 1, 1) };
    let mut swarm = Swarm::new(lossy, SwarmAuth::Stock, origin);
    swarm.start(origin);
    while swarm.next_number() < 4000 {
        swarm.send_due(origin, |_, _| {});
    }
    let all = swarm.lost_between(0, swarm.next_number());
    assert!(all == swarm.counters.lost && (800..1200).contains(&all), "{all}");
    assert_eq!(swarm.lost_between(0, 1000) + swarm.lost_between(1000, swarm.next_number()), all);
}
