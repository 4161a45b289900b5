//! The device behind its transport, with a socket pair for the TAP device's queue: it keeps frames apart as that does.

pub(super) mod frames;
mod guest;
mod hostile;
mod limits;
mod receive;
mod restore;
mod send;
mod tap;
