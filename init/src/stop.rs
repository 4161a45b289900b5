//! The shutdown, as a table, and the tasks in it. Every step is bounded, and so is the whole.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};
use tokio::time::{Instant, sleep, timeout};

use crate::log;
use crate::machine::Machine;
use crate::reason::{Action, Stop};
use crate::sequence::{Failure, Outcome, Phase, Task};
use crate::sys::{cgroup, mountinfo};

use Failure::Degrades;

const SECOND: Duration = Duration::from_secs(1);

const fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

/// Time hostd has to refuse new calls, finish running ones and flush its store.
const DRAIN: Duration = Duration::from_secs(15);

/// Time for processes to end after SIGTERM, and to disappear after SIGKILL.
const GRACE: Duration = Duration::from_secs(1);

/// After this the power goes off whatever is still under way. More than the bounds of the table's steps
/// together.
const WHOLE: Duration = Duration::from_secs(75);

/// From a running machine to one whose power can be cut.
#[rustfmt::skip]
pub const SEQUENCE: &[Phase] = &[
    Phase { name: "service", tasks: &[
        Task { name: "hostd",     bound: seconds(16), failure: Degrades, run: |m| Box::pin(stop_service(m)) },
    ]},
    Phase { name: "sandboxes", tasks: &[
        Task { name: "sandboxes", bound: seconds(6),  failure: Degrades, run: |m| Box::pin(kill_groups(m)) },
    ]},
    Phase { name: "processes", tasks: &[
        Task { name: "processes", bound: seconds(4),  failure: Degrades, run: |m| Box::pin(kill_all(m)) },
    ]},
    Phase { name: "flush", tasks: &[
        Task { name: "flush",     bound: seconds(20), failure: Degrades, run: |m| Box::pin(flush(m)) },
    ]},
    Phase { name: "unmount", tasks: &[
        Task { name: "unmount",   bound: seconds(20), failure: Degrades, run: |m| Box::pin(unmount_all(m)) },
    ]},
];

/// Stops the machine. Does not return.
pub async fn run(machine: Arc<Machine>, stop: Stop) -> ! {
    log::step(&format!("stopping: {stop}"), true);
    machine.watchdog.stopping();
    deadline(stop.action);
    crate::sequence::run(SEQUENCE, &machine).await;
    log::step(&stop.action.to_string(), true);
    log::drain(SECOND);
    machine.watchdog.close();
    now(stop.action)
}

/// Stops at once, without any order.
pub fn now(action: Action) -> ! {
    // It only returns if the kernel refuses; then the kernel's own last resort is as good as ours.
    let _ = rustix::system::reboot(action.command());
    loop {
        std::thread::sleep(SECOND);
        let _ = rustix::system::reboot(Action::Reboot.command());
    }
}

/// A thread of its own ends the machine even when everything else hangs.
fn deadline(action: Action) {
    let thread = std::thread::Builder::new().name("deadline".to_owned()).spawn(move || {
        std::thread::sleep(WHOLE);
        log::line("shutdown took too long");
        now(action)
    });
    if thread.is_err() {
        log::line("no thread for the deadline of the shutdown");
    }
}

async fn stop_service(machine: Arc<Machine>) -> Outcome {
    Ok(machine.hostd.stop(DRAIN).await?.to_owned())
}

async fn kill_groups(_: Arc<Machine>) -> Outcome {
    let killed = tokio::task::spawn_blocking(|| {
        [cgroup::HOSTD, cgroup::SANDBOXES]
            .map(|name| cgroup::kill(&Path::new(cgroup::ROOT).join(name), 2 * SECOND))
    });
    match killed.await? {
        [true, true] => Ok("gone".to_owned()),
        _ => Err("some cannot be killed".into()),
    }
}

/// Whatever else there is: asked, then killed. Everything is our child by now, so there is nothing left
/// when there are no children left.
async fn kill_all(machine: Arc<Machine>) -> Outcome {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        // -1: every process but ourselves. No such process: nothing to do.
        let _ = kill(Pid::from_raw(-1), signal);
        if timeout(GRACE, no_children(&machine)).await.is_ok() {
            return Ok("none left".to_owned());
        }
    }
    Err("some cannot be killed".into())
}

async fn no_children(machine: &Machine) {
    // Kernel threads are not our children, so this ends with the last process.
    while machine.reaper.reap().1 {
        sleep(Duration::from_millis(5)).await;
    }
}

async fn flush(_: Arc<Machine>) -> Outcome {
    tokio::task::spawn_blocking(rustix::fs::sync).await?;
    Ok("all written".to_owned())
}

/// Unmounts from the top down. What is still busy is made read-only, which leaves a clean disk as well.
async fn unmount_all(_: Arc<Machine>) -> Outcome {
    tokio::task::spawn_blocking(unmount_blocking).await?.map_err(Into::into)
}

fn unmount_blocking() -> Result<String, String> {
    let text =
        std::fs::read("/proc/self/mountinfo").map_err(|error| format!("Cannot read mounts: {error}"))?;
    let mounts = mountinfo::parse(&text);
    let started = Instant::now();
    let mut done = Vec::new();
    let mut left = Vec::new();
    for mounted in mountinfo::unmount_order(&mounts) {
        let target = mounted.target.display().to_string();
        let result = unmount(&mounted.target, UnmountFlags::NOFOLLOW);
        if !mounted.on_device {
            continue;
        }
        match result {
            Ok(()) => done.push(target),
            Err(busy) => match mount_remount(&mounted.target, MountFlags::RDONLY, "") {
                Ok(()) => done.push(format!("{target} (read-only: {busy})")),
                Err(error) => left.push(format!("{target}: {error}")),
            },
        }
        if started.elapsed() > 15 * SECOND {
            left.push("out of time".to_owned());
            break;
        }
    }
    if left.is_empty() { Ok(done.join(", ")) } else { Err(left.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_of_the_steps_fit_into_the_whole() {
        let steps: Duration =
            SEQUENCE.iter().map(|phase| phase.tasks.iter().map(|task| task.bound).max().unwrap()).sum();
        assert!(steps + 2 * SECOND <= WHOLE, "{steps:?}");
        assert!(SEQUENCE.iter().flat_map(|phase| phase.tasks).all(|task| task.failure == Degrades));
    }
}
