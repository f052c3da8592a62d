//! The provisioning URI: one line with all that a device needs to register (docs/registration-auth.md, section 13).
//!
//! `srtla://HOST:PORT?device=NAME&tenant=NAME&stream=NAME&listener=bgl_...&gate=bgg_...&key=bgk_...`
//!
//! Promises: what is written is read back equal; what is missing, cut or mistyped is named; the secrets stand last and
//! appear in no error and no `Debug`.

use super::name::{self, NameError};
use super::text::{self, Kind, TextError};
use crate::sa1::keys::{DeviceKeys, GateKey};
use crate::sa1::sender::Credentials;
use crate::sa1::{Flags, KeyId, ListenerId, StreamBind, take};
use std::fmt;

const SCHEME: &str = "srtla://";
const PARTS: [&str; 6] = ["device", "tenant", "stream", "listener", "gate", "key"];

/// What a device is given to register with. Contains secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Provision {
    /// Where the receiver is reached, `HOST:PORT`; an IPv6 address stands in brackets.
    pub server: String,
    /// The device's name, for people.
    pub device: String,
    /// Its owner; empty without tenants.
    pub tenant: String,
    /// The one stream it is for, by its full name; empty: any that it may publish.
    pub stream: String,
    /// Names the key.
    pub key_id: KeyId,
    /// The key.
    pub secret: [u8; 32],
    /// The listener's gate key and its epoch, if it has one.
    pub gate: Option<(u32, [u8; 16])>,
    /// The receiver.
    pub listener: ListenerId,
}

impl fmt::Debug for Provision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provision")
            .field("server", &self.server)
            .field("device", &self.device)
            .field("tenant", &self.tenant)
            .field("stream", &self.stream)
            .field("key_id", &format_args!("{}", key_id_text(&self.key_id)))
            .finish_non_exhaustive()
    }
}

/// A key ID as people see it: 16 hexadecimal digits.
pub fn key_id_text(id: &KeyId) -> String {
    super::hex(id)
}

/// Why a provisioning URI cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProvisionError {
    /// It does not begin with `srtla://`.
    Scheme,
    /// HOST:PORT is not one.
    Server(&'static str),
    /// Something needed is not there.
    Missing(&'static str),
    /// Something stands there twice.
    Twice(String),
    /// Something that this version does not know.
    Unknown(String),
    /// A name that cannot be one.
    Name(NameError),
    /// One of the keys.
    Key {
        /// `listener`, `gate` or `key`.
        part: &'static str,
        /// What is wrong with it.
        error: TextError,
    },
}

impl fmt::Display for ProvisionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("provisioning URI: ")?;
        match self {
            Self::Scheme => f.write_str("it begins with srtla://"),
            Self::Server(why) => write!(f, "after srtla:// {why}"),
            Self::Missing(part) => write!(
                f,
                "{part}= is missing; was the URI cut short? In a shell it needs single quotes around it"
            ),
            Self::Twice(part) => write!(f, "{part}= stands there twice"),
            Self::Unknown(part) => write!(f, "{part:?} is not known to this version"),
            Self::Name(error) => error.fmt(f),
            Self::Key { part, error } => write!(f, "{part}=: {error}"),
        }
    }
}

impl std::error::Error for ProvisionError {}

impl From<NameError> for ProvisionError {
    fn from(error: NameError) -> Self {
        Self::Name(error)
    }
}

impl Provision {
    /// The URI. Secret.
    pub fn to_uri(&self) -> String {
        let mut uri = format!("{SCHEME}{}?device={}", self.server, self.device);
        let mut add = |part: &str, value: &str| {
            if !value.is_empty() {
                uri.extend(["&", part, "=", value]);
            }
        };
        add("tenant", &self.tenant);
        add("stream", &self.stream);
        add("listener", &text::encode(Kind::Listener, &self.listener.0));
        if let Some((epoch, key)) = &self.gate {
            let payload = [&epoch.to_be_bytes()[..], key].concat();
            add("gate", &text::encode(Kind::GateKey, &payload));
        }
        add("key", &text::encode(Kind::DeviceKey, &[&self.key_id[..], &self.secret].concat()));
        uri
    }

    /// Reads a URI. White space is ignored wherever a mail or a chat has put it.
    ///
    /// # Errors
    /// The part that is wrong, and why.
    pub fn parse(uri: &str) -> Result<Self, ProvisionError> {
        let uri: String = uri.chars().filter(|c| !c.is_whitespace()).collect();
        let rest = match uri.split_at_checked(SCHEME.len()) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) => rest,
            _ => return Err(ProvisionError::Scheme),
        };
        let (server, query) = rest.split_once('?').ok_or(ProvisionError::Missing("device"))?;
        // Some applications put a slash before the question mark.
        let server = server.strip_suffix('/').unwrap_or(server);
        check_server(server).map_err(ProvisionError::Server)?;

        let mut values: [Option<&str>; 6] = [None; 6];
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (part, value) = pair.split_once('=').unwrap_or((pair, ""));
            // What is not a known part may be a piece of a secret: only a short beginning of it is shown.
            let shown = || part.chars().take(8).collect::<String>();
            let at = PARTS.iter().position(|known| part.eq_ignore_ascii_case(known));
            let place =
                at.and_then(|at| values.get_mut(at)).ok_or_else(|| ProvisionError::Unknown(shown()))?;
            if place.replace(value).is_some() {
                return Err(ProvisionError::Twice(shown()));
            }
        }
        let [device, tenant, stream, listener, gate, key] = values;
        let device = device.ok_or(ProvisionError::Missing("device"))?;
        name::check_device(device)?;
        let tenant = tenant.unwrap_or_default();
        if !tenant.is_empty() {
            name::check_tenant(tenant)?;
        }
        let stream = stream.unwrap_or_default();
        if !stream.is_empty() {
            name::check_stream(stream)?;
        }
        let listener = bytes("listener", Kind::Listener, listener)?;
        let gate = match gate {
            Some(gate) => {
                let gate: [u8; 20] = bytes("gate", Kind::GateKey, Some(gate))?;
                Some((u32::from_be_bytes(take(&gate, 0)), take(&gate, 4)))
            }
            None => None,
        };
        let key: [u8; 40] = bytes("key", Kind::DeviceKey, key)?;
        Ok(Self {
            server: server.to_owned(),
            device: device.to_owned(),
            tenant: tenant.to_owned(),
            stream: stream.to_owned(),
            key_id: take(&key, 0),
            secret: take(&key, 8),
            gate,
            listener: ListenerId(listener),
        })
    }

    /// What its registrations are bound to.
    pub fn bind(&self) -> StreamBind {
        if self.stream.is_empty() { StreamBind::ANY } else { StreamBind::of(&self.tenant, &self.stream) }
    }

    /// What the sender's side of SA1 takes. A receiver without a gate does not look at the gate tag; then there is one
    /// of epoch 0.
    pub fn credentials(&self, required: Flags) -> Credentials {
        let (epoch, gate) = self.gate.unwrap_or_default();
        Credentials {
            key_id: self.key_id,
            keys: DeviceKeys::derive(&self.secret),
            gate: GateKey::new(epoch, &gate),
            listener: self.listener,
            bind: self.bind(),
            required,
        }
    }
}

fn bytes<const N: usize>(
    part: &'static str,
    kind: Kind,
    value: Option<&str>,
) -> Result<[u8; N], ProvisionError> {
    let value = value.ok_or(ProvisionError::Missing(part))?;
    text::decode(kind, value).map_err(|error| ProvisionError::Key { part, error })
}

/// Whether this is `HOST:PORT` as it may stand in a URI.
///
/// # Errors
/// A sentence that continues "the server".
pub fn check_server(server: &str) -> Result<(), &'static str> {
    let Some((host, port)) = server.rsplit_once(':') else {
        return Err("there must be HOST:PORT; the port is missing");
    };
    if !matches!(port.parse::<u16>(), Ok(1..)) || !port.bytes().all(|c| c.is_ascii_digit()) {
        return Err("there must be HOST:PORT; the port is a number from 1 to 65535");
    }
    if let Some(v6) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return match v6.parse::<std::net::Ipv6Addr>() {
            Ok(_) => Ok(()),
            Err(_) => Err("the brackets must hold an IPv6 address"),
        };
    }
    if host.contains(':') {
        return Err("an IPv6 address needs brackets: [ADDRESS]:PORT");
    }
    let ok = !host.is_empty() && host.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c));
    if ok { Ok(()) } else { Err("there must be HOST:PORT; the host is a name or an address") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provision() -> Provision {
        Provision {
            server: "gate.example:5000".into(),
            device: "backpack-3".into(),
            tenant: "acme".into(),
            stream: "acme/cam1".into(),
            key_id: [0x81; 8],
            secret: [0x5C; 32],
            gate: Some((7, [0x44; 16])),
            listener: ListenerId([0x99; 16]),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let plain = Provision { tenant: String::new(), stream: String::new(), gate: None, ..provision() };
        let v6 = Provision { server: "[2001:db8::1]:5000".into(), ..provision() };
        for provision in [provision(), plain, v6] {
            let uri = provision.to_uri();
            assert_eq!(Provision::parse(&uri).unwrap(), provision);
            // Through a mail that breaks lines, and an application that adds a slash.
            let (head, tail) = uri.split_at(90);
            assert_eq!(Provision::parse(&format!(" {head}\r\n {tail}\n")).unwrap(), provision);
            assert_eq!(Provision::parse(&uri.replacen('?', "/?", 1)).unwrap(), provision);
            assert!(!uri.contains(char::is_whitespace));
            // Secrets last.
            assert!(uri.find("bgl_") < uri.find("bgk_") && uri.find("bgg_") < uri.find("bgk_"));
        }
    }

    #[test]
    fn errors_name_the_part() {
        let uri = provision().to_uri();
        let says = |uri: &str| Provision::parse(uri).unwrap_err().to_string();
        let gate = uri.find("bgg_").unwrap();
        let key = uri.find("bgk_").unwrap();
        for (wrong, expected) in [
            ("srt://a:1".to_owned(), "it begins with srtla://"),
            ("srtla://gate.example:5000".into(), "device= is missing; was the URI cut short?"),
            (uri.replace(":5000", ""), "the port is missing"),
            (uri.replace(":5000", ":0"), "the port is a number from 1 to 65535"),
            (uri.replace("gate.example", "2001:db8::1"), "an IPv6 address needs brackets"),
            (uri.replace("gate.example", "[zz]"), "the brackets must hold an IPv6 address"),
            (uri.replace("gate.example", "a/b"), "the host is a name or an address"),
            (
                uri[..key - 5].into(),
                "key= is missing; was the URI cut short? In a shell it needs single quotes",
            ),
            (uri[..uri.len() - 3].into(), "key=: truncated: 3 characters are missing"),
            (uri.replace("device=", "device=a&device="), "device= stands there twice"),
            (uri.replace("&tenant", "&tenent"), "\"tenent\" is not known to this version"),
            (uri.replace("backpack-3", "b@d"), "\"b@d\" cannot be a device name"),
            (uri.replace("&gate=", "&listener="), "listener= stands there twice"),
            (
                format!("{}{}", &uri[..gate], &uri[key..]),
                "gate=: this is a device key (bgk_...), a gate key (bgg_...) is needed here",
            ),
        ] {
            assert!(says(&wrong).contains(expected), "{wrong}\n{}\n{expected}", says(&wrong));
        }
    }

    #[test]
    fn nothing_shows_the_secret() {
        let provision = provision();
        let uri = provision.to_uri();
        let key = &uri[uri.find("bgk_").unwrap()..];
        let gate = &uri[uri.find("bgg_").unwrap()..uri.find("&key=").unwrap()];
        let shown = format!("{provision:?}");
        assert!(shown.contains("8181818181818181"), "{shown}");
        for piece in [key, gate, "5c5c5c", "92, 92", "4444", "68, 68"] {
            assert!(!shown.contains(piece), "{piece}: {shown}");
        }
        // A shell that cut the URI at each `&` leaves pieces; none of them comes back in an error.
        for piece in uri.split('&') {
            for broken in
                [format!("srtla://h:1?{piece}"), format!("srtla://h:1?device=a&{}", piece.replace('=', ""))]
            {
                let error = Provision::parse(&broken).unwrap_err().to_string();
                assert!(!error.contains(&key[4..12]) && !error.contains(&gate[4..12]), "{error}");
            }
        }
    }

    #[test]
    fn credentials_are_those_of_the_uri() {
        let credentials = provision().credentials(Flags::KEEPALIVE_MAC);
        assert_eq!(credentials.key_id, [0x81; 8]);
        assert_eq!(credentials.gate.epoch(), 7);
        assert_eq!(credentials.gate.tag(&[1; 64]), GateKey::new(7, &[0x44; 16]).tag(&[1; 64]));
        assert_eq!(credentials.bind, StreamBind::of("acme", "acme/cam1"));
        let any = Provision { stream: String::new(), ..provision() };
        assert_eq!(any.bind(), StreamBind::ANY);
    }
}
