//! The BPF programs of the bench: `offer` makes frames, `arrive` notes when datagrams arrive, `softirq_entry` and
//! `softirq_exit` time the soft interrupt that receives.
//!
//! What is sent and when follows from `bondgate_ebpf_common::bench`. This file gives it maps, a clock and frames.

#![no_std]
#![no_main]

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::{Array, PerCpuArray};
use aya_ebpf::helpers::generated::{
    bpf_ktime_get_ns, bpf_redirect, bpf_xdp_adjust_tail, bpf_xdp_store_bytes,
};
use aya_ebpf::macros::{btf_map, raw_tracepoint, socket_filter, xdp};
use aya_ebpf::programs::{RawTracePointContext, SkBuffContext, XdpContext};
use bondgate_ebpf_common::bench::{
    CHECK_LEN, ETHERNET_LEN, FILLER, Front, HEAD_LEN, HEADERS_LEN, LATENCY_BUCKETS, NET_RX, Next, Offer,
    Piece, Place, Progress, SENDERS_MAX, Sender, Softirq, Stamp, bucket_of,
};

#[btf_map]
static OFFER: Array<Offer, 1> = Array::new();
#[btf_map]
static SENDERS: Array<Sender, { SENDERS_MAX as usize }> = Array::new();
#[btf_map]
static PROGRESS: Array<Progress, 1> = Array::new();
#[btf_map]
static WINDOW: Array<u64, 1> = Array::new();
#[btf_map]
static LATENCY: PerCpuArray<u64, { LATENCY_BUCKETS as usize }> = PerCpuArray::new();
#[btf_map]
static SOFTIRQ: PerCpuArray<Softirq, 1> = PerCpuArray::new();

fn now_ns() -> u64 {
    // SAFETY: reads a clock.
    unsafe { bpf_ktime_get_ns() }
}

/// Makes the frame that is due, if any.
#[xdp]
pub fn offer(ctx: XdpContext) -> u32 {
    let (Some(offer), Some(progress)) = (OFFER.get(0), PROGRESS.get_ptr_mut(0)) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: the kernel runs this program in one thread only.
    let progress = unsafe { &mut *progress };
    let front = match progress.take(offer, now_ns()) {
        Next::Nothing => return xdp_action::XDP_DROP,
        Next::Load { number, intended_ns } => {
            let place = Place::of(number, offer.burst, offer.groups, offer.links);
            let Some(sender) = SENDERS.get(place.group * offer.links + place.link) else {
                return xdp_action::XDP_ABORTED;
            };
            let stamp = Stamp { group: place.group, number, intended_ns };
            offer.load_front(*sender, &stamp, place.sequence)
        }
        Next::Flood(number) => offer.flood_front(number),
    };
    if put(&ctx, offer, &front).is_none() {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: notes a number for the kernel.
    unsafe { bpf_redirect(offer.interface, 0) as u32 }
}

/// Makes the frame what it is to be. It has been used before, by the load or by the flood: whatever either has written is
/// written again.
#[inline(always)]
fn put(ctx: &XdpContext, offer: &Offer, front: &Front) -> Option<()> {
    let have = ctx.data_end() - ctx.data();
    let want = HEADERS_LEN + front.datagram_bytes as usize;
    if have != want {
        // SAFETY: the helper checks what it is asked for.
        let result = unsafe { bpf_xdp_adjust_tail(ctx.ctx, want as i32 - have as i32) };
        if result != 0 {
            return None;
        }
    }
    let start = ctx.data();
    if start + HEADERS_LEN + HEAD_LEN > ctx.data_end() {
        return None;
    }
    // SAFETY: the bytes lie within the frame, which the verifier checks once more.
    unsafe {
        *(start as *mut [u8; ETHERNET_LEN]) = *offer.ethernet.first_chunk()?;
        *((start + ETHERNET_LEN) as *mut [u8; 12]) = front.ip.0;
        *((start + ETHERNET_LEN + 12) as *mut [u8; 8]) = front.addresses.0;
        *((start + ETHERNET_LEN + 20) as *mut [u8; 8]) = front.udp.0;
        *((start + HEADERS_LEN) as *mut [u8; HEAD_LEN]) = front.head.0;
    }
    let load_check = offer.datagram_bytes as usize;
    if load_check > 0 && load_check < front.datagram_bytes as usize {
        store(ctx, HEADERS_LEN + load_check - CHECK_LEN, &Piece([FILLER; CHECK_LEN]))?;
    }
    store(ctx, want - CHECK_LEN, &front.check)
}

#[inline(always)]
fn store(ctx: &XdpContext, at: usize, bytes: &Piece<CHECK_LEN>) -> Option<()> {
    // SAFETY: the helper reads the bytes it is told of, and checks where they go.
    let result = unsafe {
        bpf_xdp_store_bytes(ctx.ctx, at as u32, bytes.0.as_ptr().cast_mut().cast(), CHECK_LEN as u32)
    };
    (result == 0).then_some(())
}

/// UDP's header, which a datagram has when it comes to a socket's filter.
const UDP_LEN: usize = 8;

/// Notes how late a datagram of the load comes to its socket, and lets it pass.
#[socket_filter]
pub fn arrive(ctx: SkBuffContext) -> i64 {
    note(&ctx);
    i64::from(u32::MAX)
}

#[inline(always)]
fn note(ctx: &SkBuffContext) -> Option<()> {
    let (offer, from) = (OFFER.get(0)?, *WINDOW.get(0)?);
    let head: Piece<HEAD_LEN> = ctx.load(UDP_LEN).ok()?;
    let check: Piece<CHECK_LEN> = ctx.load(ctx.len() as usize - CHECK_LEN).ok()?;
    let stamp = Stamp::read(&head.0, check.0, offer.magic)?;
    if stamp.number < from {
        return None;
    }
    let late_ns = (now_ns() - offer.origin_ns).saturating_sub(stamp.intended_ns);
    let count = LATENCY.get_ptr_mut(bucket_of(late_ns))?;
    // SAFETY: the element is of this CPU alone; a filter that another one interrupts loses a count at worst.
    unsafe { *count += 1 };
    Some(())
}

#[raw_tracepoint(tracepoint = "softirq_entry")]
pub fn softirq_entry(ctx: RawTracePointContext) -> i32 {
    if let (NET_RX, Some(softirq)) = (ctx.arg::<u32>(0), SOFTIRQ.get_ptr_mut(0)) {
        // SAFETY: the element is of this CPU alone, and soft interrupts do not interrupt each other.
        unsafe { (*softirq).since_ns = now_ns() };
    }
    0
}

#[raw_tracepoint(tracepoint = "softirq_exit")]
pub fn softirq_exit(ctx: RawTracePointContext) -> i32 {
    if let (NET_RX, Some(softirq)) = (ctx.arg::<u32>(0), SOFTIRQ.get_ptr_mut(0)) {
        // SAFETY: as in `softirq_entry`.
        let softirq = unsafe { &mut *softirq };
        if softirq.since_ns != 0 {
            softirq.total_ns += now_ns() - softirq.since_ns;
            softirq.count += 1;
            softirq.since_ns = 0;
        }
    }
    0
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 18] = *b"MIT OR Apache-2.0\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
