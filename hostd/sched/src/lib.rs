//! The scheduler: events and time in, decisions out. No input or output, no clock of its own, no thread.
//!
//! ```text
//! Event + Time ──> Scheduler ──> Decision*          the caller does what is decided and reports what came of it
//! call: queue (by deadline) ─ fair share ─ warm choice │ placement ─ admission ─ evictions
//! ```
//!
//! Every sandbox has a state, a size and a time it was last used ([`states`]). A call gets an idle sandbox of its
//! function if there is one; else one is started where the least is lost by it; else it waits in order, at most until
//! its deadline; else it is refused at once.

mod admission;
pub mod config;
pub mod events;
mod fair;
mod heap;
pub mod ids;
pub mod policy;
mod queue;
mod random;
mod ring;
pub mod scheduler;
mod settings;
pub mod states;
mod table;
pub mod view;

pub use config::{Binding, Config, FunctionSpec, HistogramConfig, Limits, NodeSpec, TenantSpec};
pub use events::{Decision, Event, EventError, How, Refusal, Retirement, Why};
pub use fair::Limit;
pub use ids::{CallId, FunctionId, ImageId, NodeId, SandboxId, TenantId, Time};
pub use scheduler::Scheduler;
pub use settings::Settings;
pub use states::State;
pub use view::{FunctionView, NodeView, SandboxView, Stats};
