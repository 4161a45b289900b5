//! Updates of a machine whose partitions are files.

use std::fs::File;
use std::io::Cursor;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use mote_api::ApiError;
use mote_update::keys::SecretKey;
use mote_update::manifest::{Gap, MIN_CHUNK};
use mote_update::slots::{Content, Phase};
use mote_update::write::{Release, write};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const OLD: Version = Version::new(1, 0, 0);
const NEW: Version = Version::new(1, 1, 0);
const BOOT: u64 = 464 << 20;
const SLOT: u64 = 512 << 20;

/// What the other slot has in it before.
const BEFORE: [u8; 4] = *b"old!";

struct Machine {
    folder: TempDir,
    place: Place,
}

impl Machine {
    /// Runs OLD from slot a.
    fn new() -> Self {
        // Not in memory: there, reading past the cache is refused.
        let folder = tempfile::tempdir_in(".").unwrap();
        let file = |name: &str, size| {
            let path = folder.path().join(name);
            File::create_new(&path).unwrap().set_len(size).unwrap();
            path
        };
        let (environment, other) = (file("esp", 4 << 20), file("other", SLOT));
        let place = Place { running: Slot::A, environment, other, boot_area: BOOT };
        let made = Self { folder, place };
        made.store(&State::new(Slot::A, OLD, Version::new(0, 9, 0)));
        let slot = File::options().write(true).open(&made.place.other).unwrap();
        slot.write_all_at(&BEFORE, 0).unwrap();
        slot.write_all_at(&BEFORE, BOOT).unwrap();
        made
    }

    fn store(&self, state: &State) {
        Environment::lock(&self.place.environment).unwrap().store(state).unwrap();
    }

    fn state(&self) -> State {
        load(&self.place.environment).unwrap()
    }

    fn phase(&self) -> Phase {
        self.state().phase(Slot::A)
    }

    fn slot(&self, at: u64, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        File::open(&self.place.other).unwrap().read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    fn is_untouched(&self) -> bool {
        self.slot(0, 4) == BEFORE && self.slot(BOOT, 4) == BEFORE
    }

    fn updates(&self) -> Updates {
        Updates::new(Ok(self.place.clone()), &[secret().public().to_string()], "1.0.0")
    }

    /// Installs a file in pieces of this size.
    fn install(&self, file: &[u8], piece: usize, force: Force) -> Result<Tried, UpdateError> {
        let updates = self.updates();
        let keys = updates.keys.clone().unwrap();
        let job = Job { place: &self.place, keys, version: OLD, force, shared: &updates.shared };
        job.run(file.chunks(piece).map(|piece| Ok(Bytes::copy_from_slice(piece))))
    }
}

fn secret() -> SecretKey {
    SecretKey::from_seed(&[3; 32])
}

/// Three blocks of a system, two of a boot area.
fn payload() -> Vec<u8> {
    (0..5 * 4096_u32).map(|at| u8::try_from(at * 31 % 251).unwrap()).collect()
}

fn release(version: Version) -> Release {
    let gap = Some(Gap { at: 3 * 4096, size: BOOT - 3 * 4096 });
    // Chunks that do not end where the gap begins.
    let chunk_size = 2 * MIN_CHUNK;
    Release { version, built: 1, replaces: Version::ZERO, chunk_size, verity_root: None, gap }
}

fn file_of(release: &Release, key: &SecretKey) -> Vec<u8> {
    let mut file = Vec::new();
    write(&mut Cursor::new(payload()), release, key, &mut file).unwrap();
    file
}

fn update(version: Version) -> Vec<u8> {
    file_of(&release(version), &secret())
}

#[test]
fn a_whole_file_goes_on_trial() {
    let machine = Machine::new();
    let tried = machine.install(&update(NEW), 1000, Force::No).unwrap();
    assert_eq!(tried, Tried { slot: Slot::B, version: NEW });
    let state = machine.state();
    assert_eq!((state.phase(Slot::A), state.content(Slot::B)), (Phase::Pending, Content::New(NEW)));
    assert!(machine.slot(0, 3 * 4096) == payload()[..3 * 4096]);
    assert!(machine.slot(BOOT, 2 * 4096) == payload()[3 * 4096..]);
    // Once more: what was on trial is off, and this is.
    let newer = Version::new(1, 2, 0);
    machine.install(&update(newer), 100_000, Force::No).unwrap();
    assert_eq!(machine.state().content(Slot::B), Content::New(newer));
}

#[test]
fn what_is_not_trusted_touches_nothing() {
    let machine = Machine::new();
    let before = machine.state();
    let mut unsigned = update(NEW);
    unsigned[16..88].fill(0);
    let mut changed = update(NEW);
    changed[90] ^= 1;
    let foreign = file_of(&release(NEW), &SecretKey::from_seed(&[4; 32]));
    for (file, status) in [(unsigned, 403), (changed, 403), (foreign, 403), (b"no update".repeat(20), 400)] {
        let error = machine.install(&file, 4096, Force::Yes).unwrap_err().answer();
        assert_eq!(error.status().as_u16(), status, "{error}");
        assert!(machine.is_untouched() && machine.state() == before, "{error}");
    }
}

#[test]
fn what_does_not_fit_the_machine_touches_nothing() {
    let machine = Machine::new();
    let before = machine.state();
    let with = |change: fn(&mut Release)| {
        let mut release = release(NEW);
        change(&mut release);
        file_of(&release, &secret())
    };
    let beyond = with(|release| release.gap = Some(Gap { at: 4096, size: SLOT }));
    let elsewhere = with(|release| release.gap = Some(Gap { at: 3 * 4096, size: BOOT - 4096 }));
    let no_boot_area = with(|release| release.gap = None);
    let old = update(Version::new(0, 8, 0));
    let same = update(OLD);
    let far = with(|release| release.replaces = Version::new(1, 0, 1));
    for (file, status, word) in [
        (beyond, 413, "larger slots"),
        (elsewhere, 400, "layout"),
        (no_boot_area, 400, "layout"),
        (old, 409, "oldest"),
        (same, 409, "force=true"),
        (far, 409, "between"),
    ] {
        let error = machine.install(&file, 4096, Force::No).unwrap_err().answer();
        assert_eq!(error.status().as_u16(), status, "{error}");
        assert!(error.to_string().contains(word), "{error}");
        assert!(machine.is_untouched() && machine.state() == before, "{error}");
    }
}

#[test]
fn what_failed_before_has_to_be_forced() {
    let machine = Machine::new();
    machine.install(&update(NEW), 4096, Force::No).unwrap();
    let (_, booted) = slots::boot(&machine.state());
    machine.store(&slots::give_up(&booted, Slot::B).unwrap());
    let error = machine.install(&update(NEW), 4096, Force::No).unwrap_err().answer();
    assert!(matches!(&error, ApiError::ResourceConflict(text) if text.contains("force=true")), "{error}");
    machine.install(&update(NEW), 4096, Force::Yes).unwrap();
    assert_eq!(machine.phase(), Phase::Pending);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// However a file is cut or changed, and wherever the machine loses power while it is written: it runs what it ran.
    #[test]
    fn half_an_update_is_none(
        cut in any::<prop::sample::Index>(),
        flip in any::<prop::sample::Index>(),
        cuts: bool,
        piece in 1..9000_usize,
    ) {
        let machine = Machine::new();
        let mut file = update(NEW);
        if cuts {
            file.truncate(cut.index(file.len()));
        } else {
            let at = flip.index(file.len());
            file[at] ^= 1;
        }
        prop_assert!(machine.install(&file, piece, Force::No).is_err());
        let state = machine.state();
        prop_assert_eq!((state.phase(Slot::A), state.content(Slot::B)), (Phase::Settled, Content::Empty));
        prop_assert_eq!(slots::boot(&state).0, Slot::A);
        // What was begun with cannot be started by accident.
        prop_assert!(machine.slot(BOOT, 4) != BEFORE || machine.is_untouched());
        // And the next one is taken.
        machine.install(&update(NEW), 4096, Force::No).unwrap();
    }
}

#[test]
fn more_behind_the_end_is_refused() {
    let machine = Machine::new();
    let file = [update(NEW), vec![0]].concat();
    let error = machine.install(&file, 1 << 20, Force::No).unwrap_err();
    assert!(matches!(error, UpdateError::Stream(mote_update::stream::StreamError::TooLong)), "{error}");
    assert_eq!(machine.phase(), Phase::Settled);
}

#[tokio::test]
async fn whoever_hangs_up_leaves_the_slot_empty() {
    let machine = Machine::new();
    let updates = machine.updates();
    let (sender, pieces) = mpsc::channel(1);
    let file = update(NEW);
    let begin = Bytes::copy_from_slice(&file[..file.len() - 1]);
    {
        let installing = updates.install(Force::No, pieces);
        tokio::pin!(installing);
        let sending = async {
            sender.send(Ok(begin)).await.unwrap();
            while machine.state().content(Slot::B) != Content::Empty || machine.is_untouched() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            done = &mut installing => panic!("{done:?}"),
            () = sending => {}
        }
        let busy = updates.roll_back().await.unwrap_err().answer();
        assert_eq!(busy.status().as_u16(), 409);
        let told = updates.told().await.unwrap();
        assert_eq!(told["update"]["state"], "writing");
        assert_eq!(told["update"]["version"], "1.1.0");
    }
    // Nobody waits any more, and nothing more comes.
    drop(sender);
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while updates.told().await.unwrap()["update"]["state"] == "writing" {
        assert!(std::time::Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let told = updates.told().await.unwrap();
    assert_eq!(told["update"]["state"], "failed");
    assert!(told["update"]["reason"].as_str().unwrap().contains("too early"), "{told}");
    assert_eq!(
        (told["slots"]["b"]["state"].as_str(), told["phase"].as_str()),
        (Some("empty"), Some("settled"))
    );
}

#[tokio::test]
async fn what_is_being_written_can_be_called_off() {
    let machine = Machine::new();
    let updates = Arc::new(machine.updates());
    let (sender, pieces) = mpsc::channel(1);
    let theirs = Arc::clone(&updates);
    let installing = tokio::spawn(async move { theirs.install(Force::No, pieces).await });
    let file = update(NEW);
    let (begin, rest) = file.split_at(10_000);
    sender.send(Ok(Bytes::copy_from_slice(begin))).await.unwrap();
    while updates.turn().is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(updates.call_off().await.unwrap(), CalledOff::Writing);
    let _ = sender.send(Ok(Bytes::copy_from_slice(rest))).await;
    drop(sender);
    assert!(matches!(installing.await.unwrap(), Err(UpdateError::CalledOff)));
    assert_eq!(machine.phase(), Phase::Settled);
    let nothing = updates.call_off().await.unwrap_err().answer();
    assert_eq!(nothing.status().as_u16(), 409);
}

#[tokio::test]
async fn a_trial_that_is_to_come_can_be_called_off() {
    let machine = Machine::new();
    machine.install(&update(NEW), 4096, Force::No).unwrap();
    assert_eq!(machine.updates().call_off().await.unwrap(), CalledOff::Trial);
    assert_eq!(machine.phase(), Phase::Settled);
}

#[tokio::test]
async fn the_way_back_is_a_trial_of_what_was_good() {
    let machine = Machine::new();
    let nothing = machine.updates().roll_back().await.unwrap_err().answer();
    assert!(nothing.to_string().contains("nothing to go back to"), "{nothing}");
    machine.install(&update(NEW), 4096, Force::No).unwrap();
    let (_, booted) = slots::boot(&machine.state());
    machine.store(&slots::mark_good(&booted, Slot::B, Version::ZERO).unwrap());
    let place = Place { running: Slot::B, ..machine.place.clone() };
    let updates = Updates::new(Ok(place), &[], "1.1.0");
    assert_eq!(updates.roll_back().await.unwrap(), Tried { slot: Slot::A, version: OLD });
    let told = updates.told().await.unwrap();
    assert_eq!(told["trial"], serde_json::json!({ "slot": "a", "boots_left": 2 }));
    assert_eq!(told["possible"], false);
    assert_eq!(told["update"], Value::Null);
}

#[tokio::test]
async fn a_machine_without_slots_or_keys_says_so() {
    let none = Updates::new(Err("The machine was not started from a slot".to_owned()), &[], "1.2.3");
    let (_sender, pieces) = mpsc::channel(1);
    let error = none.install(Force::No, pieces).await.unwrap_err().answer();
    assert!(matches!(&error, ApiError::ResourceConflict(text) if text.contains("UPDATES.md")), "{error}");
    let told = none.told().await.unwrap();
    assert_eq!((&told["possible"], &told["running"]["system"]), (&Value::from(false), &Value::from("1.2.3")));

    let machine = Machine::new();
    let twice = secret().public().to_string();
    for (keys, word) in
        [(vec![], "update.keys"), (vec!["x".to_owned()], "x"), (vec![twice.clone(), twice], "twice")]
    {
        let updates = Updates::new(Ok(machine.place.clone()), &keys, "1.0.0");
        let (_sender, pieces) = mpsc::channel(1);
        let error = updates.install(Force::No, pieces).await.unwrap_err().answer();
        assert!(matches!(&error, ApiError::AccessDenied(text) if text.contains(word)), "{error}");
    }
    assert!(machine.folder.path().exists());
}
