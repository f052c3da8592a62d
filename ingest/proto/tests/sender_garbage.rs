//! Arbitrary and nearly valid datagrams, in any order, from both sides and at any time: no panic, everything accounted
//! for, nothing of SRTLA's own ever handed to the encoder, and the sender still works afterwards.

use std::time::{Duration, Instant};

use bondgate_proto::sender::{
    LINKS_MAX, LinkIndex, LinkLabel, LinkState, Scheduler, Sender, SenderAction, SenderActions, SenderConfig,
    SenderVerdict,
};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Local(Vec<u8>),
    Link(u8, Vec<u8>),
    Wait(u32),
    Add,
    Remove(u8),
    Rebound(u8),
    SendError(u8),
}

/// First words that mean something, so that the bodies get read.
fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let words = prop_oneof![
        any::<u16>(),
        Just(0x9000u16),
        Just(0x9100),
        Just(0x9200),
        Just(0x9201),
        Just(0x9202),
        Just(0x9210),
        Just(0x9211),
        Just(0x9212),
        Just(0x8000),
        Just(0x8002),
        Just(0x8003),
        Just(0x8005),
        Just(0xFFFF),
        Just(0x0000),
    ];
    let lens = prop_oneof![0usize..64, Just(258), Just(44), Just(1332), 1490usize..1510];
    // The sender's own half, so that REG2 is believed; small words, so that sequence numbers meet.
    let fill = prop_oneof![Just(7u8), Just(0u8), any::<u8>()];
    (words, lens, fill, proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12))
        .prop_map(|(word, len, fill, edits)| {
            let mut bytes = vec![fill; len];
            for (at, value) in edits {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = value;
                }
            }
            for (byte, value) in bytes.iter_mut().zip(word.to_be_bytes()) {
                *byte = value;
            }
            bytes
        })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => datagram().prop_map(Step::Local),
        8 => (0u8..5, datagram()).prop_map(|(link, bytes)| Step::Link(link, bytes)),
        4 => (0u32..400_000).prop_map(Step::Wait),
        1 => Just(Step::Wait(30_000_000)),
        1 => Just(Step::Add),
        1 => (0u8..20).prop_map(Step::Remove),
        1 => (0u8..20).prop_map(Step::Rebound),
        1 => (0u8..20).prop_map(Step::SendError),
    ]
}

struct Rig {
    sender: Sender,
    out: SenderActions,
    now: Instant,
    links: Vec<LinkIndex>,
}

impl Rig {
    fn new(scheduler: Scheduler) -> Self {
        let config = SenderConfig { scheduler, log_slots: 256, ..SenderConfig::default() };
        let mut rig = Self {
            sender: Sender::new(config, [7; 128], 3),
            out: SenderActions::default(),
            now: Instant::now(),
            links: Vec::new(),
        };
        for _ in 0..3 {
            rig.add();
        }
        rig
    }

    fn add(&mut self) {
        if let Some(link) = self.sender.add_link(self.now, LinkLabel(1), &mut self.out) {
            assert!(!self.links.contains(&link));
            self.links.push(link);
        } else {
            assert_eq!(self.links.len(), LINKS_MAX);
        }
        self.check_actions();
    }

    fn pick(&self, n: u8) -> Option<LinkIndex> {
        self.links.get(usize::from(n)).copied()
    }

    fn check_actions(&mut self) {
        let links = &self.links;
        self.out.drain(|action| {
            if let SenderAction::Send { link, bytes } = action {
                assert!(!bytes.is_empty() && bytes.len() <= 1500);
                assert!(links.contains(&link) || links.len() < LINKS_MAX, "sent on a link that is gone");
            }
        });
        assert_eq!(self.out.overflowed(), 0);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Local(bytes) => {
                let verdict = self.sender.handle_local(self.now, &bytes, &mut self.out);
                if let SenderVerdict::ToLink(link) = verdict {
                    assert!(self.links.contains(&link));
                }
                assert!(!matches!(verdict, SenderVerdict::ToLocal | SenderVerdict::Consumed));
            }
            Step::Link(n, bytes) => {
                let Some(link) = self.pick(n) else { return };
                let verdict = self.sender.handle_link(self.now, link, &bytes, &mut self.out);
                assert!(!matches!(verdict, SenderVerdict::ToLink(_)));
                if verdict == SenderVerdict::ToLocal {
                    let word = u16::from_be_bytes([bytes[0], bytes[1]]);
                    assert!(bytes.len() >= 16 && (word < 0x9000 || word == 0xFFFF), "{word:04x} leaked");
                }
            }
            Step::Wait(us) => {
                let until = self.now + Duration::from_micros(u64::from(us));
                let mut turns = 0;
                while let Some(at) = self.sender.poll_timeout().filter(|at| *at <= until) {
                    self.now = self.now.max(at);
                    self.sender.handle_timeout(self.now, &mut self.out);
                    self.check_actions();
                    assert!(
                        self.sender.poll_timeout().is_none_or(|next| next > self.now),
                        "a timer that stays due"
                    );
                    turns += 1;
                    assert!(turns < 20_000, "timers run wild");
                }
                self.now = until;
            }
            Step::Add => self.add(),
            Step::Remove(n) => {
                let Some(link) = self.pick(n) else { return };
                self.links.retain(|l| *l != link);
                self.sender.remove_link(self.now, link, &mut self.out);
            }
            Step::Rebound(n) => {
                let Some(link) = self.pick(n) else { return };
                self.sender.link_rebound(self.now, link, &mut self.out);
            }
            Step::SendError(n) => {
                let Some(link) = self.pick(n) else { return };
                self.sender.handle_send_error(self.now, link);
            }
        }
        self.check_actions();
        assert!(self.sender.counters().is_conserved());
        assert_eq!(self.sender.links().count(), self.links.len());
        for stats in self.sender.links() {
            assert!((0.0..=1.0).contains(&stats.loss) && (0.0..=1.001).contains(&stats.share), "{stats:?}");
            assert!(stats.in_flight_packets <= 1024, "{stats:?}");
            assert!((1_000..=60_029).contains(&stats.window), "{stats:?}");
            assert!(stats.rate_bps.is_finite() && stats.capacity_bps.is_finite());
        }
    }

    /// The sender still registers and carries data after whatever came before.
    fn still_works(&mut self) {
        if self.links.is_empty() {
            self.add();
        }
        let half = [7u8; 128];
        let mut joined: Vec<LinkIndex> = Vec::new();
        for _ in 0..200 {
            let mut answers: Vec<(LinkIndex, Vec<u8>)> = Vec::new();
            let mut rebound = Vec::new();
            self.out.drain(|action| match action {
                SenderAction::Send { link, bytes } => match bytes.first_chunk::<2>() {
                    Some([0x92, 0x00]) => {
                        let mut reg2 = vec![0x92, 0x01];
                        reg2.extend(half);
                        reg2.extend([0x55; 128]);
                        answers.push((link, reg2));
                    }
                    Some([0x92, 0x01]) if bytes[130..] == [0x55; 128] => {
                        joined.push(link);
                        answers.push((link, vec![0x92, 0x02]));
                    }

                    Some([0x92, 0x01]) => answers.push((link, vec![0x92, 0x11])),
                    Some([0x90, 0x00]) if joined.contains(&link) => answers.push((link, bytes.to_vec())),
                    _ => {}
                },
                SenderAction::Rebind { link } => rebound.push(link),
                SenderAction::Notice(_) => {}
            });
            for (link, bytes) in answers {
                if self.links.contains(&link) {
                    let _ = self.sender.handle_link(self.now, link, &bytes, &mut self.out);
                }
            }
            for link in rebound.into_iter().filter(|l| self.links.contains(l)) {
                self.sender.link_rebound(self.now, link, &mut self.out);
            }
            self.now += Duration::from_millis(100);
            self.sender.handle_timeout(self.now, &mut self.out);
        }
        assert!(self.sender.is_up(), "{:?}", self.sender.links().collect::<Vec<_>>());
        assert!(self.sender.links().all(|l| l.state == LinkState::Live));
        let verdict = self.sender.handle_local(self.now, &[0; 100], &mut self.out);
        assert!(matches!(verdict, SenderVerdict::ToLink(_)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_datagrams_in_any_order(stock: bool, steps in proptest::collection::vec(step(), 1..150)) {
        let mut rig = Rig::new(if stock { Scheduler::Stock } else { Scheduler::Adaptive });
        for step in steps {
            rig.step(step);
        }
        rig.still_works();
    }
}
