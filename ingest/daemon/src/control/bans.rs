//! Bans: what is remembered of them, where it is kept, and how it gets into the policy.
//!
//! [`list`] is what there is to remember, [`text`] how it is written (the same schema on disk, for import and for export),
//! [`mod@file`] keeps it in `bans.json` of the state directory, [`ladder`] decides which failures become a ban, and [`watch`]
//! is the running daemon's part. `bondgate ban` writes the file and the daemon looks at it, as with the keyring.

pub mod file;
pub mod ladder;
pub mod list;
pub mod text;
pub mod watch;

pub use file::BansFile;
pub use list::{BanList, Origin, Record};
pub use watch::BanWatch;
