//! The bondgate daemon: shards, control plane, configuration and command line.
#![deny(unsafe_code)]

pub mod cli;
pub mod config;
pub mod control;
pub mod demo;
pub mod exit;
pub mod logging;
pub mod policy;
pub mod service;
pub mod shard;
