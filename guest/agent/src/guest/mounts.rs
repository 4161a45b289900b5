//! The file systems of a sandbox: the runtime image read-only below, a bounded tmpfs above, the code beside.

use std::ffi::CString;
use std::fs::{DirBuilder, Permissions, set_permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use rustix::process::{chdir, pivot_root};

/// Where the tmpfs is built up before the new root takes over. Every runtime image has this folder.
const STAGE: &str = "/tmp";

/// Folders on the tmpfs: name, mode. `tmp` and `shm` become the function's; all share one bound.
const FOLDERS: &[(&str, u32)] =
    &[("upper", 0o755), ("work", 0o700), ("root", 0o755), ("tmp", 0o1777), ("shm", 0o1777)];

/// One mount in the new root.
struct Entry {
    /// Device, or a folder of the stage for a bind mount.
    source: &'static str,
    /// Below the new root; made if missing.
    target: &'static str,
    /// File system type; empty for a bind mount.
    kind: &'static str,
    flags: MountFlags,
    options: &'static str,
}

const SAFE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
const CODE: MountFlags = MountFlags::RDONLY.union(MountFlags::NOSUID).union(MountFlags::NODEV);

/// In this order, since some lie on others.
const TABLE: &[Entry] = &[
    Entry { source: "proc", target: "proc", kind: "proc", flags: SAFE, options: "" },
    Entry { source: "sysfs", target: "sys", kind: "sysfs", flags: SAFE, options: "" },
    Entry {
        source: "devtmpfs",
        target: "dev",
        kind: "devtmpfs",
        flags: MountFlags::NOSUID,
        options: "mode=0755",
    },
    Entry {
        source: "devpts",
        target: "dev/pts",
        kind: "devpts",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        options: "ptmxmode=0666,mode=0620",
    },
    Entry { source: "shm", target: "dev/shm", kind: "", flags: SAFE, options: "" },
    Entry { source: "tmp", target: "tmp", kind: "", flags: MountFlags::NOSUID, options: "" },
    // The agent's own words to the runtime, out of the bound of what the function writes.
    Entry {
        source: "tmpfs",
        target: "run/mote",
        kind: "tmpfs",
        flags: SAFE,
        options: "size=64k,nr_inodes=16,mode=0755",
    },
    Entry { source: "/dev/vdb", target: "var/task", kind: "squashfs", flags: CODE, options: "" },
];

/// Links that programs expect beside the devices: name in the new root, target.
const LINKS: &[(&str, &str)] = &[
    ("dev/fd", "/proc/self/fd"),
    ("dev/stdin", "/proc/self/fd/0"),
    ("dev/stdout", "/proc/self/fd/1"),
    ("dev/stderr", "/proc/self/fd/2"),
];

/// Which file system could not be had.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A mount point or a folder of the tmpfs.
    #[error("Cannot make the folder {0}")]
    Folder(PathBuf, #[source] std::io::Error),
    /// A link in `/dev`.
    #[error("Cannot make the link {0}")]
    Link(PathBuf, #[source] std::io::Error),
    /// A mount.
    #[error("Cannot mount {source_name} on {target}")]
    Mount {
        /// What.
        source_name: String,
        /// Where.
        target: PathBuf,
        /// Why not.
        #[source]
        error: Errno,
    },
    /// The change of root.
    #[error("Cannot make {0} the root")]
    Pivot(PathBuf, #[source] Errno),
}

/// What may be written, MiB: what is written lies in memory, and a function that fills more than half of that
/// had better hear of a full disk than be killed.
fn bound(storage_mb: u32, memory_mb: u32) -> u32 {
    storage_mb.min(memory_mb / 2).max(1)
}

/// Makes all of them; everything writable together holds [`bound`] MiB.
pub fn make(storage_mb: u32, memory_mb: u32) -> Result<(), MountError> {
    let stage = Path::new(STAGE);
    let root = stage.join("root");
    attach(
        "tmpfs",
        stage,
        "tmpfs",
        MountFlags::NOSUID,
        &format!("size={}m,mode=0755", bound(storage_mb, memory_mb)),
    )?;
    for (name, mode) in FOLDERS {
        let folder = stage.join(name);
        let made = DirBuilder::new().create(&folder);
        // Apart from creation: that is subject to the umask.
        made.and_then(|()| set_permissions(&folder, Permissions::from_mode(*mode)))
            .map_err(|e| MountError::Folder(folder, e))?;
    }
    let layers = format!("lowerdir=/,upperdir={STAGE}/upper,workdir={STAGE}/work");
    attach("overlay", &root, "overlay", MountFlags::NOSUID, &layers)?;
    for entry in TABLE {
        let target = root.join(entry.target);
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&target)
            .map_err(|e| MountError::Folder(target.clone(), e))?;
        if entry.kind.is_empty() {
            bind(&stage.join(entry.source), &target, entry.flags)?;
        } else {
            attach(entry.source, &target, entry.kind, entry.flags, entry.options)?;
        }
    }
    for (name, target) in LINKS {
        let link = root.join(name);
        symlink(target, &link).map_err(|e| MountError::Link(link, e))?;
    }
    enter(&root).map_err(|e| MountError::Pivot(root, e))
}

/// `pivot_root(".", ".")` stacks the old root on the new one's; detaching what is on top leaves the new.
fn enter(root: &Path) -> Result<(), Errno> {
    chdir(root)?;
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")
}

fn attach(
    source: &str,
    target: &Path,
    kind: &str,
    flags: MountFlags,
    options: &str,
) -> Result<(), MountError> {
    let failed = |error| MountError::Mount { source_name: source.to_owned(), target: target.into(), error };
    let options = CString::new(options).map_err(|_| failed(Errno::INVAL))?;
    mount(source, target, kind, flags, options.as_c_str()).map_err(failed)
}

fn bind(source: &Path, target: &Path, flags: MountFlags) -> Result<(), MountError> {
    let failed =
        |error| MountError::Mount { source_name: source.display().to_string(), target: target.into(), error };
    mount_bind(source, target).map_err(failed)?;
    // A bind mount takes flags only in a second step.
    rustix::mount::mount_remount(target, flags | MountFlags::BIND, c"").map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_leaves_room_to_run() {
        assert_eq!(bound(64, 256), 64);
        assert_eq!(bound(512, 256), 128);
        // A size of 0 would mean no bound at all.
        assert_eq!((bound(0, 256), bound(512, 1)), (1, 1));
    }
}
