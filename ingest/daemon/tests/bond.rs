//! The bonding sender on real sockets, against a receiver made by hand: answers go to the encoder that has the
//! session, and nobody else on the machine can draw them away.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bondgate::shard::bond::{Bond, LinkSpec};
use bondgate_io::socket::{BindOptions, bind_udp};
use bondgate_io::{Choice, Limits};
use bondgate_proto::sender::{Sender, SenderConfig};

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    socket
}

/// What the receiver made by hand knows.
#[derive(Default)]
struct Seen {
    link: Option<SocketAddr>,
    forwarded: Vec<Vec<u8>>,
}

/// Answers registration and keepalives, keeps everything else.
fn receive(receiver: &UdpSocket, seen: &Mutex<Seen>, stop: &AtomicBool) {
    let mut buf = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let Ok((len, from)) = receiver.recv_from(&mut buf) else { continue };
        let packet = &buf[..len];
        match packet[..2] {
            [0x92, 0x00] => {
                let mut reg2 = packet.to_vec();
                reg2[1] = 0x01;
                reg2[130..].fill(7);
                receiver.send_to(&reg2, from).unwrap();
            }
            [0x92, 0x01] if packet[130..].iter().all(|b| *b == 7) => {
                receiver.send_to(&[0x92, 0x02], from).unwrap();
                seen.lock().unwrap().link = Some(from);
            }
            [0x90, 0x00] => {
                receiver.send_to(packet, from).unwrap();
            }
            [0x90..=0x9f, _] => {}
            _ => seen.lock().unwrap().forwarded.push(packet.to_vec()),
        }
    }
}

/// Waits until `done` holds.
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An SRT control packet of type `kind` with a recognisable end.
fn control(kind: u16, mark: u8) -> Vec<u8> {
    let mut packet = vec![mark; 64];
    packet[..2].copy_from_slice(&(0x8000 | kind).to_be_bytes());
    packet
}

#[test]
fn only_a_handshake_moves_the_return_path() {
    let receiver = socket();
    let local = bind_udp("127.0.0.1:0".parse().unwrap(), &BindOptions::default()).unwrap();
    let local_addr = local.local_addr().unwrap();
    let (backend, _) = bondgate_io::open(Choice::Auto, &Limits::default()).unwrap();
    let sender = Sender::new(SenderConfig::default(), [3; 128], 4);
    let links = vec![LinkSpec::Address("127.0.0.1".parse().unwrap())];
    let to = receiver.local_addr().unwrap();
    let mut bond = Bond::new(backend, sender, local, to, links, 1 << 20, |_| {}).unwrap();
    assert_eq!(bond.open_links(Instant::now()), 1);
    let stop = Arc::new(AtomicBool::new(false));
    let bonding = {
        let stop = stop.clone();
        std::thread::spawn(move || bond.run(&stop, |_| {}))
    };
    let seen = Arc::new(Mutex::new(Seen::default()));
    let receiving = {
        let (receiver, seen, stop) = (receiver.try_clone().unwrap(), seen.clone(), stop.clone());
        std::thread::spawn(move || receive(&receiver, &seen, &stop))
    };
    wait_until("the sender did not register", || seen.lock().unwrap().link.is_some());
    let (encoder, stranger) = (socket(), socket());
    let went_out = |packet: &[u8]| seen.lock().unwrap().forwarded.iter().any(|p| p == packet);
    // Each answer is its own packet, so that the sender does not take it for a copy.
    let hears = |who: &UdpSocket, mark: u8| {
        let mut buf = [0; 2048];
        let link = seen.lock().unwrap().link.unwrap();
        receiver.send_to(&control(2, mark), link).unwrap();
        matches!(who.recv(&mut buf), Ok(64) if buf[63] == mark)
    };

    encoder.send_to(&control(0, 1), local_addr).unwrap();
    wait_until("the encoder's handshake goes out", || went_out(&control(0, 1)));
    assert!(hears(&encoder, 10));

    stranger.send_to(&[0x11; 1332], local_addr).unwrap();
    stranger.send_to(&control(1, 2), local_addr).unwrap();
    encoder.send_to(&control(1, 4), local_addr).unwrap();
    wait_until("the encoder's next packet goes out", || went_out(&control(1, 4)));
    assert!(!went_out(&[0x11; 1332]) && !went_out(&control(1, 2)), "a stranger's packets do not");
    assert!(hears(&encoder, 11), "and they change nothing");

    stranger.send_to(&control(0, 3), local_addr).unwrap();
    wait_until("another encoder's handshake goes out", || went_out(&control(0, 3)));
    assert!(hears(&stranger, 12), "an encoder that begins a session gets its answers");

    stop.store(true, Ordering::Relaxed);
    bonding.join().unwrap().unwrap();
    receiving.join().unwrap();
}
