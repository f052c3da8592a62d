//! The life of a gate on a real kernel: made, attached, found again, replaced, detached, written without rights.
//!
//! Runs in a network namespace and with a BPF file system that end with the process. Without root everything is skipped.

mod ports;
mod wire;

use std::collections::HashMap;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bondgate_ebpf::{Gate, GateError, Mode, Network, PREFIXES_MAX, Wanted, features};
use bondgate_ebpf_common::abi::{self, Config, Link, LinkKey, List};
use libtest_mimic::{Arguments, Failed, Trial};
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};

type Outcome = Result<(), Failed>;
type Test = (&'static str, fn(&Path) -> Outcome);

const TESTS: &[Test] = &[
    ("attached_in_both_modes_and_detached", attached_in_both_modes_and_detached),
    ("goes_on_and_is_found_again", goes_on_and_is_found_again),
    ("replaced_in_place", replaced_in_place),
    ("another_layout_is_refused_and_replaced", another_layout_is_refused_and_replaced),
    ("half_made_maps_are_made_again", half_made_maps_are_made_again),
    ("an_interface_that_came_back", an_interface_that_came_back),
    ("written_without_rights", written_without_rights),
    ("nothing_without_rights", nothing_without_rights),
    ("what_cannot_be_attached", what_cannot_be_attached),
    ("lists_are_swapped_whole", lists_are_swapped_whole),
    ("bans_are_exactly_those", bans_are_exactly_those),
    ("links_are_steered", links_are_steered),
    ("the_last_link_takes_the_bit", ports::the_last_link_takes_the_bit),
    ("a_successor_counts_the_links", ports::a_successor_counts_the_links),
    ("a_link_too_many_leaves_no_bit", ports::a_link_too_many_leaves_no_bit),
    ("every_verdict_over_a_cable_native", wire::native),
    ("every_verdict_over_a_cable_generic", wire::generic),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Interfaces and mounts are shared by all.
    arguments.test_threads = Some(1);
    let dir = match prepare() {
        Ok(dir) => Ok(dir),
        Err(why) => {
            eprintln!("SKIPPED all tests of the gate's life: {why}");
            Err(why)
        }
    };
    let trials = TESTS
        .iter()
        .map(|&(name, test)| {
            let dir = dir.clone();
            let missing = dir.is_err();
            Trial::test(name, move || test(&dir?.join(name))).with_ignored_flag(missing)
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Goes into namespaces of our own and mounts a BPF file system there.
fn prepare() -> Result<PathBuf, String> {
    if let Some(missing) = features::missing_to_load().first() {
        return Err(missing.to_string());
    }
    ip("-V").map_err(|error| format!("iproute2: {}", error.message().unwrap_or_default()))?;
    // SAFETY: there is one thread yet, and no descriptor is unshared.
    #[expect(unsafe_code, reason = "namespaces of our own")]
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }
        .map_err(|errno| format!("no namespaces: {errno}"))?;
    let mounted = || {
        rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        let dir = std::env::temp_dir();
        rustix::mount::mount("bpf", &dir, "bpf", MountFlags::empty(), None)?;
        Ok::<_, rustix::io::Errno>(dir)
    };
    let dir = mounted().map_err(|errno| format!("no BPF file system can be mounted: {errno}"))?;
    ip("link set lo up").map_err(|error| format!("{error:?}"))?;
    Ok(dir.join("gate"))
}

fn ip(arguments: &str) -> Outcome {
    let output = Command::new("ip").args(arguments.split(' ')).stdin(Stdio::null()).output()?;
    if !output.status.success() {
        return Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(())
}

/// A fresh pair of interfaces; gives the name of the near one.
fn veth() -> Result<String, Failed> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("near.{n}");
    make_veth(&name, n)?;
    Ok(name)
}

fn make_veth(name: &str, n: u32) -> Outcome {
    ip(&format!("link add {name} type veth peer name far.{n}"))?;
    ip(&format!("link set {name} up"))?;
    ip(&format!("link set far.{n} up"))
}

fn check(holds: bool, what: &str) -> Outcome {
    if holds { Ok(()) } else { Err(what.into()) }
}

fn network(n: u32, prefix_len: u8) -> Network {
    let [a, b, c, _] = n.to_be_bytes();
    Network { address: abi::v4_mapped([a, b, c, 0]), prefix_len: 96 + prefix_len }
}

fn attached_in_both_modes_and_detached(dir: &Path) -> Outcome {
    let (native, generic) = (veth()?, veth()?);
    let mut gate = Gate::open(dir)?;
    let auto = gate.attach(&native, Wanted::Auto)?;
    check(auto.mode == Mode::Native && !auto.was_attached && auto.fallback.is_none(), "veth has native XDP")?;
    let second = gate.attach(&generic, Wanted::Exactly(Mode::Generic))?;
    check(second.mode == Mode::Generic, "generic was asked for")?;
    check(gate.attach(&native, Wanted::Auto)?.was_attached, "attached twice")?;
    let lo = gate.attach("lo", Wanted::Auto)?;
    let why = lo.fallback.unwrap_or_default();
    check(lo.mode == Mode::Generic && why.contains("no XDP"), &format!("loopback has no driver: {why}"))?;
    let pinned = Gate::pinned(dir)?;
    let shown: Vec<_> = pinned.attachments.iter().map(|a| (a.interface.as_str(), a.mode)).collect();
    check(
        shown == [("lo", Mode::Generic), (native.as_str(), Mode::Native), (generic.as_str(), Mode::Generic)],
        &format!("{shown:?}"),
    )?;
    check(pinned.is_own && pinned.is_readable, "our own object is not recognised")?;
    check(pinned.attachments.iter().all(|a| a.is_alive && a.is_current), "not alive")?;
    check(Gate::detach(dir, Some("eth9")).is_err(), "detached from where it is not")?;
    check(Gate::detach(dir, Some(&native))? == [native.clone()], "detached from elsewhere")?;
    check(gate.is_current() && Gate::pinned(dir)?.attachments.len() == 2, "the others are gone too")?;
    Gate::detach(dir, None)?;
    check(!gate.is_current() && !dir.exists(), "something stays pinned")?;
    check(matches!(Gate::detach(dir, None), Err(GateError::NotThere(_))), "detached what is not there")?;
    // Nothing holds the interface any more.
    let mut other = Gate::open(dir)?;
    check(!other.attach(&native, Wanted::Auto)?.was_attached, "still attached")?;
    Gate::detach(dir, None)?;
    Ok(())
}

fn goes_on_and_is_found_again(dir: &Path) -> Outcome {
    let interface = veth()?;
    let list =
        |from: u32| (from..from + 300).map(|n| (network(n << 8, 24), u64::from(n))).collect::<Vec<_>>();
    let config = Config { generation: 77, ..Config::default() };
    let key = LinkKey::new(abi::v4_mapped([192, 0, 2, 1]), 9, 5000);
    {
        let mut gate = Gate::open(dir)?;
        check(gate.generation()? == 0, "a new gate has a configuration")?;
        gate.attach(&interface, Wanted::Auto)?;
        gate.set_list(List::Allow, list(0))?;
        gate.set_list(List::Allow, list(100))?;
        gate.set_bans(&HashMap::from([([1; 16], 5), ([2; 16], 6)]))?;
        gate.insert_link(key, Link { shard: 3, generation: 8, reg_bucket: 0 })?;
        gate.set_config(&config)?;
    }
    check(
        Gate::pinned(dir)?.attachments.iter().all(|a| a.is_alive),
        "it went with the process that made it",
    )?;
    let mut gate = Gate::open_pinned(dir)?;
    check(gate.is_current() && gate.is_own()?, "not found again")?;
    check(gate.generation()? == 77, "the configuration is gone")?;
    check(gate.links()? == [(key, Link { shard: 3, generation: 8, reg_bucket: 0 })], "the link is gone")?;
    let fill = gate.fill();
    check((fill.bans, fill.lists) == (2, [0, 300, 0, 0]), &format!("{fill:?}"))?;
    check(!gate.set_list(List::Allow, list(100))?, "the list in force is not known")?;
    check(gate.set_list(List::Allow, list(101))?, "another list is not another")?;
    drop(gate);
    check(!Gate::open(dir)?.set_list(List::Allow, list(101))?, "the wrong trie is thought to be in force")?;
    Gate::detach(dir, None)?;
    Ok(())
}

fn replaced_in_place(dir: &Path) -> Outcome {
    let (one, two) = (veth()?, veth()?);
    let mut gate = Gate::open(dir)?;
    gate.attach(&one, Wanted::Auto)?;
    gate.attach(&two, Wanted::Exactly(Mode::Generic))?;
    gate.set_config(&Config { generation: 5, ..Config::default() })?;
    let before = Gate::pinned(dir)?.attachments;
    let after = Gate::replace(dir)?;
    for (old, new) in before.iter().zip(&after) {
        check(old.program_id != new.program_id, "it is the old program")?;
        check(new.is_current && new.is_alive && old.mode == new.mode, &format!("{new:?}"))?;
    }
    check(after.len() == 2 && gate.is_current() && gate.generation()? == 5, "the maps are others")?;
    Gate::detach(dir, None)?;
    check(matches!(Gate::replace(dir), Err(GateError::NotThere(_))), "replaced nothing")
}

fn another_layout_is_refused_and_replaced(dir: &Path) -> Outcome {
    let interface = veth()?;
    let mut gate = Gate::open(dir)?;
    gate.attach(&interface, Wanted::Auto)?;
    gate.set_config(&Config { generation: 5, ..Config::default() })?;
    let info = aya::maps::MapData::from_pin(dir.join("maps/INFO"))?;
    let mut info: aya::maps::Array<_, [u8; 64]> = aya::maps::Map::from_map_data(info)?.try_into()?;
    let mut bytes = info.get(&0, 0)?;
    bytes[0] = 99;
    info.set(0, bytes, 0)?;
    for refused in [Gate::open(dir), Gate::open_pinned(dir)] {
        let error = refused.err().ok_or("opened")?;
        check(matches!(error, GateError::Layout { found: 99, .. }), &error.to_string())?;
        check(error.to_string().contains("bondgate xdp replace"), "it does not say what to do")?;
    }
    check(!Gate::pinned(dir)?.is_readable, "it is said to be readable")?;
    let after = Gate::replace(dir)?;
    check(after.iter().all(|a| a.is_current && a.is_alive), &format!("{after:?}"))?;
    check(!gate.is_current(), "the old maps are taken for the new ones")?;
    check(Gate::open_pinned(dir)?.generation()? == 0, "the new maps are not new")?;
    Gate::detach(dir, None)?;
    Ok(())
}

fn half_made_maps_are_made_again(dir: &Path) -> Outcome {
    drop(Gate::open(dir)?);
    std::fs::remove_file(dir.join("maps/INFO"))?;
    std::fs::remove_file(dir.join("maps/Allow_b"))?;
    check(!Gate::is_there(dir), "half a gate is taken for a whole one")?;
    let mut gate = Gate::open(dir)?;
    check(gate.set_list(List::Allow, vec![(network(1 << 8, 24), 1)])?, "a fresh list")?;
    Gate::detach(dir, None)?;
    Ok(())
}

fn an_interface_that_came_back(dir: &Path) -> Outcome {
    make_veth("pull", 900)?;
    let mut gate = Gate::open(dir)?;
    gate.attach("pull", Wanted::Auto)?;
    ip("link del pull")?;
    let attachments = Gate::pinned(dir)?.attachments;
    check(attachments.len() == 1 && !attachments[0].is_alive, &format!("{attachments:?}"))?;
    make_veth("pull", 900)?;
    check(!gate.attach("pull", Wanted::Exactly(Mode::Generic))?.was_attached, "taken for the old one")?;
    let attachments = Gate::pinned(dir)?.attachments;
    check(attachments.len() == 1 && attachments[0].is_alive, &format!("{attachments:?}"))?;
    Gate::detach(dir, None)?;
    Ok(())
}

/// Does something in a thread that has no capability, is nobody, and can gain nothing.
fn without_rights<T: Send>(work: impl FnOnce() -> Result<T, Failed> + Send) -> Result<T, Failed> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let none = CapabilitySet::empty();
            rustix::thread::set_no_new_privs(true)?;
            let nobody = rustix::fs::Uid::from_raw(65_534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody)?;
            rustix::thread::set_capabilities(
                None,
                CapabilitySets { effective: none, permitted: none, inheritable: none },
            )?;
            work()
        });
        thread.join().map_err(|_| "panicked")?
    })
}

fn written_without_rights(dir: &Path) -> Outcome {
    let interface = veth()?;
    let mut gate = Gate::open(dir)?;
    gate.attach(&interface, Wanted::Auto)?;
    let gate = without_rights(move || {
        check(!features::has_cap_bpf(), "the rights are still there")?;
        gate.set_config(&Config { generation: 3, ..Config::default() })?;
        for from in 0..3 {
            gate.set_list(List::Allow, (from..from + 1000).map(|n| (network(n << 8, 24), 1)).collect())?;
        }
        gate.set_bans(&HashMap::from([([7; 16], 1)]))?;
        let key = LinkKey::new([1; 16], 1, 2);
        gate.insert_link(key, Link::default())?;
        check(gate.links()?.len() == 1, "the link is not there")?;
        gate.remove_link(key)?;
        gate.remove_link(key)?;
        gate.counters()?;
        check(matches!(Gate::load(), Err(GateError::Missing(_))), "programs can be loaded")?;
        Ok(gate)
    })?;
    check(gate.generation()? == 3 && gate.fill().lists[1] == 1000, "nothing was written")?;
    Gate::detach(dir, None)?;
    Ok(())
}

fn nothing_without_rights(dir: &Path) -> Outcome {
    let said =
        without_rights(|| Ok(Gate::open(dir).err().map(|error| error.to_string())))?.ok_or("opened")?;
    for word in ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON", "run as root", "AmbientCapabilities="] {
        check(said.contains(word), &format!("no {word} in {said:?}"))?;
    }
    check(!dir.exists(), "something was made")
}

fn what_cannot_be_attached(dir: &Path) -> Outcome {
    let interface = veth()?;
    let mut gate = Gate::open(dir)?;
    let error = gate.attach("eth9", Wanted::Auto).err().ok_or("attached to nothing")?;
    check(error.to_string().contains("no network interface \"eth9\""), &error.to_string())?;
    let error = gate.attach("lo", Wanted::Exactly(Mode::Native)).err().ok_or("native on loopback")?;
    check(error.to_string().contains("lo does not take XDP in native mode"), &error.to_string())?;
    let other_dir = dir.with_extension("").with_file_name("other");
    let mut other = Gate::open(&other_dir)?;
    other.attach(&interface, Wanted::Auto)?;
    let error = gate.attach(&interface, Wanted::Auto).err().ok_or("attached over another")?;
    check(matches!(error, GateError::Occupied(_)), &error.to_string())?;
    Gate::detach(&other_dir, None)?;
    Gate::detach(dir, None)?;
    let error = Gate::open(Path::new("/proc/gate")).err().ok_or("pinned in /proc")?;
    check(error.to_string().contains("no BPF file system"), &error.to_string())
}

fn lists_are_swapped_whole(dir: &Path) -> Outcome {
    let mut gate = Gate::open(dir)?;
    let many = |from: u32, count: usize| -> Vec<_> {
        (from..from + count as u32).map(|n| (network(n << 8, 24), 1)).collect()
    };
    let filling = Instant::now();
    gate.set_list(List::Geo, many(0, PREFIXES_MAX))?;
    let filled = filling.elapsed();
    let mut list = many(0, PREFIXES_MAX);
    // The other trie is filled by the first change, and from then on changes cost what they are.
    list[5].1 = 2;
    gate.set_list(List::Geo, list.clone())?;
    list[6].1 = 2;
    let changing = Instant::now();
    gate.set_list(List::Geo, list.clone())?;
    eprintln!(
        "FIGURE list: {PREFIXES_MAX} prefixes in {filled:.0?}, one of them changed in {:.1?}",
        changing.elapsed()
    );
    let error = gate.set_list(List::Geo, many(0, PREFIXES_MAX + 1)).err().ok_or("too many were taken")?;
    check(error.to_string().contains("200001 prefixes are too many"), &error.to_string())?;
    check(!gate.set_list(List::Geo, list)?, "the list in force went")?;
    drop(gate);
    check(Gate::open(dir)?.fill().lists == [0, 0, PREFIXES_MAX, 0], "not found again")?;
    Gate::detach(dir, None)?;
    Ok(())
}

fn bans_are_exactly_those(_: &Path) -> Outcome {
    let mut gate = Gate::load()?;
    let bans = |from: u32, count: u32| -> HashMap<[u8; 16], u64> {
        (from..from + count).map(|n| (abi::v4_mapped(n.to_be_bytes()), u64::from(n))).collect()
    };
    gate.set_bans(&bans(0, abi::BANS_MAX))?;
    // All others: the map is full, and yet they have room.
    gate.set_bans(&bans(1 << 20, abi::BANS_MAX))?;
    check(gate.fill().bans == abi::BANS_MAX as usize, "some are missing")?;
    let error = gate.set_bans(&bans(0, abi::BANS_MAX + 1)).err().ok_or("too many were taken")?;
    check(matches!(error, GateError::Full { .. }), &error.to_string())?;
    gate.set_bans(&HashMap::new())?;
    check(gate.fill().bans == 0, "some stay")
}

fn links_are_steered(_: &Path) -> Outcome {
    let mut gate = Gate::load()?;
    let bind = |port: u16| -> Result<UdpSocket, Failed> {
        use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};
        let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
        sockopt::set_socket_reuseport(&socket, true)?;
        bind(&socket, &std::net::SocketAddrV4::new([127, 0, 0, 1].into(), port))?;
        let socket = UdpSocket::from(socket);
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        Ok(socket)
    };
    let first = bind(0)?;
    let port = first.local_addr()?.port();
    let sockets = [first, bind(port)?, bind(port)?];
    let shards: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
    gate.steer(&shards)?;
    let count = |socket: &UdpSocket| {
        let (mut buf, mut count) = ([0; 16], 0);
        while socket.recv(&mut buf).is_ok() {
            count += 1;
        }
        count
    };
    for shard in [1, 2, 0, 2] {
        let sender = UdpSocket::bind("127.0.0.1:0")?;
        let key = LinkKey::new(abi::v4_mapped([127, 0, 0, 1]), sender.local_addr()?.port(), port);
        gate.insert_link(key, Link { shard, generation: 0, reg_bucket: 0 })?;
        for _ in 0..20 {
            sender.send_to(b"x", ("127.0.0.1", port))?;
        }
        let counts: Vec<i32> = sockets.iter().map(count).collect();
        let expected: Vec<i32> = (0..3).map(|n| if n == shard { 20 } else { 0 }).collect();
        check(counts == expected, &format!("shard {shard}: {counts:?}"))?;
        // Unknown again, the kernel chooses; nothing is lost.
        gate.remove_link(key)?;
        sender.send_to(b"x", ("127.0.0.1", port))?;
        check(sockets.iter().map(count).sum::<i32>() == 1, "an unknown link was lost")?;
    }
    Gate::unsteer(sockets[0].as_fd())?;
    Ok(())
}
