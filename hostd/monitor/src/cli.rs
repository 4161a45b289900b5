//! The command line.

use std::ffi::OsString;
use std::process::ExitCode;

/// Exit code for a snapshot that cannot be restored here: the caller rebuilds it.
pub const EXIT_INCOMPATIBLE: u8 = 3;

/// Runs the monitor; `args` starts with the program's name.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let count = args.into_iter().count();
    eprintln!("mote-monitor: {count} arguments, none understood yet");
    ExitCode::FAILURE
}
