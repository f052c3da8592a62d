//! The BPF object: built, recorded, checked.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::sources::{recorded, sha256, sources_sha256};
use crate::toolchain::Toolchain;

const PROGRAM: &str = "ebpf/prog";
const OBJECT: &str = "ebpf/loader/object/gate.bpf.o";
const PROVENANCE: &str = "ebpf/loader/object/gate.bpf.txt";

/// Flags of the compiler, besides those that take the folders' names out.
const FLAGS: &[&str] = &[
    "-Cdebuginfo=2",
    "-Ctarget-cpu=v3",
    "-Ctarget-feature=+allows-misaligned-mem-access",
    "-Clink-arg=--btf",
    "--cfg=bpf_target_arch=\"x86_64\"",
];

/// Builds the object; writes it, or compares it with the committed one.
///
/// # Errors
/// What failed, or in what way the committed object is not that of the sources.
pub fn run(root: &Path, check: bool, install: bool) -> Result<()> {
    let root = &root.canonicalize().context("the root of the repository")?;
    let sources = sources_sha256(root)?;
    let provenance = fs::read_to_string(root.join(PROVENANCE)).unwrap_or_default();
    if check {
        let object = fs::read(root.join(OBJECT)).context(OBJECT)?;
        for (name, found) in [("sources", &sources), ("object", &sha256(&object))] {
            let stands =
                recorded(&provenance, name).with_context(|| format!("{PROVENANCE} has no line {name}"))?;
            ensure!(
                stands == found,
                "the SHA-256 of {name} is {found}, and {PROVENANCE} says {stands}: run `cargo xtask ebpf` and commit \
                 what it writes"
            );
        }
    }
    let toolchain = Toolchain::find(root, install)?;
    let fresh = toolchain.build(root, &root.join(PROGRAM), FLAGS)?;
    if !check {
        fs::write(root.join(OBJECT), &fresh).context(OBJECT)?;
        fs::write(root.join(PROVENANCE), record(&toolchain, &sources, &fresh)).context(PROVENANCE)?;
        println!("{OBJECT}: {} bytes, SHA-256 {}", fresh.len(), sha256(&fresh));
        return Ok(());
    }
    if record(&toolchain, &sources, &fresh) == provenance {
        println!("the committed object is what these sources and tools give, byte for byte");
        return Ok(());
    }
    let same_tools = recorded(&provenance, "compiler") == Some(&toolchain.compiler_version)
        && recorded(&provenance, "linker") == Some(&toolchain.linker_version)
        && recorded(&provenance, "flags") == Some(&FLAGS.join(" "));
    ensure!(
        !same_tools,
        "the committed object is not what these sources give with the compiler it was made with (SHA-256 {}, and it is {})",
        recorded(&provenance, "object").unwrap_or("missing"),
        sha256(&fresh)
    );
    println!(
        "other tools than those the committed object was made with, so the bytes cannot be compared; the verdicts of the \
         fresh object are tested instead"
    );
    let fresh_path = root.join("target/ebpf/gate.bpf.o");
    let status = Command::new(env!("CARGO"))
        .current_dir(root)
        .env("BONDGATE_GATE_OBJECT", fresh_path)
        .args(["test", "--locked", "--package", "bondgate-ebpf", "--test", "verdicts", "--", "kernel::"])
        .status()
        .context("cargo test")?;
    ensure!(status.success(), "the fresh object does not pass: {status}");
    Ok(())
}

/// The text beside the object.
fn record(toolchain: &Toolchain, sources: &str, object: &[u8]) -> String {
    format!(
        "gate.bpf.o, written by `cargo xtask ebpf`; compared with the sources by `cargo xtask ebpf --check`\n\n\
         compiler: {}\nlinker: {}\nflags: {}\nsources: {sources}\nobject: {}\n",
        toolchain.compiler_version,
        toolchain.linker_version,
        FLAGS.join(" "),
        sha256(object)
    )
}
