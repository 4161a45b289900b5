//! What a package may be at most.

/// Limits a package is held to; [`Limits::default`] is Lambda's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the zip itself.
    pub zip_bytes: u64,
    /// Sum of the unpacked sizes of all files, in bytes.
    pub unpacked_bytes: u64,
    /// Files, links and folders, the implied folders included.
    pub entries: u32,
    /// Bytes of a path from the root of the package.
    pub path_bytes: usize,
    /// Bytes of one component of a path.
    pub name_bytes: usize,
    /// Folders above an entry.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            zip_bytes: 50 << 20,
            unpacked_bytes: 250 << 20,
            entries: 65_535,
            path_bytes: 1024,
            name_bytes: 255,
            depth: 64,
        }
    }
}
