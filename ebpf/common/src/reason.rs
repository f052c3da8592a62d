//! Why the gate passed or dropped a frame: one reason per cause, each with its counter.
//!
//! Where the application discards for the same cause, the names are the same.

/// What becomes of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Action {
    /// On to the kernel's network stack.
    Pass,
    /// Gone.
    Drop,
}

macro_rules! reasons {
    ($($(#[$doc:meta])+ $reason:ident = $action:ident $name:literal,)+) => {
        /// The cause of a verdict, and the index of its counter.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[$doc])+ $reason,)+
        }

        impl Reason {
            /// All reasons, in counter order.
            pub const ALL: [Self; [$(Reason::$reason),+].len()] = [$(Self::$reason),+];

            /// The name used in metrics and logs.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$reason => $name,)+
                }
            }

            /// What it does to the frame.
            pub const fn action(self) -> Action {
                match self {
                    $(Self::$reason => Action::$action,)+
                }
            }
        }
    };
}

reasons! {
    /// Not for one of our ports: left alone.
    Other = Pass "other",
    /// From the address of a registered link.
    Link = Pass "link",
    /// A registration with the right gate tag, or without gate keys one that looks like SA1.
    Sa1 = Pass "sa1",
    /// A registration without a key, from where that is allowed.
    Stock = Pass "stock",
    /// For a port of plain SRT.
    Srt = Pass "srt",
    /// For us, in fragments.
    Fragment = Drop "fragment",
    /// More IPv6 extension headers than anybody sends.
    ExtensionHeaders = Drop "extension_headers",
    /// Headers that are cut short or contradict themselves.
    Malformed = Drop "malformed",
    /// An IPv6 source that pretends to be IPv4.
    BadSource = Drop "bad_source",
    /// More registration packets than the link's budget.
    LinkBudget = Drop "link_budget",
    /// Neither from a registered link nor a registration.
    Unregistered = Drop "unregistered",
    /// From a banned address.
    Banned = Drop "banned",
    /// The allowlist does not name this address.
    NotAdmitted = Drop "not_admitted",
    /// From a country that is not allowed.
    Geo = Drop "geo",
    /// More registrations than the budget of the source's entry in the allowlist.
    PrefixBudget = Drop "prefix_budget",
    /// SA1: a message number that does not go with the packet type.
    Sa1Message = Drop "sa1_message",
    /// SA1: no gate key of this epoch.
    Sa1GateEpoch = Drop "sa1_gate_epoch",
    /// SA1: the gate tag is wrong.
    Sa1GateTag = Drop "sa1_gate_tag",
    /// SA1: more registrations than the budget of the source.
    Sa1SourceBudget = Drop "sa1_source_budget",
    /// A registration without a key from where that is not allowed.
    StockNotAdmitted = Drop "stock_not_admitted",
    /// Too many registrations without a key, from this source or altogether.
    StockBudget = Drop "stock_budget",
}

impl Reason {
    /// The reason with this counter index.
    pub fn from_index(index: u8) -> Option<Self> {
        Self::ALL.get(usize::from(index)).copied()
    }
}
