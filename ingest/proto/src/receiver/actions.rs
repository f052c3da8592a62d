//! What the receiver wants done besides passing the datagram on.
//!
//! A bounded list with one arena for the bytes of replies. Promises: nothing is allocated after creation; what does not
//! fit is refused, counted and never half written. The receiver looks for room before it changes state, so that an action
//! somebody depends on (closing a forwarder, unsteering an address) is delayed rather than lost; see
//! [`Receiver::actions_min`](super::Receiver::actions_min).

use super::Notice;
use crate::{GroupKey, LinkAddr};
use std::ops::Range;

/// A rare effect for the caller to carry out, in order, before it acts on the verdict of the same call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Send the attached bytes to this address from the socket the sender talks to.
    Reply {
        /// Where to.
        to: LinkAddr,
    },
    /// Hand the attached bytes, one SRT packet, to whatever the group's uplink packets go to.
    SendDownstream {
        /// Whose forwarder or endpoint.
        group: GroupKey,
    },
    /// The group carries its first SRT packet: open its forwarder.
    OpenForwarder(GroupKey),
    /// The group is gone: close its forwarder. The key is not valid any more.
    CloseForwarder(GroupKey),
    /// Datagrams from this address belong to this shard: the other shards should hear [`Command::Claimed`], and a kernel
    /// that can be told should pass them by.
    ///
    /// [`Command::Claimed`]: super::Command::Claimed
    Steer {
        /// The link's address.
        addr: LinkAddr,
        /// The owner of its group.
        shard: u8,
        /// It is a device's.
        proven: bool,
    },
    /// Datagrams from this address do not belong to this shard any more; the same for [`Command::Released`].
    ///
    /// [`Command::Released`]: super::Command::Released
    Unsteer {
        /// The address of a link that went away.
        addr: LinkAddr,
    },
    /// Something worth telling people.
    Notice(Notice),
}

/// The bounded list. Drain it after every call or every batch.
pub struct Actions {
    entries: Vec<(Action, Range<usize>)>,
    arena: Vec<u8>,
    entries_max: usize,
    arena_max: usize,
    overflowed: u64,
}

impl Actions {
    /// Room for `actions` entries with together `arena_bytes` bytes of replies.
    pub fn with_capacity(actions: usize, arena_bytes: usize) -> Self {
        Self {
            entries: Vec::with_capacity(actions),
            arena: Vec::with_capacity(arena_bytes),
            entries_max: actions,
            arena_max: arena_bytes,
            overflowed: 0,
        }
    }

    /// Appends an action without bytes. `false` (and counted) when there is no room.
    pub fn push(&mut self, action: Action) -> bool {
        self.push_with(action, 0, |_| {})
    }

    /// Appends an action with `len` bytes that `fill` writes. `false` (and counted) when there is no room for both.
    pub fn push_with(&mut self, action: Action, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        if !self.has_room(1, len) {
            self.overflowed += 1;
            return false;
        }
        let start = self.arena.len();
        self.arena.resize(start + len, 0);
        fill(&mut self.arena[start..]);
        self.entries.push((action, start..start + len));
        true
    }

    /// There is room for `actions` more entries and `bytes` more bytes.
    pub fn has_room(&self, actions: usize, bytes: usize) -> bool {
        self.entries.len() + actions <= self.entries_max && self.arena.len() + bytes <= self.arena_max
    }

    /// The actions in order, each with its bytes (empty for those without).
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Action, &[u8])> {
        self.entries
            .iter()
            .map(|(action, range)| (*action, self.arena.get(range.clone()).unwrap_or_default()))
    }

    /// Calls `each` for every action in order and empties the list.
    pub fn drain(&mut self, mut each: impl FnMut(Action, &[u8])) {
        self.iter().for_each(|(action, bytes)| each(action, bytes));
        self.clear();
    }

    /// Forgets all actions.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.arena.clear();
    }

    /// How many actions are waiting.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// No action is waiting.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many actions were refused for want of room since creation.
    pub fn overflowed(&self) -> u64 {
        self.overflowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_does_not_fit_as_a_whole() {
        let to = LinkAddr::new("192.0.2.1:5000".parse().unwrap());
        let mut actions = Actions::with_capacity(2, 10);
        assert!(actions.push_with(Action::Reply { to }, 8, |bytes| bytes.fill(7)));
        assert!(!actions.push_with(Action::Reply { to }, 3, |_| unreachable!("no room, nothing to fill")));
        assert!(actions.push(Action::Unsteer { addr: to }));
        assert!(!actions.push(Action::Unsteer { addr: to }));
        assert_eq!(actions.overflowed(), 2);
        let mut seen = Vec::new();
        actions.drain(|action, bytes| seen.push((action, bytes.to_vec())));
        assert_eq!(seen, [(Action::Reply { to }, vec![7; 8]), (Action::Unsteer { addr: to }, vec![])]);
        assert!(actions.is_empty() && actions.has_room(2, 10));
    }
}
