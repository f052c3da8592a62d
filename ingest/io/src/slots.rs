//! The table of sockets: slots sized at start, names with a generation, removal in two steps (a removed socket stays
//! usable for what was queued on it until the turn ends, and its slot is reused only when the backend says so).

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};

use crate::pace::GroPolicy;
use crate::sys::{self, Family};
use crate::{IoCounters, Role, SocketId};

/// A socket and what is remembered about it. `T` is the backend's own part.
#[derive(Debug)]
pub(crate) struct Slot<T> {
    pub id: SocketId,
    pub socket: UdpSocket,
    pub local: SocketAddr,
    pub family: Family,
    pub role: Role,
    /// Send segmented; cleared for good when the kernel cannot.
    pub gso: bool,
    /// The kernel's drop counter, as last seen.
    kernel_drops: u32,
    pub gro_policy: GroPolicy,
    /// False from `remove` on.
    pub live: bool,
    pub own: T,
}

impl<T> Slot<T> {
    pub(crate) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Takes the kernel's counter of dropped datagrams; returns how many are new.
    pub(crate) fn note_kernel_drops(&mut self, total: u32) -> u64 {
        let new = total.wrapping_sub(self.kernel_drops);
        self.kernel_drops = total;
        u64::from(new)
    }
}

#[derive(Debug)]
pub(crate) struct Slots<T> {
    table: Vec<Option<Slot<T>>>,
    generations: Vec<u32>,
    free: VecDeque<u32>,
    listeners: Vec<u32>,
}

impl<T> Slots<T> {
    pub(crate) fn new(sockets: usize) -> Slots<T> {
        Slots {
            table: (0..sockets).map(|_| None).collect(),
            generations: vec![0; sockets],
            free: (0..sockets as u32).collect(),
            listeners: Vec::with_capacity(sockets),
        }
    }

    /// Counts what listeners have dropped since the last look. Other sockets tell with the datagrams they receive, which costs a
    /// little for each.
    pub(crate) fn look_at_drops(&mut self, counters: &mut IoCounters) {
        for &index in &self.listeners {
            if let Some(slot) = self.table.get_mut(index as usize).and_then(Option::as_mut)
                && let Some(total) = sys::queue_drops(slot.fd())
            {
                counters.rx_kernel_drops += slot.note_kernel_drops(total);
            }
        }
    }

    /// Prepares a socket (non-blocking, drop counter) and gives it a slot, the one longest unused.
    pub(crate) fn insert(
        &mut self,
        socket: UdpSocket,
        role: Role,
        gso: bool,
        own: T,
    ) -> io::Result<SocketId> {
        socket.set_nonblocking(true)?;
        let local = socket.local_addr()?;
        if role != Role::Listener {
            // Only a counter; where it does not exist the count stays 0.
            let _ = sys::set_option(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1);
        }
        let Some(index) = self.free.pop_front() else {
            let text =
                format!("all {} sockets of this backend are in use (Limits::sockets)", self.table.len());
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, text));
        };
        let index = index as usize;
        let id = SocketId::new(index, self.generations[index]);
        if role == Role::Listener {
            self.listeners.push(index as u32);
        }
        self.table[index] = Some(Slot {
            id,
            socket,
            local,
            family: Family::of(&local),
            role,
            gso,
            kernel_drops: 0,
            gro_policy: GroPolicy::default(),
            live: true,
            own,
        });
        Ok(id)
    }

    /// The slot of a socket that has not been removed.
    pub(crate) fn get(&self, id: SocketId) -> Option<&Slot<T>> {
        self.table.get(id.slot())?.as_ref().filter(|slot| slot.live && slot.id == id)
    }

    /// The slot of a socket that has not been removed.
    pub(crate) fn get_mut(&mut self, id: SocketId) -> Option<&mut Slot<T>> {
        self.table.get_mut(id.slot())?.as_mut().filter(|slot| slot.live && slot.id == id)
    }

    /// The slot of a socket that may have been removed but whose slot has not been released.
    pub(crate) fn even_removed(&self, id: SocketId) -> Option<&Slot<T>> {
        self.table.get(id.slot())?.as_ref().filter(|slot| slot.id == id)
    }

    /// The slot of a socket that may have been removed but whose slot has not been released.
    pub(crate) fn even_removed_mut(&mut self, id: SocketId) -> Option<&mut Slot<T>> {
        self.table.get_mut(id.slot())?.as_mut().filter(|slot| slot.id == id)
    }

    /// Whatever is in a slot.
    pub(crate) fn at(&mut self, index: usize) -> Option<&mut Slot<T>> {
        self.table.get_mut(index)?.as_mut()
    }

    /// The numbers of the slots whose own part fulfils a condition.
    pub(crate) fn numbers_where(&self, condition: impl Fn(&T) -> bool) -> impl Iterator<Item = u32> {
        let slots = self.table.iter().flatten();
        slots.filter(move |slot| condition(&slot.own)).map(|slot| slot.id.slot() as u32)
    }

    /// The slots of listeners, few.
    pub(crate) fn listeners(&self) -> &[u32] {
        &self.listeners
    }

    /// Empties a slot and closes its socket; the next socket in it has another name.
    pub(crate) fn release(&mut self, index: usize) {
        if let Some(place) = self.table.get_mut(index)
            && place.take().is_some()
        {
            self.generations[index] = self.generations[index].wrapping_add(1) & ((1 << 12) - 1);
            self.free.push_back(index as u32);
            self.listeners.retain(|&listener| listener as usize != index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> UdpSocket {
        UdpSocket::bind("127.0.0.1:0").unwrap()
    }

    #[test]
    fn a_reused_slot_has_another_name() {
        let mut slots = Slots::new(1);
        let first = slots.insert(socket(), Role::Connected, true, ()).unwrap();
        let error = slots.insert(socket(), Role::Connected, true, ()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
        slots.get_mut(first).unwrap().live = false;
        assert!(slots.get(first).is_none() && slots.even_removed(first).is_some());
        slots.release(0);
        slots.release(0);
        let second = slots.insert(socket(), Role::Connected, true, ()).unwrap();
        assert_eq!(second.slot(), first.slot());
        assert_ne!(second, first);
        assert!(
            slots.get(first).is_none() && slots.even_removed(first).is_none() && slots.get(second).is_some()
        );
    }

    #[test]
    fn names_survive_the_wrap_of_generations() {
        let mut slots = Slots::new(2);
        let mut last = None;
        for _ in 0..9000 {
            let id = slots.insert(socket(), Role::Connected, true, ()).unwrap();
            assert_ne!(Some(id), last);
            assert!(slots.get(id).is_some());
            slots.release(id.slot());
            last = Some(id);
        }
    }

    #[test]
    fn the_kernel_s_drop_counter_may_wrap() {
        let mut slots = Slots::new(1);
        let id = slots.insert(socket(), Role::Listener, true, ()).unwrap();
        let slot = slots.get_mut(id).unwrap();
        assert_eq!(slot.note_kernel_drops(u32::MAX - 1), u64::from(u32::MAX - 1));
        assert_eq!(slot.note_kernel_drops(3), 5);
    }
}
