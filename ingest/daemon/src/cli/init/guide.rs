//! What to paste into encoders and players. OBS and ffmpeg count latency in microseconds, the others in milliseconds.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::{Answers, First};
use crate::cli::args::Profile;
use crate::config::{Config, OutputMode};

/// `host:port`, with brackets around IPv6 addresses.
pub fn host_port(host: &str, port: u16) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) => format!("[{v6}]:{port}"),
        _ => format!("{host}:{port}"),
    }
}

/// The whole text.
pub fn text(answers: &Answers, config: &Config, first: &First) -> String {
    let (srtla, srt) =
        (host_port(&answers.host, answers.srtla_port), host_port(&answers.host, answers.srt_port));
    let (srtla_port, srt_port) = (answers.srtla_port, answers.srt_port);
    let host = srtla.trim_end_matches(&format!(":{srtla_port}"));
    let latency_ms = config.srt.latency_ms.max(2000);
    let latency_us = latency_ms * 1000;
    let name = &answers.stream;
    let mut text = String::new();

    // The stream ID with what the encoder has to show besides its name.
    let id = match first {
        First::Token(token) => format!("{name}?token={token}"),
        _ if answers.profile == Profile::Phones => format!("{name}?token=TOKEN"),
        _ => name.clone(),
    };
    let sender = match first {
        First::Device(uri) => format!("bondgate send --auto --key \'{uri}\'"),
        _ if answers.profile == Profile::Devices => "bondgate send --auto --key KEY".to_owned(),
        _ => format!("bondgate send --auto --to {srtla}"),
    };
    let _ = writeln!(text, "Send over several links (bonded), {srtla_port}/udp open to the world:");
    let obs = format!("srt://127.0.0.1:9000?streamid={id}&latency={latency_us}&pkt_size=1316");
    let mut rows = Vec::new();
    if answers.profile != Profile::Devices {
        rows.push((
            "BELABOX",
            format!("receiver {host}, SRTLA port {srtla_port}, SRT stream ID {id}, latency {latency_ms} ms"),
        ));
        rows.push(("Moblin, IRL Pro", format!("srtla://{srtla}?streamid={id}   latency {latency_ms} ms")));
    }
    rows.push(("OBS", "start the line below beside it, then in OBS (Service Custom, Server):".to_owned()));
    rows.push(("", obs));
    for (who, what) in rows {
        let _ = writeln!(text, "  {who:<16} {what}");
    }
    let _ = writeln!(text, "\n{sender}\n");
    text.push_str(&secret(answers, first));

    match answers.mode {
        OutputMode::Relay => {
            if answers.profile != Profile::Devices {
                let _ = write!(
                    text,
                    "Send without bonding, {srt_port}/udp:\n\
                     \x20 OBS              srt://{srt}?streamid=publish/{id}&latency={latency_us}&pkt_size=1316\n\
                     \x20 ffmpeg           ffmpeg -re -i video.mp4 -c copy -f mpegts \\\n\
                     \x20                  'srt://{srt}?streamid=publish/{id}&latency={latency_us}&pkt_size=1316'\n\n"
                );
            }
            let _ = write!(
                text,
                "Watch, {srt_port}/udp:\n\
                 \x20 OBS              Media Source, Local File off, Input Format mpegts, Input:\n\
                 \x20                  srt://{srt}?streamid=play/{name}&latency=300000\n\
                 \x20 ffplay           ffplay 'srt://{srt}?streamid=play/{name}&latency=300000'\n\
                 \x20 VLC              srt://{srt}?streamid=play/{name}\n\n\
                 Whoever knows a stream's name can watch it; streams.play = \"token\" changes that.\n"
            );
        }
        OutputMode::Forward => {
            let _ = writeln!(
                text,
                "The stream arrives at the SRT server {}, which sees the stream ID as it was sent. Watch from that server.",
                answers.server
            );
        }
    }
    text
}

/// About the key or token: it is shown once.
fn secret(answers: &Answers, first: &First) -> String {
    let Answers { device, stream, .. } = answers;
    match (first, answers.profile) {
        (First::Device(_), _) => format!(
            "The key of device {device} is in that line and is not shown again. More devices, and a QR code:\n\
             bondgate device enroll NAME. A stolen one: bondgate key revoke {device}.\n\n"
        ),
        (First::Token(_), _) => format!(
            "The token of stream {stream} is not shown again. Whoever has it can publish {stream}, and it can be overheard;\n\
             another one: bondgate token create {stream}. A device with a key is safer: bondgate device enroll NAME.\n\n"
        ),
        (First::Known, Profile::Devices) => {
            format!("Device {device} has its key already; for a new one: bondgate key rotate {device}\n\n")
        }
        (First::Known, _) => {
            format!(
                "Stream {stream} has a token already; for another one: bondgate token create {stream}\n\n"
            )
        }
        (First::Later, Profile::Devices) => {
            format!("Make KEY with: bondgate device enroll {device} --stream {stream} --config FILE\n\n")
        }
        (First::Later, Profile::Phones) => {
            format!("Make TOKEN with: bondgate token create {stream} --config FILE\n\n")
        }
        (_, Profile::Open) => "Everybody who reaches the ports can send and watch.\n\n".to_owned(),
        _ => "Whoever sends from the networks in srtla.stock_allow may publish any stream.\n\n".to_owned(),
    }
}
