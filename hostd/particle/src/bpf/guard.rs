//! Who may send what from a queue, and to which queues anything is sent at all.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use super::insn::{Assembler, Label, Reg, Width};
use super::load::{Array, BpfError, Kind, Program};
use super::steer::{IPV4, IPV6, offset};
use crate::plan::Addresses;

/// `queue_mapping` in `struct __sk_buff`: of a received frame, one more than the queue it came from.
const QUEUE: i16 = 12;

/// Verdicts of a TCX program.
const NEXT: u32 = u32::MAX;
const DROP: u32 = 2;

/// `bpf_map_lookup_elem`.
const MAP_LOOKUP: i32 = 1;

/// Side of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Direction {
    /// What comes from the device into the namespace (`BPF_TCX_INGRESS`).
    In = 46,
    /// What the namespace sends to the device (`BPF_TCX_EGRESS`).
    Out = 47,
}

/// The queues of a device that somebody holds. Nothing is sent to the others, where it would only pile up.
#[derive(Debug)]
pub struct Permitted(Array);

impl Permitted {
    /// None of `queues`.
    ///
    /// # Errors
    /// On a kernel without eBPF.
    pub fn none(queues: u16) -> Result<Self, BpfError> {
        Array::new(queues).map(Self)
    }

    /// Lets frames through to a queue.
    pub fn permit(&self, queue: u16) {
        self.0.set(queue, 1);
    }

    /// Keeps frames away from a queue.
    pub fn forbid(&self, queue: u16) {
        self.0.set(queue, 0);
    }
}

/// A guard on its device.
#[derive(Debug)]
pub struct Guard {
    _link: OwnedFd,
}

impl Guard {
    /// Puts a program at one side of a device in the calling thread's namespace.
    ///
    /// # Errors
    /// On a kernel without TCX.
    pub fn place(program: &Program, index: u32, direction: Direction) -> Result<Self, BpfError> {
        Ok(Self { _link: program.attach(index, direction as u32)? })
    }
}

/// Passes frames whose source is the address of the queue they come from: `first`, whose last byte is 0, plus the
/// queue's number.
///
/// # Errors
/// On a kernel without eBPF.
pub fn guard_in(first: Addresses) -> Result<Program, BpfError> {
    let mut program = Assembler::new();
    let (v4, v6, drop) = (program.label(), program.label(), program.label());
    program
        .copy(Reg::R6, Reg::R1)
        .load(Reg::R7, Reg::R6, QUEUE)
        .add(Reg::R7, -1)
        .packet(Width::Half, offset::ETHERTYPE)
        .if_is(Reg::R0, IPV4, v4)
        .if_is(Reg::R0, IPV6, v6)
        .go(drop)
        .place(v4);
    source_v4(&mut program, first.v4, drop);
    program.place(v6);
    source_v6(&mut program, first.v6, drop);
    program.place(drop).answer(DROP);
    Program::load("mote_guard_in", Kind::Classifier, &program.finish())
}

/// Goes on if the four bytes at `at` are `bytes | r7`.
fn ends_with_queue(program: &mut Assembler, at: u16, bytes: u32, drop: Label) {
    program
        .packet(Width::Word, at)
        .set(Reg::R8, bytes)
        .or(Reg::R8, Reg::R7)
        .unless_same(Reg::R0, Reg::R8, drop)
        .answer(NEXT);
}

fn source_v4(program: &mut Assembler, first: Ipv4Addr, drop: Label) {
    ends_with_queue(program, offset::V4_SOURCE, first.into(), drop);
}

fn source_v6(program: &mut Assembler, first: Ipv6Addr, drop: Label) {
    let [a, b, c, d] = words(first);
    for (word, at) in [a, b, c].into_iter().zip((offset::V6_SOURCE..).step_by(4)) {
        program.packet(Width::Word, at).unless_is(Reg::R0, word, drop);
    }
    ends_with_queue(program, offset::V6_SOURCE + 12, d, drop);
}

fn words(address: Ipv6Addr) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h] = address.segments().map(u32::from);
    [(a << 16) | b, (c << 16) | d, (e << 16) | f, (g << 16) | h]
}

/// Passes IP frames to queues that are permitted, and drops all others.
///
/// # Errors
/// On a kernel without eBPF.
pub fn guard_out(permitted: &Permitted) -> Result<Program, BpfError> {
    let mut program = Assembler::new();
    let (v4, v6, look, drop) = (program.label(), program.label(), program.label(), program.label());
    program
        .copy(Reg::R6, Reg::R1)
        .packet(Width::Half, offset::ETHERTYPE)
        .if_is(Reg::R0, IPV4, v4)
        .if_is(Reg::R0, IPV6, v6)
        .go(drop)
        .place(v4)
        .packet(Width::Byte, offset::V4_TO_LAST)
        .go(look)
        .place(v6)
        .packet(Width::Byte, offset::V6_TO_LAST)
        .place(look)
        .store(Reg::R10, -4, Reg::R0)
        .map(Reg::R1, permitted.0.fd())
        .copy(Reg::R2, Reg::R10)
        .add(Reg::R2, -4)
        .call(MAP_LOOKUP)
        .if_null(Reg::R0, drop)
        .load(Reg::R0, Reg::R0, 0)
        .unless_is(Reg::R0, 1, drop)
        .answer(NEXT)
        .place(drop)
        .answer(DROP);
    Program::load("mote_guard_out", Kind::Classifier, &program.finish())
}
