//! Setting up an `io_uring` with everything the backend relies on, or saying in one sentence what is missing.

use std::io;

use io_uring::{IoUring, Probe, opcode};

/// A ring, not yet enabled, and what its kernel offers beyond the minimum.
pub(super) struct Opened {
    pub ring: IoUring,
    /// The kernel can wait a minimum time for several completions (6.12).
    pub min_wait: bool,
    /// The kernel can wait without counting as waiting for a disk (6.15).
    pub no_iowait: bool,
}

/// Sets up a ring. It is enabled by, and from then on bound to, the thread that first uses it.
pub(super) fn open_ring(sq_entries: u32, cq_entries: u32) -> io::Result<Opened> {
    let ring = IoUring::builder()
        .setup_clamp()
        .setup_cqsize(cq_entries)
        .setup_submit_all()
        .setup_single_issuer()
        .setup_coop_taskrun()
        .setup_defer_taskrun()
        .setup_r_disabled()
        .dontfork()
        .build(sq_entries)
        .map_err(|e| explain_setup(&e))?;
    let params = ring.params();
    for (there, what) in [
        (params.is_feature_ext_arg(), "waiting with a timeout"),
        (params.is_feature_nodrop(), "completions that are never dropped"),
        (params.is_feature_submit_stable(), "stable submission"),
        (params.is_feature_skip_cqe_on_success(), "silent success"),
    ] {
        if !there {
            return Err(unsupported(&format!("this kernel's io_uring lacks {what}")));
        }
    }
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|e| unsupported(&format!("probing failed: {e}")))?;
    for (code, what) in [
        (opcode::RecvMsgMulti::CODE, "recvmsg"),
        (opcode::SendMsg::CODE, "sendmsg"),
        (opcode::Send::CODE, "send"),
        (opcode::PollAdd::CODE, "poll"),
        (opcode::AsyncCancel::CODE, "cancel"),
    ] {
        if !probe.is_supported(code) {
            return Err(unsupported(&format!("this kernel's io_uring lacks {what}")));
        }
    }
    let (min_wait, no_iowait) = (params.is_feature_min_timeout(), params.is_feature_no_iowait());
    Ok(Opened { ring, min_wait, no_iowait })
}

/// Why a buffer ring could not be registered, for people.
pub(super) fn explain_buffers(e: &io::Error) -> io::Error {
    match e.raw_os_error() {
        Some(libc::ENOMEM) => out_of_memory(),
        _ => unsupported(&format!("registering a buffer ring failed: {e}")),
    }
}

fn out_of_memory() -> io::Error {
    let text = "not enough lockable memory for its rings; raise LimitMEMLOCK (ulimit -l)";
    io::Error::new(io::ErrorKind::OutOfMemory, text)
}

pub(super) fn unsupported(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, why)
}

/// Why a ring could not be set up, for people.
fn explain_setup(e: &io::Error) -> io::Error {
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let why = match (e.raw_os_error(), disabled.trim()) {
        (Some(libc::ENOSYS), _) => "this kernel has no io_uring, or a sandbox hides it".to_owned(),
        (Some(libc::EPERM), "2") => {
            "the host has io_uring switched off (kernel.io_uring_disabled = 2)".to_owned()
        }
        (Some(libc::EPERM), "1") => {
            "the host allows io_uring only to its io_uring group (kernel.io_uring_disabled = 1)".to_owned()
        }
        (Some(libc::EPERM | libc::EACCES), _) => {
            "a sandbox (seccomp) or security module forbids io_uring".to_owned()
        }
        (Some(libc::EINVAL), _) => "this kernel's io_uring is older than 6.1 (deferred task work)".to_owned(),
        (Some(libc::ENOMEM), _) => {
            "not enough (lockable) memory for the rings; raise LimitMEMLOCK".to_owned()
        }
        _ => format!("setting up io_uring failed: {e}"),
    };
    io::Error::new(
        if e.raw_os_error() == Some(libc::ENOMEM) { e.kind() } else { io::ErrorKind::Unsupported },
        why,
    )
}
