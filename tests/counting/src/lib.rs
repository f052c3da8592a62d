//! Counts what the calling thread costs: allocations, readings of the clock, futex calls. For tests.
//!
//! Linking this crate makes it the program's allocator and puts it between the program and the C library's
//! `clock_gettime` and `syscall`. All counts are per thread, so harness and peers in other threads do not disturb.
//! Promise: what is counted is what Rust code does. An uncontended lock costs no call and is not seen here, and what
//! the C library calls inside itself is not either; the former is a matter of lints (`disallowed_types`).

mod alloc;
#[cfg(target_env = "gnu")]
mod calls;

pub use alloc::allocations;
#[cfg(target_env = "gnu")]
pub use calls::{clock_reads, futex_calls};

/// Runs `f` and returns how often it allocated.
pub fn allocations_of(f: impl FnOnce()) -> u64 {
    let before = allocations();
    f();
    allocations() - before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_are_counted_per_thread() {
        assert_eq!(allocations_of(|| drop(std::hint::black_box(Box::new(1_u8)))), 1);
        assert_eq!(allocations_of(|| std::hint::black_box(vec![1_u8]).reserve_exact(1 << 12)), 2);
        let worker = std::thread::spawn(|| drop(std::hint::black_box(vec![1_u8; 100])));
        while !worker.is_finished() {
            std::hint::spin_loop();
        }
        assert_eq!(allocations_of(|| worker.join().expect("no panic")), 0);
    }

    #[cfg(target_env = "gnu")]
    #[test]
    fn clock_reads_are_counted() {
        let before = clock_reads();
        let first = std::time::Instant::now();
        let second = std::time::Instant::now();
        assert_eq!(clock_reads() - before, 2);
        assert!(second >= first && first.elapsed() < std::time::Duration::from_secs(60));
        assert!(std::time::SystemTime::now() > std::time::UNIX_EPOCH);
        assert_eq!(clock_reads() - before, 4);
    }

    #[cfg(target_env = "gnu")]
    #[test]
    fn waiting_for_a_lock_is_counted() {
        let lock = std::sync::Arc::new(std::sync::Mutex::new(()));
        let (held, is_held) = std::sync::mpsc::channel();
        let other = lock.clone();
        let holder = std::thread::spawn(move || {
            let guard = other.lock().expect("not poisoned");
            held.send(()).expect("the receiver lives");
            std::thread::sleep(std::time::Duration::from_millis(100));
            drop(guard);
        });
        is_held.recv().expect("the sender lives");
        let before = futex_calls();
        drop(lock.lock().expect("not poisoned"));
        assert!(futex_calls() > before);
        holder.join().expect("no panic");
    }
}
