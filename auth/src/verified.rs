//! [`Verified`]: the mark of what a peer said and a MAC has borne out. Only this crate's verifiers make one.

use std::ops::Deref;

/// A value whose origin was checked. Only verification makes one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// To be called where a MAC over `value` was just found right, and nowhere else.
    pub(crate) const fn vouch(value: T) -> Self {
        Self(value)
    }

    /// The checked value.
    pub const fn get(&self) -> &T {
        &self.0
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
