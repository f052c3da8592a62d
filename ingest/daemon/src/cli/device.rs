//! `bondgate device`: enrolls, lists, shows, disables, enables and removes devices.

use bondgate_auth::keyring::{Device, Keyring, KeyringError, NewDevice, key_id_text};
use serde_json::{Value, json};

use super::args::GlobalArgs;
use super::keyring_args::{DeviceArgs, DeviceCommand, EnrollArgs, KeyringArgs, TAKEN_UP};
use super::present::{self, document, table, utc};
use super::print;
use crate::control::keyring_file::KeyringFile;
use crate::exit::Failure;
use crate::policy::wall_ms;
use crate::service::random;

/// Does what the subcommand says.
///
/// # Errors
/// The keyring cannot be read or written, or refuses.
pub fn run(args: &DeviceArgs, global: &GlobalArgs) -> Result<(), Failure> {
    let keyring = &args.keyring;
    match &args.command {
        DeviceCommand::Enroll(enroll) => self::enroll(enroll, keyring, global),
        DeviceCommand::List => list(keyring, global),
        DeviceCommand::Show { name } => show(name, keyring, global),
        DeviceCommand::Disable { name } => {
            let (_, file) = keyring.open(global)?;
            file.update(|keyring| keyring.set_enabled(name, false))?;
            eprintln!("device {name} is disabled: it cannot register, and its groups end; {TAKEN_UP}");
            Ok(())
        }
        DeviceCommand::Enable { name } => {
            let (_, file) = keyring.open(global)?;
            file.update(|keyring| keyring.set_enabled(name, true))?;
            eprintln!("device {name} is enabled; {TAKEN_UP}");
            Ok(())
        }
        DeviceCommand::Remove { name } => {
            let (_, file) = keyring.open(global)?;
            file.update(|keyring| keyring.remove(name))?;
            eprintln!("device {name} and its keys are gone; {TAKEN_UP}");
            Ok(())
        }
    }
}

fn enroll(args: &EnrollArgs, common: &KeyringArgs, global: &GlobalArgs) -> Result<(), Failure> {
    let (config, file) = common.open(global)?;
    let is_first = !file.path().exists();
    let secret = random::<40>()?;
    let new = NewDevice {
        tenant: args.tenant.clone().unwrap_or_default(),
        streams: args.streams.clone(),
        clockless: args.clockless,
        ..NewDevice::named(&args.name)
    };
    let provision = file.update(|keyring| -> anyhow::Result<_> {
        let server = args.provision.server(&config, keyring)?;
        Ok(keyring.enroll(new, &server, &secret, wall_ms())?)
    })?;
    present::provision(&provision, &args.provision, common.json)?;
    eprintln!("Device {} is enrolled; {TAKEN_UP}.", args.name);
    if is_first {
        warn_of_weak_seal(&file);
    }
    Ok(())
}

/// Says so when the seal key was just put beside the keyring.
pub fn warn_of_weak_seal(file: &KeyringFile) {
    if let Some(warning) = file.warning() {
        eprintln!("warning: {warning}");
    }
}

/// Devices without a keyring: none.
pub fn devices(keyring: Option<&Keyring>) -> &[Device] {
    keyring.map_or(&[], Keyring::devices)
}

fn state(device: &Device) -> &'static str {
    if device.enabled { "enabled" } else { "disabled" }
}

fn valid_keys(device: &Device, now_ms: u64) -> usize {
    device.keys.iter().filter(|key| key.is_valid(now_ms)).count()
}

fn list(common: &KeyringArgs, global: &GlobalArgs) -> Result<(), Failure> {
    let (_, file) = common.open(global)?;
    let keyring = file.load()?;
    let now_ms = wall_ms();
    let devices = devices(keyring.as_ref());
    if common.json {
        let devices: Vec<Value> = devices.iter().map(|device| to_json(device, now_ms)).collect();
        return print(&document(&json!({ "devices": devices })));
    }
    if devices.is_empty() {
        eprintln!("no device is enrolled; `bondgate device enroll NAME` makes one");
    }
    let rows = devices.iter().map(|device| {
        [
            device.name.clone(),
            device.tenant.clone(),
            if device.streams.is_empty() { "any".to_owned() } else { device.streams.join(",") },
            state(device).to_owned(),
            valid_keys(device, now_ms).to_string(),
            utc(device.created_ms),
        ]
    });
    print(&table(["NAME", "TENANT", "STREAMS", "STATE", "KEYS", "ENROLLED (UTC)"], rows))
}

fn show(name: &str, common: &KeyringArgs, global: &GlobalArgs) -> Result<(), Failure> {
    let (_, file) = common.open(global)?;
    let keyring = file.load()?;
    let nobody = || Failure::runtime(KeyringError::NoDevice(name.to_owned()).to_string());
    let keyring = keyring.ok_or_else(nobody)?;
    let device = keyring.device(name).map_err(|error| Failure::runtime(error.to_string()))?;
    let now_ms = wall_ms();
    if common.json {
        return print(&document(&to_json(device, now_ms)));
    }
    let streams = if device.streams.is_empty() { "any".to_owned() } else { device.streams.join(", ") };
    let tenant = if device.tenant.is_empty() { "-" } else { &device.tenant };
    let head = format!(
        "name      {}\ntenant    {tenant}\nstreams   {streams}\nstate     {}\nclock     {}\nlimits    {} groups of {} \
         links\nenrolled  {} UTC\n\n",
        device.name,
        state(device),
        if device.clockless { "not needed" } else { "needed" },
        device.groups_max,
        device.links_max,
        utc(device.created_ms),
    );
    print(&(head + &key_table(std::slice::from_ref(device), now_ms)))
}

/// All keys of some devices.
pub fn key_table(devices: &[Device], now_ms: u64) -> String {
    let keys = devices.iter().flat_map(|device| device.keys.iter().map(move |key| (device, key)));
    let rows = keys.map(|(device, key)| {
        [
            key_id_text(&key.id),
            device.name.clone(),
            key.standing(now_ms).name().to_owned(),
            utc(key.created_ms),
            present::key_until_ms(key).map(utc).unwrap_or_default(),
            key.gate_epoch.to_string(),
        ]
    });
    table(["KEY", "DEVICE", "STATE", "CREATED (UTC)", "UNTIL (UTC)", "GATE"], rows)
}

fn to_json(device: &Device, now_ms: u64) -> Value {
    let keys: Vec<Value> = device.keys.iter().map(|key| present::key_json(key, now_ms)).collect();
    json!({
        "name": device.name,
        "tenant": device.tenant,
        "streams": device.streams,
        "enabled": device.enabled,
        "clockless": device.clockless,
        "groups_max": device.groups_max,
        "links_max": device.links_max,
        "created_ms": device.created_ms,
        "keys": keys,
    })
}
