//! The gate in front of a running daemon: real packets over veth pairs, real streams, real floods.
//!
//! Each test has hosts of its own (network namespaces) and a BPF file system of its own. Without root they are skipped. Figures
//! are printed on lines that begin with `FIGURE`.

mod flood;
mod life;
mod reload;
mod rig;
mod rights;

use std::process::ExitCode;

use bondgate_tests::harness::{Need, SRT, Suite};

fn main() -> ExitCode {
    // One at a time: a flood next door is not part of any row.
    let mut suite = Suite::from_args(1);
    let (alone, live) = (&[Need::Namespaces, Need::Bpf][..], &[SRT, Need::Namespaces, Need::Bpf][..]);
    suite.test("flood::beside_a_stream_native", live, flood::beside_a_stream_native);
    suite.test("flood::beside_a_stream_generic", live, flood::beside_a_stream_generic);
    suite.test("flood::seen_by_top", alone, flood::seen_by_top);
    suite.test("life::attached_replaced_detached_under_a_stream", live, life::under_a_stream);
    suite.test("life::daemon_killed_and_back", live, life::daemon_killed_and_back);
    suite.test("life::closed_without_the_gate", live, life::closed_without_the_gate);
    suite.test("life::bans_reach_the_gate", alone, life::bans_reach_the_gate);
    suite.test("life::too_many_countries", alone, life::too_many_countries);
    suite.test("reload::allowlist_in_the_gate", alone, reload::allowlist_in_the_gate);
    suite.test("reload::under_a_stream_and_a_flood", live, reload::under_a_stream_and_a_flood);
    suite.test("rights::given_up_and_the_gate_goes_on", alone, rights::given_up);
    suite.test("rights::given_up_by_several_shards", alone, rights::given_up_by_several_shards);
    let unprivileged = &[Need::Program("setpriv", "util-linux"), Need::Namespaces, Need::Bpf];
    suite.test("rights::none_from_the_start", unprivileged, rights::none_from_the_start);
    suite.run()
}

/// Prints what a test was decided by.
fn figure(row: &str, text: std::fmt::Arguments<'_>) {
    eprintln!("FIGURE {row}: {text}");
}
