//! Output `forward`: SRT packets go unmodified to a downstream SRT server, one connected socket per group.
//!
//! Promises: a forwarder is opened lazily and keeps its source port for the life of its group; a refused packet
//! (ICMP port unreachable) never destroys a group. libsrt ties a session to the peer's address, so the port matters.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bondgate_auth::stream::{Grant, TokenId, Wish};
use bondgate_io::socket::{BindOptions, connect_udp};
use bondgate_io::{Backend, Role, SocketId};
use bondgate_proto::GroupKey;

use super::notice::{Notice, Notices};
use super::permit::{Gatekeeper, Refusals};
use super::relay::Peer;

/// A server that refused packets is said to be back when it has answered and refused nothing for this long.
const QUIET_AFTER_REFUSAL: Duration = Duration::from_secs(2);

/// Pause between two tries to open a socket that the system refused.
const OPEN_AGAIN_AFTER: Duration = Duration::from_millis(250);

/// The forwarders of one shard.
#[derive(Debug)]
pub struct Forward {
    server: SocketAddr,
    socket_buffer_bytes: usize,
    /// A group's forwarder socket, by the group's slot.
    by_group: Vec<Option<(GroupKey, SocketId)>>,
    /// Which group a forwarder socket belongs to, by socket slot.
    by_slot: Vec<Option<GroupKey>>,
    /// What groups were let publish, and by which token, if it took one.
    granted: HashMap<GroupKey, (Box<str>, Option<TokenId>)>,
    refused_at: Option<Instant>,
    /// When a socket could last not be opened.
    open_failed_at: Option<Instant>,
    /// Callers that were answered in the server's place.
    pub refusals: Refusals,
    notices: Notices,
}

impl Forward {
    /// No forwarders yet. `sockets_max` is the backend's limit of sockets, at least as many as there may be groups.
    pub fn new(server: SocketAddr, socket_buffer_bytes: usize, sockets_max: usize, notices: Notices) -> Self {
        Self {
            server,
            socket_buffer_bytes,
            by_group: vec![None; sockets_max],
            by_slot: vec![None; sockets_max],
            granted: HashMap::with_capacity(sockets_max),
            refused_at: None,
            open_failed_at: None,
            refusals: Refusals::new(notices.clone()),
            notices,
        }
    }

    /// The group behind a forwarder socket.
    pub fn group_of(&self, socket: SocketId) -> Option<GroupKey> {
        self.by_slot.get(socket.slot()).copied().flatten()
    }

    /// The forwarder of a group, opened if need be. `None` when the system refuses a socket: the datagram is lost,
    /// a later one tries again.
    pub fn socket(&mut self, now: Instant, backend: &mut impl Backend, group: GroupKey) -> Option<SocketId> {
        let place = self.by_group.get_mut(group.index())?;
        if let Some((_, socket)) = place.filter(|(owner, _)| *owner == group) {
            return Some(socket);
        }
        if self.open_failed_at.is_some_and(|at| now.duration_since(at) < OPEN_AGAIN_AFTER) {
            return None;
        }
        let options = BindOptions { recv_buf: self.socket_buffer_bytes, ..BindOptions::default() };
        match connect_udp(self.server, None, &options).and_then(|socket| backend.add(socket, Role::Connected))
        {
            Ok(socket) => {
                self.open_failed_at = None;
                *place = Some((group, socket));
                if let Some(slot) = self.by_slot.get_mut(socket.slot()) {
                    *slot = Some(group);
                }
                Some(socket)
            }
            Err(error) => {
                if self.open_failed_at.replace(now).is_none() {
                    self.notices
                        .push(Notice::ForwarderFailed { server: self.server, error: error.to_string() });
                }
                None
            }
        }
    }

    /// A group may publish a stream, by this grant.
    pub fn granted(&mut self, group: GroupKey, stream: &str, grant: Grant) {
        self.granted.insert(group, (stream.into(), grant.token));
        if let (Some(token), true) = (grant.token, grant.spent) {
            self.notices.push(Notice::TokenSpent { token });
        }
    }

    /// The groups that another policy would not let publish what they do.
    pub fn without_right(&self, now: Instant, keeper: &Gatekeeper<'_>) -> Vec<GroupKey> {
        let keeps = |group: GroupKey, stream: &str, token: Option<&TokenId>| {
            keeper.keeps(now, Peer::Bonded(group), Wish::Publish, stream, token)
        };
        let groups = self.granted.iter();
        groups
            .filter(|(group, (stream, token))| !keeps(**group, stream, token.as_ref()))
            .map(|(group, _)| *group)
            .collect()
    }

    /// Closes the forwarder of a group that is gone.
    pub fn close(&mut self, backend: &mut impl Backend, group: GroupKey) {
        self.granted.remove(&group);
        let place = self.by_group.get_mut(group.index());
        if let Some((_, socket)) = place.and_then(|place| place.take_if(|(owner, _)| *owner == group)) {
            if let Some(slot) = self.by_slot.get_mut(socket.slot()) {
                *slot = None;
            }
            backend.remove(socket);
        }
    }

    /// A forwarder's packet was refused: say so once, keep everything.
    pub fn refused(&mut self, now: Instant) {
        if self.refused_at.replace(now).is_none() {
            self.notices.push(Notice::ServerUnreachable { server: self.server });
        }
    }

    /// The server sent something.
    pub fn heard(&mut self, now: Instant) {
        if self.refused_at.is_some_and(|at| now.duration_since(at) > QUIET_AFTER_REFUSAL) {
            self.refused_at = None;
            self.notices.push(Notice::ServerReachable { server: self.server });
        }
    }
}
