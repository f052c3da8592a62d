//! Waking a backend that waits, from another thread: an eventfd, written at most once per wake-up that was noticed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Ends a waiting `receive` of the backend it came from; cheap to clone, usable from any thread. A wake-up while
/// nobody waits ends the next `receive`.
#[derive(Debug, Clone)]
pub struct Waker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    event: File,
    /// Set from the first `wake` until the backend noticed: further ones need no system call.
    pending: AtomicBool,
}

impl Waker {
    pub(crate) fn new() -> io::Result<Waker> {
        // SAFETY: eventfd takes two plain numbers and has no memory effects on this process.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just returned by the kernel and nobody else owns it.
        let event = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(Waker { shared: Arc::new(Shared { event, pending: AtomicBool::new(false) }) })
    }

    /// Wakes the backend. Everything written before is visible to the woken thread after its `receive`.
    pub fn wake(&self) {
        if !self.shared.pending.swap(true, Ordering::AcqRel) {
            // The counter cannot overflow (it is read each time `pending` is cleared), so this neither blocks nor fails.
            let _ = (&self.shared.event).write(&1_u64.to_ne_bytes());
        }
    }

    /// The descriptor that becomes readable.
    pub(crate) fn fd(&self) -> RawFd {
        self.shared.event.as_raw_fd()
    }

    /// Called by the backend: empties the descriptor, so that the next `wake` counts anew. Returns whether there was
    /// a wake-up.
    pub(crate) fn noticed(&self) -> bool {
        if !self.shared.pending.load(Ordering::Acquire) {
            return false;
        }
        // At worst waits for the instant between the waker's mark and its write.
        let mut count = [0_u8; 8];
        let _ = (&self.shared.event).read(&mut count);
        self.shared.pending.swap(false, Ordering::AcqRel)
    }
}
