//! The BPF programs: `gate` in front of the network stack and `steer` in front of the shards' sockets.
//!
//! Nothing is decided here. This file gives `bondgate_ebpf_common` its frames and maps, and counts.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod maps;

use core::arch::asm;

use aya_ebpf::bindings::{sk_action, xdp_action};
use aya_ebpf::helpers::generated::bpf_skb_load_bytes_relative;
use aya_ebpf::macros::{sk_reuseport, xdp};
use aya_ebpf::programs::{SkReuseportContext, XdpContext};
use bondgate_ebpf_common::abi::{Budget, Config, Count, Event, LinkKey, Stat};
use bondgate_ebpf_common::gate::{Sink, decide, take};
use bondgate_ebpf_common::packet::Frame;
use bondgate_ebpf_common::reason::{Action, Reason};
use bondgate_ebpf_common::steer::link_key;
use maps::{COUNTERS, EVENTS, LINKS, Maps, SOCKETS, globals};

/// The frame of an XDP program.
struct XdpFrame {
    start: usize,
    end: usize,
}

impl Frame for XdpFrame {
    #[inline(always)]
    fn len(&self) -> usize {
        self.end - self.start
    }

    #[inline(always)]
    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let from = self.start + at;
        let to: usize;
        // SAFETY: a sum. The compiler must not know that it is one, or it moves it to the other side of the comparison, and
        // the verifier allows no arithmetic with the end of the frame.
        unsafe {
            asm!(
                "{to} = {from}", "{to} += {n}",
                from = in(reg) from, to = out(reg) to, n = const N,
                options(pure, nomem, nostack)
            );
        }
        if to > self.end {
            return None;
        }
        // SAFETY: the bytes lie between the bounds of the frame, which the verifier checks once more.
        Some(unsafe { *(from as *const [u8; N]) })
    }
}

/// Judges every frame that arrives.
#[xdp]
pub fn gate(ctx: XdpContext) -> u32 {
    let frame = XdpFrame { start: ctx.data(), end: ctx.data_end() };
    let Some(globals) = globals() else { return xdp_action::XDP_PASS };
    let (config, maps) = (globals.in_force(), Maps(globals));
    decide(&frame, config, &maps, &Counting { len: frame.len() as u32, config, maps: &maps })
}

/// Counts frames, and makes them events when it is their turn.
struct Counting<'a> {
    len: u32,
    config: &'a Config,
    maps: &'a Maps,
}

impl Sink for Counting<'_> {
    type Output = u32;

    #[inline(always)]
    fn verdict(&self, reason: Reason, source: Option<&LinkKey>) -> u32 {
        let (action, mask) = match reason.action() {
            Action::Pass => (xdp_action::XDP_PASS, self.config.pass_sample_mask),
            Action::Drop => (xdp_action::XDP_DROP, self.config.drop_sample_mask),
        };
        let Some(count) = COUNTERS.get_ptr_mut(reason as u32) else { return action };
        // SAFETY: the element is of this CPU alone, and no program interrupts another of the same kind on it.
        let before = unsafe {
            let before = (*count).packets;
            *count = Count { packets: before + 1, bytes: (*count).bytes + u64::from(self.len) };
            before
        };
        if reason != Reason::Other && before & u64::from(mask) == 0 {
            event(reason, source, self.len, mask, self);
        }
        action
    }
}

/// Writes an event, within the budget.
#[inline(always)]
fn event(reason: Reason, source: Option<&LinkKey>, len: u32, mask: u32, from: &Counting<'_>) {
    let stat = if !take(Budget::Events, 0, from.config, from.maps) {
        Stat::EventsOverBudget
    } else if let Some(mut entry) = EVENTS.reserve(0) {
        entry.write(Event {
            source: source.copied().unwrap_or(LinkKey::ZERO),
            weight: mask.saturating_add(1),
            reason: reason as u32,
            len,
        });
        entry.submit(0);
        Stat::Events
    } else {
        Stat::EventsLost
    };
    if let Some(count) = COUNTERS.get_ptr_mut(stat as u32) {
        // SAFETY: as in `count`.
        unsafe { (*count).packets += 1 };
    }
}

/// The IP header of a datagram that is about to be given to a socket.
struct NetworkHeader<'a>(&'a SkReuseportContext);

/// Offsets count from the IP header (`BPF_HDR_START_NET`).
const FROM_NETWORK_HEADER: u32 = 1;

impl Frame for NetworkHeader<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    #[inline(always)]
    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        // SAFETY: the helper writes at most the `N` bytes it is told there are.
        let result = unsafe {
            bpf_skb_load_bytes_relative(
                self.0.md.cast(),
                at as u32,
                bytes.as_mut_ptr().cast(),
                N as u32,
                FROM_NETWORK_HEADER,
            )
        };
        (result == 0).then_some(bytes)
    }
}

/// `eth_protocol` of IPv6, in network byte order.
const ETHERTYPE_IPV6: u32 = 0x86dd_u16.to_be() as u32;

/// Chooses the socket of the shard that owns the link. Anything else is left to the kernel, which spreads it by its hash.
#[sk_reuseport]
pub fn steer(ctx: SkReuseportContext) -> u32 {
    let start = ctx.data();
    if start + 4 > ctx.data_end() {
        return sk_action::SK_PASS;
    }
    // SAFETY: four bytes of the UDP header, which the verifier checks once more.
    let ports = unsafe { *(start as *const [u8; 4]) };
    let ipv6 = ctx.eth_protocol() == ETHERTYPE_IPV6;
    if let Some(key) = link_key(ipv6, &NetworkHeader(&ctx), ports)
        && let Some(link) = LINKS.get_ptr(&key)
    {
        // SAFETY: an element of the map; its slot is reused at the earliest when this program has ended.
        let shard = unsafe { (*link).shard };
        // With no socket there the kernel chooses.
        let _ = SOCKETS.select_reuseport(&ctx, shard);
    }
    sk_action::SK_PASS
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 18] = *b"MIT OR Apache-2.0\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
