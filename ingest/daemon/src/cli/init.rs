//! `bondgate init`: writes a first configuration and says what to paste where.
//!
//! Promise: the file appears complete or not at all, an existing file is never replaced without `--force`, and what
//! is written passes `check-config`.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, IsTerminal, Write};
use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};

use super::args::InitArgs;
use super::print;
use crate::config::keys::Key;
use crate::config::raw::Raw;
use crate::config::validate::host_port;
use crate::config::value::quoted;
use crate::config::{self, Config, OutputMode};
use crate::exit::Failure;

/// Name used in the printed URLs.
const EXAMPLE_STREAM: &str = "cam1";

/// What the user decided.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answers {
    mode: OutputMode,
    server: String,
    srtla_port: u16,
    srt_port: u16,
    host: String,
}

/// Asks (on a terminal) or takes the flags, writes the file, prints the URLs.
///
/// # Errors
/// A flag is missing, the file exists, or it cannot be written.
pub fn run(args: &InitArgs) -> Result<(), Failure> {
    let to_stdout = args.output == Path::new("-");
    if !to_stdout && !args.force && args.output.exists() {
        return Err(exists(&args.output));
    }
    let interactive = !args.yes && io::stdin().is_terminal() && io::stderr().is_terminal();
    let answers = if interactive {
        ask(args, &mut io::stdin().lock(), &mut io::stderr().lock())
            .map_err(|error| Failure::runtime(format!("cannot ask: {error}")))?
    } else {
        from_flags(args)?
    };
    let text = render(&answers);
    let mut raw = Raw::default();
    raw.read_toml(&args.output, &text);
    let config = config::resolve(raw, usize::MAX)?.config;

    let guide = guide(&answers, &config);
    if to_stdout {
        print(&text)?;
        eprint!("{guide}");
        return Ok(());
    }
    write_file(&args.output, &text, args.force).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => exists(&args.output),
        _ => Failure::runtime(format!("{}: cannot be written: {error}", args.output.display())),
    })?;
    let shown = args.output.display();
    print(&format!("Wrote {shown}. Start with: bondgate run --config {shown}\n\n{guide}"))
}

fn exists(path: &Path) -> Failure {
    Failure::runtime(format!(
        "{} exists already; choose another --output, or --force to replace it",
        path.display()
    ))
}

fn from_flags(args: &InitArgs) -> Result<Answers, Failure> {
    let defaults = Config::default();
    let mode =
        args.mode.unwrap_or(if args.server.is_some() { OutputMode::Forward } else { OutputMode::Relay });
    match (mode, &args.server) {
        (OutputMode::Forward, None) => {
            return Err(Failure::usage(
                "--mode forward needs --server HOST:PORT, the SRT server behind bondgate",
            ));
        }
        (OutputMode::Relay, Some(_)) => {
            return Err(Failure::usage(
                "--server belongs to --mode forward; in relay mode bondgate is the SRT server",
            ));
        }
        _ => {}
    }
    Ok(Answers {
        mode,
        server: args.server.clone().unwrap_or_default(),
        srtla_port: args.srtla_port.unwrap_or(defaults.srtla.listen.port()),
        srt_port: args.srt_port.unwrap_or(defaults.srt.listen.port()),
        host: args.host.clone().unwrap_or_else(this_host),
    })
}

/// Asks for everything that no flag answers.
fn ask(args: &InitArgs, input: &mut impl BufRead, output: &mut impl Write) -> io::Result<Answers> {
    let defaults = Config::default();
    let mode = match (args.mode, &args.server) {
        (Some(mode), _) => mode,
        (None, Some(_)) => OutputMode::Forward,
        (None, None) => question(
            input,
            output,
            "Serve players here (relay), or hand over to an SRT server (forward)?",
            "relay",
            |text| match text {
                "relay" | "r" => Ok(OutputMode::Relay),
                "forward" | "f" => Ok(OutputMode::Forward),
                _ => Err("please answer relay or forward".to_owned()),
            },
        )?,
    };
    let server = match (mode, &args.server) {
        (OutputMode::Relay, _) => String::new(),
        (OutputMode::Forward, Some(server)) => server.clone(),
        (OutputMode::Forward, None) => {
            question(input, output, "Address of that SRT server (host:port)?", "127.0.0.1:4001", |text| {
                host_port(text).map(|()| text.to_owned())
            })?
        }
    };
    let port = |text: &str| match text.parse::<u16>() {
        Ok(port @ 1..) => Ok(port),
        _ => Err("a port is a number from 1 to 65535".to_owned()),
    };
    let srtla_port = match args.srtla_port {
        Some(port) => port,
        None => question(
            input,
            output,
            "UDP port for bonded links (SRTLA)?",
            &defaults.srtla.listen.port().to_string(),
            port,
        )?,
    };
    let srt_port = match (args.srt_port, mode) {
        (Some(port), _) => port,
        (None, OutputMode::Forward) => defaults.srt.listen.port(),
        (None, OutputMode::Relay) => {
            let standard = defaults.srt.listen.port().to_string();
            question(input, output, "UDP port for SRT players and encoders?", &standard, |text| {
                match port(text) {
                    Ok(port) if port == srtla_port => {
                        Err("that is the SRTLA port; choose another one".to_owned())
                    }
                    result => result,
                }
            })?
        }
    };
    let host = match &args.host {
        Some(host) => host.clone(),
        None => {
            question(input, output, "Name or address others reach this machine by?", &this_host(), |text| {
                Ok(text.to_owned())
            })?
        }
    };
    Ok(Answers { mode, server, srtla_port, srt_port, host })
}

/// Repeats the question until the answer is usable; an empty answer takes the proposal.
fn question<T>(
    input: &mut impl BufRead,
    output: &mut impl Write,
    text: &str,
    proposal: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> io::Result<T> {
    loop {
        write!(output, "{text} [{proposal}] ")?;
        output.flush()?;
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the input ended before all questions were answered",
            ));
        }
        let answer = line.trim();
        match read(if answer.is_empty() { proposal } else { answer }) {
            Ok(value) => return Ok(value),
            Err(why) => writeln!(output, "  {why}")?,
        }
    }
}

/// The address this machine would send from. Opens a socket, sends nothing.
fn this_host() -> String {
    let probe = || -> io::Result<IpAddr> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect("192.0.2.1:9")?;
        Ok(socket.local_addr()?.ip())
    };
    probe().map_or_else(|_| "127.0.0.1".to_owned(), |ip| ip.to_string())
}

fn render(answers: &Answers) -> String {
    let mode = match answers.mode {
        OutputMode::Relay => "relay",
        OutputMode::Forward => "forward",
    };
    let mut chosen = vec![
        ("srtla.listen", quoted(&format!("[::]:{}", answers.srtla_port))),
        ("srt.listen", quoted(&format!("[::]:{}", answers.srt_port))),
        ("output.mode", quoted(mode)),
    ];
    if answers.mode == OutputMode::Forward {
        chosen.push(("forward.server", quoted(&answers.server)));
    }
    let chosen: Vec<_> =
        chosen.into_iter().filter_map(|(path, literal)| Some((Key::find(path)?, literal))).collect();
    config::manual_with(&chosen)
}

/// What to paste into encoders and players. OBS and ffmpeg count latency in microseconds, the others in milliseconds.
fn guide(answers: &Answers, config: &Config) -> String {
    let host = match answers.host.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) => format!("[{v6}]"),
        _ => answers.host.clone(),
    };
    let (srtla, srt) = (answers.srtla_port, answers.srt_port);
    let name = EXAMPLE_STREAM;
    let latency_ms = config.srt.latency_ms.max(2000);
    let latency_us = latency_ms * 1000;
    let mut text = format!("Send over several links (bonded), {srtla}/udp open to the world:\n");
    for (who, what) in [
        (
            "BELABOX",
            format!("receiver {host}, SRTLA port {srtla}, SRT stream ID {name}, latency {latency_ms} ms"),
        ),
        ("Moblin, IRL Pro", format!("srtla://{host}:{srtla}?streamid={name}   latency {latency_ms} ms")),
        ("OBS", format!("bondgate send --to {host}:{srtla} --auto, then in OBS (Service Custom, Server):")),
        ("", format!("srt://127.0.0.1:9000?streamid={name}&latency={latency_us}&pkt_size=1316")),
    ] {
        let _ = writeln!(text, "  {who:<16} {what}");
    }
    text.push('\n');
    match answers.mode {
        OutputMode::Relay => {
            let _ = write!(
                text,
                "Send without bonding, {srt}/udp:\n\
                 \x20 OBS              srt://{host}:{srt}?streamid=publish/{name}&latency={latency_us}&pkt_size=1316\n\
                 \x20 ffmpeg           ffmpeg -re -i video.mp4 -c copy -f mpegts \\\n\
                 \x20                  'srt://{host}:{srt}?streamid=publish/{name}&latency={latency_us}&pkt_size=1316'\n\n\
                 Watch, {srt}/udp:\n\
                 \x20 OBS              Media Source, Local File off, Input Format mpegts, Input:\n\
                 \x20                  srt://{host}:{srt}?streamid=play/{name}&latency=300000\n\
                 \x20 ffplay           ffplay 'srt://{host}:{srt}?streamid=play/{name}&latency=300000'\n\
                 \x20 VLC              srt://{host}:{srt}?streamid=play/{name}\n\n\
                 {name} is an example: any name works, and whoever knows it can send and watch.\n\
                 Until there are keys, list the networks that may send in srtla.allow.\n"
            );
        }
        OutputMode::Forward => {
            let _ = writeln!(
                text,
                "The stream arrives at the SRT server {}. {name} is an example: stream ID and passphrase are what that\n\
                 server expects. Watch from that server.",
                answers.server
            );
        }
    }
    text
}

/// Writes the whole file beside its place, then moves it there.
fn write_file(path: &Path, text: &str, replace: bool) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or_else(|| io::Error::other("not the name of a file"))?;
    let mut temporary = name.to_owned();
    temporary.push(format!(".{}.new", std::process::id()));
    let temporary = Temporary(directory.join(temporary));
    let mut file = OpenOptions::new().write(true).create_new(true).open(&temporary.0)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    if replace {
        fs::rename(&temporary.0, path)?;
    } else {
        // Unlike a rename, a link never replaces what somebody else put there meanwhile.
        match fs::hard_link(&temporary.0, path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists && !path.exists() => {
                fs::rename(&temporary.0, path)?; // a file system without links
            }
            result => result?,
        }
    }
    fs::File::open(directory)?.sync_all()
}

/// Removes the temporary file, whatever happened; after a rename there is none.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> InitArgs {
        InitArgs {
            output: "bondgate.toml".into(),
            force: false,
            mode: None,
            server: None,
            srtla_port: None,
            srt_port: None,
            host: Some("gate.example".to_owned()),
            yes: false,
        }
    }

    fn answer(args: &InitArgs, lines: &str) -> (io::Result<Answers>, String) {
        let mut shown = Vec::new();
        let answers = ask(args, &mut lines.as_bytes(), &mut shown);
        (answers, String::from_utf8(shown).unwrap())
    }

    #[test]
    fn enter_takes_every_proposal() {
        let (answers, _) = answer(&flags(), "\n\n\n");
        assert_eq!(answers.unwrap(), from_flags(&flags()).unwrap());
    }

    #[test]
    fn a_wrong_answer_is_asked_again_with_the_reason() {
        let (answers, shown) = answer(&flags(), "both\nforward\nserver\nserver:70000\n[::1]:4001\n0\n6000\n");
        assert_eq!(
            answers.unwrap(),
            Answers {
                mode: OutputMode::Forward,
                server: "[::1]:4001".into(),
                srtla_port: 6000,
                srt_port: 9710,
                host: "gate.example".into()
            }
        );
        for why in
            ["relay or forward", "\"server\" has no port", "\"70000\" is not a port", "from 1 to 65535"]
        {
            assert!(shown.contains(why), "{why}: {shown}");
        }
    }

    #[test]
    fn the_end_of_the_input_is_an_error_not_a_loop() {
        let (answers, _) = answer(&flags(), "relay\n");
        assert_eq!(answers.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn flags_are_not_asked_for() {
        let args =
            InitArgs { mode: Some(OutputMode::Relay), srtla_port: Some(1), srt_port: Some(2), ..flags() };
        let (answers, shown) = answer(&args, "");
        assert_eq!((answers.unwrap().srt_port, shown.as_str()), (2, ""));
    }

    #[test]
    fn only_chosen_keys_are_active() {
        let text = render(&from_flags(&InitArgs { server: Some("a:1".into()), ..flags() }).unwrap());
        let active: Vec<&str> =
            text.lines().filter(|line| !line.starts_with(['#', '[']) && !line.is_empty()).collect();
        assert_eq!(
            active,
            ["listen = \"[::]:5000\"", "listen = \"[::]:9710\"", "mode = \"forward\"", "server = \"a:1\""]
        );
        assert!(text.contains("\n# latency_ms = 1000\n"));
    }
}
