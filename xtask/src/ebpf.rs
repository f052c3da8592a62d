//! The BPF objects: built, recorded, checked.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};

use crate::sources::{recorded, sha256, sources_sha256};
use crate::toolchain::Toolchain;

const PROGRAM: &str = "ebpf/prog";
/// Folder of the objects, each with a text beside it.
const OBJECTS: &str = "ebpf/loader/object";
/// Their names: what the daemon carries, and what the bench does.
const NAMES: [&str; 2] = ["gate", "bench"];

/// Where each object's program begins.
const ROOTS: [&str; 2] = ["ebpf/prog/src/main.rs", "ebpf/prog/src/bench/main.rs"];

/// Builds of the same sources by the same tools before an object counts as another one. The linker writes two of the BTF's type
/// descriptions now in one order and now in the other.
const BUILDS_MAX: u32 = 10;

/// Flags of the compiler, besides those that take the folders' names out.
const FLAGS: &[&str] = &[
    "-Cdebuginfo=2",
    "-Ctarget-cpu=v3",
    "-Ctarget-feature=+allows-misaligned-mem-access",
    "-Clink-arg=--btf",
    "--cfg=bpf_target_arch=\"x86_64\"",
];

/// Builds the objects; writes them, or compares them with the committed ones.
///
/// # Errors
/// What failed, or in what way a committed object is not that of the sources.
pub fn run(root: &Path, check: bool, install: bool) -> Result<()> {
    let root = &root.canonicalize().context("the root of the repository")?;
    let sources = sources_sha256(root)?;
    if check {
        for name in NAMES {
            let (object, provenance) = committed(root, name)?;
            for (what, found) in [("sources", &sources), ("object", &sha256(&object))] {
                let stands = recorded(&provenance, what)
                    .with_context(|| format!("{name}.bpf.txt has no line {what}"))?;
                ensure!(
                    stands == found,
                    "the SHA-256 of {what} is {found}, and {name}.bpf.txt says {stands}: run `cargo xtask ebpf` and commit \
                     what it writes"
                );
            }
        }
    }
    let toolchain = Toolchain::find(root, install)?;
    toolchain.build(root, &root.join(PROGRAM), FLAGS)?;
    for name in NAMES {
        let mut fresh = toolchain.strip(root, name)?;
        if check {
            let mut builds = 1;
            while differs(root, name, &toolchain, &fresh)? && builds < BUILDS_MAX {
                build_again(root, &toolchain)?;
                fresh = toolchain.strip(root, name)?;
                builds += 1;
            }
            compare(root, name, &toolchain, &sources, &fresh)?;
        } else {
            let object = format!("{OBJECTS}/{name}.bpf.o");
            fs::write(root.join(&object), &fresh).with_context(|| object.clone())?;
            let provenance = root.join(OBJECTS).join(format!("{name}.bpf.txt"));
            fs::write(&provenance, record(name, &toolchain, &sources, &fresh))
                .with_context(|| provenance.display().to_string())?;
            println!("{object}: {} bytes, SHA-256 {}", fresh.len(), sha256(&fresh));
        }
    }
    Ok(())
}

/// The fresh object is another one than the committed one, though the same tools made both.
fn differs(root: &Path, name: &str, toolchain: &Toolchain, fresh: &[u8]) -> Result<bool> {
    let (object, provenance) = committed(root, name)?;
    Ok(has_same_tools(&provenance, toolchain) && object != fresh)
}

fn has_same_tools(provenance: &str, toolchain: &Toolchain) -> bool {
    recorded(provenance, "compiler") == Some(&toolchain.compiler_version)
        && recorded(provenance, "linker") == Some(&toolchain.linker_version)
        && recorded(provenance, "flags") == Some(&FLAGS.join(" "))
}

/// Builds the objects once more, although nothing has changed.
fn build_again(root: &Path, toolchain: &Toolchain) -> Result<()> {
    for path in ROOTS {
        let file = fs::File::options().append(true).open(root.join(path)).context(path)?;
        file.set_modified(SystemTime::now()).context(path)?;
    }
    toolchain.build(root, &root.join(PROGRAM), FLAGS)
}

/// A committed object and the text beside it.
fn committed(root: &Path, name: &str) -> Result<(Vec<u8>, String)> {
    let place = |ending: &str| root.join(OBJECTS).join(format!("{name}.bpf.{ending}"));
    let object = fs::read(place("o")).with_context(|| place("o").display().to_string())?;
    let text = fs::read_to_string(place("txt")).with_context(|| place("txt").display().to_string())?;
    Ok((object, text))
}

/// Compares a fresh object with the committed one; where other tools were used, its tests have to pass instead.
fn compare(root: &Path, name: &str, toolchain: &Toolchain, sources: &str, fresh: &[u8]) -> Result<()> {
    let (_, provenance) = committed(root, name)?;
    if record(name, toolchain, sources, fresh) == provenance {
        println!("the committed {name}.bpf.o is what these sources and tools give, byte for byte");
        return Ok(());
    }
    ensure!(
        !has_same_tools(&provenance, toolchain),
        "the committed {name}.bpf.o is not what these sources give with the compiler it was made with (SHA-256 {}, and it is {})",
        recorded(&provenance, "object").unwrap_or("missing"),
        sha256(fresh)
    );
    println!(
        "other tools than those the committed {name}.bpf.o was made with, so the bytes cannot be compared; the fresh object is \
         tested instead"
    );
    let fresh_path = root.join(format!("target/ebpf/{name}.bpf.o"));
    let variable = format!("BONDGATE_{}_OBJECT", name.to_uppercase());
    let status = Command::new(env!("CARGO"))
        .current_dir(root)
        .env(variable, fresh_path)
        .args(["test", "--locked", "--package", "bondgate-ebpf", "--test", "verdicts", "--", "kernel::"])
        .status()
        .context("cargo test")?;
    ensure!(status.success(), "the fresh object does not pass: {status}");
    Ok(())
}

/// The text beside the object.
fn record(name: &str, toolchain: &Toolchain, sources: &str, object: &[u8]) -> String {
    format!(
        "{name}.bpf.o, written by `cargo xtask ebpf`; compared with the sources by `cargo xtask ebpf --check`\n\n\
         compiler: {}\nlinker: {}\nflags: {}\nsources: {sources}\nobject: {}\n",
        toolchain.compiler_version,
        toolchain.linker_version,
        FLAGS.join(" "),
        sha256(object)
    )
}
