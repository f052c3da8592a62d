//! A configuration value before it has found its key: the types of TOML, without their place in the file.

use std::fmt;

use toml::de::{DeInteger, DeValue};

/// A value as typed.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `"text"`.
    Text(String),
    /// `42`; 128 bits so that the range check, not the reader, refuses big numbers.
    Integer(i128),
    /// `true`, `false`.
    Bool(bool),
    /// `[a, b]`.
    List(Vec<Value>),
    /// A type no key has, or a number out of all range; the words describe it.
    Other(&'static str),
}

/// Type of a key's value, which decides how untyped text is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Taken literally.
    Text,
    /// A decimal number.
    Integer,
    /// `true` or `false`.
    Bool,
    /// `a,b`, or a TOML array.
    List,
}

impl Value {
    /// Translates what the TOML reader gives.
    pub fn from_toml(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.clone().into_owned()),
            DeValue::Integer(number) => {
                integer(number).map_or(Self::Other("a number out of range"), Self::Integer)
            }
            DeValue::Boolean(flag) => Self::Bool(*flag),
            DeValue::Array(items) => {
                Self::List(items.iter().map(|item| Self::from_toml(item.get_ref())).collect())
            }
            DeValue::Float(_) => Self::Other("a number with a decimal point"),
            DeValue::Datetime(_) => Self::Other("a date"),
            DeValue::Table(_) => Self::Other("a table"),
        }
    }

    /// Reads the untyped text of an environment variable or of `--set`. Text that does not fit `kind` stays text, so
    /// that the key can say what it expected.
    pub fn from_text(text: &str, kind: Kind) -> Self {
        let fallback = || Self::Text(text.to_owned());
        match kind {
            Kind::Text => match DeValue::parse(text) {
                Ok(value) if text.starts_with(['"', '\'']) => Self::from_toml(value.get_ref()),
                _ => fallback(),
            },
            Kind::Integer => text.replace('_', "").parse().map_or_else(|_| fallback(), Self::Integer),
            Kind::Bool => text.parse().map_or_else(|_| fallback(), Self::Bool),
            Kind::List if text.trim_start().starts_with('[') => match DeValue::parse(text.trim()) {
                Ok(value) => Self::from_toml(value.get_ref()),
                Err(_) => fallback(),
            },
            Kind::List if text.trim().is_empty() => Self::List(Vec::new()),
            Kind::List => {
                Self::List(text.split(',').map(|item| Self::Text(item.trim().to_owned())).collect())
            }
        }
    }
}

fn integer(number: &DeInteger<'_>) -> Option<i128> {
    i128::from_str_radix(number.as_str(), number.radix()).ok()
}

impl fmt::Display for Value {
    /// As in "found ...".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => {
                write!(f, "the string {}", quoted(&text.chars().take(60).collect::<String>()))
            }
            Self::Integer(number) => write!(f, "the number {number}"),
            Self::Bool(flag) => write!(f, "{flag}"),
            Self::List(items) if items.iter().all(|item| matches!(item, Self::Text(_))) => {
                f.write_str("a list")
            }
            Self::List(_) => f.write_str("a list with other values than strings"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

/// A TOML basic string. JSON's escapes are a subset of TOML's.
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untyped_text_is_read_by_the_kind_of_its_key() {
        let text = |text: &str| Value::Text(text.to_owned());
        assert_eq!(Value::from_text("2024", Kind::Text), text("2024"));
        assert_eq!(Value::from_text("\"quoted\"", Kind::Text), text("quoted"));
        assert_eq!(Value::from_text("[::]:5000", Kind::Text), text("[::]:5000"));
        assert_eq!(Value::from_text("10_000", Kind::Integer), Value::Integer(10_000));
        assert_eq!(Value::from_text("ten", Kind::Integer), text("ten"));
        assert_eq!(Value::from_text("true", Kind::Bool), Value::Bool(true));
        assert_eq!(Value::from_text("yes", Kind::Bool), text("yes"));
        assert_eq!(Value::from_text("", Kind::List), Value::List(vec![]));
        assert_eq!(Value::from_text("a, b", Kind::List), Value::List(vec![text("a"), text("b")]));
        assert_eq!(Value::from_text("[\"a\"]", Kind::List), Value::List(vec![text("a")]));
    }
}
