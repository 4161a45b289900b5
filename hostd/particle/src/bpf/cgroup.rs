//! What holds the processes of a cgroup to their own addresses: a program for every way a socket comes to an address,
//! and two for every packet.
//!
//! All of them look up the cgroup's addresses by its number, so one set of them serves all sandboxes of a tenant, and a
//! cgroup that has no addresses has no network. "Any address" and the loopback address both become the cgroup's own; a
//! socket bound to the loopback address is marked, and hears its own sandbox only.
//!
//! A set of programs for every sandbox would need no table, but takes the kernel some eighty times as long as an entry.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::insn::{Assembler, Insn, Label, Reg};
use super::load::{BpfError, Kind, Program};
use super::table::{Table, offset as value};

/// Mark of sockets bound to the loopback address. Nothing else in a tenant's namespace has it.
pub const LOOPBACK_MARK: u32 = 0x6d6f_7465;

/// Where things are in the contexts of programs.
mod context {
    /// `struct bpf_sock_addr`: the address a socket is to have, or to reach.
    pub const V4: i16 = 4;
    pub const V6: i16 = 8;
    /// And the source of a datagram.
    pub const SOURCE_V4: i16 = 40;
    pub const SOURCE_V6: i16 = 44;
    /// `struct bpf_sock`.
    pub const TYPE: i16 = 8;
    pub const PROTOCOL: i16 = 12;
    pub const MARK: i16 = 16;
    /// `struct __sk_buff`.
    pub const ETHERTYPE: i16 = 16;
    pub const SOCKET: i16 = 168;
}

/// Where things are in a packet, which begins with its IP header.
mod packet {
    pub const V4_SOURCE: u32 = 12;
    pub const V4_TO: u32 = 16;
    pub const V6_SOURCE: u32 = 8;
    pub const V6_TO: u32 = 24;
}

/// Where things are on a program's stack.
mod stack {
    pub const NUMBER: i16 = -8;
    pub const SCRATCH: i16 = -24;
    pub const SOCKET_ADDRESS: i16 = -56;
}

// Helpers of linux/bpf.h.
const MAP_LOOKUP: i32 = 1;
const LOAD_BYTES: i32 = 26;
const SET_SOCKET_OPTION: i32 = 49;
const BIND: i32 = 64;
const PACKET_CGROUP: i32 = 79;
const CURRENT_CGROUP: i32 = 80;
const FULL_SOCKET: i32 = 95;

// Socket addresses and options of this architecture.
const INET: u32 = 2;
const INET6: u32 = 10;
const SOL_SOCKET: u32 = 1;
const SO_MARK: u32 = 36;
const STREAM: u32 = 1;
const DATAGRAM: u32 = 2;
const TCP: u32 = 6;
const UDP: u32 = 17;

/// Verdicts.
const NO: u32 = 0;
const YES: u32 = 1;

/// Four bytes of a packet or an address as a register has them.
const fn wire(bytes: [u8; 4]) -> u32 {
    u32::from_ne_bytes(bytes)
}

const ONE: u32 = wire([0, 0, 0, 1]);
const MAPPED: u32 = wire([0, 0, 0xff, 0xff]);
const FIRST: u32 = wire([0xff, 0, 0, 0]);
const LOOPBACK: u32 = wire([127, 0, 0, 0]);

/// A hook, and the program for it.
struct Hook {
    name: &'static str,
    kind: Kind,
    /// `enum bpf_attach_type`.
    number: u32,
    program: fn(&Table) -> Vec<Insn>,
}

const HOOKS: &[Hook] = &[
    Hook { name: "mote_socket", kind: Kind::CgroupSocket, number: 2, program: socket },
    Hook { name: "mote_bind4", kind: Kind::CgroupAddress, number: 8, program: bind_v4 },
    Hook { name: "mote_bind6", kind: Kind::CgroupAddress, number: 9, program: bind_v6 },
    Hook { name: "mote_connect4", kind: Kind::CgroupAddress, number: 10, program: connect_v4 },
    Hook { name: "mote_connect6", kind: Kind::CgroupAddress, number: 11, program: connect_v6 },
    Hook { name: "mote_send4", kind: Kind::CgroupAddress, number: 14, program: send_v4 },
    Hook { name: "mote_send6", kind: Kind::CgroupAddress, number: 15, program: send_v6 },
    Hook { name: "mote_in", kind: Kind::CgroupPacket, number: 0, program: incoming },
    Hook { name: "mote_out", kind: Kind::CgroupPacket, number: 1, program: outgoing },
];

/// The programs on a cgroup, until this is dropped. If the process ends otherwise they stay, with the addresses known
/// then, until the cgroup is removed or guarded anew.
#[derive(Debug)]
pub struct CgroupGuard {
    cgroup: OwnedFd,
    programs: Vec<(&'static Hook, Program)>,
}

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl CgroupGuard {
    /// Holds the processes below a cgroup to the addresses in a table.
    ///
    /// # Errors
    /// On a kernel without eBPF for cgroups, and where a cgroup above allows none.
    pub fn place(cgroup: BorrowedFd<'_>, table: &Table) -> Result<Self, BpfError> {
        let refused = |name| move |source| BpfError::Cgroup { name, source };
        let cgroup = cgroup.try_clone_to_owned().map_err(refused("mote_socket"))?;
        let mut guard = Self { cgroup, programs: Vec::with_capacity(HOOKS.len()) };
        for hook in HOOKS {
            let program = Program::load_for(hook.name, hook.kind, hook.number, &(hook.program)(table))?;
            program.attach_to(guard.cgroup.as_fd(), hook.number).map_err(refused(hook.name))?;
            guard.programs.push((hook, program));
        }
        Ok(guard)
    }
}

impl Drop for CgroupGuard {
    fn drop(&mut self) {
        for (hook, program) in &self.programs {
            // It fails when the cgroup is gone, and the program with it.
            let _ = program.detach_from(self.cgroup.as_fd(), hook.number);
        }
    }
}

/// TCP and UDP. Raw sockets make packets of any source, and other protocols have ways to an address that no hook sees.
fn socket(_: &Table) -> Vec<Insn> {
    let mut program = Assembler::new();
    let (datagram, stream, yes, no) = (program.label(), program.label(), program.label(), program.label());
    program
        .load(Reg::R0, Reg::R1, context::TYPE)
        .load(Reg::R2, Reg::R1, context::PROTOCOL)
        .if_is(Reg::R0, STREAM, stream)
        .if_is(Reg::R0, DATAGRAM, datagram)
        .go(no)
        .place(stream)
        .if_is(Reg::R2, TCP, yes)
        .go(no)
        .place(datagram)
        .if_is(Reg::R2, UDP, yes)
        .place(no)
        .answer(NO)
        .place(yes)
        .answer(YES);
    program.finish()
}

/// `r6` = the context, `r7` = the addresses of the cgroup a helper names; to `no` if it has none.
fn own(program: &mut Assembler, table: &Table, cgroup: i32, no: Label) {
    program
        .copy(Reg::R6, Reg::R1)
        .call(cgroup)
        .store_wide(Reg::R10, stack::NUMBER, Reg::R0)
        .map(Reg::R1, table.fd())
        .stack(Reg::R2, stack::NUMBER)
        .call(MAP_LOOKUP)
        .if_null(Reg::R0, no)
        .copy(Reg::R7, Reg::R0);
}

/// To `label` if the IPv4 address in a register is a loopback address. `r0` is lost.
fn if_loopback(program: &mut Assembler, address: Reg, label: Label) {
    program.copy(Reg::R0, address).and(Reg::R0, FIRST).if_is(Reg::R0, LOOPBACK, label);
}

/// The four bytes at `base + at` = the own IPv4 address.
fn put_v4(program: &mut Assembler, base: Reg, at: i16) {
    program.load(Reg::R0, Reg::R7, value::V4).store(base, at, Reg::R0);
}

/// The sixteen bytes at `base + at` = the own IPv6 address.
fn put_v6(program: &mut Assembler, base: Reg, at: i16) {
    for word in (0..16).step_by(4) {
        program.load(Reg::R0, Reg::R7, value::V6 + word).store(base, at + word, Reg::R0);
    }
}

/// Marks the socket with what `r8` holds, and passes; to `no` if it cannot be marked.
fn mark(program: &mut Assembler, no: Label) {
    program
        .store(Reg::R10, stack::SCRATCH, Reg::R8)
        .copy(Reg::R1, Reg::R6)
        .set(Reg::R2, SOL_SOCKET)
        .set(Reg::R3, SO_MARK)
        .stack(Reg::R4, stack::SCRATCH)
        .set(Reg::R5, 4)
        .call(SET_SOCKET_OPTION)
        .unless_is(Reg::R0, 0, no)
        .answer(YES);
}

/// Any and loopback become the own address, which is allowed, and no other is.
fn bind_v4(table: &Table) -> Vec<Insn> {
    let mut program = Assembler::new();
    let [no, local, any, put, keep, last] = [(); 6].map(|()| program.label());
    own(&mut program, table, CURRENT_CGROUP, no);
    program
        .load(Reg::R9, Reg::R6, context::V4)
        .if_is(Reg::R9, 0, any)
        .load(Reg::R0, Reg::R7, value::V4)
        .if_same(Reg::R9, Reg::R0, keep);
    if_loopback(&mut program, Reg::R9, local);
    program.go(no).place(local).set(Reg::R8, LOOPBACK_MARK).go(put).place(any).set(Reg::R8, 0).place(put);
    put_v4(&mut program, Reg::R6, context::V4);
    program.go(last).place(keep).set(Reg::R8, 0).place(last);
    mark(&mut program, no);
    program.place(no).answer(NO);
    program.finish()
}

/// The same, and for IPv4 addresses in IPv6 ones.
fn bind_v6(table: &Table) -> Vec<Insn> {
    let mut program = Assembler::new();
    let [no, other, mapped, local6, any6, put6, local4, any4, put4, keep, last] =
        [(); 11].map(|()| program.label());
    own(&mut program, table, CURRENT_CGROUP, no);
    special_v6(&mut program, other, mapped);
    program.if_is(Reg::R9, 0, any6).if_is(Reg::R9, ONE, local6).place(other);
    for word in (0..16).step_by(4) {
        program
            .load(Reg::R0, Reg::R6, context::V6 + word)
            .load(Reg::R8, Reg::R7, value::V6 + word)
            .unless_same(Reg::R0, Reg::R8, no);
    }
    program.go(keep).place(mapped).if_is(Reg::R9, 0, any4).load(Reg::R0, Reg::R7, value::V4).if_same(
        Reg::R9,
        Reg::R0,
        keep,
    );
    if_loopback(&mut program, Reg::R9, local4);
    program.go(no).place(local6).set(Reg::R8, LOOPBACK_MARK).go(put6).place(any6).set(Reg::R8, 0).place(put6);
    put_v6(&mut program, Reg::R6, context::V6);
    program
        .go(last)
        .place(local4)
        .set(Reg::R8, LOOPBACK_MARK)
        .go(put4)
        .place(any4)
        .set(Reg::R8, 0)
        .place(put4);
    put_v4(&mut program, Reg::R6, context::V6 + 12);
    program.go(last).place(keep).set(Reg::R8, 0).place(last);
    mark(&mut program, no);
    program.place(no).answer(NO);
    program.finish()
}

/// `r9` = the last four bytes of the context's IPv6 address: to `mapped` if an IPv4 address is in it, to `other` if
/// there is anything but zeros before them.
fn special_v6(program: &mut Assembler, other: Label, mapped: Label) {
    program
        .load(Reg::R0, Reg::R6, context::V6)
        .unless_is(Reg::R0, 0, other)
        .load(Reg::R0, Reg::R6, context::V6 + 4)
        .unless_is(Reg::R0, 0, other)
        .load(Reg::R9, Reg::R6, context::V6 + 12)
        .load(Reg::R0, Reg::R6, context::V6 + 8)
        .if_is(Reg::R0, MAPPED, mapped)
        .unless_is(Reg::R0, 0, other);
}

/// Who connects to any or loopback connects to the own address.
fn redirect_v4(program: &mut Assembler) {
    let (here, there) = (program.label(), program.label());
    program.load(Reg::R9, Reg::R6, context::V4).if_is(Reg::R9, 0, here);
    if_loopback(program, Reg::R9, here);
    program.go(there).place(here);
    put_v4(program, Reg::R6, context::V4);
    program.place(there);
}

/// The same for IPv6; to `mapped` if the address has an IPv4 address in it, which is in `r9`.
fn redirect_v6(program: &mut Assembler, mapped: Label) {
    let (here, there) = (program.label(), program.label());
    special_v6(program, there, mapped);
    program.if_is(Reg::R9, 0, here).if_is(Reg::R9, ONE, here).go(there).place(here);
    put_v6(program, Reg::R6, context::V6);
    program.place(there);
}

/// Words on the stack, a socket address in the making.
fn put_words(program: &mut Assembler, words: &[(i16, u32)]) {
    for (at, word) in words {
        program.set(Reg::R0, *word).store(Reg::R10, stack::SOCKET_ADDRESS + at, Reg::R0);
    }
}

/// Binds the socket to the socket address, and passes. Of a socket that is bound already the kernel refuses it: either
/// `bind` has seen to it, or its packets are dropped.
fn bind_and_pass(program: &mut Assembler, length: u32) {
    program
        .copy(Reg::R1, Reg::R6)
        .stack(Reg::R2, stack::SOCKET_ADDRESS)
        .set(Reg::R3, length)
        .call(BIND)
        .answer(YES);
}

fn connect_v4(table: &Table) -> Vec<Insn> {
    let mut program = Assembler::new();
    let no = program.label();
    own(&mut program, table, CURRENT_CGROUP, no);
    redirect_v4(&mut program);
    put_words(&mut program, &[(0, INET), (8, 0), (12, 0)]);
    put_v4(&mut program, Reg::R10, stack::SOCKET_ADDRESS + 4);
    bind_and_pass(&mut program, 16);
    program.place(no).answer(NO);
    program.finish()
}

fn connect_v6(table: &Table) -> Vec<Insn> {
    let mut program = Assembler::new();
    let [no, mapped, here, there] = [(); 4].map(|()| program.label());
    own(&mut program, table, CURRENT_CGROUP, no);
    // Port, flow and scope are none.
    put_words(&mut program, &[(0, INET6), (4, 0), (24, 0)]);
    redirect_v6(&mut program, mapped);
    put_v6(&mut program, Reg::R10, stack::SOCKET_ADDRESS + 8);
    bind_and_pass(&mut program, 28);
    program.place(mapped).if_is(Reg::R9, 0, here);
    if_loopback(&mut program, Reg::R9, here);
    program.go(there).place(here);
    put_v4(&mut program, Reg::R6, context::V6 + 12);
    program.place(there);
    put_words(&mut program, &[(8, 0), (12, 0), (16, MAPPED)]);
    put_v4(&mut program, Reg::R10, stack::SOCKET_ADDRESS + 20);
    bind_and_pass(&mut program, 28);
    program.place(no).answer(NO);
    program.finish()
}

fn send_v4(table: &Table) -> Vec<Insn> {
    let mut program = Assembler::new();
    let no = program.label();
    own(&mut program, table, CURRENT_CGROUP, no);
    redirect_v4(&mut program);
    put_v4(&mut program, Reg::R6, context::SOURCE_V4);
    program.answer(YES).place(no).answer(NO);
    program.finish()
}

/// The kernel takes IPv4 addresses in IPv6 ones to [`send_v4`] itself.
fn send_v6(table: &Table) -> Vec<Insn> {
    let mut program = Assembler::new();
    let no = program.label();
    own(&mut program, table, CURRENT_CGROUP, no);
    redirect_v6(&mut program, no);
    put_v6(&mut program, Reg::R6, context::SOURCE_V6);
    program.answer(YES).place(no).answer(NO);
    program.finish()
}

/// Goes on if the bytes of the packet at `at` are the own address at `own`, and to `no` otherwise.
fn is_own(program: &mut Assembler, at: u32, own: i16, bytes: u16, no: Label) {
    program
        .copy(Reg::R1, Reg::R6)
        .set(Reg::R2, at)
        .stack(Reg::R3, stack::SCRATCH)
        .set(Reg::R4, bytes.into())
        .call(LOAD_BYTES)
        .unless_is(Reg::R0, 0, no);
    for word in (0..bytes.cast_signed()).step_by(4) {
        program
            .load(Reg::R0, Reg::R10, stack::SCRATCH + word)
            .load(Reg::R8, Reg::R7, own + word)
            .unless_same(Reg::R0, Reg::R8, no);
    }
}

/// To one of the labels by protocol, or on.
fn by_protocol(program: &mut Assembler, v4: Label, v6: Label) {
    program.load(Reg::R0, Reg::R6, context::ETHERTYPE).if_is(Reg::R0, wire([0x08, 0x00, 0, 0]), v4).if_is(
        Reg::R0,
        wire([0x86, 0xdd, 0, 0]),
        v6,
    );
}

/// Passes what comes from the own address: whatever way a socket found to another one ends here.
fn outgoing(table: &Table) -> Vec<Insn> {
    let mut program = Assembler::new();
    let (v4, v6, no) = (program.label(), program.label(), program.label());
    own(&mut program, table, PACKET_CGROUP, no);
    by_protocol(&mut program, v4, v6);
    program.go(no).place(v4);
    is_own(&mut program, packet::V4_SOURCE, value::V4, 4, no);
    program.answer(YES).place(v6);
    is_own(&mut program, packet::V6_SOURCE, value::V6, 16, no);
    program.answer(YES).place(no).answer(NO);
    program.finish()
}

/// Passes what is for the own address, which a socket that was never bound may not have; to a marked socket, what is
/// from there too.
fn incoming(table: &Table) -> Vec<Insn> {
    let mut program = Assembler::new();
    let [v4, v6, source, source4, source6, yes, no] = [(); 7].map(|()| program.label());
    own(&mut program, table, PACKET_CGROUP, no);
    by_protocol(&mut program, v4, v6);
    program.go(no).place(v4);
    is_own(&mut program, packet::V4_TO, value::V4, 4, no);
    program.go(source).place(v6);
    is_own(&mut program, packet::V6_TO, value::V6, 16, no);
    program
        .place(source)
        .load_wide(Reg::R1, Reg::R6, context::SOCKET)
        .if_null(Reg::R1, no)
        .call(FULL_SOCKET)
        .if_null(Reg::R0, no)
        .load(Reg::R0, Reg::R0, context::MARK)
        .unless_is(Reg::R0, LOOPBACK_MARK, yes);
    by_protocol(&mut program, source4, source6);
    program.go(no).place(source4);
    is_own(&mut program, packet::V4_SOURCE, value::V4, 4, no);
    program.go(yes).place(source6);
    is_own(&mut program, packet::V6_SOURCE, value::V6, 16, no);
    program.place(yes).answer(YES).place(no).answer(NO);
    program.finish()
}
