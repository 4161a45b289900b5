//! The one service of the appliance: takes functions over HTTP and serves their calls from microVMs.
//!
//! The same program is every microVM's monitor: `hostd monitor …` is `mote-monitor`; and it explains and checks
//! `mote.toml`: `hostd config …`.

mod bases;
mod boot;
mod bring_up;
mod bundle;
mod census;
mod concurrency;
mod config;
mod crashes;
mod deploy;
mod function;
mod health;
mod loaders;
mod logs;
mod network;
mod obtain;
mod operation;
mod phases;
mod platform;
mod pool;
mod pressure;
mod record;
mod reset;
mod sandbox;
mod serve;
mod service;
mod snapshots;
mod syslog;
mod text;
mod update;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use mote_config::Resolved;
use mote_store::{Options, Store};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::boot::BootFacts;
use crate::config::{Config, Files, Layout};
use crate::crashes::Crashes;
use crate::network::Networks;
use crate::operation::Operation;
use crate::platform::Appliance;
use crate::service::Service;
use crate::syslog::{Syslog, Target};
use crate::text::chain;
use crate::update::{Place, Updates};

/// Serves functions from microVMs. Started by init; `hostd monitor --help` is the microVM monitor, `hostd config --help`
/// explains and checks mote.toml.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// A mote.toml in place of that on the configuration partition.
    #[arg(long)]
    config: Option<PathBuf>,
    /// What init found at this boot.
    #[arg(long, default_value = "/run/mote/boot.toml")]
    boot: PathBuf,
    /// The layers of the configuration that init found.
    #[arg(long, default_value = mote_config::SOURCES_PATH)]
    layers: PathBuf,
    /// Version of the system image.
    #[arg(long, default_value = "/system/version")]
    version_file: PathBuf,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_else(|| OsString::from("hostd"));
    let rest: Vec<OsString> = arguments.collect();
    if rest.first().is_some_and(|first| first == "monitor") {
        return mote_monitor::cli::main(rest);
    }
    if rest.first().is_some_and(|first| first == "config") {
        return config::cli::main(rest);
    }
    let arguments = Arguments::parse_from(std::iter::once(program).chain(rest));
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("Cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run(&arguments));
    // What still blocks in a worker thread after the drain is not waited for.
    runtime.shutdown_background();
    code
}

async fn run(arguments: &Arguments) -> ExitCode {
    let (facts, boot_problem) = BootFacts::read(&arguments.boot);
    let files = Files { layers: arguments.layers.clone(), partition: arguments.config.clone() };
    let (resolved, config, config_problems) = match configuration(&files) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{}", chain(&*error));
            return ExitCode::FAILURE;
        }
    };
    start_log(&config.log.level);
    for problem in boot_problem.iter().chain(&config_problems) {
        tracing::warn!("{problem}");
    }
    let version = Version::read(&arguments.version_file);
    let subject = answer_init(&version);
    // What a hostd that crashed has left.
    sandbox::Groups::of_machine().clear().await;
    let mut problems = config_problems;
    // The data disk has a component of its own.
    problems.extend(facts.problems.iter().filter(|problem| !problem.starts_with("data: ")).cloned());
    let networks = Networks::new(layout(&resolved, &config));
    if let Some(problem) = networks.problem() {
        tracing::error!("{problem}");
    }
    let service = match open_store(&config, &facts).await {
        Ok(store) => {
            let service =
                Service::new(config.clone(), facts.clone(), store, networks, version.inputs.clone());
            tokio::spawn(Arc::clone(&service).prepare_networks());
            Some(service)
        }
        Err(problem) => {
            tracing::error!("{problem}");
            problems.push(problem);
            None
        }
    };
    if !Path::new("/dev/kvm").exists() {
        problems.push("No /dev/kvm: the CPU has no virtualisation, or the firmware turned it off".to_owned());
    }
    let syslog = send_log(&config, &mut problems);
    let crashes = Crashes::new(config.paths.data.join("crashes"), config.paths.run.join("crashes"));
    let places = bundle::Places {
        root: PathBuf::from("/"),
        boot: arguments.boot.clone(),
        version: arguments.version_file.clone(),
        run: config.paths.run.clone(),
    };
    let slots = Place::find(&facts.slot, Path::new(mote_environment::partition::SYS));
    let keys = resolved.update().map(|update| update.keys).unwrap_or_default();
    let updates = Updates::new(slots, &keys, &version.version);
    let operation = Operation::new(crashes, syslog, places, updates);
    let appliance = Arc::new(Appliance::new(service.clone(), problems, version, operation, files));

    let listener = match TcpListener::bind(config.api.listen).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(address = %config.api.listen, %error, "Cannot listen");
            return ExitCode::FAILURE;
        }
    };
    tracing::info!(address = %config.api.listen, "Serving");
    // Only now: before, nobody was answered.
    let _ = subject.set(Arc::clone(&appliance));
    serve_until_told(listener, &appliance, &config).await;
    if let Some(service) = service {
        service.loaders.stop();
        let evicted = service.pool.close().await;
        let store = service.store.clone();
        if let Err(error) = service::blocking(move || store.close()).await {
            tracing::error!(error = %chain(&error), "The store did not close cleanly");
        }
        tracing::info!(evicted, "Stopped");
    }
    ExitCode::SUCCESS
}

/// Has init's questions after our health answered, if it was init that started us.
fn answer_init(version: &Version) -> health::Subject {
    let subject = health::Subject::default();
    match health::socket() {
        Ok(None) => {}
        Ok(Some(socket)) => {
            tokio::spawn(health::answer(socket, version.version.clone(), Arc::clone(&subject)));
        }
        Err(error) => tracing::error!(%error, "Cannot answer init"),
    }
    subject
}

async fn serve_until_told(listener: TcpListener, appliance: &Arc<Appliance>, config: &Config) {
    let told = Arc::clone(appliance);
    let shutdown = async move {
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(mut term), Ok(mut int)) => {
                tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
            }
            // Without handlers the signals end the process by themselves.
            _ => std::future::pending().await,
        }
        tracing::info!("Draining");
        told.drain();
    };
    let limits = mote_api::ServeLimits {
        max_connections: config.api.max_connections,
        drain: config.api.drain(),
        ..mote_api::ServeLimits::default()
    };
    let router = mote_api::router(Arc::clone(appliance));
    if let Err(error) = mote_api::serve(listener, router, shutdown, limits).await {
        tracing::error!(error = %chain(&error), "The front door failed");
    }
}

/// All layers together, this service's part of them, and what is wrong with layers that were left out: a box with a
/// mistyped option stays reachable and says so.
fn configuration(files: &Files) -> Result<(Resolved, Config, Vec<String>), Box<dyn std::error::Error>> {
    let (resolved, unread) = files.gather()?;
    let config = Config::of(&resolved)?;
    let problems = unread.into_iter().chain(resolved.problems()).collect();
    Ok((resolved, config, problems))
}

/// What `[network]` means. If a layer that was left out has something to say of it, functions are served without networks:
/// with those of the other layers, a machine could have another one's number, and a tenant another policy.
fn layout(resolved: &Resolved, config: &Config) -> Result<Layout, String> {
    let mistakes = resolved.network_problems();
    if !mistakes.is_empty() {
        return Err(format!("No networks for functions: {}", mistakes.join("; ")));
    }
    config.network.layout().map_err(|error| format!("No networks for functions: {}", chain(&error)))
}

fn start_log(level: &str) {
    let filter = tracing_subscriber::EnvFilter::try_new(level)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_target(false).init();
}

/// Sends the machine's log elsewhere, if it is to be sent.
fn send_log(config: &Config, problems: &mut Vec<String>) -> Option<Syslog> {
    if config.log.remote.is_empty() {
        return None;
    }
    match Target::read(&config.log.remote, &config.log.remote_ca) {
        Ok(target) => Some(Syslog::start(target, &config.paths.run)),
        Err(error) => {
            problems.push(format!("The log is not sent: {}", chain(&error)));
            None
        }
    }
}

async fn open_store(config: &Config, facts: &BootFacts) -> Result<Store, String> {
    if !matches!(facts.data.state.as_str(), "ok" | "readonly") {
        return Err(format!("Data disk {}: {}", facts.data.state, facts.data.detail));
    }
    let root = config.paths.data.clone();
    let options = Options { reserve_bytes: config.store.reserve_mb << 20 };
    let opened = service::blocking(move || Store::open_with(&root, &options)).await;
    let (store, recovery) = opened.map_err(|error| chain(&error))?;
    if recovery != mote_store::Recovery::default() {
        tracing::warn!(?recovery, "The store was mended");
    }
    Ok(store)
}

/// `/system/version`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(crate) struct Version {
    version: String,
    /// Of which commit.
    build: String,
    /// Digest of everything in the image.
    inputs: String,
}

impl Version {
    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let mut version: Self = toml::from_str(&text).unwrap_or_default();
        if version.version.is_empty() {
            env!("CARGO_PKG_VERSION").clone_into(&mut version.version);
        }
        version
    }
}
