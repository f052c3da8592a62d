//! `bondgate key`: rotates, revokes and lists the keys of devices, and rotates the gate key.

use std::time::Duration;

use bondgate_auth::keyring::{Keyring, KeyringError, from_hex};
use serde_json::{Value, json};

use super::args::GlobalArgs;
use super::device::{devices, key_table};
use super::keyring_args::{KeyArgs, KeyCommand, KeyringArgs, RotateArgs, TAKEN_UP};
use super::present::{self, document};
use super::print;
use crate::exit::Failure;
use crate::policy::wall_ms;
use crate::service::random;

/// Does what the subcommand says.
///
/// # Errors
/// The keyring cannot be read or written, or refuses.
pub fn run(args: &KeyArgs, global: &GlobalArgs) -> Result<(), Failure> {
    let keyring = &args.keyring;
    match &args.command {
        KeyCommand::Rotate(rotate) => match &rotate.name {
            Some(name) => rotate_device(name, rotate, keyring, global),
            None => rotate_gate(rotate, keyring, global),
        },
        KeyCommand::Revoke { what } => revoke(what, keyring, global),
        KeyCommand::List => list(keyring, global),
    }
}

fn rotate_device(
    name: &str,
    args: &RotateArgs,
    common: &KeyringArgs,
    global: &GlobalArgs,
) -> Result<(), Failure> {
    let (config, file) = common.open(global)?;
    let secret = random::<40>()?;
    let grace_ms = u64::try_from(args.grace.as_millis()).unwrap_or(u64::MAX);
    let provision = file.update(|keyring| -> anyhow::Result<_> {
        keyring.device(name)?;
        let server = args.provision.server(&config, keyring)?;
        Ok(keyring.rotate(name, &server, &secret, wall_ms(), grace_ms)?)
    })?;
    present::provision(&provision, &args.provision, common.json)?;
    if args.grace == Duration::ZERO {
        eprintln!("The key that {name} had has ended; {TAKEN_UP}.");
    } else {
        let until = present::utc(wall_ms().saturating_add(grace_ms));
        eprintln!("The key that {name} had stays good until {until} UTC; {TAKEN_UP}.");
    }
    Ok(())
}

fn rotate_gate(args: &RotateArgs, common: &KeyringArgs, global: &GlobalArgs) -> Result<(), Failure> {
    let (_, file) = common.open(global)?;
    let key = random::<16>()?;
    let rotation = file.update(|keyring| keyring.rotate_gate(key, wall_ms(), args.force))?;
    if common.json {
        print(&document(&json!({
            "gate_epoch": rotation.epoch,
            "behind": rotation.behind,
            "locked_out": rotation.locked_out,
        })))?;
    }
    eprintln!("The gate key of epoch {} is in force; {TAKEN_UP}.", rotation.epoch);
    if !rotation.behind.is_empty() {
        eprintln!(
            "These devices hold the one before, which stays good until the next --gate; `bondgate key rotate NAME` gives \
             them the new one: {}",
            rotation.behind.join(", ")
        );
    }
    if !rotation.locked_out.is_empty() {
        eprintln!(
            "warning: met with silence from now on, until `bondgate key rotate NAME`: {}",
            rotation.locked_out.join(", ")
        );
    }
    Ok(())
}

fn revoke(what: &str, common: &KeyringArgs, global: &GlobalArgs) -> Result<(), Failure> {
    let (_, file) = common.open(global)?;
    let now_ms = wall_ms();
    let done = file.update(|keyring| -> Result<_, KeyringError> {
        match from_hex(what) {
            Some(id) if keyring.device(what).is_err() => {
                keyring.revoke(&id, now_ms).map(|device| (device, 1))
            }
            _ => keyring.revoke_all(what, now_ms).map(|ended| (what.to_owned(), ended)),
        }
    });
    let (device, ended) = done?;
    if common.json {
        print(&document(&json!({ "device": device, "keys_revoked": ended })))?;
    }
    let keys = if ended == 1 { "1 key".to_owned() } else { format!("{ended} keys") };
    eprintln!("{keys} of device {device} revoked: what streams with it is cut; {TAKEN_UP}");
    Ok(())
}

fn list(common: &KeyringArgs, global: &GlobalArgs) -> Result<(), Failure> {
    let (_, file) = common.open(global)?;
    let keyring = file.load()?;
    let now_ms = wall_ms();
    let devices = devices(keyring.as_ref());
    let gate = keyring.as_ref().map(Keyring::gate_epochs);
    let behind = keyring.as_ref().map(|keyring| keyring.behind_gate(now_ms)).unwrap_or_default();
    if common.json {
        let keys: Vec<Value> = devices
            .iter()
            .flat_map(|device| device.keys.iter().map(move |key| (device, key)))
            .map(|(device, key)| {
                let mut value = present::key_json(key, now_ms);
                value["device"] = json!(device.name);
                value
            })
            .collect();
        return print(&document(&json!({
            "keys": keys,
            "gate_epoch": gate.map(|(epoch, _)| epoch),
            "gate_epoch_before": gate.and_then(|(_, before)| before),
            "devices_behind_gate": behind,
        })));
    }
    print(&key_table(devices, now_ms))?;
    if let Some((epoch, before)) = gate {
        let before = before.map(|before| format!(", and {before} is still accepted")).unwrap_or_default();
        eprintln!("gate key: epoch {epoch}{before}");
    }
    if !behind.is_empty() {
        eprintln!("devices with an older gate key: {}", behind.join(", "));
    }
    Ok(())
}
