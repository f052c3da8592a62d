//! The bonding sender: which link takes a packet.

use std::time::{Duration, Instant};

use bondgate_proto::Seq;
use bondgate_proto::sender::{LinkLabel, Sender, SenderActions, SenderConfig, SenderVerdict};
use bondgate_proto::wire::{HALF_LEN, PacketType, emit_ack, emit_reg, emit_short};

use crate::measured;

pub fn schedule() -> u64 {
    const OPERATIONS: u32 = 40_000;
    let start = Instant::now();
    let mut sender = Sender::new(SenderConfig::default(), [1; HALF_LEN], 1);
    let mut out = SenderActions::default();
    let links: [_; 4] = std::array::from_fn(|n| {
        sender.add_link(start, LinkLabel(n as u32), &mut out).expect("room for four")
    });
    let (mut buf, mut id) = ([0; 300], [1; 256]);
    id[128..].fill(9);
    let reg2 = emit_reg(PacketType::Reg2, &id, &mut buf).unwrap().to_vec();
    let _ = sender.handle_link(start, links[0], &reg2, &mut out);
    let reg3 = emit_short(PacketType::Reg3, 2, &mut buf).unwrap();
    for link in links {
        let _ = sender.handle_link(start, link, reg3, &mut out);
    }
    let mut packet = vec![0x47; 1332];
    let (mut waiting, mut counts, mut sent) = ([[Seq::new(0); 10]; 4], [0; 4], 0);
    let mut buf = [0; 300];
    for n in 0..OPERATIONS {
        let now = start + Duration::from_micros(500) * n;
        packet[..4].copy_from_slice(&n.to_be_bytes());
        let verdict = measured(|| {
            if sender.poll_timeout().is_some_and(|at| at <= now) {
                sender.handle_timeout(now, &mut out);
            }
            sender.handle_local(now, &packet, &mut out)
        });
        let SenderVerdict::ToLink(link) = verdict else { continue };
        sent += 1;
        let at = link.index();
        waiting[at][counts[at]] = Seq::new(n);
        counts[at] += 1;
        if counts[at] == 10 {
            counts[at] = 0;
            let ack = emit_ack(&waiting[at], &mut buf).unwrap();
            let _ = measured(|| sender.handle_link(now, link, ack, &mut out));
        }
        // Keepalives come back at once, so that no link is given up.
        let mut echoes: Vec<(_, Vec<u8>)> = Vec::new();
        out.drain(|action| {
            if let bondgate_proto::sender::SenderAction::Send { link, bytes } = action
                && bytes.starts_with(&[0x90, 0x00])
            {
                echoes.push((link, bytes.to_vec()));
            }
        });
        for (link, bytes) in echoes {
            let _ = sender.handle_link(now, link, &bytes, &mut out);
        }
    }
    assert!(sent > OPERATIONS * 9 / 10, "{sent} of {OPERATIONS}");
    OPERATIONS.into()
}
