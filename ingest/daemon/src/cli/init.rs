//! `bondgate init`: writes a first configuration and says what to paste where.

use super::args::InitArgs;
use crate::exit::Failure;

/// Not here yet.
///
/// # Errors
/// Always.
pub fn run(_args: &InitArgs) -> Result<(), Failure> {
    Err(Failure::runtime("init: not built into this version yet"))
}
