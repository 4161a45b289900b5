//! PID 1 inside a microVM: serves the Lambda Runtime API to the function's runtime.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use mote_agent::agent;
use mote_agent::guest::{Guest, link, restart};
use mote_agent::launch::Settings;
use mote_agent::machine::Machine;
use mote_agent::process::{Credentials, Reap};
use mote_agent::session::BoxStream;
use mote_agent::words::chain;
use tokio::sync::mpsc;

/// The function's own user, without a name and without privileges.
const FUNCTION: Credentials = Credentials { uid: 993, gid: 990 };

const API: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9001);

fn main() -> ExitCode {
    let mut guest = Guest::default();
    if !rustix::process::getpid().is_init() {
        guest.say("Runs as the first process of a microVM only");
        return ExitCode::FAILURE;
    }
    if let Err(error) = serve() {
        guest.say(&chain(error.as_ref()));
    }
    restart();
    ExitCode::FAILURE
}

fn serve() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = link::listen()?;
        let (sender, sessions) = mpsc::channel::<BoxStream>(1);
        let first = link::dial().await?;
        sender.send(Box::new(first)).await?;
        tokio::spawn(link::accept(listener, sender));
        let settings = Settings {
            runtime_file: "/mote/runtime.toml".into(),
            task_root: "/var/task".into(),
            generation: "/run/mote/generation".into(),
            api: API,
            credentials: Some(FUNCTION),
            reap: Reap::All,
        };
        agent::run(settings, Guest::default(), sessions).await?;
        Ok(())
    })
}
