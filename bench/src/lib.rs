//! The bench harness: offered load, exact bookkeeping, real receivers, figures with their spread.
//!
//! One flow: a [`scenario`] file says what to do; [`topology`] makes the ground (namespaces or loopback); [`receiver`]
//! starts the process under test; [`far_end`] is both ends around it in one loop, a [`swarm`] of registered senders and a
//! [`sink`], whose data a [`generator`] inside the kernel can send; [`trial`] puts them together (for relays [`relay`] and [`callers`] do) and yields one [`row`](row::Row) of figures; [`run`], [`search`], [`compare`]
//! and [`flood`] decide which trials to make; [`report`] renders rows. [`machine`] says what machine this is and whether it
//! was quiet, [`wakes`] what waking up costs it.
//!
//! Promises: load is offered by the clock and never waits for the receiver; latency counts from the time a datagram was to be
//! sent; what the harness itself costs or loses is never counted as the receiver's; a figure that was not measured is
//! absent, not zero; on a noisy machine there is no verdict.

#![forbid(unsafe_code)]

pub mod callers;
pub mod compare;
pub mod far_end;
pub mod flood;
pub mod frame;
pub mod generator;
pub mod machine;
pub mod proc;
pub mod receiver;
pub mod relay;
pub mod report;
pub mod row;
pub mod run;
pub mod scenario;
pub mod search;
pub mod senders;
pub mod sink;
pub mod stats;
pub mod swarm;
pub mod topology;
pub mod trial;
pub mod wakes;
