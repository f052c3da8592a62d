//! What the sender wants done besides moving the datagram at hand: registration packets, keepalives, copies, requests.
//!
//! Promise: sized once; pushing never allocates and never panics. What does not fit is counted and dropped, and every
//! dropped packet is one that a timer repeats.

use bondgate_auth::sa1::wire::Refusal;

use super::LinkIndex;

/// A rare effect of a call into [`Sender`](super::Sender).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SenderAction<'a> {
    /// Send `bytes` from the link's socket to the receiver.
    Send {
        /// Which link.
        link: LinkIndex,
        /// The whole datagram.
        bytes: &'a [u8],
    },
    /// Please open a fresh socket (new source port) for this link, then call
    /// [`Sender::link_rebound`](super::Sender::link_rebound). May be ignored: the old socket keeps being tried.
    Rebind {
        /// Which link.
        link: LinkIndex,
    },
    /// An event for people.
    Notice(SenderNotice),
}

/// What people may want to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SenderNotice {
    /// The receiver answered REG1, or confirmed the first link of a sender with a key: the group exists.
    Registered {
        /// The link on which the answer came.
        link: LinkIndex,
    },
    /// The receiver no longer knows the group (NGP); registering again.
    GroupLost {
        /// The link on which it said so.
        link: LinkIndex,
    },
    /// The receiver refused (`REG_ERR` or `REG_NAK`) on this link.
    Refused {
        /// The link that was refused.
        link: LinkIndex,
        /// Why; stock receivers do not say.
        cause: Option<Refusal>,
    },
    /// The receiver does not speak SA1, and the sender was told to put up with that.
    Downgraded {
        /// The link on which it answered.
        link: LinkIndex,
    },
    /// The receiver says that the key is about to be replaced.
    KeyRetiring {
        /// The link on which it said so.
        link: LinkIndex,
    },
    /// The link carries data.
    LinkUp {
        /// The link.
        link: LinkIndex,
    },
    /// The link has not answered in time; data goes elsewhere while it is asked again.
    LinkSuspect {
        /// The link.
        link: LinkIndex,
    },
    /// The link stayed silent; a fresh socket is asked for.
    LinkLost {
        /// The link.
        link: LinkIndex,
    },
}

#[derive(Clone, Copy, Debug)]
enum Stored {
    Send { link: LinkIndex, start: u32, end: u32 },
    Rebind { link: LinkIndex },
    Notice(SenderNotice),
}

/// A bounded list of [`SenderAction`]s with an arena for their bytes. Reuse one for the life of the sender.
#[derive(Debug)]
pub struct SenderActions {
    list: Vec<Stored>,
    arena: Vec<u8>,
    list_max: usize,
    arena_max: usize,
    overflowed: u64,
}

impl SenderActions {
    /// Room for `actions` actions and `arena_bytes` bytes of datagrams between two drains. One call pushes at most three
    /// actions and 320 bytes per link, or one copy of the datagram at hand; [`SenderActions::default`] fits a batch of
    /// 64 calls with 16 links.
    pub fn with_capacity(actions: usize, arena_bytes: usize) -> Self {
        Self {
            list: Vec::with_capacity(actions),
            arena: Vec::with_capacity(arena_bytes),
            list_max: actions,
            arena_max: arena_bytes,
            overflowed: 0,
        }
    }

    /// How many actions wait.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Actions lost because the list or the arena was full, since creation.
    pub const fn overflowed(&self) -> u64 {
        self.overflowed
    }

    /// Hands every action to `each` in order and empties the list.
    pub fn drain(&mut self, mut each: impl FnMut(SenderAction<'_>)) {
        for stored in &self.list {
            each(match *stored {
                Stored::Send { link, start, end } => SenderAction::Send {
                    link,
                    bytes: self.arena.get(start as usize..end as usize).unwrap_or_default(),
                },
                Stored::Rebind { link } => SenderAction::Rebind { link },
                Stored::Notice(notice) => SenderAction::Notice(notice),
            });
        }
        self.list.clear();
        self.arena.clear();
    }

    /// Forgets everything that waits.
    pub fn clear(&mut self) {
        self.list.clear();
        self.arena.clear();
    }

    pub(super) fn send(&mut self, link: LinkIndex, bytes: &[u8]) -> bool {
        let start = self.arena.len();
        if self.list.len() >= self.list_max || self.arena_max - start < bytes.len() {
            self.overflowed += 1;
            return false;
        }
        self.arena.extend_from_slice(bytes);
        self.list.push(Stored::Send { link, start: start as u32, end: self.arena.len() as u32 });
        true
    }

    /// Sends `packet` with `trailer_len` more bytes, all of which `seal` may change. False if there is no room, or `seal`
    /// says so.
    pub(super) fn send_sealed(
        &mut self,
        link: LinkIndex,
        packet: &[u8],
        trailer_len: usize,
        seal: impl FnOnce(&mut [u8]) -> bool,
    ) -> bool {
        let (start, len) = (self.arena.len(), packet.len() + trailer_len);
        if self.list.len() >= self.list_max || self.arena_max - start < len {
            self.overflowed += 1;
            return false;
        }
        self.arena.extend_from_slice(packet);
        self.arena.resize(start + len, 0);
        if !self.arena.get_mut(start..).is_some_and(seal) {
            self.arena.truncate(start);
            return false;
        }
        self.list.push(Stored::Send { link, start: start as u32, end: self.arena.len() as u32 });
        true
    }

    pub(super) fn rebind(&mut self, link: LinkIndex) -> bool {
        self.push(Stored::Rebind { link })
    }

    pub(super) fn notice(&mut self, notice: SenderNotice) -> bool {
        self.push(Stored::Notice(notice))
    }

    fn push(&mut self, stored: Stored) -> bool {
        if self.list.len() >= self.list_max {
            self.overflowed += 1;
            return false;
        }
        self.list.push(stored);
        true
    }
}

impl Default for SenderActions {
    fn default() -> Self {
        Self::with_capacity(256, 128 * 1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overflow_is_counted_and_does_not_grow() {
        let mut actions = SenderActions::with_capacity(3, 10);
        let link = LinkIndex(1);
        assert!(actions.send(link, &[1; 6]));
        assert!(!actions.send(link, &[2; 5]), "the arena is full");
        assert!(actions.send(link, &[3; 4]));
        assert!(actions.rebind(link));
        assert!(!actions.notice(SenderNotice::LinkUp { link }), "the list is full");
        assert_eq!(actions.overflowed(), 2);
        let mut seen = Vec::new();
        actions.drain(|action| {
            if let SenderAction::Send { bytes, .. } = action {
                seen.push(bytes.to_vec());
            }
        });
        assert_eq!(seen, [vec![1; 6], vec![3; 4]]);
        assert!(actions.is_empty());
        assert!(actions.send(link, &[4; 10]), "a drain makes room again");
    }
}
