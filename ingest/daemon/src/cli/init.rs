//! `bondgate init`: writes a first configuration, makes the first key or token, and says what to paste where.
//!
//! Promise: the file appears complete or not at all, an existing file is never replaced without `--force`, and what
//! is written passes `check-config`.

mod guide;

use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, IsTerminal, Write};
use std::net::{IpAddr, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bondgate_auth::keyring::name::check_device;
use bondgate_auth::keyring::{KeyringError, NewDevice, NewToken};
use bondgate_auth::stream::Wish;
use clap::ValueEnum;

use super::args::{InitArgs, Profile};
use super::print;
use crate::config::cidr;
use crate::config::keys::Key;
use crate::config::raw::Raw;
use crate::config::validate::{host_port, stream_name};
use crate::config::value::quoted;
use crate::config::{self, Config, OutputMode};
use crate::control::keyring_file::KeyringFile;
use crate::exit::Failure;
use crate::policy::wall_ms;
use crate::service::random;

/// What the user decided.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answers {
    mode: OutputMode,
    server: String,
    srtla_port: u16,
    srt_port: u16,
    host: String,
    profile: Profile,
    networks: Vec<String>,
    stream: String,
    device: String,
    state_dir: String,
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

    if to_stdout {
        print(&text)?;
        eprint!("{}", guide::text(&answers, &config, &First::Later));
        return Ok(());
    }
    write_file(&args.output, &text, args.force).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => exists(&args.output),
        _ => Failure::runtime(format!("{}: cannot be written: {error}", args.output.display())),
    })?;
    let shown = args.output.display();
    let flag = if answers.profile == Profile::Open { " --accept-open-ingest" } else { "" };
    print(&format!("Wrote {shown}. Start with: bondgate run --config {shown}{flag}\n\n"))?;
    let first = first(&answers, &config)?;
    print(&guide::text(&answers, &config, &first))
}

/// What the first encoder needs.
enum First {
    /// The provisioning URI of a device.
    Device(String),
    /// A token.
    Token(String),
    /// Nothing.
    Nothing,
    /// It was made before, and is not shown again.
    Known,
    /// It is still to be made.
    Later,
}

/// Makes the first device, or the first token.
fn first(answers: &Answers, config: &Config) -> Result<First, Failure> {
    let Some(file) = KeyringFile::of(config) else { return Ok(First::Nothing) };
    let first = match answers.profile {
        Profile::Open | Profile::Studio => return Ok(First::Nothing),
        Profile::Devices => {
            let secret = random::<40>()?;
            file.update(|keyring| -> Result<First, KeyringError> {
                if keyring.device(&answers.device).is_ok() {
                    return Ok(First::Known);
                }
                let streams = vec![answers.stream.clone()];
                let new = NewDevice { streams, ..NewDevice::named(&answers.device) };
                Ok(First::Device(keyring.enroll(new, &config.keys.server, &secret, wall_ms())?.to_uri()))
            })
        }
        Profile::Phones => {
            let secret = random::<20>()?;
            file.update(|keyring| -> Result<First, KeyringError> {
                if keyring.tokens().iter().any(|token| token.stream == answers.stream) {
                    return Ok(First::Known);
                }
                let stream = answers.stream.clone();
                let new = NewToken {
                    stream,
                    scope: Wish::Publish,
                    expires_ms: None,
                    once: false,
                    from: Vec::new(),
                };
                Ok(First::Token(keyring.create_token(new, &secret, wall_ms())?))
            })
        }
    }?;
    if let Some(warning) = file.warning() {
        eprintln!("note: {warning}");
    }
    Ok(first)
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
        profile: profile_of(args),
        networks: args.networks.clone(),
        stream: args.stream.clone(),
        device: args.device.clone(),
        state_dir: state_dir(args),
    })
}

/// The profile that the flags say.
fn profile_of(args: &InitArgs) -> Profile {
    args.profile.unwrap_or(if args.networks.is_empty() { Profile::Devices } else { Profile::Studio })
}

/// Where the keyring will be kept.
fn state_dir(args: &InitArgs) -> String {
    let beside = || {
        let parent = args.output.parent().unwrap_or(Path::new(""));
        std::path::absolute(parent.join("bondgate-state")).unwrap_or_else(|_| "bondgate-state".into())
    };
    let is_root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    let dir = match &args.state_dir {
        Some(dir) => std::path::absolute(dir).unwrap_or_else(|_| dir.clone()),
        None if is_root => Config::default().runtime.state_dir.unwrap_or_else(beside),
        None => beside(),
    };
    dir.to_string_lossy().into_owned()
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
    let profile = match args.profile {
        Some(profile) => profile,
        None => question(
            input,
            output,
            "Who may send? devices (each with a key), phones (and BELABOX, from anywhere, with a token), studio (from \
             your networks), or open (everybody)?",
            if args.networks.is_empty() { "devices" } else { "studio" },
            |text| {
                Profile::from_str(text, true)
                    .map_err(|_| "please answer devices, phones, studio or open".to_owned())
            },
        )?,
    };
    let networks = if profile == Profile::Studio && args.networks.is_empty() {
        question(input, output, "Networks of your encoders?", "192.168.0.0/16", |text| {
            let networks: Vec<&str> = text.split([',', ' ']).filter(|part| !part.is_empty()).collect();
            networks.iter().map(|network| cidr::parse(network).map(|_| (*network).to_owned())).collect()
        })?
    } else {
        args.networks.clone()
    };
    let name = |text: &str| stream_name(text).map(|()| text.to_owned());
    let stream = question(input, output, "Name of the first stream?", &args.stream, name)?;
    let device = if profile == Profile::Devices {
        question(input, output, "Name of the first device?", &args.device, |text| {
            check_device(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
        })?
    } else {
        args.device.clone()
    };
    let state_dir = state_dir(args);
    Ok(Answers { mode, server, srtla_port, srt_port, host, profile, networks, stream, device, state_dir })
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
    let list = |names: &[String]| {
        format!("[{}]", names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", "))
    };
    let everywhere = ["0.0.0.0/0".to_owned(), "::/0".to_owned()];
    let (auth, stock_allow, default) = match answers.profile {
        Profile::Devices => ("required", None, None),
        Profile::Phones => ("mixed", Some(list(&everywhere)), Some("token")),
        Profile::Studio => ("mixed", Some(list(&answers.networks)), Some("cidr")),
        Profile::Open => ("open", None, None),
    };
    let mut chosen = vec![
        ("runtime.state_dir", quoted(&answers.state_dir)),
        ("srtla.listen", quoted(&format!("[::]:{}", answers.srtla_port))),
        ("srtla.auth", quoted(auth)),
        ("keys.server", quoted(&guide::host_port(&answers.host, answers.srtla_port))),
        ("srt.listen", quoted(&format!("[::]:{}", answers.srt_port))),
        ("output.mode", quoted(mode)),
    ];
    chosen.extend(stock_allow.map(|networks| ("srtla.stock_allow", networks)));
    chosen.extend(default.map(|strength| ("streams.default", quoted(strength))));
    if answers.mode == OutputMode::Forward {
        chosen.push(("forward.server", quoted(&answers.server)));
    }
    let chosen: Vec<_> =
        chosen.into_iter().filter_map(|(path, literal)| Some((Key::find(path)?, literal))).collect();
    config::manual_with(&chosen)
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
            profile: None,
            stream: "cam1".to_owned(),
            device: "encoder1".to_owned(),
            networks: Vec::new(),
            state_dir: Some("/state".into()),
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
        let (answers, _) = answer(&flags(), "\n\n\n\n\n\n");
        assert_eq!(answers.unwrap(), from_flags(&flags()).unwrap());
    }

    #[test]
    fn a_wrong_answer_is_asked_again_with_the_reason() {
        let (answers, shown) = answer(
            &flags(),
            "both\nforward\nserver\nserver:70000\n[::1]:4001\n0\n6000\nfriends\nstudio\n10.0.0.1/8\n10.0.0.0/8, 192.0.2.0/24\na b\ncam2\n",
        );
        assert_eq!(
            answers.unwrap(),
            Answers {
                mode: OutputMode::Forward,
                server: "[::1]:4001".into(),
                srtla_port: 6000,
                srt_port: 9710,
                host: "gate.example".into(),
                profile: Profile::Studio,
                networks: vec!["10.0.0.0/8".into(), "192.0.2.0/24".into()],
                stream: "cam2".into(),
                device: "encoder1".into(),
                state_dir: "/state".into(),
            }
        );
        for why in [
            "relay or forward",
            "\"server\" has no port",
            "\"70000\" is not a port",
            "from 1 to 65535",
            "devices, phones, studio or open",
            "did you mean 10.0.0.0/8",
            "\"a b\"",
        ] {
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
        let (answers, shown) = answer(&args, "\n\n\n");
        assert_eq!(answers.unwrap().srt_port, 2);
        assert!(!shown.contains("port") && !shown.contains("relay"), "{shown}");
    }

    #[test]
    fn only_chosen_keys_are_active() {
        let text = render(&from_flags(&InitArgs { server: Some("a:1".into()), ..flags() }).unwrap());
        let active: Vec<&str> =
            text.lines().filter(|line| !line.starts_with(['#', '[']) && !line.is_empty()).collect();
        assert_eq!(
            active,
            [
                "state_dir = \"/state\"",
                "listen = \"[::]:5000\"",
                "auth = \"required\"",
                "server = \"gate.example:5000\"",
                "listen = \"[::]:9710\"",
                "mode = \"forward\"",
                "server = \"a:1\""
            ]
        );
        assert!(text.contains("\n# latency_ms = 1000\n"));
    }
}
