//! FaaSnap: how a snapshot's memory is recorded, laid out and loaded (Ao, "FaaSnap", dissertation chapter 5).
//!
//! ```text
//! clean snapshot ── restore, first call ──┬─ Recorder: host pages in order of appearance ─> WorkingSet
//!                                         └─ warm snapshot: `memory`, `touched`
//! WorkingSet ∩ non-zero pages ─ merged, sorted by (group, address) ─> Layout ─> `layout`, `loading`, `working`
//! restore: anonymous base ← `memory` for non-zero regions ← `loading` for the loading set;  Loader reads `loading`
//! ```
//!
//! Everything that decides is pure ([`pages`], [`working_set`], [`regions`], [`layout`]); [`record`], [`build`],
//! [`load`] and [`cache`] talk to the kernel.

pub mod build;
pub mod cache;
pub mod checksum;
pub mod layout;
pub mod load;
mod map;
pub mod pages;
pub mod record;
pub mod regions;
pub mod source;
pub mod working_set;
pub mod zero;

pub use build::{BuildError, BuildOptions, Built, build};
pub use layout::{Layout, LayoutError};
pub use load::{LoadError, Loaded, Loader, Plan};
pub use record::{RecordError, Recorder};
pub use source::Source;
pub use working_set::WorkingSet;

/// Size of a page in bytes, to count with in memory.
pub(crate) const PAGE_BYTES: usize = 4096;

/// Size of a page in bytes.
pub const PAGE_SIZE: u64 = PAGE_BYTES as u64;

/// Guest memory: a sparse file as large as the guest's memory, zero pages as holes.
pub const MEMORY_FILE: &str = "memory";
/// The table of regions.
pub const LAYOUT_FILE: &str = "layout";
/// The loading set, compact, in the order it is wanted.
pub const LOADING_FILE: &str = "loading";
/// The pages the guest itself touched, compact: what REAP prefetches.
pub const WORKING_FILE: &str = "working";
/// Runs of pages a layered snapshot has from its base, written by the monitor beside `memory`.
pub const INHERITED_FILE: &str = "inherited";
/// Runs of pages the guest touched since it was restored, written by the monitor beside `memory`.
pub const TOUCHED_FILE: &str = "touched";
/// Of these the runs it wrote to.
pub const WRITTEN_FILE: &str = "written";
