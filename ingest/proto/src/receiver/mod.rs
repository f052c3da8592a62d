//! The SRTLA receiver as a state machine.
