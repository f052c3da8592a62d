//! The table of verdicts over a real cable: raw frames on one end of a veth pair, the gate on the other.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use bondgate_ebpf::{Counters, Entry, Gate, Mode, Network, Wanted};
use bondgate_ebpf_common::abi::{FOR_EVER, List};
use bondgate_ebpf_common::reason::Reason;
use bondgate_ebpf_common::testing::{World, rows};
use libtest_mimic::Failed;
use rustix::time::{ClockId, clock_gettime};

use crate::{Outcome, check, ip, veth};

/// What a veth takes: an Ethernet header at least, and its MTU with two VLAN tags at most.
const FRAME_LENS: std::ops::RangeInclusive<usize> = 14..=1514;

pub fn native(dir: &Path) -> Outcome {
    every_row(dir, Mode::Native)
}

pub fn generic(dir: &Path) -> Outcome {
    every_row(dir, Mode::Generic)
}

fn every_row(dir: &Path, mode: Mode) -> Outcome {
    let near = veth()?;
    let far = near.replace("near", "far");
    for name in [&near, &far] {
        // Nothing but our own frames on the cable.
        ip(&format!("link set {name} addrgenmode none"))?;
    }
    let cable = Cable::new(&far)?;
    let (mut gate, mut is_used) = (None, true);
    let (mut sent, mut wrong, rows) = (0, Vec::new(), rows());
    for row in &rows {
        let frames: Vec<_> =
            row.frames.iter().filter(|(frame, _)| FRAME_LENS.contains(&frame.len())).collect();
        if frames.is_empty() {
            continue;
        }
        // What a row has drawn from buckets the next ones must not miss.
        if is_used {
            drop(gate.take());
            let _ = Gate::detach(dir, None);
            let mut fresh = Gate::open(dir)?;
            fresh.attach(&near, Wanted::Exactly(mode))?;
            gate = Some(fresh);
        }
        let gate = gate.as_mut().ok_or("no gate")?;
        is_used = row.world.config.rates.iter().any(|rate| rate.interval_ns != 0);
        install(gate, &row.world)?;
        let before = gate.counters()?;
        let mut expected: HashMap<Reason, u64> = HashMap::new();
        for (frame, reason) in &frames {
            cable.send(frame)?;
            *expected.entry(*reason).or_default() += 1;
        }
        sent += frames.len();
        let found = settled(gate, &before, frames.len() as u64)?;
        if found != expected {
            wrong.push(format!("{}: {found:?}, not {expected:?}", row.name));
        }
    }
    Gate::detach(dir, None)?;
    eprintln!("FIGURE wire {mode}: {} rows, {sent} frames over veth", rows.len());
    check(sent > 100, "hardly a frame was sent")?;
    check(wrong.is_empty(), &format!("{wrong:#?}"))
}

/// The reasons counted since `before`, once all frames are counted or nothing more comes.
fn settled(gate: &Gate, before: &Counters, frames: u64) -> Result<HashMap<Reason, u64>, Failed> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let counters = gate.counters()?;
        let found: HashMap<Reason, u64> = counters
            .reasons
            .iter()
            .zip(&before.reasons)
            .map(|((reason, new), (_, old))| (*reason, new.packets - old.packets))
            .filter(|(_, count)| *count != 0)
            .collect();
        if found.values().sum::<u64>() >= frames || Instant::now() > deadline {
            return Ok(found);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Puts a world into the maps, with its clock turned to ours.
fn install(gate: &mut Gate, world: &World) -> Outcome {
    let now = clock_gettime(ClockId::Monotonic);
    let now_ns = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
    let end = |end_ns: u64| match end_ns {
        0 | FOR_EVER => end_ns,
        end_ns => (end_ns + now_ns).saturating_sub(world.now_ns).max(1),
    };
    for list in List::ALL {
        let entries: Vec<Entry> = world.lists[list as usize]
            .iter()
            .map(|&(address, prefix_len, value)| {
                let value = if list == List::Bans { end(value) } else { value };
                (Network { address, prefix_len: prefix_len as u8 }, value)
            })
            .collect();
        gate.set_list(list, entries)?;
    }
    gate.set_bans(&world.bans.iter().map(|(key, end_ns)| (*key, end(*end_ns))).collect())?;
    for (key, _) in gate.links()? {
        gate.remove_link(key)?;
    }
    for (key, link) in &world.links {
        gate.insert_link(*key, *link)?;
    }
    gate.set_config(&world.config)?;
    Ok(())
}

/// One end of a cable, for raw frames.
struct Cable {
    socket: rustix::fd::OwnedFd,
    index: i32,
}

impl Cable {
    fn new(interface: &str) -> Result<Self, Failed> {
        use rustix::net::{AddressFamily, SocketType, netdevice, socket};
        let socket = socket(AddressFamily::PACKET, SocketType::RAW, None)?;
        let index = netdevice::name_to_index(&socket, interface)?;
        Ok(Self { socket, index: index as i32 })
    }

    #[expect(unsafe_code, reason = "an address of the packet family")]
    fn send(&self, frame: &[u8]) -> Outcome {
        use std::os::fd::AsRawFd;
        // SAFETY: an address of zeros is valid.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = self.index;
        // SAFETY: frame and address are live, and their sizes are given.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                size_of_val(&to) as u32,
            )
        };
        if sent == frame.len() as isize { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
    }
}
