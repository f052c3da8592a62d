//! Names of groups and links: a slot index plus the generation of what lives in the slot.
//!
//! Promise: a key kept after its group or link has gone never names the slot's next inhabitant.

/// Names a group of one [`Receiver`](crate::receiver::Receiver). `Copy`, 8 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct GroupKey {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl GroupKey {
    /// The slot index, `0 .. groups_max`: usable as an index into the caller's own per-group arrays.
    pub const fn index(self) -> usize {
        self.slot as usize
    }

    /// How many groups have lived in this slot before.
    pub const fn generation(self) -> u32 {
        self.generation
    }
}

/// Names a link of one [`Receiver`](crate::receiver::Receiver). `Copy`, 8 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct LinkKey {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl LinkKey {
    /// The slot index, `0 .. groups_max * links_per_group_max`.
    pub const fn index(self) -> usize {
        self.slot as usize
    }

    /// How many links have lived in this slot before.
    pub const fn generation(self) -> u32 {
        self.generation
    }
}
