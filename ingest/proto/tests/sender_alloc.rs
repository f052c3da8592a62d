//! At steady state the sender allocates nothing: not per packet, not per timer, not while a link is lost and comes back.

use std::time::{Duration, Instant};

use bondgate_counting::allocations;
use bondgate_proto::Seq;
use bondgate_proto::sender::{
    LinkLabel, Scheduler, Sender, SenderAction, SenderActions, SenderConfig, SenderVerdict,
};
use bondgate_proto::wire::{HALF_LEN, PacketType, emit_ack, emit_reg, emit_short};

#[test]
fn steady_state_allocates_nothing() {
    for scheduler in [Scheduler::Stock, Scheduler::Adaptive] {
        let start = Instant::now();
        let config = SenderConfig { scheduler, has_extended_keepalives: true, ..SenderConfig::default() };
        let mut sender = Sender::new(config, [1; HALF_LEN], 1);
        let mut out = SenderActions::default();
        let links: Vec<_> = (0..3).map(|l| sender.add_link(start, LinkLabel(l), &mut out).unwrap()).collect();
        let (mut buf, mut reply) = ([0u8; 300], [0u8; 300]);
        let mut id = [1; 256];
        id[128..].fill(9);
        let reg2 = emit_reg(PacketType::Reg2, &id, &mut buf).unwrap().to_vec();
        let _ = sender.handle_link(start, links[0], &reg2, &mut out);
        for link in &links {
            let reg3 = emit_short(PacketType::Reg3, 2, &mut buf).unwrap();
            let _ = sender.handle_link(start, *link, reg3, &mut out);
        }
        out.clear();
        assert_eq!(sender.links().count(), 3);

        let mut data = vec![0u8; 1332];
        let mut nak = vec![0u8; 24];
        nak[0..2].copy_from_slice(&0x8003u16.to_be_bytes());
        let mut ack = vec![0u8; 44];
        ack[0..2].copy_from_slice(&0x8002u16.to_be_bytes());
        let mut waiting = [[Seq::new(0); 10]; 3];
        let mut counts = [0usize; 3];
        let (mut sent, mut dropped, mut lost_link_rebinds) = (0u32, 0u32, 0u32);
        let before = allocations();
        for i in 0..100_000u32 {
            let now = start + Duration::from_micros(u64::from(i) * 200);
            // Link 2 is dead for a while in the middle: suspect, lost, rebound, back.
            let is_dead = |link: usize| link == 2 && (40_000..55_000).contains(&i);
            let seq = Seq::new(i);
            data[0..4].copy_from_slice(&i.to_be_bytes());
            match sender.handle_local(now, &data, &mut out) {
                SenderVerdict::ToLink(link) => {
                    sent += 1;
                    let l = link.index();
                    if !is_dead(l) {
                        waiting[l][counts[l]] = seq;
                        counts[l] += 1;
                        if counts[l] == 10 {
                            counts[l] = 0;
                            let bytes = emit_ack(&waiting[l], &mut buf).unwrap();
                            let _ = sender.handle_link(now, link, bytes, &mut out);
                        }
                    }
                }
                _ => dropped += 1,
            }
            if i % 50 == 0 {
                ack[4..8].copy_from_slice(&i.to_be_bytes());
                ack[16..20].copy_from_slice(&i.saturating_sub(200).to_be_bytes());
                nak[8..12].copy_from_slice(&i.to_be_bytes());
                nak[16..20].copy_from_slice(&(0x8000_0000 | i.saturating_sub(150)).to_be_bytes());
                nak[20..24].copy_from_slice(&i.saturating_sub(140).to_be_bytes());
                for link in links.iter().filter(|l| !is_dead(l.index())) {
                    let _ = sender.handle_link(now, *link, &ack, &mut out);
                    let _ = sender.handle_link(now, *link, &nak, &mut out);
                }
            }
            if sender.poll_timeout().is_some_and(|at| at <= now) {
                sender.handle_timeout(now, &mut out);
            }
            // Answer keepalives and joins at once; rebind when asked.
            let mut answers: [Option<(usize, usize)>; 8] = [None; 8];
            let mut answer_bytes = [[0u8; 40]; 8];
            let mut rebind = None;
            let mut n = 0;
            out.drain(|action| match action {
                SenderAction::Send { link, bytes } if !is_dead(link.index()) && n < 8 => {
                    let answer = match bytes.first_chunk::<2>() {
                        Some([0x90, 0x00]) => bytes,
                        Some([0x92, 0x01]) => emit_short(PacketType::Reg3, 2, &mut reply).unwrap(),
                        _ => return,
                    };
                    answer_bytes[n][..answer.len()].copy_from_slice(answer);
                    answers[n] = Some((link.index(), answer.len()));
                    n += 1;
                }
                SenderAction::Rebind { link } => rebind = Some(link),
                _ => {}
            });
            for (bytes, answer) in answer_bytes.iter().zip(answers) {
                if let Some((link, len)) = answer {
                    let _ = sender.handle_link(now, links[link], &bytes[..len], &mut out);
                }
            }
            if let Some(link) = rebind {
                lost_link_rebinds += 1;
                sender.link_rebound(now, link, &mut out);
            }
        }
        assert_eq!(allocations() - before, 0, "{scheduler:?}");
        assert_eq!((sent, dropped), (100_000, 0));
        assert!(lost_link_rebinds >= 1, "the dead link went through its whole life");
        assert!(sender.links().all(|l| l.sent_packets > 500), "every link was used");
        assert!(sender.counters().is_conserved());
    }
}
