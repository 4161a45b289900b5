//! The messages. Every one is a JSON object with a `type`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// The function a microVM is booted for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionSpec {
    /// Function name.
    pub name: String,
    /// Version, `$LATEST` until versions are published.
    pub version: String,
    /// Handler, as the runtime reads it: `module.function` for Python.
    pub handler: String,
    /// Runtime identifier, `python3.11`; the agent finds its start command in the runtime image.
    pub runtime: String,
    /// Memory of the microVM, MiB: what `AWS_LAMBDA_FUNCTION_MEMORY_SIZE` says.
    pub memory_mb: u32,
    /// Limit of everything the function may write, MiB. It is kept in memory, of which it gets half at most.
    pub storage_mb: u32,
    /// The function's own environment.
    pub environment: BTreeMap<String, String>,
}

/// What makes one sandbox different from every other made of the same snapshot. Given at each start and each
/// restore, never part of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Generation id, a UUID; also the end of the log stream's name.
    pub instance_id: String,
    /// Host name inside the microVM.
    pub hostname: String,
    /// Wall clock, nanoseconds since 1970.
    pub time_unix_ns: u64,
    /// 32 fresh random bytes, in hexadecimal: mixed into the guest's CRNG, which is then reseeded.
    pub entropy_hex: String,
    /// Its place in the tenant's network; without one it has no address.
    pub network: Option<NetworkSpec>,
}

/// A sandbox's place in its tenant's network. Its addresses are all it has of it: everything else is behind the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// IPv4 address.
    pub v4: Ipv4Addr,
    /// IPv6 address.
    pub v6: Ipv6Addr,
    /// Where all IPv4 packets go, and names are answered.
    pub gateway_v4: Ipv4Addr,
    /// The same, IPv6.
    pub gateway_v6: Ipv6Addr,
    /// Largest packet, bytes.
    pub mtu: u16,
    /// Domains in which a name without one is looked for.
    pub search: Vec<String>,
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvokeSpec {
    /// Request id, a UUID.
    pub request_id: String,
    /// When the answer must be there, milliseconds since 1970.
    pub deadline_unix_ms: u64,
    /// ARN under which the function was called.
    pub function_arn: String,
    /// X-Ray trace header for the call.
    pub trace_id: String,
    /// `Content-Type` of the event.
    pub content_type: String,
    /// Decoded `X-Amz-Client-Context` (JSON), if the caller gave one.
    pub client_context: Option<String>,
}

/// Host to agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum HostMessage {
    /// For a snapshot that functions are made of: start the runtime as far as it goes without one. At most once, and
    /// before `Start`. Answered by [`AgentMessage::Ready`] when the runtime waits for its function (at once if this
    /// runtime has no such way to start, which is no error: there is a snapshot to be had all the same), or by
    /// [`AgentMessage::Failed`].
    Prewarm {
        /// As in [`FunctionSpec`].
        runtime: String,
    },
    /// Once: mount the code, start the runtime, stop at its snapshot point. The first message after a cold boot, or
    /// after the restore of a snapshot that was taken without a function (a `Resume` may come before it then).
    /// The agent answers [`AgentMessage::Ready`] or [`AgentMessage::Failed`].
    Start {
        /// What to run.
        function: FunctionSpec,
        /// Who this sandbox is.
        identity: Identity,
    },
    /// Clear free memory when the sandbox settles next, so that what programs gave back is no part of the snapshot.
    /// Sent before `Quiesce`; counts for that one, is not answered, and cannot fail.
    Scrub {
        /// The time that may take, milliseconds; what is not cleared by then stays as it is.
        within_ms: u32,
    },
    /// A snapshot is about to be taken: settle everything, then close the session. The host takes the
    /// snapshot when it reads the end of the stream. Before `Start` too: of such a snapshot any function can be made
    /// that has this runtime and this much memory, whatever its code's drive holds.
    Quiesce,
    /// First on a session after a restore (or after a snapshot, in the sandbox it was taken from): take the
    /// new identity, then release the runtime. Answered by [`AgentMessage::Resumed`], at once if there is no
    /// runtime to release.
    Resume {
        /// Who this sandbox is from here on.
        identity: Identity,
    },
    /// One call; the body is the event. May follow `Resume` without waiting, but not before `Start`. At most one at a
    /// time.
    Invoke {
        /// The call.
        invoke: InvokeSpec,
    },
}

/// Which of the runtime's outputs a piece of log is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a call ended inside the function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResultKind {
    /// The handler returned; the body is its result.
    Response,
    /// The handler raised; the body is the error object (`errorMessage`, `errorType`, `stackTrace`).
    Error,
}

/// Why a sandbox can serve no (further) call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The runtime reported that initialisation failed; the body is its error object.
    Init,
    /// The runtime process ended by itself or was killed (for want of memory: `Runtime.OutOfMemory`); the body is an
    /// error object made by the agent. Its message begins with `RequestId: ID ` if the runtime had that call's event,
    /// and with `Error: ` if it had none: a call sent meanwhile was not begun, and may be made elsewhere.
    Exit,
    /// The agent could not do its own part (a mount, a missing start command); body as for `Exit`.
    Agent,
}

/// Agent to host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AgentMessage {
    /// The runtime stands at its snapshot point: it waits at `restore/next`, or at its first `next`; after `Prewarm`,
    /// for its function.
    Ready {
        /// From `Start` (`Prewarm`) to here, microseconds on the guest's clock.
        init_us: u64,
    },
    /// Identity taken, runtime released; sent when the runtime asks for its first event after that.
    Resumed {
        /// From `Resume` to here, microseconds on the guest's clock.
        resume_us: u64,
    },
    /// The answer to a call.
    Result {
        /// The call's request id.
        request_id: String,
        /// Whether it is a response or an error.
        kind: ResultKind,
        /// `Content-Type` the runtime gave, if any.
        content_type: Option<String>,
        /// Time the function itself took, microseconds, from the event handed over to the answer.
        duration_us: u64,
        /// Most memory used inside the microVM so far, KiB: `MemTotal - MemAvailable` at its peak.
        peak_memory_kb: u64,
    },
    /// Output of the function; the body is the bytes. Always sent before the `Result` of the call it belongs to.
    Log {
        /// Where it came from.
        stream: LogStream,
    },
    /// The sandbox is of no further use; sent once, then the agent closes the session.
    Failed {
        /// What failed.
        kind: FailureKind,
        /// As in `Result`; all there is, when want of memory was the failure.
        peak_memory_kb: u64,
    },
}
