//! What hostd and the agent in a microVM say to each other, over one vsock stream at a time.
//!
//! A session is one stream. At a cold boot the agent opens it, to [`HOST_PORT`] on the host, as soon as it can
//! serve: nobody polls. After a restore hostd opens it, to [`AGENT_PORT`] in the guest. On either the host
//! speaks first:
//!
//! ```text
//! cold boot     Start > Ready                                Quiesce > end of session: a function's snapshot
//! cold boot     [Prewarm > Ready]                            Quiesce > end of session: a base
//! from a base   [Resume > Resumed]  Start > Ready            Quiesce > end of session: a function's snapshot
//! restored      Resume > Resumed    (Invoke > Log… Result)…  Quiesce > end of session: a warm function's snapshot
//! ```
//!
//! `Scrub` may come before any `Quiesce`, and `Failed` instead of any answer.
//!
//! Everything is a [`Frame`](frame::Frame): a JSON header that says what it is, and a body of raw bytes (an
//! event, a response, a piece of log). Both sides treat what they read as untrusted: lengths are checked
//! against [`MAX_HEADER`] and [`MAX_BODY`] before a byte is kept.

pub mod frame;
mod message;

pub use frame::{Decoder, Frame, FrameError, encode};
pub use message::{
    AgentMessage, FailureKind, FunctionSpec, HostMessage, Identity, InvokeSpec, LogStream, NetworkSpec,
    ResultKind,
};

/// Guest vsock port on which the agent accepts a session after a restore.
pub const AGENT_PORT: u32 = 1024;

/// Host vsock port to which the agent opens its session after a cold boot.
pub const HOST_PORT: u32 = 1024;

/// Largest frame header, bytes of JSON. An environment of 4 KiB and every field at its limit fit many times.
pub const MAX_HEADER: usize = 64 * 1024;

/// Largest request or response payload of one invocation, bytes: 6 MiB, as on Lambda.
pub const MAX_PAYLOAD: usize = 6 * 1024 * 1024;

/// Largest frame body, bytes: a payload and Lambda's 100 bytes of slack.
pub const MAX_BODY: usize = MAX_PAYLOAD + 100;
