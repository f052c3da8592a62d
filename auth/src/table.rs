//! What packet cores know about devices: derived keys and rules, never a device's secret.
//!
//! Compiled from the keyring whenever that changes, immutable afterwards, shared by all shards.

use crate::sa1::keys::{DeviceKey, Keyring};
use crate::sa1::{KeyId, StreamBind};
use std::collections::HashMap;
use std::sync::Arc;

/// What a device may do. Shared by its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRules {
    /// Its name, for people.
    pub name: Box<str>,
    /// Its owner; empty without tenants.
    pub tenant: Box<str>,
    /// Streams it may publish; empty: any of its tenant.
    pub streams: Vec<Box<str>>,
    /// The bindings of these streams, in the same order.
    pub binds: Vec<StreamBind>,
    /// Groups it may have at once.
    pub groups_max: u16,
    /// Links one of its groups may have.
    pub links_max: u16,
}

impl DeviceRules {
    /// Whether a registration may be bound like this.
    pub fn allows_bind(&self, bind: &StreamBind) -> bool {
        *bind == StreamBind::ANY || self.binds.is_empty() || self.binds.contains(bind)
    }
}

/// One valid key.
#[derive(Debug)]
pub struct KeyEntry {
    /// The derived keys and their standing.
    pub key: DeviceKey,
    /// What its device may do.
    pub rules: Arc<DeviceRules>,
    /// Its number in the table, `0..len`, for figures kept per key.
    pub slot: u32,
}

/// The valid keys by ID.
#[derive(Debug, Default)]
pub struct KeyTable {
    keys: HashMap<KeyId, KeyEntry>,
}

impl KeyTable {
    /// A table of these keys. A key ID that comes twice keeps the first.
    pub fn new(keys: impl IntoIterator<Item = (KeyId, DeviceKey, Arc<DeviceRules>)>) -> Self {
        let mut table = Self::default();
        for (id, key, rules) in keys {
            let slot = table.keys.len() as u32;
            table.keys.entry(id).or_insert(KeyEntry { key, rules, slot });
        }
        table
    }

    /// What is known of a key; `None` when it is unknown, revoked, or its device is disabled.
    pub fn entry(&self, id: &KeyId) -> Option<&KeyEntry> {
        self.keys.get(id)
    }

    /// How many keys are valid.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// No device can register.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

impl Keyring for KeyTable {
    fn device(&self, key_id: KeyId) -> Option<&DeviceKey> {
        self.entry(&key_id).map(|entry| &entry.key)
    }
}
