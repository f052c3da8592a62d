//! The receiver alone, on a virtual clock: what it answers, and what it holds afterwards.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bondgate_auth::sa1::keys::{DeviceKey, DeviceKeys, GateKey, GateKeys, Standing};
use bondgate_auth::sa1::sender::{Credentials, Join, Outcome, Up};
use bondgate_auth::sa1::{Flags, ListenerId, StreamBind};
use bondgate_auth::table::{DeviceRules, KeyTable};
use bondgate_auth::ticket::TicketKey;
use bondgate_proto::LinkAddr;
use bondgate_proto::receiver::{
    Action, Actions, Admission, Clock, Command, Receiver, ReceiverConfig, Secrets, StockAdmission, Verdict,
};

use super::client::Device;

/// The time it is at the start.
pub const WALL_MS: u64 = 1_790_000_000_000;
const LISTENER: ListenerId = ListenerId([4; 16]);
const GATE: [u8; 16] = [3; 16];

/// What a device is given; `n` tells them apart.
pub fn credentials(n: u8) -> Credentials {
    Credentials {
        key_id: [n; 8],
        keys: DeviceKeys::derive(&[n; 32]),
        gate: GateKey::new(6, &GATE),
        listener: LISTENER,
        bind: StreamBind::ANY,
        required: Flags::NONE,
    }
}

/// A policy that knows these devices, with keys that demand a clock, and nobody else unless `stock`.
pub fn admission(devices: &[u8], stock: bool) -> Arc<Admission> {
    let key = |&n: &u8| {
        let rules = DeviceRules {
            name: format!("device{n}").into(),
            tenant: "".into(),
            binds: vec![],
            streams: vec![],
            groups_max: 2,
            links_max: 16,
        };
        let key = DeviceKey {
            keys: DeviceKeys::derive(&[n; 32]),
            standing: Standing::Active,
            clockless_allowed: false,
        };
        ([n; 8], key, Arc::new(rules))
    };
    Arc::new(Admission {
        stock: if stock { StockAdmission::Anywhere } else { StockAdmission::Never },
        listener: LISTENER,
        gate: Some(GateKeys::new(GateKey::new(6, &GATE))),
        keys: Arc::new(KeyTable::new(devices.iter().map(key))),
        ..Admission::open()
    })
}

/// See the module's comment.
pub struct Core {
    start: Instant,
    /// Now.
    pub now: Instant,
    /// The receiver.
    pub receiver: Receiver,
    actions: Actions,
    /// What it said, in order, since it was last asked.
    pub said: Vec<(SocketAddr, Vec<u8>)>,
    admission: Arc<Admission>,
    incarnation: u8,
}

impl Core {
    /// A receiver that was just started with this policy.
    pub fn new(admission: Arc<Admission>) -> Self {
        let now = Instant::now();
        let receiver = new_receiver(now, now, &admission, 0);
        let (entries, arena) = receiver.actions_min();
        let actions = Actions::with_capacity(entries * 4, arena * 16);
        Self { start: now, now, receiver, actions, said: Vec::new(), admission, incarnation: 0 }
    }

    /// It ends and starts again: other secrets but that of the tickets, nothing remembered.
    pub fn restart(&mut self) {
        self.incarnation += 1;
        self.receiver = new_receiver(self.start, self.now, &self.admission, self.incarnation);
    }

    /// Milliseconds since 1970.
    pub fn wall_ms(&self) -> u64 {
        WALL_MS + self.now.duration_since(self.start).as_millis() as u64
    }

    /// Time goes by, in steps of at most 10 ms.
    pub fn advance(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now = until.min(self.now + Duration::from_millis(10));
            self.tick();
        }
    }

    /// Does what is due now.
    pub fn tick(&mut self) {
        self.receiver.handle_timeout(self.now, &mut self.actions);
        self.collect();
    }

    /// A datagram arrives. Returns what became of it; what is said goes to `said`.
    pub fn feed(&mut self, from: SocketAddr, bytes: &[u8]) -> Verdict {
        let verdict = self.receiver.handle_uplink(self.now, LinkAddr::new(from), bytes, &mut self.actions);
        self.collect();
        if let Verdict::ToLink(_) = verdict {
            self.said.push((from, bytes.to_vec()));
        }
        verdict
    }

    /// A datagram arrives. Returns what is said right then.
    pub fn ask(&mut self, from: SocketAddr, bytes: &[u8]) -> Vec<(SocketAddr, Vec<u8>)> {
        self.said.clear();
        let _ = self.feed(from, bytes);
        std::mem::take(&mut self.said)
    }

    /// An order.
    pub fn command(&mut self, command: Command) {
        self.receiver.handle_command(self.now, command, &mut self.actions);
        self.collect();
    }

    /// Another policy.
    pub fn set_admission(&mut self, admission: Arc<Admission>) {
        self.admission = Arc::clone(&admission);
        self.command(Command::SetAdmission(admission));
    }

    fn collect(&mut self) {
        let said = &mut self.said;
        self.actions.drain(|action, bytes| {
            if let Action::Reply { to } = action {
                said.push((to.addr, bytes.to_vec()));
            }
        });
        assert_eq!(self.actions.overflowed(), 0, "the rig is too small");
    }

    /// Groups and the addresses of their links.
    pub fn held(&self) -> Vec<Vec<SocketAddr>> {
        let groups = self.receiver.snapshot(self.now);
        let mut held: Vec<Vec<_>> =
            groups.map(|group| group.links.iter().map(|link| link.addr.addr).collect()).collect();
        for links in &mut held {
            links.sort_unstable();
        }
        held.sort();
        held
    }

    /// M1 and M2: the join to send. `None` without an answer.
    pub fn join_of(&mut self, device: &mut Device, from: SocketAddr, link_id: u32) -> Option<Join> {
        let wall_ms = self.wall_ms();
        let hello = device.hello(link_id, wall_ms);
        let said = self.ask(from, hello.packet());
        let (_, m2) = said.first()?;
        hello.answer(&device.credentials, m2, wall_ms).ok()
    }

    /// The whole registration. `None` if the link did not come up.
    pub fn register(&mut self, device: &mut Device, from: SocketAddr, link_id: u32) -> Option<(Join, Up)> {
        let join = self.join_of(device, from, link_id)?;
        let said = self.ask(from, join.packet());
        match join.confirm(&device.credentials, &said.first()?.1).ok()? {
            Outcome::Up(up) => Some((join, up)),
            Outcome::Refused(_) => None,
        }
    }
}

fn new_receiver(start: Instant, now: Instant, admission: &Arc<Admission>, incarnation: u8) -> Receiver {
    let since_ms = now.duration_since(start).as_millis() as u64;
    let clock = Clock { at: now, boot_ms: 900_000 + since_ms, wall_ms: WALL_MS + since_ms };
    let secrets =
        Secrets { tickets: TicketKey::new([3; 32]), cookies: [incarnation; 32], nonces: [incarnation; 16] };
    Receiver::new(ReceiverConfig::default(), secrets, Arc::clone(admission), clock, [1, 2], 77)
}
