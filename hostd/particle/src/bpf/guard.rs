//! Who may send what from a queue, and to which queues anything is sent at all.

use std::net::Ipv6Addr;
use std::os::fd::OwnedFd;

use super::insn::{Assembler, Label, Reg, Width};
use super::load::{Array, BpfError, Kind, Program};
use super::steer::{IPV4, IPV6, offset};
use crate::plan::Addresses;

/// `queue_mapping` in `struct __sk_buff`: of a received frame, one more than the queue it came from.
const QUEUE: i16 = 12;

/// `BPF_TCX_INGRESS`.
const TCX_INGRESS: u32 = 46;

/// Verdicts of a program for `TUNSETFILTEREBPF`: how many bytes of a frame are kept.
const KEEP: u32 = i32::MAX.unsigned_abs();
const NOTHING: u32 = 0;

/// Verdicts of a TCX program.
const NEXT: u32 = u32::MAX;
const DROP: u32 = 2;

/// `bpf_redirect`.
const REDIRECT: i32 = 23;

/// Of an address: the queue's number.
const LAST_BYTE: u32 = 0xff;

/// `bpf_map_lookup_elem`.
const MAP_LOOKUP: i32 = 1;

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
    /// Puts a program where frames come from a device into the calling thread's namespace. Waits until the kernel is
    /// sure that nobody uses what was there before, some milliseconds.
    ///
    /// # Errors
    /// On a kernel without TCX.
    pub fn place(program: &Program, index: u32) -> Result<Self, BpfError> {
        Ok(Self { _link: program.attach(index, TCX_INGRESS)? })
    }
}

/// The way from one queue of a device to another of the same device, without the namespace's network stack in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortcut {
    /// The device's number.
    pub index: u32,
    /// So many of its first addresses are not sandboxes': what is for them is the stack's.
    pub reserved: u16,
}

/// Passes frames whose source is the address of the queue they come from: `first`, whose last byte is 0, plus the
/// queue's number. Those for another queue of the device take the shortcut, if there is one.
///
/// # Errors
/// On a kernel without eBPF.
pub fn guard_in(first: Addresses, shortcut: Option<Shortcut>) -> Result<Program, BpfError> {
    let mut program = Assembler::new();
    let labels = Labels { pass: program.label(), across: program.label(), drop: program.label() };
    let (v4, v6) = (program.label(), program.label());
    program
        .copy(Reg::R6, Reg::R1)
        .load(Reg::R7, Reg::R6, QUEUE)
        .add(Reg::R7, -1)
        .packet(Width::Half, offset::ETHERTYPE)
        .if_is(Reg::R0, IPV4, v4)
        .if_is(Reg::R0, IPV6, v6)
        .go(labels.drop)
        .place(v4);
    decide(&mut program, &[first.v4.into()], (offset::V4_SOURCE, offset::V4_TO), shortcut, labels);
    program.place(v6);
    decide(&mut program, &words(first.v6), (offset::V6_SOURCE, offset::V6_TO), shortcut, labels);
    if let Some(shortcut) = shortcut {
        program.place(labels.across).set(Reg::R1, shortcut.index).set(Reg::R2, 0).call(REDIRECT).exit();
    }
    program.place(labels.pass).answer(NEXT).place(labels.drop).answer(DROP);
    Program::load("mote_guard_in", Kind::Classifier, &program.finish())
}

#[derive(Clone, Copy)]
struct Labels {
    /// To the namespace's stack.
    pass: Label,
    /// To another queue.
    across: Label,
    drop: Label,
}

/// Drops a frame whose source is not the queue's, and says where others go. `first` is the device's first address in
/// words, source and destination are where they stand in a frame.
fn decide(
    program: &mut Assembler,
    first: &[u32],
    (source, destination): (u16, u16),
    shortcut: Option<Shortcut>,
    labels: Labels,
) {
    let Some((last, front)) = first.split_last() else { return };
    let places = |start: u16| (start..).step_by(4).take(first.len());
    for (word, at) in front.iter().zip(places(source)) {
        program.packet(Width::Word, at).unless_is(Reg::R0, *word, labels.drop);
    }
    let at = places(source).last().unwrap_or(source);
    program.packet(Width::Word, at).set(Reg::R8, *last).or(Reg::R8, Reg::R7);
    program.unless_same(Reg::R0, Reg::R8, labels.drop);
    let Some(shortcut) = shortcut else {
        program.go(labels.pass);
        return;
    };
    for (word, at) in front.iter().zip(places(destination)) {
        program.packet(Width::Word, at).unless_is(Reg::R0, *word, labels.pass);
    }
    let at = places(destination).last().unwrap_or(destination);
    program.packet(Width::Word, at).copy(Reg::R8, Reg::R0).and(Reg::R8, !LAST_BYTE);
    program.unless_is(Reg::R8, *last, labels.pass).and(Reg::R0, LAST_BYTE);
    for reserved in 0..u32::from(shortcut.reserved) {
        program.if_is(Reg::R0, reserved, labels.pass);
    }
    program.go(labels.across);
}

fn words(address: Ipv6Addr) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h] = address.segments().map(u32::from);
    [(a << 16) | b, (c << 16) | d, (e << 16) | f, (g << 16) | h]
}

/// A program for `TUNSETFILTEREBPF`: keeps IP frames for queues that are permitted, and nothing of others.
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
        .answer(KEEP)
        .place(drop)
        .answer(NOTHING);
    Program::load("mote_guard_out", Kind::SocketFilter, &program.finish())
}
