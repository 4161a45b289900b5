//! From a booted machine to a running runtime: file systems, Runtime API, identity, process.

use std::net::SocketAddr;
use std::path::PathBuf;

use mote_protocol::{FunctionSpec, Identity};
use rustix::process::Pid;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::api::{self, Asked};
use crate::environment::{self, Places};
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

/// Takes the function and its identity, and starts the runtime.
///
/// # Errors
/// When any of the steps fails. What was done stays done: the sandbox is of no use then.
pub fn launch<M: Machine>(
    settings: &Settings,
    machine: &mut M,
    ground: &Ground,
    function: &FunctionSpec,
    identity: &Identity,
) -> Result<Runtime, LaunchError<M::Error>> {
    identify(settings, machine, identity)?;
    machine.admit(function).map_err(LaunchError::Prepare)?;
    let root = &settings.task_root;
    let places = Places { api: &ground.api, task_root: root, generation: &settings.generation };
    let environment = environment::build(function, identity, &ground.description, places);
    let who = settings.credentials;
    let (output, ends) = Output::new(who).map_err(LaunchError::Pipe)?;
    let pid = process::spawn(&ground.description.exec, &function.handler, &environment, root, who, ends)
        .map_err(LaunchError::Spawn)?;
    machine.started().map_err(LaunchError::Protect)?;
    Ok(Runtime { pid, output })
}
