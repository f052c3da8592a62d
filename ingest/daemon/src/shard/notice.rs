//! Events for people: what a shard tells the supervisor, which logs it. Rare by construction, bounded by the queue;
//! a full queue drops the notice and counts it, the packet loop never waits.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bondgate_auth::stream::TokenId;
use bondgate_proto::GroupKey;
use bondgate_proto::receiver::Notice as SrtlaNotice;
use crossbeam::queue::ArrayQueue;

/// Something worth a log line.
#[derive(Clone, Debug)]
pub enum Notice {
    /// From the SRTLA receiver: groups and links.
    Srtla(SrtlaNotice),
    /// The first link of a new group has joined.
    GroupOpened {
        /// The group.
        group: GroupKey,
        /// Which device it is, or that it is none.
        by: String,
    },
    /// A publisher was accepted.
    PublisherUp {
        /// Stream name.
        stream: Arc<str>,
        /// Where from.
        peer: String,
        /// Latency both sides agreed on.
        latency_ms: u64,
    },
    /// A publisher went.
    PublisherDown {
        /// Stream name.
        stream: Arc<str>,
        /// Why.
        reason: String,
    },
    /// A player was accepted.
    PlayerUp {
        /// Stream name.
        stream: Arc<str>,
        /// Where from.
        peer: String,
    },
    /// A player went.
    PlayerDown {
        /// Stream name.
        stream: Arc<str>,
        /// Why.
        reason: String,
    },
    /// A caller was refused. The stable line for log filters: it always holds `code=`.
    Rejected {
        /// Where from.
        peer: String,
        /// SRT rejection code without the 1000 that goes on the wire.
        code: u16,
        /// What it asked for, escaped.
        stream_id: String,
        /// One sentence: what is wrong and what to do.
        why: String,
    },
    /// A token that is good for one caller was used. The keyring should hear of it.
    TokenSpent {
        /// The token.
        token: TokenId,
    },
    /// The SRT server behind us refuses packets (ICMP port unreachable).
    ServerUnreachable {
        /// Its address.
        server: SocketAddr,
    },
    /// The SRT server behind us answers again.
    ServerReachable {
        /// Its address.
        server: SocketAddr,
    },
    /// A forwarder socket could not be opened.
    ForwarderFailed {
        /// Its server.
        server: SocketAddr,
        /// The system's reason.
        error: String,
    },
}

impl Notice {
    /// True for what an operator should look at.
    pub fn is_warning(&self) -> bool {
        matches!(
            self,
            Self::Srtla(SrtlaNotice::Strike { .. })
                | Self::Rejected { .. }
                | Self::ServerUnreachable { .. }
                | Self::ForwarderFailed { .. }
        )
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Srtla(notice) => srtla(*notice, f),
            Self::GroupOpened { group, by } => write!(f, "group opened: group={} {by}", group_name(*group)),
            Self::PublisherUp { stream, peer, latency_ms } => {
                write!(f, "publisher up: stream={stream} peer={peer} latency_ms={latency_ms}")
            }
            Self::PublisherDown { stream, reason } => {
                write!(f, "publisher down: stream={stream} reason={reason}")
            }
            Self::PlayerUp { stream, peer } => write!(f, "player up: stream={stream} peer={peer}"),
            Self::PlayerDown { stream, reason } => write!(f, "player down: stream={stream} reason={reason}"),
            Self::Rejected { peer, code, stream_id, why } => {
                write!(f, "caller refused: code={code} peer={peer} stream_id=\"{stream_id}\": {why}")
            }
            Self::TokenSpent { token } => write!(f, "one-time token used: token={token}"),
            Self::ServerUnreachable { server } => write!(
                f,
                "SRT server {server} refuses packets; groups are kept and the stream goes on when it is back"
            ),
            Self::ServerReachable { server } => write!(f, "SRT server {server} answers again"),
            Self::ForwarderFailed { server, error } => {
                write!(f, "cannot open a socket towards SRT server {server}: {error}")
            }
        }
    }
}

/// A group's name in logs and tables: slot and generation, unique within a shard's life.
pub fn group_name(group: GroupKey) -> String {
    format!("g{}.{}", group.index(), group.generation())
}

fn srtla(notice: SrtlaNotice, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match notice {
        // The shard says who it is, see `Notice::GroupOpened`.
        SrtlaNotice::GroupOpened { group } => write!(f, "group opened: group={}", group_name(group)),
        SrtlaNotice::GroupClosed { group, reason } => {
            write!(f, "group closed: group={} reason={reason:?}", group_name(group))
        }
        SrtlaNotice::LinkJoined { group, addr, roamed, .. } => {
            let how = if roamed { " (followed to a new address)" } else { "" };
            write!(f, "link joined: group={} addr={}{how}", group_name(group), addr.addr)
        }
        SrtlaNotice::LinkLeft { group, addr, reason, .. } => {
            write!(f, "link left: group={} addr={} reason={reason:?}", group_name(group), addr.addr)
        }
        SrtlaNotice::Strike { ip } => write!(f, "proven failure: addr={ip}"),
        SrtlaNotice::SessionReplaced { group } => {
            write!(f, "encoder restarted: group={} its old SRT session is closed", group_name(group))
        }
    }
}

/// The bounded queue from all shards to the supervisor.
#[derive(Clone, Debug)]
pub struct Notices {
    queue: Arc<ArrayQueue<Notice>>,
    lost: Arc<AtomicU64>,
}

impl Notices {
    /// A queue for at most `capacity` notices between two looks of the supervisor.
    pub fn new(capacity: usize) -> Self {
        Self { queue: Arc::new(ArrayQueue::new(capacity)), lost: Arc::new(AtomicU64::new(0)) }
    }

    /// Adds a notice, or counts it as lost.
    pub fn push(&self, notice: Notice) {
        if self.queue.push(notice).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The oldest notice.
    pub fn pop(&self) -> Option<Notice> {
        self.queue.pop()
    }

    /// Notices lost since the last call.
    pub fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}
