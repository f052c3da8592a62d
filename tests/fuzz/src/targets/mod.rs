//! One plain function per parser and state machine. A defect is a panic; what each checks beyond that stands at its head.
//!
//! State machines read their input as a script of operations, so that a mutated input is another sequence of events, and
//! genuine values (issued IDs, live socket IDs) can be reached that no random bytes would guess.

mod config;
mod keyring;
mod receiver;
mod sa1;
mod script;
mod sender;
mod srt_endpoint;
mod srt_packet;
mod srtla_wire;
mod text;
mod ticket;

/// A function to be fed, and the name of its folder of seeds.
#[derive(Clone, Copy)]
pub struct Target {
    /// Name, also of the folder in `seeds/`.
    pub name: &'static str,
    /// What to feed.
    pub run: fn(&[u8]),
    /// How many inputs a short run makes; state machines take longer per input than parsers.
    pub smoke_iterations: u32,
}

/// All targets.
pub const ALL: &[Target] = &[
    Target { name: "srtla_wire", run: srtla_wire::run, smoke_iterations: 100_000 },
    Target { name: "srt_packet", run: srt_packet::run, smoke_iterations: 100_000 },
    Target { name: "stream_id", run: text::stream_id, smoke_iterations: 100_000 },
    Target { name: "ticket", run: ticket::run, smoke_iterations: 10_000 },
    Target { name: "sa1_hello", run: sa1::hello::run, smoke_iterations: 10_000 },
    Target { name: "sa1_join", run: sa1::join::run, smoke_iterations: 10_000 },
    Target { name: "sa1_sender", run: sa1::sender::run, smoke_iterations: 10_000 },
    Target { name: "sa1_trailer", run: sa1::trailer::run, smoke_iterations: 10_000 },
    Target { name: "sa1_data", run: sa1::data::run, smoke_iterations: 10_000 },
    Target { name: "key_text", run: keyring::key_text, smoke_iterations: 10_000 },
    Target { name: "provision", run: keyring::provision, smoke_iterations: 10_000 },
    Target { name: "sealed", run: keyring::sealed, smoke_iterations: 3_000 },
    Target { name: "config", run: config::run, smoke_iterations: 3_000 },
    Target { name: "receiver", run: receiver::run, smoke_iterations: 2_000 },
    Target { name: "sender", run: sender::run, smoke_iterations: 1_000 },
    Target { name: "srt_endpoint", run: srt_endpoint::run, smoke_iterations: 1_000 },
];
