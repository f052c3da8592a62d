//! Several shards behave like one: links of a group land on whatever socket the kernel's hash picks, and still the
//! group's packets leave by one forwarder with one source port, and answers reach every link.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use bondgate::config::{Config, OutputMode};
use bondgate::policy::Policy;
use bondgate::service::Service;
use bondgate_io::socket::{BindOptions, bind_udp};

const SHARDS: u8 = 3;
const GROUPS: u8 = 12;
const LINKS: usize = 4;
const PACKETS_PER_LINK: u32 = 20;

/// A blocking socket with a deep buffer: the machine may be busy.
fn socket() -> UdpSocket {
    let socket = bind_udp("127.0.0.1:0".parse().unwrap(), &BindOptions::default()).unwrap();
    socket.set_nonblocking(false).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    socket
}

struct Group {
    number: u8,
    links: Vec<UdpSocket>,
}

/// REG1 on the first link, REG2 on all.
fn register(number: u8, to: SocketAddr) -> Group {
    let links: Vec<UdpSocket> = (0..LINKS).map(|_| socket()).collect();
    let mut reg1 = [number; 258];
    reg1[..2].copy_from_slice(&[0x92, 0x00]);
    links[0].send_to(&reg1, to).unwrap();
    let mut reg2 = [0; 300];
    let len = links[0].recv(&mut reg2).expect("an answer to REG1");
    assert_eq!((len, &reg2[..2]), (258, &[0x92, 0x01][..]));
    for link in &links {
        link.send_to(&reg2[..258], to).unwrap();
        let mut reg3 = [0; 300];
        loop {
            link.recv(&mut reg3).expect("an answer to REG2");
            match reg3[..2] {
                [0x92, 0x02] => break,
                [0x92, 0x01] => {} // the repeated answer to REG1
                _ => panic!("REG3 expected, got {:02x?}", &reg3[..2]),
            }
        }
    }
    Group { number, links }
}

fn data(group: u8, link: usize, n: u32) -> Vec<u8> {
    let mut packet = vec![group; 200];
    packet[..4].copy_from_slice(&(link as u32 * 1000 + n).to_be_bytes());
    packet[4..8].copy_from_slice(&0xc000_0001_u32.to_be_bytes());
    packet[12..16].copy_from_slice(&u32::from(group).to_be_bytes());
    packet
}

type Sources = HashMap<u8, HashSet<SocketAddr>>;

/// What the server gets: every packet, which must not come twice, and the addresses each group comes from.
fn collect(server: &UdpSocket, expected: usize) -> (HashSet<Vec<u8>>, Sources) {
    let (mut seen, mut sources, mut buf) = (HashSet::new(), Sources::new(), [0; 2048]);
    let deadline = Instant::now() + Duration::from_secs(8);
    while seen.len() < expected && Instant::now() < deadline {
        let Ok((len, from)) = server.recv_from(&mut buf) else { break };
        assert_eq!(len, 200);
        assert!(seen.insert(buf[..len].to_vec()), "a packet came twice");
        sources.entry(buf[20]).or_default().insert(from);
    }
    (seen, sources)
}

#[test]
fn three_shards_join_links_that_the_kernel_scattered() {
    let server = socket();
    let mut config = Config::open();
    config.runtime.shards = SHARDS;
    config.srtla.listen = "127.0.0.1:0".parse().unwrap();
    config.srtla.roaming = false; // so that nothing but hand-off can bring a link to its group
    config.output.mode = OutputMode::Forward;
    config.forward.server = server.local_addr().unwrap().to_string();
    config.admin.listen = None;
    let service = Service::start(&config, Policy::compile(&config)).unwrap();
    let to = service.srtla_addr();

    let groups: Vec<Group> = (1..=GROUPS).map(|number| register(number, to)).collect();
    let expected = usize::from(GROUPS) * LINKS * PACKETS_PER_LINK as usize;
    let collecting = {
        let server = server.try_clone().unwrap();
        std::thread::spawn(move || collect(&server, expected))
    };
    for n in 0..PACKETS_PER_LINK {
        for group in &groups {
            for (at, link) in group.links.iter().enumerate() {
                link.send_to(&data(group.number, at, n), to).unwrap();
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let (seen, sources) = collecting.join().unwrap();
    assert_eq!(seen.len(), expected);
    assert_eq!(sources.len(), usize::from(GROUPS));
    assert!(sources.values().all(|from| from.len() == 1), "one source port per group: {sources:?}");

    let mut buf = [0; 2048];
    // An SRT ACK goes to every link of its group and to no other.
    for group in &groups {
        let mut ack = [group.number; 44];
        ack[..2].copy_from_slice(&[0x80, 0x02]);
        ack[16..20].copy_from_slice(&PACKETS_PER_LINK.to_be_bytes());
        let from = sources[&group.number].iter().next().unwrap();
        server.send_to(&ack, from).unwrap();
    }
    for group in &groups {
        for link in &group.links {
            let own = loop {
                let len = link.recv(&mut buf).expect("an SRT ACK on every link");
                if len == 44 && buf[..2] == [0x80, 0x02] {
                    break buf[30];
                }
            };
            assert_eq!(own, group.number);
        }
    }

    // The test says something only if the kernel did scatter the links.
    std::thread::sleep(Duration::from_millis(600));
    let handed_off: u64 = service.slots().iter().map(|slot| slot.read().srtla.handed_off).sum();
    let busy = service.slots().iter().filter(|slot| slot.read().present.groups > 0).count();
    assert!(handed_off > 0, "no datagram was handed off");
    assert!(busy > 1, "all groups are on one shard");
    service.stop().unwrap();
}
