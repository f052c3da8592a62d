//! Devices, keys and tokens as their operator keeps them: the one place that knows a device's secret after it was handed
//! out. Packet cores get what [`Keyring::compile`] derives from it.
//!
//! Pure: time (milliseconds since 1970), randomness and bytes are arguments. Promises:
//!
//! * A secret leaves the keyring once, in the [`Provision`] of [`Keyring::enroll`] or [`Keyring::rotate`]; tokens are
//!   kept as hashes only. No `Debug` shows one.
//! * A device has at most two valid keys: the one in use, and the one before for a while.
//! * A gate key that an enabled device depends on is not dropped unless asked for twice.
//! * Every change counts [`Keyring::generation`] up.
//!
//! [`text`] are the forms people copy, [`name`] what may be called how, [`Keyring::seal`] and [`Keyring::open`] the form
//! on disk.

mod device;
mod error;
pub mod name;
mod sealed;
pub mod text;
mod uri;

pub use device::{Device, Key, KeyStanding, KeyState, NewDevice, NewToken, Token};
pub use error::KeyringError;
pub use sealed::SealError;
pub use uri::{Provision, ProvisionError, check_server, key_id_text};

use crate::sa1::keys::{DeviceKey, DeviceKeys, GateKey, GateKeys};
use crate::sa1::{KeyId, ListenerId, StreamBind, take};
use crate::stream::{TokenHash, TokenId, TokenRule};
use crate::table::{DeviceRules, KeyTable};
use device::{GateSecret, Secret};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// Devices a keyring can hold.
pub const DEVICES_MAX: usize = 100_000;
/// Tokens a keyring can hold.
pub const TOKENS_MAX: usize = 100_000;
/// Ended keys that are remembered per device, for `key list`.
const ENDED_KEYS_MAX: usize = 8;

/// See the module's text. Contains secrets.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keyring {
    #[serde(with = "device::hexed")]
    instance: KeyId,
    /// Part of the listener ID, and therefore the same for ever once a device was enrolled.
    public_name: String,
    /// Where devices were last told to find us.
    server: String,
    generation: u64,
    gate: GateSecret,
    gate_before: Option<GateSecret>,
    tenants: BTreeSet<String>,
    devices: Vec<Device>,
    tokens: Vec<Token>,
}

/// What a rotation of the gate key means for devices.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GateRotation {
    /// The epoch of the new gate key.
    pub epoch: u32,
    /// Enabled devices that hold the key before it, which goes on working until the next rotation.
    pub behind: Vec<String>,
    /// Enabled devices that are met with silence from now on, because theirs was dropped.
    pub locked_out: Vec<String>,
}

impl Keyring {
    /// A keyring without devices: 8 random bytes name this installation, 16 are its first gate key.
    pub fn new(instance: KeyId, gate: [u8; 16], now_ms: u64) -> Self {
        Self {
            instance,
            public_name: String::new(),
            server: String::new(),
            generation: 0,
            gate: GateSecret::new(1, gate, now_ms),
            gate_before: None,
            tenants: BTreeSet::new(),
            devices: Vec::new(),
            tokens: Vec::new(),
        }
    }

    /// Counts changes.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Where devices were last told to find us, `HOST:PORT`; empty before the first one was enrolled.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// What devices know this receiver by.
    pub fn listener(&self) -> ListenerId {
        ListenerId::of(&self.public_name, &self.instance)
    }

    /// All devices, in the order in which they were enrolled.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// One device.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn device(&self, name: &str) -> Result<&Device, KeyringError> {
        let found = self.devices.iter().find(|device| device.name == name);
        found.ok_or_else(|| KeyringError::NoDevice(name.to_owned()))
    }

    /// All tokens, in the order in which they were created.
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// All tenants there ever were.
    pub fn tenants(&self) -> impl Iterator<Item = &str> {
        self.tenants.iter().map(String::as_str)
    }

    /// Enrolls a device with a first key. `random` gives its key ID (8 bytes) and secret (32); `server` is where it will
    /// find us, `HOST:PORT`. Streams of a tenant are named `TENANT/...`; the tenant's name is put before those that lack it.
    ///
    /// # Errors
    /// The name is taken or impossible, a stream is another tenant's, the keyring is full.
    pub fn enroll(
        &mut self,
        new: NewDevice,
        server: &str,
        random: &[u8; 40],
        now_ms: u64,
    ) -> Result<Provision, KeyringError> {
        check_server(server).map_err(KeyringError::Server)?;
        let device = Device::new(new, now_ms)?;
        if self.devices.iter().any(|known| known.name == device.name) {
            return Err(KeyringError::DeviceExists(device.name));
        }
        if self.devices.len() >= DEVICES_MAX {
            return Err(KeyringError::Full { what: "devices", max: DEVICES_MAX });
        }
        self.check_tenancy(&device)?;
        let key = self.new_key(random, now_ms)?;
        if self.public_name.is_empty() {
            server.clone_into(&mut self.public_name);
        }
        if !device.tenant.is_empty() {
            self.tenants.insert(device.tenant.clone());
        }
        self.devices.push(Device { keys: vec![key], ..device });
        self.provision(self.devices.len() - 1, server)
    }

    /// Gives a device a new key. The one in use stays good for `grace_ms`; of three valid keys the oldest ends at once.
    ///
    /// # Errors
    /// No such device, or no `HOST:PORT`.
    pub fn rotate(
        &mut self,
        name: &str,
        server: &str,
        random: &[u8; 40],
        now_ms: u64,
        grace_ms: u64,
    ) -> Result<Provision, KeyringError> {
        check_server(server).map_err(KeyringError::Server)?;
        let at = self.position(name)?;
        let key = self.new_key(random, now_ms)?;
        let device = &mut self.devices[at];
        for old in &mut device.keys {
            match old.state {
                KeyState::Active if grace_ms == 0 => old.end(now_ms),
                KeyState::Active => {
                    old.state = KeyState::Retiring { until_ms: now_ms.saturating_add(grace_ms) };
                }
                KeyState::Retiring { until_ms } if until_ms <= now_ms => old.end(until_ms),
                KeyState::Retiring { .. } | KeyState::Revoked { .. } => {}
            }
        }
        device.keys.push(key);
        let valid = device.keys.iter().filter(|key| key.is_valid(now_ms)).count();
        let surplus = valid.saturating_sub(2);
        device
            .keys
            .iter_mut()
            .filter(|key| key.is_valid(now_ms))
            .take(surplus)
            .for_each(|key| key.end(now_ms));
        let ended = device.keys.iter().filter(|key| key.secret.is_none()).count();
        let mut forget = ended.saturating_sub(ENDED_KEYS_MAX);
        device.keys.retain(|key| {
            let drop = forget > 0 && key.secret.is_none();
            forget -= usize::from(drop);
            !drop
        });
        self.provision(at, server)
    }

    /// Ends one key at once, and forgets its secret. Returns its device's name.
    ///
    /// # Errors
    /// No device has such a key that has not ended before.
    pub fn revoke(&mut self, id: &KeyId, now_ms: u64) -> Result<String, KeyringError> {
        for device in &mut self.devices {
            if let Some(key) = device.keys.iter_mut().find(|key| key.id == *id && key.secret.is_some()) {
                key.end(now_ms);
                self.generation += 1;
                return Ok(device.name.clone());
            }
        }
        Err(KeyringError::NoKey(key_id_text(id)))
    }

    /// Ends all keys of a device at once. Returns how many there were.
    ///
    /// # Errors
    /// No such device.
    pub fn revoke_all(&mut self, name: &str, now_ms: u64) -> Result<usize, KeyringError> {
        let at = self.position(name)?;
        let mut ended = 0;
        for key in self.devices[at].keys.iter_mut().filter(|key| key.secret.is_some()) {
            key.end(now_ms);
            ended += 1;
        }
        self.generation += 1;
        Ok(ended)
    }

    /// Lets a device register, or not. Its keys stay as they are.
    ///
    /// # Errors
    /// No such device.
    pub fn set_enabled(&mut self, name: &str, enabled: bool) -> Result<(), KeyringError> {
        let at = self.position(name)?;
        self.devices[at].enabled = enabled;
        self.generation += 1;
        Ok(())
    }

    /// Forgets a device and its keys.
    ///
    /// # Errors
    /// No such device.
    pub fn remove(&mut self, name: &str) -> Result<(), KeyringError> {
        let at = self.position(name)?;
        self.devices.remove(at);
        self.generation += 1;
        Ok(())
    }

    /// Makes a new gate key, which is what devices are given from now on. The one before stays good; the one before that is
    /// dropped. Devices get gate keys by URI only, so automatic rotation would lock them out.
    ///
    /// # Errors
    /// Enabled devices hold the one that would be dropped, and `force` is not set.
    pub fn rotate_gate(
        &mut self,
        random: [u8; 16],
        now_ms: u64,
        force: bool,
    ) -> Result<GateRotation, KeyringError> {
        let locked_out = self.holders(now_ms, |epoch| epoch < self.gate.epoch);
        if !locked_out.is_empty() && !force {
            return Err(KeyringError::GateHeld(locked_out));
        }
        let mut behind = self.holders(now_ms, |epoch| epoch == self.gate.epoch);
        behind.retain(|name| !locked_out.contains(name));
        let next = GateSecret::new(self.gate.epoch + 1, random, now_ms);
        self.gate_before = Some(std::mem::replace(&mut self.gate, next));
        self.generation += 1;
        Ok(GateRotation { epoch: self.gate.epoch, behind, locked_out })
    }

    /// Enabled devices with a valid key that was given out with an older gate key than the newest.
    pub fn behind_gate(&self, now_ms: u64) -> Vec<String> {
        self.holders(now_ms, |epoch| epoch < self.gate.epoch)
    }

    /// The epoch of the newest gate key and, if there was one, of the key before, which is still good.
    pub fn gate_epochs(&self) -> (u32, Option<u32>) {
        (self.gate.epoch, self.gate_before.as_ref().map(|gate| gate.epoch))
    }

    /// The gate keys a receiver accepts.
    pub fn gate_keys(&self) -> GateKeys {
        let key = |gate: &GateSecret| GateKey::new(gate.epoch, gate.key.bytes());
        match &self.gate_before {
            Some(before) => GateKeys::new(key(before)).rotate(key(&self.gate)),
            None => GateKeys::new(key(&self.gate)),
        }
    }

    /// Makes a token of 20 random bytes and returns its text. Secret; only its hash is kept.
    ///
    /// # Errors
    /// The stream's name is impossible, or the keyring is full.
    pub fn create_token(
        &mut self,
        new: NewToken,
        random: &[u8; 20],
        now_ms: u64,
    ) -> Result<String, KeyringError> {
        name::check_stream(&new.stream)?;
        if self.tokens.len() >= TOKENS_MAX {
            return Err(KeyringError::Full { what: "tokens", max: TOKENS_MAX });
        }
        let hash = TokenHash::of(random);
        if self.tokens.iter().any(|token| token.id() == hash.id()) {
            return Err(KeyringError::Random);
        }
        self.tokens.push(Token::new(new, hash, now_ms));
        self.generation += 1;
        Ok(text::encode(text::Kind::StreamToken, random))
    }

    /// Ends a token at once.
    ///
    /// # Errors
    /// No such token.
    pub fn revoke_token(&mut self, id: TokenId) -> Result<Token, KeyringError> {
        let at = self.tokens.iter().position(|token| token.id() == id).ok_or(KeyringError::NoToken(id))?;
        self.generation += 1;
        Ok(self.tokens.remove(at))
    }

    /// Notes that a token for one caller was used. `false` when it is unknown or was noted before.
    pub fn spend_token(&mut self, id: TokenId, now_ms: u64) -> bool {
        let unspent = |token: &&mut Token| token.id() == id && token.once && token.spent_ms.is_none();
        let Some(token) = self.tokens.iter_mut().find(unspent) else { return false };
        token.spent_ms = Some(now_ms);
        self.generation += 1;
        true
    }

    /// Forgets tokens that have expired or are spent. Returns them.
    pub fn prune_tokens(&mut self, now_ms: u64) -> Vec<Token> {
        let (useless, good) =
            std::mem::take(&mut self.tokens).into_iter().partition(|token| !token.is_good(now_ms));
        self.tokens = good;
        let useless: Vec<Token> = useless;
        self.generation += u64::from(!useless.is_empty());
        useless
    }

    /// The tokens as [`crate::stream::StreamPolicy`] takes them.
    pub fn token_rules(&self) -> impl Iterator<Item = TokenRule> {
        self.tokens.iter().map(Token::rule)
    }

    /// What packet cores need to know: derived keys and rules. Keys whose grace is over are in it, as expired, so that
    /// their devices can be told; revoked keys and those of disabled devices are not.
    pub fn compile(&self, wall_ms: u64) -> KeyTable {
        KeyTable::new(self.devices.iter().filter(|device| device.enabled).flat_map(|device| {
            let rules = Arc::new(DeviceRules {
                name: device.name.as_str().into(),
                tenant: device.tenant.as_str().into(),
                streams: device.streams.iter().map(|stream| stream.as_str().into()).collect(),
                binds: device.streams.iter().map(|stream| StreamBind::of(&device.tenant, stream)).collect(),
                groups_max: device.groups_max,
                links_max: device.links_max,
            });
            device.keys.iter().filter_map(move |key| {
                let derived = DeviceKey {
                    keys: DeviceKeys::derive(key.secret.as_ref()?.bytes()),
                    standing: key.sa1_standing(wall_ms)?,
                    clockless_allowed: device.clockless,
                };
                Some((key.id, derived, Arc::clone(&rules)))
            })
        }))
    }

    /// When [`Keyring::compile`] will next give something else although nothing was changed: the end of a grace.
    pub fn next_change_ms(&self, wall_ms: u64) -> Option<u64> {
        let ends = self.devices.iter().flat_map(|device| &device.keys).filter_map(|key| match key.state {
            KeyState::Retiring { until_ms } => Some(until_ms),
            KeyState::Active | KeyState::Revoked { .. } => None,
        });
        ends.filter(|until_ms| *until_ms > wall_ms).min()
    }

    fn position(&self, name: &str) -> Result<usize, KeyringError> {
        let at = self.devices.iter().position(|device| device.name == name);
        at.ok_or_else(|| KeyringError::NoDevice(name.to_owned()))
    }

    /// Enabled devices with a valid key that came with a gate key of such an epoch.
    fn holders(&self, now_ms: u64, such: impl Fn(u32) -> bool) -> Vec<String> {
        let holds = |device: &&Device| {
            device.enabled && device.keys.iter().any(|key| key.is_valid(now_ms) && such(key.gate_epoch))
        };
        self.devices.iter().filter(holds).map(|device| device.name.clone()).collect()
    }

    /// A device without a tenant must not get a tenant's stream, and a new tenant not a name under which there are streams.
    fn check_tenancy(&self, device: &Device) -> Result<(), KeyringError> {
        if device.tenant.is_empty() {
            for stream in &device.streams {
                if let Some(tenant) = name::tenant_of(stream).filter(|tenant| self.tenants.contains(*tenant))
                {
                    return Err(KeyringError::StreamOfTenant {
                        stream: stream.clone(),
                        tenant: tenant.to_owned(),
                    });
                }
            }
        } else if !self.tenants.contains(&device.tenant) {
            for other in self.devices.iter().filter(|other| other.tenant.is_empty()) {
                let under = |stream: &&String| name::tenant_of(stream) == Some(&device.tenant);
                if let Some(stream) = other.streams.iter().find(under) {
                    return Err(KeyringError::TenantOverStream {
                        tenant: device.tenant.clone(),
                        stream: stream.clone(),
                        device: other.name.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    fn new_key(&self, random: &[u8; 40], now_ms: u64) -> Result<Key, KeyringError> {
        let id: KeyId = take(random, 0);
        if self.devices.iter().flat_map(|device| &device.keys).any(|key| key.id == id) {
            return Err(KeyringError::Random);
        }
        Ok(Key {
            id,
            secret: Some(Secret::new(take(random, 8))),
            created_ms: now_ms,
            state: KeyState::Active,
            gate_epoch: self.gate.epoch,
        })
    }

    /// The newest key of a device, on its way out.
    fn provision(&mut self, at: usize, server: &str) -> Result<Provision, KeyringError> {
        self.generation += 1;
        server.clone_into(&mut self.server);
        let device = &self.devices[at];
        let key = device.keys.last().ok_or(KeyringError::Random)?;
        let secret = key.secret.as_ref().ok_or(KeyringError::Random)?;
        Ok(Provision {
            server: server.to_owned(),
            device: device.name.clone(),
            tenant: device.tenant.clone(),
            stream: match device.streams.as_slice() {
                [only] => only.clone(),
                _ => String::new(),
            },
            key_id: key.id,
            secret: *secret.bytes(),
            gate: Some((self.gate.epoch, *self.gate.key.bytes())),
            listener: self.listener(),
        })
    }

    /// What reading from disk must show besides its seal.
    fn check(&self) -> Result<(), String> {
        let mut names = HashSet::new();
        let mut ids = HashSet::new();
        for device in &self.devices {
            device.check()?;
            if !names.insert(&device.name) {
                return Err(format!("device {} is there twice", device.name));
            }
            if device.keys.iter().any(|key| !ids.insert(key.id)) {
                return Err(format!("a key of device {} is there twice", device.name));
            }
        }
        Ok(())
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

/// The bytes of hexadecimal digits, upper or lower case.
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair.iter().fold(0, |byte, digit| byte << 4 | digit);
    }
    Some(bytes)
}
