//! SYN cookies and unguessable numbers, both from one keyed hash.
//!
//! A cookie proves that the peer can receive at its address before anything is stored about it. It is valid in
//! the minute it was made and in the one after. Nobody without the secret can make one.

use crate::time::Micros;
use siphasher::sip::SipHasher24;
use std::hash::{BuildHasher, Hash, Hasher};

const WINDOW: Micros = 60_000_000;

/// Makes and checks cookies; also the source of socket IDs and initial sequence numbers.
#[derive(Clone)]
pub(crate) struct CookieKey {
    secret: [u8; 16],
    counter: u64,
}

impl std::fmt::Debug for CookieKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CookieKey(..)")
    }
}

impl CookieKey {
    pub(crate) fn new(secret: [u8; 16], seed: u64) -> Self {
        Self { secret, counter: seed }
    }

    fn at(&self, window: i64, peer: &impl Hash) -> u32 {
        let mut hasher = SipHasher24::new_with_key(&self.secret);
        (b'c', window).hash(&mut hasher);
        peer.hash(&mut hasher);
        let cookie = hasher.finish() as u32;
        // 0 means "none yet" on the wire.
        if cookie == 0 { 1 } else { cookie }
    }

    pub(crate) fn make(&self, now: Micros, peer: &impl Hash) -> u32 {
        self.at(now.div_euclid(WINDOW), peer)
    }

    pub(crate) fn check(&self, now: Micros, peer: &impl Hash, cookie: u32) -> bool {
        let window = now.div_euclid(WINDOW);
        cookie == self.at(window, peer) || cookie == self.at(window - 1, peer)
    }

    /// The next number of a sequence that cannot be foretold without the secret.
    pub(crate) fn random(&mut self) -> u32 {
        self.counter = self.counter.wrapping_add(1);
        let mut hasher = SipHasher24::new_with_key(&self.secret);
        (b'r', self.counter).hash(&mut hasher);
        hasher.finish() as u32
    }

    /// Hash state for tables whose keys a peer can choose.
    pub(crate) fn table(&self) -> TableHash {
        TableHash { secret: self.secret }
    }
}

/// `BuildHasher` with the endpoint's secret.
#[derive(Clone)]
pub(crate) struct TableHash {
    secret: [u8; 16],
}

impl BuildHasher for TableHash {
    type Hasher = SipHasher24;

    fn build_hasher(&self) -> SipHasher24 {
        let mut hasher = SipHasher24::new_with_key(&self.secret);
        hasher.write_u8(b't');
        hasher
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_lives_for_two_windows_and_for_its_peer_only() {
        let key = CookieKey::new([7; 16], 1);
        let cookie = key.make(WINDOW - 1, &"peer");
        assert!(key.check(WINDOW - 1, &"peer", cookie));
        assert!(key.check(2 * WINDOW - 1, &"peer", cookie));
        assert!(!key.check(2 * WINDOW, &"peer", cookie));
        assert!(!key.check(WINDOW - 1, &"other", cookie));
        assert!(!CookieKey::new([8; 16], 1).check(WINDOW - 1, &"peer", cookie));
    }

    #[test]
    fn random_numbers_depend_on_seed_and_secret() {
        let (mut a, mut b, mut c) =
            (CookieKey::new([7; 16], 1), CookieKey::new([7; 16], 9), CookieKey::new([8; 16], 1));
        let first = a.random();
        assert_ne!(first, a.random());
        assert_ne!(first, b.random());
        assert_ne!(first, c.random());
    }
}
