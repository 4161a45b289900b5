//! What the front door hands to the platform and gets back from it: checked, typed, free of HTTP.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use crate::error::ApiError;

/// The only version there is.
pub const LATEST: &str = "$LATEST";

/// Most bytes of log an invocation answers with (`X-Amz-Log-Result`), as on Lambda.
pub const LOG_TAIL_BYTES: usize = 4 * 1024;

/// Which account and region this machine calls itself in ARNs. Clients insist on the form, nothing depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Such as `us-east-1`.
    pub region: String,
    /// Twelve digits.
    pub account: String,
}

impl Default for Identity {
    fn default() -> Self {
        Self { region: "us-east-1".to_owned(), account: "000000000000".to_owned() }
    }
}

impl Identity {
    /// ARN of a function, without a version.
    pub fn function_arn(&self, name: &str) -> String {
        format!("arn:aws:lambda:{}:{}:function:{name}", self.region, self.account)
    }
}

/// A support bundle that is being written: an archive.
#[derive(Debug)]
pub struct Bundle {
    /// Name of the file it may be kept as.
    pub name: String,
    /// Its pieces. An error: what came before is not the whole.
    pub pieces: tokio::sync::mpsc::Receiver<std::io::Result<Bytes>>,
}

/// An update file that comes in. After an error, or when there are no more pieces before it is whole, it never will be.
#[derive(Debug)]
pub struct Upload {
    /// Its pieces, of any size.
    pub pieces: tokio::sync::mpsc::Receiver<Result<Bytes, ApiError>>,
}

/// How an update, or a way back, is wished for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpdateWish {
    /// The machine starts again at once, and tries it.
    pub reboot: bool,
    /// Also a version that failed before, or is installed already.
    pub force: bool,
}

/// Who asks, as far as the request says. Signatures are not verified yet: this names, it does not prove.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// Access key id of the request's SigV4 `Credential`.
    pub access_key_id: Option<String>,
    /// Region of the request's SigV4 `Credential`.
    pub region: Option<String>,
}

/// What this machine offers; requests outside of it are refused before the platform sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Most memory of a function, MiB (128 to this; Lambda's own limit of 10240 holds as well).
    pub max_memory_mb: u32,
    /// Largest writable layer of a function, MiB (64 to this).
    pub max_storage_mb: u32,
    /// Writable layer of a function that names none, MiB.
    pub default_storage_mb: u32,
    /// Runtimes there are images of.
    pub runtimes: Vec<String>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_memory_mb: 10_240,
            max_storage_mb: 10_240,
            default_storage_mb: 512,
            runtimes: vec!["python3.11".to_owned()],
        }
    }
}

/// A function to be made. Every field is within Lambda's limits and [`Limits`], defaults are filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateFunction {
    /// 1 to 64 of `a-z A-Z 0-9 - _`.
    pub name: String,
    /// One of [`Limits::runtimes`].
    pub runtime: String,
    /// 1 to 128 characters without white space, such as `app.handler`.
    pub handler: String,
    /// Role ARN as given, not interpreted; may be empty.
    pub role: String,
    /// At most 256 characters.
    pub description: String,
    /// 1 to 900 seconds.
    pub timeout_s: u32,
    /// Memory of its microVM, MiB.
    pub memory_mb: u32,
    /// Writable layer, MiB.
    pub storage_mb: u32,
    /// At most 4 KiB in all, no reserved names.
    pub environment: BTreeMap<String, String>,
    /// `["x86_64"]`.
    pub architectures: Vec<String>,
    /// Within Lambda's limits; those of this system are [`Wishes`](crate::Wishes).
    pub tags: BTreeMap<String, String>,
    /// A version was to be published; there are none yet, so `$LATEST` is what the caller gets.
    pub publish: bool,
    /// The uploaded archive, at most 50 MiB and not looked into yet.
    pub zip: Bytes,
}

/// New code for a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateCode {
    /// The function's name.
    pub name: String,
    /// The uploaded archive, at most 50 MiB and not looked into yet.
    pub zip: Bytes,
    /// Change it only if it still is at this revision, else [`crate::ApiError::PreconditionFailed`].
    pub revision_id: Option<String>,
    /// Check everything, change nothing, answer as if.
    pub dry_run: bool,
    /// As in [`CreateFunction::publish`].
    pub publish: bool,
}

/// New configuration for a function: what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpdateConfiguration {
    /// The function's name.
    pub name: String,
    /// As in [`CreateFunction::runtime`].
    pub runtime: Option<String>,
    /// As in [`CreateFunction::handler`].
    pub handler: Option<String>,
    /// As in [`CreateFunction::role`].
    pub role: Option<String>,
    /// As in [`CreateFunction::description`].
    pub description: Option<String>,
    /// As in [`CreateFunction::timeout_s`].
    pub timeout_s: Option<u32>,
    /// As in [`CreateFunction::memory_mb`].
    pub memory_mb: Option<u32>,
    /// As in [`CreateFunction::storage_mb`].
    pub storage_mb: Option<u32>,
    /// Replaces the whole environment.
    pub environment: Option<BTreeMap<String, String>>,
    /// As in [`UpdateCode::revision_id`].
    pub revision_id: Option<String>,
}

/// A function as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Such as `python3.11`.
    pub runtime: String,
    /// Such as `app.handler`.
    pub handler: String,
    /// Role ARN as given.
    pub role: String,
    /// Free text.
    pub description: String,
    /// Limit of one call, seconds.
    pub timeout_s: u32,
    /// Memory of its microVM, MiB.
    pub memory_mb: u32,
    /// Writable layer, MiB.
    pub storage_mb: u32,
    /// Environment variables.
    pub environment: BTreeMap<String, String>,
    /// Such as `["x86_64"]`.
    pub architectures: Vec<String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Calls at once, both at most and kept for it; `None`: as there is room.
    pub reserved_concurrency: Option<u32>,
    /// Bytes of the uploaded archive.
    pub code_size: u64,
    /// SHA-256 of the uploaded archive, standard base64.
    pub code_sha256: String,
    /// When it was last changed, milliseconds since 1970 UTC.
    pub last_modified_unix_ms: u64,
    /// Changes with every change of the function.
    pub revision_id: String,
    /// Whether it can be called.
    pub state: FunctionState,
    /// How its last change went.
    pub last_update: UpdateState,
}

/// Whether a function can be called (`State`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum FunctionState {
    /// It can.
    #[default]
    Active,
    /// It is being made.
    Pending,
    /// It cannot, for this reason.
    Failed(String),
}

/// How the last change of a function went (`LastUpdateStatus`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum UpdateState {
    /// It is in effect.
    #[default]
    Successful,
    /// It is under way.
    InProgress,
    /// It failed, for this reason; the function is as before.
    Failed(String),
}

/// Sandboxes of a function that are always to be there, and how far they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provisioned {
    /// So many are to be there.
    pub requested: u32,
    /// So many have their memory: they come up or are up.
    pub allocated: u32,
    /// So many are up, with a call or without.
    pub available: u32,
    /// Whether that is all of them.
    pub state: ProvisionedState,
    /// When the number was last changed, milliseconds since 1970 UTC.
    pub last_modified_unix_ms: u64,
}

/// Whether sandboxes that are always to be there are (`Status`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProvisionedState {
    /// They are.
    Ready,
    /// They come up, or wait for room.
    InProgress,
    /// Those that are missing did not come up, for this reason. They are tried again.
    Failed(String),
}

/// Limits of this machine and what is used of them (`GetAccountSettings`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Calls at once.
    pub concurrency: u32,
    /// Of these, those that are reserved for no function.
    pub unreserved_concurrency: u32,
    /// Room for functions, bytes.
    pub code_limit: u64,
    /// Files of one function, bytes.
    pub unpacked_limit: u64,
    /// Bytes the code of all functions takes.
    pub code_size: u64,
    /// Functions there are.
    pub functions: u64,
}

/// One page of a list of functions, ordered by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FunctionPage {
    /// At most as many as were asked for.
    pub functions: Vec<Function>,
    /// There are functions after the last of them.
    pub more: bool,
}

/// How a caller wants to be served (`X-Mote-Start`); for tests and measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StartPreference {
    /// Whatever is quickest.
    #[default]
    Auto,
    /// Boot a sandbox, even if there is a snapshot or an idle sandbox.
    Cold,
    /// Restore a sandbox from the snapshot, even if there is an idle sandbox.
    Restore,
    /// An idle sandbox.
    Warm,
}

/// How a snapshot's memory comes back (`X-Mote-Restore-Mode`); for measurements, `Faasnap` is the one for use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestoreMode {
    /// The whole memory file mapped, read page by page as the guest touches it.
    Lazy,
    /// The same, read into the page cache before.
    Cached,
    /// The working set put in place before the guest runs, page faults served by the monitor.
    Reap,
    /// Mapped by region, the loading set read beside the running guest.
    Faasnap,
}

impl RestoreMode {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Lazy, Self::Cached, Self::Reap, Self::Faasnap];

    /// As in headers and on the monitor's command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lazy => "lazy",
            Self::Cached => "cached",
            Self::Reap => "reap",
            Self::Faasnap => "faasnap",
        }
    }
}

/// One call of a function that waits for its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvokeRequest {
    /// The function's name.
    pub function: String,
    /// [`LATEST`], whether named or not.
    pub qualifier: String,
    /// Its ARN, with the qualifier if the caller gave one.
    pub arn: String,
    /// A fresh UUID; the answer carries it as `x-amzn-RequestId`.
    pub request_id: String,
    /// The event: JSON, at most 6 MiB, never empty.
    pub payload: Bytes,
    /// `Content-Type` of the event.
    pub content_type: String,
    /// The end of the log is wanted.
    pub log_tail: bool,
    /// `X-Amz-Client-Context`, decoded: one line of ASCII JSON.
    pub client_context: Option<String>,
    /// How to serve it.
    pub start: StartPreference,
    /// How to restore it, if it is; `None`: as the function has it.
    pub restore_mode: Option<RestoreMode>,
}

/// Which way a call was served (`X-Mote-Served-By`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServedBy {
    /// A sandbox was booted for it.
    Cold,
    /// A sandbox was restored for it.
    Restore,
    /// By an idle sandbox.
    Warm,
}

impl ServedBy {
    /// As in the header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Restore => "restore",
            Self::Warm => "warm",
        }
    }
}

/// That the function failed, and how; the payload is then its error object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FunctionError {
    /// The function reported an error that it caught.
    Handled,
    /// It raised, broke, ran out of memory or could not start.
    Unhandled,
    /// It took longer than its time: `Unhandled` on the Lambda API, 504 on `/function/`.
    TimedOut,
}

impl FunctionError {
    /// As in `X-Amz-Function-Error`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Handled => "Handled",
            Self::Unhandled | Self::TimedOut => "Unhandled",
        }
    }
}

/// The answer to a call. A function that failed is an answer too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvokeReply {
    /// What the handler returned, or its error object.
    pub payload: Bytes,
    /// `Content-Type` of the payload; `application/json` when `None`.
    pub content_type: Option<String>,
    /// Set when the function failed.
    pub function_error: Option<FunctionError>,
    /// Version that ran, [`LATEST`].
    pub executed_version: String,
    /// End of the log; only its last [`LOG_TAIL_BYTES`] are sent, and only if it was asked for.
    pub log_tail: Option<Bytes>,
    /// Which way it was served.
    pub served_by: ServedBy,
    /// Where the time went, in order; names are header tokens such as `restore`.
    pub phases: Vec<(&'static str, Duration)>,
    /// Time the function is billed, if it ran.
    pub billed: Option<Duration>,
    /// What bringing memory back cost (`X-Mote-Paging`), if the call was restored: counts by name.
    pub paging: Vec<(&'static str, u64)>,
}

/// State of the service and of what it stands on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Health {
    /// The process can answer calls (`/healthz` 200, else 503). A lost data disk alone does not make this false.
    pub serving: bool,
    /// New calls are welcome (`/readyz` 200, else 503): false while starting and while draining.
    pub ready: bool,
    /// The parts, worst first or in any order.
    pub components: Vec<Component>,
}

/// State of one part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Component {
    /// Such as `data-disk`.
    pub name: String,
    /// It works fully.
    pub ok: bool,
    /// What is wrong and what to do, or a detail worth knowing; may be empty.
    pub reason: String,
}
