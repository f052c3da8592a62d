//! The maps, and how the verdict sees them.

use core::arch::asm;
use core::cell::UnsafeCell;

use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, ArrayOfMaps, HashMap, LpmTrie, PerCpuArray, ReusePortSockArray, RingBuf};
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::btf_map;
use bondgate_ebpf_common::abi::{
    BANS_MAX, BUCKETS_MAX, COUNTERS_MAX, Count, EVENTS_BYTES, Event, Globals, LINKS_MAX, Link, LinkKey, List,
    PREFIXES_MAX, SHARDS_MAX, Words,
};
use bondgate_ebpf_common::bucket::Word;
use bondgate_ebpf_common::gate::Lookups;

type Prefixes = LpmTrie<Words, u64, { PREFIXES_MAX as usize }>;

#[btf_map]
static GLOBALS: Array<Globals, 1> = Array::new();
#[btf_map]
pub static LINKS: HashMap<LinkKey, Link, { LINKS_MAX as usize }> = HashMap::new();
#[btf_map]
static BANS: HashMap<Words, u64, { BANS_MAX as usize }> = HashMap::new();
#[btf_map]
static LISTS: ArrayOfMaps<Prefixes, { List::ALL.len() }> = ArrayOfMaps::new();
#[btf_map]
static BUCKETS: Array<u64, { BUCKETS_MAX as usize }> = Array::new();
#[btf_map]
pub static COUNTERS: PerCpuArray<Count, { COUNTERS_MAX as usize }> = PerCpuArray::new();
#[btf_map]
pub static EVENTS: RingBuf<Event, { EVENTS_BYTES as usize }> = RingBuf::new();
#[btf_map]
pub static SOCKETS: ReusePortSockArray<{ SHARDS_MAX as usize }> = ReusePortSockArray::new();

/// What every frame needs.
#[inline(always)]
pub fn globals() -> Option<&'static Globals> {
    GLOBALS.get(0)
}

/// A word that several CPUs change at once.
#[repr(transparent)]
pub struct Bucket(UnsafeCell<u64>);

impl Word for Bucket {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: an aligned word is read whole.
        unsafe { self.0.get().read_volatile() }
    }

    #[inline(always)]
    fn compare_exchange(&self, seen: u64, new: u64) -> u64 {
        let was;
        // SAFETY: the pointer is to an aligned word of a map.
        unsafe {
            asm!(
                "r0 = cmpxchg_64({word} + 0, r0, {new})",
                word = in(reg) self.0.get(),
                new = in(reg) new,
                inout("r0") seen => was,
                options(nostack),
            );
        }
        was
    }
}

/// All maps together.
pub struct Maps(pub &'static Globals);

impl Lookups for Maps {
    type Bucket = Bucket;

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // SAFETY: reads a clock.
        unsafe { bpf_ktime_get_coarse_ns() }
    }

    #[inline(always)]
    fn is_link_port(&self, port: u16) -> bool {
        self.0.is_link_port(port)
    }

    #[inline(always)]
    fn link(&self, key: &LinkKey) -> Option<&Bucket> {
        let link = LINKS.get_ptr_mut(key)?;
        // SAFETY: an aligned word of an element, which is changed by nothing but atomics while it is in the map.
        Some(unsafe { &*(&raw const (*link).reg_bucket).cast() })
    }

    #[inline(always)]
    fn ban(&self, key: &Words) -> u64 {
        // SAFETY: read at once.
        unsafe { BANS.get(key) }.copied().unwrap_or(0)
    }

    #[inline(always)]
    fn list(&self, list: List, address: &Words) -> u64 {
        LISTS.get(list as u32).and_then(|trie| trie.get(&Key::new(128, *address))).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn bucket(&self, index: u32) -> Option<&Bucket> {
        let bucket = BUCKETS.get_ptr_mut(index)?;
        // SAFETY: an aligned word that is changed by nothing but atomics.
        Some(unsafe { &*bucket.cast() })
    }
}
