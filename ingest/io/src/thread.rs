//! Pinning a thread to a core.

use std::io;

/// Lets the calling thread run on core `core` only.
///
/// # Errors
/// `InvalidInput` when there is no such core or the process may not use it.
pub fn pin_current_thread(core: usize) -> io::Result<()> {
    if core >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: an all-zero cpu_set_t is the valid empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `core` is below CPU_SETSIZE, so the bit lies within the set.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: the set is a live local of the size named; thread 0 means the calling one.
    let result = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_to_the_first_core_and_refuses_an_impossible_one() {
        std::thread::spawn(|| {
            pin_current_thread(0).unwrap();
            // SAFETY: takes no arguments.
            assert_eq!(unsafe { libc::sched_getcpu() }, 0);
            assert!(pin_current_thread(usize::MAX).is_err());
        })
        .join()
        .unwrap();
    }
}
