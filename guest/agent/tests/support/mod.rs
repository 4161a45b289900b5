//! The host's side of a session, an agent that runs natively, and an unmodified `awslambdaric` for it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "clippy knows tests only by their attribute")]
#![allow(dead_code, reason = "no test program uses all of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mote_agent::agent;
use mote_agent::launch::Settings;
use mote_agent::machine::Machine;
use mote_agent::process::Reap;
use mote_agent::session::BoxStream;
use mote_protocol::{
    AgentMessage, Decoder, Frame, FunctionSpec, HostMessage, Identity, InvokeSpec, LogStream, ResultKind,
    encode,
};
use rustix::process::Pid;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

const PACKAGES: &[&str] = &["awslambdaric==4.2.2", "simplejson==4.3.0", "snapshot-restore-py==1.0.0"];

/// Everything a test waits for comes within this time, on a machine busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// A Python 3.11 with the packages, made once and kept.
pub fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let cache = std::env::var_os("MOTE_CACHE").map_or_else(
            || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/mote"),
            PathBuf::from,
        );
        let venv = cache.join(format!("agent-test-{}", PACKAGES.join("_").replace("==", "-")));
        let python = venv.join("bin/python");
        if python.exists() {
            return python;
        }
        std::fs::create_dir_all(&cache).unwrap();
        let making = tempfile::tempdir_in(&cache).unwrap();
        let system = Path::new("/usr/bin/python3.11");
        let system = if system.exists() { system } else { Path::new("python3.11") };
        succeed(Command::new(system).args(["-m", "venv"]).arg(making.path()));
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"];
        succeed(Command::new(making.path().join("bin/python")).args(pip).args(PACKAGES));
        let made = making.keep();
        // Another test program may have been quicker.
        if std::fs::rename(&made, &venv).is_err() {
            assert!(python.exists());
            std::fs::remove_dir_all(made).unwrap();
        }
        python
    })
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// This machine is not the function's: it keeps its clock and its file systems.
#[derive(Default)]
struct Native {
    settled: Arc<Mutex<Option<Duration>>>,
    starving: bool,
}

impl Machine for Native {
    type Error = std::io::Error;

    fn identify(&mut self, identity: &Identity) -> std::io::Result<()> {
        self.starving = identity.instance_id == STARVING;
        if identity.instance_id == UNACCEPTABLE {
            Err(std::io::ErrorKind::InvalidInput.into())
        } else {
            Ok(())
        }
    }

    fn prepare(&mut self) -> std::io::Result<()> {
        Ok(())
    }

    fn admit(&mut self, _: &FunctionSpec) -> std::io::Result<()> {
        Ok(())
    }

    fn started(&mut self) -> std::io::Result<()> {
        Ok(())
    }

    fn settle(&mut self, scrub: Option<Duration>) {
        *self.settled.lock().unwrap() = scrub;
    }

    fn starved(&mut self, _: Pid) -> bool {
        self.starving
    }

    fn say(&mut self, words: &str) {
        eprintln!("agent: {words}");
    }
}

/// An instance id with which the machine does not take an identity.
pub const UNACCEPTABLE: &str = "unacceptable";

/// An instance id with which the machine says that whoever was killed was killed for want of memory.
pub const STARVING: &str = "starving";

/// An agent in a thread of its own, as PID 1 has it, and the host's end of its newest session.
pub struct Sandbox {
    sessions: mpsc::Sender<std::os::unix::net::UnixStream>,
    agent: Option<JoinHandle<()>>,
    stream: UnixStream,
    decoder: Decoder,
    /// Times it was restored.
    restores: u32,
    /// How it was last settled: with free memory cleared or not.
    pub settled: Arc<Mutex<Option<Duration>>>,
    /// As told with the failure.
    pub peak_memory_kb: u64,
    _folder: TempDir,
}

/// What came up to the end of a call.
pub struct Outcome {
    pub kind: ResultKind,
    pub body: Vec<u8>,
    pub stdout: String,
    pub stderr: String,
    pub peak_memory_kb: u64,
}

impl Outcome {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Sandbox {
    /// An agent whose runtime is `awslambdaric`, started as the runtime image starts it.
    pub async fn new() -> Self {
        let start =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../image/runtimes/python3.11/files/mote/start.py");
        let python = python();
        let description = format!(
            "exec = [{python:?}, {start:?}]\nsnapshot = true\nenv = {{ LANG = \"C.UTF-8\" }}\n\
             [prewarm]\nfixed = [\"LANG\"]\nunless_code_has = [\"lib\"]\n"
        );
        Self::with_runtime(&description, Reap::Runtime).await
    }

    /// An agent with this runtime description.
    pub async fn with_runtime(description: &str, reap: Reap) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime_file = folder.path().join("runtime.toml");
        std::fs::write(&runtime_file, description).unwrap();
        let settings = Settings {
            runtime_file,
            task_root: Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/function"),
            generation: folder.path().join("generation"),
            api: "127.0.0.1:0".parse().unwrap(),
            credentials: None,
            reap,
        };
        let native = Native::default();
        let settled = Arc::clone(&native.settled);
        let (sessions, mut ends) = mpsc::channel(1);
        let agent = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (sender, receiver) = mpsc::channel::<BoxStream>(1);
                tokio::spawn(async move {
                    while let Some(end) = ends.recv().await {
                        let _ = sender.send(Box::new(UnixStream::from_std(end).unwrap())).await;
                    }
                });
                agent::run(settings, native, receiver).await.unwrap();
            });
        });
        let (stream, _) = UnixStream::pair().unwrap();
        let agent = Some(agent);
        let decoder = Decoder::new();
        let mut sandbox = Self {
            sessions,
            agent,
            stream,
            decoder,
            restores: 0,
            settled,
            peak_memory_kb: 0,
            _folder: folder,
        };
        sandbox.connect().await;
        sandbox
    }

    /// A new session; the agent drops the old one.
    pub async fn connect(&mut self) {
        let (host, guest) = UnixStream::pair().unwrap();
        // Made in this runtime, used in the agent's.
        self.sessions.send(guest.into_std().unwrap()).await.unwrap();
        (self.stream, self.decoder) = (host, Decoder::new());
    }

    /// Closes the session without a word.
    pub fn hang_up(&mut self) {
        (self.stream, _) = UnixStream::pair().unwrap();
        self.decoder = Decoder::new();
    }

    /// Waits for the first output of the function.
    pub async fn output(&mut self) {
        while !matches!(self.frame().await.unwrap().message, AgentMessage::Log { stream: LogStream::Stderr })
        {
        }
    }

    pub async fn send(&mut self, message: &HostMessage, body: &[u8]) {
        self.stream.write_all(&encode(message, body).unwrap()).await.unwrap();
    }

    /// A base with a runtime that waits for its function, restored.
    pub async fn prewarmed() -> Self {
        let mut sandbox = Self::new().await;
        sandbox.prewarm().await;
        sandbox.snapshot_and_resume().await;
        sandbox
    }

    pub async fn prewarm(&mut self) {
        self.send(&HostMessage::Prewarm { runtime: "python3.11".into() }, &[]).await;
        assert_eq!(self.until_ready().await, "");
    }

    pub async fn start(&mut self, handler: &str) {
        self.send(&HostMessage::Start { function: function(handler), identity: identity("cold") }, &[]).await;
    }

    /// Starts and goes to the snapshot point; the output until then.
    pub async fn ready(&mut self, handler: &str) -> String {
        self.start(handler).await;
        self.until_ready().await
    }

    /// The output up to the snapshot point.
    pub async fn until_ready(&mut self) -> String {
        let mut stdout = Vec::new();
        loop {
            let frame = self.frame().await.unwrap();
            match frame.message {
                AgentMessage::Ready { init_us } => {
                    assert!(init_us > 0);
                    return String::from_utf8(stdout).unwrap();
                }
                AgentMessage::Log { .. } => stdout.extend(frame.body),
                // Of a base that was restored just now.
                AgentMessage::Resumed { .. } => {}
                other => panic!("{other:?}: {}", String::from_utf8_lossy(&frame.body)),
            }
        }
    }

    /// Settles, as for a snapshot, and comes back on a new session as `restored-N`.
    pub async fn snapshot_and_resume(&mut self) {
        self.snapshot().await;
        self.restores += 1;
        self.resume(identity(&format!("restored-{}", self.restores))).await;
    }

    /// Settles, as for a snapshot.
    pub async fn snapshot(&mut self) {
        self.send(&HostMessage::Quiesce, &[]).await;
        while let Some(frame) = self.frame().await {
            let usual = matches!(frame.message, AgentMessage::Log { .. } | AgentMessage::Resumed { .. });
            assert!(usual, "{frame:?}");
        }
    }

    /// A new session that begins with this identity.
    pub async fn resume(&mut self, identity: Identity) {
        self.connect().await;
        self.send(&HostMessage::Resume { identity }, &[]).await;
    }

    /// Ready, settled and resumed.
    pub async fn resumed(handler: &str) -> Self {
        let mut sandbox = Self::new().await;
        sandbox.ready(handler).await;
        sandbox.snapshot_and_resume().await;
        sandbox
    }

    pub async fn invoke(&mut self, request_id: &str, event: &serde_json::Value) {
        self.send(&HostMessage::Invoke { invoke: call(request_id) }, &serde_json::to_vec(event).unwrap())
            .await;
    }

    /// A call with its result; `Resumed` may come before.
    pub async fn call(&mut self, request_id: &str, event: serde_json::Value) -> Outcome {
        self.invoke(request_id, &event).await;
        self.outcome(request_id).await
    }

    /// The result of a call.
    pub async fn outcome(&mut self, request_id: &str) -> Outcome {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            let frame = self.frame().await.unwrap();
            match frame.message {
                AgentMessage::Log { stream: LogStream::Stdout } => stdout.extend(frame.body),
                AgentMessage::Log { stream: LogStream::Stderr } => stderr.extend(frame.body),
                AgentMessage::Resumed { .. } => {}
                AgentMessage::Result { request_id: id, kind, peak_memory_kb, duration_us, .. } => {
                    assert_eq!(id, request_id);
                    assert!(duration_us > 0);
                    let [stdout, stderr] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
                    return Outcome { kind, body: frame.body, stdout, stderr, peak_memory_kb };
                }
                other => panic!("{other:?}: {}", String::from_utf8_lossy(&frame.body)),
            }
        }
    }

    /// The failure that ends the sandbox, with all output before it, and the end of session and agent.
    pub async fn failure(&mut self) -> (mote_protocol::FailureKind, serde_json::Value, String) {
        let mut output = Vec::new();
        loop {
            let frame = self.frame().await.unwrap();
            match frame.message {
                AgentMessage::Log { .. } => output.extend(frame.body),
                AgentMessage::Resumed { .. } => {}
                AgentMessage::Failed { kind, peak_memory_kb } => {
                    self.peak_memory_kb = peak_memory_kb;
                    assert!(self.frame().await.is_none());
                    self.stream.shutdown().await.ok();
                    self.ended().await;
                    let body = serde_json::from_slice(&frame.body).unwrap();
                    return (kind, body, String::from_utf8(output).unwrap());
                }
                other => panic!("{other:?}: {}", String::from_utf8_lossy(&frame.body)),
            }
        }
    }

    /// What a function with this environment sees of its interpreter, without what is another in every sandbox.
    pub async fn interpreter(mut self, environment: &[(&str, &str)]) -> serde_json::Value {
        let mut function = function("app.handler");
        let own = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        function.environment.extend(own);
        self.send(&HostMessage::Start { function, identity: identity("started") }, &[]).await;
        assert_eq!(self.until_ready().await, "settling\n");
        self.snapshot_and_resume().await;
        let outcome = self.call("call-1", serde_json::json!({"do": "interpreter"})).await;
        assert_eq!(outcome.stdout, "restored\n");
        let mut seen = outcome.json();
        for name in ["AWS_LAMBDA_LOG_STREAM_NAME", "AWS_LAMBDA_RUNTIME_API"] {
            assert!(seen["environment"].as_object_mut().unwrap().remove(name).is_some());
        }
        seen
    }

    async fn ended(&mut self) {
        let agent = self.agent.take().unwrap();
        let joined = tokio::task::spawn_blocking(move || agent.join());
        timeout(PATIENCE, joined).await.unwrap().unwrap().unwrap();
    }

    /// The next frame; `None` at the end of the session.
    pub async fn frame(&mut self) -> Option<Frame<AgentMessage>> {
        let mut piece = vec![0; 64 * 1024];
        loop {
            if let Some(frame) = self.decoder.next().unwrap() {
                return Some(frame);
            }
            let read = timeout(PATIENCE, self.stream.read(&mut piece)).await.unwrap();
            match read {
                Ok(len) if len > 0 => self.decoder.push(&piece[..len]),
                _ => {
                    assert!(self.decoder.is_empty());
                    return None;
                }
            }
        }
    }
}

pub fn function(handler: &str) -> FunctionSpec {
    FunctionSpec {
        name: "app".into(),
        version: "$LATEST".into(),
        handler: handler.into(),
        runtime: "python3.11".into(),
        memory_mb: 128,
        storage_mb: 64,
        environment: BTreeMap::from([("STAGE".into(), "test".into())]),
    }
}

pub fn identity(instance_id: &str) -> Identity {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Identity {
        instance_id: instance_id.into(),
        hostname: "sandbox".into(),
        time_unix_ns: u64::try_from(now.as_nanos()).unwrap(),
        entropy_hex: "00".repeat(32),
        network: None,
    }
}

pub fn call(request_id: &str) -> InvokeSpec {
    let deadline = SystemTime::now() + Duration::from_secs(30);
    let deadline = deadline.duration_since(UNIX_EPOCH).unwrap().as_millis();
    InvokeSpec {
        request_id: request_id.into(),
        deadline_unix_ms: u64::try_from(deadline).unwrap(),
        function_arn: "arn:aws:lambda:us-east-1:000000000000:function:app".into(),
        trace_id: "Root=1-67891233-abcdef012345678912345678".into(),
        content_type: "application/json".into(),
        client_context: Some("{\"custom\": {\"from\": \"caller\"}}".into()),
    }
}
