//! Giving up capabilities.
//!
//! The kernel keeps them per thread, so every thread of the daemon gives up its own as soon as it has opened what it needs.

use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};

/// The calling thread has no capability from now on and can gain none. Threads it starts have none either.
pub fn drop_all() {
    let none = CapabilitySet::empty();
    let dropped = set_no_new_privs(true).and_then(|()| {
        set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
    });
    if let Err(error) = dropped {
        tracing::warn!("capabilities cannot be given up: {error}");
    }
}
