//! The one task that owns everything: it waits for something to happen, asks [`crate::state`] what is to be
//! done, and does it.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use http::StatusCode;
use mote_protocol::{
    AgentMessage, FailureKind, Frame, FunctionSpec, HostMessage, Identity, InvokeSpec, LogStream, ResultKind,
};
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::api::{Asked, Call, Reply, Upload};
use crate::launch::{Ground, LaunchError, Launched, Runtime, Settings, ground, identify, launch, prewarm};
use crate::machine::Machine;
use crate::memory::{Look, Starvation};
use crate::process;
use crate::session::{BoxStream, Session, SessionError};
use crate::state::{Action, Event, Phase, Refusal, State};
use crate::words::{ErrorObject, chain, error_report};

/// How often memory is looked at during a call.
const SAMPLE: Duration = Duration::from_millis(50);

/// How long the result of a call whose response was refused as too large waits to see what becomes of the
/// runtime. `awslambdaric` ends itself then: the host hears of result and end together, and does not give the
/// next call to a sandbox that is dying.
const LATE: Duration = Duration::from_secs(2);

/// Requests of the runtime that may wait for the agent.
const ASKED: usize = 8;

/// Why the agent could not start at all.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// No notice of ended children.
    #[error("Cannot listen for SIGCHLD")]
    Signal(#[source] std::io::Error),
}

/// Serves sessions from `sessions` (the newest one counts) until the runtime is of no further use and a host
/// was told so, or until there can be no more sessions. What does not depend on a function is made first, while the
/// host is about to speak.
///
/// # Errors
/// When it cannot be notified of ended children.
pub async fn run<M: Machine>(
    settings: Settings,
    machine: M,
    sessions: mpsc::Receiver<BoxStream>,
) -> Result<(), AgentError> {
    let children = signal(SignalKind::child()).map_err(AgentError::Signal)?;
    let (asked_sender, asked) = mpsc::channel(ASKED);
    let mut sampling = interval(SAMPLE);
    sampling.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let now = Instant::now();
    let mut agent = Agent {
        ground: None,
        settings,
        machine,
        sessions,
        session: None,
        children,
        asked,
        state: State::default(),
        runtime: None,
        held: None,
        call: None,
        failure: None,
        late: None,
        scrub: None,
        sampling,
        started: now,
        resumed: now,
        handed_over: now,
        memory_mb: 0,
        peak_memory_kb: 0,
        starvation: Starvation::default(),
        starved: false,
    };
    match ground(&agent.settings, &mut agent.machine, asked_sender).await {
        Ok(ground) => agent.ground = Some(ground),
        Err(error) => agent.unable(&error),
    }
    agent.serve().await;
    Ok(())
}

struct Agent<M> {
    /// Always there unless the sandbox has failed.
    ground: Option<Ground>,
    settings: Settings,
    machine: M,
    sessions: mpsc::Receiver<BoxStream>,
    session: Option<Session>,
    children: tokio::signal::unix::Signal,
    asked: mpsc::Receiver<Asked>,
    state: State,
    runtime: Option<Runtime>,
    /// The one long poll, `restore/next` or `next`.
    held: Option<oneshot::Sender<Reply>>,
    /// The call that waits to be handed over.
    call: Option<(InvokeSpec, Vec<u8>)>,
    /// What a host has to be told yet before all ends.
    failure: Option<(FailureKind, Vec<u8>)>,
    /// A result that waits, see [`LATE`].
    late: Option<Late>,
    /// The host wants free memory cleared before the next snapshot, within this time.
    scrub: Option<Duration>,
    sampling: Interval,
    started: Instant,
    resumed: Instant,
    handed_over: Instant,
    /// What the function was given.
    memory_mb: u32,
    peak_memory_kb: u64,
    starvation: Starvation,
    /// The runtime was ended because there was no memory left.
    starved: bool,
}

struct Late {
    message: AgentMessage,
    body: Vec<u8>,
    due: tokio::time::Instant,
}

enum Happening {
    Session(Option<BoxStream>),
    Frame(Result<Option<Frame<HostMessage>>, SessionError>),
    Asked(Asked),
    Left,
    Child,
    Late,
    Output(LogStream, Vec<u8>),
    Sample,
}

/// What came with an event and is needed to carry its actions out.
#[derive(Default)]
struct Attached {
    reply: Option<oneshot::Sender<Reply>>,
    upload: Upload,
    request_id: String,
    /// For `Fail`: the error object.
    report: Vec<u8>,
    /// For `Start`.
    function: Option<(FunctionSpec, Identity)>,
    /// For `Prewarm`: the runtime's name.
    runtime: String,
}

impl<M: Machine> Agent<M> {
    async fn serve(mut self) {
        loop {
            match self.happening().await {
                Happening::Session(Some(stream)) => self.plugged(stream).await,
                Happening::Session(None) => return,
                Happening::Frame(Ok(Some(frame))) => self.ordered(frame).await,
                Happening::Frame(Ok(None)) => self.unplug().await,
                Happening::Frame(Err(error)) => self.broken(&error).await,
                Happening::Asked(asked) => self.asked(asked).await,
                Happening::Left => self.left(),
                Happening::Child => self.child().await,
                Happening::Late => self.send_late().await,
                Happening::Output(stream, bytes) => self.send(&AgentMessage::Log { stream }, &bytes).await,
                Happening::Sample => self.sample(),
            }
            if self.told().await {
                return;
            }
        }
    }

    async fn happening(&mut self) -> Happening {
        let Self { sessions, session, children, asked, runtime, held, sampling, state, late, .. } = self;
        let plugged = session.is_some();
        let working = runtime.is_some() && matches!(state.phase(), Phase::Starting | Phase::Serving);
        tokio::select! {
            biased;
            stream = sessions.recv() => Happening::Session(stream),
            frame = next_frame(session) => Happening::Frame(frame),
            Some(asked) = asked.recv() => Happening::Asked(asked),
            () = hung_up(held) => Happening::Left,
            Some(()) = children.recv() => Happening::Child,
            () = due(late) => Happening::Late,
            _ = sampling.tick(), if working => Happening::Sample,
            // Without a host the output stays in its pipe; a function that fills it waits.
            (stream, bytes) = next_output(runtime), if plugged => Happening::Output(stream, bytes),
        }
    }

    async fn plugged(&mut self, stream: BoxStream) {
        if self.session.is_some() {
            self.unplug().await;
        }
        self.session = Some(Session::new(stream));
    }

    async fn unplug(&mut self) {
        self.session = None;
        self.late = None;
        self.scrub = None;
        self.step(Event::Unplugged, Attached::default()).await;
    }

    fn left(&mut self) {
        self.held = None;
        // Nothing is to be done then.
        let _ = self.state.step(Event::Left);
    }

    async fn broken(&mut self, error: &SessionError) {
        self.machine.say(&chain(error));
        self.unplug().await;
    }

    async fn ordered(&mut self, frame: Frame<HostMessage>) {
        match frame.message {
            HostMessage::Prewarm { runtime } => {
                self.started = Instant::now();
                let able = self.ground.as_ref().is_some_and(Ground::prewarms);
                self.step(Event::Prewarm { able }, Attached { runtime, ..Attached::default() }).await;
            }
            HostMessage::Start { function, identity } => {
                self.started = Instant::now();
                let function = Some((function, identity));
                self.step(Event::Start, Attached { function, ..Attached::default() }).await;
            }
            HostMessage::Scrub { within_ms } => {
                self.scrub = Some(Duration::from_millis(within_ms.into()));
            }
            HostMessage::Quiesce => self.step(Event::Quiesce, Attached::default()).await,
            HostMessage::Resume { identity } => {
                self.resumed = Instant::now();
                if let Err(error) = identify(&self.settings, &mut self.machine, &identity) {
                    return self.unable(&error);
                }
                self.step(Event::Resume, Attached::default()).await;
            }
            HostMessage::Invoke { invoke } => {
                let request_id = invoke.request_id.clone();
                // Of two overlapping calls the first stays; the state machine ends it all anyway.
                self.call.get_or_insert((invoke, frame.body));
                self.step(Event::Invoke { request_id: &request_id }, Attached::default()).await;
            }
        }
    }

    fn prewarm(&mut self, runtime: &str) {
        let Some(ground) = &self.ground else { return };
        match prewarm(&self.settings, ground, runtime) {
            Ok(runtime) => self.runtime = Some(runtime),
            Err(error) => self.unable(&error),
        }
    }

    async fn start(&mut self, function: &FunctionSpec, identity: &Identity) {
        self.memory_mb = function.memory_mb;
        let Some(ground) = &self.ground else { return };
        // Refused by hanging up if nothing comes of it: it is ended then.
        let held = self.held.take();
        let prewarmed = (self.runtime.take(), held.is_some());
        match launch(&self.settings, &mut self.machine, ground, (function, identity), prewarmed).await {
            Ok(Launched { runtime, introduction }) => {
                self.runtime = Some(runtime);
                if let Some(introduction) = introduction {
                    reply(held, Reply::Function(introduction));
                }
            }
            Err(error) => self.unable(&error),
        }
    }

    async fn asked(&mut self, asked: Asked) {
        let Asked { call, request_id, upload, reply } = asked;
        let event = match call {
            Call::Function => Event::Function,
            Call::RestoreNext => Event::RestoreNext,
            Call::Next => Event::Next,
            Call::Answer(kind) => {
                let kind = if upload.too_large { ResultKind::Error } else { kind };
                Event::Answer { request_id: &request_id, kind }
            }
            Call::InitError => Event::InitError,
            Call::RestoreError => Event::RestoreError,
        };
        let attached =
            Attached { reply: Some(reply), upload, request_id: request_id.clone(), ..Attached::default() };
        self.step(event, attached).await;
    }

    async fn child(&mut self) {
        let Some(runtime) = &mut self.runtime else { return };
        let Some(status) = process::reap(self.settings.reap, runtime.pid) else { return };
        let killed = status.signal() == Some(Signal::KILL.as_raw());
        let starved = killed && (self.starved || self.machine.starved(runtime.pid));
        let report = if starved {
            self.peak_memory_kb = u64::from(self.memory_mb) * 1024;
            ErrorObject::out_of_memory(self.state.serving(), self.memory_mb).json()
        } else {
            ErrorObject::exit(self.state.serving(), status).json()
        };
        self.step(Event::Exited, Attached { report, ..Attached::default() }).await;
    }

    async fn step(&mut self, event: Event<'_>, mut attached: Attached) {
        // Nothing is handed to a runtime that hung up a moment ago: it will ask again.
        if self.held.as_ref().is_some_and(oneshot::Sender::is_closed) {
            self.left();
        }
        for action in self.state.step(event) {
            self.act(action, &mut attached).await;
        }
    }

    async fn act(&mut self, action: Action, attached: &mut Attached) {
        match action {
            Action::Prewarm => self.prewarm(&attached.runtime),
            Action::Start => {
                if let Some((function, identity)) = attached.function.take() {
                    self.start(&function, &identity).await;
                }
            }
            Action::Hold => {
                self.send_late().await;
                if let Some(before) = std::mem::replace(&mut self.held, attached.reply.take()) {
                    refuse(Some(before), StatusCode::FORBIDDEN, wrong_state("this was asked again"));
                }
            }
            Action::Accept if attached.upload.too_large => {
                refuse(
                    attached.reply.take(),
                    StatusCode::PAYLOAD_TOO_LARGE,
                    ErrorObject::request_too_large(),
                );
            }
            Action::Accept => reply(attached.reply.take(), Reply::Accepted),
            Action::Refuse(Refusal::State(phase)) => {
                refuse(attached.reply.take(), StatusCode::FORBIDDEN, wrong_state(phase.words()));
            }
            Action::Refuse(Refusal::RequestId) => {
                let error = ErrorObject::new("InvalidRequestID", "Invalid request ID");
                refuse(attached.reply.take(), StatusCode::BAD_REQUEST, error);
            }
            Action::Release => reply(self.held.take(), Reply::Restored),
            Action::HandOver => {
                if let Some((invoke, event)) = self.call.take() {
                    self.sample();
                    self.sampling.reset();
                    self.handed_over = Instant::now();
                    reply(self.held.take(), Reply::Event(invoke, event));
                }
            }
            Action::Forget => self.call = None,
            Action::Ready => {
                self.sample();
                self.drain().await;
                self.send(&AgentMessage::Ready { init_us: micros(self.started) }, &[]).await;
            }
            Action::Resumed => {
                self.send(&AgentMessage::Resumed { resume_us: micros(self.resumed) }, &[]).await;
            }
            Action::Result(kind) => self.result(kind, attached).await,
            Action::Settle => self.settle().await,
            Action::Fail(kind) => {
                let upload = std::mem::take(&mut attached.upload);
                let report = match kind {
                    FailureKind::Init => error_report(upload.bytes, upload.error_type.as_deref()),
                    FailureKind::Exit | FailureKind::Agent => std::mem::take(&mut attached.report),
                };
                self.failure = Some((kind, report));
            }
            Action::Violation(words) => {
                let report = ErrorObject::new("Sandbox.Protocol", format!("Error: {words}")).json();
                self.failure = Some((FailureKind::Agent, report));
            }
        }
    }

    async fn result(&mut self, kind: ResultKind, attached: &mut Attached) {
        let duration_us = micros(self.handed_over);
        self.sample();
        self.drain().await;
        let upload = &mut attached.upload;
        let too_large = upload.too_large;
        let body = std::mem::take(&mut upload.bytes);
        let (body, content_type) = match kind {
            _ if too_large => (ErrorObject::response_too_large().json(), None),
            ResultKind::Error => (error_report(body, upload.error_type.as_deref()), None),
            ResultKind::Response => (body, upload.content_type.take()),
        };
        let message = AgentMessage::Result {
            request_id: std::mem::take(&mut attached.request_id),
            kind,
            content_type,
            duration_us,
            peak_memory_kb: self.peak_memory_kb,
        };
        if too_large {
            self.late = Some(Late { message, body, due: tokio::time::Instant::now() + LATE });
        } else {
            self.send(&message, &body).await;
        }
    }

    async fn send_late(&mut self) {
        if let Some(Late { message, body, .. }) = self.late.take() {
            self.drain().await;
            self.send(&message, &body).await;
        }
    }

    async fn settle(&mut self) {
        self.drain().await;
        self.machine.settle(self.scrub.take());
        if let Some(session) = self.session.take() {
            session.close().await;
        }
    }

    /// Ends the sandbox for a reason of the agent's own.
    fn unable(&mut self, error: &LaunchError<M::Error>) {
        // Nothing else is to be done then.
        let _ = self.state.step(Event::Exited);
        self.failure = Some((FailureKind::Agent, error.report()));
    }

    /// Tells a host of the failure, if there are both; true when that was the last thing to do.
    async fn told(&mut self) -> bool {
        if self.failure.is_none() || self.session.is_none() {
            return false;
        }
        self.send_late().await;
        self.drain().await;
        let Some((kind, report)) = self.failure.take() else { return false };
        let peak_memory_kb = self.peak_memory_kb;
        self.send(&AgentMessage::Failed { kind, peak_memory_kb }, &report).await;
        match self.session.take() {
            Some(session) => {
                session.finish().await;
                true
            }
            // The host went away just now: tell the next one.
            None => {
                self.failure = Some((kind, report));
                false
            }
        }
    }

    /// Sends on all output written so far.
    async fn drain(&mut self) {
        let Some(mut runtime) = self.runtime.take() else { return };
        let mut left = runtime.output.pending();
        while self.session.is_some() {
            let Some((stream, bytes)) = runtime.output.written(&mut left) else { break };
            self.send(&AgentMessage::Log { stream }, bytes).await;
        }
        self.runtime = Some(runtime);
    }

    /// Sends a frame if there is a host; a session that does not take it is over.
    async fn send(&mut self, message: &AgentMessage, body: &[u8]) {
        let Some(session) = &mut self.session else { return };
        if let Err(error) = session.send(message, body).await {
            self.machine.say(&chain(&error));
            self.session = None;
            self.late = None;
            for action in self.state.step(Event::Unplugged) {
                if action == Action::Forget {
                    self.call = None;
                }
            }
        }
    }

    fn sample(&mut self) {
        let Some(look) = Look::now() else { return };
        self.peak_memory_kb = self.peak_memory_kb.max(look.used_kb());
        if self.starvation.after(look)
            && let Some(runtime) = &self.runtime
        {
            self.starvation = Starvation::default();
            self.starved = true;
            process::kill(runtime.pid);
        }
    }
}

async fn next_frame(session: &mut Option<Session>) -> Result<Option<Frame<HostMessage>>, SessionError> {
    match session {
        Some(session) => session.next().await,
        None => std::future::pending().await,
    }
}

async fn due(late: &Option<Late>) {
    match late {
        Some(late) => tokio::time::sleep_until(late.due).await,
        None => std::future::pending().await,
    }
}

async fn hung_up(held: &mut Option<oneshot::Sender<Reply>>) {
    match held {
        Some(held) => held.closed().await,
        None => std::future::pending().await,
    }
}

async fn next_output(runtime: &mut Option<Runtime>) -> (LogStream, Vec<u8>) {
    match runtime {
        Some(runtime) => {
            let (stream, bytes) = runtime.output.next().await;
            (stream, bytes.to_vec())
        }
        None => std::future::pending().await,
    }
}

fn reply(to: Option<oneshot::Sender<Reply>>, reply: Reply) {
    if let Some(to) = to {
        // A runtime that hung up meanwhile has no use for it.
        let _ = to.send(reply);
    }
}

fn refuse(to: Option<oneshot::Sender<Reply>>, status: StatusCode, error: ErrorObject) {
    reply(to, Reply::Refused(status, error));
}

fn wrong_state(because: &str) -> ErrorObject {
    ErrorObject::new("InvalidStateTransition", format!("Not allowed now: {because}"))
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
