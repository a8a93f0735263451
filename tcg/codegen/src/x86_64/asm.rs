//! x86-64 instruction encoder (Intel SDM volume 2). Writes into a vector; jumps inside the unit go through labels.

use super::regs::{Gpr, Xmm};

/// Operand in memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mem {
    pub(super) base: Gpr,
    pub(super) index: Option<(Gpr, u8)>,
    pub(super) disp: i32,
    /// Relative to the segment register that holds the guest's base.
    pub(super) guest: bool,
}

impl Mem {
    pub(super) const fn at(base: Gpr, disp: i32) -> Self {
        Self { base, index: None, disp, guest: false }
    }

    /// Relative to the environment register.
    pub(super) const fn env(disp: i32) -> Self {
        Self::at(super::regs::RBP, disp)
    }

    /// In the frame.
    pub(super) const fn frame(disp: u32) -> Self {
        Self::at(super::regs::RSP, disp as i32)
    }

    pub(super) const fn add(self, n: i32) -> Self {
        Self { disp: self.disp + n, ..self }
    }
}

/// Second operand that is a register or memory.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rm {
    Reg(u8),
    Mem(Mem),
}

impl From<Gpr> for Rm {
    fn from(r: Gpr) -> Self {
        Self::Reg(r.0)
    }
}

impl From<Xmm> for Rm {
    fn from(r: Xmm) -> Self {
        Self::Reg(r.0)
    }
}

impl From<Mem> for Rm {
    fn from(m: Mem) -> Self {
        Self::Mem(m)
    }
}

/// Two-operand arithmetic by its number in the opcode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Alu {
    Add = 0,
    Or = 1,
    And = 4,
    Sub = 5,
    Xor = 6,
    Cmp = 7,
}

/// Shifts by their number in the opcode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Shift {
    Rol = 0,
    Ror = 1,
    Shl = 4,
    Shr = 5,
    Sar = 7,
}

/// Condition codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Cc {
    O = 0,
    No = 1,
    B = 2,
    Ae = 3,
    E = 4,
    Ne = 5,
    Be = 6,
    A = 7,
    S = 8,
    Ns = 9,
    P = 10,
    Np = 11,
    L = 12,
    Ge = 13,
    Le = 14,
    G = 15,
}

impl Cc {
    pub(super) const fn negate(self) -> Self {
        const ALL: [Cc; 16] = [
            Cc::O,
            Cc::No,
            Cc::B,
            Cc::Ae,
            Cc::E,
            Cc::Ne,
            Cc::Be,
            Cc::A,
            Cc::S,
            Cc::Ns,
            Cc::P,
            Cc::Np,
            Cc::L,
            Cc::Ge,
            Cc::Le,
            Cc::G,
        ];
        ALL[self as usize ^ 1]
    }
}

/// A place in the unit that jumps refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(pub(super) u32);

/// Opcode map and mandatory prefix of a VEX instruction, or EVEX with 512 bits.
#[derive(Debug, Clone, Copy)]
pub(super) struct V {
    /// 0 none, 1 66, 2 F3, 3 F2.
    pub(super) pp: u8,
    /// 1 0F, 2 0F38, 3 0F3A.
    pub(super) map: u8,
    /// Bit W.
    pub(super) w: bool,
    /// 256 bits.
    pub(super) l: bool,
    /// 512 bits, with this mask register (0 for none) that leaves elements of the destination as they are.
    pub(super) z: Option<u8>,
    /// Opcode.
    pub(super) op: u8,
}

impl V {
    pub(super) const fn new(pp: u8, map: u8, op: u8) -> Self {
        Self { pp, map, w: false, l: false, z: None, op }
    }

    pub(super) const fn w(self, w: bool) -> Self {
        Self { w, ..self }
    }

    pub(super) const fn l(self, l: bool) -> Self {
        Self { l, ..self }
    }

    pub(super) const fn z(self) -> Self {
        Self { z: Some(0), ..self }
    }

    pub(super) const fn masked(self, k: u8) -> Self {
        Self { z: Some(k), ..self }
    }
}

const UNBOUND: u32 = u32::MAX;

/// Offset of a position when the cold section starts at `hot`.
pub(super) const fn flat(pos: u32, hot: u32) -> u32 {
    if pos & COLD != 0 { (pos & !COLD) + hot } else { pos }
}

/// Bit of a position: in the cold section.
pub(super) const COLD: u32 = 1 << 31;

/// Encoder. There are two sections, so that out-of-line code can be written at the moment the code that needs it is;
/// the cold one is put behind the hot one at the end.
#[derive(Debug, Default)]
pub(super) struct Asm {
    pub(super) buf: Vec<u8>,
    /// The section not being written.
    other: Vec<u8>,
    /// `COLD` while the cold section is being written, else 0.
    section: u32,
    /// Positions of labels.
    labels: Vec<u32>,
    /// 4-byte displacements to fill in: where, which label.
    fixups: Vec<(u32, Label)>,
    /// Vector constants, put behind the cold section.
    pool: Vec<([u64; 4], Label)>,
}

impl Asm {
    pub(super) fn clear(&mut self) {
        self.buf.clear();
        self.other.clear();
        self.section = 0;
        self.labels.clear();
        self.fixups.clear();
        self.pool.clear();
    }

    /// Writes on in the cold section, or in the hot one.
    pub(super) fn set_cold(&mut self, cold: bool) {
        let section = if cold { COLD } else { 0 };
        if section != self.section {
            self.section = section;
            std::mem::swap(&mut self.buf, &mut self.other);
        }
    }

    pub(super) fn is_cold(&self) -> bool {
        self.section != 0
    }

    /// Position in the current section.
    pub(super) fn pos(&self) -> u32 {
        self.buf.len() as u32 | self.section
    }

    pub(super) fn label(&mut self) -> Label {
        self.labels.push(UNBOUND);
        Label(self.labels.len() as u32 - 1)
    }

    pub(super) fn bind(&mut self, l: Label) {
        self.labels[l.0 as usize] = self.pos();
    }

    /// Position of a bound label.
    pub(super) fn label_pos(&self, l: Label) -> u32 {
        self.labels[l.0 as usize]
    }

    /// Puts the sections together and fills displacements in. Returns where the cold section starts.
    pub(super) fn finish(&mut self) -> u32 {
        self.set_cold(true);
        for (words, label) in std::mem::take(&mut self.pool) {
            self.bind(label);
            words.into_iter().for_each(|w| self.q(w));
        }
        self.set_cold(false);
        let hot = self.buf.len() as u32;
        self.buf.extend_from_slice(&self.other);
        for &(at, label) in &self.fixups {
            let to = self.labels[label.0 as usize];
            debug_assert_ne!(to, UNBOUND, "unbound label");
            let at = flat(at, hot) as usize;
            let rel = flat(to, hot).wrapping_sub(at as u32 + 4);
            self.buf[at..at + 4].copy_from_slice(&rel.to_le_bytes());
        }
        hot
    }

    #[inline]
    pub(super) fn b(&mut self, byte: u8) {
        self.buf.push(byte);
    }

    pub(super) fn d(&mut self, v: u32) {
        self.buf.extend_from_slice(&v.to_le_bytes());
    }

    pub(super) fn q(&mut self, v: u64) {
        self.buf.extend_from_slice(&v.to_le_bytes());
    }

    /// ModRM of a memory operand with a displacement of 4 bytes.
    fn modrm_long(&mut self, reg: u8, m: Mem) {
        let reg = (reg & 7) << 3;
        let base = m.base.0 & 7;
        match m.index {
            Some((i, scale)) => {
                self.b(0x84 | reg);
                self.b(scale << 6 | (i.0 & 7) << 3 | base);
            }
            None if base == 4 => {
                self.b(0x84 | reg);
                self.b(0x24);
            }
            None => self.b(0x80 | reg | base),
        }
        self.d(m.disp as u32);
    }

    fn modrm(&mut self, reg: u8, rm: Rm) {
        let reg = (reg & 7) << 3;
        match rm {
            Rm::Reg(r) => self.b(0xc0 | reg | r & 7),
            Rm::Mem(m) => {
                let base = m.base.0 & 7;
                let mode = if m.disp == 0 && base != 5 {
                    0
                } else if i8::try_from(m.disp).is_ok() {
                    0x40
                } else {
                    0x80
                };
                match m.index {
                    Some((i, scale)) => {
                        self.b(mode | reg | 4);
                        self.b(scale << 6 | (i.0 & 7) << 3 | base);
                    }
                    None if base == 4 => {
                        self.b(mode | reg | 4);
                        self.b(0x24);
                    }
                    None => self.b(mode | reg | base),
                }
                match mode {
                    0x40 => self.b(m.disp as u8),
                    0x80 => self.d(m.disp as u32),
                    _ => {}
                }
            }
        }
    }

    fn rex(&mut self, w: bool, reg: u8, rm: Rm, force: bool) {
        let (x, b) = match rm {
            Rm::Reg(r) => (0, r >> 3),
            Rm::Mem(m) => (m.index.map_or(0, |(i, _)| i.0 >> 3), m.base.0 >> 3),
        };
        self.segment(rm);
        let byte = 0x40 | u8::from(w) << 3 | (reg >> 3) << 2 | x << 1 | b;
        if byte != 0x40 || force {
            self.b(byte);
        }
    }

    /// The segment prefix of an access relative to the guest's base.
    fn segment(&mut self, rm: Rm) {
        if matches!(rm, Rm::Mem(m) if m.guest) {
            self.b(0x65);
        }
    }

    /// One-byte opcode.
    fn op(&mut self, w: bool, op: u8, reg: u8, rm: impl Into<Rm>) {
        let rm = rm.into();
        self.rex(w, reg, rm, false);
        self.b(op);
        self.modrm(reg, rm);
    }

    /// Two-byte opcode, with a prefix (0 for none).
    fn op0f(&mut self, prefix: u8, w: bool, op: u8, reg: u8, rm: impl Into<Rm>) {
        let rm = rm.into();
        if prefix != 0 {
            self.b(prefix);
        }
        self.rex(w, reg, rm, false);
        self.b(0x0f);
        self.b(op);
        self.modrm(reg, rm);
    }

    /// True if a byte operand needs a REX prefix to be the low byte.
    fn low_byte(rm: Rm) -> bool {
        matches!(rm, Rm::Reg(r) if r & !3 == 4)
    }

    // Moves.

    pub(super) fn mov(&mut self, w: bool, d: Gpr, s: impl Into<Rm>) {
        self.op(w, 0x8b, d.0, s);
    }

    pub(super) fn store(&mut self, w: bool, d: Mem, s: Gpr) {
        self.op(w, 0x89, s.0, d);
    }

    pub(super) fn store16(&mut self, d: Mem, s: Gpr) {
        self.b(0x66);
        self.op(false, 0x89, s.0, d);
    }

    pub(super) fn store8(&mut self, d: Mem, s: Gpr) {
        self.rex(false, s.0, d.into(), s.0 & !3 == 4);
        self.b(0x88);
        self.modrm(s.0, d.into());
    }

    /// Sign-extended immediate.
    pub(super) fn store_imm(&mut self, w: bool, d: Mem, imm: i32) {
        self.op(w, 0xc7, 0, d);
        self.d(imm as u32);
    }

    pub(super) fn store16_imm(&mut self, d: Mem, imm: u16) {
        self.b(0x66);
        self.op(false, 0xc7, 0, d);
        self.buf.extend_from_slice(&imm.to_le_bytes());
    }

    pub(super) fn store8_imm(&mut self, d: Mem, imm: u8) {
        self.op(false, 0xc6, 0, d);
        self.b(imm);
    }

    /// Any constant; flags survive.
    pub(super) fn mov_imm(&mut self, d: Gpr, imm: u64) {
        if let Ok(imm) = u32::try_from(imm) {
            self.mov_imm32(d, imm);
        } else if i32::try_from(imm as i64).is_ok() {
            self.op(true, 0xc7, 0, d);
            self.d(imm as u32);
        } else {
            self.mov_imm64(d, imm);
        }
    }

    pub(super) fn mov_imm32(&mut self, d: Gpr, imm: u32) {
        if d.0 >= 8 {
            self.b(0x41);
        }
        self.b(0xb8 | d.0 & 7);
        self.d(imm);
    }

    pub(super) fn mov_imm64(&mut self, d: Gpr, imm: u64) {
        self.b(0x48 | d.0 >> 3);
        self.b(0xb8 | d.0 & 7);
        self.q(imm);
    }

    /// Zero or sign extension from 8, 16 or 32 bits.
    pub(super) fn extend(&mut self, signed: bool, from: u32, w: bool, d: Gpr, s: impl Into<Rm>) {
        let s = s.into();
        match (from, signed) {
            (8, _) => {
                self.rex(w && signed, d.0, s, Self::low_byte(s));
                self.b(0x0f);
                self.b(if signed { 0xbe } else { 0xb6 });
                self.modrm(d.0, s);
            }
            (16, _) => self.op0f(0, w && signed, if signed { 0xbf } else { 0xb7 }, d.0, s),
            (_, true) if w => self.op(true, 0x63, d.0, s),
            _ => self.mov(false, d, s),
        }
    }

    pub(super) fn lea(&mut self, w: bool, d: Gpr, m: Mem) {
        self.op(w, 0x8d, d.0, m);
    }

    pub(super) fn movbe_load(&mut self, bits: u32, d: Gpr, m: Mem) {
        if bits == 16 {
            self.b(0x66);
        }
        self.rex(bits == 64, d.0, m.into(), false);
        self.buf.extend_from_slice(&[0x0f, 0x38, 0xf0]);
        self.modrm(d.0, m.into());
    }

    pub(super) fn movbe_store(&mut self, bits: u32, m: Mem, s: Gpr) {
        if bits == 16 {
            self.b(0x66);
        }
        self.rex(bits == 64, s.0, m.into(), false);
        self.buf.extend_from_slice(&[0x0f, 0x38, 0xf1]);
        self.modrm(s.0, m.into());
    }

    pub(super) fn bswap(&mut self, w: bool, d: Gpr) {
        self.rex(w, 0, d.into(), false);
        self.b(0x0f);
        self.b(0xc8 | d.0 & 7);
    }

    // Arithmetic.

    pub(super) fn alu(&mut self, w: bool, op: Alu, d: Gpr, s: impl Into<Rm>) {
        self.op(w, (op as u8) << 3 | 3, d.0, s);
    }

    pub(super) fn alu_imm(&mut self, w: bool, op: Alu, d: impl Into<Rm>, imm: i32) {
        let d = d.into();
        if let Ok(imm) = i8::try_from(imm) {
            self.op(w, 0x83, op as u8, d);
            self.b(imm as u8);
        } else if matches!(d, Rm::Reg(0)) {
            self.rex(w, 0, Rm::Reg(0), false);
            self.b((op as u8) << 3 | 5);
            self.d(imm as u32);
        } else {
            self.op(w, 0x81, op as u8, d);
            self.d(imm as u32);
        }
    }

    /// `cmp` of 8 or 16 bits.
    pub(super) fn alu_small(&mut self, bits: u32, op: Alu, d: Gpr, s: Gpr) {
        if bits == 16 {
            self.b(0x66);
            self.op(false, (op as u8) << 3 | 3, d.0, s);
        } else {
            self.rex(false, d.0, s.into(), true);
            self.b((op as u8) << 3 | 2);
            self.modrm(d.0, s.into());
        }
    }

    pub(super) fn alu_small_imm(&mut self, bits: u32, op: Alu, d: Gpr, imm: i32) {
        if bits == 16 {
            self.b(0x66);
            self.op(false, 0x81, op as u8, d);
            self.buf.extend_from_slice(&(imm as u16).to_le_bytes());
        } else {
            self.rex(false, 0, d.into(), d.0 & !3 == 4);
            self.b(0x80);
            self.modrm(op as u8, d.into());
            self.b(imm as u8);
        }
    }

    pub(super) fn test(&mut self, w: bool, a: Gpr, b: Gpr) {
        self.op(w, 0x85, b.0, a);
    }

    pub(super) fn test_small(&mut self, bits: u32, a: Gpr, b: Gpr) {
        if bits == 16 {
            self.b(0x66);
            self.op(false, 0x85, b.0, a);
        } else {
            self.rex(false, b.0, a.into(), true);
            self.b(0x84);
            self.modrm(b.0, a.into());
        }
    }

    pub(super) fn test_imm(&mut self, w: bool, a: Gpr, imm: i32) {
        if (0..128).contains(&imm) {
            self.rex(false, 0, a.into(), a.0 & !3 == 4);
            self.b(0xf6);
            self.modrm(0, a.into());
            self.b(imm as u8);
        } else {
            self.op(w, 0xf7, 0, a);
            self.d(imm as u32);
        }
    }

    pub(super) fn not(&mut self, w: bool, d: Gpr) {
        self.op(w, 0xf7, 2, d);
    }

    pub(super) fn neg(&mut self, w: bool, d: Gpr) {
        self.op(w, 0xf7, 3, d);
    }

    pub(super) fn imul(&mut self, w: bool, d: Gpr, s: impl Into<Rm>) {
        self.op0f(0, w, 0xaf, d.0, s);
    }

    pub(super) fn imul_imm(&mut self, w: bool, d: Gpr, s: impl Into<Rm>, imm: i32) {
        let short = i8::try_from(imm).is_ok();
        self.op(w, if short { 0x6b } else { 0x69 }, d.0, s);
        if short {
            self.b(imm as u8);
        } else {
            self.d(imm as u32);
        }
    }

    /// `mul` (4), `imul` (5), `div` (6), `idiv` (7) of rdx:rax.
    pub(super) fn muldiv(&mut self, w: bool, kind: u8, s: impl Into<Rm>) {
        self.op(w, 0xf7, kind, s);
    }

    /// Sign of rax into rdx.
    pub(super) fn cqo(&mut self, w: bool) {
        self.rex(w, 0, Rm::Reg(0), false);
        self.b(0x99);
    }

    pub(super) fn shift_imm(&mut self, w: bool, op: Shift, d: Gpr, n: u8) {
        if n == 1 {
            self.op(w, 0xd1, op as u8, d);
        } else {
            self.op(w, 0xc1, op as u8, d);
            self.b(n);
        }
    }

    pub(super) fn shift_cl(&mut self, w: bool, op: Shift, d: Gpr) {
        self.op(w, 0xd3, op as u8, d);
    }

    /// Rotation of 8 or 16 bits.
    pub(super) fn shift_small_cl(&mut self, bits: u32, op: Shift, d: Gpr) {
        if bits == 16 {
            self.b(0x66);
            self.op(false, 0xd3, op as u8, d);
        } else {
            self.rex(false, 0, d.into(), d.0 & !3 == 4);
            self.b(0xd2);
            self.modrm(op as u8, d.into());
        }
    }

    pub(super) fn shift_small_imm(&mut self, bits: u32, op: Shift, d: Gpr, n: u8) {
        if bits == 16 {
            self.b(0x66);
            self.op(false, 0xc1, op as u8, d);
        } else {
            self.rex(false, 0, d.into(), d.0 & !3 == 4);
            self.b(0xc0);
            self.modrm(op as u8, d.into());
        }
        self.b(n);
    }

    /// BMI2 `shlx`, `shrx`, `sarx`.
    pub(super) fn shiftx(&mut self, w: bool, op: Shift, d: Gpr, s: impl Into<Rm>, n: Gpr) {
        let pp = match op {
            Shift::Shl => 1,
            Shift::Shr => 3,
            _ => 2,
        };
        self.vex(V::new(pp, 2, 0xf7).w(w), d.0, n.0, s);
    }

    /// BMI2 `rorx`.
    pub(super) fn rorx(&mut self, w: bool, d: Gpr, s: impl Into<Rm>, n: u8) {
        self.vex(V::new(3, 3, 0xf0).w(w), d.0, 0, s);
        self.b(n);
    }

    /// BMI1 `andn`: d = !a & b.
    pub(super) fn andn(&mut self, w: bool, d: Gpr, a: Gpr, b: impl Into<Rm>) {
        self.vex(V::new(0, 2, 0xf2).w(w), d.0, a.0, b);
    }

    /// `lzcnt` (bd), `tzcnt` (bc), `popcnt` (b8).
    pub(super) fn count(&mut self, w: bool, op: u8, d: Gpr, s: impl Into<Rm>) {
        self.op0f(0xf3, w, op, d.0, s);
    }

    pub(super) fn setcc(&mut self, cc: Cc, d: Gpr) {
        self.rex(false, 0, d.into(), d.0 & !3 == 4);
        self.b(0x0f);
        self.b(0x90 | cc as u8);
        self.modrm(0, d.into());
    }

    pub(super) fn cmov(&mut self, w: bool, cc: Cc, d: Gpr, s: impl Into<Rm>) {
        self.op0f(0, w, 0x40 | cc as u8, d.0, s);
    }

    // Control.

    pub(super) fn jcc(&mut self, cc: Cc, l: Label) {
        self.buf.extend_from_slice(&[0x0f, 0x80 | cc as u8]);
        self.rel32(l);
    }

    pub(super) fn jmp(&mut self, l: Label) {
        self.b(0xe9);
        self.rel32(l);
    }

    fn rel32(&mut self, l: Label) {
        let at = self.pos();
        self.fixups.push((at, l));
        self.d(0);
    }

    pub(super) fn jmp_rm(&mut self, rm: impl Into<Rm>) {
        self.op(false, 0xff, 4, rm);
    }

    /// `call [rip + rel]`; returns where the displacement is.
    pub(super) fn call_rip(&mut self) -> u32 {
        self.buf.extend_from_slice(&[0xff, 0x15]);
        self.d(0);
        self.pos() - 4
    }

    pub(super) fn push(&mut self, r: Gpr) {
        if r.0 >= 8 {
            self.b(0x41);
        }
        self.b(0x50 | r.0 & 7);
    }

    pub(super) fn pop(&mut self, r: Gpr) {
        if r.0 >= 8 {
            self.b(0x41);
        }
        self.b(0x58 | r.0 & 7);
    }

    pub(super) fn push_rm(&mut self, m: Mem) {
        self.op(false, 0xff, 6, m);
    }

    pub(super) fn push_imm(&mut self, v: i32) {
        if let Ok(v) = i8::try_from(v) {
            self.b(0x6a);
            self.b(v as u8);
        } else {
            self.b(0x68);
            self.d(v as u32);
        }
    }

    pub(super) fn ret(&mut self) {
        self.b(0xc3);
    }

    pub(super) fn ret_pop(&mut self, n: u16) {
        self.b(0xc2);
        self.buf.extend_from_slice(&n.to_le_bytes());
    }

    pub(super) fn mfence(&mut self) {
        self.buf.extend_from_slice(&[0x0f, 0xae, 0xf0]);
    }

    /// Bytes that do nothing.
    pub(super) fn nops(&mut self, n: u32) {
        const NOPS: [&[u8]; 4] = [&[], &[0x90], &[0x66, 0x90], &[0x0f, 0x1f, 0x00]];
        self.buf.extend_from_slice(NOPS[(n & 3) as usize]);
    }

    // Atomics.

    /// `lock`-prefixed (except `xchg`) read-modify-write of `bits`; `op` is the opcode for 16 bits and more.
    pub(super) fn atomic(&mut self, bits: u32, two_byte: bool, lock: bool, op: u8, m: Mem, r: Gpr) {
        if lock {
            self.b(0xf0);
        }
        if bits == 16 {
            self.b(0x66);
        }
        self.rex(bits == 64, r.0, m.into(), bits == 8 && r.0 & !3 == 4);
        if two_byte {
            self.b(0x0f);
        }
        self.b(if bits == 8 { op - 1 } else { op });
        self.modrm(r.0, m.into());
    }

    // Vectors.

    /// VEX instruction: `reg` and `rm` as in ModRM, `vvvv` the other source (0 if none).
    pub(super) fn vex(&mut self, v: V, reg: u8, vvvv: u8, rm: impl Into<Rm>) {
        let rm = rm.into();
        let (x, b) = match rm {
            Rm::Reg(r) => (0, r >> 3),
            Rm::Mem(m) => (m.index.map_or(0, |(i, _)| i.0 >> 3), m.base.0 >> 3),
        };
        self.segment(rm);
        self.vex_prefix(v, reg, vvvv, x, b);
        match rm {
            // Short displacements count in vectors: none is used.
            Rm::Mem(m) if v.z.is_some() => self.modrm_long(reg, m),
            _ => self.modrm(reg, rm),
        }
    }

    /// Prefix and opcode.
    fn vex_prefix(&mut self, v: V, reg: u8, vvvv: u8, x: u8, b: u8) {
        if let Some(k) = v.z {
            self.b(0x62);
            self.b((!(reg >> 3) & 1) << 7 | (!x & 1) << 6 | (!b & 1) << 5 | 0x10 | v.map);
            self.b(u8::from(v.w) << 7 | (!vvvv & 15) << 3 | 4 | v.pp);
            self.b(0x48 | k);
            self.b(v.op);
            return;
        }
        let tail = (!vvvv & 15) << 3 | u8::from(v.l) << 2 | v.pp;
        if x == 0 && b == 0 && v.map == 1 && !v.w {
            self.b(0xc5);
            self.b((!(reg >> 3) & 1) << 7 | tail);
        } else {
            self.b(0xc4);
            self.b((!(reg >> 3) & 1) << 7 | (!x & 1) << 6 | (!b & 1) << 5 | v.map);
            self.b(u8::from(v.w) << 7 | tail);
        }
        self.b(v.op);
    }

    pub(super) fn vop(&mut self, v: V, d: Xmm, a: Xmm, b: impl Into<Rm>) {
        self.vex(v, d.0, a.0, b);
    }

    pub(super) fn vop_imm(&mut self, v: V, d: Xmm, a: Xmm, b: impl Into<Rm>, imm: u8) {
        self.vex(v, d.0, a.0, b);
        self.b(imm);
    }

    /// A vector constant of 32 bytes; a 16-byte operand is its start.
    pub(super) fn constant(&mut self, words: [u64; 4]) -> Label {
        if let Some((_, l)) = self.pool.iter().find(|(w, _)| *w == words) {
            return *l;
        }
        let l = self.label();
        self.pool.push((words, l));
        l
    }

    /// VEX instruction whose last operand is a constant of the pool. No immediate byte may follow.
    pub(super) fn vop_const(&mut self, v: V, d: Xmm, a: Xmm, words: [u64; 4]) {
        let l = self.constant(words);
        // With base 0 the prefix is that of a memory operand without extensions; ModRM 00 and 101 mean `rip`.
        self.vex_prefix(v, d.0, a.0, 0, 0);
        self.b((d.0 & 7) << 3 | 5);
        self.rel32(l);
    }

    /// Scalar or vector load by size in bytes (4 to 64); bits above are cleared.
    pub(super) fn vload(&mut self, bytes: usize, d: Xmm, m: Mem) {
        match bytes {
            4 => self.vex(V::new(2, 1, 0x10), d.0, 0, m),
            8 => self.vex(V::new(2, 1, 0x7e), d.0, 0, m),
            16 => self.vex(V::new(0, 1, 0x10), d.0, 0, m),
            32 => self.vex(V::new(0, 1, 0x10).l(true), d.0, 0, m),
            _ => self.vex(V::new(0, 1, 0x10).z(), d.0, 0, m),
        }
    }

    pub(super) fn vstore(&mut self, bytes: usize, m: Mem, s: Xmm) {
        match bytes {
            4 => self.vex(V::new(2, 1, 0x11), s.0, 0, m),
            8 => self.vex(V::new(1, 1, 0xd6), s.0, 0, m),
            16 => self.vex(V::new(0, 1, 0x11), s.0, 0, m),
            32 => self.vex(V::new(0, 1, 0x11).l(true), s.0, 0, m),
            _ => self.vex(V::new(0, 1, 0x11).z(), s.0, 0, m),
        }
    }

    /// The part of a register that holds a value of `bytes`.
    pub(super) fn vmov_bytes(&mut self, bytes: usize, d: Xmm, s: Xmm) {
        if bytes == 64 {
            self.vex(V::new(0, 1, 0x28).z(), d.0, 0, s);
        } else {
            self.vmov(bytes == 32, d, s);
        }
    }

    /// Whole register (16 bytes, or 32).
    pub(super) fn vmov(&mut self, wide: bool, d: Xmm, s: Xmm) {
        self.vex(V::new(0, 1, 0x28).l(wide), d.0, 0, s);
    }

    /// General to vector register.
    pub(super) fn gpr_to_xmm(&mut self, w: bool, d: Xmm, s: impl Into<Rm>) {
        self.vex(V::new(1, 1, 0x6e).w(w), d.0, 0, s);
    }

    /// Vector to general register.
    pub(super) fn xmm_to_gpr(&mut self, w: bool, d: impl Into<Rm>, s: Xmm) {
        self.vex(V::new(1, 1, 0x7e).w(w), s.0, 0, d);
    }

    pub(super) fn vzeroupper(&mut self) {
        self.buf.extend_from_slice(&[0xc5, 0xf8, 0x77]);
    }

    /// An instruction of two registers without VEX, of map 0F38 (2) or 0F3A (3).
    pub(super) fn legacy(&mut self, map: u8, op: u8, d: Xmm, s: Xmm) {
        let rex = 0x40 | d.0 >> 3 << 2 | s.0 >> 3;
        if rex != 0x40 {
            self.b(rex);
        }
        self.b(0x0f);
        self.b(if map == 2 { 0x38 } else { 0x3a });
        self.b(op);
        self.b(0xc0 | (d.0 & 7) << 3 | s.0 & 7);
    }

    pub(super) fn ldmxcsr(&mut self, m: Mem) {
        self.vex(V::new(0, 1, 0xae), 2, 0, m);
    }

    pub(super) fn stmxcsr(&mut self, m: Mem) {
        self.vex(V::new(0, 1, 0xae), 3, 0, m);
    }
}
