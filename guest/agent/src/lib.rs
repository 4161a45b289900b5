//! PID 1 inside a microVM: serves the Lambda Runtime API to the function's runtime.
//!
//! One task, [`agent::run`], owns everything that changes. Four sources feed it: frames of the host
//! ([`session`]), requests of the runtime ([`api`]), the runtime's output ([`output`]) and its end
//! ([`process`]). What a request means is decided by [`state`], which knows no I/O.
//!
//! All that is peculiar to a microVM (mounts, clock, entropy, vsock, power) is in [`guest`], behind
//! [`machine::Machine`]: the rest runs natively, with a Unix socket for a session.

pub mod agent;
pub mod api;
pub mod environment;
pub mod generation;
pub mod guest;
pub mod launch;
pub mod machine;
pub mod memory;
pub mod output;
pub mod process;
pub mod runtime;
pub mod scrub;
pub mod session;
pub mod state;
pub mod words;
