//! The table of keys: one row per setting, from which the reader, the environment, `--set`, `--print-effective`,
//! `init` and the tests of the manual are all driven.
//!
//! Promise: a key that is not in [`KEYS`] does not exist anywhere.

use std::any::Any;
use std::net::SocketAddr;
use std::path::PathBuf;

use bondgate_auth::geo::Country;
use clap::ValueEnum;

use super::cidr::{self, Cidr};
use super::resolved::{
    AuthMode, BackendChoice, Config, GateAttach, GateMode, LogFormat, OnDetach, OutputMode, PlayChoice,
    SteeringChoice, StrengthChoice, UnknownChoice,
};
use super::value::{Kind, Value, quoted};

/// When a changed value takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// While bondgate runs, as soon as the file has changed (`control::config_watch`). All that a policy is made of.
    Live,
    /// At the next start.
    Start,
}
use Taken::{Live, Start};

/// One key of the configuration.
pub struct Key {
    /// `section.key`.
    pub path: &'static str,
    /// When a changed value takes effect.
    pub taken: Taken,
    /// Least and greatest value of an integer key.
    pub bounds: Option<(u64, u64)>,
    /// Where the value lives.
    pub field: fn(&mut Config) -> &mut dyn Setting,
}

/// Everything that can be configured, in the order of `configs/default.toml`.
pub static KEYS: &[Key] = &[
    text("log.level", Start, |c| &mut c.log.level),
    text("log.format", Start, |c| &mut c.log.format),
    number("runtime.shards", Start, (1, 64), |c| &mut c.runtime.shards),
    text("runtime.pin_cores", Start, |c| &mut c.runtime.pin_cores),
    text("runtime.backend", Start, |c| &mut c.runtime.backend),
    text("runtime.steering", Start, |c| &mut c.runtime.steering),
    text("runtime.state_dir", Start, |c| &mut c.runtime.state_dir),
    number("runtime.socket_buffer_bytes", Start, (65_536, 1 << 30), |c| &mut c.runtime.socket_buffer_bytes),
    number("runtime.linger_us", Start, (0, 1000), |c| &mut c.runtime.linger_us),
    text("srtla.listen", Start, |c| &mut c.srtla.listen),
    number("srtla.groups_max", Start, (1, 65_535), |c| &mut c.srtla.groups_max),
    number("srtla.links_per_group_max", Start, (1, 64), |c| &mut c.srtla.links_per_group_max),
    number("srtla.link_timeout_ms", Start, (3_000, 60_000), |c| &mut c.srtla.link_timeout_ms),
    number("srtla.ack_flush_ms", Start, (5, 1_000), |c| &mut c.srtla.ack_flush_ms),
    text("srtla.auth", Live, |c| &mut c.srtla.auth),
    text("srtla.stock_allow", Live, |c| &mut c.srtla.stock_allow),
    text("srtla.allow", Live, |c| &mut c.srtla.allow),
    text("srtla.roaming", Start, |c| &mut c.srtla.roaming),
    text("srtla.data_mac", Live, |c| &mut c.srtla.data_mac),
    text("keys.seal_key_file", Start, |c| &mut c.keys.seal_key_file),
    text("keys.server", Live, |c| &mut c.keys.server),
    number("keys.tenant_groups_max", Live, (0, 65_535), |c| &mut c.keys.tenant_groups_max),
    text("streams.default", Live, |c| &mut c.streams.default),
    text("streams.sa1", Live, |c| &mut c.streams.sa1),
    text("streams.sa1_token", Live, |c| &mut c.streams.sa1_token),
    text("streams.token", Live, |c| &mut c.streams.token),
    text("streams.cidr", Live, |c| &mut c.streams.cidr),
    text("streams.play", Live, |c| &mut c.streams.play),
    number("limits.stock_per_source_per_s", Live, (1, 1_000_000), |c| &mut c.limits.stock_per_source_per_s),
    number("limits.stock_per_source_burst", Live, (1, 1_000_000), |c| &mut c.limits.stock_per_source_burst),
    number("limits.stock_per_s", Live, (3, 1_000_000), |c| &mut c.limits.stock_per_s),
    number("limits.stock_burst", Live, (3, 1_000_000), |c| &mut c.limits.stock_burst),
    number("limits.sa1_per_network_per_s", Live, (1, 1_000_000), |c| &mut c.limits.sa1_per_network_per_s),
    number("limits.sa1_per_network_burst", Live, (1, 1_000_000), |c| &mut c.limits.sa1_per_network_burst),
    text("bans.automatic", Live, |c| &mut c.bans.automatic),
    number("bans.strikes", Live, (1, 1_000), |c| &mut c.bans.strikes),
    number("bans.window_s", Live, (1, 86_400), |c| &mut c.bans.window_s),
    number("bans.first_s", Live, (1, 2_592_000), |c| &mut c.bans.first_s),
    number("bans.max_s", Live, (1, 2_592_000), |c| &mut c.bans.max_s),
    text("geo.database", Live, |c| &mut c.geo.database),
    text("geo.allow", Live, |c| &mut c.geo.allow),
    text("geo.block", Live, |c| &mut c.geo.block),
    text("geo.unknown", Live, |c| &mut c.geo.unknown),
    text("geo.exempt_private", Live, |c| &mut c.geo.exempt_private),
    number("geo.max_age_days", Live, (0, 3_650), |c| &mut c.geo.max_age_days),
    text("srt.listen", Start, |c| &mut c.srt.listen),
    number("srt.latency_ms", Start, (20, 8_000), |c| &mut c.srt.latency_ms),
    number("srt.connections_max", Start, (1, 65_535), |c| &mut c.srt.connections_max),
    text("output.mode", Start, |c| &mut c.output.mode),
    text("relay.streams", Live, |c| &mut c.relay.streams),
    text("relay.default_stream", Start, |c| &mut c.relay.default_stream),
    number("relay.linger_ms", Start, (0, 3_600_000), |c| &mut c.relay.linger_ms),
    number("relay.players_per_stream_max", Start, (1, 10_000), |c| &mut c.relay.players_per_stream_max),
    text("forward.server", Start, |c| &mut c.forward.server),
    text("admin.listen", Start, |c| &mut c.admin.listen),
    text("gate.attach", Start, |c| &mut c.gate.attach),
    text("gate.interfaces", Start, |c| &mut c.gate.interfaces),
    text("gate.mode", Start, |c| &mut c.gate.mode),
    text("gate.on_detach", Start, |c| &mut c.gate.on_detach),
    text("gate.pin_dir", Start, |c| &mut c.gate.pin_dir),
    text("gate.drop_privileges", Start, |c| &mut c.gate.drop_privileges),
];

const fn text(path: &'static str, taken: Taken, field: fn(&mut Config) -> &mut dyn Setting) -> Key {
    Key { path, taken, bounds: None, field }
}

const fn number(
    path: &'static str,
    taken: Taken,
    bounds: (u64, u64),
    field: fn(&mut Config) -> &mut dyn Setting,
) -> Key {
    Key { path, taken, bounds: Some(bounds), field }
}

impl Key {
    /// Finds a key by its full path.
    pub fn find(path: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.path == path)
    }

    /// The part before the dot.
    pub fn section(&self) -> &'static str {
        self.path.split_once('.').map_or("", |(section, _)| section)
    }

    /// The part after the dot.
    pub fn name(&self) -> &'static str {
        self.path.split_once('.').map_or(self.path, |(_, name)| name)
    }

    /// Stores `value`, or says what was expected instead. Leaves the field alone on error.
    ///
    /// # Errors
    /// A sentence for people: the type or range expected and what was found.
    pub fn assign(&self, config: &mut Config, value: &Value) -> Result<(), String> {
        if let (Some((least, greatest)), Value::Integer(number)) = (self.bounds, value)
            && !u64::try_from(*number).is_ok_and(|number| (least..=greatest).contains(&number))
        {
            return Err(format!("expected an integer from {least} to {greatest}, found {number}"));
        }
        let field = (self.field)(config);
        field.set(value).map_err(|wrong| match (wrong, self.bounds) {
            (Wrong::Type, Some((least, greatest))) => {
                format!("expected an integer from {least} to {greatest}, found {value}")
            }
            (Wrong::Type, None) => format!("expected {}, found {value}", field.expected()),
            (Wrong::Content(message), _) => message,
        })
    }

    /// Copies the value from one configuration into another; true if it was another one there.
    pub fn copy(&self, from: &mut Config, to: &mut Config) -> bool {
        let from: &dyn Any = (self.field)(from);
        (self.field)(to).copy(from)
    }

    /// The value in `config`, as it would be typed in the file.
    pub fn literal(&self, config: &Config) -> String {
        (self.field)(&mut config.clone()).literal()
    }

    /// How to read an untyped text (environment, `--set`) for this key.
    pub fn kind(&self) -> Kind {
        (self.field)(&mut Config::default()).kind()
    }
}

/// Why a value does not fit.
pub enum Wrong {
    /// Of another type altogether.
    Type,
    /// Of the right type; the sentence says what is wrong with it.
    Content(String),
}

/// A value that can be copied without knowing its type.
pub trait Copied: Any {
    /// Takes the value of `from`, which has the same type; true if it was another one.
    fn copy(&mut self, from: &dyn Any) -> bool;
}

impl<T: Any + Clone + PartialEq> Copied for T {
    fn copy(&mut self, from: &dyn Any) -> bool {
        let other = from.downcast_ref::<T>().filter(|from| *from != self);
        if let Some(from) = other {
            self.clone_from(from);
        }
        other.is_some()
    }
}

/// A place in [`Config`] that can be read from and written as a configuration value.
pub trait Setting: Copied {
    /// Type of the value in the file.
    fn kind(&self) -> Kind;
    /// What belongs here, in words.
    fn expected(&self) -> String;
    /// Takes the value.
    ///
    /// # Errors
    /// Why it does not fit; the place is unchanged then.
    fn set(&mut self, value: &Value) -> Result<(), Wrong>;
    /// The value in TOML syntax.
    fn literal(&self) -> String;
}

impl Setting for bool {
    fn kind(&self) -> Kind {
        Kind::Bool
    }
    fn expected(&self) -> String {
        "true or false".into()
    }
    fn set(&mut self, value: &Value) -> Result<(), Wrong> {
        let Value::Bool(flag) = value else { return Err(Wrong::Type) };
        *self = *flag;
        Ok(())
    }
    fn literal(&self) -> String {
        self.to_string()
    }
}

impl Setting for String {
    fn kind(&self) -> Kind {
        Kind::Text
    }
    fn expected(&self) -> String {
        "a string".into()
    }
    fn set(&mut self, value: &Value) -> Result<(), Wrong> {
        let Value::Text(text) = value else { return Err(Wrong::Type) };
        self.clone_from(text);
        Ok(())
    }
    fn literal(&self) -> String {
        quoted(self)
    }
}

macro_rules! integer_setting {
    ($($type:ty),*) => {$(
        impl Setting for $type {
            fn kind(&self) -> Kind {
                Kind::Integer
            }
            fn expected(&self) -> String {
                "an integer".into()
            }
            fn set(&mut self, value: &Value) -> Result<(), Wrong> {
                let Value::Integer(number) = value else { return Err(Wrong::Type) };
                *self = Self::try_from(*number).map_err(|_| Wrong::Type)?;
                Ok(())
            }
            fn literal(&self) -> String {
                self.to_string()
            }
        }
    )*};
}
integer_setting!(u8, u16, u32, u64, usize);

macro_rules! choice_setting {
    ($($type:ty),*) => {$(
        impl Setting for $type {
            fn kind(&self) -> Kind {
                Kind::Text
            }
            fn expected(&self) -> String {
                format!("one of {}", choices::<Self>().map(|name| quoted(&name)).collect::<Vec<_>>().join(", "))
            }
            fn set(&mut self, value: &Value) -> Result<(), Wrong> {
                let Value::Text(text) = value else { return Err(Wrong::Type) };
                *self = Self::from_str(text, false).map_err(|_| Wrong::Type)?;
                Ok(())
            }
            fn literal(&self) -> String {
                quoted(self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned()).as_str())
            }
        }
    )*};
}
choice_setting!(
    LogFormat,
    BackendChoice,
    SteeringChoice,
    OutputMode,
    AuthMode,
    StrengthChoice,
    PlayChoice,
    GateAttach,
    GateMode,
    OnDetach,
    UnknownChoice
);

fn choices<T: ValueEnum + 'static>() -> impl Iterator<Item = String> {
    T::value_variants()
        .iter()
        .filter_map(ValueEnum::to_possible_value)
        .map(|value| value.get_name().to_owned())
}

fn socket_addr(text: &str) -> Result<SocketAddr, Wrong> {
    text.parse().map_err(|_| {
        let hint = if text.starts_with(':') && text[1..].parse::<u16>().is_ok() {
            format!("; did you mean \"[::]{text}\"?")
        } else if text.parse::<u16>().is_ok() {
            format!("; did you mean \"[::]:{text}\"?")
        } else if text.parse::<std::net::IpAddr>().is_ok() {
            "; the port is missing".to_owned()
        } else {
            String::new()
        };
        Wrong::Content(format!(
            "expected an address and port such as \"0.0.0.0:5000\" or \"[::]:5000\", found {}{hint}",
            quoted(text)
        ))
    })
}

impl Setting for SocketAddr {
    fn kind(&self) -> Kind {
        Kind::Text
    }
    fn expected(&self) -> String {
        "an address and port such as \"[::]:5000\"".into()
    }
    fn set(&mut self, value: &Value) -> Result<(), Wrong> {
        let Value::Text(text) = value else { return Err(Wrong::Type) };
        *self = socket_addr(text)?;
        Ok(())
    }
    fn literal(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Setting for Option<SocketAddr> {
    fn kind(&self) -> Kind {
        Kind::Text
    }
    fn expected(&self) -> String {
        "an address and port such as \"127.0.0.1:8080\", or \"off\"".into()
    }
    fn set(&mut self, value: &Value) -> Result<(), Wrong> {
        let Value::Text(text) = value else { return Err(Wrong::Type) };
        *self = if text == "off" { None } else { Some(socket_addr(text)?) };
        Ok(())
    }
    fn literal(&self) -> String {
        self.map_or_else(|| quoted("off"), |addr| quoted(&addr.to_string()))
    }
}

impl Setting for PathBuf {
    fn kind(&self) -> Kind {
        Kind::Text
    }
    fn expected(&self) -> String {
        "an absolute path such as \"/var/lib/bondgate\"".into()
    }
    fn set(&mut self, value: &Value) -> Result<(), Wrong> {
        let Value::Text(text) = value else { return Err(Wrong::Type) };
        if !text.starts_with('/') {
            return Err(Wrong::Type);
        }
        *self = Self::from(text);
        Ok(())
    }
    fn literal(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}

impl Setting for Option<PathBuf> {
    fn kind(&self) -> Kind {
        Kind::Text
    }
    fn expected(&self) -> String {
        "a path such as \"/var/lib/bondgate\", or \"off\"".into()
    }
    fn set(&mut self, value: &Value) -> Result<(), Wrong> {
        let Value::Text(text) = value else { return Err(Wrong::Type) };
        *self = match text.as_str() {
            "off" => None,
            "" => return Err(Wrong::Type),
            path => Some(PathBuf::from(path)),
        };
        Ok(())
    }
    fn literal(&self) -> String {
        self.as_ref().map_or_else(|| quoted("off"), |path| quoted(&path.to_string_lossy()))
    }
}

impl Setting for Vec<String> {
    fn kind(&self) -> Kind {
        Kind::List
    }
    fn expected(&self) -> String {
        "a list of strings".into()
    }
    fn set(&mut self, value: &Value) -> Result<(), Wrong> {
        *self = strings(value)?.cloned().collect();
        Ok(())
    }
    fn literal(&self) -> String {
        list(self.iter().map(String::as_str))
    }
}

impl Setting for Vec<Cidr> {
    fn kind(&self) -> Kind {
        Kind::List
    }
    fn expected(&self) -> String {
        "a list of networks such as [\"192.0.2.0/24\", \"2001:db8::/32\"]".into()
    }
    fn set(&mut self, value: &Value) -> Result<(), Wrong> {
        *self = strings(value)?
            .map(|text| cidr::parse(text).map_err(Wrong::Content))
            .collect::<Result<_, _>>()?;
        Ok(())
    }
    fn literal(&self) -> String {
        let shown: Vec<String> = self.iter().map(ToString::to_string).collect();
        list(shown.iter().map(String::as_str))
    }
}

impl Setting for Vec<Country> {
    fn kind(&self) -> Kind {
        Kind::List
    }
    fn expected(&self) -> String {
        "a list of countries such as [\"DE\", \"FR\"]".into()
    }
    fn set(&mut self, value: &Value) -> Result<(), Wrong> {
        *self = strings(value)?.map(|text| country(text)).collect::<Result<_, _>>()?;
        Ok(())
    }
    fn literal(&self) -> String {
        let shown: Vec<String> = self.iter().map(ToString::to_string).collect();
        list(shown.iter().map(String::as_str))
    }
}

fn country(text: &str) -> Result<Country, Wrong> {
    let hint = match text {
        // Reserved, and what people type; databases have GB.
        "UK" | "uk" => "; did you mean \"GB\"?".to_owned(),
        "EL" | "el" => "; did you mean \"GR\"?".to_owned(),
        _ => match Country::parse(text) {
            Some(country) => return Ok(country),
            None => Country::parse(&text.to_ascii_uppercase())
                .map_or_else(String::new, |country| format!("; did you mean \"{country}\"?")),
        },
    };
    Err(Wrong::Content(format!(
        "expected two letters of ISO 3166 such as \"DE\", found {}{hint}",
        quoted(text)
    )))
}

fn strings(value: &Value) -> Result<impl Iterator<Item = &String>, Wrong> {
    let Value::List(items) = value else { return Err(Wrong::Type) };
    if items.iter().all(|item| matches!(item, Value::Text(_))) {
        Ok(items.iter().filter_map(|item| if let Value::Text(text) = item { Some(text) } else { None }))
    } else {
        Err(Wrong::Type)
    }
}

fn list<'a>(items: impl Iterator<Item = &'a str>) -> String {
    format!("[{}]", items.map(quoted).collect::<Vec<_>>().join(", "))
}
