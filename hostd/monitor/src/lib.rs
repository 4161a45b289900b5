//! Embedded KVM monitor: one process per microVM.
//!
//! [`cli::main`] is the whole program. Of the rest, hostd uses [`control`] (what is said on the control socket) and
//! [`snapshot`] (checking a snapshot before it is used).
//!
//! ```text
//! cli ── machine ── vm        KVM: slots, interrupt controllers, vCPU threads
//!          │   ├─── boot      kernels and the tables they want
//!          │   ├─── memory    anonymous base, files laid over it, writing it out
//!          │   ├─── devices   serial port, i8042, bus; virtio devices are the crate mote-virtio
//!          │   └─── snapshot  state file and its checks
//!          └── event_loop     devices, control socket, signals: one thread
//! ```

mod boot;
pub mod cli;
pub mod control;
mod devices;
mod event_loop;
mod machine;
mod memory;
mod meter;
mod signals;
pub mod snapshot;
mod vm;

/// An error and its causes, joined by `: `.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
