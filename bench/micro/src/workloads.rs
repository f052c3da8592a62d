//! What is counted. Everything random follows from fixed seeds, so that the same program does the same.

mod receiver;
mod sender;
mod srt;
mod trailer;

/// One thing the packet path does.
pub struct Workload {
    /// Unique, for the ratchet.
    pub name: &'static str,
    /// What one operation is.
    pub what: &'static str,
    /// Sets up, does the operation many times inside [`measured`](crate::measured), and says how many times.
    pub run: fn() -> u64,
}

/// All of them.
pub const ALL: &[Workload] = &[
    Workload { name: "codec_classify", what: "one datagram told apart", run: receiver::classify },
    Workload {
        name: "uplink_4_links",
        what: "one data packet, one group of 4 links",
        run: receiver::uplink_4_links,
    },
    Workload {
        name: "uplink_trains",
        what: "the same, eight of each link in a row",
        run: receiver::uplink_trains,
    },
    Workload {
        name: "uplink_10k_groups",
        what: "one data packet of a random link of 10,000 groups of 4",
        run: receiver::uplink_10k_groups,
    },
    Workload {
        name: "uplink_stranger",
        what: "one data packet from nobody's address",
        run: receiver::uplink_stranger,
    },
    Workload { name: "downlink_ack_4_links", what: "one SRT ACK for 4 links", run: receiver::downlink_ack },
    Workload { name: "register_stock", what: "REG1 and REG2 of a new group", run: receiver::register_stock },
    Workload { name: "register_sa1", what: "M1 and M3 of a device's link", run: receiver::register_sa1 },
    Workload {
        name: "reg1_flood",
        what: "one REG1 of a flood, from a new address",
        run: receiver::reg1_flood,
    },
    Workload { name: "data_mac_open", what: "the MAC of one SRT packet checked", run: trailer::open },
    Workload { name: "data_mac_seal", what: "the MAC of one SRT packet made", run: trailer::seal },
    Workload {
        name: "sender_schedule",
        what: "one SRT packet given to one of 4 links",
        run: sender::schedule,
    },
    Workload {
        name: "srt_receive_in_order",
        what: "one payload in order, from datagram to event",
        run: srt::in_order,
    },
    Workload { name: "srt_receive_reordered", what: "the same with neighbours swapped", run: srt::reordered },
    Workload { name: "srt_send", what: "one payload to a player", run: srt::send },
];
