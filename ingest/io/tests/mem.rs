//! The backend in memory follows the loop's rules.

use std::net::SocketAddr;

use bondgate_io::mem::{MemBackend, Sent};
use bondgate_io::{Backend, Limits, Role, SocketId};

fn addr(n: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], n))
}

fn rig() -> (MemBackend, SocketId, SocketId) {
    let mut backend =
        MemBackend::new(&Limits { sockets: 2, turn_sends: 100, ..Limits::default() }).expect("in memory");
    let listener = backend.add_virtual(addr(1), Role::Listener).expect("in memory");
    let forwarder = backend.add_virtual(addr(2), Role::Connected).expect("in memory");
    (backend, listener, forwarder)
}

#[test]
fn datagrams_come_in_order_and_leave_grouped() {
    let (mut backend, listener, forwarder) = rig();
    assert_eq!(backend.local_addr(listener), Some(addr(1)));
    for n in 0..3_u8 {
        backend.inject(listener, addr(100 + u16::from(n)), &[n; 1000]);
    }
    assert_eq!(backend.receive(None).expect("in memory"), 3);
    for index in 0..3 {
        let datagram = backend.datagram(index);
        assert_eq!((datagram.socket, datagram.from), (listener, addr(100 + index as u16)));
        assert_eq!(datagram.bytes, [index as u8; 1000]);
        backend.send(listener, Some(datagram_from(&backend, index)), b"ack");
        backend.forward(index, forwarder, None);
    }
    assert!(backend.take_sent().is_empty(), "nothing leaves before flush");
    backend.flush();
    let sent = backend.take_sent();
    let data: Vec<Sent> =
        (0..3_u8).map(|n| Sent { socket: forwarder, to: None, bytes: vec![n; 1000], message: 0 }).collect();
    assert_eq!(sent[..3], data, "one message, before the small ones");
    let acks: Vec<_> = sent[3..].iter().map(|s| (s.socket, s.to, s.message)).collect();
    assert_eq!(
        acks,
        [(listener, Some(addr(100)), 1), (listener, Some(addr(101)), 2), (listener, Some(addr(102)), 3)]
    );
    let counters = *backend.counters();
    assert_eq!((counters.rx_datagrams, counters.rx_bytes), (3, 3000));
    assert_eq!((counters.tx_datagrams, counters.tx_bytes, counters.tx_messages), (6, 3009, 4));
    assert_eq!((counters.tx_gso_messages, counters.tx_gso_datagrams), (1, 3));
}

fn datagram_from(backend: &MemBackend, index: usize) -> SocketAddr {
    backend.datagram(index).from
}

#[test]
fn removed_sockets_neither_receive_nor_send() {
    let (mut backend, listener, forwarder) = rig();
    assert!(backend.add_virtual(addr(3), Role::Connected).is_err(), "the table is full");
    backend.inject(listener, addr(9), b"late");
    backend.send(listener, Some(addr(9)), b"queued before");
    backend.remove(listener);
    backend.inject(listener, addr(9), b"too late");
    backend.send(listener, Some(addr(9)), b"queued after");
    let next = backend.add_virtual(addr(3), Role::Listener).expect("in memory");
    assert!(next != listener && next.slot() == listener.slot());
    assert_eq!(backend.receive(None).expect("in memory"), 0);
    let sent = backend.take_sent();
    assert_eq!(sent.iter().map(|s| &s.bytes[..]).collect::<Vec<_>>(), [b"queued before"]);
    let counters = *backend.counters();
    assert_eq!((counters.rx_stale, counters.tx_no_socket), (2, 1));
    assert_eq!(backend.local_addr(listener), None);
    assert_eq!(backend.local_addr(forwarder), Some(addr(2)));
}

#[test]
fn errors_wakes_and_limits_are_told() {
    let (mut backend, listener, forwarder) = rig();
    backend.inject_error(forwarder, libc::ECONNREFUSED);
    let (socket, error) = backend.next_error().expect("in memory");
    assert_eq!((socket, error.kind()), (forwarder, std::io::ErrorKind::ConnectionRefused));
    assert!(backend.next_error().is_none());
    backend.waker().wake();
    backend.receive(Some(std::time::Duration::from_secs(3600))).expect("in memory");
    assert_eq!(backend.counters().wakes, 1);
    assert_eq!(backend.last_timeout(), Some(std::time::Duration::from_secs(3600)));
    for _ in 0..101 {
        backend.send(listener, Some(addr(7)), b"x");
    }
    backend.flush();
    assert_eq!((backend.take_sent().len(), backend.counters().tx_no_room), (100, 1));
}
