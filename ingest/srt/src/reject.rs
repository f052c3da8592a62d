//! Rejection codes: what the API calls them, what goes on the wire, and what to print.

use std::fmt;

/// Why a connection is refused: the API code (internal 1..=17, access control 1000..=1999, user 2000 and up).
/// On the wire the handshake type is 1000 + this code.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RejectReason(u16);

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident = $code:literal $text:literal;)*) => {
        impl RejectReason {
            $($(#[doc = $doc])* pub const $name: Self = Self($code);)*

            /// Short text for people; "unnamed" for codes outside the published list.
            pub const fn text(self) -> &'static str {
                match self.0 { $($code => $text,)* _ => "unnamed" }
            }
        }
    };
}

reasons! {
    /// Cause not known.
    UNKNOWN = 0 "unknown reason";
    /// System call failed at the peer.
    SYSTEM = 1 "system error";
    /// Refused by the peer without a nearer reason.
    PEER = 2 "rejected by the peer";
    /// Out of sockets or memory.
    RESOURCE = 3 "out of resources";
    /// Handshake data are wrong.
    ROGUE = 4 "malformed handshake";
    /// Listener's queue is full.
    BACKLOG = 5 "listener backlog full";
    /// Internal error.
    IPE = 6 "internal error";
    /// Listener is being closed.
    CLOSE = 7 "listener is closing";
    /// Version too old.
    VERSION = 8 "protocol version too old";
    /// Rendezvous cookies collide.
    RDVCOOKIE = 9 "rendezvous cookie collision";
    /// Wrong passphrase.
    BADSECRET = 10 "wrong passphrase";
    /// One side encrypts and the other does not.
    UNSECURE = 11 "encryption wanted by one side only";
    /// Stream (file) mode against message (live) mode.
    MESSAGEAPI = 12 "live mode needed";
    /// Congestion controllers differ.
    CONGESTION = 13 "congestion control differs";
    /// Packet filters differ.
    FILTER = 14 "packet filter not supported";
    /// Group settings differ.
    GROUP = 15 "SRT groups not supported";
    /// No answer in time (never on the wire).
    TIMEOUT = 16 "no answer in time";
    /// Cipher modes differ.
    CRYPTO = 17 "cipher mode not supported";
    /// Fallback code.
    FALLBACK = 1000 "fallback";
    /// Key of the stream ID not supported.
    KEY_NOTSUP = 1001 "stream ID key not supported";
    /// Resource is not a file path.
    FILEPATH = 1002 "not a file path";
    /// Host of the stream ID not found.
    HOSTNOTFOUND = 1003 "host not found";
    /// Stream ID cannot be read.
    BAD_REQUEST = 1400 "bad stream ID";
    /// Unknown or expired key.
    UNAUTHORIZED = 1401 "unauthorized";
    /// Too much load or quota used up.
    OVERLOAD = 1402 "overload";
    /// Not allowed from here or for this role.
    FORBIDDEN = 1403 "forbidden";
    /// No such stream.
    NOTFOUND = 1404 "stream not found";
    /// Publishing with a play key or the reverse.
    BAD_MODE = 1405 "wrong mode for this key";
    /// Parameters cannot be satisfied.
    UNACCEPTABLE = 1406 "unacceptable parameters";
    /// Someone is publishing already.
    CONFLICT = 1409 "already publishing";
    /// Media type not supported.
    NOTSUP_MEDIA = 1415 "media type not supported";
    /// Locked for others.
    LOCKED = 1423 "locked";
    /// A session it depends on has failed.
    FAILED_DEPEND = 1424 "dependency failed";
    /// Internal server error.
    ISE = 1500 "internal server error";
    /// Not implemented.
    UNIMPLEMENTED = 1501 "not implemented";
    /// Downstream refused.
    GATEWAY = 1502 "gateway refused";
    /// Out of service.
    DOWN = 1503 "service down";
    /// Version not supported by the application.
    VERSION_NOTSUP = 1505 "version not supported";
    /// No storage left.
    NOROOM = 1507 "no room";
}

impl RejectReason {
    /// A reason by its API code.
    pub const fn from_code(code: u16) -> Self {
        Self(code)
    }

    /// The API code.
    pub const fn code(self) -> u16 {
        self.0
    }

    /// Handshake type that carries this reason.
    pub const fn to_wire(self) -> i32 {
        1000 + self.0 as i32
    }

    /// Reads a handshake type; `None` when it is no rejection.
    pub fn from_wire(kind: i32) -> Option<Self> {
        let code = kind.checked_sub(1000).filter(|code| *code >= 0)?;
        Some(Self(u16::try_from(code).unwrap_or(0)))
    }
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text(), self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_is_a_thousand_more() {
        assert_eq!(RejectReason::VERSION.to_wire(), 1008);
        assert_eq!(RejectReason::UNAUTHORIZED.to_wire(), 2401);
        assert_eq!(RejectReason::from_wire(2401), Some(RejectReason::UNAUTHORIZED));
        assert_eq!(RejectReason::from_wire(1), None);
        assert_eq!(RejectReason::from_wire(i32::MAX), Some(RejectReason::UNKNOWN));
        assert_eq!(RejectReason::from_wire(i32::MIN), None);
        assert_eq!(RejectReason::CONFLICT.to_string(), "already publishing (1409)");
        assert_eq!(RejectReason::from_code(2777).text(), "unnamed");
    }
}
