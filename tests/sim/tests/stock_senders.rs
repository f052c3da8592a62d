//! Stock senders against our receiver: how fast they come up when registration packets are lost, and how they live with
//! links that come and go. The senders are emulators; receiver and SRT engines are the real cores.

use std::time::Duration;

use bondgate_proto::sender::Scheduler;
use bondgate_sim::link::LinkConfig;
use bondgate_sim::wire::Kind;
use bondgate_sim::world::{Direction, Fault, Lose, Output, SenderKind, Setup, World};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const OURS: SenderKind = SenderKind::Bondgate(Scheduler::Adaptive);

/// Three links of 20, 30 and 45 ms one way; 300 ms of latency, so that start-up is not hidden behind it.
fn setup(sender: SenderKind, links: usize) -> Setup {
    let delays = [ms(20), ms(30), ms(45)];
    Setup {
        sender,
        links: delays[..links].iter().map(|&delay| LinkConfig::wire(delay).into()).collect(),
        latency: ms(300),
        bitrate_bps: 2_000_000,
        ..Setup::default()
    }
}

/// Delays the sender takes by its own design before its first data can flow.
fn own_delay(sender: SenderKind, lost: Option<Kind>) -> Duration {
    match (sender, lost) {
        // One tick until REG1 is repeated.
        (SenderKind::BelaboxC, Some(Kind::Reg1)) => ms(1000),
        // Probes until the first tick, joins at the second; a lost REG1 is waited for during 4 s and not repeated.
        (SenderKind::IrlRust, Some(Kind::Reg1)) => ms(6000),
        (SenderKind::IrlRust, _) => ms(2000),
        _ => Duration::ZERO,
    }
}

#[track_caller]
fn first_video_in_time(sender: SenderKind, links: usize, lost: Option<(Direction, Kind)>) {
    let mut world = World::new(setup(sender, links));
    if let Some((direction, kind)) = lost {
        world.inflict(Fault::Lose(Lose::next(direction, kind)));
    }
    let own = own_delay(sender, lost.map(|(_, kind)| kind));
    let what = format!("video from {sender:?} over {links} links with {lost:?} lost");
    world.run_until(&what, own + ms(2000), |world| world.ledger().delivered_count() > 0);
    // Not one link, all of them, and each is known to the receiver.
    // (The Rust sender with a single link carries data before REG3, so the receiver cannot know that it is missing, and
    // the sender does not care.)
    let does_not_care =
        (sender, links, lost) == (SenderKind::IrlRust, 1, Some((Direction::Down, Kind::Reg3)));
    let all_up = |world: &World| {
        (does_not_care || world.sender_links_up() == links) && world.receiver_table() == (1, links)
    };
    world.run_until(&format!("all links up, {what}"), own + ms(3000), all_up);
    world.run_for(ms(1000));
    world.finish().assert_nothing_lost();
}

#[test]
fn first_video_under_two_seconds() {
    for sender in SenderKind::BONDING {
        for links in [1, 3] {
            first_video_in_time(sender, links, None);
        }
    }
}

#[test]
fn first_video_under_two_seconds_with_a_lost_reg1() {
    // Moblin never repeats REG1, so there is nothing a receiver could repair.
    for sender in SenderKind::BONDING.into_iter().filter(|s| *s != SenderKind::Moblin) {
        for links in [1, 3] {
            first_video_in_time(sender, links, Some((Direction::Up, Kind::Reg1)));
        }
    }
}

#[test]
fn first_video_under_two_seconds_with_a_lost_reg2_answer() {
    for sender in SenderKind::BONDING {
        for links in [1, 3] {
            first_video_in_time(sender, links, Some((Direction::Down, Kind::Reg2)));
        }
    }
}

#[test]
fn first_video_under_two_seconds_with_a_lost_reg3() {
    for sender in SenderKind::BONDING.into_iter().filter(|s| *s != SenderKind::IrlRust) {
        for links in [1, 3] {
            first_video_in_time(sender, links, Some((Direction::Down, Kind::Reg3)));
        }
    }
}

/// The Rust sender carries data on its first link before it is registered. If that link's REG3 is lost, it falls silent as
/// soon as another link has its own: the receiver has heard it since its join, and must still repeat the REG3.
#[test]
fn first_video_under_two_seconds_with_a_lost_reg3_and_data_before_it() {
    for links in [1, 3] {
        first_video_in_time(SenderKind::IrlRust, links, Some((Direction::Down, Kind::Reg3)));
    }
}

/// The control experiment: a receiver that repeats nothing shows what is reported of stock receivers.
#[test]
fn without_repeats_a_lost_answer_costs_seconds() {
    for (sender, kind, at_least) in [
        // REG1 again after a tick of its own: the stock C sender is saved by its repetition.
        (SenderKind::BelaboxC, Kind::Reg2, ms(1000)),
        (SenderKind::IrlRust, Kind::Reg2, ms(6000)),
        (SenderKind::Moblin, Kind::Reg2, ms(20_000)),
        (SenderKind::Moblin, Kind::Reg3, ms(5000)),
    ] {
        let mut mute = setup(sender, 1);
        mute.receiver_config.reg2_repeat = ms(3_600_000);
        mute.receiver_config.reg3_repeats_max = 0;
        let mut world = World::new(mute);
        world.inflict(Fault::Lose(Lose::next(Direction::Down, kind)));
        world.run_for(at_least);
        assert_eq!(world.ledger().delivered_count(), 0, "{sender:?} {kind:?}");
        world.finish().assert_lawful();
    }
}

/// Joins lost on their way up: the first REG2 of each link is its probe, the second its join.
#[test]
fn a_lost_join_delays_only_its_link() {
    for sender in SenderKind::BONDING {
        let mut world = World::new(setup(sender, 3));
        world.inflict(Fault::Lose(Lose::next(Direction::Up, Kind::Reg2).on(1).after(1)));
        let own = own_delay(sender, None);
        world.run_until("video", own + ms(2000), |world| world.ledger().delivered_count() > 0);
        // Stock senders come back to a link that did not answer after 1 to 6 s.
        world.run_until("all links up", ms(8000), |w| {
            w.sender_links_up() == 3 && w.receiver_table() == (1, 3)
        });
        world.finish().assert_nothing_lost();
    }
}

#[test]
fn two_ngps_at_once_do_not_split_the_group() {
    // The Rust sender then sends REG1 on two links in the same instant with the same ID.
    let mut world = World::new(Setup {
        links: vec![LinkConfig::wire(ms(20)).into(); 3],
        ..setup(SenderKind::IrlRust, 3)
    });
    world.inflict(Fault::Lose(Lose::next(Direction::Up, Kind::Reg1)));
    world.run_until("video", ms(8000), |world| world.ledger().delivered_count() > 0);
    world.run_for(ms(3000));
    assert_eq!((world.receiver_table(), world.sender_links_up()), ((1, 3), 3));
    world.finish().assert_nothing_lost();
}

/// A restarted receiver with the same ticket key knows its links again, whatever the sender.
#[test]
fn links_are_readmitted_after_a_receiver_restart() {
    for output in [Output::Relay, Output::Forward] {
        for sender in SenderKind::BONDING {
            let mut world = World::new(Setup { output, ..setup(sender, 3) });
            world.run_until_video(ms(8000)).run_for(ms(3000));
            assert_eq!(world.receiver_table(), (1, 3), "{sender:?}");
            world.inflict(Fault::RestartReceiver);
            assert_eq!(world.receiver_table(), (0, 0));
            // Stock senders notice silence after 4 to 6 s and come back with the old ID.
            let patience = if sender == OURS { ms(2500) } else { ms(7000) };
            let all_up = |world: &World| world.receiver_table() == (1, 3) && world.sender_links_up() == 3;
            world.run_until(&format!("links of {sender:?} admitted again, {output:?}"), patience, all_up);
            // The SRT session died with its peer address; the encoder's next one carries on.
            world.run_until_video(ms(8000)).run_for(ms(1000));
            world.finish().assert_lawful();
        }
    }
}

#[test]
fn an_encoder_restart_inside_a_living_group_is_followed() {
    for output in [Output::Relay, Output::Forward] {
        for sender in SenderKind::BONDING {
            let mut world = World::new(Setup { output, ..setup(sender, 3) });
            world.run_until_video(ms(8000)).run_for(ms(2000));
            world.inflict(Fault::RestartEncoder);
            let sessions = world.sessions();
            world.run_until("the new session", ms(1500), |world| world.sessions() > sessions);
            world.run_until_video(ms(1500)).run_for(ms(2000));
            assert_eq!(world.receiver_table(), (1, 3), "{sender:?}");
            world.finish().assert_lawful();
        }
    }
}
