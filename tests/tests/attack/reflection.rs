//! The receiver sends nobody more than came from there, whoever asks for it.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bondgate_tests::attack::client::{Device, KEEPALIVE, REG_LEN, data, reg, socket, wall_ms};
use bondgate_tests::attack::wire::{Observer, Spoofer};
use bondgate_tests::attack::{ATTACKER, Arena, How, Live, VICTIM, host, srtla};
use bondgate_tests::bondgate::{self, Auth};
use bondgate_tests::process::Process;
use bondgate_tests::scene::{Scene, wait_until};

use crate::figure;

/// How long the reflection is kept up.
const TIME: Duration = Duration::from_secs(8);
/// Links in the victim's name.
const LINKS: u16 = 7;

/// Compares what came to the victim with what was sent in its name.
fn judge(row: &str, observer: &Observer, spoofer: &Spoofer, run: &Process, may_join: bool) -> Result<()> {
    let tally = observer.settled();
    let ratio = tally.bytes as f64 / spoofer.bytes as f64;
    // IP and UDP headers are 28 bytes more per packet, either way.
    let with_headers =
        (tally.bytes + 28 * tally.packets) as f64 / (spoofer.bytes + 28 * spoofer.datagrams) as f64;
    let joined = run
        .log()
        .lines()
        .iter()
        .any(|line| line.contains("link joined") && line.contains(&format!("addr={}:", host(VICTIM))));
    figure(
        row,
        format_args!(
            "{} datagrams of {} bytes in the victim's name, {} packets of {} bytes to it: ratio {ratio:.3}, with \
             IP headers {with_headers:.3}",
            spoofer.datagrams, spoofer.bytes, tally.packets, tally.bytes
        ),
    );
    ensure!(tally.bytes <= spoofer.bytes, "more came out than went in");
    // 1332 bytes of data pay for thirty SRT ACKs of 44, and headers are not counted.
    ensure!(with_headers < 2.5, "{with_headers}");
    ensure!(!tally.kept.iter().any(|seen| seen.is_icmp), "ICMP came out");
    ensure!(may_join || !joined, "the victim became a link");
    Ok(())
}

/// The ID of a group, as it goes over the wire to the receiver.
pub fn overheard_id(ears: &Observer, from: std::net::Ipv4Addr) -> Result<[u8; 256]> {
    wait_until("a REG2 on the wire", Duration::from_secs(5), || {
        let tally = ears.tally();
        let reg2 = tally.kept.iter().find(|seen| {
            *seen.from.ip() == from
                && seen.payload.len() == REG_LEN
                && seen.payload[..2] == [0x92, 1]
                && seen.payload[130] == 0x81
        });
        reg2.map(|seen| seen.payload[2..].try_into().context("length")).transpose()
    })
}

/// W1: the owner of a group lets seven addresses of a victim join it and feeds each two bytes now and then. At a stock
/// receiver that multiplies them by 416.
pub fn by_a_ticket_holder(scene: &Scene) -> Result<()> {
    let arena = Arena::new()?;
    let mut settings = Arena::settings(Auth::Mixed("[\"10.78.0.0/16\"]"))?;
    settings.streams = "default = \"cidr\"";
    let run = arena.start(scene, &settings)?;
    let at_victim = Observer::arriving(&arena.victim, |_| true)?;
    let on_wire = Observer::arriving(&arena.receiver, |seen| seen.to.port() == srtla().port())?;
    let owner = (&arena.attacker, ATTACKER);
    let live = Live::start(scene, &arena, owner, &How::Stock, "cam1", TIME.as_secs() + 8)?;
    let id = overheard_id(&on_wire, host(ATTACKER))?;

    let mut spoofer = Spoofer::new(&arena.attacker, srtla())?;
    let victims: Vec<_> = (0..LINKS).map(|n| SocketAddrV4::new(host(VICTIM), 6000 + n)).collect();
    for victim in &victims {
        spoofer.send(*victim, &reg(1, &id))?;
    }
    let start = Instant::now();
    let mut round = 0;
    while start.elapsed() < TIME {
        for victim in &victims {
            // The cheapest way to stay alive, the usual one, and once a second something that looks like data.
            spoofer.send(*victim, if round % 2 == 0 { &[0x90, 0] } else { &KEEPALIVE })?;
            if round % 4 == 3 {
                spoofer.send(*victim, &data(round, 7))?;
            }
        }
        round += 1;
        std::thread::sleep(Duration::from_millis(250));
    }
    let payloads = live.finish()?;
    judge("W1/A-03 ticket holder", &at_victim, &spoofer, &run, true)?;
    let tally = at_victim.settled();
    ensure!(tally.packets > 0, "nothing at all came to the victim: this did not test what it says");
    figure("W1/A-03 ticket holder", format_args!("the group's own stream: {payloads} payloads, 0 lost"));
    Ok(())
}

/// The owner of a valid key, with a live stream of his own, says hello, joins, keeps alive and sends data in the victim's
/// name.
pub fn by_the_owner_of_a_key(scene: &Scene) -> Result<()> {
    let arena = Arena::new()?;
    let uri = bondgate::enroll(scene, "insider", srtla().into())?;
    let run = arena.start(scene, &Arena::settings(Auth::Required)?)?;
    let how = How::Key(bondgate::key_file(scene, "insider.key", &uri)?);
    let owner = (&arena.attacker, ATTACKER);
    let live = Live::start(scene, &arena, owner, &how, "cam1", TIME.as_secs() + 6)?;

    let at_victim = Observer::arriving(&arena.victim, |_| true)?;
    let mut device = Device::new(&uri, 1)?;
    let own = socket(&arena.attacker, host(ATTACKER), srtla())?;
    let registered = device.register(&own, 1, Duration::from_secs(3))?;
    let (mut sealer, _) = registered.up.keys.sender_ends();
    let mut spoofer = Spoofer::new(&arena.attacker, srtla())?;
    let start = Instant::now();
    let mut number = 0;
    while start.elapsed() < TIME {
        for port in 6000..6000 + LINKS {
            let victim = SocketAddrV4::new(host(VICTIM), port);
            number += 1;
            spoofer.send(victim, device.hello(u32::from(port), wall_ms()).packet())?;
            // A join of his own, genuine but for the address; and the same for the victim's link number.
            spoofer.send(victim, registered.join.packet())?;
            let sealed = sealer.seal(&KEEPALIVE).context("no trailer")?;
            spoofer.send(victim, &sealed.0[..sealed.1])?;
            spoofer.send(victim, &KEEPALIVE)?;
            spoofer.send(victim, &data(number, 7))?;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    live.finish()?;
    judge("W1/A-03 key owner", &at_victim, &spoofer, &run, false)?;
    let m2 = at_victim.settled().packets;
    ensure!(m2 > 0, "nothing at all came to the victim: this did not test what it says");
    // What comes out is M2, and no more of it than the budget of one key.
    let budget = 2 * (64 + 20 * (start.elapsed().as_secs() + 1));
    figure("W1/A-03 key owner", format_args!("{m2} M2 to the victim, the key's budget is {budget}"));
    ensure!(m2 <= budget, "{m2}");
    Ok(())
}
