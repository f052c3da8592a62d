//! What aya does not do: the questions what a pinned link is attached to and which map a pin is, and ending a program that is
//! being run over and over.

#![expect(unsafe_code, reason = "system calls")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;

/// What the kernel says about a link of an XDP program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct XdpLink {
    /// The program.
    pub(crate) program_id: u32,
    /// The interface; 0 when it is gone.
    pub(crate) interface_index: u32,
}

#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

#[repr(C)]
struct GetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The beginning of `bpf_link_info`; what follows belongs to other kinds of links.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program_id: u32,
    pad: u32,
    interface_index: u32,
    tail: [u32; 11],
}

/// The beginning of `bpf_map_info`.
#[repr(C)]
#[derive(Default)]
struct MapInfo {
    kind: u32,
    id: u32,
}

fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjGet { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: the attribute is a live local whose size is given; it points to a live string with its terminator.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw mut attr, size_of::<ObjGet>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Fills `info` with what the kernel says about the object that is pinned at `path`.
fn info<T: Default>(path: &Path) -> io::Result<T> {
    let object = obj_get(path)?;
    let mut info = T::default();
    let mut attr = GetInfo {
        bpf_fd: object.as_raw_fd() as u32,
        info_len: size_of::<T>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: the attribute is a live local whose size is given; it points to a live structure of integers whose size it
    // holds, of which the kernel fills no more.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &raw mut attr, size_of::<GetInfo>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(info) }
}

/// What a pinned link is attached to. Needs no capability, and keeps nothing attached that is not.
pub(crate) fn xdp_link(path: &Path) -> io::Result<XdpLink> {
    const BPF_LINK_TYPE_XDP: u32 = 6;
    let info: LinkInfo = info(path)?;
    if info.kind != BPF_LINK_TYPE_XDP {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a link of an XDP program"));
    }
    Ok(XdpLink { program_id: info.program_id, interface_index: info.interface_index })
}

/// The number of a pinned map, which no other map of this boot has.
pub(crate) fn map_id(path: &Path) -> io::Result<u32> {
    Ok(info::<MapInfo>(path)?.id)
}

/// The signal that ends a run. Nothing else here uses the real-time ones.
fn interruption() -> libc::c_int {
    libc::SIGRTMIN() + 5
}

/// Sees to it that [`interrupt`] ends a system call, and no more than that.
pub(crate) fn make_interruptible() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: all zeros are a `sigaction`: no flags, nothing masked.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
    // SAFETY: the action is a live local, and its handler does nothing.
    let result = unsafe { libc::sigaction(interruption(), &raw const action, std::ptr::null_mut()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// This thread, for [`interrupt`].
pub(crate) fn thread_id() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// Ends the system call that a thread of this process is in. Does nothing to one that has not said who it is, or is gone.
pub(crate) fn interrupt(thread: i32) {
    if thread > 0 {
        // SAFETY: takes numbers only; the signal does nothing, see `make_interruptible`.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, interruption()) };
    }
}
