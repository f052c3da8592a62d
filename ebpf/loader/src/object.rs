//! The object with the BPF programs, as it is committed and part of the binary.
//!
//! `cargo xtask ebpf` makes it from `ebpf/prog` and `ebpf/common`; beside it stands with what, and from which source.

use sha2::{Digest, Sha256};

/// The object, aligned as ELF wants it.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../object/gate.bpf.o");
/// Compiler, linker, flags and hashes.
pub static PROVENANCE: &str = include_str!("../object/gate.bpf.txt");

/// SHA-256 of the object: tells which program is attached.
pub fn sha256() -> [u8; 32] {
    Sha256::digest(OBJECT).into()
}
