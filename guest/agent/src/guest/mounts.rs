//! The file systems of a sandbox: the runtime image read-only below, a bounded tmpfs above, the code beside.
//!
//! All but the code, and the bound, are there before the function is known. What is mounted later is seen by a
//! process that was started before: it shares the mount namespace, and pivoting moves its root along.

use std::ffi::CString;
use std::fs::{self, DirBuilder, File, Permissions, set_permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::ioctl::{NoArg, Opcode, ioctl, opcode};
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
];

/// The function's code.
const DRIVE: &str = "/dev/vdb";
const TASK: &str = "/var/task";
const TASK_KIND: &str = "squashfs";

/// `BLKFLSBUF`.
const FLUSH: Opcode = opcode::none(0x12, 97);

/// One of the folders that lie on the tmpfs, in the new root, and how it is mounted there.
const WRITABLE: (&str, MountFlags) = ("/tmp", MountFlags::NOSUID);

/// The bound until the function is known, MiB. Nobody writes then, but a bound cannot be set where there was none.
const UNBOUND: u32 = 1;

/// Links that programs expect: name in the new root, target. What an image has in their place goes.
const LINKS: &[(&str, &str)] = &[
    ("dev/fd", "/proc/self/fd"),
    ("dev/stdin", "/proc/self/fd/0"),
    ("dev/stdout", "/proc/self/fd/1"),
    ("dev/stderr", "/proc/self/fd/2"),
    ("etc/resolv.conf", super::network::RESOLVER),
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
    /// The new bound on what is written.
    #[error("Cannot bound {0} to {1} MiB")]
    Bound(PathBuf, u32, #[source] Errno),
    /// The code's drive does not open.
    #[error("Cannot open {0}")]
    Drive(PathBuf, #[source] std::io::Error),
    /// What was read of another drive could not be dropped.
    #[error("Cannot drop what was read of {0}")]
    Flush(PathBuf, #[source] Errno),
    /// The change of root.
    #[error("Cannot make {0} the root")]
    Pivot(PathBuf, #[source] Errno),
}

/// What may be written, MiB: what is written lies in memory, and a function that fills more than half of that
/// had better hear of a full disk than be killed.
fn bound(storage_mb: u32, memory_mb: u32) -> u32 {
    storage_mb.min(memory_mb / 2).max(1)
}

/// Makes all of them but the code.
pub fn make() -> Result<(), MountError> {
    let stage = Path::new(STAGE);
    let root = stage.join("root");
    attach("tmpfs", stage, "tmpfs", MountFlags::NOSUID, &format!("size={UNBOUND}m,mode=0755"))?;
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
        // There is none, mostly.
        let _ = fs::remove_file(&link);
        symlink(target, &link).map_err(|e| MountError::Link(link, e))?;
    }
    enter(&root).map_err(|e| MountError::Pivot(root, e))
}

/// Mounts the code; from here on everything writable together holds [`bound`] MiB.
pub fn admit(storage_mb: u32, memory_mb: u32) -> Result<(), MountError> {
    let size = bound(storage_mb, memory_mb);
    let (folder, flags) = WRITABLE;
    let failed = |error| MountError::Bound(folder.into(), size, error);
    let options = CString::new(format!("size={size}m")).map_err(|_| failed(Errno::INVAL))?;
    // Not `BIND`: the size is the file system's, not this mount's.
    rustix::mount::mount_remount(folder, flags, options.as_c_str()).map_err(failed)?;
    forget(Path::new(DRIVE))?;
    attach(DRIVE, Path::new(TASK), TASK_KIND, CODE, "")
}

/// Drops what the kernel read of a drive: another file may be behind it than when the snapshot was taken.
fn forget(drive: &Path) -> Result<(), MountError> {
    let opened = File::open(drive).map_err(|e| MountError::Drive(drive.into(), e))?;
    // SAFETY: BLKFLSBUF takes no argument, and drops clean blocks only.
    unsafe { ioctl(&opened, NoArg::<FLUSH>::new()) }.map_err(|e| MountError::Flush(drive.into(), e))
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
    fn only_a_drive_is_forgotten() {
        // BLKFLSBUF = _IO(0x12, 97).
        assert_eq!(FLUSH, 0x1261);
        assert!(matches!(forget(Path::new("/nonexistent")), Err(MountError::Drive(..))));
        assert!(matches!(forget(Path::new("/dev/null")), Err(MountError::Flush(..))));
    }

    #[test]
    fn what_is_written_leaves_room_to_run() {
        assert_eq!(bound(64, 256), 64);
        assert_eq!(bound(512, 256), 128);
        // A size of 0 would mean no bound at all.
        assert_eq!((bound(0, 256), bound(512, 1)), (1, 1));
    }
}
