//! What `mote.toml` means: the keys there are, the layers they come from, and what is wrong with them. Pure: files,
//! partitions and the cloud's metadata are read by others.
//!
//! ```text
//!  built in < configuration partition < kernel command line < user data < API        later ones win, key by key
//!      └────────────── Source ──> schema::Schema::read ──> Entries ──┐
//!                                                                    ├──> resolve() ──> Resolved
//!                                   check::all ──> Mistakes ─────────┘
//! ```
//!
//! A layer something is wrong with is left out as a whole and says why, with file, line and column; the others are used.
//! Only how the machine is reached ([`Key::reach`]) is kept of it, if that part is sound: a mistyped number elsewhere must
//! not take away the address at which the mistake is told. init and hostd resolve the same sources and so agree.

pub mod check;
pub mod keys;
pub mod kind;
pub mod layer;
pub mod machine;
pub mod mistake;
mod options;
pub mod place;
pub mod reference;
pub mod resolve;
pub mod schema;
mod shapes;
mod show;

pub use keys::KEYS;
pub use kind::{Field, Key, Kind, Shape};
pub use layer::{Content, Layer, Source, Sources};
pub use machine::{Interface, Machine, Metadata, Ntp, Update};
pub use mistake::{Mistake, Where};
pub use resolve::{Rejected, Resolved, Setting, check_built_in, resolve, resolve_with};
pub use schema::{Entries, Schema};

/// The built-in configuration: every key with its default.
pub const BUILT_IN: &str = include_str!("../../../config/mote.toml");

/// Name of the built-in configuration in messages.
pub const BUILT_IN_NAME: &str = "config/mote.toml";

/// Where init leaves the layers it found, as [`Sources`] in TOML. They may hold secrets: only root may read the file, and
/// it belongs into no bundle.
pub const SOURCES_PATH: &str = "/run/mote/layers.toml";

/// Where the API's layer is, below the data disk's mount point.
pub const API_FILE: &str = "config/mote.toml";

/// Most bytes of one layer's text.
pub const MAX_TEXT: usize = 256 << 10;
