//! What can be said on the command line.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};

use super::net::NetArgument;
use crate::machine::Drive;
use crate::memory::restore::RestoreMode;

/// Sectors of 512 bytes in a MiB.
const SECTORS_PER_MIB: u64 = 2048;

/// Least and most guest memory in MiB.
const MEMORY_MIB: std::ops::RangeInclusive<i64> = 16..=1024 * 1024;

/// Runs one microVM on KVM.
#[derive(Debug, Parser)]
#[command(name = "mote-monitor", version)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Boot a kernel.
    Boot(Boot),
    /// Go on where a snapshot was taken.
    Restore(Restore),
    /// Prepare what all microVMs have in common, then wait to be told which to be.
    ///
    /// Once the virtual machine and its vCPUs are made, the control socket says `{"event":"blank",…}`. It then takes
    /// one request, `{"op":"start","arguments":["restore","--snapshot","…"]}`: the arguments of `boot` or `restore`
    /// without `--control`, no more than 64 KiB in all. The queue of a network device is passed along with the request
    /// (SCM_RIGHTS) and named fd:1. From there on this is the monitor which those arguments would have started: what it
    /// says next is `running`, or `exited` and why. The end of the control socket ends it at any time.
    Blank(Blank),
    /// Pause a running monitor's microVM and write it to a folder.
    Snapshot {
        /// Control socket of the monitor.
        #[arg(long)]
        control: PathBuf,
        /// Folder for the files `state` and `memory`.
        #[arg(long)]
        out: PathBuf,
        /// Have both files on the disk before this ends.
        #[arg(long)]
        sync: bool,
        /// Let the microVM go on afterwards.
        #[arg(long)]
        resume: bool,
    },
    /// Command a running monitor.
    Ctl {
        /// Control socket of the monitor.
        #[arg(long)]
        control: PathBuf,
        /// What to do.
        #[arg(value_enum)]
        operation: Operation,
    },
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum Operation {
    Pause,
    Resume,
    Status,
    Quit,
}

#[derive(Debug, Args)]
pub(super) struct Boot {
    /// Kernel: an ELF vmlinux with a PVH entry point, or a bzImage.
    #[arg(long)]
    pub(super) kernel: PathBuf,
    /// Image of the root file system (the first drive, /dev/vda), read-only unless it ends in `:rw`.
    #[arg(long)]
    pub(super) rootfs: Option<DriveArgument>,
    /// Image of a further drive, `:ro` (default) or `:rw` behind it; `:ro:MIB` shows it to the guest with that size,
    /// zeros behind the file's end.
    #[arg(long = "drive")]
    pub(super) drives: Vec<DriveArgument>,
    /// Memory in MiB.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(MEMORY_MIB))]
    pub(super) mem: u32,
    /// Number of vCPUs.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub(super) vcpus: u8,
    /// Words appended to the kernel's command line; they win over the monitor's own.
    #[arg(long, default_value = "")]
    pub(super) cmdline: String,
    /// The guest's vsock address.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(3..))]
    pub(super) cid: u32,
    #[command(flatten)]
    pub(super) common: Common,
}

#[derive(Debug, Args)]
pub(super) struct Restore {
    /// Folder of the snapshot.
    #[arg(long)]
    pub(super) snapshot: PathBuf,
    /// How memory is brought back.
    #[arg(long, value_enum, default_value_t = RestoreMode::Lazy)]
    pub(super) mode: RestoreMode,
    /// Folder of the snapshot this one is layered over. Its own folder: snapshots made from it are layered over it.
    #[arg(long)]
    pub(super) base: Option<PathBuf>,
    /// Record which pages the guest touches: the next snapshot also gets a file `touched`.
    #[arg(long)]
    pub(super) record: bool,
    /// Do not fill page tables in bulk (mode faasnap).
    #[arg(long)]
    pub(super) no_populate: bool,
    /// Do not ask for large pages where memory is anonymous (modes regions and faasnap).
    #[arg(long)]
    pub(super) no_large_pages: bool,
    /// `INDEX=FILE`: use another file for a drive than the recorded one.
    #[arg(long = "drive")]
    pub(super) drives: Vec<Replacement>,
    #[command(flatten)]
    pub(super) common: Common,
}

#[derive(Debug, Args)]
pub(super) struct Blank {
    /// Control socket: `fd:N` of a connected one.
    #[arg(long, value_name = "fd:N", value_parser = connected)]
    pub(super) control: i32,
    /// Number of vCPUs. It can only become a microVM with as many.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub(super) vcpus: u8,
    /// Folder of a control group to go into before anything else.
    #[arg(long)]
    pub(super) cgroup: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Common {
    /// Unix socket for the guest's vsock: a path to listen on, or `fd:N` of a listening one.
    #[arg(long)]
    pub(super) vsock: Option<Endpoint>,
    /// With `--vsock fd:N`: the path whose `_PORT` siblings the guest's own connections go to.
    #[arg(long)]
    pub(super) vsock_path: Option<PathBuf>,
    /// Network device. `fd:N,v4=ADDRESS,v6=ADDRESS`: its link is N, the inherited queue of a TAP device whose frames
    /// are behind a header of 12 bytes; the guest may send from these addresses only. `detached`: its link is down.
    /// Either may be followed by `,mac=02:6d:6f:74:65:00` and `,mtu=1500`, which are the defaults, the first also by
    /// limits per second: `,tx-bytes=N`, `,tx-packets=N` (from the guest), `,rx-bytes=N`, `,rx-packets=N` (to it).
    /// Default: `boot` makes no device; `restore` detaches the one the snapshot has. A restored guest keeps its MTU.
    #[arg(long, value_name = "LINK")]
    pub(super) net: Option<NetArgument>,
    /// Control socket: a path to listen on, or `fd:N` of a connected one whose end ends the monitor.
    #[arg(long)]
    pub(super) control: Option<Endpoint>,
    /// Console log: a file (first and last 64 KiB are kept), or `-` for this terminal. Default: nowhere.
    #[arg(long)]
    pub(super) serial: Option<PathBuf>,
    /// Folder of a control group to go into before anything else.
    #[arg(long)]
    pub(super) cgroup: Option<PathBuf>,
    /// Print to standard error where the time of the set-up went.
    #[arg(long)]
    pub(super) timings: bool,
}

/// A path, or an inherited descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Path(PathBuf),
    Descriptor(i32),
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("fd:") {
            None => Ok(Self::Path(text.into())),
            Some(number) => match number.parse() {
                Ok(number) if number >= 0 => Ok(Self::Descriptor(number)),
                _ => Err(format!("{number} is not the number of a descriptor")),
            },
        }
    }
}

fn connected(text: &str) -> Result<i32, String> {
    match text.parse()? {
        Endpoint::Descriptor(fd) => Ok(fd),
        Endpoint::Path(_) => Err("expected fd:N of a connected socket".to_owned()),
    }
}

/// `FILE[:ro|:rw][:MIB]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DriveArgument(pub(super) Drive);

impl FromStr for DriveArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (text, sectors) = match text.rsplit_once(':') {
            Some((rest, size)) if rest.ends_with(":ro") && size.bytes().all(|byte| byte.is_ascii_digit()) => {
                let mib: u32 = size.parse().map_err(|_| format!("'{size}' MiB are no size of a drive"))?;
                (rest, Some(u64::from(mib) * SECTORS_PER_MIB))
            }
            _ => (text, None),
        };
        let (path, read_only) = match text.rsplit_once(':') {
            Some((path, "ro")) => (path, true),
            Some((path, "rw")) => (path, false),
            _ => (text, true),
        };
        if path.is_empty() {
            return Err("a drive needs a file".to_owned());
        }
        Ok(Self(Drive { path: path.into(), read_only, sectors }))
    }
}

/// `INDEX=FILE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Replacement(pub(super) usize, pub(super) PathBuf);

impl FromStr for Replacement {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=').map(|(index, path)| (index.parse(), path)) {
            Some((Ok(index), path)) if !path.is_empty() => Ok(Self(index, path.into())),
            _ => Err("expected INDEX=FILE, as in 0=root.img".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn drives_are_read_only_unless_said_otherwise() {
        let parse = |text: &str| text.parse::<DriveArgument>().map(|drive| drive.0);
        let drive = |path: &str, read_only| Ok(Drive { path: path.into(), read_only, sectors: None });
        assert_eq!(parse("a:ro:3"), Ok(Drive { path: "a".into(), read_only: true, sectors: Some(6144) }));
        assert_eq!(parse("a:3"), drive("a:3", true));
        assert!(parse("a:ro:99999999999").is_err());
        assert_eq!(parse("a.img"), drive("a.img", true));
        assert_eq!(parse("a:b.img"), drive("a:b.img", true));
        assert_eq!(parse("a.img:ro"), drive("a.img", true));
        assert_eq!(parse("a.img:rw"), drive("a.img", false));
        assert!(parse(":rw").is_err());
        assert_eq!("1=x=y".parse(), Ok(Replacement(1, "x=y".into())));
        assert!("x".parse::<Replacement>().is_err());
    }

    #[test]
    fn endpoints_are_paths_or_descriptors() {
        assert_eq!("fd:3".parse(), Ok(Endpoint::Descriptor(3)));
        assert_eq!("/run/fd:3".parse(), Ok(Endpoint::Path("/run/fd:3".into())));
        assert!("fd:-1".parse::<Endpoint>().is_err());
        assert!("fd:x".parse::<Endpoint>().is_err());
    }

    #[test]
    fn limits_hold() {
        let parse = |args: &str| Arguments::try_parse_from(args.split(' ')).is_ok();
        assert!(parse("m boot --kernel k --rootfs r --mem 128 --vcpus 2 --vsock v --control fd:4"));
        assert!(!parse("m boot --kernel k --mem 8"));
        assert!(!parse("m boot --kernel k --vcpus 33"));
        assert!(!parse("m boot --kernel k --cid 2"));
        assert!(parse("m restore --snapshot d --mode lazy --drive 1=f"));
        assert!(!parse("m restore --snapshot d --mode magic"));
        assert!(parse("m blank --control fd:0 --vcpus 2 --cgroup /g"));
        assert!(!parse("m blank --control path"));
        assert!(!parse("m blank --vcpus 2"));
        assert!(!parse("m blank --control fd:0 --vcpus 33"));
    }
}
