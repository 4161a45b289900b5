//! The few eBPF programs of an endpoint, put together here: a dozen instructions each need no compiler.

mod cgroup;
mod guard;
mod insn;
mod load;
mod steer;
mod table;

pub use cgroup::{CgroupGuard, LOOPBACK_MARK};
pub use guard::{Guard, Permitted, Shortcut, guard_in, guard_out};
pub use load::{BpfError, Program};
pub use steer::steer;
pub use table::Table;
