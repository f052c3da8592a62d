//! End-to-end tests between two hosts made of network namespaces: three links in three subnets, each with its own route.

mod nft;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use bondgate_tests::bondgate::{self, Settings};
use bondgate_tests::harness::{Need, SRT, Suite};
use bondgate_tests::ledger;
use bondgate_tests::media;
use bondgate_tests::netns::{Hosts, SERVICE};
use bondgate_tests::process::Process;
use bondgate_tests::scene::Scene;

const RATE_BPS: u64 = 3_000_000;

fn main() -> ExitCode {
    let mut suite = Suite::from_args(2);
    let needs = &[SRT, Need::Namespaces];
    suite.test("relay::three_links_by_address", needs, three_links_by_address);
    suite.test(
        "relay::cable_pulled_and_plugged_in_by_interface",
        needs,
        cable_pulled_and_plugged_in_by_interface,
    );
    suite.test("relay::cable_pulled_and_plugged_in_auto", needs, cable_pulled_and_plugged_in_auto);
    let nft = &[Need::Program("nft", "nftables"), Need::Namespaces];
    suite.test("nft::drops_whom_policy_test_says", nft, nft::drops_whom_policy_test_says);
    suite.run()
}

/// Everything a scenario of this file has in common: both programs started, the publisher's and the viewer's URIs.
struct Bonded {
    hosts: Hosts,
    run: Process,
    send: Process,
    publish: String,
    play: String,
}

fn bonded(scene: &Scene, links: &[String]) -> Result<Bonded> {
    let hosts = Hosts::new(3)?;
    let at = |port| SocketAddr::from((SERVICE, port));
    let settings = Settings {
        srtla: at(5000),
        srt: at(9710),
        admin: SocketAddr::from(([127, 0, 0, 1], 8080)),
        latency_ms: 1000,
        ..Settings::loopback()?
    };
    let run = settings.start_as(scene, "run", |command| hosts.on_receiver(&command))?;
    let listen = SocketAddr::from(([127, 0, 0, 1], 9000));
    let links: Vec<_> = links.iter().map(String::as_str).collect();
    let send = hosts.on_sender(&bondgate::send_command(listen, settings.srtla, &links)?);
    let send = Process::spawn(scene, "send", send)?;
    let publish = media::uri(listen, "streamid=cam1&latency=1000");
    let play = media::uri(settings.srt, "streamid=play/cam1&latency=300");
    Ok(Bonded { hosts, run, send, publish, play })
}

impl Bonded {
    /// Publishes `seconds` of a synthetic stream on the sender host, records it on the receiver host and compares;
    /// meanwhile `disturb` does what it wants.
    fn stream(
        &mut self,
        scene: &Scene,
        seconds: u64,
        latency: Duration,
        disturb: impl FnOnce(&Hosts) -> Result<()>,
    ) -> Result<()> {
        let packets = (RATE_BPS * seconds / 8) as usize / media::MESSAGE_LEN * 7;
        let sent = media::synthetic_ts(packets, 41);
        let on_sender = |command| self.hosts.on_sender(&command);
        let on_receiver = |command| self.hosts.on_receiver(&command);
        let hold = latency + Duration::from_secs(2);
        let feed = media::Feed::start_command(
            scene,
            || on_sender(media::feed_command(&self.publish)),
            sent.clone(),
            RATE_BPS,
            hold,
        )?;
        let viewer = media::Recorder::start_command_when_live(scene, "viewer", || {
            on_receiver(media::record_command(&self.play))
        })?;
        disturb(&self.hosts)?;
        feed.finish()?;
        let recorded = viewer.finish()?;
        ledger::complete(&sent, &recorded, sent.len() / 2)?;
        self.send.expect_running()?;
        self.run.expect_running()
    }
}

fn three_links_by_address(scene: &Scene) -> Result<()> {
    let links: Vec<_> = (0..3).map(|link| Hosts::sender_ip(link).to_string()).collect();
    bonded(scene, &links)?.stream(scene, 5, Duration::from_secs(1), |hosts| {
        std::thread::sleep(Duration::from_secs(1));
        for link in 0..3 {
            let carried = hosts.sent_bytes(link)?;
            ensure!(carried > 20_000, "link {link} carried only {carried} bytes");
        }
        Ok(())
    })
}

/// One cable is pulled in mid-stream, another one after the first is back.
fn cable_pulled_and_plugged_in_by_interface(scene: &Scene) -> Result<()> {
    cable_pulled_and_plugged_in(scene, &[0, 1, 2].map(Hosts::device))
}

/// The same without naming any interface: `--auto` follows what comes and goes.
fn cable_pulled_and_plugged_in_auto(scene: &Scene) -> Result<()> {
    cable_pulled_and_plugged_in(scene, &[])
}

fn cable_pulled_and_plugged_in(scene: &Scene, links: &[String]) -> Result<()> {
    bonded(scene, links)?.stream(scene, 10, Duration::from_secs(1), |hosts| {
        std::thread::sleep(Duration::from_secs(1));
        hosts.set_link_up(0, false)?;
        std::thread::sleep(Duration::from_secs(2));
        hosts.set_link_up(0, true)?;
        let at_return = hosts.sent_bytes(0)?;
        std::thread::sleep(Duration::from_millis(2500));
        hosts.set_link_up(2, false)?;
        std::thread::sleep(Duration::from_secs(1));
        let since_return = hosts.sent_bytes(0)? - at_return;
        ensure!(since_return > 20_000, "the returned link carried only {since_return} bytes");
        Ok(())
    })
}
