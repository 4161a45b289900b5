//! What is stored: the typed records.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A deployed function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionRecord {
    /// Its name, the key.
    pub name: String,
    /// What its owner configured.
    pub config: FunctionConfig,
    /// Its code.
    pub code: CodeRecord,
    /// Changes with every change of the record.
    pub revision_id: Uuid,
    /// When it was last changed, in milliseconds since 1970 UTC.
    pub last_modified_unix_ms: u64,
}

/// What the owner of a function configures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionConfig {
    /// Such as `python3.11`.
    pub runtime: String,
    /// Such as `app.handler`.
    pub handler: String,
    /// Role ARN as given; not interpreted.
    pub role: String,
    /// Free text.
    pub description: String,
    /// Memory of its microVM, in MiB.
    pub memory_mb: u32,
    /// Limit of one call, in seconds.
    pub timeout_s: u32,
    /// Writable layer, in MiB.
    pub storage_mb: u32,
    /// Environment variables.
    pub environment: BTreeMap<String, String>,
    /// Such as `["x86_64"]`.
    pub architectures: Vec<String>,
    /// `Zip`.
    pub package_type: String,
    /// Tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Calls at once: so many are kept for it, and it has no more.
    #[serde(default)]
    pub reserved_concurrency: Option<u32>,
    /// Sandboxes of it that are always there.
    #[serde(default)]
    pub provisioned_concurrency: Option<u32>,
    /// When that was last changed, in milliseconds since 1970 UTC.
    #[serde(default)]
    pub provisioned_unix_ms: u64,
}

/// Where the code of a function is, and what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeRecord {
    /// SHA-256 of the uploaded zip, standard base64.
    pub sha256_base64: String,
    /// Bytes of the uploaded zip.
    pub zip_size: u64,
    /// File name of the image under `images/`; unique, never reused.
    pub image: String,
    /// Bytes of the image.
    pub image_size: u64,
    /// Bytes of the files in it.
    pub unpacked_size: u64,
}

/// New code for a function: a staged image and what is known of it.
#[derive(Debug)]
pub struct NewCode {
    /// The image, fully written.
    pub image: crate::StagedFile,
    /// SHA-256 of the uploaded zip, standard base64.
    pub sha256_base64: String,
    /// Bytes of the uploaded zip.
    pub zip_size: u64,
    /// Bytes of the files in the image.
    pub unpacked_size: u64,
}

/// A snapshot of a function's microVM. There is at most one for a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// The function it is of, the key.
    pub function: String,
    /// The code image it was made with ([`CodeRecord::image`]).
    pub code_image: String,
    /// Digest of everything a snapshot depends on, as its maker defines it.
    pub fingerprint: String,
    /// Folder name under `snapshots/`; unique, never reused.
    pub dir: String,
    /// Checksum of the memory file, as the monitor gives it.
    pub memory_checksum: String,
    /// Its files: name and length in bytes (holes included).
    pub files: BTreeMap<String, u64>,
    /// Bytes it takes on disk (holes not included).
    pub stored_bytes: u64,
    /// When it was made, in milliseconds since 1970 UTC.
    pub created_unix_ms: u64,
    /// Whether it may be restored.
    pub state: SnapshotState,
    /// At which point of the function's life it was taken.
    #[serde(default)]
    pub kind: SnapshotKind,
    /// What was made for its quick restore; nothing before a call was recorded.
    #[serde(default)]
    pub paging: Option<PagingRecord>,
    /// What it is layered over: its files hold only what differs.
    #[serde(default)]
    pub base: Option<BaseRef>,
}

impl SnapshotRecord {
    /// The same, to be made again: its files are of no use.
    pub(crate) fn given_up(self) -> Self {
        Self { state: SnapshotState::Rebuild, stored_bytes: 0, ..self }
    }
}

/// Names a base as it was when something was layered over it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseRef {
    /// Name of the base.
    pub name: String,
    /// Its folder then: another one, another base.
    pub dir: String,
}

/// A snapshot of a microVM before any function; see [`SnapshotRecord`] for what the fields have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseRecord {
    /// Its name, the key, as its maker chooses it.
    pub name: String,
    /// Digest of everything it depends on.
    pub fingerprint: String,
    /// Folder name under `snapshots/`; unique, never reused.
    pub dir: String,
    /// Checksum of the memory file.
    pub memory_checksum: String,
    /// Its files: name and length in bytes.
    pub files: BTreeMap<String, u64>,
    /// Bytes it takes on disk.
    pub stored_bytes: u64,
    /// When it was made, in milliseconds since 1970 UTC.
    pub created_unix_ms: u64,
}

impl BaseRecord {
    /// What snapshots over it note.
    pub fn reference(&self) -> BaseRef {
        BaseRef { name: self.name.clone(), dir: self.dir.clone() }
    }
}

/// What the maker of a base says of it; see [`BaseRecord`] for the fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewBase {
    /// Its name.
    pub name: String,
    /// Digest of everything it depends on.
    pub fingerprint: String,
    /// Checksum of the memory file.
    pub memory_checksum: String,
}

/// At which point of a function's life a snapshot was taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotKind {
    /// Initialised, no call served.
    #[default]
    Init,
    /// After a call.
    Warm,
}

/// Figures of the files made for a quick restore, in pages and regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PagingRecord {
    /// Pages of the memory that are not zero.
    pub non_zero_pages: u64,
    /// Pages the recorded call used.
    pub working_set_pages: u64,
    /// Of these the ones that are not zero.
    pub loading_set_pages: u64,
    /// Pages of the loading-set file.
    pub loading_pages: u64,
    /// Regions it is mapped in.
    pub loading_regions: u64,
    /// Regions of the memory file.
    pub non_zero_regions: u64,
}

/// Whether a snapshot may be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotState {
    /// Its files are there and whole as far as is known.
    Sound,
    /// Its files are gone or bad: boot cold and make it again.
    Rebuild,
}

/// What the maker of a snapshot says of it; see [`SnapshotRecord`] for the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewSnapshot {
    /// The function it is of.
    pub function: String,
    /// The code image it was made with.
    pub code_image: String,
    /// Digest of everything it depends on.
    pub fingerprint: String,
    /// Checksum of the memory file.
    pub memory_checksum: String,
    /// When it was taken.
    pub kind: SnapshotKind,
    /// What was made for its quick restore.
    pub paging: Option<PagingRecord>,
    /// What it is layered over.
    pub base: Option<BaseRef>,
}
