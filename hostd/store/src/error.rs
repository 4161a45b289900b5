//! Why the store could not do something.

use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file or folder of it could not be used.
    #[error("Store file {path} cannot be used")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error("Store {path} is in use by another process")]
    Locked {
        /// Its root.
        path: PathBuf,
    },
    /// A newer version of Mote wrote it.
    #[error(
        "Store {path} has schema version {found}, this version of Mote reads up to {supported}; boot the newer one"
    )]
    Schema {
        /// The file that says so.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version understood here.
        supported: u32,
    },
    /// Neither the database nor the export can be read, but there are files: nothing is deleted.
    #[error(
        "Store {path} has files but no readable records ({reason}); restore export.json or wipe the data disk"
    )]
    Lost {
        /// Its root.
        path: PathBuf,
        /// What was wrong with the records.
        reason: String,
    },
}

/// Why a change or a look-up failed. After an error nothing has changed, except with
/// [`StoreError::Unsure`].
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk has no room, the reserve kept free included. Lambda API: 507.
    #[error("No space on the data disk{}, {free} bytes free; delete functions or use a larger disk", needs(*needed))]
    NoSpace {
        /// Bytes needed; 0 if not known.
        needed: u64,
        /// Bytes free for use.
        free: u64,
    },
    /// The disk is mounted read-only, or became so.
    #[error("The data disk is read-only")]
    ReadOnly,
    /// A function of that name exists.
    #[error("Function '{name}' exists already")]
    Exists {
        /// Its name.
        name: String,
    },
    /// No such function or snapshot.
    #[error("{what} '{name}' does not exist")]
    NotFound {
        /// `Function` or `Snapshot`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The function was changed since the caller looked.
    #[error("Function '{name}' has been changed meanwhile; read it again and repeat the change")]
    Conflict {
        /// Its name.
        name: String,
    },
    /// The snapshot was made with code the function no longer has.
    #[error("Snapshot of function '{name}' was made with older code")]
    Stale {
        /// The function's name.
        name: String,
    },
    /// What was staged cannot be taken over.
    #[error("Staged {path} cannot be stored: {reason}")]
    Staged {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file could not be read or written.
    #[error("Store file {path} failed")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A write failed in a way that leaves open whether the change will be found on disk. The store takes no
    /// further changes until it is opened again, which settles it.
    #[error("The data disk failed in the middle of a change; changes are refused until hostd restarts")]
    Unsure,
    /// A record does not have the form it should have.
    #[error("Record '{key}' cannot be understood")]
    Record {
        /// Table and key.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

fn needs(bytes: u64) -> String {
    if bytes == 0 { String::new() } else { format!(": {bytes} bytes needed") }
}

impl StoreError {
    /// Sorts an I/O error into full disk, read-only disk and the rest.
    pub(crate) fn io(path: &Path, source: impl Into<std::io::Error>) -> Self {
        let source = source.into();
        match Errno::from_io_error(&source) {
            Some(Errno::NOSPC | Errno::DQUOT) => Self::NoSpace { needed: 0, free: 0 },
            Some(Errno::ROFS) => Self::ReadOnly,
            _ => Self::Io { path: path.to_owned(), source },
        }
    }
}
