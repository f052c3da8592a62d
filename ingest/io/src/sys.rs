//! The kernel's shapes: socket addresses, control messages, message headers, memory regions, socket options.
//!
//! Addresses and control messages are written and read as bytes, in the kernel's layout, so that nothing here depends
//! on how a C library spells the structures (glibc and musl differ).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::RawFd;
use std::ptr::NonNull;

/// Address family of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn of(addr: &SocketAddr) -> Family {
        if addr.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

/// Length of the largest socket address used (`sockaddr_in6`).
pub(crate) const NAME_LEN: usize = 28;

/// A socket address as the kernel wants it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Name {
    bytes: [u8; 32],
    len: u32,
}

impl Name {
    /// For a socket of family `family`: a v4-mapped address is unwrapped for an IPv4 socket and an IPv4 address is
    /// mapped for an IPv6 socket.
    pub(crate) fn new(addr: SocketAddr, family: Family) -> Name {
        let addr = match (family, addr) {
            (Family::V4, SocketAddr::V6(v6)) => match v6.ip().to_ipv4_mapped() {
                Some(v4) => SocketAddr::from((v4, v6.port())),
                None => addr,
            },
            (Family::V6, SocketAddr::V4(v4)) => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
            _ => addr,
        };
        let mut bytes = [0; 32];
        bytes[2..4].copy_from_slice(&addr.port().to_be_bytes());
        let (kind, len) = match addr {
            SocketAddr::V4(v4) => {
                bytes[4..8].copy_from_slice(&v4.ip().octets());
                (libc::AF_INET, 16)
            }
            SocketAddr::V6(v6) => {
                bytes[4..8].copy_from_slice(&v6.flowinfo().to_ne_bytes());
                bytes[8..24].copy_from_slice(&v6.ip().octets());
                bytes[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
                (libc::AF_INET6, NAME_LEN as u32)
            }
        };
        bytes[..2].copy_from_slice(&(kind as u16).to_ne_bytes());
        Name { bytes, len }
    }

    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.bytes.as_ptr()
    }

    pub(crate) fn len(&self) -> u32 {
        self.len
    }
}

/// Reads a socket address in the kernel's layout; `None` if it is neither IPv4 nor IPv6 or cut short.
pub(crate) fn decode_name(bytes: &[u8]) -> Option<SocketAddr> {
    let kind = u16::from_ne_bytes(*bytes.first_chunk()?);
    let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
    match i32::from(kind) {
        libc::AF_INET => {
            let ip: [u8; 4] = *bytes.get(4..)?.first_chunk()?;
            Some(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::from(ip), port)))
        }
        libc::AF_INET6 => {
            let flow = u32::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
            let ip: [u8; 16] = *bytes.get(8..)?.first_chunk()?;
            let scope = u32::from_ne_bytes(*bytes.get(24..)?.first_chunk()?);
            Some(SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(ip), port, flow, scope)))
        }
        _ => None,
    }
}

/// Reads the address behind a `sockaddr` pointer of unknown kind.
///
/// # Safety
/// `addr` is null or points to a socket address whose family field is right for the memory behind it.
pub(crate) unsafe fn ip_of(addr: *const libc::sockaddr) -> Option<IpAddr> {
    if addr.is_null() {
        return None;
    }
    // SAFETY: not null, and by the caller's promise a socket address, which begins with its family.
    let len = match i32::from(unsafe { (*addr).sa_family }) {
        libc::AF_INET => 16,
        libc::AF_INET6 => NAME_LEN,
        _ => return None,
    };
    // SAFETY: an address of that family is `len` bytes long, by the caller's promise.
    let bytes = unsafe { std::slice::from_raw_parts(addr.cast::<u8>(), len) };
    decode_name(bytes).map(|a| a.ip())
}

/// Bytes of a control-message header: length (pointer-sized), level, type.
const CMSG_HEADER: usize = size_of::<usize>() + 8;

const fn cmsg_space(data: usize) -> usize {
    CMSG_HEADER + data.next_multiple_of(size_of::<usize>())
}

/// Room for the control messages a receive may carry: drop counter and segment size.
pub(crate) const RX_CONTROL_LEN: usize = cmsg_space(4) + cmsg_space(4);

/// What the control messages of a received message said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RxControl {
    /// `UDP_GRO`: the payload is several datagrams of this length, the last possibly shorter.
    pub segment_len: Option<usize>,
    /// `SO_RXQ_OVFL`: datagrams dropped by this socket so far, modulo 2^32.
    pub kernel_drops: Option<u32>,
}

/// Reads received control messages; unknown ones are skipped, malformed ones end the reading.
pub(crate) fn decode_control(mut bytes: &[u8]) -> RxControl {
    let mut found = RxControl::default();
    while let Some(len) = bytes.first_chunk().map(|b| usize::from_ne_bytes(*b)) {
        let (Some(header), Some(data)) = (bytes.get(size_of::<usize>()..), bytes.get(CMSG_HEADER..len))
        else {
            break;
        };
        let (Some(level), Some(kind)) = (
            header.first_chunk().map(|b| i32::from_ne_bytes(*b)),
            header.get(4..).and_then(|b| b.first_chunk()),
        ) else {
            break;
        };
        let value = data.first_chunk().map(|b| i32::from_ne_bytes(*b));
        match (level, i32::from_ne_bytes(*kind)) {
            (libc::SOL_UDP, libc::UDP_GRO) => {
                found.segment_len = value.and_then(|v| usize::try_from(v).ok()).filter(|&v| v > 0);
            }
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => found.kernel_drops = value.map(|v| v as u32),
            _ => {}
        }
        let Some(rest) = bytes.get(len.next_multiple_of(size_of::<usize>())..) else { break };
        bytes = rest;
    }
    found
}

/// The control message that makes the kernel cut a payload into datagrams (`UDP_SEGMENT`).
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct SegmentControl([u8; cmsg_space(2)]);

impl SegmentControl {
    pub(crate) fn new(segment_len: u16) -> SegmentControl {
        let mut bytes = [0; cmsg_space(2)];
        let word = size_of::<usize>();
        bytes[..word].copy_from_slice(&(CMSG_HEADER + 2).to_ne_bytes());
        bytes[word..word + 4].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
        bytes[word + 4..word + 8].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
        bytes[word + 8..word + 10].copy_from_slice(&segment_len.to_ne_bytes());
        SegmentControl(bytes)
    }

    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.0.as_ptr()
    }

    pub(crate) fn len() -> usize {
        cmsg_space(2)
    }
}

/// An empty message header.
pub(crate) fn empty_message() -> libc::mmsghdr {
    // SAFETY: a header of plain numbers and pointers, for which all zeroes is a valid (empty) value.
    unsafe { std::mem::zeroed() }
}

/// Sets an integer socket option.
pub(crate) fn set_option(fd: RawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of::<i32>()` bytes from a live local variable.
    let result = unsafe {
        libc::setsockopt(fd, level, name, (&raw const value).cast(), size_of::<i32>() as libc::socklen_t)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether no datagram waits in a UDP socket's receive queue (or an empty one is first).
pub(crate) fn queue_is_empty(fd: RawFd) -> bool {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request writes one integer, to a live local variable.
    let result = unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut bytes) };
    result == 0 && bytes == 0
}

/// Datagrams that a socket has dropped so far because its queue was full, modulo 2^32 (`SO_MEMINFO`, Linux 4.12). `None` if the
/// kernel does not say.
pub(crate) fn queue_drops(fd: RawFd) -> Option<u32> {
    let mut words = [0_u32; 16];
    let mut len = size_of_val(&words) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, to a live local array of that size, and its length to a live local.
    let result = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_MEMINFO, words.as_mut_ptr().cast(), &raw mut len)
    };
    let at = libc::SK_MEMINFO_DROPS as usize;
    (result == 0 && len as usize >= (at + 1) * size_of::<u32>()).then(|| words[at])
}

/// Sends one message, never waiting. Returns the number of bytes accepted.
///
/// # Safety
/// Every pointer in `message` points to memory that is valid for reading for the length given beside it.
pub(crate) unsafe fn send_message(fd: RawFd, message: &libc::msghdr) -> io::Result<usize> {
    loop {
        // SAFETY: the caller's promise.
        let sent = unsafe { libc::sendmsg(fd, message, libc::MSG_DONTWAIT) };
        if sent >= 0 {
            return Ok(sent as usize);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Lets the process have at least `files` descriptors, as far as the hard limit goes.
pub(crate) fn raise_file_limit(files: usize) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills in a live local structure.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0
        && limit.rlim_cur < files as libc::rlim_t
    {
        limit.rlim_cur = limit.rlim_max.min(files as libc::rlim_t);
        // SAFETY: the kernel reads a live local structure. A refusal only means that adding sockets fails later, with
        // its own message.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
}

/// Zeroed, page-aligned memory straight from the system, taken only when touched; given back on drop.
#[derive(Debug)]
pub(crate) struct Region {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a region is plain memory owned by whoever owns this value; no thread-bound state is attached to it.
unsafe impl Send for Region {}

impl Region {
    pub(crate) fn new(len: usize) -> io::Result<Region> {
        let len = len.max(1);
        // SAFETY: a fresh private mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start =
            NonNull::new(start.cast::<u8>()).ok_or_else(|| io::Error::other("mapped at address zero"))?;
        Ok(Region { start, len })
    }

    /// A pointer to `offset`, with at least `len` bytes behind it.
    ///
    /// # Panics
    /// If that lies outside; a bug of this crate.
    pub(crate) fn at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(offset <= self.len && len <= self.len - offset, "range inside the region");
        // SAFETY: just checked to lie inside the mapping.
        unsafe { self.start.as_ptr().add(offset) }
    }

    /// A pointer to element `index` of the region seen as an array of `T`.
    ///
    /// # Panics
    /// If it lies outside; a bug of this crate.
    #[allow(clippy::cast_ptr_alignment)] // the region begins at a page, and the size of a type is a multiple of its alignment
    pub(crate) fn element<T>(&self, index: usize) -> *mut T {
        self.at(index * size_of::<T>(), size_of::<T>()).cast()
    }

    /// The bytes `offset..offset + len`.
    ///
    /// # Safety
    /// Nobody, the kernel included, writes to them while the borrow lives.
    pub(crate) unsafe fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        // SAFETY: `at` checks the range; the mapping is initialised (zeroed) and lives as long as `self`; the caller
        // promises that nobody writes.
        unsafe { std::slice::from_raw_parts(self.at(offset, len), len) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new`, is unmapped once, and no borrow of it can outlive `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(addr: &str, family: Family) -> SocketAddr {
        let name = Name::new(addr.parse().unwrap(), family);
        decode_name(&name.bytes[..name.len as usize]).unwrap()
    }

    #[test]
    fn names_round_trip_in_the_socket_s_family() {
        assert_eq!(round_trip("1.2.3.4:5", Family::V4), "1.2.3.4:5".parse().unwrap());
        assert_eq!(round_trip("[2001:db8::1]:65535", Family::V6), "[2001:db8::1]:65535".parse().unwrap());
        assert_eq!(round_trip("[fe80::1%7]:9", Family::V6), "[fe80::1%7]:9".parse().unwrap());
        assert_eq!(round_trip("1.2.3.4:5", Family::V6), "[::ffff:1.2.3.4]:5".parse().unwrap());
        assert_eq!(round_trip("[::ffff:1.2.3.4]:5", Family::V4), "1.2.3.4:5".parse().unwrap());
    }

    #[test]
    fn short_or_foreign_names_are_refused() {
        let name = Name::new("[2001:db8::1]:1".parse().unwrap(), Family::V6);
        for len in 0..NAME_LEN {
            assert_eq!(decode_name(&name.bytes[..len]), None, "{len} bytes");
        }
        assert_eq!(decode_name(&[0; 28]), None);
    }

    /// Builds a control message as the C macros do.
    fn cmsg(level: i32, kind: i32, value: i32) -> Vec<u8> {
        let mut bytes = (CMSG_HEADER + 4).to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value.to_ne_bytes());
        bytes.resize(cmsg_space(4), 0);
        bytes
    }

    #[test]
    fn control_messages_are_found_among_others() {
        let mut bytes = cmsg(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 77);
        bytes.extend(cmsg(libc::IPPROTO_IP, libc::IP_TTL, 64));
        bytes.extend(cmsg(libc::SOL_UDP, libc::UDP_GRO, 1316));
        assert_eq!(decode_control(&bytes), RxControl { segment_len: Some(1316), kernel_drops: Some(77) });
        // SAFETY: pure arithmetic macros.
        let (space, gso) = unsafe { (libc::CMSG_SPACE(4), libc::CMSG_SPACE(2)) };
        assert_eq!(space as usize * 2, RX_CONTROL_LEN);
        assert_eq!(gso as usize, SegmentControl::len());
    }

    #[test]
    fn malformed_control_messages_end_the_reading() {
        let good = cmsg(libc::SOL_UDP, libc::UDP_GRO, 1316);
        for len in 0..CMSG_HEADER + 4 {
            assert_eq!(decode_control(&good[..len]), RxControl::default(), "{len} bytes");
        }
        for lie in [0, 1, 15, 200, usize::MAX] {
            let mut bad = good.clone();
            bad[..size_of::<usize>()].copy_from_slice(&lie.to_ne_bytes());
            assert_eq!(decode_control(&bad), RxControl::default(), "length {lie}");
        }
        assert_eq!(decode_control(&cmsg(libc::SOL_UDP, libc::UDP_GRO, -5)).segment_len, None);
        assert_eq!(decode_control(&cmsg(libc::SOL_UDP, libc::UDP_GRO, 0)).segment_len, None);
    }

    #[test]
    fn a_region_refuses_ranges_outside() {
        let region = Region::new(4096).unwrap();
        // SAFETY: nobody writes to the region.
        assert_eq!(unsafe { region.bytes(4000, 96) }, &[0; 96]);
        for (offset, len) in [(4096, 1), (4095, 2), (usize::MAX, 1), (1, usize::MAX)] {
            assert!(std::panic::catch_unwind(|| region.at(offset, len)).is_err(), "{offset} {len}");
        }
    }
}
