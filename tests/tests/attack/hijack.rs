//! Somebody who saw something, or guesses it, and sends it in another's name.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bondgate_sim::rng::Rng;
use bondgate_tests::attack::client::{
    Device, KEEPALIVE, control, data, fill, random_reg1, receive, reg, socket, socket_at, stock_register, v4,
};
use bondgate_tests::attack::wire::{Observer, Spoofer};
use bondgate_tests::attack::{ATTACKER, Arena, ENCODER, How, Live, cpu_seconds, host, second, srtla};
use bondgate_tests::bondgate::{self, Auth};
use bondgate_tests::media;
use bondgate_tests::process::Process;
use bondgate_tests::scene::Scene;

use crate::figure;
use crate::reflection::overheard_id;
use crate::stock::caller;

/// Where a host's links come from, by the log.
fn links_of(run: &Process, ip: Ipv4Addr) -> Vec<SocketAddrV4> {
    let lines = run.log().lines();
    let addrs = lines.iter().filter(|line| line.contains("link joined")).filter_map(|line| {
        let addr = line.split("addr=").nth(1)?.split(' ').next()?;
        match addr.parse().ok()? {
            SocketAddr::V4(addr) => Some(addr),
            SocketAddr::V6(_) => None,
        }
    });
    addrs.filter(|addr| *addr.ip() == ip).collect()
}

fn links_of_encoder(run: &Process) -> Result<Vec<SocketAddrV4>> {
    let links = [links_of(run, host(ENCODER)), links_of(run, second(ENCODER))].concat();
    ensure!(!links.is_empty(), "the log names no link of the encoder");
    Ok(links)
}

/// W6: what somebody can do who saw the ID of a stock group on the wire: join, and be sent no more than he sends. What he
/// cannot: hurt the stream, or publish what demands a key.
pub fn observed_stock_id(scene: &Scene) -> Result<()> {
    let arena = Arena::new()?;
    let mut settings = Arena::settings(Auth::Mixed("[\"10.78.0.0/16\"]"))?;
    settings.streams = "default = \"cidr\"\nsa1 = [\"main\"]";
    let run = arena.start(scene, &settings)?;
    let on_wire = Observer::arriving(&arena.receiver, |seen| seen.to.port() == srtla().port())?;
    let live = Live::start(scene, &arena, (&arena.encoder, ENCODER), &How::Stock, "cam1", 12)?;
    let id = overheard_id(&on_wire, host(ENCODER))?;

    let thief = socket(&arena.attacker, host(ATTACKER), srtla())?;
    let to_thief = Observer::arriving(&arena.attacker, |_| true)?;
    thief.send(&reg(1, &id))?;
    receive(&thief, Duration::from_secs(1), |answer| answer.starts_with(&[0x92, 2]).then_some(())).context(
        "an ID that was seen lets its finder join; if that has changed, say so in the threat model",
    )?;
    let (mut sent_bytes, start) = (258, Instant::now());
    let mut rng = Rng::new(8);
    while start.elapsed() < Duration::from_secs(5) {
        // He guesses the socket: whatever he injects stays out, and he does not attract what is for the encoder.
        let socket_id = rng.next_u64() as u32;
        for packet in [KEEPALIVE.to_vec(), control(5, socket_id, &[]), control(2, socket_id, &[0; 28])] {
            thief.send(&packet)?;
            sent_bytes += packet.len() as u64;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let got = to_thief.settled();
    let foreign = arena.dropped("foreign_socket")?;

    // His group, were it a group of his own, may not publish a stream that demands a key.
    let send = arena.attacker.wrap(&bondgate_tests::attack::send_command(&How::Stock, ATTACKER)?);
    let _send = Process::spawn(scene, "thief", send)?;
    let uri = "srt://127.0.0.1:9000?streamid=main&latency=1000";
    let _feed = caller(scene, arena.attacker.wrap(&media::feed_command(uri)))?;
    run.log().wait_for("a refusal of main", Duration::from_secs(8), |line| {
        line.contains("code=1403") && line.contains("stream_id=\"main\"")
    })?;
    let payloads = live.finish().context("the stream of the group that was joined")?;
    figure(
        "W6",
        format_args!(
            "{} bytes to the thief for {sent_bytes} of his, {foreign} injected packets dropped, stream main refused; \
             {payloads} payloads, 0 lost",
            got.bytes
        ),
    );
    ensure!(got.bytes <= sent_bytes, "{} bytes for {sent_bytes}", got.bytes);
    ensure!(foreign > 100, "the guard has counted only {foreign}");
    Ok(())
}

/// W7 and A-08 at the sender: whatever comes in the receiver's name without a tag changes nothing, and NAK ranges of 2^31 do
/// not make it spin.
pub fn forgeries_in_the_receiver_s_name(scene: &Scene) -> Result<()> {
    const TIME: Duration = Duration::from_secs(5);
    let arena = Arena::new()?;
    let uri = bondgate::enroll(scene, "cam", srtla().into())?;
    let run = arena.start(scene, &Arena::settings(Auth::Required)?)?;
    let how = How::Key(bondgate::key_file(scene, "cam.key", &uri)?);
    let mut live = Live::start(scene, &arena, (&arena.encoder, ENCODER), &how, "cam1", 16)?;
    let links = links_of_encoder(&run)?;
    let share = |live: &mut Live| -> Result<f64> {
        let (cpu, start) = (cpu_seconds(live.sender())?, Instant::now());
        std::thread::sleep(Duration::from_secs(2));
        Ok((cpu_seconds(live.sender())? - cpu) / start.elapsed().as_secs_f64())
    };
    let quiet = share(&mut live)?;

    // On the receiver's own host: address and port are right, which is the best that anybody can forge. From the attacker's
    // they would not even reach the sender's sockets.
    let mut forgers = Vec::new();
    for link in &links {
        forgers.push(Spoofer::new(&arena.receiver, *link)?);
    }
    let (mut rng, start, cpu) = (Rng::new(6), Instant::now(), cpu_seconds(live.sender())?);
    let mut sent = 0;
    while start.elapsed() < TIME {
        for forger in &mut forgers {
            let number = rng.next_u64() as u32;
            let range = [&0x8000_0000u32.to_be_bytes()[..], &0x7FFF_FFFFu32.to_be_bytes()].concat();
            let ranges = range.repeat(180);
            let mut acks = vec![0x91, 0, 0, 0];
            (0..10).for_each(|n| acks.extend((number & 0x7FFF_FFFF).wrapping_add(n).to_be_bytes()));
            for packet in [
                vec![0x92, 0x10],
                vec![0x92, 0x11],
                vec![0x92, 0x12, 1, 7, 0, 0, 0, 9],
                [&[0x92, 2][..], &[0; 32]].concat(),
                random_reg1(&mut rng).to_vec(),
                acks,
                control(3, number, &range),
                control(3, number, &ranges),
                control(2, number, &number.to_be_bytes().repeat(7)),
                control(5, number, &[0; 4]),
                KEEPALIVE.to_vec(),
            ] {
                forger.send(srtla(), &packet)?;
                sent += 1;
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let busy = (cpu_seconds(live.sender())? - cpu) / start.elapsed().as_secs_f64();
    ensure!(!live.sender().log().has_line("downgrad"), "the sender has fallen back");
    let payloads = live.finish()?;
    figure(
        "W7/A-08 sender",
        format_args!(
            "{sent} forgeries in {TIME:?}; the sender's CPU {:.1} % of a core before, {:.1} % during; {payloads} payloads, 0 \
             lost",
            quiet * 100.0,
            busy * 100.0
        ),
    );
    ensure!(busy < quiet + 0.15, "the sender spins: {quiet:.3} {busy:.3}");
    Ok(())
}

/// A-04 over real sockets: what was recorded is of no use to anybody else, and moves nothing.
pub fn replays_over_the_wire(scene: &Scene) -> Result<()> {
    let arena = Arena::new()?;
    let uri = bondgate::enroll(scene, "cam", srtla().into())?;
    let settings = Arena::settings(Auth::Required)?;
    let mut run = arena.start(scene, &settings)?;
    let home = socket(&arena.encoder, host(ENCODER), srtla())?;
    let mut device = Device::new(&uri, 1)?;
    let registered = device.register(&home, 1, Duration::from_secs(3))?;
    let at_attacker = Observer::arriving(&arena.attacker, |_| true)?;
    let thief = socket(&arena.attacker, host(ATTACKER), srtla())?;
    let joins = |run: &Process| run.log().lines().iter().filter(|line| line.contains("link joined")).count();

    // The same address: the same answer, and nothing changes.
    let home_at = v4(&home)?;
    drop(home);
    let home = socket_at(&arena.encoder, home_at, srtla())?;
    home.send(registered.join.packet())?;
    let again =
        receive(&home, Duration::from_secs(1), |m4| Some(m4.to_vec())).context("no M4 to a repeated M3")?;
    ensure!(again == registered.m4, "a repeated join was answered otherwise");
    home.send(&registered.m1)?;
    ensure!(receive(&home, Duration::from_millis(300), |_| Some(())).is_none(), "a repeated M1 was answered");

    // Another address: M1 draws nothing, M3 a challenge of its own length at most, M4 nothing.
    let mut stolen = 0;
    for _ in 0..100 {
        for packet in [&registered.m1[..], registered.join.packet(), &registered.m4] {
            thief.send(packet)?;
            stolen += packet.len() as u64;
        }
    }
    let drawn = at_attacker.settled();
    ensure!(drawn.packets <= 100, "{} answers to 300 replays", drawn.packets);
    let odd = drawn.kept.iter().find(|seen| seen.payload.len() != 258);
    ensure!(odd.is_none(), "something else than M2: {odd:?}");
    ensure!(joins(&run) == 1, "a replay has joined");

    // After a revocation: silence.
    let key_id = bondgate_auth::keyring::hex(&device.credentials.key_id);
    bondgate::administer(scene, &["key", "revoke", &key_id])?;
    run.log()
        .wait_for("the end of the group", Duration::from_secs(2), |line| line.contains("group closed"))?;
    let before = at_attacker.settled().packets;
    for packet in [&registered.m1[..], registered.join.packet()] {
        thief.send(packet)?;
        home.send(packet)?;
    }
    ensure!(receive(&home, Duration::from_millis(300), |_| Some(())).is_none(), "a revoked key was answered");
    ensure!(at_attacker.settled().packets == before, "a revoked key was answered elsewhere");

    // After a restart, with another device: only a challenge, and no link.
    let uri = bondgate::enroll(scene, "cam2", srtla().into())?;
    std::thread::sleep(Duration::from_millis(400));
    let registered = Device::new(&uri, 2)?.register(&home, 1, Duration::from_secs(3))?;
    run.terminate(Duration::from_secs(5))?;
    run = arena.start(scene, &settings)?;
    let before = at_attacker.settled().packets;
    for packet in [&registered.m1[..], registered.join.packet(), &registered.m4] {
        thief.send(packet)?;
    }
    let after_restart = at_attacker.settled().packets - before;
    ensure!(after_restart <= 2, "{after_restart} answers to three replays after a restart");
    ensure!(joins(&run) == 0, "a replay has joined a receiver that was just started");
    figure(
        "A-04 wire",
        format_args!(
            "same address: same M4; elsewhere: {} M2 for 300 replays ({} bytes for {stolen}), no link; revoked: silence; \
             restarted: {after_restart} M2, no link",
            drawn.packets, drawn.bytes
        ),
    );
    Ok(())
}

/// a link that floods keepalives of any length is echoed 20 times a second and never more than it sent; the stream
/// beside it does not notice.
pub fn keepalive_flood_and_oversize(scene: &Scene) -> Result<()> {
    let arena = Arena::new()?;
    let uri = bondgate::enroll(scene, "cam", srtla().into())?;
    let mut settings = Arena::settings(Auth::Mixed("[\"10.78.0.0/16\"]"))?;
    settings.streams = "default = \"cidr\"";
    let run = arena.start(scene, &settings)?;
    let how = How::Key(bondgate::key_file(scene, "cam.key", &uri)?);
    let live = Live::start(scene, &arena, (&arena.encoder, ENCODER), &how, "cam1", 12)?;

    let flooder = socket(&arena.attacker, host(ATTACKER), srtla())?;
    stock_register(&flooder, &mut Rng::new(1), Duration::from_secs(1))?;
    let echoes = Observer::arriving(&arena.attacker, |_| true)?;
    let mut rng = Rng::new(2);
    let mut own = Spoofer::new(&arena.attacker, srtla())?;
    let (start, at) = (Instant::now(), v4(&flooder)?);
    let victims = links_of_encoder(&run)?;
    let mut forged = Spoofer::new(&arena.attacker, srtla())?;
    while start.elapsed() < Duration::from_secs(5) {
        for _ in 0..50 {
            let mut packet = vec![0; rng.between(2, 1472) as usize];
            fill(&mut rng, &mut packet);
            packet[..2].copy_from_slice(&[0x90, 0]);
            own.send(at, &packet)?;
            // In the name of the device's links, too: without its trailer they are nothing.
            packet.truncate(58);
            forged.send(victims[rng.below(victims.len() as u64) as usize], &packet)?;
        }
    }
    let took = start.elapsed().as_secs_f64();
    let tally = echoes.settled();
    let longest = tally.kept.iter().map(|seen| seen.payload.len()).max().unwrap_or(0);
    let payloads = live.finish()?;
    figure(
        "A-07",
        format_args!(
            "{:.0} keepalives/s on a link of its own, {:.0}/s forged on the stream's: {} echoes in {took:.1} s, longest {longest} \
             bytes, {} bytes for {}; {payloads} payloads, 0 lost",
            own.datagrams as f64 / took,
            forged.datagrams as f64 / took,
            tally.packets,
            tally.bytes,
            own.bytes
        ),
    );
    ensure!(tally.packets as f64 <= 20.0 + 20.0 * (took + 1.0), "{} echoes", tally.packets);
    ensure!(tally.bytes <= own.bytes, "more was echoed than sent");
    ensure!(arena.dropped("keepalive_budget")? > 0, "the budget was not touched");
    Ok(())
}

/// A-08 at the receiver: SHUTDOWN, NAK storms and ACKs from the exact address of a link, without knowing the sockets.
pub fn injection_from_a_link_s_address(scene: &Scene) -> Result<()> {
    let arena = Arena::new()?;
    let uri = bondgate::enroll(scene, "cam", srtla().into())?;
    let run = arena.start(scene, &Arena::settings(Auth::Required)?)?;
    let how = How::Key(bondgate::key_file(scene, "cam.key", &uri)?);
    let live = Live::start(scene, &arena, (&arena.encoder, ENCODER), &how, "cam1", 11)?;
    let links = links_of_encoder(&run)?;
    let mut spoofer = Spoofer::new(&arena.attacker, srtla())?;
    let (mut rng, start) = (Rng::new(11), Instant::now());
    while start.elapsed() < Duration::from_secs(5) {
        for _ in 0..20 {
            let (link, socket_id) = (links[rng.below(links.len() as u64) as usize], rng.next_u64() as u32);
            let range = [&0x8000_0000u32.to_be_bytes()[..], &0x7FFF_FFFFu32.to_be_bytes()].concat();
            let number = (rng.next_u64() as u32).to_be_bytes();
            for packet in [
                control(5, socket_id, &[0; 4]),
                control(3, socket_id, &range.repeat(180)),
                control(2, socket_id, &number.repeat(7)),
                control(6, socket_id, &[]),
                control(7, socket_id, &[&number[..], &number].concat()),
                control(8, socket_id, &number),
                data(rng.next_u64() as u32, socket_id),
                // Socket 0 is that of handshakes.
                control(5, 0, &[0; 4]),
                control(1, 0, &[]),
            ] {
                spoofer.send(link, &packet)?;
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let foreign = arena.dropped("foreign_socket")?;
    let payloads = live.finish()?;
    let publishers = run.log().lines().iter().filter(|line| line.contains("publisher up")).count();
    figure(
        "A-08 receiver",
        format_args!(
            "{} packets injected, {foreign} stopped by their socket ID; {payloads} payloads, 0 lost",
            spoofer.datagrams
        ),
    );
    ensure!(publishers == 1, "the session did not survive: {publishers} publishers");
    ensure!(foreign > spoofer.datagrams / 2, "the guard has counted {foreign} of {}", spoofer.datagrams);
    Ok(())
}
