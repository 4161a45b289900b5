//! The command line.

mod args;
mod blank;
mod net;
mod run;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::control::{Client, ClientError, Reply, Request};
use crate::meter::Meter;
use args::{Arguments, Command, Operation};

/// Exit code for a snapshot that cannot be restored here: the caller rebuilds it.
pub const EXIT_INCOMPATIBLE: u8 = 3;

/// Bound on every answer the `snapshot` and `ctl` commands wait for: a large memory goes to a slow disk.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);

/// Runs the monitor; `args` starts with the program's name. Exit codes: 0 after an orderly end, 1 when it failed, 2
/// for a wrong command line, [`EXIT_INCOMPATIBLE`] for a snapshot that cannot be restored here.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let meter = Meter::new();
    let arguments = match Arguments::try_parse_from(args) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors and go to standard output; clap knows. A closed output is nobody's.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match arguments.command {
        Command::Boot(boot) => run::boot(boot, None, meter),
        Command::Restore(restore) => run::restore(restore, None, meter),
        Command::Blank(blank) => blank::run(&blank, meter),
        Command::Snapshot { control, out, sync, resume } => {
            let mut requests = vec![Request::Pause, Request::Snapshot { dir: out, sync }];
            if resume {
                requests.push(Request::Resume);
            }
            client(&control, &requests)
        }
        Command::Ctl { control, operation } => {
            let request = match operation {
                Operation::Pause => Request::Pause,
                Operation::Resume => Request::Resume,
                Operation::Status => Request::Status,
                Operation::Quit => Request::Quit,
            };
            client(&control, &[request])
        }
    }
}

/// Sends requests until one is refused; each reply is printed as it came.
fn client(control: &std::path::Path, requests: &[Request]) -> ExitCode {
    let talk = || -> Result<bool, ClientError> {
        let mut client = Client::connect(control, ANSWER_TIMEOUT)?;
        for request in requests {
            let reply = client.request(request)?;
            print(&reply);
            if !reply.ok {
                return Ok(false);
            }
        }
        Ok(true)
    };
    match talk() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mote-monitor: {}", crate::error_chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn print(reply: &Reply) {
    if let Ok(line) = serde_json::to_string(reply) {
        println!("{line}");
    }
}
