//! Embedded KVM monitor: one process per microVM.

use std::process::ExitCode;

fn main() -> ExitCode {
    mote_monitor::cli::main(std::env::args_os())
}
