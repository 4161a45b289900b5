//! Records of crashes: what init notes, and hostd shows.
//!
//! A folder with a file for each, JSON, written beside and renamed, so that a power cut leaves the old state or the
//! new one. Bounded in number and size: the oldest of a kind go, those of other kinds stay. A crash like the one
//! before it, soon after it, is counted there: a service that ends again and again leaves room for what matters.

mod folder;
mod record;

pub use folder::{Folder, FolderError, MOST_PER_KIND};
pub use record::{Crash, Id, Kind, MOST_TEXT, Summary};
