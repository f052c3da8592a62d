//! One script for every receiver: registration, forwarding, acknowledgements, the way back.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bondgate_bench::frame::{LEN_USUAL, Stamp, Template};
use bondgate_bench::receiver::{Programs, Running};
use bondgate_bench::scenario::{Receiver, Scenario};
use bondgate_bench::senders;
use bondgate_bench::topology::{Ground, Kind, SinkKind};
use bondgate_tests::scene::Scene;

const PATIENCE: Duration = Duration::from_secs(10);
/// How long nothing must come where nothing may come.
const SILENCE: Duration = Duration::from_millis(200);

pub fn play(scene: &Scene, programs: &Programs, receiver: &Receiver) -> Result<()> {
    let ground = Ground::new(Kind::Loopback, SinkKind::Count, true, senders::Kind::Sockets)?;
    let server = ground.sink_socket()?.context("no sink")?;
    server.set_nonblocking(false)?;
    let links = ground.link_sockets(2, 3, ground.receiver)?;
    for link in &links {
        link.set_nonblocking(false)?;
    }
    let (stranger, links) = links.split_last().context("no links")?;
    let links = &links[..3];
    let mut running = Running::start(scene, &ground, programs, &Scenario::default(), receiver)?;

    // It is up once it answers; whoever asks for an unknown group is told so.
    let mut id = [7; 256];
    let begun = Instant::now();
    let ngp = loop {
        running.expect_running(scene)?;
        links[0].send(&reg(1, &id)).ok();
        if let Some(answer) = receive(&links[0], SILENCE) {
            break answer;
        }
        ensure!(begun.elapsed() < PATIENCE, "no answer to REG2");
    };
    ensure!(ngp.starts_with(&[0x92, 0x11]), "an unknown group: {ngp:02x?}");
    while receive(&links[0], SILENCE).is_some() {}

    // REG1 brings an ID that begins with ours; REG2 with it joins.
    links[0].send(&reg(0, &id))?;
    let reg2 = expect(&links[0], "REG2")?;
    ensure!(reg2.len() == 258 && reg2[..2] == [0x92, 1] && reg2[2..130] == id[..128], "REG2: {reg2:02x?}");
    id.copy_from_slice(&reg2[2..]);
    for link in links {
        link.send(&reg(1, &id))?;
        let mut answer = expect(link, "REG3")?;
        if answer[..2] == [0x92, 1] {
            // A receiver may repeat REG2 as long as nobody has joined.
            answer = expect(link, "REG3")?;
        }
        ensure!(answer[..2] == [0x92, 2], "REG3: {answer:02x?}");
    }

    // A member's keepalive comes back as it was; a stranger is not answered.
    let keepalive = [0x90, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    links[1].send(&keepalive)?;
    ensure!(expect(&links[1], "the echo")? == keepalive);
    stranger.send(&keepalive)?;
    ensure!(receive(stranger, SILENCE).is_none(), "strangers get no echo");

    // Data passes unchanged and in order, from one address; every tenth on a link is acknowledged with its ten numbers.
    let mut template = Template::new(LEN_USUAL, 1);
    let mut forwarder = None;
    for number in 0..20 {
        let sent = template.fill(&Stamp { group: 0, number, intended_ns: 0 }, number as u32).to_vec();
        links[2].send(&sent)?;
        let (bytes, from) = expect_from(&server, "data")?;
        ensure!(bytes == sent, "datagram {number} was changed or overtaken");
        ensure!(*forwarder.get_or_insert(from) == from, "the server sees one address");
    }
    for ten in 0..2_u32 {
        let ack = expect(&links[2], "the SRTLA ACK")?;
        let numbers: Vec<u32> = ack[4..]
            .chunks_exact(4)
            .map(|word| word.iter().fold(0, |sum, &byte| sum << 8 | u32::from(byte)))
            .collect();
        ensure!(ack[..4] == [0x91, 0, 0, 0] && numbers == (ten * 10..ten * 10 + 10).collect::<Vec<_>>());
    }
    links[0].send(&[0; 15])?;
    stranger.send(template.fill(&Stamp { group: 0, number: 99, intended_ns: 0 }, 99))?;
    server.set_read_timeout(Some(SILENCE))?;
    ensure!(server.recv_from(&mut [0; 2048]).is_err(), "runts and strangers' data do not pass");

    // From the server: ACK and NAK to all links, everything else to the link that carried SRT last.
    let forwarder = forwarder.context("no forwarder")?;
    for kind in [2, 3] {
        let control = control(kind);
        server.send_to(&control, forwarder)?;
        for link in links {
            ensure!(expect(link, "ACK or NAK")? == control, "kind {kind}");
        }
    }
    server.send_to(&control(6), forwarder)?;
    ensure!(expect(&links[2], "ACKACK")?[..2] == [0x80, 6]);
    ensure!(receive(&links[0], SILENCE).is_none() && receive(&links[1], SILENCE).is_none());
    running.stop();
    Ok(())
}

fn reg(kind: u8, id: &[u8; 256]) -> Vec<u8> {
    [&[0x92, kind], &id[..]].concat()
}

/// An SRT control packet of 44 bytes that acknowledges, or misses, number 20.
fn control(kind: u8) -> Vec<u8> {
    let mut packet = vec![0; 44];
    packet[..2].copy_from_slice(&[0x80, kind]);
    packet[19] = 20;
    packet
}

fn receive(socket: &UdpSocket, patience: Duration) -> Option<Vec<u8>> {
    let mut buf = [0; 2048];
    socket.set_read_timeout(Some(patience)).ok()?;
    let len = socket.recv(&mut buf).ok()?;
    Some(buf[..len].to_vec())
}

fn expect(socket: &UdpSocket, what: &str) -> Result<Vec<u8>> {
    receive(socket, PATIENCE).with_context(|| format!("{what} did not come"))
}

fn expect_from(socket: &UdpSocket, what: &str) -> Result<(Vec<u8>, SocketAddr)> {
    let mut buf = [0; 2048];
    socket.set_read_timeout(Some(PATIENCE))?;
    let (len, from) = socket.recv_from(&mut buf).with_context(|| format!("{what} did not come"))?;
    Ok((buf[..len].to_vec(), from))
}
