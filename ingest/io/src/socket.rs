//! Making UDP sockets: bound or connected, with the options an ingest server wants, and errors that say which address
//! failed and what to do about it. Also the list of network interfaces.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

use crate::sys;

/// Options of a socket to be made. The default: 4 MB receive and 1 MB send buffer, nothing shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindOptions {
    /// Share the port with other sockets of this user (`SO_REUSEPORT`); each sharer must set it.
    pub reuse_port: bool,
    /// Receive buffer in bytes, 0 for the system's default. Beyond the system's limit if privileged, else capped.
    pub recv_buf: usize,
    /// Send buffer in bytes, 0 for the system's default. Beyond the system's limit if privileged, else capped.
    pub send_buf: usize,
    /// Network interface to use exclusively (`SO_BINDTODEVICE`).
    pub device: Option<String>,
    /// On an IPv6 address: refuse IPv4 peers (`IPV6_V6ONLY`). When off, `[::]` serves both.
    pub only_v6: bool,
}

impl Default for BindOptions {
    fn default() -> Self {
        BindOptions { reuse_port: false, recv_buf: 4 << 20, send_buf: 1 << 20, device: None, only_v6: false }
    }
}

/// A non-blocking UDP socket bound to `addr` (port 0: any).
///
/// # Errors
/// What the kernel says, with the address, the action that failed and a hint; the kind is kept.
pub fn bind_udp(addr: SocketAddr, options: &BindOptions) -> io::Result<UdpSocket> {
    let socket = new_socket(addr, options)?;
    socket.bind(&addr.into()).map_err(|e| explain_bind(&e, addr, options))?;
    Ok(socket.into())
}

/// A non-blocking UDP socket connected to `peer`, from `local` (`None`: any address and port).
///
/// # Errors
/// What the kernel says, with the address, the action that failed and a hint; the kind is kept.
pub fn connect_udp(
    peer: SocketAddr,
    local: Option<SocketAddr>,
    options: &BindOptions,
) -> io::Result<UdpSocket> {
    let any = if peer.is_ipv4() {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
    } else {
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
    };
    let socket = bind_udp(local.unwrap_or(any), options)?;
    socket.connect(peer).map_err(|e| {
        let hint = match e.raw_os_error() {
            Some(libc::ENETUNREACH | libc::EHOSTUNREACH) => ": no route to it; check address and routing",
            Some(libc::EAFNOSUPPORT) => ": one address is IPv4 and the other IPv6; use the same kind",
            Some(libc::EINVAL) => ": it cannot be reached from the local address given",
            _ => "",
        };
        with_context(&e, &format!("cannot connect UDP socket to {peer}"), hint)
    })?;
    Ok(socket)
}

fn new_socket(addr: SocketAddr, options: &BindOptions) -> io::Result<Socket> {
    let what = |action: &'static str| {
        move |e: io::Error| with_context(&e, &format!("UDP {addr}: cannot {action}"), "")
    };
    let socket =
        Socket::new(Domain::for_address(addr), Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))
            .map_err(|e| {
                let hint = match e.raw_os_error() {
                    Some(libc::EAFNOSUPPORT) => ": this system has no IPv6; use an IPv4 address",
                    Some(libc::EMFILE | libc::ENFILE) => {
                        ": too many open files; raise the limit (LimitNOFILE, ulimit -n)"
                    }
                    _ => "",
                };
                with_context(&e, &format!("UDP {addr}: cannot make a socket"), hint)
            })?;
    if addr.is_ipv6() {
        socket.set_only_v6(options.only_v6).map_err(what("set IPV6_V6ONLY"))?;
    }
    if options.reuse_port {
        socket.set_reuse_port(true).map_err(what("share the port (SO_REUSEPORT)"))?;
    }
    if let Some(device) = &options.device {
        socket.bind_device(Some(device.as_bytes())).map_err(|e| {
            let hint = match e.raw_os_error() {
                Some(libc::ENODEV) => ": there is no such interface; `ip link` lists them",
                Some(libc::EPERM) => ": not allowed; the kernel before 5.7 wants CAP_NET_RAW",
                _ => "",
            };
            with_context(&e, &format!("UDP {addr}: cannot use interface {device}"), hint)
        })?;
    }
    for (bytes, force, plain) in [
        (options.recv_buf, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
        (options.send_buf, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
    ] {
        if bytes > 0 {
            // The kernel doubles what is asked for, and caps silently where the caller is not privileged.
            let value = i32::try_from(bytes / 2).unwrap_or(i32::MAX / 2);
            let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
            if sys::set_option(fd, libc::SOL_SOCKET, force, value).is_err() {
                let action = if plain == libc::SO_RCVBUF { "set SO_RCVBUF" } else { "set SO_SNDBUF" };
                sys::set_option(fd, libc::SOL_SOCKET, plain, value).map_err(what(action))?;
            }
        }
    }
    Ok(socket)
}

fn explain_bind(e: &io::Error, addr: SocketAddr, options: &BindOptions) -> io::Error {
    let hint = match e.raw_os_error() {
        Some(libc::EADDRINUSE) if options.reuse_port => {
            ": the port is in use by a socket that does not share it, or by another user; \
             stop that program (`ss -ulpn` lists them) or choose another port"
        }
        Some(libc::EADDRINUSE) => {
            ": the port is in use by another program (`ss -ulpn` lists them); stop it or choose another port"
        }
        Some(libc::EADDRNOTAVAIL) => ": this machine has no such address; `ip addr` lists them",
        Some(libc::EACCES) => {
            ": ports below 1024 want CAP_NET_BIND_SERVICE; choose a higher port or grant it"
        }
        Some(libc::ENODEV) => ": the interface of this address does not exist",
        _ => "",
    };
    with_context(e, &format!("cannot bind UDP {addr}"), hint)
}

/// The same kind of error, with a sentence around it.
fn with_context(e: &io::Error, action: &str, hint: &str) -> io::Error {
    io::Error::new(e.kind(), format!("{action}: {e}{hint}"))
}

/// An address of a network interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interface {
    /// Name of the interface, such as `eth0`.
    pub name: String,
    /// One of its addresses. An interface with several appears several times, one without does not appear.
    pub addr: IpAddr,
    /// It is administratively up and has a carrier (`IFF_UP` and `IFF_RUNNING`).
    pub up: bool,
    /// It is the loopback interface.
    pub loopback: bool,
}

/// The addresses of all network interfaces, sorted. Ask again to notice those that come and go.
///
/// # Errors
/// What the kernel says.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: `list` is a live local that receives the head of a list, which is freed below.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = Vec::new();
    let mut at = list;
    while !at.is_null() {
        // SAFETY: not null, so an element of the list getifaddrs made, alive until freeifaddrs.
        let item = unsafe { &*at };
        // SAFETY: `ifa_addr` is null or points to an address that belongs to the list, its family telling its size.
        if let Some(addr) = unsafe { sys::ip_of(item.ifa_addr) } {
            // SAFETY: `ifa_name` is a terminated string that belongs to the list.
            let name = unsafe { std::ffi::CStr::from_ptr(item.ifa_name) }.to_string_lossy().into_owned();
            let has = |flag: i32| item.ifa_flags & flag as u32 != 0;
            let up = has(libc::IFF_UP) && has(libc::IFF_RUNNING);
            found.push(Interface { name, addr, up, loopback: has(libc::IFF_LOOPBACK) });
        }
        at = item.ifa_next;
    }
    // SAFETY: the head getifaddrs gave, freed once; nothing borrowed from the list is kept.
    unsafe { libc::freeifaddrs(list) };
    found.sort();
    found.dedup();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local() -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
    }

    #[test]
    fn a_port_in_use_is_named_with_advice() {
        let first = bind_udp(local(), &BindOptions::default()).unwrap();
        let addr = first.local_addr().unwrap();
        let error = bind_udp(addr, &BindOptions::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let text = error.to_string();
        assert!(
            text.contains(&addr.to_string()) && text.contains("in use") && text.contains("another port"),
            "{text}"
        );
    }

    #[test]
    fn sharing_a_port_needs_the_option_on_both() {
        let share = BindOptions { reuse_port: true, ..BindOptions::default() };
        let first = bind_udp(local(), &share).unwrap();
        let addr = first.local_addr().unwrap();
        assert!(bind_udp(addr, &share).is_ok());
        assert_eq!(bind_udp(addr, &BindOptions::default()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn foreign_addresses_and_interfaces_are_named() {
        let error = bind_udp("203.0.113.77:0".parse().unwrap(), &BindOptions::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        assert!(error.to_string().contains("203.0.113.77:0"), "{error}");
        let options = BindOptions { device: Some("nosuchif0".into()), ..BindOptions::default() };
        let error = bind_udp(local(), &options).unwrap_err();
        assert!(error.to_string().contains("nosuchif0"), "{error}");
    }

    #[test]
    fn sockets_are_non_blocking_and_have_their_buffers() {
        let options = BindOptions { recv_buf: 200_000, send_buf: 100_000, ..BindOptions::default() };
        let socket = bind_udp(local(), &options).unwrap();
        assert_eq!(socket.recv(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let socket = Socket::from(socket);
        assert_eq!(socket.recv_buffer_size().unwrap(), 200_000);
        assert_eq!(socket.send_buffer_size().unwrap(), 100_000);
    }

    #[test]
    fn one_v6_socket_serves_both_unless_told_not_to() {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let Ok(dual) = bind_udp(any, &BindOptions::default()) else {
            assert!(UdpSocket::bind("[::1]:0").is_err(), "only a machine without IPv6 may refuse");
            return;
        };
        let port = dual.local_addr().unwrap().port();
        let peer = connect_udp((Ipv4Addr::LOCALHOST, port).into(), None, &BindOptions::default()).unwrap();
        peer.send(b"x").unwrap();
        dual.set_nonblocking(false).unwrap();
        let (_, from) = dual.recv_from(&mut [0; 8]).unwrap();
        assert!(
            matches!(from.ip(), IpAddr::V6(ip) if ip.to_ipv4_mapped() == Some(Ipv4Addr::LOCALHOST)),
            "{from}"
        );

        let only = bind_udp(any, &BindOptions { only_v6: true, ..BindOptions::default() }).unwrap();
        assert!(Socket::from(only).only_v6().unwrap());
    }

    #[test]
    fn connecting_across_families_is_explained() {
        let error = connect_udp("[2001:db8::1]:9".parse().unwrap(), Some(local()), &BindOptions::default())
            .unwrap_err();
        assert!(error.to_string().contains("[2001:db8::1]:9"), "{error}");
    }

    #[test]
    fn loopback_is_listed() {
        let all = interfaces().unwrap();
        let lo = all.iter().find(|i| i.addr == IpAddr::V4(Ipv4Addr::LOCALHOST)).expect("loopback");
        assert!(lo.loopback && lo.up && !lo.name.is_empty(), "{lo:?}");
    }
}
