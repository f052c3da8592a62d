//! End-to-end tests on loopback: the real binary between real encoders and viewers.

mod bad_input;
mod lifecycle;
mod reload;
mod streams;

use std::process::ExitCode;

use bondgate_tests::harness::{FFMPEG, Need, SRT, Suite};

fn main() -> ExitCode {
    let mut suite = Suite::from_args(4);
    suite.test(
        "support::libsrt_through_an_impaired_relay",
        &[SRT],
        streams::libsrt_through_an_impaired_relay,
    );

    suite.test("relay::bonded_ffmpeg_uring", &[FFMPEG, SRT, Need::IoUring], streams::bonded_ffmpeg_uring);
    suite.test("relay::bonded_ffmpeg_mmsg", &[FFMPEG, SRT], streams::bonded_ffmpeg_mmsg);
    suite.test("relay::ffmpeg_that_hangs_up", &[FFMPEG, SRT], streams::ffmpeg_that_hangs_up);
    suite.test("relay::plain_srt_publisher", &[SRT], streams::plain_srt_publisher);
    suite.test("relay::one_link_dies_and_returns", &[SRT], streams::one_link_dies_and_returns);
    suite.test("relay::all_links_rebind_at_once", &[SRT], streams::all_links_rebind_at_once);
    suite.test("forward::bonded_to_libsrt_listener", &[SRT], streams::forward_to_libsrt_listener);

    suite.test("bad_input::truncated_config", &[], bad_input::truncated_config);
    suite.test("bad_input::unknown_key", &[], bad_input::unknown_key);
    suite.test("bad_input::all_problems_at_once", &[], bad_input::all_problems_at_once);
    suite.test("bad_input::missing_config", &[], bad_input::missing_config);
    suite.test("bad_input::port_in_use", &[], bad_input::port_in_use);
    suite.test("bad_input::missing_interface", &[], bad_input::missing_interface);
    suite.test("bad_input::usage", &[], bad_input::usage);
    suite.test("bad_input::unreachable_srt_server", &[SRT], bad_input::unreachable_srt_server);
    suite.test("bad_input::wrong_stream_id", &[SRT], bad_input::wrong_stream_id);

    suite.test("lifecycle::sigterm_is_graceful", &[SRT], lifecycle::sigterm_is_graceful);
    suite.test("lifecycle::kill_and_restart", &[SRT], lifecycle::kill_and_restart);
    suite.test("lifecycle::health_and_metrics", &[], lifecycle::health_and_metrics);

    suite.test("reload::allowlist_in_the_application", &[], reload::allowlist_in_the_application);
    suite.test("reload::what_cannot_be_is_said", &[], reload::what_cannot_be_is_said);
    suite.test("reload::a_thousand_rewrites", &[], reload::a_thousand_rewrites);
    suite.test("reload::ten_under_a_stream", &[SRT], reload::ten_under_a_stream);
    suite.run()
}
