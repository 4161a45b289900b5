//! From a booted machine to a running runtime: file systems, Runtime API, identity, process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use mote_protocol::{FunctionSpec, Identity};
use rustix::process::Pid;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::api::{self, Asked};
use crate::environment::{self, Environment, Places};
use crate::generation::{self, GenerationError};
use crate::machine::Machine;
use crate::output::Output;
use crate::process::{self, Credentials, Reap, SpawnError};
use crate::runtime::{RuntimeFile, RuntimeFileError};
use crate::words::{ErrorObject, chain};

/// Where things are.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The runtime's description, `/mote/runtime.toml`.
    pub runtime_file: PathBuf,
    /// The function's code, `/var/task`.
    pub task_root: PathBuf,
    /// Where the runtime finds the generation id; its folder exists once the machine is prepared.
    pub generation: PathBuf,
    /// Where the Runtime API listens; port 0 for any.
    pub api: SocketAddr,
    /// Who the function runs as; as the agent itself if `None`.
    pub credentials: Option<Credentials>,
    /// Whose children are reaped.
    pub reap: Reap,
}

/// Why the runtime could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError<E: std::error::Error + 'static> {
    /// The machine did not take the identity.
    #[error("The sandbox could not take its identity")]
    Identify(#[source] E),
    /// The runtime could not be told of it.
    #[error("The runtime cannot be told of the sandbox's identity")]
    Generation(#[source] GenerationError),
    /// The machine has no place for the function.
    #[error("The sandbox's file systems could not be made")]
    Prepare(#[source] E),
    /// The runtime image does not say how to start it.
    #[error("The runtime is not described")]
    Runtime(#[source] RuntimeFileError),
    /// The Runtime API's address is taken.
    #[error("The Runtime API cannot listen on {0}")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// The system has no more pipes.
    #[error("No pipes for the function's output")]
    Pipe(#[source] std::io::Error),
    /// The start command does not work.
    #[error("The runtime does not start")]
    Spawn(#[source] SpawnError),
    /// The agent would die before the function.
    #[error("The agent cannot be told apart from the function in a shortage of memory")]
    Protect(#[source] E),
}

impl<E: std::error::Error + 'static> LaunchError<E> {
    /// The error object for the host.
    pub fn report(&self) -> Vec<u8> {
        let kind = match self {
            Self::Runtime(_) | Self::Spawn(_) => "Runtime.InvalidEntrypoint",
            _ => "Sandbox.StartFailed",
        };
        ErrorObject::new(kind, format!("Error: {}", chain(self))).json()
    }
}

/// A started runtime.
#[derive(Debug)]
pub struct Runtime {
    /// What it was started with.
    environment: Environment,
    /// Its process.
    pub pid: Pid,
    /// What it writes.
    pub output: Output,
}

/// What a runtime is started on, whatever its function.
#[derive(Debug)]
pub struct Ground {
    description: RuntimeFile,
    /// `HOST:PORT` of the Runtime API.
    api: String,
}

impl Ground {
    /// Whether the runtime can be started before its function is known.
    #[must_use]
    pub fn prewarms(&self) -> bool {
        self.description.prewarm.is_some()
    }

    fn places<'a>(&'a self, settings: &'a Settings) -> Places<'a> {
        Places { api: &self.api, task_root: &settings.task_root, generation: &settings.generation }
    }
}

/// A function as it is told to a runtime that waits for one.
#[derive(Serialize)]
struct Introduction<'a> {
    /// All of it: nothing else of what the process was started with stays.
    environment: &'a Environment,
    /// The working folder.
    folder: &'a Path,
    handler: &'a str,
}

/// A runtime that has its function.
#[derive(Debug)]
pub struct Launched {
    /// The process.
    pub runtime: Runtime,
    /// What its request for the function is to be answered with, if it was started before.
    pub introduction: Option<Vec<u8>>,
}

/// Makes the ground; requests of the runtime go to `asked`.
///
/// # Errors
/// When a part of it cannot be had. What was done stays done: the sandbox is of no use then.
pub async fn ground<M: Machine>(
    settings: &Settings,
    machine: &mut M,
    asked: mpsc::Sender<Asked>,
) -> Result<Ground, LaunchError<M::Error>> {
    machine.prepare().map_err(LaunchError::Prepare)?;
    let description = RuntimeFile::load(&settings.runtime_file).map_err(LaunchError::Runtime)?;
    let at = settings.api;
    let listener = TcpListener::bind(at).await.map_err(|e| LaunchError::Listen(at, e))?;
    let api = listener.local_addr().map_err(|e| LaunchError::Listen(at, e))?.to_string();
    tokio::spawn(api::serve(listener, asked));
    Ok(Ground { description, api })
}

/// Takes a new identity.
///
/// # Errors
/// When the machine does not take it, or the runtime would not hear of it.
pub fn identify<M: Machine>(
    settings: &Settings,
    machine: &mut M,
    identity: &Identity,
) -> Result<(), LaunchError<M::Error>> {
    machine.identify(identity).map_err(LaunchError::Identify)?;
    generation::publish(&settings.generation, &identity.instance_id).map_err(LaunchError::Generation)
}

/// Starts a runtime that will ask for its function.
///
/// # Errors
/// When it does not start.
pub fn prewarm<E: std::error::Error>(
    settings: &Settings,
    ground: &Ground,
    runtime_name: &str,
) -> Result<Runtime, LaunchError<E>> {
    let environment = environment::base(runtime_name, &ground.description, ground.places(settings));
    // Not in the folder of the code: something is to be mounted there.
    start(settings, ground, None, Path::new("/"), environment)
}

/// Takes the function and its identity. Its runtime is `prewarmed` if that is there, asks for its function
/// (`asking`) and may become this one; a new process otherwise.
///
/// # Errors
/// When any of the steps fails. What was done stays done: the sandbox is of no use then.
pub async fn launch<M: Machine>(
    settings: &Settings,
    machine: &mut M,
    ground: &Ground,
    (function, identity): (&FunctionSpec, &Identity),
    (prewarmed, asking): (Option<Runtime>, bool),
) -> Result<Launched, LaunchError<M::Error>> {
    identify(settings, machine, identity)?;
    machine.admit(function).map_err(LaunchError::Prepare)?;
    let environment = environment::build(function, identity, &ground.description, ground.places(settings));
    let (folder, handler) = (settings.task_root.as_path(), function.handler.as_str());
    let becomes = |runtime: &Runtime| {
        let prewarm = ground.description.prewarm.as_ref();
        asking && prewarm.is_some_and(|to| to.allows(&runtime.environment, &environment) && to.runs(folder))
    };
    let launched = match prewarmed {
        Some(runtime) if becomes(&runtime) => {
            let introduction = Introduction { environment: &environment, folder, handler };
            // Strings, and a path of our own: always JSON.
            let introduction = serde_json::to_vec(&introduction).unwrap_or_default();
            Launched { runtime, introduction: Some(introduction) }
        }
        unfit => {
            if let Some(runtime) = unfit {
                process::end(runtime.pid).await;
            }
            let runtime = start(settings, ground, Some(handler), folder, environment)?;
            Launched { runtime, introduction: None }
        }
    };
    machine.started().map_err(LaunchError::Protect)?;
    Ok(launched)
}

fn start<E: std::error::Error>(
    settings: &Settings,
    ground: &Ground,
    handler: Option<&str>,
    folder: &Path,
    environment: Environment,
) -> Result<Runtime, LaunchError<E>> {
    let who = settings.credentials;
    let (output, ends) = Output::new(who).map_err(LaunchError::Pipe)?;
    let pid = process::spawn(&ground.description.exec, handler, &environment, folder, who, ends)
        .map_err(LaunchError::Spawn)?;
    Ok(Runtime { environment, pid, output })
}
