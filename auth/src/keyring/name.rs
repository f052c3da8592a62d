//! Which names devices, tenants and streams may have. They go into URIs, tables, logs and file names as they are, so
//! they consist of letters, digits and `_ - .`; the name of a stream may have several such parts separated by `/`.

use std::fmt;

/// Longest name of a device or tenant, in bytes.
pub const NAME_LEN_MAX: usize = 64;
/// Longest name of a stream, in bytes: what an SRT stream ID is accepted with.
pub const STREAM_LEN_MAX: usize = 128;

/// What is wrong with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameError {
    /// "device name" and the like.
    what: &'static str,
    name: String,
    longest: usize,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.longest == STREAM_LEN_MAX { ", parts separated by '/'" } else { "" };
        write!(
            f,
            "{:?} cannot be a {}: 1 to {} letters, digits, '_', '-' and '.'{slash}",
            self.name, self.what, self.longest
        )
    }
}

impl std::error::Error for NameError {}

fn part_ok(part: &str) -> bool {
    !matches!(part, "" | "." | "..") && part.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-.".contains(&c))
}

fn check(what: &'static str, name: &str, longest: usize, ok: bool) -> Result<(), NameError> {
    if ok && name.len() <= longest {
        return Ok(());
    }
    Err(NameError { what, name: name.chars().take(longest + 1).collect(), longest })
}

/// Whether a device may be called so.
///
/// # Errors
/// Why not.
pub fn check_device(name: &str) -> Result<(), NameError> {
    check("device name", name, NAME_LEN_MAX, part_ok(name))
}

/// Whether a tenant may be called so.
///
/// # Errors
/// Why not.
pub fn check_tenant(name: &str) -> Result<(), NameError> {
    check("tenant name", name, NAME_LEN_MAX, part_ok(name))
}

/// Whether a stream may be called so.
///
/// # Errors
/// Why not.
pub fn check_stream(name: &str) -> Result<(), NameError> {
    check("stream name", name, STREAM_LEN_MAX, name.split('/').all(part_ok))
}

/// The full name of a tenant's stream: streams of a tenant are named `TENANT/...`.
pub fn full_stream(tenant: &str, stream: &str) -> String {
    if tenant.is_empty() || tenant_of(stream) == Some(tenant) {
        stream.to_owned()
    } else {
        format!("{tenant}/{stream}")
    }
}

/// Whose stream it would be, if there is such a tenant.
pub fn tenant_of(stream: &str) -> Option<&str> {
    stream.split_once('/').map(|(tenant, _)| tenant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["cam1", "Kamera_2.b-x", &"a".repeat(64)] {
            check_device(good).unwrap();
            check_tenant(good).unwrap();
            check_stream(good).unwrap();
        }
        check_stream("acme/live/cam1").unwrap();
        for bad in ["", ".", "..", "a b", "a/b", "a&b", "a=b", "k\u{e4}mera", "a\n", &"a".repeat(65)] {
            assert!(check_device(bad).is_err(), "{bad:?}");
        }
        for bad in ["/a", "a/", "a//b", "a/../b", &"a".repeat(129)] {
            assert!(check_stream(bad).is_err(), "{bad:?}");
        }
        let error = check_stream("a b").unwrap_err().to_string();
        assert_eq!(
            error,
            "\"a b\" cannot be a stream name: 1 to 128 letters, digits, '_', '-' and '.', parts separated by '/'"
        );
    }

    #[test]
    fn streams_of_tenants() {
        assert_eq!(full_stream("", "cam1"), "cam1");
        assert_eq!(full_stream("acme", "cam1"), "acme/cam1");
        assert_eq!(full_stream("acme", "acme/cam1"), "acme/cam1");
        assert_eq!(full_stream("acme", "acme"), "acme/acme");
        assert_eq!(tenant_of("acme/x/y"), Some("acme"));
        assert_eq!(tenant_of("cam1"), None);
    }
}
