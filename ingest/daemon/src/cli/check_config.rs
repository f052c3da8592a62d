//! `bondgate check-config`: says all that is wrong with a configuration, without starting anything.

use super::args::{CheckConfigArgs, GlobalArgs};
use super::{load, print};
use crate::config;
use crate::exit::Failure;

/// Checks and, if asked, prints the values in force.
///
/// # Errors
/// The configuration is invalid.
pub fn run(args: &CheckConfigArgs, global: &GlobalArgs) -> Result<(), Failure> {
    let file = args.file.clone().or_else(config::find_file);
    let loaded = load(global, file.clone())?;
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    if args.print_effective {
        return print(&config::effective(&loaded.config));
    }
    let name = file.map_or_else(|| "built-in defaults".to_owned(), |path| path.display().to_string());
    let notes = match loaded.warnings.len() {
        0 => String::new(),
        1 => ", 1 warning".to_owned(),
        count => format!(", {count} warnings"),
    };
    print(&format!("{name}: ok{notes}\n"))
}
