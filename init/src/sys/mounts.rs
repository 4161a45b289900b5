//! The mount table, as data, and the root file system it stands on.

use std::ffi::CString;
use std::io;
use std::path::Path;

use rustix::fs::{Mode, symlink};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_move};

/// One mount of the table.
#[derive(Debug)]
pub struct Mount {
    /// Kind of file system; also given as its source.
    pub kind: &'static str,
    /// Where.
    pub target: &'static str,
    /// Flags.
    pub flags: MountFlags,
    /// Options of the file system.
    pub options: &'static str,
    /// Whether the appliance can do without.
    pub needed: bool,
}

const NOSUID: MountFlags = MountFlags::NOSUID;
const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);
const BARE: MountFlags = PLAIN.union(MountFlags::NOEXEC);

/// In the order they are mounted.
#[rustfmt::skip]
pub const TABLE: &[Mount] = &[
    Mount { kind: "proc",     target: "/proc",          flags: BARE,   options: "hidepid=invisible",                 needed: true },
    Mount { kind: "sysfs",    target: "/sys",           flags: BARE,   options: "",                                  needed: true },
    Mount { kind: "devtmpfs", target: "/dev",           flags: NOSUID, options: "mode=0755,size=4m",                 needed: true },
    Mount { kind: "devpts",   target: "/dev/pts",       flags: NOSUID, options: "ptmxmode=0666,mode=0620,gid=5",     needed: false },
    Mount { kind: "tmpfs",    target: "/dev/shm",       flags: BARE,   options: "mode=1777,size=10%",                needed: false },
    Mount { kind: "tmpfs",    target: "/run",           flags: PLAIN,  options: "mode=0755,size=20%",                needed: true },
    Mount { kind: "tmpfs",    target: "/tmp",           flags: PLAIN,  options: "mode=1777,size=20%",                needed: true },
    Mount { kind: "cgroup2",  target: "/sys/fs/cgroup", flags: BARE,   options: "nsdelegate,memory_recursiveprot",   needed: true },
    Mount { kind: "bpf",      target: "/sys/fs/bpf",    flags: BARE,   options: "mode=0700",                         needed: false },
    Mount { kind: "pstore",   target: "/sys/fs/pstore", flags: BARE,   options: "",                                  needed: false },
    Mount { kind: "securityfs", target: "/sys/kernel/security", flags: BARE, options: "",                            needed: false },
];

/// Folders of the root file system that are no mount points of the table.
const FOLDERS: &[&str] = &["/etc", "/system", "/data", "/var", "/root"];

/// Links every program expects.
const LINKS: &[(&str, &str)] = &[
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("/run", "/var/run"),
    ("/tmp", "/var/tmp"),
];

/// A mount that did not work.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The mount point could not be made.
    #[error("Cannot make folder {path}")]
    Folder {
        /// The folder.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused the mount.
    #[error("Cannot mount {kind} on {target}")]
    Mount {
        /// Kind of file system.
        kind: String,
        /// Mount point.
        target: String,
        /// Why.
        source: Errno,
    },
    /// The new root could not be entered.
    #[error("Cannot change to the new root {path}")]
    Root {
        /// Where it is mounted.
        path: String,
        /// Why.
        source: Errno,
    },
}

/// Leaves the kernel's initial root for a tmpfs of bounded size. Nothing can be pivoted away from the
/// initial root, which jails need, and it has no size limit.
pub fn change_root() -> Result<(), MountError> {
    let new = "/.root";
    make_folder(new)?;
    mount_one("tmpfs", new, PLAIN, "mode=0755,size=16m")?;
    let step = |source| MountError::Root { path: new.to_owned(), source };
    rustix::process::chdir(new).map_err(step)?;
    mount_move(".", "/").map_err(step)?;
    rustix::process::chroot(".").map_err(step)?;
    rustix::process::chdir("/").map_err(step)
}

/// Mounts the table; returns what could be done without and did not work.
pub fn mount_table() -> Result<Vec<MountError>, MountError> {
    let mut missing = Vec::new();
    for entry in TABLE {
        let done = make_folder(entry.target)
            .and_then(|()| mount_one(entry.kind, entry.target, entry.flags, entry.options));
        match done {
            Err(error) if entry.needed => return Err(error),
            Err(error) => missing.push(error),
            Ok(()) => {}
        }
    }
    for folder in FOLDERS {
        make_folder(folder)?;
    }
    for (target, link) in LINKS {
        // There already: fine. Impossible: whoever needs it will say so.
        let _ = symlink(*target, *link);
    }
    Ok(missing)
}

/// Mounts a device on a folder, made if need be.
pub fn mount_device(
    device: &Path,
    target: &str,
    kind: &str,
    flags: MountFlags,
    options: &str,
) -> Result<(), MountError> {
    make_folder(target)?;
    let failed = |source| MountError::Mount {
        kind: format!("{} ({kind})", device.display()),
        target: target.to_owned(),
        source,
    };
    let options = CString::new(options).map_err(|_| failed(Errno::INVAL))?;
    mount(device, target, kind, flags, options.as_c_str()).map_err(failed)
}

/// Covers a folder with an empty read-only file system, so that what belongs on a disk is refused instead
/// of being written to memory and lost.
pub fn mount_barrier(target: &str) -> Result<(), MountError> {
    make_folder(target)?;
    mount_one("tmpfs", target, BARE.union(MountFlags::RDONLY), "mode=0755,size=4k")
}

fn mount_one(kind: &str, target: &str, flags: MountFlags, options: &str) -> Result<(), MountError> {
    let failed = |source| MountError::Mount { kind: kind.to_owned(), target: target.to_owned(), source };
    let options = CString::new(options).map_err(|_| failed(Errno::INVAL))?;
    match mount(kind, target, kind, flags, options.as_c_str()) {
        // Somebody (the kernel, for /dev) was here before us.
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(source) => Err(failed(source)),
    }
}

fn make_folder(path: &str) -> Result<(), MountError> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        // A file system without mkdir (sysfs, cgroup2) has the folder or not: the mount will tell.
        Err(_) if Path::new(path).is_dir() => Ok(()),
        Err(errno) => Err(MountError::Folder { path: path.to_owned(), source: errno.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_before_children_and_nothing_twice() {
        for (at, entry) in TABLE.iter().enumerate() {
            let later = TABLE.iter().skip(at + 1);
            for other in later {
                assert_ne!(entry.target, other.target);
                assert!(!entry.target.starts_with(&format!("{}/", other.target)), "{}", entry.target);
            }
        }
    }

    #[test]
    fn everything_in_memory_is_bounded_and_nothing_is_setuid() {
        for entry in TABLE {
            assert!(entry.flags.contains(MountFlags::NOSUID), "{}", entry.target);
            if entry.kind == "tmpfs" || entry.kind == "devtmpfs" {
                assert!(entry.options.contains("size="), "{}", entry.target);
            }
        }
    }
}
