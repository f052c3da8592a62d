//! All that a packet meets: the loop, forwarders, the SRT endpoint, counters. Imports nothing from `control` or `cli`.
//!
//! A shard is one thread that shares nothing: backend, receiver, output. One turn: receive a batch, read the clock
//! once, a verdict per datagram, hand-off, timeouts, transmits, flush; a few times a second it publishes its figures.
//! Per packet it takes no lock, allocates nothing and logs nothing.

#![deny(clippy::disallowed_types)]

pub mod bond;
mod figures;
pub mod forward;
pub mod handoff;
pub mod notice;
pub mod permit;
pub mod relay;
pub mod siblings;
pub mod snapshot;
pub mod steering;
pub mod stream_id;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bondgate_auth::keyring::key_id_text;
use bondgate_io::{Backend, Datagram, Role, SocketId, Waker};
use bondgate_proto::receiver::{
    Action, Actions, Clock, Command, DropReason, Dropped, GroupProof, Notice as SrtlaNotice, Receiver,
    SealedCopy, Verdict,
};
use bondgate_proto::{GroupKey, LinkAddr, LinkKey};

use figures::Figures;
use forward::Forward;
use handoff::{Handoff, News};
use notice::{Notice, Notices};
use permit::{Conclusion, Gatekeeper};
use relay::{Peer, Relay};
use siblings::Siblings;
use snapshot::SnapshotSlot;
use steering::SteerOrders;

use crate::policy::{Policy, PolicySlot, wall_ms};

/// How often a shard publishes its figures and its heartbeat.
const BEAT: Duration = Duration::from_millis(250);
/// How long a stopping shard lets players play what they have.
const FINISH_WITHIN: Duration = Duration::from_millis(1500);
/// Datagrams taken from the hand-off ring per turn.
const HANDOFF_BUDGET: usize = 256;
/// News of other shards' links heard per turn.
const NEWS_BUDGET: usize = 256;
/// SRT datagrams the engine may send per turn; the rest goes in the next one.
const TRANSMIT_BUDGET: usize = 2048;
/// Room for rare effects: this many times what the dearest call of the receiver may want, so that one timeout pass
/// can answer for many links.
const ACTIONS_ROOM: usize = 16;

/// Why datagrams are dropped at the SRT port.
const SRT_DROPS: [DropReason; 2] = [DropReason::Banned, DropReason::Geo];

/// What all shards and the supervisor share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Set by the supervisor to end the shards.
    pub stop: Arc<AtomicBool>,
    /// The ticket epoch in force, moved by the supervisor.
    pub epoch: Arc<AtomicU32>,
    /// Who may register, publish and play.
    pub policy: Arc<PolicySlot>,
    /// No new groups for now: the gate, without which there are to be none, is not there.
    pub closed: Arc<AtomicBool>,
    /// The clocks when the process started. Shards go on from there, so that all read the same.
    pub started: Clock,
    /// Where notices go.
    pub notices: Notices,
    /// Datagrams and news between shards.
    pub handoff: Handoff,
    /// Whose links are where, for the gate.
    pub orders: SteerOrders,
    /// The same for whoever steers.
    pub steering: SteerOrders,
}

/// Where a shard sends what it receives.
pub enum Output {
    /// Terminate SRT here and serve players.
    Relay(Box<Relay>),
    /// Send on to an SRT server.
    Forward(Box<Forward>),
}

/// One core's share of the work.
pub struct Shard<B> {
    id: u8,
    backend: B,
    receiver: Receiver,
    output: Output,
    actions: Actions,
    srtla: SocketId,
    srt: Option<SocketId>,
    shared: Shared,
    siblings: Siblings,
    epoch: u32,
    /// What the receiver was told of [`Shared::closed`].
    closed: bool,
    policy: Arc<Policy>,
    policy_version: u64,
    /// The clocks at the last beat.
    clocks: Clock,
    /// What was dropped at the SRT port.
    srt_dropped: Dropped,
    /// Groups that close now have lost their right to be here: what they have sent is not played any more.
    is_cutting: bool,
    slot: SnapshotSlot,
    figures: Figures,
    beat_at: Instant,
    /// The turn's one reading of the clock.
    clock: Instant,
    /// A budget ran out in the last turn: do not wait in the next one.
    backlog: bool,
}

/// What [`Shard::new`] needs besides the backend.
pub struct Parts {
    /// Shard number.
    pub id: u8,
    /// The SRTLA state machine.
    pub receiver: Receiver,
    /// The output.
    pub output: Output,
    /// Socket of the SRTLA port.
    pub srtla: UdpSocket,
    /// Socket of the SRT port, in relay mode.
    pub srt: Option<UdpSocket>,
    /// What is shared.
    pub shared: Shared,
    /// Where the figures go.
    pub slot: SnapshotSlot,
}

impl<B: Backend> Shard<B> {
    /// Takes over the sockets. The peers' wakers come later, with [`Self::set_peers`].
    ///
    /// # Errors
    /// What the backend says when it cannot take a socket.
    pub fn new(mut backend: B, parts: Parts, now: Instant) -> io::Result<Self> {
        let port = parts.srtla.local_addr()?.port();
        let srtla = backend.add(parts.srtla, Role::Listener)?;
        let srt = parts.srt.map(|socket| backend.add(socket, Role::Listener)).transpose()?;
        let epoch = parts.shared.epoch.load(Ordering::Relaxed);
        let (actions, bytes) = parts.receiver.actions_min();
        let policy_version = parts.shared.policy.version();
        let (policy, clocks) = (parts.shared.policy.load(), parts.shared.started);
        let handoff = parts.shared.handoff.clone();
        let orders = [parts.shared.orders.clone(), parts.shared.steering.clone()];
        Ok(Self {
            id: parts.id,
            backend,
            actions: Actions::with_capacity(ACTIONS_ROOM * actions, ACTIONS_ROOM * bytes),
            receiver: parts.receiver,
            output: parts.output,
            srtla,
            srt,
            siblings: Siblings::new(parts.id, port, handoff, orders),
            shared: parts.shared,
            epoch,
            closed: false,
            policy,
            policy_version,
            clocks,
            srt_dropped: Dropped::default(),
            is_cutting: false,
            slot: parts.slot,
            figures: Figures::default(),
            beat_at: now,
            clock: now,
            backlog: false,
        })
    }

    /// The handle that ends this shard's wait.
    pub fn waker(&self) -> Waker {
        self.backend.waker()
    }

    /// Tells the shard how to wake the others.
    pub fn set_peers(&mut self, peers: Vec<Waker>) {
        self.siblings.set_wakers(peers);
    }

    /// Turns until `shared.stop` is set, then lets players finish for a moment and says goodbye to SRT peers.
    ///
    /// # Errors
    /// Only when the backend can no longer work.
    pub fn run(mut self) -> io::Result<()> {
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.turn()?;
        }
        let stopped = Instant::now();
        if let Output::Relay(relay) = &mut self.output {
            relay.finish_all(stopped);
        }
        while self.is_finishing() && stopped.elapsed() < FINISH_WITHIN {
            self.turn()?;
        }
        let now = Instant::now();
        if let Output::Relay(relay) = &mut self.output {
            relay.close_all(now);
        }
        self.transmit(now);
        self.backend.flush();
        Ok(())
    }

    /// SRT peers are still connected.
    fn is_finishing(&self) -> bool {
        matches!(&self.output, Output::Relay(relay) if !relay.is_idle())
    }

    /// One turn of the loop.
    ///
    /// # Errors
    /// Only when the backend can no longer work.
    pub fn turn(&mut self) -> io::Result<()> {
        let wait = if std::mem::take(&mut self.backlog) {
            Duration::ZERO
        } else {
            // The last turn's reading will do: a turn is short, and what came meanwhile ends the wait at once.
            self.next_deadline().saturating_duration_since(self.clock)
        };
        let received = self.backend.receive(Some(wait))?;
        let now = Instant::now();
        self.clock = now;
        self.backend.note_time(now);

        if self.shared.policy.version() != self.policy_version {
            self.take_policy(now);
        }
        let closed = self.shared.closed.load(Ordering::Relaxed);
        if closed != self.closed {
            self.closed = closed;
            self.receiver.handle_command(now, Command::SetDraining(closed), &mut self.actions);
        }
        self.hear_siblings(now);
        for index in 0..received {
            self.datagram(now, index);
        }
        self.handed_over(now);
        self.errors(now);

        if self.receiver.poll_timeout().is_some_and(|at| at <= now) {
            self.receiver.handle_timeout(now, &mut self.actions);
            self.apply_actions(now);
        }
        match &mut self.output {
            Output::Relay(relay) => {
                relay.pump(now);
                if relay.poll_timeout().is_some_and(|at| at <= now) {
                    relay.handle_timeout(now);
                }
            }
            Output::Forward(_) => {}
        }
        self.answer_callers(now);
        self.transmit(now);
        self.backend.flush();
        self.backlog |= self.siblings.resync(&self.receiver);
        self.siblings.wake();
        if now >= self.beat_at {
            self.beat(now);
        }
        Ok(())
    }

    fn next_deadline(&self) -> Instant {
        let output = match &self.output {
            Output::Relay(relay) => relay.poll_timeout(),
            Output::Forward(_) => None,
        };
        [self.receiver.poll_timeout(), output].into_iter().flatten().fold(self.beat_at, Instant::min)
    }

    fn datagram(&mut self, now: Instant, index: usize) {
        let Datagram { socket, from, bytes } = self.backend.datagram(index);
        let len = bytes.len();
        if socket == self.srtla {
            let verdict = self.receiver.handle_uplink(now, LinkAddr::new(from), bytes, &mut self.actions);
            self.apply_actions(now);
            self.uplink(now, verdict, Source::Received { index, len, from }, 0);
        } else if Some(socket) == self.srt {
            let peer = LinkAddr::new(from).addr;
            // Whoever has no session yet can only begin one; those who have are cut when the policy comes.
            if permit::is_handshake(bytes)
                && let Some(reason) = self.policy.drops_plain(peer.ip(), self.clocks.now(now).wall_ms)
            {
                self.srt_dropped.add(reason);
                return;
            }
            if let Output::Relay(relay) = &mut self.output {
                relay.endpoint.handle(now, Peer::Plain(peer), 0, bytes);
                relay.pump(now);
            }
        } else if let Output::Forward(forward) = &mut self.output {
            let Some(group) = forward.group_of(socket) else { return };
            forward.heard(now);
            let verdict = self.receiver.handle_downlink(now, group, bytes, &mut self.actions);
            self.apply_actions(now);
            self.downlink(now, verdict, Source::Received { index, len, from });
        }
    }

    /// Carries out the receiver's verdict on a datagram from a link, which was handed over this many times.
    fn uplink(&mut self, now: Instant, verdict: Verdict, source: Source<'_>, hand_offs: u8) {
        match verdict {
            Verdict::Forward(group) => {
                let source = source.first(self.receiver.forwarded_len());
                self.forward(now, group, source);
            }
            Verdict::ToLink(link) => self.echo(link, source),
            Verdict::HandOff(shard) => {
                let (from, bytes) = (source.from(), source.bytes(&self.backend));
                if !self.siblings.hand_over(shard, from, hand_offs + 1, bytes) {
                    self.receiver.hand_off_failed();
                }
            }
            Verdict::FanOut(_) | Verdict::Consumed | Verdict::Drop(_) => {}
        }
    }

    /// Passes an SRT packet on.
    fn forward(&mut self, now: Instant, group: GroupKey, source: Source<'_>) {
        match &mut self.output {
            Output::Relay(relay) => {
                let path = self.receiver.last_link().and_then(|link| self.receiver.link_index(link));
                let bytes = source.bytes(&self.backend);
                relay.endpoint.handle(now, Peer::Bonded(group), path.unwrap_or(0), bytes);
                relay.pump(now);
            }
            Output::Forward(_) => {
                if permit::is_handshake(source.bytes(&self.backend)) && !self.may_call(now, group, source) {
                    return;
                }
                let Output::Forward(forward) = &mut self.output else { return };
                if let Some(socket) = forward.socket(now, &mut self.backend, group) {
                    source.send(&mut self.backend, socket, None);
                }
            }
        }
    }

    /// Sends a datagram back to where it came from, which has no more to say than that it came: a keepalive.
    fn echo(&mut self, link: LinkKey, source: Source<'_>) {
        if let Some(to) = self.receiver.link_addr(link) {
            source.send(&mut self.backend, self.srtla, Some(to.addr));
        }
    }

    /// Holds a handshake that goes through to an SRT server against the policy. A caller that may not publish is
    /// answered here, in the server's place.
    fn may_call(&mut self, now: Instant, group: GroupKey, source: Source<'_>) -> bool {
        let Some(call) = Conclusion::read(source.bytes(&self.backend)) else { return true };
        let peer = Peer::Bonded(group);
        let keeper = self.gatekeeper(now);
        let verdict = call.stream_id().and_then(|raw| {
            // Stream IDs are the server's: one that we cannot read is a name as a whole.
            let request = permit::read(raw).or_else(|refusal| permit::verbatim(raw).ok_or(refusal))?;
            keeper.decide(peer, &request, request.name).map(|grant| (request.name, grant))
        });
        let command = match verdict {
            Ok((stream, grant)) => {
                if let Output::Forward(forward) = &mut self.output {
                    forward.granted(group, stream, grant);
                }
                Command::StreamAccepted(group)
            }
            Err(refusal) => {
                let mut answer = [0; permit::REFUSAL_LEN];
                if let (Some(len), Some(link)) =
                    (call.refuse(refusal.code, &mut answer), self.receiver.last_link())
                {
                    let bytes = answer.get(..len).unwrap_or_default();
                    self.downlink(now, Verdict::ToLink(link), Source::Copied { from: UNSPECIFIED, bytes });
                }
                if let Output::Forward(forward) = &mut self.output {
                    forward.refusals.add(peer, call.stream_id().unwrap_or_default(), refusal);
                }
                // The server's cookies can be guessed, so nothing is held against the address.
                Command::StreamRefused { group, proven: false }
            }
        };
        let accepted = matches!(command, Command::StreamAccepted(_));
        self.receiver.handle_command(now, command, &mut self.actions);
        self.apply_actions(now);
        accepted
    }

    /// Answers the callers of our own SRT endpoint.
    fn answer_callers(&mut self, now: Instant) {
        while let Output::Relay(relay) = &mut self.output
            && let Some(caller) = relay.next_caller()
        {
            let keeper = Gatekeeper {
                policy: &self.policy,
                receiver: &self.receiver,
                wall_ms: self.clocks.now(now).wall_ms,
            };
            if let Some(command) = relay.answer(now, &caller, &keeper) {
                self.receiver.handle_command(now, command, &mut self.actions);
                self.apply_actions(now);
            }
        }
    }

    fn gatekeeper(&self, now: Instant) -> Gatekeeper<'_> {
        let wall_ms = self.clocks.now(now).wall_ms;
        Gatekeeper { policy: &self.policy, receiver: &self.receiver, wall_ms }
    }

    /// Takes the policy that was published, and ends what it no longer allows.
    fn take_policy(&mut self, now: Instant) {
        self.policy_version = self.shared.policy.version();
        self.policy = self.shared.policy.load();
        let admission = self.policy.admission.clone();
        self.is_cutting = true;
        self.receiver.handle_command(now, Command::SetAdmission(admission), &mut self.actions);
        self.apply_actions(now);
        self.is_cutting = false;
        let keeper = Gatekeeper {
            policy: &self.policy,
            receiver: &self.receiver,
            wall_ms: self.clocks.now(now).wall_ms,
        };
        match &mut self.output {
            Output::Relay(relay) => relay.recheck(now, &keeper),
            Output::Forward(forward) => {
                for group in forward.without_right(now, &keeper) {
                    self.receiver.handle_command(now, Command::CloseGroup(group), &mut self.actions);
                    self.apply_actions(now);
                }
            }
        }
    }

    /// Carries out the receiver's verdict on a datagram from the SRT side.
    fn downlink(&mut self, now: Instant, verdict: Verdict, source: Source<'_>) {
        match verdict {
            Verdict::FanOut(group) => {
                let mut some_sealed = false;
                for (link, to) in self.receiver.live_links(now, group) {
                    if self.receiver.seals_data(link) {
                        some_sealed = true;
                    } else {
                        source.send(&mut self.backend, self.srtla, Some(to.addr));
                    }
                }
                if some_sealed {
                    self.send_sealed(now, verdict, source);
                }
            }
            Verdict::ToLink(link) if self.receiver.seals_data(link) => {
                self.send_sealed(now, verdict, source);
            }
            Verdict::ToLink(link) => self.echo(link, source),
            Verdict::Forward(_) | Verdict::HandOff(_) | Verdict::Consumed | Verdict::Drop(_) => {}
        }
    }

    /// Sends an SRT packet to those links of a verdict that get it with a trailer: copies, one for each.
    fn send_sealed(&mut self, now: Instant, verdict: Verdict, source: Source<'_>) {
        let mut copy = SealedCopy::new(source.bytes(&self.backend));
        let Self { receiver, backend, srtla, .. } = self;
        receiver
            .sealed_copies(now, verdict, &mut copy, |to, sealed| backend.send(*srtla, Some(to.addr), sealed));
    }

    /// What other shards say of their links.
    fn hear_siblings(&mut self, now: Instant) {
        for _ in 0..NEWS_BUDGET {
            let Some(news) = self.shared.handoff.hear(self.id) else { return };
            let command = match news {
                News::Claimed { addr, owner, proven } => Command::Claimed { addr, owner, proven },
                News::Released { addr, owner } => Command::Released { addr, owner },
            };
            self.receiver.handle_command(now, command, &mut self.actions);
            self.apply_actions(now);
        }
        self.backlog = true;
    }

    /// Datagrams that other shards have handed over.
    fn handed_over(&mut self, now: Instant) {
        for _ in 0..HANDOFF_BUDGET {
            let Some(parcel) = self.shared.handoff.pop(self.id) else { return };
            let (from, bytes, hand_offs) = (parcel.from, parcel.bytes(), parcel.hand_offs);
            let link = LinkAddr::new(from);
            let verdict = self.receiver.handle_handed_over(now, link, bytes, hand_offs, &mut self.actions);
            self.apply_actions(now);
            self.uplink(now, verdict, Source::Copied { from, bytes }, hand_offs);
            self.shared.handoff.give_back(self.id, parcel);
        }
        self.backlog = true;
    }

    fn errors(&mut self, now: Instant) {
        while let Some((socket, error)) = self.backend.next_error() {
            if let Output::Forward(forward) = &mut self.output
                && error.kind() == io::ErrorKind::ConnectionRefused
                && forward.group_of(socket).is_some()
            {
                forward.refused(now);
            }
        }
    }

    /// Carries out the receiver's rare effects, in order, before the verdict of the same call.
    fn apply_actions(&mut self, now: Instant) {
        let Self { actions, backend, output, srtla, shared, siblings, receiver, is_cutting, .. } = self;
        actions.drain(|action, bytes| match (action, &mut *output) {
            (Action::Reply { to }, _) => backend.send(*srtla, Some(to.addr), bytes),
            (Action::SendDownstream { group }, Output::Relay(relay)) => {
                relay.endpoint.handle(now, Peer::Bonded(group), 0, bytes);
                relay.pump(now);
            }
            (Action::SendDownstream { group }, Output::Forward(forward)) => {
                if let Some(socket) = forward.socket(now, backend, group) {
                    backend.send(socket, None, bytes);
                }
            }
            (Action::OpenForwarder(group), Output::Forward(forward)) => {
                forward.socket(now, backend, group);
            }
            (Action::CloseForwarder(group), Output::Forward(forward)) => forward.close(backend, group),
            (Action::CloseForwarder(group), Output::Relay(relay)) => {
                if *is_cutting {
                    relay.cut_group(now, group);
                } else {
                    relay.close_group(now, group);
                }
            }
            // The relay needs no forwarder.
            (Action::OpenForwarder(_), Output::Relay(_)) => {}
            (Action::Steer { addr, proven, .. }, _) => siblings.joined(addr, proven),
            (Action::Unsteer { addr }, _) => siblings.left(addr),
            (Action::Notice(SrtlaNotice::GroupOpened { group }), _) => {
                shared.notices.push(group_opened(receiver, group));
            }
            (Action::Notice(notice), _) => shared.notices.push(Notice::Srtla(notice)),
        });
    }

    /// Sends what the SRT engine has to send.
    fn transmit(&mut self, now: Instant) {
        let mut buf = [0_u8; 1500];
        for _ in 0..TRANSMIT_BUDGET {
            let Output::Relay(relay) = &mut self.output else { return };
            let Some(transmit) = relay.endpoint.poll_transmit(now, &mut buf) else { return };
            let bytes = buf.get(..transmit.len).unwrap_or_default();
            match transmit.to {
                Peer::Plain(to) => {
                    if let Some(srt) = self.srt {
                        self.backend.send(srt, Some(to), bytes);
                    }
                }
                Peer::Bonded(group) => {
                    let verdict = self.receiver.handle_downlink(now, group, bytes, &mut self.actions);
                    self.apply_actions(now);
                    self.downlink(now, verdict, Source::Copied { from: UNSPECIFIED, bytes });
                }
            }
        }
        self.backlog = true;
    }

    /// Housekeeping: wall clock, ticket epoch and figures.
    fn beat(&mut self, now: Instant) {
        self.beat_at = now + BEAT;
        self.clocks = Clock { at: now, wall_ms: wall_ms(), ..self.shared.started };
        self.clocks.boot_ms = self.shared.started.now(now).boot_ms;
        self.receiver.handle_command(now, Command::SetClock(self.clocks), &mut self.actions);
        let epoch = self.shared.epoch.load(Ordering::Relaxed);
        if epoch != self.epoch {
            self.epoch = epoch;
            self.receiver.handle_command(now, Command::SetEpoch(epoch), &mut self.actions);
            self.apply_actions(now);
        }
        self.siblings.repeat_claims(&self.receiver);
        self.figures.sweep(now, &self.receiver, &self.output);
        self.slot.reply(|network| figures::links_in(now, &self.receiver, &self.output, network));
        let (receiver, backend, output, id) = (&self.receiver, &self.backend, &self.output, self.id);
        let (device_keys, srt_dropped) = (self.policy.admission.keys.len(), self.srt_dropped);
        let links = &self.figures;
        self.slot.publish(|slot| {
            figures::fill(slot, now, id, receiver, backend, output);
            links.fill(slot);
            slot.device_keys = device_keys;
            slot.srt_dropped.clear();
            slot.srt_dropped.extend(SRT_DROPS.map(|reason| (reason.name(), srt_dropped.of(reason))));
        });
    }
}

fn group_opened(receiver: &Receiver, group: GroupKey) -> Notice {
    let by = match receiver.group_proof(group) {
        Some(GroupProof::Device { rules, key_id, .. }) => {
            format!("device={} key={}", rules.name, key_id_text(&key_id))
        }
        Some(GroupProof::Stock { .. }) | None => "without a key".to_owned(),
    };
    Notice::GroupOpened { group, by }
}

const UNSPECIFIED: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);

/// Where a datagram lies: in the backend's receive buffer (sent on without a copy; only the first `len` bytes count) or
/// elsewhere.
#[derive(Clone, Copy)]
enum Source<'a> {
    Received { index: usize, len: usize, from: SocketAddr },
    Copied { from: SocketAddr, bytes: &'a [u8] },
}

impl<'a> Source<'a> {
    fn from(self) -> SocketAddr {
        match self {
            Self::Received { from, .. } | Self::Copied { from, .. } => from,
        }
    }

    /// Its first `len` bytes, of which it has at least as many.
    fn first(self, len: usize) -> Self {
        match self {
            Self::Received { index, from, .. } => Self::Received { index, len, from },
            Self::Copied { from, bytes } => {
                Self::Copied { from, bytes: bytes.get(..len).unwrap_or_default() }
            }
        }
    }

    fn bytes<B: Backend>(self, backend: &'a B) -> &'a [u8] {
        match self {
            Self::Received { index, len, .. } => backend.datagram(index).bytes.get(..len).unwrap_or_default(),
            Self::Copied { bytes, .. } => bytes,
        }
    }

    fn send(self, backend: &mut impl Backend, socket: SocketId, to: Option<SocketAddr>) {
        match self {
            Self::Received { index, len, .. } => backend.forward_first(index, len, socket, to),
            Self::Copied { bytes, .. } => backend.send(socket, to, bytes),
        }
    }
}
