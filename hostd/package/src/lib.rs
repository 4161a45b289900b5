//! Turns an uploaded code package into a read-only file system image.
//!
//! [`build`] checks every entry of a zip and streams the tree into a squashfs image; [`check_python_handler`]
//! says whether such an image holds the module a handler names. Nothing is ever unpacked to disk.

mod archive;
mod error;
mod handler;
mod image;
mod limits;
mod path;
mod tree;
mod unpack;

use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest as _, Sha256};

pub use error::{EntryProblem, PackageError};
pub use handler::{HandlerError, check_python_handler};
pub use limits::Limits;
use tree::{Node, Tree};

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
/// The same zip always gives the same image: sorted, owned by root, readable by all, executable where the zip
/// says so, times as in the zip. Memory beyond the zip itself is some MiB at most, whatever the unpacked size.
/// `out` must not exist; on an error it is removed again. Nothing is fsynced: the store does that when it takes
/// the file. Blocking, CPU-bound.
pub fn build(zip: &[u8], out: &Path, limits: &Limits) -> Result<PackageInfo, PackageError> {
    let code_size = u64::try_from(zip.len()).unwrap_or(u64::MAX);
    if code_size > limits.zip_bytes {
        return Err(PackageError::ZipTooLarge { size: code_size, limit: limits.zip_bytes });
    }
    let tree = Tree::new(archive::read(zip, limits)?, limits)?;
    let image_size = image::write(&tree, out)?;
    let mut unpacked_size = 0;
    let mut entries = 0;
    for (_, node, _) in tree.nodes() {
        entries += 1;
        if let Node::File { data, .. } = node {
            unpacked_size += data.size;
        }
    }
    let code_sha256_base64 = BASE64_STANDARD.encode(Sha256::digest(zip));
    Ok(PackageInfo { code_sha256_base64, code_size, image_size, unpacked_size, entries })
}
