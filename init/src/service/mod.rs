//! Processes: reaping all, running tools, supervising the one service.

pub mod health;
pub mod hostd;
pub mod lines;
pub mod reap;
pub mod signals;
pub mod tail;
pub mod tool;
