//! The main thread once the guest runs: devices, control socket, signals, the end.
//!
//! Devices and control requests are served by the same thread. So while a request is carried out no device touches
//! guest memory, and a snapshot sees devices and memory at one moment.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use event_manager::{
    EventManager, EventOps, EventSet, EventSubscriber, Events, MutEventSubscriber, SubscriberOps,
};

use crate::control::{Event, Incoming, Reply, Request, Server};
use crate::devices::Bus;
use crate::machine::{Machine, Reclaim, Reclaimed};
use crate::meter::Meter;
use crate::signals::{Signal, Signals};
use crate::vm::{CrewError, ExitReason, ExitSignal};

/// How often a full serial port is looked at again when input waits, in milliseconds.
const INPUT_STEP: i32 = 10;

const STDIN: RawFd = 0;

/// The event loop cannot be set up or go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoopError {
    /// epoll.
    #[error("Cannot watch for events")]
    Events(#[from] event_manager::Error),
    /// The vCPUs do not start.
    #[error("Cannot start the guest")]
    Start(#[from] CrewError),
}

/// Everything that comes in beside the devices' own events.
struct Inbox {
    server: Option<Server>,
    signals: Signals,
    exit: Arc<ExitSignal>,
    bus: Arc<Bus>,
    requests: Vec<(RawFd, Result<Request, serde_json::Error>)>,
    /// The client whose guest gives memory back; he gets his answer when it has.
    waiting: Option<RawFd>,
    terminal: bool,
    input_waits: bool,
}

/// Why a request is refused that can only come first.
const TOLD_ALREADY: &str = "This monitor knows already what to be";

impl Inbox {
    fn serve_client(&mut self, fd: RawFd, ops: &mut EventOps) {
        let Some(server) = &mut self.server else { return };
        for incoming in server.read(fd) {
            match incoming {
                Incoming::Request(fd, request) => self.requests.push((fd, request)),
                Incoming::Gone(fd) => {
                    // Fails only if it was not watched.
                    let _ = ops.remove(Events::empty_raw(fd));
                    server.forget(fd);
                }
                Incoming::OwnerGone => {
                    let _ = ops.remove(Events::empty_raw(fd));
                    self.exit.raise(ExitReason::OwnerGone);
                }
            }
        }
    }

    fn answer_waiting(&mut self, reply: &Reply) {
        if let (Some(server), Some(client)) = (&mut self.server, self.waiting.take()) {
            server.reply(client, reply);
        }
    }

    fn serve_signals(&mut self) {
        while let Some(signal) = self.signals.next() {
            match signal {
                Signal::Terminate => self.exit.raise(ExitReason::Terminated),
                Signal::Parent if self.signals.parent_died() => self.exit.raise(ExitReason::OwnerGone),
                Signal::Parent => {}
            }
        }
    }

    fn serve_terminal(&mut self, ops: &mut EventOps) {
        let mut console = self.bus.console();
        let room = console.room();
        if room == 0 {
            // Not watched until there is room again, or the loop would spin.
            let _ = ops.remove(Events::empty_raw(STDIN));
            self.input_waits = true;
            return;
        }
        let mut input = vec![0; room];
        match rustix::io::read(io::stdin(), &mut input) {
            Ok(read) if read > 0 => console.input(input.get(..read).unwrap_or_default()),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            _ => {
                let _ = ops.remove(Events::empty_raw(STDIN));
            }
        }
    }
}

impl MutEventSubscriber for Inbox {
    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let fd = events.fd();
        if fd == self.exit.event().as_raw_fd() {
            // Left readable: the loop ends after this round.
        } else if fd == self.signals.fd() {
            self.serve_signals();
        } else if self.terminal && fd == STDIN {
            self.serve_terminal(ops);
        } else if let Some(server) = self.server.as_mut().filter(|server| server.is_listener(fd)) {
            let Some(client) = server.accept() else { return };
            // Who waited under this number is gone.
            self.waiting.take_if(|waiting| *waiting == client);
            if ops.add(Events::new_raw(client, EventSet::IN)).is_err() {
                server.forget(client);
            }
        } else {
            self.serve_client(fd, ops);
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        let own = [self.exit.event().as_raw_fd(), self.signals.fd()];
        let server = self.server.iter().flat_map(Server::descriptors);
        for fd in own.into_iter().chain(server) {
            // Fails only without memory in the kernel, or for a descriptor that cannot be polled.
            let _ = ops.add(Events::new_raw(fd, EventSet::IN));
        }
        if self.terminal && ops.add(Events::new_raw(STDIN, EventSet::IN)).is_err() {
            // A plain file as standard input: nothing to wait for.
            self.terminal = false;
        }
    }
}

/// Runs the machine until its end and says why it came.
pub(crate) fn run(
    mut machine: Machine,
    server: Option<Server>,
    signals: Signals,
    exit: &Arc<ExitSignal>,
    terminal: bool,
    meter: &Meter,
) -> Result<(ExitReason, Option<Server>), LoopError> {
    let inbox = Arc::new(Mutex::new(Inbox {
        server,
        signals,
        exit: Arc::clone(exit),
        bus: Arc::clone(machine.bus()),
        requests: Vec::new(),
        waiting: None,
        terminal,
        input_waits: false,
    }));
    let lock = || -> MutexGuard<'_, Inbox> { inbox.lock().unwrap_or_else(PoisonError::into_inner) };
    let mut manager: EventManager<Arc<dyn EventSubscriber>> = EventManager::new()?;
    let own: Arc<dyn EventSubscriber> = Arc::<Mutex<Inbox>>::clone(&inbox);
    let own = manager.add_subscriber(own);
    for transport in machine.bus().virtio() {
        let device: Arc<dyn EventSubscriber> = Arc::<mote_virtio::MmioTransport>::clone(transport);
        manager.add_subscriber(device);
    }
    let reading = meter.read();
    if let Some(server) = &mut lock().server {
        server.announce(&Event::Running {
            setup_cpu_us: reading.cpu_us,
            setup_kvm_us: reading.kvm_us,
            setup_wall_us: reading.wall_us,
        });
    }
    machine.resume()?;
    let early = lock().server.as_mut().map(Server::waiting).unwrap_or_default();
    for incoming in early {
        if let Incoming::Request(client, request) = incoming {
            lock().requests.push((client, request));
        }
    }
    let mut reclaim: Option<Reclaim> = None;
    let reason = loop {
        let sleep = match &*lock() {
            inbox if !inbox.requests.is_empty() => 0,
            inbox => timeout(inbox.input_waits, reclaim.as_ref()),
        };
        match manager.run_with_timeout(sleep) {
            Ok(_) => {}
            Err(event_manager::Error::Epoll(error)) if error.errno() == libc::EINTR => {}
            Err(error) => return Err(error.into()),
        }
        let requests = std::mem::take(&mut lock().requests);
        if let Some(over) = reclaim.take_if(|going| machine.go_on(going, Instant::now())) {
            lock().answer_waiting(&reclaimed(&machine, &over));
        }
        for (client, request) in requests {
            // Answers come in the order of the requests, and none of them waits for the guest.
            if let Some(over) = reclaim.take() {
                lock().answer_waiting(&reclaimed(&machine, &over));
            }
            let reply = match request {
                Ok(request) => carry_out(&mut machine, &request, exit, &mut reclaim),
                Err(error) => Some(Reply {
                    error: Some(format!("Cannot understand the request: {error}")),
                    ..Reply::default()
                }),
            };
            let mut inbox = lock();
            match (&mut inbox.server, reply) {
                (Some(server), Some(reply)) => server.reply(client, &reply),
                (_, reply) => inbox.waiting = reply.is_none().then_some(client),
            }
        }
        if lock().input_waits && machine.bus().console().room() > 0 {
            lock().input_waits = false;
            manager.event_ops(own)?.add(Events::new_raw(STDIN, EventSet::IN))?;
        }
        if let Some(reason) = exit.reason() {
            break reason;
        }
    };
    machine.bus().console().sync();
    let server = lock().server.take();
    Ok((reason, server))
}

/// How long the loop may sleep, in milliseconds.
fn timeout(input_waits: bool, reclaim: Option<&Reclaim>) -> i32 {
    let input = input_waits.then_some(INPUT_STEP);
    // Rounded up, or it would look too early.
    let left = reclaim.map(|going| going.left(Instant::now()).as_millis().saturating_add(1));
    let left = left.map(|left| i32::try_from(left).unwrap_or(i32::MAX));
    input.into_iter().chain(left).min().unwrap_or(-1)
}

/// What the guest gave back, as an answer.
fn reclaimed(machine: &Machine, over: &Reclaim) -> Reply {
    let Reclaimed { bytes, balloon } = machine.end_reclaim(over);
    Reply { reclaimed_bytes: Some(bytes), balloon_bytes: Some(balloon), ..Reply::done() }
}

/// Does what a client asks; no answer yet if that is begun in `reclaim`.
fn carry_out(
    machine: &mut Machine,
    request: &Request,
    exit: &ExitSignal,
    reclaim: &mut Option<Reclaim>,
) -> Option<Reply> {
    Some(match request {
        Request::Reclaim { leave_mb, within_ms } => {
            match machine.reclaim(*leave_mb, Duration::from_millis((*within_ms).into())) {
                Ok(begun) => {
                    *reclaim = Some(begun);
                    return None;
                }
                Err(error) => Reply::failed(&error),
            }
        }
        Request::Start { .. } => Reply { error: Some(TOLD_ALREADY.to_owned()), ..Reply::default() },
        Request::Pause => match machine.pause() {
            Ok(took) => Reply { state: Some(machine.state()), pause_us: Some(took), ..Reply::done() },
            Err(error) => Reply::failed(&error),
        },
        Request::Resume => match machine.resume() {
            Ok(()) => Reply { state: Some(machine.state()), ..Reply::done() },
            Err(error) => Reply::failed(&error),
        },
        Request::Snapshot { dir, sync } => match machine.save(dir, *sync) {
            Ok(saved) => Reply {
                memory_bytes: Some(saved.memory_bytes),
                stored_bytes: Some(saved.stored_bytes),
                pause_us: Some(saved.took_us),
                memory_checksum: Some(saved.memory_checksum),
                ..Reply::done()
            },
            Err(error) => Reply::failed(&error),
        },
        Request::Touched { dir } => match machine.write_touched(dir) {
            Ok(()) => Reply::done(),
            Err(error) => Reply::failed(&error),
        },
        Request::Deflate => {
            machine.deflate();
            Reply::done()
        }
        Request::Status => Reply {
            state: Some(machine.state()),
            memory_bytes: Some(machine.memory_bytes()),
            vcpus: Some(machine.vcpus()),
            balloon_bytes: Some(machine.balloon_bytes()),
            net: machine.traffic(),
            ..Reply::done()
        },
        Request::Quit => {
            exit.raise(ExitReason::Quit);
            Reply::done()
        }
    })
}
