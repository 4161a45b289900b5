//! What the boot loader decides.

use super::{Slot, State};

/// GRUB's part: which slot to boot, counted and saved. Reads `$mote_env`, the path of the block; sets `default` and
/// `fallback` for a menu of slot a and slot b, and `mote_boot` to the slot's name.
pub const GRUB_CFG: &str = include_str!("grub.cfg");

/// What [`GRUB_CFG`] does with a state: the slot that is booted, and the state that is saved before it is. If
/// it cannot be saved, the good slot is booted.
pub fn boot(state: &State) -> (Slot, State) {
    match state.trial {
        Some(tries @ 1..) => (state.slot.other(), State { trial: Some(tries - 1), ..state.clone() }),
        Some(0) | None => (state.slot, state.clone()),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::slots::{Content, TRIES};
    use crate::version::Version;

    fn states() -> Vec<State> {
        let (good, new) = (Version::new(1, 0, 0), Version::new(1, 1, 0));
        let trials = std::iter::once(None).chain((0..=TRIES).map(Some));
        trials
            .flat_map(|trial| [Slot::A, Slot::B].map(|slot| (trial, slot)))
            .map(|(trial, slot)| {
                let state = State::new(slot, good, good).with(slot.other(), Content::New(new));
                State { trial, ..state }
            })
            .collect()
    }

    #[test]
    fn tries_run_out() {
        for state in states() {
            let (mut now, mut tried) = (state.clone(), 0);
            loop {
                let (slot, next) = boot(&now);
                if slot == state.slot {
                    assert_eq!(next, now);
                    break;
                }
                tried += 1;
                now = next;
            }
            assert_eq!(tried, state.trial.unwrap_or(0));
        }
    }

    /// GRUB's script is near enough to a shell's to be run by one: it decides as `boot` does, for every state.
    #[test]
    fn the_script_decides_alike() {
        // In bash a function goes before a builtin of its name.
        const GRUB: &str = r#"
            set() { printf -v "${1%%=*}" %s "${1#*=}"; }
            load_env() { mote_slot=$SLOT mote_trial=$TRIAL mote_tries=$LEFT; }
            save_env() { saved=$mote_tries; return "$FAILS"; }
        "#;
        if Command::new("bash").arg("--version").output().is_err() {
            println!("skipped: no bash");
            return;
        }
        let script = format!("{GRUB}\n{GRUB_CFG}\necho \"$mote_boot $default $fallback ${{saved-none}}\"");
        for state in states() {
            for fails in [false, true] {
                let output = Command::new("bash")
                    .args(["-c", &script])
                    .env("SLOT", state.slot.name())
                    .env("TRIAL", state.trial().map_or("", |(slot, _)| slot.name()))
                    .env("LEFT", state.trial.unwrap_or(0).to_string())
                    .env("FAILS", u8::from(fails).to_string())
                    .output()
                    .unwrap();
                assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
                let (slot, next) = boot(&state);
                let chosen = if fails { state.slot } else { slot };
                let menu = if chosen == Slot::A { "0 1" } else { "1 0" };
                let saved =
                    next.trial.filter(|_| next != state).map_or("none".to_owned(), |tries| tries.to_string());
                let said = String::from_utf8(output.stdout).unwrap();
                assert_eq!(said.trim_end(), format!("{chosen} {menu} {saved}"), "{state:?}");
            }
        }
    }

    #[test]
    fn grub_takes_the_script() {
        if Command::new("grub-script-check").arg("--version").output().is_err() {
            println!("skipped: no grub-script-check (package grub-common)");
            return;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), GRUB_CFG).unwrap();
        assert!(Command::new("grub-script-check").arg(file.path()).status().unwrap().success());
    }
}
