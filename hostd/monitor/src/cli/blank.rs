//! `mote-monitor blank`: ready for anything, then told what to be.

use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use clap::Parser;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::args::{Arguments, Blank, Command, Common, Endpoint};
use super::net::NetArgument;
use super::run::{self, Post, Ready, RunError};
use crate::control::{Event, LINE_LIMIT, Reply, Request, Told};
use crate::machine::Bare;
use crate::meter::Meter;
use crate::signals::Signal;
use crate::vm::ExitReason;

/// Where a descriptor that was passed along is put: where it would have been inherited.
const PASSED_FD: i32 = 1;

/// Why a blank does not become a microVM.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error("The blank does not understand what it was told")]
    Unknown(#[source] serde_json::Error),
    #[error("The blank was told more than {LINE_LIMIT} bytes")]
    TooLong,
    #[error("The blank was passed more than one descriptor")]
    TooMany,
    #[error("A blank takes 'start' and 'quit'; there is nothing else to do with it")]
    Operation,
    #[error("The blank was told to be what it cannot: {0}")]
    Arguments(String),
    #[error("A blank becomes what 'boot' or 'restore' start, nothing else")]
    Command,
    #[error("The blank has its control socket: --control cannot be said to it")]
    Control,
    #[error("The arguments name descriptor {0}, which the blank does not have")]
    NoDescriptor(i32),
    #[error("The blank was passed a descriptor that its arguments do not name as fd:1")]
    NotNamed,
    #[error("Cannot take over a passed descriptor")]
    Passed(#[source] Errno),
    #[error("Cannot wait to be told what to be")]
    Wait(#[source] Errno),
}

/// How the waiting ended.
enum Heard {
    Start(Vec<String>, Option<OwnedFd>),
    End(ExitReason),
}

/// `mote-monitor blank`.
pub(super) fn run(arguments: &Blank, mut meter: Meter) -> ExitCode {
    meter.phase("arguments");
    let control = Some(Endpoint::Descriptor(arguments.control));
    let mut post = match Post::open(arguments.cgroup.as_deref(), control) {
        Ok(post) => post,
        Err(error) => return run::failed(&error, None),
    };
    let bare = match Bare::ahead(arguments.vcpus, &mut meter) {
        Ok(bare) => bare,
        Err(error) => return run::failed(&RunError::Start(error), post.server),
    };
    let reading = meter.read();
    let ready =
        Event::Blank { vcpus: arguments.vcpus, setup_cpu_us: reading.cpu_us, setup_wall_us: reading.wall_us };
    if let Some(server) = &mut post.server {
        server.announce(&ready);
    }
    let told = wait(&mut post).and_then(|heard| match heard {
        Heard::Start(arguments, queue) => {
            meter.restart();
            command(arguments, queue).map(Ok)
        }
        Heard::End(reason) => Ok(Err(reason)),
    });
    match told {
        Ok(Ok(Command::Boot(boot))) => run::boot(boot, Some(Ready { post, bare }), meter),
        Ok(Ok(Command::Restore(restore))) => run::restore(restore, Some(Ready { post, bare }), meter),
        Ok(Ok(_)) => run::failed(&RequestError::Command.into(), post.server),
        Ok(Err(reason)) => {
            if let Some(server) = &mut post.server {
                server.announce(&Event::Exited { reason: reason.to_string() });
            }
            ExitCode::SUCCESS
        }
        Err(error) => run::failed(&error.into(), post.server),
    }
}

/// Waits, without a bound, until the owner says something or is gone.
fn wait(post: &mut Post) -> Result<Heard, RequestError> {
    let mut passed = None;
    loop {
        let Some(server) = &mut post.server else { return Ok(Heard::End(ExitReason::OwnerGone)) };
        let Some(owner) = server.owner() else { return Ok(Heard::End(ExitReason::OwnerGone)) };
        let mut both =
            [PollFd::from_borrowed_fd(owner, PollFlags::IN), PollFd::new(&post.signals, PollFlags::IN)];
        match poll(&mut both, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(RequestError::Wait(error)),
        }
        while let Some(signal) = post.signals.next() {
            match signal {
                Signal::Terminate => return Ok(Heard::End(ExitReason::Terminated)),
                Signal::Parent if post.signals.parent_died() => return Ok(Heard::End(ExitReason::OwnerGone)),
                Signal::Parent => {}
            }
        }
        match server.hear(&mut passed) {
            Told::Nothing => {}
            Told::Request(Ok(Request::Start { arguments })) => return Ok(Heard::Start(arguments, passed)),
            Told::Request(Ok(Request::Quit)) => {
                server.answer(&Reply::done());
                return Ok(Heard::End(ExitReason::Quit));
            }
            Told::Request(Ok(_)) => return Err(RequestError::Operation),
            Told::Request(Err(error)) => return Err(RequestError::Unknown(error)),
            Told::TooLong => return Err(RequestError::TooLong),
            Told::TooMany => return Err(RequestError::TooMany),
            Told::Gone => return Ok(Heard::End(ExitReason::OwnerGone)),
        }
    }
}

/// What `arguments` mean, as they would on a command line, with `queue` in its place.
fn command(arguments: Vec<String>, queue: Option<OwnedFd>) -> Result<Command, RequestError> {
    let line = std::iter::once("mote-monitor".to_owned()).chain(arguments);
    let parsed = Arguments::try_parse_from(line).map_err(|error| {
        let text = error.to_string();
        // What comes behind the first paragraph is for people at a terminal.
        let said: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
        let said = said.join(" ");
        RequestError::Arguments(said.strip_prefix("error: ").unwrap_or(&said).to_owned())
    })?;
    let common = match &parsed.command {
        Command::Boot(boot) => &boot.common,
        Command::Restore(restore) => &restore.common,
        _ => return Err(RequestError::Command),
    };
    check(common, queue.is_some())?;
    if let Some(queue) = queue {
        rustix::stdio::dup2_stdout(queue.as_fd()).map_err(RequestError::Passed)?;
    }
    Ok(parsed.command)
}

/// Whether the descriptors that are named are those there are.
fn check(common: &Common, passed: bool) -> Result<(), RequestError> {
    if common.control.is_some() {
        return Err(RequestError::Control);
    }
    if let Some(Endpoint::Descriptor(fd)) = common.vsock {
        return Err(RequestError::NoDescriptor(fd));
    }
    match common.net.as_ref().and_then(NetArgument::descriptor) {
        Some(PASSED_FD) if passed => Ok(()),
        Some(fd) => Err(RequestError::NoDescriptor(fd)),
        None if passed => Err(RequestError::NotNamed),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(line: &str) -> String {
        let words = line.split_whitespace().map(str::to_owned).collect();
        command(words, None).unwrap_err().to_string()
    }

    #[test]
    fn only_what_a_blank_can_be_is_taken() {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert!(matches!(command(words("boot --kernel k"), None), Ok(Command::Boot(_))));
        assert!(matches!(
            command(words("restore --snapshot s --net detached"), None),
            Ok(Command::Restore(_))
        ));
        for (line, why) in [
            ("", "cannot"),
            ("--help", "cannot"),
            ("boot", "required arguments were not provided: --kernel <KERNEL>"),
            ("boot --kernel k --mem 1", "1 is not in"),
            ("blank --control fd:0", "nothing else"),
            ("ctl --control c status", "nothing else"),
            ("boot --kernel k --control c", "--control cannot be said"),
            ("boot --kernel k --vsock fd:3 --vsock-path v", "descriptor 3"),
            ("boot --kernel k --net fd:1,v4=10.0.0.1,v6=fd::1", "descriptor 1"),
            ("boot --kernel k --net fd:7,v4=10.0.0.1,v6=fd::1", "descriptor 7"),
        ] {
            let said = refused(line);
            assert!(said.contains(why), "{line}: {said}");
        }
        let queue = std::fs::File::open("/dev/null").unwrap();
        let unused = command(words("boot --kernel k"), Some(queue.into()));
        assert!(matches!(unused, Err(RequestError::NotNamed)));
    }

    proptest! {
        #[test]
        fn any_arguments_never_panic(words in proptest::collection::vec("(boot|restore|--[a-z]{3,8}|fd:[0-9]|.{0,9})", 0..8)) {
            let _ = command(words, None);
        }
    }
}
