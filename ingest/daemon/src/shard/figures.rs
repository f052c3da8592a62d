//! What a shard counts for its snapshot.
//!
//! Promise: a beat looks at a bounded share of the groups, so that a shard with many does not stop for them; sums of links
//! are those of the last whole sweep, which takes [`SWEEP_BEATS`] beats, or one where there are few groups.

use std::collections::HashMap;
use std::time::Instant;

use bondgate_auth::cidr::Cidr;
use bondgate_io::Backend;
use bondgate_proto::GroupKey;
use bondgate_proto::receiver::{DropReason, GroupView, LinkView, Receiver};

use super::Output;
use super::snapshot::{IoTotals, LinksIn, PathStats, Present, ShardSnapshot};

/// Beats that a sweep over all groups takes.
const SWEEP_BEATS: u32 = 4;
/// Slots for groups looked at per beat at least: few groups are swept in one.
const SWEEP_MIN: u32 = 512;

/// Sums over all groups and links, gathered in portions.
#[derive(Debug, Default)]
pub(super) struct Figures {
    /// The next slot of the sweep.
    at: u32,
    gathered: Sums,
    whole: Sums,
}

#[derive(Debug, Default)]
struct Sums {
    present: Present,
    /// By stream; the place is the link's index.
    paths: HashMap<String, Vec<Option<Path>>>,
}

/// Sums of the links with one index of a stream.
#[derive(Clone, Copy, Debug, Default)]
struct Path {
    rx_datagrams: u64,
    rx_bytes: u64,
    is_live: bool,
}

impl Sums {
    fn add(&mut self, group: GroupView<'_>, stream: &str) {
        let Self { present, paths } = self;
        present.groups += 1;
        present.groups_on_probation += u64::from(group.is_on_probation);
        if !paths.contains_key(stream) {
            paths.insert(stream.to_owned(), Vec::new());
        }
        let Some(paths) = paths.get_mut(stream) else { return };
        for link in group.links() {
            present.links += 1;
            present.links_live += u64::from(link.is_live);
            let place = usize::from(link.index);
            if paths.len() <= place {
                paths.resize(place + 1, None);
            }
            let Some(path) = paths.get_mut(place).map(Option::get_or_insert_default) else { continue };
            path.rx_datagrams += link.received_packets;
            path.rx_bytes += link.received_bytes;
            path.is_live |= link.is_live;
        }
    }
}

impl Figures {
    /// Looks at the next portion of groups.
    pub(super) fn sweep(&mut self, now: Instant, receiver: &Receiver, output: &Output) {
        let slots = receiver.group_slots();
        let end = self.at.saturating_add(slots.div_ceil(SWEEP_BEATS).max(SWEEP_MIN)).min(slots);
        for group in receiver.groups_in(now, self.at..end) {
            self.gathered.add(group, stream_of(output, group.key));
        }
        self.at = end;
        if end >= slots {
            self.at = 0;
            self.whole = std::mem::take(&mut self.gathered);
        }
    }

    /// What is said of links.
    pub(super) fn fill(&self, slot: &mut ShardSnapshot) {
        slot.present = self.whole.present;
        slot.paths.clear();
        for (stream, paths) in &self.whole.paths {
            let there = paths.iter().enumerate().filter_map(|(index, path)| Some((index, (*path)?)));
            slot.paths.extend(there.map(|(index, path)| PathStats {
                stream: stream.clone(),
                index: index as u8,
                rx_datagrams: path.rx_datagrams,
                rx_bytes: path.rx_bytes,
                live: path.is_live,
            }));
        }
    }
}

/// The stream of a group, empty while nobody knows.
fn stream_of(output: &Output, group: GroupKey) -> &str {
    match output {
        Output::Relay(relay) => relay.stream_of(group).unwrap_or_default(),
        Output::Forward(_) => "",
    }
}

/// The live links in a network. Looks at every link: for people who ask, not for the beat.
pub(super) fn links_in(now: Instant, receiver: &Receiver, output: &Output, network: Cidr) -> LinksIn {
    let mut found = LinksIn::default();
    for group in receiver.groups_in(now, 0..receiver.group_slots()) {
        let is_hit = |link: &LinkView| link.is_live && network.contains(link.addr.addr.ip());
        let links = group.links().filter(is_hit).count() as u64;
        found.links += links;
        let stream = stream_of(output, group.key);
        if links > 0 && !stream.is_empty() && !found.streams.iter().any(|known| known == stream) {
            found.streams.push(stream.to_owned());
        }
    }
    found
}

/// All but what is said of links.
pub(super) fn fill<B: Backend>(
    slot: &mut ShardSnapshot,
    now: Instant,
    id: u8,
    receiver: &Receiver,
    backend: &B,
    output: &Output,
) {
    let io = backend.counters();
    slot.shard = id;
    slot.backend = backend.name();
    slot.taken = Some(now);
    slot.turns = io.turns;
    slot.io = IoTotals {
        rx_datagrams: io.rx_datagrams,
        rx_bytes: io.rx_bytes,
        tx_datagrams: io.tx_datagrams,
        tx_bytes: io.tx_bytes,
        gso_sends: io.tx_gso_messages,
        wakes: io.wakes,
        rx_overflow_datagrams: io.rx_kernel_drops,
        tx_dropped_datagrams: io.tx_would_block + io.tx_errors + io.tx_no_room + io.tx_no_socket,
    };
    let counters = receiver.counters();
    slot.srtla.received = counters.received;
    slot.srtla.forwarded = counters.forwarded;
    slot.srtla.fanned_out = counters.fanned_out;
    slot.srtla.to_link = counters.to_link;
    slot.srtla.consumed = counters.consumed;
    slot.srtla.handed_off = counters.handed_off;
    slot.srtla.taken_over = counters.taken_over;
    slot.srtla.on_owner = counters.on_owner;
    slot.srtla.dropped.clear();
    slot.srtla
        .dropped
        .extend(DropReason::ALL.iter().map(|reason| (reason.name(), counters.dropped(*reason))));
    slot.srtla.registration.clear();
    slot.srtla.registration.extend([
        ("reg1_answered", counters.reg1_answered),
        ("ngp_sent", counters.ngp_sent),
        ("joined", counters.reg3_sent),
        ("challenged", counters.sa1_challenged),
        ("rechallenged", counters.sa1_rechallenged),
        ("confirmed", counters.sa1_confirmed),
        ("refused", counters.sa1_refused),
        ("moved", counters.sa1_moved),
        ("strike", counters.strikes),
    ]);
    slot.streams.clear();
    slot.rejections.clear();
    match output {
        Output::Relay(relay) => {
            slot.streams.extend(relay.stream_stats());
            slot.rejections.extend_from_slice(relay.refusals());
        }
        Output::Forward(forward) => slot.rejections.extend_from_slice(forward.refusals.counts()),
    }
}
