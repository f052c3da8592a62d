//! Alive and ready: the two questions a supervisor asks.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::ServiceState;
use crate::shard::snapshot::SnapshotSlot;

/// A shard whose last beat is older than this does not turn any more.
pub const HEARTBEAT_MAX: Duration = Duration::from_secs(2);

/// Does every shard turn? A shard that never beat counts from `started`.
///
/// # Errors
/// Names every shard that does not, and for how long.
pub fn alive(slots: &[SnapshotSlot], started: Instant, now: Instant) -> Result<(), String> {
    let mut silent = String::new();
    for (shard, slot) in slots.iter().enumerate() {
        let age = now.saturating_duration_since(slot.taken().unwrap_or(started));
        if age >= HEARTBEAT_MAX {
            let separator = if silent.is_empty() { "" } else { "; " };
            let _ = write!(silent, "{separator}shard {shard} has not turned for {:.1} s", age.as_secs_f64());
        }
    }
    if silent.is_empty() { Ok(()) } else { Err(silent) }
}

/// Are streams being served?
///
/// # Errors
/// Says whether it is still starting or already stopping.
pub fn ready(state: &ServiceState) -> Result<(), String> {
    if state.draining.load(Ordering::Acquire) {
        Err("stopping".to_owned())
    } else if !state.ready.load(Ordering::Acquire) {
        Err("starting".to_owned())
    } else {
        Ok(())
    }
}
