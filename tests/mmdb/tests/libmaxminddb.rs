//! What the writer writes, read by libmaxminddb's `mmdblookup`. Without it the test shows as ignored.
#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing fails, as it should")]

use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::Command;

use bondgate_mmdb::{Database, Metadata};
use libtest_mimic::{Arguments, Failed, Trial};

fn agrees(record_size: u16) -> Result<(), Failed> {
    let mut database = Database::new(Metadata::country(6, record_size));
    database.insert_country(Ipv4Addr::new(203, 0, 113, 0), 24, "DE");
    database.insert_country(Ipv4Addr::new(203, 0, 113, 64), 26, "FR");
    database.insert_country("2001:db8::".parse::<Ipv6Addr>()?, 32, "US");
    database.alias_v4();
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("countries.mmdb");
    std::fs::write(&file, database.write().bytes)?;
    for (addr, expected) in [
        ("203.0.113.1", Some("DE")),
        ("203.0.113.65", Some("FR")),
        ("::ffff:203.0.113.65", Some("FR")),
        ("2001:db8:1::", Some("US")),
        ("192.0.2.1", None),
        ("2001:db9::", None),
    ] {
        let output = Command::new("mmdblookup")
            .arg("--file")
            .arg(&file)
            .args(["--ip", addr, "country", "iso_code"])
            .output()?;
        let said = String::from_utf8(output.stdout)?;
        let found = said.split('"').nth(1);
        if found != expected || output.status.success() != expected.is_some() {
            let errors = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{addr}: {expected:?} expected, mmdblookup says {said:?} {errors:?}").into());
        }
    }
    Ok(())
}

fn main() {
    let arguments = Arguments::from_args();
    let missing = Command::new("mmdblookup").arg("--version").output().is_err();
    if missing {
        eprintln!("SKIPPED libmaxminddb: mmdblookup not installed (package mmdb-bin)");
    }
    let trials = [24, 28, 32].map(|record_size| {
        Trial::test(format!("records_of_{record_size}_bits"), move || agrees(record_size))
            .with_ignored_flag(missing)
    });
    libtest_mimic::run(&arguments, trials.into()).exit();
}
