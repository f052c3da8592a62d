//! Groups and their links, in lists that are searched from front to back, as the classic receivers do.
//!
//! The links are nodes of their own on the heap, which is what a search through many of them costs: with 195 groups of eight links
//! one search reads 780 of them on average.
//!
//! Promise: never more groups and links than it was told.

use std::collections::LinkedList;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use bondgate_proto::Seq;

/// A link that was silent so long is removed, a group without links likewise.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Data packets per SRTLA ACK, and the length of that.
const ACK_EVERY: usize = 10;
const ACK_LEN: usize = 4 + 4 * ACK_EVERY;

/// A link.
#[derive(Debug)]
pub struct Link {
    /// Where it comes from.
    pub addr: SocketAddr,
    /// When it was last heard.
    pub heard_at: Instant,
    unacked: [u32; ACK_EVERY],
    unacked_len: usize,
}

impl Link {
    /// Books a data packet; every tenth time the SRTLA ACK for the last ten.
    pub fn note(&mut self, seq: Seq) -> Option<[u8; ACK_LEN]> {
        if let Some(place) = self.unacked.get_mut(self.unacked_len) {
            *place = seq.get();
            self.unacked_len += 1;
        }
        if self.unacked_len < ACK_EVERY {
            return None;
        }
        self.unacked_len = 0;
        let mut ack = [0; ACK_LEN];
        let (head, body) = ack.split_at_mut(4);
        head.copy_from_slice(&[0x91, 0, 0, 0]);
        for (word, seq) in body.chunks_exact_mut(4).zip(self.unacked) {
            word.copy_from_slice(&seq.to_be_bytes());
        }
        Some(ack)
    }
}

/// A group.
#[derive(Debug)]
pub struct Group {
    id: [u8; 256],
    opened_at: Instant,
    /// Its links.
    #[expect(clippy::linkedlist, reason = "what the classic receivers have")]
    pub links: LinkedList<Link>,
    /// The link that last carried registration or SRT.
    pub last_from: SocketAddr,
    /// The socket to the SRT server, once there was something to send.
    pub server: Option<UdpSocket>,
}

/// How a REG2 ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// REG3.
    Joined,
    /// `REG_NGP`.
    Unknown,
    /// `REG_ERR`.
    Refused,
}

/// All groups. A group keeps its place for life, because epoll names its socket by it.
#[derive(Debug)]
pub struct Groups {
    groups: Vec<Option<Box<Group>>>,
    links_max: usize,
}

impl Groups {
    /// No groups yet.
    pub fn new(groups_max: usize, links_max: usize) -> Self {
        Self { groups: (0..groups_max).map(|_| None).collect(), links_max }
    }

    /// REG1: a new group, its full ID. `None` when there is no room or the address is taken.
    pub fn open(&mut self, now: Instant, from: SocketAddr, id: &[u8; 256]) -> Option<[u8; 256]> {
        let taken = self.find(from).is_some() || self.groups.iter().flatten().any(|g| g.last_from == from);
        if taken {
            return None;
        }
        let place = self.groups.iter_mut().find(|place| place.is_none())?;
        let mut full = *id;
        for byte in full.iter_mut().skip(128) {
            *byte = fastrand::u8(..);
        }
        let links = LinkedList::new();
        *place = Some(Box::new(Group { id: full, opened_at: now, links, last_from: from, server: None }));
        Some(full)
    }

    /// REG2: a link joins the group of that ID.
    pub fn join(&mut self, now: Instant, from: SocketAddr, id: &[u8; 256]) -> Join {
        let Some(place) = self.groups.iter().position(|g| g.as_ref().is_some_and(|g| g.id == *id)) else {
            return Join::Unknown;
        };
        let member_of = self.find(from).map(|(group, _)| group);
        let links_max = self.links_max;
        let Some(group) = self.get_mut(place) else { return Join::Unknown };
        match member_of {
            Some(other) if other != place => return Join::Refused,
            Some(_) => {}
            None if group.links.len() >= links_max => return Join::Refused,
            None => {
                group.links.push_front(Link {
                    addr: from,
                    heard_at: now,
                    unacked: [0; ACK_EVERY],
                    unacked_len: 0,
                });
            }
        }
        group.last_from = from;
        Join::Joined
    }

    /// The link with this address and the place of its group.
    pub fn find(&mut self, from: SocketAddr) -> Option<(usize, &mut Link)> {
        self.groups.iter_mut().enumerate().find_map(|(place, group)| {
            let link = group.as_mut()?.links.iter_mut().find(|link| link.addr == from)?;
            Some((place, link))
        })
    }

    /// The group at a place.
    pub fn get_mut(&mut self, place: usize) -> Option<&mut Group> {
        self.groups.get_mut(place)?.as_deref_mut()
    }

    /// Removes silent links and empty groups.
    pub fn cleanup(&mut self, now: Instant) {
        for place in &mut self.groups {
            let Some(group) = place else { continue };
            let links = std::mem::take(&mut group.links).into_iter();
            group.links = links.filter(|link| now.duration_since(link.heard_at) < TIMEOUT).collect();
            if group.links.is_empty() && now.duration_since(group.opened_at) > TIMEOUT {
                *place = None;
            }
        }
    }
}
