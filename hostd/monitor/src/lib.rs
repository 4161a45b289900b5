//! Embedded KVM monitor: one process per microVM.
