//! Embedded KVM monitor: one process per microVM.

fn main() {}
