//! The data partition: formatted once, checked after an unclean stop, mounted, grown.
//!
//! The decision is pure ([`decide`]); whatever happens ends in a [`Report`], never in an error: a machine
//! without its data still starts and says what is wrong.

mod reset;

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use mote_reset::What;
use rustix::mount::MountFlags;
use serde::Serialize;

use super::blank::{self, Content, MARGIN};
use super::ext4::{self, Superblock};
use super::grow;
use super::label::{self, Partition};
use super::tools::{self, Check};
use crate::service::reap::{Exit, Reaper};
use crate::sys::mounts::mount_device;
use crate::text::chain;

/// Where it is mounted.
pub const TARGET: &str = "/data";

const FLAGS: MountFlags =
    MountFlags::NOATIME.union(MountFlags::NODEV).union(MountFlags::NOSUID).union(MountFlags::NOEXEC);

/// Applications sync what they acknowledge; 5 s bounds the loss of all else. A damaged file system turns
/// read-only at once instead of spreading the damage.
const OPTIONS: &str = "commit=5,errors=remount-ro";

/// Options of mkfs.ext4: the features named, so that they do not depend on a configuration file.
const FORMAT: &[&str] = &[
    "-F",
    "-q",
    "-t",
    "ext4",
    "-L",
    "mote-data",
    "-b",
    "4096",
    "-m",
    "1",
    "-e",
    "remount-ro",
    "-O",
    "has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize",
    "-E",
];

/// The last of them, on a partition that has nothing but zeros.
const ON_ZEROS: &str = "lazy_itable_init=1,lazy_journal_init=1";

/// The same, where an earlier journal may be: nothing of it is to be taken for this one's. What the disk can forget, it was
/// made to forget before.
const ON_REMAINS: &str = "lazy_itable_init=1,lazy_journal_init=0,nodiscard";

/// The state hostd is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Mounted for writing.
    Ok,
    /// No partition.
    #[default]
    Absent,
    /// Mounted for reading only.
    ReadOnly,
    /// There, but not usable.
    Failed,
}

/// What became of the data partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct Report {
    /// Its state.
    pub state: State,
    /// It was formatted now.
    pub formatted: bool,
    /// It was checked now, after an unclean stop.
    pub checked: bool,
    /// For people: what was done and what is wrong.
    pub detail: String,
    /// The device that takes an order to wipe it at the next boot ([`mote_reset`]); empty: none does.
    pub orders: String,
}

/// What a partition needs.
#[derive(Debug, PartialEq, Eq)]
enum Need {
    Format,
    Check,
    Mount,
    MountReadOnly(&'static str),
    Refuse(String),
}

/// What was read from a partition.
#[derive(Debug)]
struct Found {
    size: u64,
    read_only: bool,
    content: Content,
    superblock: Option<Superblock>,
}

fn decide(found: &Found) -> Need {
    let megabytes = found.size >> 20;
    match (found.content, found.superblock) {
        (Content::Blank | Content::HalfFormatted, _) if found.read_only => {
            Need::Refuse("it is blank and the disk is write-protected".to_owned())
        }
        (Content::Blank | Content::HalfFormatted, _) if found.size < blank::SMALLEST => Need::Refuse(
            format!("it is too small: {megabytes} MiB of at least {} MiB", blank::SMALLEST >> 20),
        ),
        (Content::Blank | Content::HalfFormatted, _) => Need::Format,
        (Content::Something, None) => Need::Refuse(
            "it holds something that is not ext4 and is left alone; overwrite its first and last MiB with \
             zeros to have it formatted"
                .to_owned(),
        ),
        (Content::Something, Some(_)) if found.read_only => {
            Need::MountReadOnly("the disk is write-protected")
        }
        (Content::Something, Some(superblock)) if superblock.is_unclean() => Need::Check,
        (Content::Something, Some(_)) => Need::Mount,
    }
}

/// Whether there is a place for an order to wipe it: nothing but the last MiB is written to for that.
fn takes_orders(found: &Found) -> bool {
    !found.read_only && found.size >= blank::SMALLEST && has_tail(found.superblock, found.size)
}

/// Finds the partition and makes it usable. `repair` lets e2fsck do what may lose files; `grow` gives the partition all
/// that is behind it on its disk; `wipe` was chosen in the boot loader's menu.
pub async fn prepare(
    reaper: &Reaper,
    wait: Duration,
    repair: bool,
    grow: bool,
    wipe: Option<What>,
) -> Report {
    let Some(partition) = label::wait_for(label::DATA, wait).await else {
        let detail = format!("no partition is labelled {}", label::DATA);
        return Report { detail, ..Report::default() };
    };
    let mut work =
        Work { reaper, partition: &partition, repair, report: Report::default(), notes: Vec::new() };
    if partition.rivals > 0 {
        work.notes.push(format!("{} more partitions have its label", partition.rivals));
    }
    let order = work.order(wipe).await;
    // An order stands where the partition ends: it grows at the next boot instead.
    if grow && !partition.read_only && order.is_none() {
        work.grow().await;
    }
    let state = match order {
        Some(order) => work.reset(order).await,
        None => work.run().await,
    };
    Report { state, detail: work.notes.join("; "), ..work.report }
}

struct Work<'a> {
    reaper: &'a Reaper,
    partition: &'a Partition,
    repair: bool,
    report: Report,
    notes: Vec<String>,
}

impl Work<'_> {
    async fn run(&mut self) -> State {
        let found = match examine(self.partition).await {
            Ok(found) => found,
            Err(error) => {
                return self.fail(format!("cannot read {}: {error}", self.partition.device.display()));
            }
        };
        if takes_orders(&found) {
            self.report.orders = self.partition.device.display().to_string();
        }
        match decide(&found) {
            Need::Refuse(why) => self.fail(why),
            Need::MountReadOnly(why) => self.mount_read_only(why).await,
            Need::Format => match self.format(found.size, found.content == Content::Blank).await {
                Ok(()) => self.mount().await,
                Err(why) => self.fail(format!("formatting failed: {why}")),
            },
            Need::Check => match self.check().await {
                Ok(()) => self.mount_and_grow(&found).await,
                Err(why) => self.mount_read_only(&why).await,
            },
            Need::Mount => self.mount_and_grow(&found).await,
        }
    }

    /// A failure costs only space.
    async fn grow(&mut self) {
        let partition = self.partition.clone();
        match tokio::task::spawn_blocking(move || grow::grow(&partition)).await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(size))) => self.notes.push(format!("the partition has grown to {} MiB", size >> 20)),
            Ok(Err(error)) => self.notes.push(format!("the partition cannot grow: {}", chain(&error))),
            Err(_) => self.notes.push("growing the partition was interrupted".to_owned()),
        }
    }

    fn fail(&mut self, why: String) -> State {
        self.notes.push(why);
        State::Failed
    }

    /// `zeros`: nothing is there.
    async fn format(&mut self, size: u64, zeros: bool) -> Result<(), String> {
        self.set_note(size, true).await?;
        // In KiB and whole file system blocks.
        let room = format!("{}k", (size - MARGIN) >> 12 << 2);
        let options = [FORMAT, &[if zeros { ON_ZEROS } else { ON_REMAINS }]].concat();
        let outcome = tools::MKFS.run(self.reaper, &options, &self.partition.device, &[&room]).await;
        let outcome = outcome.map_err(|error| chain(&error))?;
        if outcome.exit != Exit::Code(0) {
            return Err(format!("mkfs.ext4: {}: {}", outcome.exit, tools::last_words(&outcome.output)));
        }
        self.set_note(size, false).await?;
        self.report.formatted = true;
        self.notes.push(format!("formatted, {} MiB", size >> 20));
        Ok(())
    }

    async fn set_note(&self, size: u64, present: bool) -> Result<(), String> {
        let path = self.partition.device.clone();
        let writing = tokio::task::spawn_blocking(move || {
            let device = File::options().read(true).write(true).open(path)?;
            blank::set_note(&device, size, present)
        });
        match writing.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("cannot write {}: {error}", self.partition.device.display())),
            Err(_) => Err("interrupted".to_owned()),
        }
    }

    /// Checks; an error is the reason to mount for reading only.
    async fn check(&mut self) -> Result<(), String> {
        let careful = self.e2fsck("-p").await?;
        let result = match careful {
            Check::Damaged if self.repair => self.e2fsck("-y").await?,
            other => other,
        };
        match result {
            Check::Sound => self.notes.push("checked after an unclean stop: sound".to_owned()),
            Check::Repaired => self.notes.push("checked after an unclean stop: repaired".to_owned()),
            Check::Damaged => {
                return Err(
                    "damaged beyond what is repaired unasked; boot with mote.data_repair=yes to repair \
                            it at the risk of losing files"
                        .to_owned(),
                );
            }
            Check::Failed => return Err("the check itself failed".to_owned()),
        }
        Ok(())
    }

    async fn e2fsck(&mut self, mode: &str) -> Result<Check, String> {
        self.report.checked = true;
        let outcome = tools::E2FSCK.run(self.reaper, &[mode], &self.partition.device, &[]).await;
        let outcome = outcome.map_err(|error| chain(&error))?;
        let result = tools::check_result(outcome.exit);
        if !matches!(result, Check::Sound) {
            self.notes.push(format!("e2fsck {mode}: {}", tools::last_words(&outcome.output)));
        }
        Ok(result)
    }

    async fn mount(&mut self) -> State {
        match self.try_mount(FLAGS, OPTIONS).await {
            Ok(()) => State::Ok,
            Err(why) => self.mount_read_only(&why).await,
        }
    }

    async fn mount_read_only(&mut self, why: &str) -> State {
        self.notes.push(why.to_owned());
        let flags = FLAGS | MountFlags::RDONLY;
        // The second attempt leaves the journal alone: for a disk that refuses even that.
        for options in ["", "noload"] {
            match self.try_mount(flags, options).await {
                Ok(()) => return State::ReadOnly,
                Err(why) => self.notes.push(why),
            }
        }
        State::Failed
    }

    async fn try_mount(&self, flags: MountFlags, options: &'static str) -> Result<(), String> {
        let device = self.partition.device.clone();
        let mounting =
            tokio::task::spawn_blocking(move || mount_device(&device, TARGET, "ext4", flags, options));
        match mounting.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(chain(&error)),
            Err(_) => Err("the mount was interrupted".to_owned()),
        }
    }

    /// Grows the mounted file system when the partition has become larger. A failure costs only space.
    async fn mount_and_grow(&mut self, found: &Found) -> State {
        let state = self.mount().await;
        let room = found.size.saturating_sub(MARGIN);
        let smaller = found.superblock.is_some_and(|superblock| superblock.is_smaller_than(room));
        if state != State::Ok || !smaller {
            return state;
        }
        let room = format!("{}k", room >> 12 << 2);
        match tools::RESIZE.run(self.reaper, &[], &self.partition.device, &[&room]).await {
            Ok(outcome) if outcome.exit == Exit::Code(0) => {
                self.notes.push(format!("grown to {} MiB", found.size >> 20));
            }
            Ok(outcome) => {
                let words = tools::last_words(&outcome.output);
                self.notes.push(format!("cannot grow: resize2fs: {}: {words}", outcome.exit));
            }
            Err(error) => self.notes.push(format!("cannot grow: {}", chain(&error))),
        }
        state
    }
}

async fn examine(partition: &Partition) -> io::Result<Found> {
    let Partition { device, read_only, .. } = partition.clone();
    tokio::task::spawn_blocking(move || examine_blocking(&device, read_only))
        .await
        .unwrap_or_else(|_| Err(io::Error::other("interrupted")))
}

fn examine_blocking(device: &Path, read_only: bool) -> io::Result<Found> {
    let mut file = File::open(device)?;
    let size = file.seek(SeekFrom::End(0))?;
    let superblock = superblock(&file)?;
    let content = match has_tail(superblock, size) {
        true => blank::examine(&file, size, superblock.is_some())?,
        // Whatever stands at the end is in somebody's file.
        false => Content::Something,
    };
    Ok(Found { size, read_only, content, superblock })
}

fn superblock(device: &File) -> io::Result<Option<Superblock>> {
    let mut bytes = vec![0; ext4::SIZE];
    match device.read_exact_at(&mut bytes, ext4::OFFSET) {
        Ok(()) => Ok(Superblock::parse(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the end of a partition of `size` bytes, where notes and orders are, is no file system's: ours leave it free.
fn has_tail(superblock: Option<Superblock>, size: u64) -> bool {
    superblock.is_none_or(|superblock| superblock.bytes <= size.saturating_sub(MARGIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: Superblock = Superblock {
        bytes: 1 << 30,
        needs_recovery: false,
        has_errors: false,
        is_valid: true,
        has_journal: true,
    };

    fn found(content: Content, superblock: Option<Superblock>) -> Found {
        Found { size: 1 << 30, read_only: false, content, superblock }
    }

    #[test]
    fn only_blank_partitions_and_our_own_half_made_ones_are_formatted() {
        assert_eq!(decide(&found(Content::Blank, None)), Need::Format);
        assert_eq!(decide(&found(Content::HalfFormatted, None)), Need::Format);
        assert_eq!(decide(&found(Content::HalfFormatted, Some(CLEAN))), Need::Format);
        assert!(matches!(decide(&found(Content::Something, None)), Need::Refuse(_)));
        assert_eq!(decide(&found(Content::Something, Some(CLEAN))), Need::Mount);
    }

    #[test]
    fn unclean_ones_are_checked() {
        let unclean = Superblock { needs_recovery: true, ..CLEAN };
        assert_eq!(decide(&found(Content::Something, Some(unclean))), Need::Check);
    }

    #[test]
    fn write_protected_and_small_ones_are_not_formatted() {
        let protected = |content, superblock| Found { read_only: true, ..found(content, superblock) };
        assert!(matches!(decide(&protected(Content::Blank, None)), Need::Refuse(_)));
        assert!(matches!(decide(&protected(Content::Something, Some(CLEAN))), Need::MountReadOnly(_)));
        let small = Found { size: 8 << 20, ..found(Content::Blank, None) };
        assert!(matches!(decide(&small), Need::Refuse(_)));
    }

    #[test]
    fn an_order_needs_a_place_that_is_nobodys() {
        let room = (1 << 30) - mote_reset::TAIL;
        let with = |bytes| found(Content::Something, Some(Superblock { bytes, ..CLEAN }));
        assert!(takes_orders(&with(room)));
        assert!(!takes_orders(&with(room + 1)), "made by somebody else, over all of the partition");
        assert!(takes_orders(&found(Content::Something, None)), "it is wiped as a whole");
        assert!(!takes_orders(&Found { read_only: true, ..with(room) }));
        assert!(!takes_orders(&Found { size: 1 << 20, ..found(Content::Blank, None) }));
    }

    #[test]
    fn what_stands_in_a_file_at_the_end_is_no_note() {
        let disk = tempfile::NamedTempFile::new().unwrap();
        let examine = |size: u64| {
            disk.as_file().set_len(size).unwrap();
            blank::set_note(disk.as_file(), size, true).unwrap();
            examine_blocking(disk.path(), false).unwrap()
        };
        assert_eq!(examine(100 << 20).content, Content::HalfFormatted);
        disk.as_file().write_all_at(&ext4::tests::superblock(), ext4::OFFSET).unwrap();
        let whole = examine(100 << 20);
        assert_eq!(whole.content, Content::Something);
        assert!(!takes_orders(&whole) && decide(&whole) == Need::Mount);
        assert_eq!(examine((100 << 20) + MARGIN).content, Content::HalfFormatted);
    }

    #[test]
    fn states_are_spelled_as_hostd_expects() {
        for (state, text) in [
            (State::Ok, "ok"),
            (State::Absent, "absent"),
            (State::ReadOnly, "readonly"),
            (State::Failed, "failed"),
        ] {
            let report = Report { state, ..Report::default() };
            assert!(toml::to_string(&report).unwrap().contains(&format!("state = \"{text}\"")));
        }
    }
}
