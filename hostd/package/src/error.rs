//! Why a package was refused.

use std::path::PathBuf;

/// Why [`crate::build`] refused a package. Everything but [`PackageError::is_host_fault`] is the uploader's to
/// change, and the message says how.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// The bytes are no zip, or a damaged one.
    #[error("The package is not a valid zip archive ({reason}); upload a .zip of the code folder's contents")]
    NotZip {
        /// What did not parse.
        reason: String,
    },
    /// The zip itself is too large.
    #[error("The package has {size} bytes, the limit is {limit}; make the zip smaller")]
    ZipTooLarge {
        /// Bytes uploaded.
        size: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The files together are too large.
    #[error(
        "The package unpacks to more than {limit} bytes (passed at entry '{entry}'); \
         leave out what the function does not need"
    )]
    UnpackedTooLarge {
        /// The entry at which the limit was passed.
        entry: String,
        /// Bytes allowed.
        limit: u64,
    },
    /// Not one entry.
    #[error("The package is empty; put the code at the top of the zip")]
    Empty,
    /// Too many entries.
    #[error("The package has more than {limit} files and folders; leave out what the function does not need")]
    TooManyEntries {
        /// Entries allowed.
        limit: u32,
    },
    /// Links through links, too many to follow.
    #[error("The package has too many links through other links; replace links by the files")]
    TooManyLinks,
    /// One entry's name, kind or encoding is not acceptable.
    #[error("Entry '{entry}' of the package {problem}")]
    Entry {
        /// The entry's name, escaped and shortened for display.
        entry: String,
        /// What is wrong and what to change.
        problem: EntryProblem,
    },
    /// The image could not be written.
    #[error("Image {path} could not be written")]
    Output {
        /// The image's path.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The image writer refused the tree.
    #[error("The file system image could not be made: {reason}")]
    Image {
        /// What the writer said.
        reason: String,
    },
}

impl PackageError {
    /// True if the host is at fault (disk full, read-only, …) and not the package.
    pub fn is_host_fault(&self) -> bool {
        matches!(self, Self::Output { .. } | Self::Image { .. })
    }

    /// True if the disk had no room for the image.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Output { source, .. } if source.kind() == std::io::ErrorKind::StorageFull
            || source.kind() == std::io::ErrorKind::QuotaExceeded)
    }
}

/// What is wrong with one entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryProblem {
    /// An absolute path.
    #[error("has an absolute path; store paths relative to the code folder")]
    Absolute,
    /// A `..` component.
    #[error("has '..' in its path; store paths relative to the code folder")]
    ParentDir,
    /// A backslash.
    #[error("has a backslash in its path; separate folders with '/'")]
    Backslash,
    /// A NUL or another control character.
    #[error("has a control character in its path; rename it")]
    ControlCharacter,
    /// No name at all, or an empty component.
    #[error("has an empty name in its path; rename it")]
    EmptyName,
    /// Bytes that are not UTF-8.
    #[error("has a path that is not UTF-8; rename it")]
    NotUtf8,
    /// A path over the limit.
    #[error("has a path of {length} bytes, the limit is {limit}; shorten it")]
    PathTooLong {
        /// Its bytes.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// One component over the limit.
    #[error("has a name of {length} bytes, the limit is {limit}; shorten it")]
    NameTooLong {
        /// Its bytes.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Too many folders deep.
    #[error("is {depth} folders deep, the limit is {limit}; move it up")]
    TooDeep {
        /// Folders above it.
        depth: usize,
        /// Folders allowed.
        limit: usize,
    },
    /// A second entry of the same name.
    #[error("is there twice; keep one of them")]
    Duplicate,
    /// A file where another entry needs a folder, or the reverse.
    #[error("is a file or link where another entry needs a folder; rename one of them")]
    NotAFolder,
    /// A folder (by its name) that has data (by its size).
    #[error("is a folder by its name but has data; make the zip again")]
    FolderWithData,
    /// A link out of the package.
    #[error("is a link to '{target}', outside the package; link only to files inside it, by relative path")]
    LinkLeaves {
        /// Where it points.
        target: String,
    },
    /// A link target which is no path.
    #[error("is a link whose target is empty, over 255 bytes or no path; replace it by the file")]
    LinkTarget,
    /// A device, socket or pipe.
    #[error("is no regular file, folder or link; leave it out")]
    SpecialFile,
    /// Encrypted.
    #[error("is encrypted; make the zip without a password")]
    Encrypted,
    /// A compression other than stored and deflate.
    #[error("uses compression method {method}; use 'deflate' or 'store'")]
    Compression {
        /// The method's number in the zip format.
        method: u16,
    },
    /// Its data do not have the size or checksum it says.
    #[error("is damaged ({what}); make the zip again")]
    Damaged {
        /// What does not fit.
        what: &'static str,
    },
    /// It shares bytes of the zip with another entry.
    #[error("shares its data with another entry, as zip bombs do; make the zip again")]
    Overlap,
}
