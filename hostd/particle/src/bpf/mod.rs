//! The few eBPF programs of an endpoint, put together here: a dozen instructions each need no compiler.

mod guard;
mod insn;
mod load;
mod steer;

pub use guard::{Direction, Guard, Permitted, guard_in, guard_out};
pub use load::{BpfError, Program};
pub use steer::steer;
