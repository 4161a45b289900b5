//! The power button: ACPI (and a BMC, and a hypervisor) press it as a key on an input device.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::uevent::Announcements;
use crate::log;
use crate::reason::{Action, Cause, Stop};

/// Size of the kernel's `struct input_event` on 64-bit machines: two 8-byte times, type, code, value.
const EVENT: usize = 24;

/// `EV_KEY`, from the kernel's input-event-codes.
const TYPE_KEY: u16 = 1;

/// `KEY_POWER` and `KEY_POWER2`.
const POWER_KEYS: [u16; 2] = [116, 0x164];

/// Most events read at once.
const BATCH: usize = 64;

/// Whether bytes read from an input device contain a press of a power key.
fn is_pressed(bytes: &[u8]) -> bool {
    bytes.chunks_exact(EVENT).any(|event| {
        let (Some(kind), Some(code), Some(value)) = (word(event, 16), word(event, 18), word(event, 20))
        else {
            return false;
        };
        kind == TYPE_KEY && POWER_KEYS.contains(&code) && value == 1
    })
}

fn word(event: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(event.get(at..at + 2)?.try_into().ok()?))
}

/// Watches all input devices, those that come later too, and asks for power off when a power key is
/// pressed. Never returns unless announcements cannot be heard.
pub async fn watch(stops: mpsc::Sender<Stop>) {
    let mut announcements = Announcements::listen().ok();
    let mut known: Vec<PathBuf> = Vec::new();
    loop {
        for path in devices() {
            if known.contains(&path) {
                continue;
            }
            if let Some(device) = open(&path) {
                tokio::spawn(listen(device, path.clone(), stops.clone()));
                known.push(path);
            }
        }
        known.retain(|path| path.exists());
        let Some(heard) = &mut announcements else { return };
        if let Err(error) = heard.next().await {
            log::line(&format!("power button: {}", crate::text::chain(&error)));
            return;
        }
    }
}

fn devices() -> Vec<PathBuf> {
    let Ok(folder) = std::fs::read_dir("/dev/input") else { return Vec::new() };
    folder
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("event")))
        .collect()
}

fn open(path: &Path) -> Option<AsyncFd<File>> {
    let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
    // SAFETY: the file owns its descriptor, hands out that one only, and stays inside the `AsyncFd`.
    unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) }.ok()
}

async fn listen(device: AsyncFd<File>, path: PathBuf, stops: mpsc::Sender<Stop>) {
    let mut buffer = [0_u8; EVENT * BATCH];
    loop {
        let Ok(mut guard) = device.readable().await else { return };
        match guard.try_io(|file| file.get_ref().read(&mut buffer)) {
            Ok(Ok(length)) if length > 0 => {
                if is_pressed(buffer.get(..length).unwrap_or_default()) {
                    let _ = stops.try_send(Stop { action: Action::PowerOff, cause: Cause::Button });
                }
            }
            // Unplugged.
            Ok(_) => {
                log::note(&format!("{} is gone", path.display()));
                return;
            }
            Err(_would_block) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event(kind: u16, code: u16, value: u32) -> Vec<u8> {
        let mut bytes = vec![0; 16];
        bytes.extend(kind.to_le_bytes());
        bytes.extend(code.to_le_bytes());
        bytes.extend(value.to_le_bytes());
        bytes
    }

    #[test]
    fn only_the_press_of_a_power_key_counts() {
        assert!(is_pressed(&event(1, 116, 1)));
        assert!(!is_pressed(&event(1, 116, 0)), "release");
        assert!(!is_pressed(&event(1, 30, 1)), "another key");
        assert!(!is_pressed(&event(4, 116, 1)), "not a key");
        let both = [event(0, 0, 0), event(1, 116, 1)].concat();
        assert!(is_pressed(&both));
        assert!(!is_pressed(&both[..47]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            is_pressed(&bytes);
        }
    }
}
