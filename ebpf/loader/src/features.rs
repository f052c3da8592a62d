//! What the gate needs of this machine, and one clear sentence for each thing that is missing.

use std::fmt;
use std::path::{Path, PathBuf};

use aya::programs::ProgramType;
use rustix::fs::statfs;
use rustix::thread::{CapabilitySet, capabilities};

/// `statfs` of a BPF file system.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// Something the gate cannot do without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The right to load programs and make maps.
    CapBpf,
    /// The right to attach to an interface.
    CapNetAdmin,
    /// The right to programs that compute addresses of their stack.
    CapPerfmon,
    /// A BPF file system above this directory, and the right to mount one.
    BpfFs(PathBuf),
    /// XDP in this kernel.
    Xdp(String),
}

/// How rights are given.
const GRANT: &str =
    "run as root, or grant it (systemd: AmbientCapabilities=CAP_BPF CAP_NET_ADMIN CAP_PERFMON)";

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CapBpf => write!(f, "CAP_BPF is missing, without which no program can be loaded: {GRANT}"),
            Self::CapNetAdmin => {
                write!(f, "CAP_NET_ADMIN is missing, without which nothing can be attached: {GRANT}")
            }
            Self::CapPerfmon => write!(
                f,
                "CAP_PERFMON is missing, without which the kernel does not let the program address its own stack: {GRANT}"
            ),
            Self::BpfFs(dir) => write!(
                f,
                "{} is on no BPF file system and none can be mounted: as root, `mount -t bpf bpf /sys/fs/bpf`, or set gate.pin_dir",
                dir.display()
            ),
            Self::Xdp(why) => {
                write!(f, "this kernel has no XDP (CONFIG_BPF_SYSCALL, CONFIG_XDP_SOCKETS): {why}")
            }
        }
    }
}

/// Whether this thread may load programs and make maps.
pub fn has_cap_bpf() -> bool {
    has(CapabilitySet::BPF)
}

/// Whether this thread may attach to interfaces.
pub fn has_cap_net_admin() -> bool {
    has(CapabilitySet::NET_ADMIN)
}

fn has(capability: CapabilitySet) -> bool {
    // CAP_SYS_ADMIN is CAP_BPF and CAP_PERFMON too, as before Linux 5.8.
    let enough = match capability {
        CapabilitySet::NET_ADMIN => capability,
        _ => capability | CapabilitySet::SYS_ADMIN,
    };
    capabilities(None).is_ok_and(|sets| sets.effective.intersects(enough))
}

/// Whether the kernel describes its own types. The gate works without; other tools show more of it with.
pub fn has_kernel_btf() -> bool {
    Path::new("/sys/kernel/btf/vmlinux").exists()
}

/// What is missing for the programs to be loaded here.
pub fn missing_to_load() -> Vec<Missing> {
    let mut missing = Vec::new();
    if !has_cap_bpf() {
        missing.push(Missing::CapBpf);
    }
    if !has_cap_net_admin() {
        missing.push(Missing::CapNetAdmin);
    }
    if !has(CapabilitySet::PERFMON) {
        missing.push(Missing::CapPerfmon);
    }
    if missing.is_empty() {
        match aya::sys::is_program_supported(ProgramType::Xdp) {
            Ok(true) => {}
            Ok(false) => missing.push(Missing::Xdp("the kernel refuses the program type".into())),
            Err(error) => missing.push(Missing::Xdp(crate::error::chain(&error))),
        }
    }
    missing
}

/// Whether `dir`, or the nearest directory above that exists, is on a BPF file system.
pub fn is_on_bpf_fs(dir: &Path) -> bool {
    let existing = dir.ancestors().find(|ancestor| ancestor.exists());
    existing.and_then(|existing| statfs(existing).ok()).is_some_and(|fs| fs.f_type as u64 == BPF_FS_MAGIC)
}

/// Sees to it that `dir` exists on a BPF file system. Mounts one at `/sys/fs/bpf` if it is to be there and nothing is mounted.
///
/// # Errors
/// There is none and it cannot be mounted.
pub(crate) fn make_dir(dir: &Path) -> Result<(), crate::GateError> {
    const USUAL: &str = "/sys/fs/bpf";
    let missing = || crate::GateError::Missing(vec![Missing::BpfFs(dir.to_owned())]);
    if !is_on_bpf_fs(dir) {
        if !dir.starts_with(USUAL) {
            return Err(missing());
        }
        let flags = rustix::mount::MountFlags::NOSUID
            | rustix::mount::MountFlags::NODEV
            | rustix::mount::MountFlags::NOEXEC
            | rustix::mount::MountFlags::RELATIME;
        rustix::mount::mount("bpf", USUAL, "bpf", flags, Some(c"mode=0700")).map_err(|_| missing())?;
    }
    std::fs::create_dir_all(dir).map_err(crate::GateError::pin(dir))
}
