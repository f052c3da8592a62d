//! The attack rig: every row of the threat model that needs the running daemon, and those that need a clock of their own.
//!
//! Tests that need a network are fought out in namespaces, with forged source addresses and ears on the wire; without root
//! they are skipped. Each prints the figure it was decided by, on a line that begins with `FIGURE`. `docs/threat-model.md`
//! says which test stands for which threat. `BONDGATE_ATTACK=long` takes longer and looks closer.

mod bans;
mod differential;
mod flood;
mod hijack;
mod insider;
mod keys;
mod middlebox;
mod reflection;
mod reload;
mod replay;
mod silence;
mod stock;

use std::process::ExitCode;

use bondgate_tests::harness::{Need, SRT, Suite};

fn main() -> ExitCode {
    // One at a time: a flood next door is not part of any row.
    let mut suite = Suite::from_args(1);
    let (alone, live) = (&[Need::Namespaces][..], &[SRT, Need::Namespaces][..]);
    suite.test("w1_a03::reflection_by_a_ticket_holder", live, reflection::by_a_ticket_holder);
    suite.test("w1_a03::reflection_by_the_owner_of_a_key", live, reflection::by_the_owner_of_a_key);
    suite.test("w2_a01::reg1_flood_required", live, flood::reg1_required);
    suite.test("w2_a01::reg1_flood_mixed", live, flood::reg1_mixed);
    suite.test("w2_a01::reg1_24_per_second", alone, flood::reg1_24_per_second);
    suite.test("w3_f10::server_closed_and_back", live, stock::server_closed_and_back);
    suite.test("w4_a02::reg1_in_the_victim_s_name", alone, flood::reg1_in_the_victim_s_name);
    suite.test("w4_a02::flood_in_the_victim_s_name", alone, flood::in_the_victim_s_name);
    suite.test("w5_a09_b01::strict_silence", alone, silence::strict);
    suite.test("w6::observed_stock_id", live, hijack::observed_stock_id);
    suite.test("w7_a08::forgeries_in_the_receiver_s_name", live, hijack::forgeries_in_the_receiver_s_name);
    suite.test("a04::replays_over_the_wire", alone, hijack::replays_over_the_wire);
    suite.test("a04::replays_at_any_time", &[], replay::at_any_time);
    suite.test("a06b::clock_games", &[], replay::clock_games);
    suite.test("a07::keepalive_flood_and_oversize", live, hijack::keepalive_flood_and_oversize);
    suite.test("a08::injection_from_a_link_s_address", live, hijack::injection_from_a_link_s_address);
    suite.test("a10::insider", live, insider::quotas);
    suite.test("a13::gate_key_leaked", live, insider::gate_key_leaked);
    suite.test("a14::same_key_from_two_places", live, insider::same_key_from_two_places);
    suite.test("b04::parsers_agree", &[Need::Program("python3", "python3")], differential::parsers_agree);
    suite.test("b06::mutating_middlebox", &[], middlebox::mutating);
    suite.test("bans::effective_within_100_ms", live, bans::effective_within_100_ms);
    suite.test("bans::one_modem_is_banned", live, bans::one_modem_is_banned);
    suite.test("reload::effective_within_100_ms", live, reload::effective_within_100_ms);
    suite.test("k03::rotation_every_second", live, keys::rotation_every_second);
    suite.test("k04::revocation_at_the_sink", live, keys::revocation_at_the_sink);
    suite.test("k04::revocation_leaves_others_alone", live, keys::revocation_leaves_others_alone);
    suite.test("k04::token_revocation", live, keys::token_revocation);
    suite.test("k04::token_revocation_at_the_sink", live, keys::token_revocation_at_the_sink);
    suite.test("stock::phones_profile_with_token", live, stock::phones_with_token);
    suite.test("stock::phones_profile_without_token", live, stock::phones_without_token);
    suite.test("stock::prefer_into_a_stock_receiver", &[SRT], stock::prefer_into_a_stock_receiver);
    suite.run()
}

/// Whether there is time to look closer.
fn is_long() -> bool {
    std::env::var_os("BONDGATE_ATTACK").is_some_and(|value| value == "long")
}

/// Prints what a test was decided by.
fn figure(row: &str, text: std::fmt::Arguments<'_>) {
    eprintln!("FIGURE {row}: {text}");
}
