//! Wipes the partition as an order says: one that stands on it, or that was chosen in the boot loader's menu.
//!
//! Every step can be made again: whenever the power goes, the order stands until the new file system has what is kept.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use mote_config::API_FILE;
use mote_reset::{MOST_KEPT, Order, ResetError, Stage, TAIL, What};
use rustix::mount::{MountFlags, UnmountFlags, unmount};

use super::{FLAGS, OPTIONS, State, TARGET, Work, blank, ext4, has_tail, superblock};
use crate::log;
use crate::text::chain;

/// `BLKDISCARD`: forgets a range of bytes, first and length.
const DISCARD: libc::c_ulong = 0x1277;

/// The order that counts, of what stands on the partition and what was chosen in the menu: whatever wipes more.
fn choose(found: Option<Order>, chosen: Option<What>) -> Option<Order> {
    let asked = |what| Order { what, stage: Stage::Asked };
    match (found, chosen) {
        (found, None) => found,
        (None, Some(what)) => Some(asked(what)),
        (Some(Order { what: What::Data, .. }), Some(What::Factory)) => Some(asked(What::Factory)),
        (Some(order), Some(_)) => Some(order),
    }
}

impl Work<'_> {
    /// What is to be wiped, if anything.
    pub(super) async fn order(&mut self, chosen: Option<What>) -> Option<Order> {
        let reading = self.on_device(|device, size| {
            // Where a file system reaches to the end, an order would be in somebody's file.
            let superblock = superblock(device).map_err(|error| ResetError::Io("read", error))?;
            if has_tail(superblock, size) { mote_reset::read(device, size) } else { Ok(None) }
        });
        match reading.await {
            Ok(found) => choose(found, chosen),
            Err(why) => {
                // Who did not ask for it learns from what comes next that the disk cannot be read.
                if let Some(what) = chosen {
                    self.notes.push(format!("not wiped ({what}): {why}"));
                }
                None
            }
        }
    }

    /// Wipes the partition and makes it anew. What cannot be wiped is used as it is.
    pub(super) async fn reset(&mut self, order: Order) -> State {
        let what = order.what;
        if self.partition.read_only {
            self.notes.push(format!("not wiped ({what}): the disk is write-protected"));
            return self.run().await;
        }
        let size = match self.on_device(|_, size| Ok(size)).await {
            Ok(size) => size,
            Err(why) => return self.fail(format!("not wiped ({what}): {why}")),
        };
        if size < blank::SMALLEST {
            self.notes.push(format!("not wiped ({what}): {} MiB are too few", size >> 20));
            return self.run().await;
        }
        log::line(&format!("data: wiping {}: {what}", self.partition.device.display()));
        match self.wipe(order, size).await {
            Ok(kept) => {
                let note = match what {
                    What::Data if kept => "wiped; what the API has set was kept",
                    What::Data => "wiped; nothing that the API had set was found",
                    What::Factory => "wiped, with what the API had set",
                };
                self.notes.push(note.to_owned());
                self.report.orders = self.partition.device.display().to_string();
                State::Ok
            }
            Err(why) => self.fail(format!("wiping it ({what}) goes on at the next boot: {why}")),
        }
    }

    /// Says whether anything was kept.
    async fn wipe(&mut self, order: Order, size: u64) -> Result<bool, String> {
        let kept = match order.stage {
            Stage::Begun(kept) => kept,
            Stage::Asked => {
                let kept = match order.what {
                    What::Data => self.what_is_kept().await?,
                    What::Factory => Vec::new(),
                };
                let begun = Order { what: order.what, stage: Stage::Begun(kept.clone()) };
                self.on_device(move |device, size| {
                    make_room(device, size).map_err(|error| ResetError::Io("make room for", error))?;
                    mote_reset::write(device, size, &begun)
                })
                .await?;
                kept
            }
        };
        let forgotten = self.on_device(|device, size| Ok(discard(device, size))).await?;
        if let Err(error) = &forgotten {
            self.notes
                .push(format!("the disk does not forget what it held, it was only made anew ({error})"));
        }
        // Not every disk that forgets reads as zeros then.
        self.format(size, false).await?;
        self.try_mount(FLAGS, OPTIONS).await?;
        let any = !kept.is_empty();
        let restoring = tokio::task::spawn_blocking(move || restore(Path::new(TARGET), &kept)).await;
        restoring
            .map_err(|_| "interrupted".to_owned())?
            .map_err(|error| format!("cannot write {API_FILE}: {error}"))?;
        self.on_device(mote_reset::clear).await?;
        Ok(any)
    }

    /// What the API has set. A file system that cannot even be read keeps nothing.
    async fn what_is_kept(&mut self) -> Result<Vec<u8>, String> {
        let mut why = String::new();
        for options in ["", "noload"] {
            match self.try_mount(FLAGS | MountFlags::RDONLY, options).await {
                Ok(()) => {
                    let reading = tokio::task::spawn_blocking(|| {
                        let kept = keep(Path::new(TARGET));
                        // Not wiped under its feet.
                        unmount(TARGET, UnmountFlags::NOFOLLOW).map(|()| kept)
                    });
                    let kept = reading.await.map_err(|_| "interrupted".to_owned())?;
                    let kept = kept.map_err(|error| format!("cannot unmount {TARGET}: {error}"))?;
                    return Ok(kept.unwrap_or_else(|error| {
                        self.notes.push(format!("what the API had set cannot be read: {error}"));
                        Vec::new()
                    }));
                }
                Err(error) => why = error,
            }
        }
        self.notes.push(format!("what the API had set, if anything, cannot be read: {why}"));
        Ok(Vec::new())
    }

    /// Something with the device and its size.
    async fn on_device<T: Send + 'static>(
        &self,
        with: impl FnOnce(&File, u64) -> Result<T, ResetError> + Send + 'static,
    ) -> Result<T, String> {
        let path = self.partition.device.clone();
        let writable = !self.partition.read_only;
        let working = tokio::task::spawn_blocking(move || {
            let failed = |error| format!("cannot open {}: {error}", path.display());
            let mut device = File::options().read(true).write(writable).open(&path).map_err(failed)?;
            let size = device.seek(SeekFrom::End(0)).map_err(failed)?;
            with(&device, size).map_err(|error| chain(&error))
        });
        working.await.map_err(|_| "interrupted".to_owned())?
    }
}

/// A file system that reaches to the end of the partition ends here: an order beside it would not count.
fn make_room(device: &File, size: u64) -> io::Result<()> {
    if has_tail(superblock(device)?, size) {
        return Ok(());
    }
    device.write_all_at(&[0; ext4::SIZE], ext4::OFFSET)?;
    device.sync_data()
}

/// Has the disk forget everything but the tail, where the order is.
fn discard(device: &File, size: u64) -> io::Result<()> {
    let range = [0, size.saturating_sub(TAIL)];
    // SAFETY: the descriptor is open for the time of the call, and the kernel reads two numbers at the address.
    match unsafe { libc::ioctl(device.as_raw_fd(), DISCARD, range.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What the API has set on the file system at `root`; nothing if it has set nothing.
fn keep(root: &Path) -> io::Result<Vec<u8>> {
    let file = match File::open(root.join(API_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened?,
    };
    let mut kept = Vec::new();
    let most = u64::try_from(MOST_KEPT).unwrap_or(u64::MAX);
    file.take(most.saturating_add(1)).read_to_end(&mut kept)?;
    if kept.len() > MOST_KEPT {
        return Err(io::Error::other(format!("it is longer than {MOST_KEPT} bytes")));
    }
    Ok(kept)
}

/// Puts that back, durably.
fn restore(root: &Path, kept: &[u8]) -> io::Result<()> {
    if kept.is_empty() {
        return Ok(());
    }
    let path = root.join(API_FILE);
    let folder = path.parent().unwrap_or(root);
    fs::create_dir_all(folder)?;
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    file.write_all(kept)?;
    file.sync_all()?;
    File::open(folder)?.sync_all()?;
    File::open(root)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(what: What, stage: Stage) -> Order {
        Order { what, stage }
    }

    #[test]
    fn what_wipes_more_counts_and_what_was_begun_goes_on() {
        let begun = || order(What::Data, Stage::Begun(b"kept".to_vec()));
        let factory = || order(What::Factory, Stage::Begun(Vec::new()));
        let asked = |what| order(what, Stage::Asked);
        assert_eq!(choose(None, None), None);
        assert_eq!(choose(None, Some(What::Data)), Some(asked(What::Data)));
        assert_eq!(choose(Some(begun()), None), Some(begun()));
        assert_eq!(choose(Some(begun()), Some(What::Data)), Some(begun()));
        assert_eq!(choose(Some(begun()), Some(What::Factory)), Some(asked(What::Factory)));
        assert_eq!(choose(Some(factory()), Some(What::Data)), Some(factory()));
        assert_eq!(choose(Some(factory()), Some(What::Factory)), Some(factory()));
    }

    #[test]
    fn only_a_file_system_that_reaches_to_the_end_makes_room() {
        let disk = tempfile::tempfile().unwrap();
        for (size, stays) in [(100 << 20, false), ((100 << 20) + mote_reset::TAIL, true)] {
            disk.set_len(size).unwrap();
            disk.write_all_at(&ext4::tests::superblock(), ext4::OFFSET).unwrap();
            make_room(&disk, size).unwrap();
            let left = superblock(&disk).unwrap();
            assert_eq!(left.is_some(), stays);
            assert!(has_tail(left, size));
        }
    }

    #[test]
    fn what_is_kept_comes_back_as_it_was() {
        let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert!(keep(old.path()).unwrap().is_empty());
        restore(new.path(), &[]).unwrap();
        assert_eq!(fs::read_dir(new.path()).unwrap().count(), 0);

        let file = old.path().join(API_FILE);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "[sandbox]\nvcpus = 2\n").unwrap();
        let kept = keep(old.path()).unwrap();
        restore(new.path(), &kept).unwrap();
        // Made twice, if the power went in between.
        restore(new.path(), &kept).unwrap();
        assert_eq!(fs::read(new.path().join(API_FILE)).unwrap(), kept);

        fs::write(&file, vec![b'#'; MOST_KEPT + 1]).unwrap();
        assert!(keep(old.path()).is_err());
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert!(keep(old.path()).is_err());
    }

    #[test]
    fn what_is_no_disk_does_not_forget() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4 * TAIL).unwrap();
        assert!(discard(&file, 4 * TAIL).is_err());
    }
}
