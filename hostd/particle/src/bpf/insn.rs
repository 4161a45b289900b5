//! An assembler for eBPF (RFC 9669), as far as our programs go: forward jumps to labels, packet loads, comparisons.

/// A register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
}

impl Reg {
    const fn number(self) -> u8 {
        match self {
            Self::R0 => 0,
            Self::R1 => 1,
            Self::R2 => 2,
            Self::R3 => 3,
            Self::R4 => 4,
            Self::R5 => 5,
            Self::R6 => 6,
            Self::R7 => 7,
            Self::R8 => 8,
            Self::R9 => 9,
            Self::R10 => 10,
        }
    }
}

/// Width of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    Byte,
    Half,
    Word,
}

impl Width {
    const fn code(self) -> u8 {
        match self {
            Self::Word => 0x00,
            Self::Half => 0x08,
            Self::Byte => 0x10,
        }
    }
}

// Classes, sources, operations, modes.
const LD: u8 = 0x00;
const LDX: u8 = 0x01;
const STX: u8 = 0x03;
const ALU32: u8 = 0x04;
const JMP: u8 = 0x05;
const JMP32: u8 = 0x06;
const ALU64: u8 = 0x07;
const IMMEDIATE: u8 = 0x00;
const REGISTER: u8 = 0x08;
const ADD: u8 = 0x00;
const OR: u8 = 0x40;
const AND: u8 = 0x50;
const MOV: u8 = 0xb0;
const JEQ: u8 = 0x10;
const JNE: u8 = 0x50;
const JA: u8 = 0x00;
const CALL: u8 = 0x80;
const EXIT: u8 = 0x90;
const ABS: u8 = 0x20;
const MEM: u8 = 0x60;
const DOUBLE: u8 = 0x18;

/// `src` of a double-word load that makes its immediate a map's descriptor.
const PSEUDO_MAP_FD: u8 = 1;

/// One instruction as the kernel reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Insn {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// A place to jump to, further on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(usize);

/// A program under construction.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    insns: Vec<Insn>,
    /// Where each label is, once it is known.
    labels: Vec<Option<usize>>,
    /// Jumps, and where they go.
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    pub(super) fn new() -> Self {
        Self::default()
    }

    fn push(&mut self, code: u8, (dst, src): (u8, u8), offset: i16, immediate: i32) -> &mut Self {
        self.insns.push(Insn { code, registers: dst | (src << 4), offset, immediate });
        self
    }

    /// A label to be placed later.
    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The label is here.
    pub(super) fn place(&mut self, label: Label) -> &mut Self {
        if let Some(place) = self.labels.get_mut(label.0) {
            *place = Some(self.insns.len());
        }
        self
    }

    /// `r0` = bytes of the packet at `offset`, in the host's byte order; ends the program with 0 past its end. The
    /// context must be in `r6`; `r1` to `r5` are lost.
    pub(super) fn packet(&mut self, width: Width, offset: u16) -> &mut Self {
        self.push(LD | width.code() | ABS, (0, 0), 0, i32::from(offset))
    }

    /// `dst` = a field of the context or of the stack.
    pub(super) fn load(&mut self, dst: Reg, base: Reg, offset: i16) -> &mut Self {
        self.push(LDX | Width::Word.code() | MEM, (dst.number(), base.number()), offset, 0)
    }

    /// The 32 bits at `base + offset` = `src`.
    pub(super) fn store(&mut self, base: Reg, offset: i16, src: Reg) -> &mut Self {
        self.push(STX | Width::Word.code() | MEM, (base.number(), src.number()), offset, 0)
    }

    /// `dst` = the 64 bits at `base + offset`.
    pub(super) fn load_wide(&mut self, dst: Reg, base: Reg, offset: i16) -> &mut Self {
        self.push(LDX | DOUBLE | MEM, (dst.number(), base.number()), offset, 0)
    }

    /// The 64 bits at `base + offset` = `src`.
    pub(super) fn store_wide(&mut self, base: Reg, offset: i16, src: Reg) -> &mut Self {
        self.push(STX | DOUBLE | MEM, (base.number(), src.number()), offset, 0)
    }

    /// `dst` = `src`.
    pub(super) fn copy(&mut self, dst: Reg, src: Reg) -> &mut Self {
        self.push(ALU64 | REGISTER | MOV, (dst.number(), src.number()), 0, 0)
    }

    /// `dst` = 32 bits.
    pub(super) fn set(&mut self, dst: Reg, value: u32) -> &mut Self {
        self.push(ALU32 | IMMEDIATE | MOV, (dst.number(), 0), 0, value.cast_signed())
    }

    /// `dst` += `value`, in 64 bits.
    pub(super) fn add(&mut self, dst: Reg, value: i32) -> &mut Self {
        self.push(ALU64 | IMMEDIATE | ADD, (dst.number(), 0), 0, value)
    }

    /// `dst` |= `src`, in 32 bits.
    pub(super) fn or(&mut self, dst: Reg, src: Reg) -> &mut Self {
        self.push(ALU32 | REGISTER | OR, (dst.number(), src.number()), 0, 0)
    }

    /// `dst` &= 32 bits.
    pub(super) fn and(&mut self, dst: Reg, value: u32) -> &mut Self {
        self.push(ALU32 | IMMEDIATE | AND, (dst.number(), 0), 0, value.cast_signed())
    }

    /// `dst` = a place on the stack.
    pub(super) fn stack(&mut self, dst: Reg, offset: i16) -> &mut Self {
        self.copy(dst, Reg::R10).add(dst, offset.into())
    }

    /// `dst` = the map behind a descriptor.
    pub(super) fn map(&mut self, dst: Reg, fd: i32) -> &mut Self {
        self.push(LD | DOUBLE, (dst.number(), PSEUDO_MAP_FD), 0, fd).push(0, (0, 0), 0, 0)
    }

    /// Calls a helper of the kernel; `r1` to `r5` are its arguments and lost, `r0` its answer.
    pub(super) fn call(&mut self, helper: i32) -> &mut Self {
        self.push(JMP | CALL, (0, 0), 0, helper)
    }

    /// To `label` if the low 32 bits of `register` are `value`.
    pub(super) fn if_is(&mut self, register: Reg, value: u32, label: Label) -> &mut Self {
        self.jump(JMP32 | IMMEDIATE | JEQ, (register.number(), 0), value.cast_signed(), label)
    }

    /// To `label` if the low 32 bits of `register` are something else.
    pub(super) fn unless_is(&mut self, register: Reg, value: u32, label: Label) -> &mut Self {
        self.jump(JMP32 | IMMEDIATE | JNE, (register.number(), 0), value.cast_signed(), label)
    }

    /// To `label` if `register` is a null pointer.
    pub(super) fn if_null(&mut self, register: Reg, label: Label) -> &mut Self {
        self.jump(JMP | IMMEDIATE | JEQ, (register.number(), 0), 0, label)
    }

    /// To `label` if the low 32 bits of both registers are alike.
    pub(super) fn if_same(&mut self, left: Reg, right: Reg, label: Label) -> &mut Self {
        self.jump(JMP32 | REGISTER | JEQ, (left.number(), right.number()), 0, label)
    }

    /// To `label` unless the low 32 bits of both registers are alike.
    pub(super) fn unless_same(&mut self, left: Reg, right: Reg, label: Label) -> &mut Self {
        self.jump(JMP32 | REGISTER | JNE, (left.number(), right.number()), 0, label)
    }

    /// To `label`.
    pub(super) fn go(&mut self, label: Label) -> &mut Self {
        self.jump(JMP | JA, (0, 0), 0, label)
    }

    fn jump(&mut self, code: u8, registers: (u8, u8), immediate: i32, label: Label) -> &mut Self {
        self.jumps.push((self.insns.len(), label));
        self.push(code, registers, 0, immediate)
    }

    /// Ends the program with what `r0` holds.
    pub(super) fn exit(&mut self) -> &mut Self {
        self.push(JMP | EXIT, (0, 0), 0, 0)
    }

    /// Ends the program with a value.
    pub(super) fn answer(&mut self, value: u32) -> &mut Self {
        self.set(Reg::R0, value).exit()
    }

    /// The program. A jump without a label goes to itself, which the kernel's verifier refuses.
    pub(super) fn finish(mut self) -> Vec<Insn> {
        for (from, label) in &self.jumps {
            let to = self.labels.get(label.0).copied().flatten();
            let distance = to.and_then(|to| i16::try_from(to.checked_sub(from + 1)?).ok());
            if let Some(insn) = self.insns.get_mut(*from) {
                insn.offset = distance.unwrap_or(-1);
            }
        }
        self.insns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_those_of_the_specification() {
        let mut assembler = Assembler::new();
        let end = assembler.label();
        assembler
            .copy(Reg::R6, Reg::R1)
            .packet(Width::Half, 12)
            .if_is(Reg::R0, 0x800, end)
            .map(Reg::R1, 7)
            .place(end)
            .exit();
        let insn = |code, registers, offset, immediate| Insn { code, registers, offset, immediate };
        assert_eq!(
            assembler.finish(),
            [
                insn(0xbf, 0x16, 0, 0),
                insn(0x28, 0, 0, 12),
                insn(0x16, 0, 2, 0x800),
                insn(0x18, 0x11, 0, 7),
                insn(0, 0, 0, 0),
                insn(0x95, 0, 0, 0),
            ]
        );
    }

    #[test]
    fn a_jump_to_nowhere_is_an_endless_loop() {
        let mut assembler = Assembler::new();
        let nowhere = assembler.label();
        assembler.go(nowhere).exit();
        assert_eq!(assembler.finish().first().map(|insn| insn.offset), Some(-1));
    }
}
