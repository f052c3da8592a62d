//! The encoder hangs up with its last payload, as ffmpeg does. SHUTDOWN takes one link and overtakes what is on its way on
//! slower ones: all of it is still played. And the group is closed under the encoder's feet: what has arrived is played.

use std::time::Duration;

use bondgate_sim::link::LinkConfig;
use bondgate_sim::world::{Fault, Output, SenderKind, Setup, World};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// Streams for a while, hangs up right after a payload, and lets everything come to rest. Returns how many payloads came
/// after SHUTDOWN.
fn hang_up(setup: Setup) -> u64 {
    let mut world = World::new(setup);
    world.run_until_video(secs(10)).run_for(secs(5));
    let accepted = world.ledger().accepted_count();
    world.run_until("one more payload", secs(5), |world| world.ledger().accepted_count() > accepted);
    world.inflict(Fault::HangUp);
    let report = world.finish();
    report.assert_nothing_lost();
    assert_eq!(report.sessions, 1);
    report.overtaken
}

fn links(delays: [Duration; 3]) -> Setup {
    let links =
        delays.map(|delay| LinkConfig { jitter: ms(15), reorder: true, ..LinkConfig::wire(delay) }.into());
    Setup { links: links.to_vec(), latency: ms(800), ..Setup::default() }
}

#[test]
fn what_shutdown_overtakes_is_played() {
    for output in [Output::Relay, Output::Forward] {
        for sender in SenderKind::BONDING {
            let overtaken: u64 = (1..=5)
                .map(|seed| hang_up(Setup { seed, sender, output, ..links([ms(10), ms(60), ms(250)]) }))
                .sum();
            assert!(overtaken > 0, "{output:?} {sender:?}: five ends, and SHUTDOWN was never early");
        }
    }
}

/// A payload each half second and a latency of 300 ms: nothing waits at the server when SHUTDOWN comes.
#[test]
fn what_shutdown_overtakes_is_played_to_an_empty_buffer() {
    let mut overtaken = 0;
    for sender in SenderKind::BONDING {
        for seed in 1..=10 {
            overtaken += hang_up(Setup {
                seed,
                sender,
                latency: ms(300),
                bitrate_bps: 1316 * 8 * 2,
                ..links([ms(10), ms(60), ms(250)])
            });
        }
    }
    assert!(overtaken > 0, "SHUTDOWN was never early");
}

#[test]
fn what_has_arrived_is_played_when_the_group_closes() {
    for sender in SenderKind::BONDING {
        let mut world = World::new(Setup { sender, ..links([ms(10), ms(60), ms(250)]) });
        world.run_until_video(secs(10)).run_for(secs(5));
        let (delivered, waiting) = (world.ledger().delivered_count(), world.ledger().arrived_undelivered());
        assert!(waiting > 100, "{waiting} payloads wait to be played");
        world.inflict(Fault::CloseGroups).run_for(secs(2));
        let played = world.ledger().delivered_count() - delivered;
        assert_eq!(played, waiting, "{sender:?}: what waited, and nothing else");
        // The encoder finds out for itself; then the stream goes on.
        let sessions = world.sessions();
        world.run_until("the next session", secs(10), |world| world.sessions() > sessions);
        world.run_until_video(secs(2));
        world.finish().assert_lawful();
    }
}
