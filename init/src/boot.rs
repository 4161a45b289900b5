//! The boot, as a table, and the tasks in it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::disk::{data, system};
use crate::log;
use crate::machine::Machine;
use crate::net;
use crate::ntp;
use crate::sequence::{Failure, Outcome, Phase, Task};
use crate::service::hostd::{self, Status};
use crate::sys::adjust::Kernel;
use crate::sys::{button, cgroup, entropy, mounts, sysctl};

use Failure::{Degrades, Ends};

/// Bound of steps that take milliseconds. Generous: on a crowded emulator milliseconds become seconds, and
/// a step given up is worse than a late one.
const QUICK: Duration = Duration::from_secs(20);

/// Time the kernel's random generator gets; it is ready long before on all but the oddest machines.
const RANDOM: Duration = Duration::from_secs(5);

/// Largest wait for disks an option can ask for, and some more.
const DISKS: Duration = Duration::from_secs(660);

/// Checking a large damaged disk can take this long; hostd starts afterwards, or without it.
const DATA: Duration = Duration::from_secs(1500);

/// From mounted kernel interfaces to a running service. The network comes up at the side: it is started
/// early, waited for by nobody.
#[rustfmt::skip]
pub const SEQUENCE: &[Phase] = &[
    Phase { name: "ground", tasks: &[
        Task { name: "network",  bound: QUICK, failure: Degrades, run: |m| Box::pin(network(m)) },
        Task { name: "settings", bound: QUICK, failure: Degrades, run: |m| Box::pin(settings(m)) },
        Task { name: "cgroups",  bound: QUICK, failure: Degrades, run: |m| Box::pin(cgroups(m)) },
        Task { name: "clock",    bound: QUICK, failure: Degrades, run: |m| Box::pin(set_clock(m)) },
        Task { name: "entropy",  bound: QUICK, failure: Degrades, run: |m| Box::pin(randomness(m)) },
        Task { name: "watchdog", bound: QUICK, failure: Degrades, run: |m| Box::pin(watchdog(m)) },
        Task { name: "button",   bound: QUICK, failure: Degrades, run: |m| Box::pin(power_button(m)) },
        SYSTEM,
    ]},
    DATA_PHASE,
    SERVICE_PHASE,
];

/// What is left to do when the system image was not there at first.
const LATE: &[Phase] = &[Phase { name: "system", tasks: &[SYSTEM] }, DATA_PHASE, SERVICE_PHASE];

const SYSTEM: Task = Task { name: "system", bound: DISKS, failure: Ends, run: |m| Box::pin(system_disk(m)) };

const DATA_PHASE: Phase = Phase {
    name: "data",
    tasks: &[Task { name: "data", bound: DATA, failure: Degrades, run: |m| Box::pin(data_disk(m)) }],
};

const SERVICE_PHASE: Phase = Phase {
    name: "service",
    tasks: &[Task { name: "hostd", bound: QUICK, failure: Degrades, run: |m| Box::pin(service(m)) }],
};

/// How long the network may delay the line that says the machine is ready (never hostd).
const READY_WITHOUT_NETWORK: Duration = Duration::from_secs(8);

/// A system image that is late is mounted whenever it comes; this often the console is told.
const REMIND: Duration = Duration::from_secs(60);

/// Boots. Returns when hostd was started and the network has settled; without a system image, never: the
/// power button still works and the cause stays on the console.
pub async fn run(machine: Arc<Machine>) {
    let mut rest = SEQUENCE;
    while !crate::sequence::run(rest, &machine).await {
        rest = LATE;
        log::line("no usable system image; looking again, the power button works");
        tokio::time::sleep(REMIND).await;
    }
    let mut network = machine.network.subscribe();
    // The time bound is the answer too.
    let _ = tokio::time::timeout(READY_WITHOUT_NETWORK, network.wait_for(|state| state.settled)).await;
    let address = network.borrow_and_update().address;
    let address = address.map_or_else(|| "none".to_owned(), |address| address.to_string());
    let after = clock::since_boot();
    log::line(&format!("ready address={address} after={}.{:03}s", after.as_secs(), after.subsec_millis()));
}

async fn network(machine: Arc<Machine>) -> Outcome {
    // What is started here goes on whatever becomes of this step: nothing is worse than no network.
    let wish = net::Wish { hostname: machine.options.hostname.clone(), fixed: machine.options.fixed.clone() };
    tokio::spawn(net::run(wish, machine.network.clone()));
    tokio::spawn(follow_address(Arc::clone(&machine)));
    rustix::system::sethostname(machine.options.hostname.as_bytes())?;
    net::loopback().await?;
    Ok(format!("{}, loopback up, others follow", machine.options.hostname))
}

/// Keeps the address in `boot.toml` up to date: hostd reads it when it wants to know, and the address may
/// come after it started.
async fn follow_address(machine: Arc<Machine>) {
    let mut state = machine.network.subscribe();
    while state.changed().await.is_ok() {
        let address = state.borrow_and_update().address;
        machine.facts(|facts| {
            facts.address = address.map(|address| address.to_string()).unwrap_or_default();
            facts.write();
        });
    }
}

async fn settings(_: Arc<Machine>) -> Outcome {
    let complaints = blocking(sysctl::apply).await?;
    if !complaints.is_empty() {
        return Err(complaints.join("; ").into());
    }
    Ok(format!("{} settings", sysctl::TABLE.len()))
}

async fn cgroups(_: Arc<Machine>) -> Outcome {
    let controllers = blocking(|| cgroup::make_tree(Path::new(cgroup::ROOT))).await??;
    Ok(controllers.join(" "))
}

async fn set_clock(machine: Arc<Machine>) -> Outcome {
    let (sound, source) = clock::set()?;
    machine.facts(|facts| {
        facts.clock_ok = sound;
        facts.clock.clone_from(&source);
    });
    // What is started here waits for the network, and nothing for it.
    tokio::spawn(ntp::run(
        machine.options.ntp.clone(),
        Kernel,
        machine.network.subscribe(),
        machine.time.clone(),
    ));
    tokio::spawn(follow_time(Arc::clone(&machine)));
    Ok(format!("from {source}"))
}

/// Keeps what `boot.toml` says of the clock up to date.
async fn follow_time(machine: Arc<Machine>) {
    let mut state = machine.time.subscribe();
    while state.changed().await.is_ok() {
        let state = state.borrow_and_update().clone();
        machine.facts(|facts| {
            match &state {
                ntp::State::Set { .. } => {
                    facts.clock_ok = true;
                    facts.clock = state.to_string();
                }
                // What it was set by before is as good as it was.
                ntp::State::Unasked | ntp::State::Off | ntp::State::Silence(_) => {}
                _ => facts.clock_ok = false,
            }
            facts.clock_problem = state.problem().unwrap_or_default();
            facts.write();
        });
    }
}

async fn randomness(_: Arc<Machine>) -> Outcome {
    match blocking(|| entropy::prepare(RANDOM)).await? {
        true => Ok("ready".to_owned()),
        false => Err("the kernel has not enough randomness yet".into()),
    }
}

async fn power_button(machine: Arc<Machine>) -> Outcome {
    tokio::spawn(button::watch(machine.stops.clone()));
    Ok("watched".to_owned())
}

async fn watchdog(machine: Arc<Machine>) -> Outcome {
    tokio::spawn(crate::watchdog::run(Arc::clone(&machine)));
    let opened = tokio::task::spawn_blocking(move || machine.watchdog.open()).await??;
    Ok(opened.map_or_else(|| "none".to_owned(), |(name, timeout)| format!("{name}, {} s", timeout.as_secs())))
}

async fn system_disk(machine: Arc<Machine>) -> Outcome {
    let partition = system::mount(2 * machine.options.disk_wait).await?;
    // Its pages are read while the data disk is made ready. A hint: failing costs a little time.
    tokio::task::spawn_blocking(|| {
        let program = std::fs::File::open(hostd::PROGRAM)?;
        rustix::fs::fadvise(&program, 0, None, rustix::fs::Advice::WillNeed).map_err(std::io::Error::from)
    });
    Ok(format!("{} on {}", partition.device.display(), system::TARGET))
}

async fn data_disk(machine: Arc<Machine>) -> Outcome {
    // Until it is known better: also what stays if this takes longer than its bound.
    machine.facts(|facts| {
        facts.data.state = data::State::Failed;
        facts.data.detail = "preparing the data disk took too long".to_owned();
    });
    let report = data::prepare(&machine.reaper, machine.options.disk_wait, machine.options.data_repair).await;
    machine.facts(|facts| facts.data = report.clone());
    if matches!(report.state, data::State::Absent | data::State::Failed) {
        mounts::mount_barrier(data::TARGET)?;
    }
    if report.state == data::State::Ok {
        machine.crashes.disk_is_ready();
    }
    let crashes = machine.crashes.collect().await;
    if crashes > 0 {
        machine
            .problem(format!("The kernel crashed before this boot ({crashes} times): see /system/crashes"));
    }
    let said = if report.detail.is_empty() { "clean".to_owned() } else { report.detail };
    match report.state {
        data::State::Ok => Ok(format!("on {}, {said}", data::TARGET)),
        data::State::Absent => Err(said.into()),
        data::State::ReadOnly => Err(format!("read-only: {said}").into()),
        data::State::Failed => Err(format!("not usable: {said}").into()),
    }
}

async fn service(machine: Arc<Machine>) -> Outcome {
    machine.facts(|facts| facts.write());
    let level = machine.options.service.get("log.level").cloned().unwrap_or_else(|| "info".to_owned());
    let mut status = machine.hostd.status();
    let supervisor = Arc::clone(&machine);
    tokio::spawn(async move {
        supervisor.hostd.supervise(supervisor.reaper.clone(), level, &supervisor.crashes).await;
    });
    match *status.wait_for(|status| matches!(status, Status::Running(_))).await? {
        Status::Running(pid) => Ok(format!("started as process {pid}")),
        _ => Err("stopped while starting".into()),
    }
}

async fn blocking<T: Send + 'static>(work: fn() -> T) -> Result<T, tokio::task::JoinError> {
    tokio::task::spawn_blocking(work).await
}
