//! Why datagrams are discarded: one reason per cause, each with its counter.

use bondgate_auth::sa1::receiver::{Lane, Reject};
use bondgate_auth::sa1::trailer::TrailerError;
use bondgate_auth::sa1::wire::{LayoutError, RefusalCode};

macro_rules! reasons {
    ($($(#[$doc:meta])+ $reason:ident = $name:literal,)+) => {
        /// Why a datagram was discarded. Reasons that begin with `Refused` were told to the sender, tagged.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[$doc])+ $reason,)+
        }

        impl DropReason {
            /// All reasons, in counter order.
            pub const ALL: [Self; [$(DropReason::$reason),+].len()] = [$(Self::$reason),+];

            /// The name used in metrics and logs.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$reason => $name,)+
                }
            }
        }
    };
}

reasons! {
    /// Shorter than an SRT header and not SRTLA.
    Runt = "runt",
    /// Longer than any implementation sends.
    Oversize = "oversize",
    /// A registration packet of the wrong length.
    BadLength = "bad_length",
    /// An SRTLA type nobody may send in this direction, or an unknown one.
    UnexpectedSrtla = "unexpected_srtla",
    /// Neither a member's address nor anything that could make it one.
    NotMember = "not_member",
    /// The admission policy does not name this address.
    NotAdmitted = "not_admitted",
    /// Too many registrations without a key, from this source or altogether.
    StockBudget = "stock_budget",
    /// From an address that is banned.
    Banned = "banned",
    /// From a country that is not allowed.
    Geo = "geo",
    /// No more NGP answers in the budget.
    NgpBudget = "ngp_budget",
    /// More keepalives than the link's budget.
    KeepaliveBudget = "keepalive_budget",
    /// A join for another group from an address that is busy in its own.
    AddressBusy = "address_busy",
    /// No slot for another group, and none that may be evicted.
    GroupTableFull = "group_table_full",
    /// No new groups: the receiver is draining.
    Draining = "draining",
    /// The caller's action list is full.
    ActionsFull = "actions_full",
    /// Anything but an SRT handshake while the group's stream is not accepted.
    Probation = "probation",
    /// Too many handshakes while the group's stream is not accepted.
    ProbationBudget = "probation_budget",
    /// Meant for another shard, and the ring to it is full.
    HandOffFull = "hand_off_full",
    /// Handed over by one shard after another, none of which has its link.
    HandOffLoop = "hand_off_loop",
    /// SRT for a socket that is not the session's.
    ForeignSocket = "foreign_socket",
    /// The policy does not admit the group any more.
    Revoked = "revoked",
    /// Return traffic for a group that is gone.
    NoGroup = "no_group",
    /// Return traffic while no link is live.
    NoLiveLink = "no_live_link",
    /// Return traffic while no link has earned the bytes.
    NoCredit = "no_credit",
    /// A packet without the trailer that was agreed on.
    TrailerShape = "trailer_shape",
    /// A trailer whose counter came before.
    TrailerReplayed = "trailer_replayed",
    /// A trailer whose MAC is wrong.
    TrailerMac = "trailer_mac",
    /// More trailers than the link's budget.
    TrailerBudget = "trailer_budget",
    /// Return traffic with no room for the trailer that was agreed on, or with none left to give.
    TrailerRoom = "trailer_room",
    /// SA1: not the layout of any message.
    Sa1Layout = "sa1_layout",
    /// SA1: another version or suite.
    Sa1Version = "sa1_version",
    /// SA1: a message number that does not go with the packet type.
    Sa1Message = "sa1_message",
    /// SA1: undefined flags, or flags accepted that were not offered.
    Sa1Flags = "sa1_flags",
    /// SA1: a byte that must be zero is not.
    Sa1Reserved = "sa1_reserved",
    /// SA1: meant for another receiver.
    Sa1Listener = "sa1_listener",
    /// SA1: no gate key of this epoch.
    Sa1GateEpoch = "sa1_gate_epoch",
    /// SA1: the gate tag is wrong.
    Sa1GateTag = "sa1_gate_tag",
    /// SA1: the budget for hellos is empty.
    Sa1BudgetHello = "sa1_budget_hello",
    /// SA1: the budget for cookies is empty.
    Sa1BudgetCookie = "sa1_budget_cookie",
    /// SA1: the budget for joins is empty.
    Sa1BudgetJoin = "sa1_budget_join",
    /// SA1: the budget for joins without a good cookie is empty.
    Sa1BudgetRechallenge = "sa1_budget_rechallenge",
    /// SA1: no such key, or a revoked one.
    Sa1UnknownKey = "sa1_unknown_key",
    /// SA1: the MAC of the hello is wrong.
    Sa1Mac1 = "sa1_mac1",
    /// SA1: the hello came before.
    Sa1Replayed = "sa1_replayed",
    /// SA1: the sender's clock is wrong and its key demands one. Answered.
    Sa1Clock = "sa1_clock",
    /// SA1: the key is past its life. Answered.
    Sa1KeyExpired = "sa1_key_expired",
    /// SA1: the cookie's key is gone.
    Sa1CookieEpoch = "sa1_cookie_epoch",
    /// SA1: the cookie is too old, or from the future.
    Sa1CookieAge = "sa1_cookie_age",
    /// SA1: the cookie was made for something else, or not by us.
    Sa1CookieMac = "sa1_cookie_mac",
    /// SA1: the MAC of the join is wrong.
    Sa1Mac3 = "sa1_mac3",
    /// SA1: a join without a good cookie, of no living group and no trustworthy time.
    Sa1Stale = "sa1_stale",
    /// SA1: a join older than what its link or address has by now.
    Sa1Old = "sa1_old",
    /// SA1: the tenant is locked down.
    RefusedLockdown = "sa1_refused_lockdown",
    /// SA1: devices may not register from this address.
    RefusedAddress = "sa1_refused_address",
    /// SA1: the device may not publish the stream, or the group is bound to another.
    RefusedStream = "sa1_refused_stream",
    /// SA1: no room for another group, or not for this device.
    RefusedGroup = "sa1_refused_group",
    /// SA1: no room for another link in the group.
    RefusedLink = "sa1_refused_link",
    /// SA1: the device comes and goes too often.
    RefusedRate = "sa1_refused_rate",
    /// SA1: the receiver is draining.
    RefusedDraining = "sa1_refused_draining",
}

impl From<Reject> for DropReason {
    fn from(reject: Reject) -> Self {
        match reject {
            Reject::Layout(LayoutError::Version) => Self::Sa1Version,
            Reject::Layout(LayoutError::Message) => Self::Sa1Message,
            Reject::Layout(LayoutError::Flags) => Self::Sa1Flags,
            Reject::Layout(LayoutError::Reserved) => Self::Sa1Reserved,
            Reject::Layout(
                LayoutError::Length | LayoutError::Type | LayoutError::Magic | LayoutError::Code,
            ) => Self::Sa1Layout,
            Reject::Listener => Self::Sa1Listener,
            Reject::GateEpoch => Self::Sa1GateEpoch,
            Reject::GateTag => Self::Sa1GateTag,
            Reject::Budget(Lane::Hello) => Self::Sa1BudgetHello,
            Reject::Budget(Lane::Cookie) => Self::Sa1BudgetCookie,
            Reject::Budget(Lane::Join) => Self::Sa1BudgetJoin,
            Reject::Budget(Lane::Rechallenge) => Self::Sa1BudgetRechallenge,
            Reject::UnknownKey => Self::Sa1UnknownKey,
            Reject::Mac1 => Self::Sa1Mac1,
            Reject::Replayed => Self::Sa1Replayed,
            Reject::Clock => Self::Sa1Clock,
            Reject::KeyExpired => Self::Sa1KeyExpired,
            Reject::CookieEpoch => Self::Sa1CookieEpoch,
            Reject::CookieAge => Self::Sa1CookieAge,
            Reject::CookieMac => Self::Sa1CookieMac,
            Reject::Mac3 => Self::Sa1Mac3,
            Reject::Stale => Self::Sa1Stale,
        }
    }
}

impl From<RefusalCode> for DropReason {
    fn from(code: RefusalCode) -> Self {
        match code {
            RefusalCode::KeyExpired => Self::Sa1KeyExpired,
            RefusalCode::Lockdown => Self::RefusedLockdown,
            RefusalCode::Address => Self::RefusedAddress,
            RefusalCode::Stream => Self::RefusedStream,
            RefusalCode::GroupLimit => Self::RefusedGroup,
            RefusalCode::LinkLimit => Self::RefusedLink,
            RefusalCode::RateLimited => Self::RefusedRate,
            RefusalCode::Version => Self::Sa1Version,
            RefusalCode::Draining => Self::RefusedDraining,
            RefusalCode::ClockRequired => Self::Sa1Clock,
        }
    }
}

impl From<TrailerError> for DropReason {
    fn from(error: TrailerError) -> Self {
        match error {
            TrailerError::Shape => Self::TrailerShape,
            TrailerError::Replayed => Self::TrailerReplayed,
            TrailerError::Mac => Self::TrailerMac,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_those_of_the_specification() {
        let names: HashSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
        for reject in Reject::ALL {
            let name = DropReason::from(reject).name();
            assert!(name == format!("sa1_{reject}") || name == "sa1_layout", "{reject} is {name}");
        }
        let refusals: HashSet<_> = RefusalCode::ALL.into_iter().map(DropReason::from).collect();
        assert_eq!(refusals.len(), RefusalCode::ALL.len(), "one reason per code");
    }
}
