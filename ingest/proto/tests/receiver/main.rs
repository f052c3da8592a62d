//! The receiver as seen from outside: datagrams in, verdicts and actions out, on a virtual clock.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

mod bans;
mod cluster;
mod data_mac;
mod defences;
mod device;
mod geo;
mod mutated;
mod oracle;
mod return_path;
mod rig;
mod roaming;
mod rules;
mod sa1;
mod sealed;
mod shards;
mod tolerates;
