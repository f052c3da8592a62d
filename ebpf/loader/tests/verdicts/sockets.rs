//! Steering: datagrams over loopback to four sockets on one port.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use bondgate_ebpf_common::abi::{Link, LinkKey, v4_mapped};
use libtest_mimic::Failed;
use socket2::{Domain, Protocol, Socket, Type};

use crate::ensure;
use crate::kernel::Kernel;

const SHARDS: usize = 4;

/// Sockets of one `SO_REUSEPORT` group on `address`.
fn group(address: SocketAddr) -> Result<Vec<UdpSocket>, Failed> {
    let mut address = address;
    (0..SHARDS)
        .map(|_| {
            let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
            socket.set_reuse_port(true)?;
            if address.is_ipv6() {
                socket.set_only_v6(!address.ip().is_unspecified())?;
            }
            socket.bind(&address.into())?;
            let socket = UdpSocket::from(socket);
            socket.set_nonblocking(true)?;
            address = socket.local_addr()?;
            Ok(socket)
        })
        .collect()
}

/// Where a datagram of `sender` comes out.
fn arrives_at(sender: &UdpSocket, to: SocketAddr, sockets: &[UdpSocket]) -> Result<usize, Failed> {
    sender.send_to(b"which", to)?;
    for _ in 0..200 {
        for (index, socket) in sockets.iter().enumerate() {
            if let Ok((_, from)) = socket.recv_from(&mut [0; 16]) {
                let same = from.port() == sender.local_addr()?.port();
                return if same { Ok(index) } else { Err(format!("a datagram from {from}").into()) };
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err("the datagram did not arrive".into())
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4_mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// A registered link's datagrams come out at the socket of its shard, whatever the kernel's hash says; others, and those of a
/// shard without a socket, come out somewhere.
pub fn links_are_steered() -> Result<(), Failed> {
    let missing_shard = SHARDS as u32 + 3;
    for (listen, to) in
        [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1"), ("[::]:0", "::1")]
    {
        let mut kernel = Kernel::open()?;
        let sockets = group(listen.parse()?)?;
        let to = SocketAddr::new(to.parse()?, sockets[0].local_addr()?.port());
        let (steer, mut map) = kernel.programs.steering()?;
        for (index, socket) in sockets.iter().enumerate() {
            map.set(index as u32, socket, 0)?;
        }
        steer.attach(&sockets[0])?;
        let mut steered = [0; SHARDS];
        for number in 0..24_u32 {
            let sender = UdpSocket::bind((to.ip(), 0))?;
            let key = LinkKey::new(octets(to.ip()), sender.local_addr()?.port(), to.port());
            let by_hash = arrives_at(&sender, to, &sockets)?;
            let shard = number % SHARDS as u32;
            kernel.maps.put_link(key, Link { shard, ..Link::default() })?;
            let by_link = arrives_at(&sender, to, &sockets)?;
            ensure(by_link == shard as usize, || format!("{listen}: shard {shard}, came out at {by_link}"))?;
            steered[by_link] += u32::from(by_link != by_hash);
            kernel.maps.put_link(key, Link { shard: missing_shard, ..Link::default() })?;
            let by_hash_again = arrives_at(&sender, to, &sockets)?;
            ensure(by_hash_again == by_hash, || format!("{listen}: {by_hash}, then {by_hash_again}"))?;
        }
        ensure(steered.iter().sum::<u32>() > 0, || format!("{listen}: the hash was right every time"))?;
    }
    Ok(())
}
