//! Streams an update file to the other slot.
//!
//! What is on the disk at every moment, so that the power may be cut at any:
//!
//! | until | the block says | the slot has |
//! |---|---|---|
//! | signature and manifest were checked | what it said | what it had |
//! | the block was written | empty, no trial | what it had |
//! | its boot area was made blank | empty | nothing the boot loader would start |
//! | all of the payload is durable, checked chunk by chunk | empty | more and more of the file system, then of the boot area |
//! | the block was written again | new, on trial | the update |

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use bytes::Bytes;
use mote_api::ApiError;
use mote_environment::load;
use mote_update::keys::Keys;
use mote_update::manifest::{Manifest, Policy};
use mote_update::slots::{self, Force, Install};
use mote_update::stream::{Item, StreamError, Verifier};
use mote_update::version::Version;
use rustix::fs::{Advice, Mode, OFlags, fadvise, open};

use super::told::Progress;
use super::{Place, Shared, Tried, UpdateError, change, version_of};

/// So much is written before it has to be on the disk: what waits in memory is memory that functions do not have.
const SETTLE_EVERY: usize = 16 << 20;

/// Of the boot area, what is made blank before anything is written: the boot loader finds no archive there then.
const BLANK: [u8; 4096] = [0; 4096];

/// An update that comes.
pub struct Job<'a> {
    /// Where to.
    pub place: &'a Place,
    /// Who may have signed it.
    pub keys: Keys,
    /// What the running system says of itself.
    pub version: Version,
    /// Whether somebody insists.
    pub force: Force,
    /// Told, and asked.
    pub shared: &'a Shared,
}

/// The slot that is being written.
struct Target {
    device: File,
    path: PathBuf,
    boot_area: u64,
    manifest: Manifest,
    install: Install,
    unsettled: usize,
    /// The boot area is being written.
    in_boot_area: bool,
}

impl Job<'_> {
    /// Takes the pieces of a file until it is whole or wrong.
    pub fn run(self, pieces: impl Iterator<Item = Result<Bytes, ApiError>>) -> Result<Tried, UpdateError> {
        self.shared.progress(|progress| *progress = Progress::begin());
        let state = load(&self.place.environment)?;
        let running = version_of(&state, self.place.running, self.version);
        let policy = Policy { running, oldest: state.oldest() };
        let mut verifier = Verifier::new(self.keys.clone(), policy);
        let mut target: Option<Target> = None;
        for piece in pieces {
            self.is_wanted()?;
            let bytes = piece.map_err(UpdateError::Body)?;
            let mut rest: &[u8] = &bytes;
            while let Some(item) = verifier.feed(&mut rest)? {
                match item {
                    Item::Manifest(manifest) => target = Some(self.begin(manifest)?),
                    Item::Chunk { offset, bytes } => {
                        if let Some(target) = &mut target {
                            target.write(offset, bytes)?;
                        }
                        let more = u64::try_from(bytes.len()).unwrap_or_default();
                        self.shared.progress(|progress| progress.written += more);
                    }
                }
            }
        }
        verifier.finish()?;
        self.is_wanted()?;
        // There is one: what is whole has a manifest.
        target.ok_or(UpdateError::Stream(StreamError::Broken))?.finish(self.place)
    }

    fn is_wanted(&self) -> Result<(), UpdateError> {
        if self.shared.called_off.load(Ordering::Acquire) { Err(UpdateError::CalledOff) } else { Ok(()) }
    }

    /// The update is signed by somebody trusted. Whether it fits comes before the slot is given up for it.
    fn begin(&self, manifest: Manifest) -> Result<Target, UpdateError> {
        let (path, boot_area) = (self.place.other.clone(), self.place.boot_area);
        self.shared.progress(|progress| {
            progress.version = Some(manifest.version);
            progress.size = manifest.size;
        });
        let failed = |action| {
            let path = path.clone();
            move |source| UpdateError::Slot { action, path, source }
        };
        // Alone: what is mounted or mapped is refused by the kernel.
        let flags = OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC;
        let opened = open(&path, flags, Mode::empty()).map_err(io::Error::from).map_err(failed("open"))?;
        let mut device = File::from(opened);
        let room = device.seek(SeekFrom::End(0)).map_err(failed("measure"))?;
        let needed = manifest.slot_end();
        if needed > room {
            return Err(UpdateError::TooLarge { needed, room });
        }
        let boot = manifest.gap.map_or(boot_area, |gap| gap.at.saturating_add(gap.size));
        if boot != boot_area || needed <= boot_area {
            return Err(UpdateError::Elsewhere(boot));
        }
        let (version, force) = (manifest.version, self.force);
        let install = change(self.place, |state, running| slots::begin(state, running, version, force))?;
        tracing::info!(%version, slot = %install.slot(), "Update is being written");
        device.write_all_at(&BLANK, boot_area).map_err(failed("write to"))?;
        device.sync_data().map_err(failed("write to"))?;
        Ok(Target { device, path, boot_area, manifest, install, unsettled: 0, in_boot_area: false })
    }
}

impl Target {
    /// Writes what was verified to its place.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), UpdateError> {
        for (at, part) in self.manifest.places(offset, bytes) {
            if part.is_empty() {
                continue;
            }
            if at >= self.boot_area && !self.in_boot_area {
                // First all that the boot area is to start.
                self.settle()?;
                self.in_boot_area = true;
            }
            self.device.write_all_at(part, at).map_err(self.failed("write to"))?;
            self.unsettled = self.unsettled.saturating_add(part.len());
            if self.unsettled >= SETTLE_EVERY {
                self.settle()?;
            }
        }
        Ok(())
    }

    /// All that was written is on the disk, and not in memory any more.
    fn settle(&mut self) -> Result<(), UpdateError> {
        self.device.sync_data().map_err(self.failed("write to"))?;
        // A hint: failing costs memory that the kernel takes back when it needs it.
        let _ = fadvise(&self.device, 0, None, Advice::DontNeed);
        self.unsettled = 0;
        Ok(())
    }

    fn finish(mut self, place: &Place) -> Result<Tried, UpdateError> {
        self.settle()?;
        let tried = Tried { slot: self.install.slot(), version: self.install.version() };
        let install = self.install;
        change(place, |state, running| Ok((slots::finish(state, running, install)?, ())))?;
        tracing::info!(version = %tried.version, slot = %tried.slot, "Update is to be tried at the next start");
        Ok(tried)
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> UpdateError + use<> {
        let path: &Path = &self.path;
        let path = path.to_owned();
        move |source| UpdateError::Slot { action, path, source }
    }
}
