//! The boot, as a table, and the tasks in it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mote_config::{API_FILE, Layer};
use tokio::sync::watch;

use crate::clock;
use crate::configuration::{self, metadata};
use crate::disk::system::Source;
use crate::disk::{configuration as partition, data, slot, system};
use crate::log;
use crate::machine::Machine;
use crate::net;
use crate::ntp;
use crate::sequence::{Failure, Outcome, Phase, Task};
use crate::service::hostd::{self, Status};
use crate::service::tool;
use crate::sys::adjust::{Clock, Kernel};
use crate::sys::{button, cgroup, entropy, lockdown, mounts, sysctl};

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
        CONFIGURATION,
        Task { name: "network",  bound: QUICK, failure: Degrades, run: |m| Box::pin(network(m)) },
        Task { name: "settings", bound: QUICK, failure: Degrades, run: |m| Box::pin(settings(m)) },
        Task { name: "lockdown", bound: QUICK, failure: Degrades, run: |m| Box::pin(lock_down(m)) },
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
const LATE: &[Phase] =
    &[Phase { name: "system", tasks: &[CONFIGURATION, SYSTEM] }, DATA_PHASE, SERVICE_PHASE];

const CONFIGURATION: Task =
    Task { name: "configuration", bound: DISKS, failure: Degrades, run: |m| Box::pin(find_configuration(m)) };

const SYSTEM: Task = Task { name: "system", bound: DISKS, failure: Ends, run: |m| Box::pin(system_disk(m)) };

const DATA_PHASE: Phase = Phase {
    name: "data",
    tasks: &[
        Task { name: "data", bound: DATA, failure: Degrades, run: |m| Box::pin(data_disk(m)) },
        Task { name: "user-data", bound: QUICK, failure: Degrades, run: |m| Box::pin(user_data(m)) },
    ],
};

const SERVICE_PHASE: Phase = Phase {
    name: "service",
    tasks: &[Task { name: "hostd", bound: QUICK, failure: Degrades, run: |m| Box::pin(service(m)) }],
};

/// How long the network may delay the line that says the machine is ready (never hostd).
const READY_WITHOUT_NETWORK: Duration = Duration::from_secs(8);

/// The network waits so long for layers of the configuration that may say how it is to be.
const CONFIGURED: Duration = Duration::from_secs(15);

/// An address may take so long until user data is asked for without: there may be one the kernel got.
const ADDRESSED: Duration = Duration::from_secs(60);

/// The service waits so long for user data; what comes later has it started anew.
const USER_DATA: Duration = Duration::from_secs(18);

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
    net::loopback().await?;
    // What is started here goes on whatever becomes of this step: nothing is worse than no network.
    tokio::spawn(follow_configuration(Arc::clone(&machine)));
    tokio::spawn(follow_address(Arc::clone(&machine)));
    Ok("loopback up, others follow".to_owned())
}

/// Names the machine and sets up its network as the configuration says, as soon as it is known and whenever it changes.
async fn follow_configuration(machine: Arc<Machine>) {
    let mut known = machine.configuration.follow();
    // If the disks take too long, by what the command line says.
    let _ = tokio::time::timeout(CONFIGURED, known.wait_for(|known| known.ready)).await;
    let mut wishes: Option<watch::Sender<net::Wish>> = None;
    loop {
        let options = known.borrow_and_update().options.clone();
        if let Err(error) = rustix::system::sethostname(options.hostname.as_bytes()) {
            log::line(&format!("Cannot name the machine {}: {error}", options.hostname));
        }
        let wish = net::Wish { hostname: options.hostname, interfaces: options.interfaces, dns: options.dns };
        match &wishes {
            Some(wishes) => {
                wishes.send_if_modified(|old| std::mem::replace(old, wish.clone()) != wish);
            }
            None => {
                let (sender, receiver) = watch::channel(wish);
                tokio::spawn(net::run(receiver, machine.network.clone()));
                wishes = Some(sender);
            }
        }
        if known.changed().await.is_err() {
            return;
        }
    }
}

/// Reads the layer that is on the system's disk, if that is one with slots.
async fn find_configuration(machine: Arc<Machine>) -> Outcome {
    let read = match machine.system {
        Source::Disk => Ok("none on a disk without slots".to_owned()),
        Source::Slot(..) => read_partition(&machine).await,
    };
    // Whatever came of it: nobody waits any longer.
    machine.configuration.ready();
    read
}

async fn read_partition(machine: &Machine) -> Outcome {
    partition::mount(machine.configuration.options().disk_wait).await?;
    let path = Path::new(partition::TARGET).join("mote.toml");
    let reading = tokio::task::spawn_blocking(move || {
        configuration::read(&path, Layer::Partition, "mote-config/mote.toml")
    });
    Ok(match reading.await?? {
        Some(source) => {
            machine.configuration.put(source);
            format!("mote.toml in {}", partition::TARGET)
        }
        None => format!("no mote.toml in {}", partition::TARGET),
    })
}

/// Asks for the layer that the cloud has for this machine, where there is one.
async fn user_data(machine: Arc<Machine>) -> Outcome {
    if !metadata::wanted(machine.configuration.options().metadata) {
        return Ok("not asked for".to_owned());
    }
    let mut asking = tokio::spawn(ask_for_user_data(Arc::clone(&machine)));
    match tokio::time::timeout(USER_DATA, &mut asking).await {
        Ok(asked) => Ok(if asked?? { "read" } else { "this machine has none" }.to_owned()),
        Err(_) => {
            tokio::spawn(late_user_data(machine, asking));
            Err("no answer yet; hostd is started without, and anew when there is one".into())
        }
    }
}

/// What nobody waits for any more.
async fn late_user_data(
    machine: Arc<Machine>,
    asking: tokio::task::JoinHandle<Result<bool, metadata::MetadataError>>,
) {
    let Ok(asked) = asking.await else { return };
    machine.facts(|facts| {
        // It has another end than this.
        facts.problems.retain(|problem| !problem.starts_with("user-data: "));
        if let Err(error) = &asked {
            facts.problems.push(format!("user-data: {}", crate::text::chain(error)));
        }
        facts.write();
    });
    match asked {
        Err(error) => log::line(&format!("user data: {}", crate::text::chain(&error))),
        Ok(false) => log::line("user data: this machine has none"),
        Ok(true) => {
            machine.configuration.write();
            // The hostd that was started does not know it.
            if let Status::Running(pid) = *machine.hostd.status().borrow() {
                log::line("user data: read; hostd is started anew");
                tool::send(pid, nix::sys::signal::Signal::SIGTERM);
            }
        }
    }
}

/// Adds the layer; false if the machine has no user data.
async fn ask_for_user_data(machine: Arc<Machine>) -> Result<bool, metadata::MetadataError> {
    let mut network = machine.network.subscribe();
    // The time bound is an answer, too.
    let _ = tokio::time::timeout(ADDRESSED, network.wait_for(|state| state.address.is_some())).await;
    let Some(source) = metadata::fetch(machine.configuration.options().metadata_url).await? else {
        return Ok(false);
    };
    machine.configuration.put(source);
    Ok(true)
}

/// Keeps the address, or why there is none, in `boot.toml` up to date: hostd reads it when it wants to know, and the address may
/// come after it started.
async fn follow_address(machine: Arc<Machine>) {
    let mut state = machine.network.subscribe();
    while state.changed().await.is_ok() {
        let state = state.borrow_and_update().clone();
        machine.facts(|facts| {
            facts.address = state.address.map(|address| address.to_string()).unwrap_or_default();
            facts.network_problem = state.problem().unwrap_or_default();
            facts.write();
        });
    }
}

async fn settings(_: Arc<Machine>) -> Outcome {
    let complaints = blocking(sysctl::apply).await?;
    if !complaints.is_empty() {
        return Err(complaints.join("; ").into());
    }
    Ok(format!("{} settings", sysctl::count()))
}

async fn lock_down(_: Arc<Machine>) -> Outcome {
    Ok(blocking(lockdown::raise).await??.unwrap_or_else(|| "this kernel has none".to_owned()))
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
    tokio::spawn(keep_time(Arc::clone(&machine)));
    tokio::spawn(follow_time(Arc::clone(&machine)));
    Ok(format!("from {source}"))
}

/// Asks for the time whom the configuration says, as soon as it is known and whenever it changes.
async fn keep_time(machine: Arc<Machine>) {
    let mut known = machine.configuration.follow();
    // If the disks take too long, by what the command line says.
    let _ = tokio::time::timeout(CONFIGURED, known.wait_for(|known| known.ready)).await;
    loop {
        let wish = known.borrow_and_update().options.ntp.clone();
        let asking = ntp::run(wish.clone(), Kernel, machine.network.subscribe(), machine.time.clone());
        tokio::select! {
            () = async { asking.await; std::future::pending().await } => {}
            changed = known.wait_for(|known| known.options.ntp != wish) => {
                if changed.is_err() {
                    return;
                }
            }
        }
        // The next one measures anew.
        if let Err(error) = Kernel.pace(0) {
            log::line(&format!("clock: {}", crate::text::chain(&error)));
        }
    }
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
    let source = machine.system;
    let device = match system::mount(source, 2 * machine.configuration.options().disk_wait).await {
        Ok(device) => device,
        Err(error) => {
            if let Source::Slot(running, _) = source {
                slot::refuse(&machine, running).await;
            }
            return Err(error.into());
        }
    };
    // Its pages are read while the data disk is made ready. A hint: failing costs a little time.
    tokio::task::spawn_blocking(|| {
        let program = std::fs::File::open(hostd::PROGRAM)?;
        rustix::fs::fadvise(&program, 0, None, rustix::fs::Advice::WillNeed).map_err(std::io::Error::from)
    });
    let said = format!("{} on {}", device.display(), system::TARGET);
    let Source::Slot(running, _) = source else { return Ok(said) };
    machine.facts(|facts| running.name().clone_into(&mut facts.slot));
    tokio::spawn(slot::follow(Arc::clone(&machine), running, device));
    Ok(format!("slot {running}, verified, {said}"))
}

async fn data_disk(machine: Arc<Machine>) -> Outcome {
    // Until it is known better: also what stays if this takes longer than its bound.
    machine.facts(|facts| {
        facts.data.state = data::State::Failed;
        facts.data.detail = "preparing the data disk took too long".to_owned();
    });
    let options = machine.configuration.options();
    let grow = matches!(machine.system, Source::Slot(..));
    let (wait, repair) = (options.disk_wait, options.data_repair);
    let report = data::prepare(&machine.reaper, wait, repair, grow, machine.wipe).await;
    machine.facts(|facts| facts.data = report.clone());
    if matches!(report.state, data::State::Absent | data::State::Failed) {
        mounts::mount_barrier(data::TARGET)?;
    } else {
        set_by_api(&machine).await;
    }
    if report.state == data::State::Ok {
        machine.crashes.disk_is_ready();
    }
    machine.crashes.collect().await;
    if let Some(identity) = machine.watchdog.fired() {
        machine.crashes.watchdog_fired(&identity).await;
    }
    let said = if report.detail.is_empty() { "clean".to_owned() } else { report.detail };
    match report.state {
        data::State::Ok => Ok(format!("on {}, {said}", data::TARGET)),
        data::State::Absent => Err(said.into()),
        data::State::ReadOnly => Err(format!("read-only: {said}").into()),
        data::State::Failed => Err(format!("not usable: {said}").into()),
    }
}

/// Reads the layer that the API has set.
async fn set_by_api(machine: &Machine) {
    if !machine.configuration.options().api_layer {
        log::line("configuration: what the API has set does not count (machine.api_layer)");
        return;
    }
    let path = Path::new(data::TARGET).join(API_FILE);
    let reading = tokio::task::spawn_blocking(move || {
        configuration::read(&path, Layer::Api, &path.display().to_string())
    });
    match reading.await {
        Ok(Ok(Some(source))) => {
            machine.configuration.put(source);
        }
        Ok(Ok(None)) | Err(_) => {}
        // hostd reads it again, and says so at /healthz.
        Ok(Err(error)) => log::line(&format!("configuration: Cannot read {API_FILE}: {error}")),
    }
}

async fn service(machine: Arc<Machine>) -> Outcome {
    machine.configuration.write();
    machine.facts(|facts| facts.write());
    let level = machine.configuration.options().log_level;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmdline::Cmdline;
    use crate::configuration::metadata::fake::Server;

    fn machine(line: &str) -> Arc<Machine> {
        Arc::new(Machine::new(Cmdline::parse(line), tokio::sync::mpsc::channel(1).0))
    }

    #[tokio::test]
    async fn user_data_is_a_layer_once_there_is_an_address() {
        let server = Server::start(Some(b"[machine]\nhostname = 'cloud'\ndata_repair = true\n"), Vec::new());
        let line = format!("mote.metadata=on mote.metadata_url={} mote.data_repair=no", server.base);
        let machine = machine(&line);
        let asked = tokio::spawn(user_data(Arc::clone(&machine)));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(server.seen().is_empty(), "{:?}", server.seen());
        machine.network.send_modify(|state| state.address = Some([192, 0, 2, 7].into()));
        assert_eq!(asked.await.unwrap().unwrap(), "read");
        let options = machine.configuration.options();
        assert!(options.hostname == "cloud" && options.data_repair, "{options:?}");
    }

    #[tokio::test]
    async fn nobody_is_asked_for_user_data_unless_it_is_wanted() {
        let server = Server::start(Some(b""), Vec::new());
        let machine = machine(&format!("mote.metadata=off mote.metadata_url={}", server.base));
        assert_eq!(user_data(machine).await.unwrap(), "not asked for");
        assert!(server.seen().is_empty());
    }
}
