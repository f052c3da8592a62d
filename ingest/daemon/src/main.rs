//! The bondgate binary.
fn main() {}
