//! `bondgate version`.

use super::args::VersionArgs;
use super::print;
use crate::exit::Failure;

/// Prints version and target.
///
/// # Errors
/// stdout cannot be written.
pub fn run(args: &VersionArgs) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    if args.json {
        let object = serde_json::json!({ "name": "bondgate", "version": version, "os": os, "arch": arch });
        print(&format!("{object}\n"))
    } else {
        print(&format!("bondgate {version} ({arch}-{os})\n"))
    }
}
