//! RISC-V words and a small assembler with labels, for code that tests make.
//!
//! Encodings: "The RISC-V Instruction Set Manual, Volume I", chapter "RV32/64G Instruction Set Listings".

/// `rd` and `rs1` with an immediate of 12 bits.
pub(crate) const fn i_type(opcode: u32, funct3: u32, rd: u32, rs1: u32, imm: u32) -> u32 {
    (imm & 0xfff) << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode
}

/// A store: `rs2` to `imm(rs1)`.
pub(crate) const fn s_type(opcode: u32, funct3: u32, rs1: u32, rs2: u32, imm: u32) -> u32 {
    (imm >> 5 & 0x7f) << 25 | rs2 << 20 | rs1 << 15 | funct3 << 12 | (imm & 31) << 7 | opcode
}

/// Three registers.
pub(crate) const fn r_type(opcode: u32, funct3: u32, funct7: u32, rd: u32, rs1: u32, rs2: u32) -> u32 {
    funct7 << 25 | rs2 << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode
}

/// A conditional branch by `offset` bytes.
pub(crate) const fn b_type(funct3: u32, rs1: u32, rs2: u32, offset: i32) -> u32 {
    let o = offset as u32;
    (o >> 12 & 1) << 31
        | (o >> 5 & 63) << 25
        | rs2 << 20
        | rs1 << 15
        | funct3 << 12
        | (o >> 1 & 15) << 8
        | (o >> 11 & 1) << 7
        | 0x63
}

/// jal.
pub(crate) const fn j_type(rd: u32, offset: i32) -> u32 {
    let o = offset as u32;
    (o >> 20 & 1) << 31
        | (o >> 1 & 0x3ff) << 21
        | (o >> 11 & 1) << 20
        | (o >> 12 & 0xff) << 12
        | rd << 7
        | 0x6f
}

pub(crate) const fn addi(rd: u32, rs1: u32, imm: i32) -> u32 {
    i_type(0x13, 0, rd, rs1, imm as u32)
}

/// A load of `1 << log2` bytes, sign-extended.
pub(crate) const fn load(log2: u32, rd: u32, rs1: u32, imm: i32) -> u32 {
    i_type(0x03, log2, rd, rs1, imm as u32)
}

/// A store of `1 << log2` bytes.
pub(crate) const fn store(log2: u32, rs2: u32, rs1: u32, imm: i32) -> u32 {
    s_type(0x23, log2, rs1, rs2, imm as u32)
}

pub(crate) const fn csrw(csr: u32, rs1: u32) -> u32 {
    i_type(0x73, 1, 0, rs1, csr)
}

pub(crate) const fn csrr(rd: u32, csr: u32) -> u32 {
    i_type(0x73, 2, rd, 0, csr)
}

pub(crate) const fn vsetvli(rd: u32, rs1: u32, vtype: u32) -> u32 {
    i_type(0x57, 7, rd, rs1, vtype)
}

/// An atomic operation of `1 << log2` bytes; `funct5` as in the listing, aq and rl set.
pub(crate) const fn amo(funct5: u32, log2: u32, rd: u32, rs1: u32, rs2: u32) -> u32 {
    r_type(0x2f, log2, funct5 << 2 | 3, rd, rs1, rs2)
}

pub(crate) const NOP: u32 = 0x13;
pub(crate) const RET: u32 = 0x0000_8067;
pub(crate) const MRET: u32 = 0x3020_0073;
pub(crate) const WFI: u32 = 0x1050_0073;
pub(crate) const FENCE: u32 = 0x0ff0_000f;
pub(crate) const FENCE_I: u32 = 0x0000_100f;
pub(crate) const SFENCE_VMA: u32 = 0x1200_0073;

/// Appends a word.
pub(crate) fn emit(code: &mut Vec<u8>, word: u32) {
    code.extend_from_slice(&word.to_le_bytes());
}

/// li rd, value (below 2 GiB), always two instructions.
pub(crate) fn li(code: &mut Vec<u8>, rd: u32, value: u64) {
    let high = (value + 0x800) >> 12;
    emit(code, (high as u32) << 12 | rd << 7 | 0x37);
    emit(code, addi(rd, rd, (value as i32) << 20 >> 20));
}

/// A place in the code.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Label(usize);

/// How a word refers to a label.
enum Kind {
    Branch,
    Jump,
    /// auipc and addi, at the word and behind it.
    Address,
}

/// Code with labels.
#[derive(Default)]
pub(crate) struct Asm {
    code: Vec<u8>,
    labels: Vec<Option<usize>>,
    fixups: Vec<(usize, Label, Kind)>,
}

impl Asm {
    pub(crate) fn word(&mut self, word: u32) {
        emit(&mut self.code, word);
    }

    pub(crate) fn words(&mut self, words: &[u32]) {
        words.iter().for_each(|w| self.word(*w));
    }

    pub(crate) fn li(&mut self, rd: u32, value: u64) {
        li(&mut self.code, rd, value);
    }

    /// A label to be placed later.
    pub(crate) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    pub(crate) fn place(&mut self, label: Label) {
        assert!(self.labels[label.0].is_none());
        self.labels[label.0] = Some(self.code.len());
    }

    /// A label here.
    pub(crate) fn here(&mut self) -> Label {
        let label = self.label();
        self.place(label);
        label
    }

    /// A branch; `funct3` 0 beq, 1 bne, 4 blt, 5 bge, 6 bltu, 7 bgeu.
    pub(crate) fn branch(&mut self, funct3: u32, rs1: u32, rs2: u32, to: Label) {
        self.fixups.push((self.code.len(), to, Kind::Branch));
        self.word(b_type(funct3, rs1, rs2, 0));
    }

    pub(crate) fn jump(&mut self, rd: u32, to: Label) {
        self.fixups.push((self.code.len(), to, Kind::Jump));
        self.word(j_type(rd, 0));
    }

    /// rd = address of the label.
    pub(crate) fn address(&mut self, rd: u32, of: Label) {
        self.fixups.push((self.code.len(), of, Kind::Address));
        self.word(rd << 7 | 0x17);
        self.word(addi(rd, rd, 0));
    }

    /// Fills up to a multiple of `align` bytes.
    pub(crate) fn align(&mut self, align: usize) {
        while !self.code.len().is_multiple_of(align) {
            self.word(NOP);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.code.len()
    }

    /// The code, its labels resolved.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        for (at, label, kind) in self.fixups {
            let to = self.labels[label.0].expect("the label is placed");
            let offset = to as i32 - at as i32;
            let mut or = |at: usize, bits: u32| {
                let place: &mut [u8; 4] = (&mut self.code[at..at + 4]).try_into().expect("four bytes");
                *place = (u32::from_le_bytes(*place) | bits).to_le_bytes();
            };
            match kind {
                Kind::Branch => or(at, b_type(0, 0, 0, offset)),
                Kind::Jump => or(at, j_type(0, offset)),
                Kind::Address => {
                    or(at, (offset + 0x800) as u32 & !0xfff);
                    or(at + 4, (offset as u32 & 0xfff) << 20);
                }
            }
        }
        self.code
    }
}
