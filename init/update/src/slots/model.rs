//! A machine in miniature: two slots on a disk, a block, and power that goes at any write.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::grubenv::{Block, SIZE};

/// Boots after which a good slot runs, whatever happened.
const MOST_BOOTS: usize = 3;

/// How a trial boot goes. The good slot always comes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The health check passes.
    Healthy,
    /// It does not.
    Sick,
    /// Nothing is heard of it until it is reset.
    Hangs,
    /// GRUB cannot load it, and takes the other entry.
    Unloadable,
}

/// The power goes at the `at`th write from now; that write is on the disk, or is not.
#[derive(Debug, Clone, Copy)]
struct Cut {
    at: u8,
    landed: bool,
}

#[derive(Debug, Clone)]
enum Step {
    Install { version: u32, force: bool, interrupted: bool },
    RollBack,
    CallOff,
    Restart,
}

struct PowerGone;

/// What is on the disk, and what the world outside knows.
struct Machine {
    block: [u8; SIZE],
    disk: [Option<Version>; 2],
    cut: Option<Cut>,
    passed: BTreeSet<Version>,
    failed: BTreeSet<Version>,
    trials: u8,
}

/// What a write means, if it lands.
#[derive(Clone, Copy)]
enum Meaning {
    Nothing,
    Trial(Version),
    Passed(Version),
    Failed(Version),
    WentBack { to: Version, from: Version },
}

impl Machine {
    fn new() -> Self {
        let first = Version::new(1, 0, 0);
        let mut block = Block::default();
        State::new(Slot::A, first, Version::ZERO).store(&mut block).unwrap();
        Self {
            block: block.to_bytes(),
            disk: [Some(first), None],
            cut: None,
            passed: BTreeSet::from([first]),
            failed: BTreeSet::new(),
            trials: 0,
        }
    }

    fn state(&self) -> State {
        State::load(&Block::parse(&self.block).unwrap()).unwrap()
    }

    /// One write of one sector, in place.
    fn save(&mut self, state: &State, meaning: Meaning) -> Result<(), PowerGone> {
        let mut block = Block::parse(&self.block).unwrap();
        state.store(&mut block).unwrap();
        let gone = match &mut self.cut {
            Some(Cut { at: 0, landed }) => Some(*landed),
            Some(cut) => {
                cut.at -= 1;
                None
            }
            None => None,
        };
        if gone != Some(false) {
            self.block = block.to_bytes();
            self.learn(meaning);
        }
        match gone {
            Some(_) => {
                self.cut = None;
                Err(PowerGone)
            }
            None => Ok(()),
        }
    }

    fn learn(&mut self, meaning: Meaning) {
        match meaning {
            Meaning::Nothing => {}
            Meaning::Trial(version) => {
                self.failed.remove(&version);
                self.trials = 0;
            }
            Meaning::Passed(version) => {
                self.passed.insert(version);
            }
            Meaning::Failed(version) => {
                // A version that runs from the good slot is shown to work.
                if self.disk[index(self.state().slot())] != Some(version) {
                    self.failed.insert(version);
                }
            }
            Meaning::WentBack { to, from } => {
                self.passed.insert(to);
                if to != from {
                    self.failed.insert(from);
                }
            }
        }
    }

    /// One boot; whether it came up and stayed.
    fn boot(&mut self, outcome: Outcome) -> Result<bool, PowerGone> {
        let before = self.state();
        let (mut slot, next) = boot(&before);
        if next != before {
            self.save(&next, Meaning::Nothing)?;
        }
        let trial = slot != before.slot();
        let version = self.disk[index(slot)].expect("only what is whole is booted");
        if trial {
            assert!(!self.failed.contains(&version), "{version} failed and is tried again");
            self.trials += 1;
            assert!(self.trials <= TRIES, "{version} is tried for ever");
            match outcome {
                Outcome::Hangs => return Ok(false),
                Outcome::Unloadable => slot = before.slot(),
                Outcome::Healthy | Outcome::Sick => {}
            }
        }
        let state = self.state();
        let settled = settle(&state, slot).unwrap();
        if settled != state {
            let failed = self.disk[index(state.slot().other())].unwrap();
            self.save(&settled, Meaning::Failed(failed))?;
        }
        if slot == settled.slot() {
            let marked = mark_good(&settled, slot, Version::ZERO).unwrap();
            assert_eq!(marked, settled);
            return Ok(true);
        }
        if outcome == Outcome::Sick {
            self.save(&give_up(&settled, slot).unwrap(), Meaning::Failed(version))?;
            return Ok(false);
        }
        let meaning = match settled.content(slot) {
            Content::Good(_) => {
                Meaning::WentBack { to: version, from: self.disk[index(slot.other())].unwrap() }
            }
            _ => Meaning::Passed(version),
        };
        self.save(&mark_good(&settled, slot, Version::ZERO).unwrap(), meaning)?;
        Ok(true)
    }

    /// From power-on until the good slot runs and nothing is open, through power cuts.
    fn start(&mut self, outcomes: [Outcome; MOST_BOOTS]) {
        loop {
            let mut up = false;
            let mut gone = false;
            for outcome in outcomes {
                match self.boot(outcome) {
                    Ok(false) => {}
                    Ok(true) => {
                        up = true;
                        break;
                    }
                    Err(PowerGone) => {
                        gone = true;
                        break;
                    }
                }
            }
            if up {
                break;
            }
            assert!(gone, "no good slot after {MOST_BOOTS} boots");
        }
        let state = self.state();
        assert_eq!(state.phase(state.slot()), Phase::Settled);
        self.check();
    }

    fn check(&self) {
        let state = self.state();
        let version = self.disk[index(state.slot())].expect("the good slot is whole");
        assert_eq!(state.content(state.slot()), Content::Good(version));
        assert!(self.passed.contains(&version));
    }

    /// What an operator does while the good slot runs; whether a restart follows.
    fn act(&mut self, step: &Step) -> Result<bool, PowerGone> {
        let state = self.state();
        let running = state.slot();
        match *step {
            Step::Restart => Ok(true),
            Step::RollBack => {
                let Ok(next) = roll_back(&state, running) else {
                    return Ok(false);
                };
                let version = next.content(running.other()).version().unwrap();
                assert!(!self.failed.contains(&version), "back to {version}, which failed");
                // Nothing is taken back by this: had it failed, the line above would have said so.
                self.save(&next, Meaning::Trial(version))?;
                Ok(false)
            }
            Step::CallOff => {
                if let Ok(next) = call_off(&state, running) {
                    self.save(&next, Meaning::Nothing)?;
                }
                Ok(false)
            }
            Step::Install { version, force, interrupted } => {
                let version = Version::new(1, 0, version);
                let how = if force { Force::Yes } else { Force::No };
                let Ok((begun, install)) = begin(&state, running, version, how) else {
                    return Ok(false);
                };
                assert!(force || !self.failed.contains(&version), "{version} failed and is installed again");
                self.save(&begun, Meaning::Nothing)?;
                self.disk[index(running.other())] = None;
                if interrupted {
                    return Ok(true);
                }
                self.disk[index(running.other())] = Some(version);
                self.save(&finish(&begun, running, install).unwrap(), Meaning::Trial(version))?;
                Ok(false)
            }
        }
    }
}

fn index(slot: Slot) -> usize {
    usize::from(slot == Slot::B)
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..9_u32, any::<bool>(), prop::bool::weighted(0.2))
            .prop_map(|(version, force, interrupted)| Step::Install { version, force, interrupted }),
        2 => Just(Step::RollBack),
        1 => Just(Step::CallOff),
        4 => Just(Step::Restart),
    ]
}

fn any_outcome() -> impl Strategy<Value = Outcome> {
    prop::sample::select(vec![Outcome::Healthy, Outcome::Sick, Outcome::Hangs, Outcome::Unloadable])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_history_ends_in_a_good_slot(
        history in prop::collection::vec(
            (
                any_step(),
                prop::option::of((0..4_u8, any::<bool>()).prop_map(|(at, landed)| Cut { at, landed })),
                prop::array::uniform3(any_outcome()),
            ),
            0..40,
        )
    ) {
        let mut machine = Machine::new();
        for (step, cut, outcomes) in history {
            machine.cut = cut;
            // With power gone, or asked to: it starts again.
            if machine.act(&step).unwrap_or(true) {
                machine.start(outcomes);
            }
            machine.check();
        }
        machine.cut = None;
        machine.start([Outcome::Hangs; MOST_BOOTS]);
    }
}

/// Two tries that hang, and the good slot: no fewer boots, no more.
#[test]
fn a_trial_that_hangs_takes_three_boots() {
    let mut machine = Machine::new();
    machine.act(&Step::Install { version: 1, force: false, interrupted: false }).ok().unwrap();
    assert!(matches!(machine.boot(Outcome::Hangs), Ok(false)));
    assert!(matches!(machine.boot(Outcome::Hangs), Ok(false)));
    assert!(matches!(machine.boot(Outcome::Healthy), Ok(true)));
    assert_eq!(machine.state().slot(), Slot::A);
    assert!(machine.failed.contains(&Version::new(1, 0, 1)));
}
