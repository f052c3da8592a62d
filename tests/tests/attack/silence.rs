//! A receiver that admits devices only is not there for anybody else.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Result, ensure};
use bondgate_auth::sa1::keys::DeviceKeys;
use bondgate_sim::rng::Rng;
use bondgate_tests::attack::client::{Device, KEEPALIVE, control, data, fill, random_reg1, wall_ms};
use bondgate_tests::attack::wire::{Observer, Spoofer};
use bondgate_tests::attack::{ATTACKER, Arena, host, srtla};
use bondgate_tests::bondgate::{self, Auth};
use bondgate_tests::netns::ip;
use bondgate_tests::scene::{Scene, wait_until};

use crate::figure;

const DATAGRAMS: u64 = 1_000_000;
const LEN_MAX: u64 = 2048;
/// SRTLA's types, SRT's control types, data.
const WORDS: [u16; 20] = [
    0x9000, 0x9001, 0x9100, 0x9200, 0x9201, 0x9202, 0x9210, 0x9211, 0x9212, 0x9213, 0x91FF, 0x8000, 0x8001,
    0x8002, 0x8003, 0x8005, 0x8006, 0x8007, 0xFFFF, 0x0000,
];

/// What is sent: every length with every type, then a mixture of everything.
struct Arsenal {
    rng: Rng,
    member: Device,
    guesser: Device,
    n: u64,
}

impl Arsenal {
    fn next(&mut self) -> Vec<u8> {
        let n = self.n;
        self.n += 1;
        let systematic = (LEN_MAX + 1) * WORDS.len() as u64;
        if n < systematic {
            let mut bytes = vec![0; (n / WORDS.len() as u64) as usize];
            fill(&mut self.rng, &mut bytes);
            let word = WORDS[(n % WORDS.len() as u64) as usize].to_be_bytes();
            bytes.iter_mut().zip(word).for_each(|(byte, word)| *byte = word);
            return bytes;
        }
        let rng = &mut self.rng;
        match n % 8 {
            0 | 1 => {
                let mut bytes = vec![0; rng.below(LEN_MAX + 1) as usize];
                fill(rng, &mut bytes);
                bytes
            }
            2 => random_reg1(rng).to_vec(),
            3 => {
                let mut packet = random_reg1(rng).to_vec();
                packet[1] = 1;
                packet[130] = 0x81;
                packet
            }
            // The shape of SA1, without the gate key.
            4 => {
                let mut packet = random_reg1(rng).to_vec();
                packet[1] = rng.below(2) as u8;
                packet[2..10].copy_from_slice(b"SLA1\x01\x01\x01\x03");
                packet[8] = 1 + 2 * packet[1];
                packet[118..130].fill(0);
                packet[74..90].copy_from_slice(&self.member.credentials.listener.0);
                if packet[1] == 0 {
                    packet[130..226].fill(0);
                } else {
                    packet[130..134].copy_from_slice(&[1, 1, 2, 3]);
                    packet[186..226].fill(0);
                }
                packet
            }
            // With the gate key and the ID of a key, but not the key.
            5 => self.guesser.hello(1, wall_ms()).packet().to_vec(),
            // A genuine M1 with something changed, and as M3.
            6 => {
                let mut packet = self.member.hello(1, wall_ms()).packet().to_vec();
                let at = rng.below(258) as usize;
                packet[at] ^= 1 << rng.below(8);
                packet
            }
            _ => {
                let mut packets = [
                    KEEPALIVE.to_vec(),
                    vec![0x90, 0],
                    data(rng.next_u64() as u32, rng.next_u64() as u32),
                    control(rng.below(8) as u16, rng.next_u64() as u32, &[0; 64]),
                    control(
                        0,
                        0,
                        &[0, 0, 0, 4, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 5, 220, 0, 0, 32, 0, 0, 0, 0, 1],
                    ),
                    [&[0x91, 0, 0, 0][..], &rng.next_u64().to_be_bytes()].concat(),
                ];
                std::mem::take(&mut packets[rng.below(6) as usize])
            }
        }
    }
}

/// Row W5, A-09 and B-01 (sampled): a million datagrams of all kinds from one host draw not one packet, ICMP included. At the
/// end a genuine M1 draws exactly one, so the ears do hear.
pub fn strict(scene: &Scene) -> Result<()> {
    let arena = Arena::new()?;
    // Datagrams of 2048 bytes shall arrive in one piece.
    ip(&["-n", arena.attacker.name(), "link", "set", "uplink", "mtu", "4000"])?;
    ip(&["-n", arena.receiver.name(), "link", "set", "cable1", "mtu", "4000"])?;
    let uri = bondgate::enroll(scene, "cam", srtla().into())?;
    let mut run = arena.start(scene, &Arena::settings(Auth::Required)?)?;
    let mut guesser = Device::new(&uri, 2)?;
    guesser.credentials.keys = DeviceKeys::derive(&[0x55; 32]);
    let mut arsenal = Arsenal { rng: Rng::new(9), member: Device::new(&uri, 1)?, guesser, n: 0 };
    let observer = Observer::arriving(&arena.attacker, |_| true)?;
    let mut spoofer = Spoofer::new(&arena.attacker, srtla())?;
    let looked_at =
        || Ok::<_, anyhow::Error>(arena.metric("bondgate_srtla_received_datagrams_total", "")? as u64);

    // What a full socket buffer swallows does not count: more is sent until a million were looked at.
    let mut seen = 0;
    while seen < DATAGRAMS && spoofer.datagrams < 3 * DATAGRAMS {
        for _ in 0..20_000 {
            let bytes = arsenal.next();
            let port = 1024 + (arsenal.n % 60_000) as u16;
            spoofer.send(SocketAddrV4::new(host(ATTACKER), port), &bytes)?;
        }
        if spoofer.datagrams >= DATAGRAMS {
            std::thread::sleep(Duration::from_millis(600));
            seen = looked_at()?;
        }
    }
    let tally = observer.settled();
    let sent = spoofer.datagrams;
    figure(
        "W5/A-09/B-01",
        format_args!("{sent} datagrams sent, {seen} looked at, {} packets out", tally.packets),
    );
    ensure!(seen >= DATAGRAMS, "only {seen} of {sent} datagrams were looked at");
    ensure!(tally.packets == 0, "it answered: {:?}", tally.kept.first());
    for reason in ["sa1_gate_tag", "sa1_mac1", "sa1_gate_epoch", "not_admitted", "not_member", "bad_length"] {
        ensure!(
            arena.dropped(reason)? > 0,
            "nothing was dropped for {reason}: what was sent is not what is meant"
        );
    }
    ensure!(arena.metric("bondgate_tx_datagrams_total", "")? == 0.0, "it counts datagrams that it sent");

    wait_until("an answer to a genuine M1", Duration::from_secs(3), || {
        spoofer.send(SocketAddrV4::new(host(ATTACKER), 999), arsenal.member.hello(7, wall_ms()).packet())?;
        std::thread::sleep(Duration::from_millis(200));
        Ok((observer.tally().packets > 0).then_some(()))
    })?;
    run.expect_running()
}
