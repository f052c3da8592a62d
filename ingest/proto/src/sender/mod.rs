//! The SRTLA sender as a state machine (see the crate's documentation).
