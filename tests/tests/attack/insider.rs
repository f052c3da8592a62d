//! Who has a key, or a part of one, and means harm.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bondgate_auth::sa1::keys::DeviceKeys;
use bondgate_sim::rng::Rng;
use bondgate_tests::attack::client::{Device, data, socket, socket_at, v4, wall_ms};
use bondgate_tests::attack::wire::{Observer, Spoofer, nobody};
use bondgate_tests::attack::{
    ATTACKER, Arena, BYSTANDER, ENCODER, How, Live, cpu_seconds, host, second, srtla,
};
use bondgate_tests::bondgate::{self, Auth};
use bondgate_tests::scene::Scene;

use crate::{figure, is_long};

/// Groups a device may have unless it is told otherwise.
const GROUPS_MAX: u64 = 4;

/// with one valid key, as many groups, links and moves as will fit.
pub fn quotas(scene: &Scene) -> Result<()> {
    let arena = Arena::new()?;
    let cam = bondgate::enroll(scene, "cam", srtla().into())?;
    let insider = bondgate::enroll(scene, "insider", srtla().into())?;
    let mut run = arena.start(scene, &Arena::settings(Auth::Required)?)?;
    let how = How::Key(bondgate::key_file(scene, "cam.key", &cam)?);
    let live = Live::start(scene, &arena, (&arena.encoder, ENCODER), &how, "cam1", 14)?;
    let (groups_before, links_before) =
        (arena.metric("bondgate_groups", "")?, arena.metric("bondgate_links", "")?);

    let mut device = Device::new(&insider, 1)?;
    let mut sockets = Vec::new();
    for from in [host(ATTACKER), second(ATTACKER)] {
        for _ in 0..20 {
            sockets.push(socket(&arena.attacker, from, srtla())?);
        }
    }
    let patience = Duration::from_millis(120);
    let (mut groups, mut links, mut moves, mut refused) = (0, 0, 0, 0);
    let (mut most_groups, mut most_links) = (0.0f64, 0.0f64);
    let mut spoofer = Spoofer::new(&arena.attacker, srtla())?;
    let mut tell = |done: Result<_>, count: &mut u32| match done {
        Ok(()) => *count += 1,
        Err(_) => refused += 1,
    };
    let (start, mut n) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(8) {
        n += 1;
        let socket = &sockets[n % sockets.len()];
        match n % 3 {
            0 => {
                device.restart();
                tell(device.register(socket, 1, patience).map(|_| ()), &mut groups);
            }
            1 => tell(device.register(socket, n as u32, patience).map(|_| ()), &mut links),
            _ => tell(device.register(socket, 1, patience).map(|_| ()), &mut moves),
        }
        // And as much data as will go, for nobody's session.
        let at = v4(socket)?;
        for number in 0..200 {
            spoofer.send(at, &data(number, 9))?;
        }
        if n % 8 == 0 {
            most_groups = most_groups.max(arena.metric("bondgate_groups", "")? - groups_before);
            most_links = most_links.max(arena.metric("bondgate_links", "")? - links_before);
        }
    }
    // M1 as fast as they can be made, each from elsewhere.
    let flood = Instant::now();
    let mut hellos = 0;
    let mut rng = Rng::new(4);
    while flood.elapsed() < Duration::from_secs(1) {
        device.restart();
        spoofer.send(nobody(rng.next_u64()), device.hello(1, wall_ms()).packet())?;
        hellos += 1;
    }
    most_groups = most_groups.max(arena.metric("bondgate_groups", "")? - groups_before);
    let payloads = live.finish().context("the stream of another device")?;
    figure(
        "A-10",
        format_args!(
            "{groups} groups, {links} links, {moves} moves taken, {refused} refused, {hellos} M1 in a second; at most {most_groups} \
             groups and {most_links} links at once; {payloads} payloads of another device, 0 lost"
        ),
    );
    ensure!(groups > 0 && refused > 0, "neither taken nor refused: this did not test what it says");
    ensure!(most_groups <= GROUPS_MAX as f64, "{most_groups} groups of one device");
    ensure!(most_links <= GROUPS_MAX as f64 * 16.0, "{most_links} links of one device");
    ensure!(arena.dropped("sa1_budget_hello")? > 0, "the budget of a key was not touched");
    run.expect_running()
}

/// MACs that may be computed for one key in five seconds: 64 at once and 20 per second. The lane for joins without a good
/// cookie is not wider.
const HELLOS: u64 = 64 + 20 * 5;

/// the gate key and a key's ID are known, the key is not. No access, and the MACs that can be made to be computed are
/// bounded.
pub fn gate_key_leaked(scene: &Scene) -> Result<()> {
    let arena = Arena::new()?;
    let cam = bondgate::enroll(scene, "cam", srtla().into())?;
    let honest = bondgate::enroll(scene, "honest", srtla().into())?;
    let run = arena.start(scene, &Arena::settings(Auth::Required)?)?;
    let how = How::Key(bondgate::key_file(scene, "cam.key", &cam)?);
    let live =
        Live::start(scene, &arena, (&arena.encoder, ENCODER), &how, "cam1", if is_long() { 40 } else { 14 })?;
    let registrant = socket(&arena.bystander, host(BYSTANDER), srtla())?;
    let mut device = Device::new(&honest, 7)?;
    let genuine = device.register(&registrant, 1, Duration::from_secs(3))?;

    // 4096 packets of each kind, made before, so that the flood is as fast as it can be.
    let mut finder = Device::new(&cam, 3)?;
    finder.credentials.keys = DeviceKeys::derive(&[0x66; 32]);
    let hellos: Vec<_> = (0..4096).map(|n| *finder.hello(n, wall_ms()).packet()).collect();
    let mut rng = Rng::new(12);
    let joins: Vec<[u8; 258]> = (0..4096)
        .map(|_| {
            // The gate tag of a recorded join is good; its cookie and MAC are not.
            let mut join = *genuine.join.packet();
            let at = 162 + rng.below(16) as usize;
            join[at] ^= 1 << rng.below(8);
            join[226 + rng.below(32) as usize] ^= 1;
            join
        })
        .collect();
    let at_attacker = Observer::arriving(&arena.attacker, |_| true)?;
    let mut spoofer = Spoofer::new(&arena.attacker, srtla())?;
    let mut wave = |packets: &[[u8; 258]], seconds: u64| -> Result<(f64, f64)> {
        let (start, cpu, sent) = (Instant::now(), cpu_seconds(&run)?, spoofer.datagrams);
        while start.elapsed() < Duration::from_secs(seconds) {
            for packet in packets {
                let at = nobody(rng.next_u64());
                spoofer.send(at, packet)?;
            }
        }
        let took = start.elapsed().as_secs_f64();
        Ok(((spoofer.datagrams - sent) as f64 / took, (cpu_seconds(&run)? - cpu) / took))
    };
    let quiet = wave(&[], 2)?.1;
    let (hello_rate, hello_cpu) = wave(&hellos, 3)?;
    let macs1 = arena.dropped("sa1_mac1")?;
    let registered = device.register(&registrant, 1, Duration::from_secs(4));
    let (join_rate, join_cpu) = wave(&joins, 3)?;
    let cookies = arena.dropped("sa1_cookie_mac")?;
    let rechallenge = arena.dropped("sa1_budget_rechallenge")?;
    let out = at_attacker.settled().packets;
    let payloads = live.finish()?;
    figure(
        "A-13",
        format_args!(
            "M1 flood {hello_rate:.0}/s: {macs1} MAC1 computed in 3 s, CPU {:.0} %; M3 flood {join_rate:.0}/s: {} cookies \
             computed and {cookies} MAC3, CPU {:.0} % (quiet {:.0} %); {out} packets out, {payloads} payloads, 0 lost",
            hello_cpu * 100.0,
            cookies + rechallenge,
            join_cpu * 100.0,
            quiet * 100.0
        ),
    );
    ensure!(out == 0, "{out} answers");
    registered.context("another device during the M1 flood")?;
    ensure!(macs1 > 0 && macs1 <= HELLOS, "{macs1} MAC1 of one key in 3 s");
    ensure!(cookies <= HELLOS, "{cookies} MAC3 of one key in 3 s");
    ensure!(
        rechallenge <= 2000 + 4000 * 5,
        "{rechallenge} cookies, 4000 per second and 2000 at once are allowed"
    );
    ensure!(
        arena.dropped("sa1_budget_cookie")? > 0 || join_rate < 4000.0,
        "the lane of cookies was not touched"
    );
    ensure!(arena.metric("bondgate_groups", "")? <= 2.0, "somebody got in");
    Ok(())
}

/// a cloned device is a second group of the same key, within the quota, and neither disturbs the other.
pub fn same_key_from_two_places(scene: &Scene) -> Result<()> {
    let arena = Arena::new()?;
    let uri = bondgate::enroll(scene, "cam", srtla().into())?;
    let run = arena.start(scene, &Arena::settings(Auth::Required)?)?;
    let how = How::Key(bondgate::key_file(scene, "cam.key", &uri)?);
    let live = Live::start(scene, &arena, (&arena.encoder, ENCODER), &how, "cam1", 8)?;
    let groups = arena.metric("bondgate_groups", "")? as u64;
    let mut clones = Vec::new();
    let mut refused = 0;
    for n in 0..6u16 {
        let at = SocketAddrV4::new(host(BYSTANDER), 8000 + n);
        let socket = socket_at(&arena.bystander, at, srtla())?;
        match Device::new(&uri, 50 + u64::from(n))?.register(&socket, 1, Duration::from_millis(700)) {
            Ok(_) => clones.push(socket),
            Err(_) => refused += 1,
        }
    }
    // Metrics are published now and then.
    std::thread::sleep(Duration::from_millis(1500));
    let now = arena.metric("bondgate_groups", "")? as u64;
    let lines = run.log().lines();
    let opened = lines.iter().filter(|line| line.contains("group opened") && line.contains("cam")).count();
    let payloads = live.finish()?;
    figure(
        "A-14",
        format_args!(
            "{} clones got a group of their own, {refused} were refused; the log names the device for {opened} groups; the \
             first one's stream: {payloads} payloads, 0 lost",
            clones.len()
        ),
    );
    ensure!(groups == 1 && now == GROUPS_MAX, "{groups} groups before, {now} then");
    ensure!(clones.len() == 3 && refused == 3, "{} and {refused}", clones.len());
    ensure!(opened == 4, "the log tells of {opened} groups of the device");
    Ok(())
}
