//! What builds for the BPF target: a compiler that may use unstable features, with the source of its library, and
//! bpf-linker made for the same LLVM.
//!
//! Tried in order: rustup's nightly with rust-src, the packaged compiler of Debian and Ubuntu that browsers are built with.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// The version of bpf-linker that is installed and recorded.
const LINKER_VERSION: &str = "0.13.0";
/// The packaged compiler, its cargo and the source of its library.
const PACKAGES: &[&str] = &["rustc-web", "cargo-web", "rust-web-src"];
/// What bpf-linker is built with besides LLVM.
const LINKER_PACKAGES: &[&str] = &["libzstd-dev", "zlib1g-dev", "libxml2-dev"];

/// The tools are not here, and this says what to do.
#[derive(Debug)]
pub struct Unavailable(String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}

/// Tools that fit together.
pub struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    linker: PathBuf,
    strip: PathBuf,
    /// Version of the compiler and its LLVM.
    pub compiler_version: String,
    /// Version of the linker.
    pub linker_version: String,
}

/// A compiler with the source of its library.
struct Compiler {
    cargo: PathBuf,
    rustc: PathBuf,
    version: String,
    llvm_major: u32,
}

impl Toolchain {
    /// Looks for the tools, says which were found, and with `install` gets what is missing.
    ///
    /// # Errors
    /// [`Unavailable`] when something is missing.
    pub fn find(root: &Path, install: bool) -> Result<Self> {
        let own = root.join("target/bpf-linker");
        let mut compiler = Compiler::nightly().or_else(Compiler::packaged);
        if compiler.is_none() && install {
            apt_get(&["update"])?;
            apt_get_install(PACKAGES)?;
            compiler = Compiler::packaged();
        }
        let Some(compiler) = compiler else {
            let packages = PACKAGES.join(" ");
            return Err(unavailable(format!(
                "no compiler for the BPF target: either `rustup component add rust-src --toolchain nightly`, or as root \
                 `apt-get install {packages}`, or `cargo xtask ebpf --install`"
            )));
        };
        println!("compiler: {} ({})", compiler.rustc.display(), compiler.version);
        let mut linker = linker(&own);
        if linker.is_none() && install {
            install_linker(&own, compiler.llvm_major)?;
            linker = self::linker(&own);
        }
        let Some((linker, linker_version)) = linker else {
            return Err(unavailable(format!(
                "no bpf-linker {LINKER_VERSION}: `cargo install bpf-linker --version {LINKER_VERSION} --locked \
                 --no-default-features --features llvm-{0}` with LLVM_PREFIX at LLVM {0} (package llvm-{0}-dev), or \
                 `cargo xtask ebpf --install`",
                compiler.llvm_major
            )));
        };
        println!("linker: {} ({linker_version})", linker.display());
        let packaged = llvm_prefix(compiler.llvm_major).join("bin/llvm-strip");
        let strip = if packaged.exists() { Some(packaged) } else { on_path("llvm-strip") };
        let Some(strip) = strip else {
            return Err(unavailable(format!(
                "no llvm-strip: install the package llvm-{}",
                compiler.llvm_major
            )));
        };
        let Compiler { cargo, rustc, version, .. } = compiler;
        Ok(Self { cargo, rustc, linker, strip, compiler_version: version, linker_version })
    }

    /// Builds the package in `program` for the BPF target.
    ///
    /// # Errors
    /// When the compiler fails; it has said why.
    pub fn build(&self, root: &Path, program: &Path, flags: &[&str]) -> Result<()> {
        let target = root.join("target/ebpf");
        // Nothing of where it is built gets into the object.
        let cargo_home = env::var_os("CARGO_HOME").map_or_else(|| home().join(".cargo"), PathBuf::from);
        let sysroot =
            output(Command::new(&self.rustc).env("RUSTC_BOOTSTRAP", "1").args(["--print", "sysroot"]))?;
        let places = [
            (root, "/bondgate"),
            (&target, "/target"),
            (&cargo_home, "/cargo"),
            (Path::new(&sysroot), "/rust"),
        ];
        let remap = places.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()));
        let flags: Vec<String> = flags.iter().map(ToString::to_string).chain(remap).collect();
        let mut build = Command::new(&self.cargo);
        for (name, _) in env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("CARGO") && name != "CARGO_HOME"
                || name.starts_with("RUST") && name != "RUSTUP_HOME"
            {
                build.env_remove(&*name);
            }
        }
        build
            .current_dir(program)
            .env("RUSTC", &self.rustc)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker)
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS", flags.join(" "))
            .args([
                "build",
                "--quiet",
                "--release",
                "--locked",
                "-Zbuild-std=core",
                "--target=bpfel-unknown-none",
            ])
            .arg("--target-dir")
            .arg(&target);
        run(&mut build)
    }

    /// The object of a program that was built, stripped of what is for debuggers.
    ///
    /// # Errors
    /// When there is none, or it cannot be stripped.
    pub fn strip(&self, root: &Path, name: &str) -> Result<Vec<u8>> {
        let target = root.join("target/ebpf");
        let object = target.join("bpfel-unknown-none/release").join(name);
        let stripped = target.join(format!("{name}.bpf.o"));
        run(Command::new(&self.strip).arg("-g").arg(&object).arg("-o").arg(&stripped))?;
        fs::read(&stripped).with_context(|| stripped.display().to_string())
    }
}

impl Compiler {
    fn nightly() -> Option<Self> {
        let tool = |name| output(Command::new("rustup").args(["which", "--toolchain", "nightly", name])).ok();
        Self::with_library(tool("cargo")?.into(), tool("rustc")?.into())
    }

    fn packaged() -> Option<Self> {
        let (cargo, rustc) = (Path::new("/usr/bin/cargo"), Path::new("/usr/bin/rustc"));
        // Not rustup's stand-ins, which some distributions put there.
        let genuine = |tool: &Path| fs::canonicalize(tool).is_ok_and(|path| !path.ends_with("rustup"));
        if !genuine(cargo) || !genuine(rustc) {
            return None;
        }
        Self::with_library(cargo.into(), rustc.into())
    }

    /// The compiler, if the source of its library is there.
    fn with_library(cargo: PathBuf, rustc: PathBuf) -> Option<Self> {
        let ask = |arguments: &[&str]| {
            output(Command::new(&rustc).env_remove("RUSTUP_TOOLCHAIN").args(arguments)).ok()
        };
        let sysroot = ask(&["--print", "sysroot"])?;
        if !Path::new(&sysroot).join("lib/rustlib/src/rust/library/core").exists() {
            return None;
        }
        let about = ask(&["-vV"])?;
        let llvm = about.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
        let llvm_major = llvm.split('.').next()?.parse().ok()?;
        let version = format!("{}, LLVM {llvm}", about.lines().next()?);
        Some(Self { cargo, rustc, version, llvm_major })
    }
}

/// bpf-linker of the right version, and what it says its version is.
fn linker(own: &Path) -> Option<(PathBuf, String)> {
    let candidates = [Some(own.join("bin/bpf-linker")), on_path("bpf-linker")];
    candidates.into_iter().flatten().find_map(|path| {
        let version = output(Command::new(&path).arg("--version")).ok()?;
        version.contains(LINKER_VERSION).then_some((path, version))
    })
}

fn install_linker(own: &Path, llvm_major: u32) -> Result<()> {
    let llvm = format!("llvm-{llvm_major}-dev");
    let prefix = llvm_prefix(llvm_major);
    if !prefix.join("include").exists() || !Path::new("/usr/include/zstd.h").exists() {
        apt_get(&["update"])?;
        apt_get_install(&[LINKER_PACKAGES, &[&llvm]].concat())?;
    }
    let feature = format!("llvm-{llvm_major}");
    let mut install = Command::new("cargo");
    install
        .env("LLVM_PREFIX", &prefix)
        .env("CARGO_TARGET_DIR", own.join("build"))
        .args([
            "install",
            "--quiet",
            "--locked",
            "bpf-linker",
            "--version",
            LINKER_VERSION,
            "--no-default-features",
        ])
        .args(["--features", &feature, "--root"])
        .arg(own);
    run(&mut install).map_err(|error| unavailable(format!("bpf-linker cannot be installed here: {error:#}")))
}

fn apt_get_install(packages: &[&str]) -> Result<()> {
    // Never at the price of what is there, such as another compiler.
    apt_get(&[&["install", "-y", "--no-install-recommends", "--no-remove"], packages].concat())
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").arg("-q").args(arguments);
    run(&mut command).map_err(|error| unavailable(format!("packages cannot be installed here: {error:#}")))
}

fn llvm_prefix(major: u32) -> PathBuf {
    format!("/usr/lib/llvm-{major}").into()
}

fn on_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| path.is_file())
}

fn home() -> PathBuf {
    env::var_os("HOME").map_or_else(|| "/root".into(), PathBuf::from)
}

fn unavailable(what: String) -> anyhow::Error {
    Unavailable(what).into()
}

/// Runs a command; its output is seen.
fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| name.clone())?;
    ensure!(status.success(), "{name}: {status}");
    Ok(())
}

/// What a command prints, without the last line's end.
fn output(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        bail!("{}", output.status);
    }
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}
