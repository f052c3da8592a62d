//! Output `relay`: the SRT engine terminates publishers and offers their streams to players, by stream ID.
//!
//! Publishers come bonded (an SRTLA group) or plain (an address on the SRT port); players come plain. A payload is
//! fanned out by reference count. A stream outlives its publisher by `linger`, so that players stay connected while
//! an encoder restarts.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bondgate_io::Limits;
use bondgate_proto::GroupKey;
use bondgate_proto::receiver::{Command, Notice as SrtlaNotice};
use bondgate_srt::{AcceptOptions, ConnId, Endpoint, EndpointConfig, Event, IncomingId, RejectReason};

use bondgate_auth::stream::{Grant, TokenId};
use bytes::Bytes;

use super::notice::{Notice, Notices, group_name};
use super::permit::{self, Gatekeeper, Refusal, Refusals};
use super::snapshot::StreamStats;
use super::stream_id::Wish;

/// Where an SRT peer's datagrams go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A plain SRT peer on the SRT port.
    Plain(SocketAddr),
    /// The encoder behind an SRTLA group.
    Bonded(GroupKey),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(addr) => write!(f, "{addr}"),
            Self::Bonded(group) => write!(f, "srtla group {}", group_name(*group)),
        }
    }
}

/// A caller that waits for an answer.
#[derive(Debug)]
pub struct Caller {
    id: IncomingId,
    /// Where it calls from.
    pub peer: Peer,
    stream_id: Bytes,
}

/// What the relay may do.
#[derive(Clone, Debug)]
pub struct RelayConfig {
    /// Name used when the stream ID is empty.
    pub default_stream: String,
    /// How long players are kept after their publisher went.
    pub linger: Duration,
    /// Most players of one stream.
    pub players_per_stream_max: usize,
}

/// What a relay's backend may use. SRT's timers keep to whole milliseconds and payloads wait for their time anyway, so a
/// busy shard takes one turn in a millisecond, unless it is never to wait (`linger_us_max` 0). What a turn may send (see
/// `TRANSMIT_BUDGET`) fits into it.
pub fn limits(linger_us_max: u32) -> Limits {
    Limits {
        sockets: 8,
        turn_send_bytes: 4 << 20,
        linger_us_max: if linger_us_max == 0 { 0 } else { 1000 },
        linger_datagrams: 64,
        ..Limits::default()
    }
}

/// A publisher that has sent nothing for this long may be replaced by another one.
const TAKEOVER_SILENCE: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Stream {
    name: Arc<str>,
    publisher: Option<Publisher>,
    players: Vec<ConnId>,
    /// When the last publisher went; players are let go `linger` later.
    orphaned_at: Option<Instant>,
    player_overflow_datagrams: u64,
}

#[derive(Clone, Copy, Debug)]
struct Publisher {
    conn: ConnId,
    peer: Peer,
    /// Its first payload has been played; what its predecessor has left is of no use any more.
    delivered: bool,
}

#[derive(Clone, Copy, Debug)]
enum Role {
    Publisher(usize),
    Player(usize),
}

/// The streams of one shard and the SRT endpoint that carries them.
pub struct Relay {
    /// The SRT engine. The shard feeds it datagrams and takes its transmits.
    pub endpoint: Endpoint<Peer>,
    config: RelayConfig,
    /// At most one more than there may be connections: a stream without one can make room.
    streams: Vec<Stream>,
    streams_max: usize,
    by_name: HashMap<Arc<str>, usize>,
    roles: HashMap<ConnId, Role>,
    /// Callers to be answered in this turn.
    callers: VecDeque<Caller>,
    /// The token that let a session in, if it took one.
    tokens: HashMap<ConnId, TokenId>,
    /// Whose sessions they are.
    peers: HashMap<ConnId, Peer>,
    refusals: Refusals,
    notices: Notices,
}

impl Relay {
    /// A relay without streams. `secret` keys cookies and socket ids, `seed` the initial sequence numbers.
    pub fn new(
        config: RelayConfig,
        endpoint: EndpointConfig,
        secret: [u8; 16],
        seed: u64,
        now: Instant,
        notices: Notices,
    ) -> Self {
        let streams_max = endpoint.connections_max + 1;
        Self {
            streams_max,
            endpoint: Endpoint::new(endpoint, secret, seed, now),
            config,
            streams: Vec::with_capacity(streams_max),
            by_name: HashMap::with_capacity(streams_max),
            roles: HashMap::with_capacity(streams_max),
            callers: VecDeque::with_capacity(streams_max),
            tokens: HashMap::with_capacity(streams_max),
            peers: HashMap::with_capacity(streams_max),
            refusals: Refusals::new(notices.clone()),
            notices,
        }
    }

    /// Handles everything the engine has to say, but for the answers to [`Self::next_caller`]. Call after every
    /// `endpoint.handle*`.
    pub fn pump(&mut self, now: Instant) {
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Data { conn, payload, .. } => self.fan_out(now, conn, &payload),
                Event::Incoming { id, peer, stream_id, .. } => {
                    self.callers.push_back(Caller { id, peer, stream_id });
                }
                Event::Refused { peer, stream_id, reason } => {
                    let why = format!("refused by the SRT engine: {reason}");
                    self.refusals.add(
                        peer,
                        &stream_id,
                        Refusal { code: reason.code(), label: "engine", why },
                    );
                }
                Event::Closed { conn, reason } => self.forget(now, conn, &reason.to_string()),
                _ => {}
            }
        }
    }

    /// Lets players go whose stream has had no publisher for `linger`, and forgets empty streams.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.endpoint.handle_timeout(now);
        self.pump(now);
        let linger = self.config.linger;
        for stream in &mut self.streams {
            if stream.orphaned_at.is_some_and(|at| now >= at + linger) {
                stream.orphaned_at = None;
                for player in &stream.players {
                    self.endpoint.finish(now, *player);
                }
            }
        }
    }

    /// The earliest moment [`Self::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let linger = self.streams.iter().filter_map(|s| s.orphaned_at).map(|at| at + self.config.linger);
        linger.chain(self.endpoint.poll_timeout()).min()
    }

    /// An SRTLA group is gone: nothing more can come from its publishers; what they have sent is still played.
    pub fn close_group(&mut self, now: Instant, group: GroupKey) {
        for publisher in publishers_of(&self.streams, group) {
            self.endpoint.drain(now, publisher.conn);
        }
        self.pump(now);
    }

    /// An SRTLA group may not publish any more: its publishers end at once, and nothing of theirs is played any more.
    pub fn cut_group(&mut self, now: Instant, group: GroupKey) {
        for publisher in publishers_of(&self.streams, group) {
            self.endpoint.close(now, publisher.conn);
        }
        self.pump(now);
    }

    /// Begins a graceful stop: publishers are told at once, players when they have played what they have.
    pub fn finish_all(&mut self, now: Instant) {
        for (conn, role) in &self.roles {
            match role {
                Role::Publisher(_) => self.endpoint.close(now, *conn),
                Role::Player(_) => self.endpoint.finish(now, *conn),
            }
        }
        self.pump(now);
    }

    /// Says goodbye to whoever is left.
    pub fn close_all(&mut self, now: Instant) {
        for conn in self.roles.keys() {
            self.endpoint.close(now, *conn);
        }
        self.pump(now);
    }

    /// No publisher and no player is connected.
    pub fn is_idle(&self) -> bool {
        self.roles.is_empty()
    }

    /// Refusals since start, by label.
    pub fn refusals(&self) -> &[(&'static str, u64)] {
        self.refusals.counts()
    }

    /// The stream a bonded publisher feeds, for the group table.
    pub fn stream_of(&self, group: GroupKey) -> Option<&str> {
        let publishes = |s: &&Stream| s.publisher.is_some_and(|p| p.peer == Peer::Bonded(group));
        self.streams.iter().find(publishes).map(|s| &*s.name)
    }

    /// Figures of every stream that has a publisher or players.
    pub fn stream_stats(&self) -> impl Iterator<Item = StreamStats> {
        let busy = |s: &&Stream| s.publisher.is_some() || !s.players.is_empty();
        self.streams.iter().filter(busy).map(|stream| {
            let stats = stream.publisher.and_then(|p| self.endpoint.stats(p.conn)).unwrap_or_default();
            StreamStats {
                name: stream.name.to_string(),
                publishing: stream.publisher.is_some(),
                bonded: stream.publisher.is_some_and(|p| matches!(p.peer, Peer::Bonded(_))),
                players: stream.players.len(),
                rx_datagrams: stats.received,
                rx_bytes: stats.received_bytes,
                lost_datagrams: stats.lost,
                recovered_datagrams: stats.lost.saturating_sub(stats.dropped),
                dropped_datagrams: stats.dropped + stats.no_memory,
                player_overflow_datagrams: stream.player_overflow_datagrams,
                retransmitted_datagrams: stats.received_retransmissions,
                rtt_us: stats.rtt.as_micros() as u64,
                latency_ms: stats.receive_latency.as_millis() as u64,
                reorder_hold_ms: stats.reorder_hold.as_millis() as u64,
            }
        })
    }

    fn fan_out(&mut self, now: Instant, conn: ConnId, payload: &Bytes) {
        // A player that sends data is ignored: players have no business publishing.
        let Some(Role::Publisher(index)) = self.roles.get(&conn).copied() else { return };
        let Some(stream) = self.streams.get_mut(index) else { return };
        if let Some(publisher) = &mut stream.publisher {
            if publisher.conn == conn {
                publisher.delivered = true;
            } else if publisher.delivered {
                return;
            }
        }
        for player in &stream.players {
            if self.endpoint.send(now, *player, payload.clone()).is_err() {
                stream.player_overflow_datagrams += 1;
            }
        }
    }

    /// The next caller to be answered with [`Self::answer`].
    pub fn next_caller(&mut self) -> Option<Caller> {
        self.callers.pop_front()
    }

    /// Lets a caller in or refuses it, and says what that means for its group, if it has one.
    pub fn answer(&mut self, now: Instant, caller: &Caller, keeper: &Gatekeeper<'_>) -> Option<Command> {
        let group = match caller.peer {
            Peer::Bonded(group) => Some(group),
            Peer::Plain(_) => None,
        };
        match self.try_admit(now, caller, keeper) {
            Ok(()) => group.map(Command::StreamAccepted),
            Err(refusal) => {
                self.endpoint.reject(now, caller.id, RejectReason::from_code(refusal.code));
                // Our SRT cookie came back: the caller is where its packets say.
                let proven = refusal.is_guess();
                if proven && let Peer::Plain(addr) = caller.peer {
                    self.notices.push(Notice::Srtla(SrtlaNotice::Strike { ip: addr.ip().to_canonical() }));
                }
                let of_policy = refusal.is_of_policy();
                self.refusals.add(caller.peer, &caller.stream_id, refusal);
                group.filter(|_| of_policy).map(|group| Command::StreamRefused { group, proven })
            }
        }
    }

    fn try_admit(&mut self, now: Instant, caller: &Caller, keeper: &Gatekeeper<'_>) -> Result<(), Refusal> {
        let request = permit::read(&caller.stream_id)?;
        let name = if request.name.is_empty() { self.config.default_stream.as_str() } else { request.name };
        if !keeper.policy.serves(name) {
            return Err(Refusal {
                code: 1404,
                label: "unknown_stream",
                why: format!("no stream named {name:?} in relay.streams"),
            });
        }
        let name: Arc<str> = name.into();
        // The token is asked for last, so that one that is good for one caller is not spent on a refusal.
        match request.wish {
            Wish::Publish => {
                let old = self.publisher_to_replace(now, caller.peer, &name)?;
                let grant = keeper.decide(caller.peer, &request, &name)?;
                self.admit_publisher(now, caller, &name, grant, old)
            }
            Wish::Play => {
                let index = self.stream_to_play(caller.peer, &name)?;
                let grant = keeper.decide(caller.peer, &request, &name)?;
                self.admit_player(now, caller, &name, index, grant)
            }
        }
    }

    /// The stream's publisher that this one would replace, if any.
    fn publisher_to_replace(
        &self,
        now: Instant,
        peer: Peer,
        name: &Arc<str>,
    ) -> Result<Option<Publisher>, Refusal> {
        let stream = self.by_name.get(name).and_then(|index| self.streams.get(*index));
        let Some(old) = stream.and_then(|stream| stream.publisher) else { return Ok(None) };
        // What counts is what arrives; what is delivered now arrived one latency ago.
        let sends = |at| now.saturating_duration_since(at) < TAKEOVER_SILENCE;
        let same_encoder = old.peer == peer;
        if !same_encoder && self.endpoint.last_data_at(old.conn).is_some_and(sends) {
            return Err(Refusal {
                code: 1409,
                label: "already_publishing",
                why: format!("stream {name} is being published by {}", old.peer),
            });
        }
        Ok(Some(old))
    }

    fn admit_publisher(
        &mut self,
        now: Instant,
        caller: &Caller,
        name: &Arc<str>,
        grant: Grant,
        old: Option<Publisher>,
    ) -> Result<(), Refusal> {
        let index = self.stream_index(name);
        let conn = self.accept(now, caller, grant)?;
        if let Some(old) = old {
            // What it has sent so far is still played.
            self.endpoint.drain(now, old.conn);
            self.notices.push(Notice::PublisherDown {
                stream: name.clone(),
                reason: "replaced by a new session".into(),
            });
        }
        self.roles.insert(conn, Role::Publisher(index));
        let peer = caller.peer;
        if let Some(stream) = self.streams.get_mut(index) {
            stream.publisher = Some(Publisher { conn, peer, delivered: false });
            stream.orphaned_at = None;
        }
        let latency_ms = self.endpoint.stats(conn).map_or(0, |s| s.receive_latency.as_millis() as u64);
        self.notices.push(Notice::PublisherUp { stream: name.clone(), peer: peer.to_string(), latency_ms });
        Ok(())
    }

    /// The slot of a stream that has room for one more player.
    fn stream_to_play(&self, peer: Peer, name: &Arc<str>) -> Result<usize, Refusal> {
        if matches!(peer, Peer::Bonded(_)) {
            return Err(Refusal {
                code: 1405,
                label: "play_over_srtla",
                why: "players connect to the SRT port, not to the SRTLA port".to_owned(),
            });
        }
        let live = self.by_name.get(name).copied().filter(|index| {
            self.streams.get(*index).is_some_and(|s| s.publisher.is_some() || s.orphaned_at.is_some())
        });
        let Some(index) = live else {
            return Err(Refusal {
                code: 1404,
                label: "not_publishing",
                why: format!("nobody publishes {name:?} now; {}", self.live_names()),
            });
        };
        let players = self.streams.get(index).map_or(0, |s| s.players.len());
        if players >= self.config.players_per_stream_max {
            return Err(Refusal {
                code: 1402,
                label: "players_full",
                why: format!(
                    "stream {name} has {players} players, relay.players_per_stream_max allows no more"
                ),
            });
        }
        Ok(index)
    }

    fn admit_player(
        &mut self,
        now: Instant,
        caller: &Caller,
        name: &Arc<str>,
        index: usize,
        grant: Grant,
    ) -> Result<(), Refusal> {
        let conn = self.accept(now, caller, grant)?;
        self.roles.insert(conn, Role::Player(index));
        if let Some(stream) = self.streams.get_mut(index) {
            stream.players.push(conn);
        }
        self.notices.push(Notice::PlayerUp { stream: name.clone(), peer: caller.peer.to_string() });
        Ok(())
    }

    fn accept(&mut self, now: Instant, caller: &Caller, grant: Grant) -> Result<ConnId, Refusal> {
        let conn = self.endpoint.accept(now, caller.id, AcceptOptions::default()).ok_or_else(|| Refusal {
            code: 1402,
            label: "connections_full",
            why: "the SRT connection table is full; raise srt.connections_max".to_owned(),
        })?;
        self.peers.insert(conn, caller.peer);
        if let Some(token) = grant.token {
            self.tokens.insert(conn, token);
            if grant.spent {
                self.notices.push(Notice::TokenSpent { token });
            }
        }
        Ok(conn)
    }

    /// Another policy is in force: ends the sessions of those it would not let in, publishers and players.
    pub fn recheck(&mut self, now: Instant, keeper: &Gatekeeper<'_>) {
        for (conn, peer) in &self.peers {
            let Some(role) = self.roles.get(conn) else { continue };
            let (wish, index) = match role {
                Role::Publisher(index) => (Wish::Publish, *index),
                Role::Player(index) => (Wish::Play, *index),
            };
            let name = self.streams.get(index).map_or("", |stream| &*stream.name);
            let is_kept_out = match peer {
                Peer::Plain(addr) => keeper.policy.ends_plain(addr.ip(), keeper.wall_ms),
                Peer::Bonded(_) => false,
            };
            if is_kept_out || !keeper.keeps(now, *peer, wish, name, self.tokens.get(conn)) {
                self.endpoint.close(now, *conn);
            }
        }
        self.pump(now);
    }

    fn live_names(&self) -> String {
        let live: Vec<&str> =
            self.streams.iter().filter(|s| s.publisher.is_some()).map(|s| &*s.name).take(10).collect();
        if live.is_empty() { "no stream is live".to_owned() } else { format!("live: {}", live.join(", ")) }
    }

    fn forget(&mut self, now: Instant, conn: ConnId, reason: &str) {
        self.tokens.remove(&conn);
        self.peers.remove(&conn);
        match self.roles.remove(&conn) {
            Some(Role::Publisher(index)) => {
                let Some(stream) = self.streams.get_mut(index) else { return };
                if stream.publisher.is_some_and(|p| p.conn == conn) {
                    stream.publisher = None;
                    stream.orphaned_at = Some(now);
                    let stream = stream.name.clone();
                    self.notices.push(Notice::PublisherDown { stream, reason: reason.to_owned() });
                }
            }
            Some(Role::Player(index)) => {
                let Some(stream) = self.streams.get_mut(index) else { return };
                stream.players.retain(|player| *player != conn);
                let stream = stream.name.clone();
                self.notices.push(Notice::PlayerDown { stream, reason: reason.to_owned() });
            }
            None => {}
        }
    }

    /// The slot of a stream; reuses one that nobody publishes or plays.
    fn stream_index(&mut self, name: &Arc<str>) -> usize {
        if let Some(index) = self.by_name.get(name) {
            return *index;
        }
        let fresh = Stream {
            name: name.clone(),
            publisher: None,
            players: Vec::new(),
            orphaned_at: None,
            player_overflow_datagrams: 0,
        };
        let idle = |s: &Stream| s.publisher.is_none() && s.players.is_empty() && s.orphaned_at.is_none();
        let reusable = self.streams.iter().position(idle).or_else(|| {
            // All slots taken: the stream that has waited longest for its publisher, and has no players, goes.
            let full = self.streams.len() >= self.streams_max;
            let waiting = self.streams.iter().enumerate().filter(|(_, s)| full && s.publisher.is_none());
            let waiting = waiting.filter(|(_, s)| s.players.is_empty());
            waiting.min_by_key(|(_, s)| s.orphaned_at).map(|(index, _)| index)
        });
        let index = if let Some(index) = reusable {
            self.by_name.remove(&self.streams[index].name);
            self.streams[index] = fresh;
            index
        } else {
            self.streams.push(fresh);
            self.streams.len() - 1
        };
        self.by_name.insert(name.clone(), index);
        index
    }
}

fn publishers_of(streams: &[Stream], group: GroupKey) -> impl Iterator<Item = Publisher> {
    streams.iter().filter_map(|s| s.publisher).filter(move |p| p.peer == Peer::Bonded(group))
}

#[cfg(test)]
mod tests;
