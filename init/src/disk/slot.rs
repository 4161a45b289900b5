//! The slot that runs: what it has to show before it is the good one, and what happens when it does not.
//!
//! What is decided is [`mote_update::slots`]'; here is who asks: the boot when the slot's system cannot be used
//! ([`refuse`]), and a task that follows the running machine ([`follow`]).

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mote_environment::{Environment, EnvironmentError};
use mote_layout::{Layout, Role};
use mote_update::slots::{self, ChangeError, Phase, Slot, State};
use mote_update::version::Version;

use super::{health, label, release};
use crate::log;
use crate::machine::Machine;
use crate::reason::{Action, Cause, Stop};
use crate::service::hostd::Status;
use crate::text::chain;

/// Time between two questions.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// What is read at once when the slot is read through.
const PIECE: usize = 1 << 20;

/// Of the time, one part in so many is spent reading the slot through: others use the disk and the processor too.
const PAUSE: u32 = 4;

/// Time for the EFI system partition to appear, which is on the disk that the system came from.
const WAIT: Duration = Duration::from_secs(5);

/// Why the state of the slots is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// It cannot be read or written.
    #[error("Cannot know or change which slot is good")]
    Environment(#[from] EnvironmentError),
    /// It may not be changed so.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// There is no partition with it.
    #[error("No partition is labelled {0}")]
    Absent(String),
    /// A thread died.
    #[error("Interrupted")]
    Interrupted,
}

/// What the running slot turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The service answers.
    Healthy,
    /// It does not.
    Sick,
    /// Its bytes are not what they were.
    Damaged,
}

/// What becomes of the state: the new one, and whether the machine is to start again. Where nothing better is there, the
/// machine goes on with what it has. `oldest` is what the running system says of itself.
fn judge(
    state: &State,
    running: Slot,
    verdict: Verdict,
    oldest: Version,
) -> Result<(State, bool), ChangeError> {
    let settled = slots::settle(state, running)?;
    let phase = settled.phase(running);
    match (verdict, phase) {
        (Verdict::Healthy, Phase::Stray) => Ok((slots::adopt(&settled, running)?, false)),
        (Verdict::Healthy, Phase::Settled | Phase::Pending | Phase::Trying | Phase::FellBack) => {
            Ok((slots::mark_good(&settled, running, oldest)?, false))
        }
        (Verdict::Sick | Verdict::Damaged, Phase::Trying) => Ok((slots::give_up(&settled, running)?, true)),
        (Verdict::Damaged, Phase::Settled) => Ok((slots::abandon(&settled, running)?, true)),
        // The other one is to be tried anyway.
        (Verdict::Damaged, Phase::Pending) => Ok((settled, true)),
        (Verdict::Sick, _) | (Verdict::Damaged, Phase::Stray | Phase::FellBack) => Ok((settled, false)),
    }
}

/// The system of this slot cannot be used: says so, and starts another if there is one.
pub async fn refuse(machine: &Machine, running: Slot) {
    act(machine, running, Verdict::Damaged).await;
}

/// Follows the running machine, whose verified device is `device`: to the first answer of its service, and through all of
/// its bytes.
pub async fn follow(machine: Arc<Machine>, running: Slot, device: PathBuf) {
    // First of all, and whatever comes next: a trial that did not make it is written down.
    let settle = move |state: &State| -> Result<(State, bool), ChangeError> {
        let settled = slots::settle(state, running)?;
        let on_trial = settled.phase(running) == Phase::Trying;
        Ok((settled, on_trial))
    };
    let on_trial = change(running, settle).await.unwrap_or_else(|error| {
        complain(&machine, &error);
        false
    });
    // Before, the data disk may be checked, which takes as long as it takes.
    let mut status = machine.hostd.status();
    let _ = status.wait_for(|status| *status != Status::Down).await;
    // By now all layers are known.
    let options = machine.configuration.options();
    let verdict = wait_for_health(&machine, options.port, options.trial, on_trial).await;
    act(&machine, running, verdict).await;
    match tokio::task::spawn_blocking(move || read_through(&device)).await {
        Ok(Ok(mib)) => log::note(&format!("slot {running}: all {mib} MiB are as they were made")),
        Ok(Err(error)) => {
            tell(&machine, format!("slot {running} is damaged: {error}"));
            act(&machine, running, Verdict::Damaged).await;
        }
        Err(_) => complain(&machine, &SlotError::Interrupted),
    }
}

/// Waits until the service answers. A system on trial has to have an address, too: it came over the network, so there is
/// one, and a machine that nobody reaches cannot be helped from afar.
async fn wait_for_health(machine: &Machine, port: u16, bound: Duration, on_trial: bool) -> Verdict {
    let asked = Instant::now();
    loop {
        let answers = health::is_ready(port).await;
        let reached = !on_trial || machine.network.borrow().address.is_some();
        if answers && reached {
            return Verdict::Healthy;
        }
        if asked.elapsed() > bound {
            if on_trial {
                let lacks = if answers { "has no address" } else { "is not healthy" };
                tell(machine, format!("the system on trial {lacks} after {} s", bound.as_secs()));
            }
            return Verdict::Sick;
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

async fn act(machine: &Machine, running: Slot, verdict: Verdict) {
    let oldest = release::mounted().oldest;
    let again = match change(running, move |state| judge(state, running, verdict, oldest)).await {
        Ok(again) => again,
        Err(error) => {
            complain(machine, &error);
            false
        }
    };
    let stop = Stop { action: Action::Reboot, cause: Cause::Slot(running.name()) };
    if again && machine.stops.send(stop).await.is_err() {
        log::line("the machine cannot be stopped");
    }
}

fn complain(machine: &Machine, error: &SlotError) {
    tell(machine, format!("slots: {}", chain(error)));
}

/// On the console, and to hostd.
fn tell(machine: &Machine, text: String) {
    log::line(&text);
    machine.problem(text);
    machine.facts(|facts| facts.write());
}

/// Reads the state, changes it, and writes it if it is another. Gives what the change says besides.
async fn change(
    running: Slot,
    with: impl FnOnce(&State) -> Result<(State, bool), ChangeError> + Send + 'static,
) -> Result<bool, SlotError> {
    let label = esp()?;
    let partition = label::wait_for(&label, WAIT).await.ok_or(SlotError::Absent(label))?;
    let changing = tokio::task::spawn_blocking(move || change_blocking(&partition.device, running, with));
    changing.await.map_err(|_| SlotError::Interrupted)?
}

fn change_blocking(
    partition: &Path,
    running: Slot,
    with: impl FnOnce(&State) -> Result<(State, bool), ChangeError>,
) -> Result<bool, SlotError> {
    let environment = Environment::lock(partition)?;
    let before = match environment.state() {
        Ok(state) => Some(state),
        Err(error @ (EnvironmentError::Block(_) | EnvironmentError::State(_))) => {
            log::line(&format!("slots: {}; starting anew with slot {running}", chain(&error)));
            None
        }
        Err(error) => return Err(error.into()),
    };
    let state = before.clone().unwrap_or_else(|| {
        let release = release::mounted();
        State::new(running, release.version, release.oldest)
    });
    let (after, again) = with(&state)?;
    if before.as_ref() != Some(&after) {
        environment.store(&after)?;
        log::line(&format!("slots: {} is good{}", after.slot(), trial(&after)));
    }
    Ok(again)
}

fn trial(state: &State) -> String {
    state
        .trial()
        .map_or_else(String::new, |(slot, tries)| format!(", {slot} is on trial, {tries} boots left"))
}

fn esp() -> Result<String, EnvironmentError> {
    Ok(Layout::built_in()?.partition(Role::Esp)?.label.clone())
}

/// Reads a device from its begin to its end, in no hurry and without keeping it in memory. Gives its size in MiB.
fn read_through(device: &Path) -> io::Result<u64> {
    let mut file = File::open(device)?;
    let mut piece = vec![0; PIECE];
    let mut at = 0_u64;
    loop {
        let began = Instant::now();
        let length = file.read(&mut piece)?;
        if length == 0 {
            return Ok(at >> 20);
        }
        let length = u64::try_from(length).map_err(io::Error::other)?;
        // A hint: failing costs memory that the kernel takes back when it needs it.
        let _ =
            rustix::fs::fadvise(&file, at, std::num::NonZeroU64::new(length), rustix::fs::Advice::DontNeed);
        at += length;
        std::thread::sleep(began.elapsed() * PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mote_update::slots::{Content, Force};

    fn judged(state: &State, running: Slot, verdict: Verdict) -> Result<(State, bool), ChangeError> {
        judge(state, running, verdict, Version::ZERO)
    }

    const OLD: Version = Version::new(1, 0, 0);
    const NEW: Version = Version::new(1, 1, 0);

    fn pending() -> State {
        let (state, install) = slots::begin(&State::new(Slot::A, OLD, OLD), Slot::A, NEW, Force::No).unwrap();
        slots::finish(&state, Slot::A, install).unwrap()
    }

    /// As after GRUB booted it so many times.
    fn tried(times: usize) -> State {
        (0..times).fold(pending(), |state, _| slots::boot(&state).1)
    }

    fn updated() -> State {
        judged(&tried(1), Slot::B, Verdict::Healthy).unwrap().0
    }

    #[test]
    fn a_slot_on_trial_that_answers_is_good() {
        let (state, again) = judged(&tried(1), Slot::B, Verdict::Healthy).unwrap();
        assert_eq!((state.slot(), state.trial(), again), (Slot::B, None, false));
        assert_eq!(state.content(Slot::B), Content::Good(NEW));
    }

    #[test]
    fn once_it_is_good_it_says_how_old_others_may_be() {
        let (state, _) = judge(&tried(1), Slot::B, Verdict::Healthy, OLD).unwrap();
        assert_eq!(state.oldest(), OLD);
        // Not newer than itself, whatever it says.
        let (state, _) = judge(&tried(1), Slot::B, Verdict::Healthy, Version::new(9, 0, 0)).unwrap();
        assert_eq!(state.oldest(), NEW);
        let (state, _) = judge(&tried(2), Slot::B, Verdict::Sick, NEW).unwrap();
        assert_eq!(state.oldest(), OLD);
    }

    #[test]
    fn one_that_does_not_is_given_up() {
        for verdict in [Verdict::Sick, Verdict::Damaged] {
            let (state, again) = judged(&tried(2), Slot::B, verdict).unwrap();
            assert_eq!((state.slot(), state.trial(), again), (Slot::A, None, true));
            assert!(state.failed().contains(NEW));
        }
    }

    #[test]
    fn one_that_did_not_come_so_far_is_written_down() {
        for verdict in [Verdict::Healthy, Verdict::Sick] {
            let (state, again) = judged(&tried(2), Slot::A, verdict).unwrap();
            assert_eq!((state.slot(), state.content(Slot::B), again), (Slot::A, Content::Failed(NEW), false));
        }
    }

    #[test]
    fn a_damaged_one_gives_way_if_there_is_a_good_one() {
        let (state, again) = judged(&updated(), Slot::B, Verdict::Damaged).unwrap();
        assert_eq!((state.slot(), state.content(Slot::B), again), (Slot::A, Content::Empty, true));
        let alone = State::new(Slot::A, OLD, OLD);
        assert_eq!(judged(&alone, Slot::A, Verdict::Damaged), Err(ChangeError::NotGood(Slot::B)));
        assert_eq!(judged(&pending(), Slot::A, Verdict::Damaged), Ok((pending(), true)));
    }

    #[test]
    fn a_sick_good_one_stays_what_it_is() {
        assert_eq!(judged(&updated(), Slot::B, Verdict::Sick), Ok((updated(), false)));
    }

    #[test]
    fn what_runs_instead_of_the_good_one_takes_its_place_once_it_answers() {
        let (state, again) = judged(&updated(), Slot::A, Verdict::Healthy).unwrap();
        assert_eq!((state.slot(), state.content(Slot::B), again), (Slot::A, Content::Empty, false));
        assert_eq!(judged(&updated(), Slot::A, Verdict::Damaged), Ok((updated(), false)));
    }

    #[test]
    fn a_device_is_read_to_its_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len((3 << 20) + 1).unwrap();
        assert_eq!(read_through(file.path()).unwrap(), 3);
    }
}
