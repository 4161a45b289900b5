//! The control socket: one JSON object per line each way.
//!
//! The monitor sends [`Event`]s (they have an `event` field) and answers each [`Request`] with one [`Reply`] (it
//! has an `ok` field), in order. An event may come between a request and its reply. [`Request::Start`] has no reply of
//! its own: what the monitor then says is what one says that was started with these arguments.

mod client;
mod line;
mod pass;
mod server;

use std::path::PathBuf;

use mote_virtio::net::NetCounts;
use serde::{Deserialize, Serialize};

pub use client::{Client, ClientError};
pub use line::{LINE_LIMIT, LineBuffer, LineError};
pub use pass::send_with;
pub(crate) use server::{Incoming, Server, ServerError, Told};

/// What a client may ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Tell a blank what to be, once. A descriptor that is passed along is the queue of its network device.
    Start {
        /// What would have been said on the command line of a monitor, from `boot` or `restore` on, without
        /// `--control`; the queue is `fd:1` there.
        arguments: Vec<String>,
    },
    /// Stop the vCPUs. Fine when they stand already.
    Pause,
    /// Let the vCPUs go on. Fine when they run already.
    Resume,
    /// Write the paused microVM into `dir` as `state` and `memory`, neither of which may exist yet.
    Snapshot {
        /// Folder; made if its parent exists.
        dir: PathBuf,
        /// Whether to fdatasync both files before answering.
        #[serde(default)]
        sync: bool,
    },
    /// Write which pages the guest has touched since it was restored with `--record` as file `touched` into `dir`.
    Touched {
        /// Folder; it exists.
        dir: PathBuf,
    },
    /// Have the guest give back to the host what it has free, but for `leave_mb` MiB, and no more than this process has
    /// memory of its own. Answered when it has, or after `within_ms` milliseconds, or when another request comes. Ends a
    /// record of what the guest touches.
    Reclaim {
        /// MiB that the guest keeps free.
        leave_mb: u32,
        /// How long it is waited for; at most a minute.
        within_ms: u32,
    },
    /// Let the guest have all its memory again. Answered at once; the guest takes it in its own time, and sooner if it
    /// needs it.
    Deflate,
    /// Say how things are.
    Status,
    /// End the microVM and the monitor.
    Quit,
}

/// Answer to a request. Fields that do not belong to the request asked are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Whether it was done.
    pub ok: bool,
    /// Why not: the error and its causes, joined by `: `.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// `running` or `paused` (after pause, resume and status).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<RunState>,
    /// Guest memory in bytes (status, snapshot).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Number of vCPUs (status).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u8>,
    /// Bytes of the memory file that are not holes (snapshot).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<u64>,
    /// How long stopping the vCPUs took (pause) or writing the snapshot took (snapshot), in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_us: Option<u64>,
    /// Checksum of the memory file as 16 hexadecimal digits (snapshot); see
    /// [`memory_checksum`](crate::snapshot::memory_checksum).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_checksum: Option<String>,
    /// Bytes the host has back: by how much less memory this process has of its own than before (reclaim).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reclaimed_bytes: Option<u64>,
    /// Bytes of its memory the guest says it does without (reclaim, status).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balloon_bytes: Option<u64>,
    /// What passed through the network device since it was made, and what did not (status; absent without one).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net: Option<NetCounts>,
}

impl Reply {
    /// The answer to a request that was carried out.
    pub fn done() -> Self {
        Self { ok: true, ..Self::default() }
    }

    /// The answer to a request that was not: `error` and its causes.
    pub fn failed(error: &dyn std::error::Error) -> Self {
        Self { ok: false, error: Some(crate::error_chain(error)), ..Self::default() }
    }
}

/// Whether the guest makes progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// The vCPUs run.
    Running,
    /// The vCPUs stand still.
    Paused,
}

/// What the monitor says unasked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Sent by a blank once it waits to be told what to be.
    Blank {
        /// How many vCPUs it has.
        vcpus: u8,
        /// CPU time of the process from its start until now, in microseconds.
        setup_cpu_us: u64,
        /// Wall-clock time from the start of `main` until now, in microseconds.
        setup_wall_us: u64,
    },
    /// Sent right before the first `KVM_RUN`, and as the first line to a client who connects later. What a blank took
    /// counts from when it was told what to be.
    Running {
        /// CPU time of the process from its start until now, in microseconds, system calls included.
        setup_cpu_us: u64,
        /// The part of `setup_cpu_us` which the KVM system calls took: the host kernel's share.
        #[serde(default)]
        setup_kvm_us: u64,
        /// Wall-clock time from the start of `main` until now, in microseconds.
        setup_wall_us: u64,
    },
    /// Sent before the monitor ends.
    Exited {
        /// `reset`, `quit`, `terminated`, or what went wrong.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_documented_form() {
        let table = [
            (r#"{"op":"pause"}"#, Request::Pause),
            (r#"{"op":"resume"}"#, Request::Resume),
            (r#"{"op":"status"}"#, Request::Status),
            (r#"{"op":"deflate"}"#, Request::Deflate),
            (
                r#"{"op":"reclaim","leave_mb":16,"within_ms":500}"#,
                Request::Reclaim { leave_mb: 16, within_ms: 500 },
            ),
            (r#"{"op":"quit"}"#, Request::Quit),
            (
                r#"{"op":"start","arguments":["boot","--kernel","/k"]}"#,
                Request::Start { arguments: ["boot", "--kernel", "/k"].map(str::to_owned).into() },
            ),
            (
                r#"{"op":"snapshot","dir":"/a","sync":true}"#,
                Request::Snapshot { dir: "/a".into(), sync: true },
            ),
        ];
        for (text, request) in table {
            assert_eq!(serde_json::from_str::<Request>(text).unwrap(), request);
            assert_eq!(serde_json::to_string(&request).unwrap(), text);
        }
        let short: Request = serde_json::from_str(r#"{"op":"snapshot","dir":"/a"}"#).unwrap();
        assert_eq!(short, Request::Snapshot { dir: "/a".into(), sync: false });
        assert!(serde_json::from_str::<Request>(r#"{"op":"snapshot","dir":"/a","now":true}"#).is_err());
        assert!(serde_json::from_str::<Request>(r#"{"op":"explode"}"#).is_err());
    }

    #[test]
    fn events_and_replies_are_told_apart() {
        let event = Event::Running { setup_cpu_us: 1, setup_kvm_us: 1, setup_wall_us: 2 };
        let line = serde_json::to_string(&event).unwrap();
        assert!(serde_json::from_str::<Reply>(&line).is_err());
        let line = serde_json::to_string(&Reply::done()).unwrap();
        assert_eq!(line, r#"{"ok":true}"#);
        assert!(serde_json::from_str::<Event>(&line).is_err());
    }
}
