//! The wire codec: vectors with their provenance, and properties over all bytes.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

mod properties;
mod vectors;
