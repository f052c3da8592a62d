//! All that a packet meets: the loop, forwarders, the SRT endpoint, counters. Imports nothing from `control` or `cli`.

pub mod snapshot;
