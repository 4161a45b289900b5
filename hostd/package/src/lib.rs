//! Turns an uploaded code package into a read-only file system image.
//!
//! [`build`] checks every entry of a zip and streams the tree into a squashfs image; [`check_python_handler`]
//! says whether such an image holds the module a handler names. Nothing is ever unpacked to disk.

mod error;
mod handler;
mod limits;

use std::path::Path;

pub use error::PackageError;
pub use handler::{HandlerError, check_python_handler};
pub use limits::Limits;

/// What was made of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageInfo {
    /// SHA-256 of the zip's bytes in standard base64: Lambda's `CodeSha256`.
    pub code_sha256_base64: String,
    /// Bytes of the zip: Lambda's `CodeSize`.
    pub code_size: u64,
    /// Bytes of the image.
    pub image_size: u64,
    /// Sum of the sizes of the files in it, in bytes.
    pub unpacked_size: u64,
    /// Files, links and folders in the image, without its root.
    pub entries: u32,
}

/// Checks the zip in `zip` against `limits` and writes it as a squashfs image to the new file `out`.
///
/// The same zip always gives the same image. Memory beyond the zip itself stays below a few MiB, whatever the
/// unpacked size. `out` must not exist; on an error it is removed again. Nothing is fsynced: the store does
/// that when it takes the file. Blocking, CPU-bound.
pub fn build(zip: &[u8], out: &Path, limits: &Limits) -> Result<PackageInfo, PackageError> {
    let _ = (zip, out, limits);
    Err(PackageError::NotZip { reason: "Not built yet".into() })
}
