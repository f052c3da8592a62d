//! `bondgate completions` and `bondgate man`: what packagers generate from the command line's own definition.

use clap::CommandFactory;

use super::args::{Cli, CompletionsArgs, ManArgs};
use super::print;
use crate::exit::Failure;

/// Prints the completion script of a shell.
///
/// # Errors
/// stdout cannot be written.
pub fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "bondgate", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// Prints bondgate(1), or writes the pages of all subcommands.
///
/// # Errors
/// stdout or the directory cannot be written.
pub fn man(args: &ManArgs) -> Result<(), Failure> {
    if let Some(dir) = &args.dir {
        return std::fs::create_dir_all(dir)
            .and_then(|()| clap_mangen::generate_to(Cli::command(), dir))
            .map_err(|error| {
                Failure::runtime(format!("{}: cannot write manual pages: {error}", dir.display()))
            });
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    print(&String::from_utf8_lossy(&page))
}
