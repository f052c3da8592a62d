//! The loader of the gate: the only crate that knows aya.
//!
//! What the programs decide and how their maps are laid out is in `bondgate_ebpf_common`; they come as one committed object,
//! so that building needs the stable tool chain only.

pub mod object;
