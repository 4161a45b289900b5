//! Which queue of a TAP device a frame goes to.

use super::insn::{Assembler, Reg, Width};
use super::load::{BpfError, Kind, Program};

/// Where things are in an Ethernet frame.
pub(super) mod offset {
    /// Type of what is inside.
    pub(in crate::bpf) const ETHERTYPE: u16 = 12;
    /// IPv4 source.
    pub(in crate::bpf) const V4_SOURCE: u16 = 14 + 12;
    /// IPv4 destination.
    pub(in crate::bpf) const V4_TO: u16 = 14 + 16;
    /// Last byte of the IPv4 destination.
    pub(in crate::bpf) const V4_TO_LAST: u16 = 14 + 19;
    /// IPv6 source.
    pub(in crate::bpf) const V6_SOURCE: u16 = 14 + 8;
    /// IPv6 destination.
    pub(in crate::bpf) const V6_TO: u16 = 14 + 24;
    /// Last byte of the IPv6 destination.
    pub(in crate::bpf) const V6_TO_LAST: u16 = 14 + 39;
}

pub(super) const IPV4: u32 = 0x0800;
pub(super) const IPV6: u32 = 0x86dd;

/// A program for `TUNSETSTEERINGEBPF`: the queue's number is the last byte of the destination address; 0 for anything
/// that has none. The kernel takes it modulo the number of queues.
///
/// # Errors
/// On a kernel without eBPF.
pub fn steer() -> Result<Program, BpfError> {
    let mut program = Assembler::new();
    let (v4, v6) = (program.label(), program.label());
    program
        .copy(Reg::R6, Reg::R1)
        .packet(Width::Half, offset::ETHERTYPE)
        .if_is(Reg::R0, IPV4, v4)
        .if_is(Reg::R0, IPV6, v6)
        .answer(0)
        .place(v4)
        .packet(Width::Byte, offset::V4_TO_LAST)
        .exit()
        .place(v6)
        .packet(Width::Byte, offset::V6_TO_LAST)
        .exit();
    Program::load("mote_steer", Kind::SocketFilter, &program.finish())
}
