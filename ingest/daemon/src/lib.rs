//! The bondgate daemon: shards, control plane, configuration and command line.
#![deny(unsafe_code)]

pub mod shard;
