//! Placeholder line replaced by the crate.
#![forbid(unsafe_code)]
