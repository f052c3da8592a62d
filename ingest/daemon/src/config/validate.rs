//! Checks that concern the meaning of values or more than one key. Types and ranges were checked before.

use std::net::SocketAddr;

use super::error::{Place, Problem};
use super::raw::nearest;
use super::resolved::{
    AuthMode, Config, GateAttach, OnDetach, OutputMode, PlayChoice, SteeringChoice, StrengthChoice,
};
use crate::shard::stream_id;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// What the checks found.
#[derive(Default)]
pub struct Findings {
    /// Reasons to refuse the configuration.
    pub problems: Vec<Problem>,
    /// Things that work but are probably not meant.
    pub warnings: Vec<Problem>,
}

/// Checks `config`; `place_of` tells where a key's value was typed, `cores` how many cores this machine offers.
pub fn validate(config: &Config, cores: usize, place_of: impl Fn(&str) -> Place) -> Findings {
    let mut findings = Findings::default();
    let say = |key: &str, message: String, help: &str| Problem {
        place: place_of(key),
        key: key.to_owned(),
        message,
        help: help.to_owned(),
    };
    let Findings { problems, warnings } = &mut findings;

    if let Err((message, help)) = level(&config.log.level) {
        problems.push(say("log.level", message, &help));
    }
    let shards = config.runtime.shards;
    if shards > 1 && config.output.mode == OutputMode::Relay {
        problems.push(say(
            "runtime.shards",
            "relay serves from one shard for now".to_owned(),
            "set runtime.shards = 1 or output.mode = \"forward\"",
        ));
    }
    if shards == 1 && config.runtime.steering == SteeringChoice::On {
        warnings.push(say(
            "runtime.steering",
            "has no effect with one shard".to_owned(),
            "set runtime.shards, or leave it \"auto\"",
        ));
    }
    if usize::from(shards) > cores {
        warnings.push(say(
            "runtime.shards",
            format!("{shards} shards on {cores} cores: shards will take turns on a core"),
            "use one shard per core at most",
        ));
    }
    if config.output.mode == OutputMode::Relay && clash(config.srtla.listen, config.srt.listen) {
        problems.push(say(
            "srt.listen",
            format!("same UDP port as srtla.listen ({})", config.srtla.listen),
            "give each listener its own port",
        ));
    }
    if let Some(listen) = config.admin.listen
        && !listen.ip().to_canonical().is_loopback()
    {
        problems.push(say(
            "admin.listen",
            format!("{listen} can be reached from outside, and there is no authentication yet"),
            "use a loopback address such as \"127.0.0.1:8080\", or \"off\"",
        ));
    }
    match config.output.mode {
        OutputMode::Forward if config.forward.server.is_empty() => problems.push(say(
            "forward.server",
            "missing, but output.mode is \"forward\"".to_owned(),
            "set forward.server = \"host:port\" of the SRT server",
        )),
        OutputMode::Relay if !config.forward.server.is_empty() => warnings.push(say(
            "forward.server",
            "has no effect while output.mode is \"relay\"".to_owned(),
            "set output.mode = \"forward\" to send streams there",
        )),
        _ => {}
    }
    if let Err(message) = host_port(&config.forward.server)
        && !config.forward.server.is_empty()
    {
        problems.push(say("forward.server", message, "write host:port, for example \"127.0.0.1:4001\""));
    }
    gate(config, problems, &say);
    if config.bans.first_s > config.bans.max_s {
        problems.push(say(
            "bans.first_s",
            format!("{} is more than bans.max_s ({})", config.bans.first_s, config.bans.max_s),
            "the first ban is the shortest",
        ));
    }
    admission(config, &mut findings, &say);
    countries(config, &mut findings, &say);
    let Findings { problems, warnings } = &mut findings;
    for (key, name) in std::iter::once(("relay.default_stream", &config.relay.default_stream))
        .chain(config.relay.streams.iter().map(|name| ("relay.streams", name)))
    {
        if let Err(message) = stream_name(name) {
            problems.push(say(key, message, "for example \"cam1\", at most 128 bytes"));
        }
    }
    let streams = &config.relay.streams;
    if !streams.is_empty() && !streams.contains(&config.relay.default_stream) {
        warnings.push(say(
            "relay.default_stream",
            format!(
                "\"{}\" is not in relay.streams: encoders without a stream ID will be refused",
                config.relay.default_stream
            ),
            "add it to relay.streams if they should be let in",
        ));
    }
    findings
}

/// The gate: what cannot be attached, or would keep everybody out.
fn gate(config: &Config, problems: &mut Vec<Problem>, say: &impl Fn(&str, String, &str) -> Problem) {
    let gate = &config.gate;
    if gate.attach == GateAttach::On && gate.interfaces.is_empty() {
        problems.push(say(
            "gate.attach",
            "\"on\", but gate.interfaces names no interface".to_owned(),
            "set gate.interfaces, for example [\"eth0\"]",
        ));
    }
    if gate.attach == GateAttach::Off && gate.on_detach == OnDetach::Closed {
        problems.push(say(
            "gate.on_detach",
            "\"closed\", but gate.attach is \"off\": nobody could ever register".to_owned(),
            "set gate.attach = \"auto\" or gate.on_detach = \"app\"",
        ));
    }
    for name in gate.interfaces.iter().filter(|name| !is_interface_name(name)) {
        let message = format!("\"{}\" is not the name of an interface", name.escape_debug());
        problems.push(say("gate.interfaces", message, "`ip link` lists them"));
    }
}

/// What the kernel takes as the name of an interface.
pub fn is_interface_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
        && name.len() < 16
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
}

/// Who may register and publish: what belongs together, and what would let in nobody or everybody unawares.
fn admission(config: &Config, findings: &mut Findings, say: &impl Fn(&str, String, &str) -> Problem) {
    let Findings { problems, warnings } = findings;
    let (srtla, streams) = (&config.srtla, &config.streams);
    let lists = [
        ("streams.sa1", &streams.sa1),
        ("streams.sa1_token", &streams.sa1_token),
        ("streams.token", &streams.token),
        ("streams.cidr", &streams.cidr),
    ];
    let uses_tokens = !streams.sa1_token.is_empty()
        || !streams.token.is_empty()
        || streams.play == PlayChoice::Token
        || matches!(streams.default, StrengthChoice::Token | StrengthChoice::Sa1Token);
    if config.runtime.state_dir.is_none() && (srtla.auth != AuthMode::Open || uses_tokens) {
        let what = if srtla.auth == AuthMode::Open { "tokens" } else { "device keys" };
        problems.push(say(
            "runtime.state_dir",
            format!("off, but {what} have to be kept somewhere"),
            "set runtime.state_dir, for example \"/var/lib/bondgate\", or let `bondgate init` write a file",
        ));
    }
    if streams.default == StrengthChoice::Open && srtla.auth != AuthMode::Open {
        problems.push(say(
            "streams.default",
            "\"open\" lets in everybody, but srtla.auth does not".to_owned(),
            "use \"token\" or \"cidr\" for senders without a key, or set srtla.auth = \"open\"",
        ));
    }
    if srtla.auth == AuthMode::Mixed && srtla.stock_allow.is_empty() {
        problems.push(say(
            "srtla.stock_allow",
            "empty, but srtla.auth is \"mixed\"".to_owned(),
            "name the networks of senders without a key, or set srtla.auth = \"required\"",
        ));
    }
    if srtla.auth != AuthMode::Mixed && !srtla.stock_allow.is_empty() && streams.cidr.is_empty() {
        warnings.push(say(
            "srtla.stock_allow",
            "has no effect on registration unless srtla.auth is \"mixed\"".to_owned(),
            "set srtla.auth = \"mixed\", or leave it empty",
        ));
    }
    let stock_can_publish = matches!(streams.default, StrengthChoice::Token | StrengthChoice::Cidr)
        || !streams.token.is_empty()
        || !streams.cidr.is_empty();
    if srtla.auth == AuthMode::Mixed && !stock_can_publish {
        warnings.push(say(
            "streams.default",
            "senders without a key may register, but every stream demands one".to_owned(),
            "set streams.default = \"token\", or name streams in streams.token or streams.cidr",
        ));
    }
    let everywhere = srtla.stock_allow.iter().any(|network| network.prefix == 0);
    if everywhere && (streams.default == StrengthChoice::Cidr || !streams.cidr.is_empty()) {
        problems.push(say(
            "srtla.stock_allow",
            "names every address, so an address proves nothing for \"cidr\" streams".to_owned(),
            "let these streams demand a token, or name smaller networks",
        ));
    }
    for (index, (key, names)) in lists.iter().enumerate() {
        for name in *names {
            if let Err(message) = stream_name(name) {
                problems.push(say(key, message, "for example \"cam1\", at most 128 bytes"));
            }
            if let Some((other, _)) = lists.iter().take(index).find(|(_, others)| others.contains(name)) {
                problems.push(say(
                    key,
                    format!("\"{name}\" is in {other} too"),
                    "name a stream in one list only",
                ));
            }
        }
    }
    if !config.keys.server.is_empty()
        && let Err(message) = host_port(&config.keys.server)
    {
        problems.push(say("keys.server", message, "write host:port, for example \"gate.example.net:5000\""));
    }
}

/// Countries, and the database that knows them.
fn countries(config: &Config, findings: &mut Findings, say: &impl Fn(&str, String, &str) -> Problem) {
    let geo = &config.geo;
    let named =
        [("geo.allow", &geo.allow), ("geo.block", &geo.block)].into_iter().find(|(_, list)| !list.is_empty());
    if !geo.allow.is_empty() && !geo.block.is_empty() {
        findings.problems.push(say(
            "geo.block",
            "geo.allow is set too".to_owned(),
            "name the countries that may come in, or those that may not",
        ));
    }
    match (&geo.database, named) {
        (None, Some((key, _))) => findings.problems.push(say(
            "geo.database",
            format!("off, but {key} names countries"),
            "name a database of countries, for example \"/var/lib/GeoIP/GeoLite2-Country.mmdb\"",
        )),
        (Some(_), None) => findings.warnings.push(say(
            "geo.database",
            "has no effect while neither geo.allow nor geo.block names countries".to_owned(),
            "name some, or set it \"off\"",
        )),
        _ => {}
    }
}

/// Checks `level[,target=level]...`; on error gives message and help.
fn level(directives: &str) -> Result<(), (String, String)> {
    for directive in directives.split(',') {
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level).trim();
        if !LEVELS.contains(&level) {
            let help = nearest(level, LEVELS.iter(), |name| name).map_or_else(
                || format!("levels are {}; for one part write target=level", LEVELS.join(", ")),
                |near| format!("did you mean {near}?"),
            );
            return Err((format!("\"{level}\" is not a log level"), help));
        }
    }
    Ok(())
}

/// Would two UDP sockets on these addresses collide? Port 0 is a fresh port each time.
fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    let (ip_a, ip_b) = (a.ip().to_canonical(), b.ip().to_canonical());
    let everywhere = ip_a.is_unspecified() || ip_b.is_unspecified();
    a.port() == b.port() && a.port() != 0 && (everywhere || ip_a == ip_b)
}

/// Checks the form `host:port`; the name is resolved later.
///
/// # Errors
/// A sentence for people.
pub fn host_port(text: &str) -> Result<(), String> {
    let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("\"{text}\" has no port"))?;
    if host.is_empty() {
        return Err(format!("\"{text}\" has no host"));
    }
    if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
        return Err(format!("\"{text}\": an IPv6 address before a port needs brackets"));
    }
    if host.contains(|c: char| c.is_whitespace() || c == '/') {
        return Err(format!("\"{text}\" is not host:port"));
    }
    match port.parse::<u16>() {
        Ok(1..) => Ok(()),
        _ => Err(format!("\"{port}\" is not a port (1 to 65535)")),
    }
}

/// Asks the parser of stream IDs itself, so that a name that is configured can also be asked for.
///
/// # Errors
/// A sentence for people.
pub fn stream_name(name: &str) -> Result<(), String> {
    let escaped = name.escape_debug();
    match stream_id::parse(format!("publish/{name}").as_bytes()) {
        _ if name.is_empty() => Err("a stream name is empty".to_owned()),
        Ok(request) if request.name == name => Ok(()),
        Ok(_) => Err(format!("\"{escaped}\" is not a stream name")),
        Err(error) => Err(format!("\"{escaped}\": {}", error.explain())),
    }
}
