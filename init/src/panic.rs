//! When init itself fails: say why, save what can be saved, start again. A hanging machine helps nobody.

use std::io::Write;
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::system::RebootCommand;

use crate::log;

/// Time to read the reason on a console before it scrolls away.
const READ: Duration = Duration::from_secs(5);

static UNDER_WAY: AtomicBool = AtomicBool::new(false);

/// Installs the hook. From here on a panic on any thread restarts the machine.
pub fn install() {
    std::panic::set_hook(Box::new(die));
}

fn die(info: &PanicHookInfo<'_>) {
    if UNDER_WAY.swap(true, Ordering::SeqCst) {
        return;
    }
    let text = info.to_string().replace('\n', " ");
    // The kernel's log first: it needs nothing of ours and reaches consoles and crash storage.
    if let Ok(mut kernel) = std::fs::File::options().write(true).open("/dev/kmsg") {
        // In one piece: every write is a message of its own.
        let _ = kernel.write_all(format!("<2>mote: init failed: {text}\n").as_bytes());
    }
    // The log may be what failed, and syncing may hang: neither may keep us from restarting.
    let saving = std::thread::Builder::new().spawn(move || {
        log::line(&format!("init failed: {text}; restarting"));
        log::drain(Duration::from_secs(1));
        rustix::fs::sync();
    });
    drop(saving);
    std::thread::sleep(READ);
    // Returning lets the panic go on, which ends PID 1: the kernel panics and restarts by itself.
    let _ = rustix::system::reboot(RebootCommand::Restart);
}
