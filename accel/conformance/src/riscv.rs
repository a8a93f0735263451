//! A small assembler for RV32/RV64 code, just large enough for the cases.
//!
//! Encodings: RISC-V Instruction Set Manual, volume I, chapters 2 and 14, volume II, chapter 2.

/// Code under construction.
#[derive(Debug, Default)]
pub struct Asm {
    base: u64,
    code: Vec<u32>,
    labels: Vec<Option<usize>>,
    jumps: Vec<(usize, Label)>,
}

/// A place in the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label(usize);

/// A register number.
pub type Reg = u32;
/// Always zero.
pub const ZERO: Reg = 0;
/// Temporaries.
pub const T0: Reg = 5;
/// Temporaries.
pub const T1: Reg = 6;
/// Temporaries.
pub const T2: Reg = 7;
/// Saved.
pub const S0: Reg = 8;
/// Saved.
pub const S1: Reg = 9;
/// Temporaries of trap handlers.
pub const T5: Reg = 30;
/// Temporaries of trap handlers.
pub const T6: Reg = 31;

/// `mstatus`.
pub const MSTATUS: u32 = 0x300;
/// `mie`.
pub const MIE: u32 = 0x304;
/// `mtvec`.
pub const MTVEC: u32 = 0x305;
/// `mepc`.
pub const MEPC: u32 = 0x341;
/// `mcause`.
pub const MCAUSE: u32 = 0x342;
/// `mhartid`.
pub const MHARTID: u32 = 0xF14;

impl Asm {
    /// Code that will stand at `base`.
    #[must_use]
    pub fn new(base: u64) -> Self {
        Self { base, ..Self::default() }
    }

    fn word(&mut self, w: u32) -> &mut Self {
        self.code.push(w);
        self
    }

    /// Address of the next instruction.
    #[must_use]
    pub fn here(&self) -> u64 {
        self.base + 4 * self.code.len() as u64
    }

    /// A label without a place.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Gives a label its place: here.
    pub fn place(&mut self, label: Label) -> &mut Self {
        self.labels[label.0] = Some(self.code.len());
        self
    }

    /// `addi rd, rs, imm`.
    pub fn addi(&mut self, rd: Reg, rs: Reg, imm: i32) -> &mut Self {
        self.word((imm as u32 & 0xFFF) << 20 | rs << 15 | rd << 7 | 0x13)
    }
    /// Loads a constant: two instructions. On RV64 the upper half is zero for constants below 2^31; others go
    /// through [`Asm::la`].
    pub fn li(&mut self, rd: Reg, value: u32) -> &mut Self {
        let low = ((value & 0xFFF) as i32) << 20 >> 20;
        let high = value.wrapping_sub(low as u32) & 0xFFFF_F000;
        self.word(high | rd << 7 | 0x37);
        self.addi(rd, rd, low)
    }
    /// Loads an address near the code, relative to the program counter: two instructions.
    pub fn la(&mut self, rd: Reg, address: u64) -> &mut Self {
        let value = address.wrapping_sub(self.here()) as u32;
        let low = ((value & 0xFFF) as i32) << 20 >> 20;
        let high = value.wrapping_sub(low as u32) & 0xFFFF_F000;
        self.word(high | rd << 7 | 0x17);
        self.addi(rd, rd, low)
    }
    /// Stores 1, 2, 4 or 8 bytes of `rs` at `base + offset`.
    pub fn store(&mut self, size: u32, rs: Reg, base: Reg, offset: i32) -> &mut Self {
        let imm = offset as u32;
        let width = size.trailing_zeros();
        self.word((imm >> 5 & 0x7F) << 25 | rs << 20 | base << 15 | width << 12 | (imm & 0x1F) << 7 | 0x23)
    }
    /// Loads 1, 2 or 4 bytes, zero-extended up to 2 bytes and sign-extended for 4, or 8 bytes.
    pub fn load(&mut self, size: u32, rd: Reg, base: Reg, offset: i32) -> &mut Self {
        let funct = match size {
            1 => 4,
            2 => 5,
            4 => 2,
            _ => 3,
        };
        self.word((offset as u32 & 0xFFF) << 20 | base << 15 | funct << 12 | rd << 7 | 0x03)
    }
    fn branch(&mut self, funct: u32, a: Reg, b: Reg, to: Label) -> &mut Self {
        self.jumps.push((self.code.len(), to));
        self.word(b << 20 | a << 15 | funct << 12 | 0x63)
    }
    /// `beq`.
    pub fn beq(&mut self, a: Reg, b: Reg, to: Label) -> &mut Self {
        self.branch(0, a, b, to)
    }
    /// `bne`.
    pub fn bne(&mut self, a: Reg, b: Reg, to: Label) -> &mut Self {
        self.branch(1, a, b, to)
    }
    /// `j`, as a branch that is always taken.
    pub fn j(&mut self, to: Label) -> &mut Self {
        self.beq(ZERO, ZERO, to)
    }
    /// `csrrw rd, csr, rs`.
    pub fn csrw(&mut self, csr: u32, rs: Reg) -> &mut Self {
        self.word(csr << 20 | rs << 15 | 1 << 12 | 0x73)
    }
    /// `csrrs zero, csr, rs`.
    pub fn csrs(&mut self, csr: u32, rs: Reg) -> &mut Self {
        self.word(csr << 20 | rs << 15 | 2 << 12 | 0x73)
    }
    /// `csrrs rd, csr, zero`.
    pub fn csrr(&mut self, rd: Reg, csr: u32) -> &mut Self {
        self.word(csr << 20 | 2 << 12 | rd << 7 | 0x73)
    }
    /// `wfi`.
    pub fn wfi(&mut self) -> &mut Self {
        self.word(0x1050_0073)
    }
    /// `mret`.
    pub fn mret(&mut self) -> &mut Self {
        self.word(0x3020_0073)
    }
    /// `fence`.
    pub fn fence(&mut self) -> &mut Self {
        self.word(0x0FF0_000F)
    }
    /// `nop`.
    pub fn nop(&mut self) -> &mut Self {
        self.addi(ZERO, ZERO, 0)
    }

    /// The code; panics on a label without a place or out of reach, which is a mistake of the case.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        for (at, Label(label)) in self.jumps {
            let to = self.labels.get(label).copied().flatten();
            let distance = to.map(|t| 4 * (t as i64 - at as i64)).filter(|d| (-4096..4096).contains(d));
            assert!(distance.is_some(), "label {label} has no place within reach");
            let d = distance.unwrap_or_default() as u32;
            self.code[at] |=
                (d >> 12 & 1) << 31 | (d >> 5 & 0x3F) << 25 | (d >> 1 & 0xF) << 8 | (d >> 11 & 1) << 7;
        }
        self.code.iter().flat_map(|w| w.to_le_bytes()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_match_the_manual() {
        let mut a = Asm::new(0x8000_0000);
        let top = a.label();
        a.place(top).addi(T0, T0, -1).bne(T0, ZERO, top).store(4, T0, T1, 0x10).load(4, T1, T0, -4);
        a.li(T0, 0x1234_5FFF);
        a.csrw(MTVEC, T0).csrr(T5, MHARTID).wfi();
        let words: Vec<u32> =
            a.finish().chunks(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
        assert_eq!(
            words,
            [
                0xFFF2_8293,
                0xFE02_9EE3,
                0x0053_2823,
                0xFFC2_A303,
                0x1234_62B7,
                0xFFF2_8293,
                0x3052_9073,
                0xF140_2F73,
                0x1050_0073
            ]
        );
    }

    #[test]
    fn addresses_are_relative() {
        let mut a = Asm::new(0x8000_0000);
        a.nop().la(T0, 0x8000_0800);
        let code = a.finish();
        // 0x800 - 4 = 0x7FC from the auipc.
        assert_eq!(code[4..8], 0x0000_0297u32.to_le_bytes());
        assert_eq!(code[8..12], 0x7FC2_8293u32.to_le_bytes());
    }
}
