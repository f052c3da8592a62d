//! `bondgate-baseline`: an SRTLA receiver of the classic design, to compare others with on any machine.
//!
//! One thread, level-triggered epoll, one datagram per system call, groups and links found by comparing addresses one
//! after the other, a clock reading per datagram. Registration without keys, an SRTLA ACK every ten data packets, ACK and
//! NAK of the SRT server to all links, everything else to the link that spoke last, keepalives echoed. Written from the
//! description of the protocol; not meant for the Internet, and not made slow on purpose.
//!
//! Promise: forwards every SRT packet of a member unchanged and in order of arrival, one connected socket per group.

mod groups;

use std::net::{SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bondgate_io::socket::{BindOptions, bind_udp, connect_udp};
use bondgate_proto::wire::{Datagram, PacketType, classify, emit_reg, emit_short};
use clap::Parser;
use groups::{Groups, Join};
use rustix::event::epoll;
use rustix::time::Timespec;

/// Marks the listening socket among the sockets of the groups.
const LISTENER: u64 = u64::MAX;
/// How often silent links and empty groups are looked for.
const CLEANUP: Duration = Duration::from_secs(3);

/// A plain SRTLA receiver: one thread, one datagram per system call, linear search.
#[derive(Debug, Parser)]
#[command(name = "bondgate-baseline", version)]
struct Args {
    /// Where links arrive.
    #[arg(long)]
    listen: SocketAddr,
    /// The SRT server.
    #[arg(long)]
    target: SocketAddr,
    /// Groups at once.
    #[arg(long, default_value_t = 200)]
    groups_max: usize,
    /// Links in a group.
    #[arg(long, default_value_t = 8)]
    links_max: usize,
    /// Kernel receive buffer of every socket.
    #[arg(long, default_value_t = 8 << 20)]
    buffer_bytes: usize,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bondgate-baseline: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let options = BindOptions { recv_buf: args.buffer_bytes, ..BindOptions::default() };
    let mut baseline = Baseline {
        listener: bind_udp(args.listen, &options)?,
        epoll: epoll::create(epoll::CreateFlags::CLOEXEC).context("epoll")?,
        groups: Groups::new(args.groups_max, args.links_max),
        target: args.target,
        options,
        buf: [0; 2048],
    };
    epoll::add(
        &baseline.epoll,
        &baseline.listener,
        epoll::EventData::new_u64(LISTENER),
        epoll::EventFlags::IN,
    )
    .context("epoll")?;
    eprintln!("ready: {} to {}", args.listen, args.target);
    let mut events = Vec::with_capacity(64);
    let mut cleanup_at = Instant::now() + CLEANUP;
    loop {
        events.clear();
        let wait = Timespec { tv_sec: 1, tv_nsec: 0 };
        match epoll::wait(&baseline.epoll, rustix::buffer::spare_capacity(&mut events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("epoll"),
        }
        for event in &events {
            match event.data.u64() {
                LISTENER => baseline.serve_links(),
                group => baseline.serve_server(group as usize),
            }
        }
        let now = Instant::now();
        if now >= cleanup_at {
            baseline.groups.cleanup(now);
            cleanup_at = now + CLEANUP;
        }
    }
}

struct Baseline {
    listener: UdpSocket,
    epoll: std::os::fd::OwnedFd,
    groups: Groups,
    target: SocketAddr,
    options: BindOptions,
    buf: [u8; 2048],
}

impl Baseline {
    /// Reads and serves one datagram of a link.
    fn serve_links(&mut self) {
        let Ok((len, from)) = self.listener.recv_from(&mut self.buf) else { return };
        let now = Instant::now();
        let Some(bytes) = self.buf.get(..len) else { return };
        match classify(bytes) {
            Datagram::Runt => {}
            Datagram::Srtla(packet) => match packet.kind() {
                PacketType::Reg1 | PacketType::Reg2 => {
                    let Some(id) = packet.group_id() else { return };
                    let mut out = [0; 258];
                    let reply = if packet.kind() == PacketType::Reg1 {
                        match self.groups.open(now, from, id) {
                            Some(full) => emit_reg(PacketType::Reg2, &full, &mut out),
                            None => emit_short(PacketType::RegErr, 2, &mut out),
                        }
                    } else {
                        match self.groups.join(now, from, id) {
                            Join::Joined => emit_short(PacketType::Reg3, 2, &mut out),
                            Join::Unknown => emit_short(PacketType::RegNgp, 2, &mut out),
                            Join::Refused => emit_short(PacketType::RegErr, 2, &mut out),
                        }
                    };
                    self.reply(from, reply);
                }
                PacketType::Keepalive => {
                    if let Some((_, link)) = self.groups.find(from) {
                        link.heard_at = now;
                        self.reply(from, Some(bytes));
                    }
                }
                _ => {}
            },
            Datagram::SrtData(data) => {
                let Some((group, link)) = self.groups.find(from) else { return };
                link.heard_at = now;
                if let Some(ack) = link.note(data.seq()) {
                    // A full socket loses this one; the next comes soon.
                    let _ = self.listener.send_to(&ack, from);
                }
                self.forward(group, from, len);
            }
            Datagram::SrtControl(_) => {
                let Some((group, link)) = self.groups.find(from) else { return };
                link.heard_at = now;
                self.forward(group, from, len);
            }
        }
    }

    fn reply(&self, to: SocketAddr, bytes: Option<&[u8]>) {
        if let Some(bytes) = bytes {
            // Registration is repeated by the sender.
            let _ = self.listener.send_to(bytes, to);
        }
    }

    /// Passes on the datagram in the buffer; opens the group's socket first if there is none.
    fn forward(&mut self, group: usize, from: SocketAddr, len: usize) {
        let Some(found) = self.groups.get_mut(group) else { return };
        found.last_from = from;
        if found.server.is_none() {
            let Ok(socket) = connect_udp(self.target, None, &self.options) else { return };
            let data = epoll::EventData::new_u64(group as u64);
            if epoll::add(&self.epoll, &socket, data, epoll::EventFlags::IN).is_ok() {
                found.server = Some(socket);
            }
        }
        if let (Some(server), Some(bytes)) = (&found.server, self.buf.get(..len)) {
            // What the server refuses or the socket cannot take is lost, as everywhere in UDP.
            let _ = server.send(bytes);
        }
    }

    /// Reads one datagram of the SRT server: ACK and NAK to all links, the rest to the one that spoke last.
    fn serve_server(&mut self, group: usize) {
        let Some(group) = self.groups.get_mut(group) else { return };
        let Some(Ok(len)) = group.server.as_ref().map(|server| server.recv(&mut self.buf)) else { return };
        let Some(bytes) = self.buf.get(..len) else { return };
        if matches!(bytes, [0x80, 2 | 3, ..]) {
            for link in &group.links {
                let _ = self.listener.send_to(bytes, link.addr);
            }
        } else {
            let _ = self.listener.send_to(bytes, group.last_from);
        }
    }
}
