//! The gate in the kernel: programs and maps of an object, frames sent through by `BPF_PROG_TEST_RUN`.

use std::path::Path;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, ArrayOfMaps, HashMap, Map, MapData, PerCpuArray, ReusePortSockArray, RingBuf};
use aya::programs::{ProgramError, SkReuseport, TestRun, TestRunOptions, TestRunResult, Xdp};
use bondgate_ebpf_common::abi::{self, COUNTERS_MAX, Config, Count, Event, Globals, Link, LinkKey, List};
use bondgate_ebpf_common::reason::Action;
use bondgate_ebpf_common::testing::{ListEntry, World};

/// What goes wrong is said, with what was being done.
pub type Result<T> = std::result::Result<T, String>;

/// Adds what was being done to an error.
pub trait Doing<T> {
    /// The error says `what` was being done.
    fn doing(self, what: &str) -> Result<T>;
}

impl<T, E: std::fmt::Display> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: &str) -> Result<T> {
        self.map_err(|error| format!("{what}: {error:#}"))
    }
}

/// `BPF_F_NO_PREALLOC`, without which there are no LPM tries.
const NO_PREALLOC: u32 = 1;
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

/// Why programs cannot be loaded here, if they cannot.
pub fn missing() -> Option<String> {
    const CAP_NET_ADMIN: u64 = 1 << 12;
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    const CAP_BPF: u64 = 1 << 39;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or("0");
    let caps = u64::from_str_radix(line.trim(), 16).unwrap_or(0);
    if caps & (CAP_BPF | CAP_SYS_ADMIN) == 0 || caps & CAP_NET_ADMIN == 0 {
        return Some("needs CAP_BPF and CAP_NET_ADMIN".to_owned());
    }
    let map = Array::<MapData, u32>::create(1, 0);
    map.err().map(|error| format!("the kernel gives no BPF maps: {}", source_of(&error)))
}

fn source_of(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

/// The object under test: the committed one, or that of `BONDGATE_GATE_OBJECT`.
pub fn object() -> Result<Vec<u8>> {
    match std::env::var_os("BONDGATE_GATE_OBJECT") {
        Some(path) => std::fs::read(Path::new(&path)).doing(&path.to_string_lossy()),
        None => Ok(bondgate_ebpf::object::OBJECT.to_vec()),
    }
}

/// Programs and maps.
pub struct Kernel {
    /// The programs, loaded.
    pub programs: Programs,
    /// The maps.
    pub maps: Maps,
}

/// The programs, and the maps nobody took.
pub struct Programs(Ebpf);

/// The maps.
pub struct Maps {
    globals: Array<MapData, [u8; Globals::LEN]>,
    links: HashMap<MapData, [u8; LinkKey::LEN], [u8; Link::LEN]>,
    bans: HashMap<MapData, [u8; 16], u64>,
    lists: ArrayOfMaps<MapData, LpmTrie<MapData, [u8; 16], u64>>,
    buckets: Array<MapData, u64>,
    counters: PerCpuArray<MapData, [u64; 2]>,
    events: RingBuf<MapData>,
    /// What [`Self::install`] put into the lists: swapping one waits for all CPUs.
    installed: [Option<Vec<ListEntry>>; List::ALL.len()],
    /// Buckets that are not full.
    spent: Vec<u32>,
}

impl Kernel {
    /// Loads the programs of the object under test.
    pub fn open() -> Result<Self> {
        let mut ebpf = Ebpf::load(&object()?).doing("the object's maps")?;
        let steer: &mut SkReuseport = program(&mut ebpf, abi::PROGRAM_STEER)?;
        steer.load().map_err(verifier)?;
        let gate: &mut Xdp = program(&mut ebpf, abi::PROGRAM_GATE)?;
        gate.load().map_err(verifier)?;
        let maps = Maps {
            globals: take(&mut ebpf, abi::GLOBALS)?,
            links: take(&mut ebpf, abi::LINKS)?,
            bans: take(&mut ebpf, abi::BANS)?,
            lists: take(&mut ebpf, abi::LISTS)?,
            buckets: take(&mut ebpf, abi::BUCKETS)?,
            counters: take(&mut ebpf, abi::COUNTERS)?,
            events: take(&mut ebpf, abi::EVENTS)?,
            installed: Default::default(),
            spent: Vec::new(),
        };
        Ok(Self { programs: Programs(ebpf), maps })
    }

    /// Sends a frame (14 bytes at least) through. Everything but the reason `Other` leaves an event if the sample masks are 0.
    pub fn run(&mut self, frame: &[u8]) -> Result<(Action, Option<Event>)> {
        let action = match self.programs.test_run(frame, 1)?.return_value {
            XDP_PASS => Action::Pass,
            XDP_DROP => Action::Drop,
            other => return Err(format!("the program returned {other}")),
        };
        let mut events = self.maps.drain_events();
        let event = events.pop();
        if events.is_empty() { Ok((action, event)) } else { Err("several events of one frame".to_owned()) }
    }
}

impl Programs {
    fn test_run(&self, frame: &[u8], repeat: u32) -> Result<TestRunResult> {
        let gate = self.0.program(abi::PROGRAM_GATE).ok_or("no program")?;
        let gate: &Xdp = gate.try_into().doing("the program")?;
        let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() };
        gate.test_run(options).doing("running the program")
    }

    /// Sends a frame through `repeat` times. How long one took.
    pub fn time(&self, frame: &[u8], repeat: u32) -> Result<Duration> {
        Ok(self.test_run(frame, repeat)?.duration)
    }

    /// The program that chooses sockets, and their map.
    pub fn steering(&mut self) -> Result<(&SkReuseport, ReusePortSockArray<MapData>)> {
        let sockets = take(&mut self.0, abi::SOCKETS)?;
        Ok((program(&mut self.0, abi::PROGRAM_STEER)?, sockets))
    }
}

impl Maps {
    /// Makes the maps what those of `world` are.
    pub fn install(&mut self, world: &World) -> Result<()> {
        self.set_config(&world.config)?;
        let old: Vec<_> = self.links.keys().filter_map(std::result::Result::ok).collect();
        for key in old {
            self.links.remove(&key).doing("emptying LINKS")?;
        }
        let mut now = self.globals.get(&0, 0).doing("reading GLOBALS")?;
        Globals::clear_link_ports(&mut now);
        self.globals.set(0, now, 0).doing("writing GLOBALS")?;
        for (key, link) in &world.links {
            self.put_link(*key, *link)?;
        }
        let old: Vec<_> = self.bans.keys().filter_map(std::result::Result::ok).collect();
        for key in old {
            self.bans.remove(&key).doing("emptying BANS")?;
        }
        for (key, until) in &world.bans {
            self.bans.insert(key, until, 0).doing("filling BANS")?;
        }
        for list in List::ALL {
            let entries = &world.lists[list as usize];
            if self.installed[list as usize].as_ref() != Some(entries) {
                self.set_list(list, entries.iter().copied())?;
                self.installed[list as usize] = Some(entries.clone());
            }
        }
        for index in std::mem::take(&mut self.spent) {
            self.buckets.set(index, 0, 0).doing("filling a bucket")?;
        }
        Ok(())
    }

    /// Puts a configuration in force.
    pub fn set_config(&mut self, config: &Config) -> Result<()> {
        let mut now = self.globals.get(&0, 0).doing("reading GLOBALS")?;
        Globals::set_spare(&mut now, config);
        self.globals.set(0, now, 0).doing("writing GLOBALS")?;
        Globals::switch(&mut now);
        self.globals.set(0, now, 0).doing("writing GLOBALS")
    }

    /// Registers a link.
    pub fn put_link(&mut self, key: LinkKey, link: Link) -> Result<()> {
        let mut now = self.globals.get(&0, 0).doing("reading GLOBALS")?;
        Globals::set_link_port(&mut now, key.port(), true);
        self.globals.set(0, now, 0).doing("writing GLOBALS")?;
        self.links.insert(key.to_bytes(), link.to_bytes(), 0).doing("filling LINKS")
    }

    /// Swaps a list for another.
    pub fn set_list(&mut self, list: List, entries: impl ExactSizeIterator<Item = ListEntry>) -> Result<()> {
        self.installed[list as usize] = None;
        let max = entries.len().max(1) as u32;
        let mut trie = LpmTrie::create(max, NO_PREALLOC).doing("making a trie")?;
        for (address, bits, value) in entries {
            trie.insert(&Key::new(bits, address), value, 0).doing("filling a trie")?;
        }
        self.lists.set(list as u32, &trie, 0).doing("swapping a list")
    }

    /// What is in the buckets that are not full in `world`; they are filled by the next [`Self::install`].
    pub fn spent(&mut self, world: &World) -> Result<Vec<u64>> {
        let spent: Vec<u32> = world.spent().into_iter().map(|(index, _)| index).collect();
        let fill = spent.iter().map(|index| self.buckets.get(index, 0).doing("reading a bucket")).collect();
        self.spent.extend(spent);
        fill
    }

    /// Takes all events that wait.
    pub fn drain_events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(bytes) = self.events.next() {
            events.extend(Event::from_bytes(&bytes));
        }
        events
    }

    /// The counters, summed over the CPUs.
    pub fn counters(&self) -> Result<Vec<Count>> {
        let sum = |index| {
            let values = self.counters.get(&index, 0).doing("reading COUNTERS")?;
            Ok(values.iter().fold(Count::default(), |sum, [packets, bytes]| Count {
                packets: sum.packets + packets,
                bytes: sum.bytes + bytes,
            }))
        };
        (0..COUNTERS_MAX).map(sum).collect()
    }
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    ebpf.program_mut(name).ok_or(format!("no program {name}"))?.try_into().doing(name)
}

fn take<M: TryFrom<Map, Error = aya::maps::MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<M> {
    let map = ebpf.take_map(name).ok_or(format!("no map {name}"))?;
    M::try_from(map).doing(name)
}

/// The end of what the verifier said.
fn verifier(error: ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else { return error.to_string() };
    let log = verifier_log.to_string();
    let start = log.char_indices().rev().nth(3000).map_or(0, |(at, _)| at);
    format!("{io_error}\n{}", &log[start..])
}
