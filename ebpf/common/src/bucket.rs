//! Token buckets of one word.
//!
//! A bucket is the time at which it will be full again, in ns; 0 is a full one, so memory of zeros is a table of full
//! buckets. Taking a token moves that time on by the interval between two tokens, and is refused when it lies further
//! ahead than the tolerance. Promises: over any time `t` at most `burst + t / interval` tokens are given, also when several
//! CPUs take at once; no division; nothing overflows.

#[cfg(target_has_atomic = "64")]
use core::sync::atomic::{AtomicU64, Ordering};

/// How often a token may lose the race against another CPU before the answer is no.
const ATTEMPTS: u32 = 4;

/// The word that is a bucket. (The BPF target has the instruction, but its compiler does not offer it as `AtomicU64`.)
pub trait Word {
    /// What is in it.
    fn load(&self) -> u64;

    /// Puts `new` into it if `seen` is still what is in it, and says what was.
    fn compare_exchange(&self, seen: u64, new: u64) -> u64;
}

#[cfg(target_has_atomic = "64")]
impl Word for AtomicU64 {
    fn load(&self) -> u64 {
        Self::load(self, Ordering::Relaxed)
    }

    fn compare_exchange(&self, seen: u64, new: u64) -> u64 {
        match Self::compare_exchange(self, seen, new, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(was) | Err(was) => was,
        }
    }
}

/// A rate and a burst, as the arithmetic wants them. The default, all zeros, is unlimited.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rate {
    /// Between two tokens, in ns; 0 is unlimited.
    pub interval_ns: u64,
    /// What may be taken ahead of time, in ns: `(burst - 1) * interval_ns`.
    pub tolerance_ns: u64,
}

impl Rate {
    /// No limit.
    pub const UNLIMITED: Self = Self { interval_ns: 0, tolerance_ns: 0 };

    /// `per_s` tokens per second, `burst` at once (at least one). No tokens per second is no limit.
    pub const fn per_second(per_s: u32, burst: u32) -> Self {
        if per_s == 0 {
            return Self::UNLIMITED;
        }
        let interval_ns = 1_000_000_000_u64.div_ceil(per_s as u64);
        Self { interval_ns, tolerance_ns: interval_ns * (burst.saturating_sub(1) as u64) }
    }
}

/// The bucket has a token at `now_ns`. Nothing is taken.
#[inline(always)]
pub fn has_token(bucket: &impl Word, rate: &Rate, now_ns: u64) -> bool {
    bucket.load().saturating_sub(now_ns) <= rate.tolerance_ns
}

/// Takes a token if there is one.
#[inline(always)]
pub fn take(bucket: &impl Word, rate: &Rate, now_ns: u64) -> bool {
    if rate.interval_ns == 0 {
        return true;
    }
    let mut full_at = bucket.load();
    for _ in 0..ATTEMPTS {
        let from = if full_at > now_ns { full_at } else { now_ns };
        if from - now_ns > rate.tolerance_ns {
            return false;
        }
        let seen = bucket.compare_exchange(full_at, from.saturating_add(rate.interval_ns));
        if seen == full_at {
            return true;
        }
        full_at = seen;
    }
    false
}

#[cfg(test)]
mod tests;
