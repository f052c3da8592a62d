//! Tells the program which compiler built it: instruction counts of another one cannot be compared.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version =
        Command::new(rustc).arg("-V").output().ok().and_then(|out| String::from_utf8(out.stdout).ok());
    println!("cargo::rustc-env=MICRO_RUSTC={}", version.as_deref().unwrap_or("unknown").trim());
}
