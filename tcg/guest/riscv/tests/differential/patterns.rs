//! Instruction words from the decode tables, random where the tables leave them free and within reason.

use crate::common::{
    asm::{b_type, j_type},
    oracle::Rng,
};

/// A pattern of a decode table.
pub(crate) struct Pattern {
    pub(crate) name: String,
    fixed: u32,
    mask: u32,
    pub(crate) width: u32,
    rounding: bool,
}

/// Where the target of an indirect jump is.
pub(crate) const TARGET: u32 = 9;

/// What a pattern's operands must respect.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Plain,
    Load,
    Store,
    /// Compressed, with one of x8 to x15 as its base.
    LoadStore16,
    /// Compressed, relative to sp.
    Stack16,
    Atomic,
    /// On the cache block that x31 lies in.
    Block,
    /// Skips the next instruction, or not.
    Branch,
    Jump,
    /// jalr and what is short for it.
    Indirect,
    /// fflags, frm, fcsr.
    Csr,
}

/// All patterns that an ordinary program of width `xlen` can run.
pub(crate) fn all(xlen: u32) -> Vec<Pattern> {
    let mut all = parse(include_str!("../../insn32.decode"), 32);
    all.extend(parse(include_str!("../../insn16.decode"), 16));
    all.retain(|p| !p.excluded() && !p.of_other_width(xlen));
    assert!(all.len() > 200, "{} patterns", all.len());
    all
}

fn parse(text: &str, width: u32) -> Vec<Pattern> {
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or("").trim();
        if !line.starts_with(|c: char| c.is_ascii_alphabetic()) {
            continue;
        }
        let mut tokens = line.split_whitespace();
        let name = tokens.next().unwrap().to_owned();
        let (mut fixed, mut mask, mut bits, mut rounding) = (0_u32, 0_u32, 0, false);
        for t in tokens {
            if t.chars().all(|c| "01.-".contains(c)) {
                for c in t.chars() {
                    fixed = fixed << 1 | u32::from(c == '1');
                    mask = mask << 1 | u32::from(c == '0' || c == '1');
                    bits += 1;
                }
            } else if let Some((_, len)) = t.split_once(':') {
                let len: u32 = len.parse().unwrap();
                fixed <<= len;
                mask <<= len;
                bits += len;
            }
            rounding |= matches!(t, "@f1" | "@f2" | "@f3");
        }
        assert_eq!(bits, width, "{name}");
        found.push(Pattern { name, fixed, mask, width, rounding });
    }
    found
}

fn put(word: u32, value: u32, pos: u32, len: u32) -> u32 {
    let mask = ((1 << len) - 1) << pos;
    word & !mask | value << pos & mask
}

impl Pattern {
    /// What cannot run as an ordinary user instruction.
    fn excluded(&self) -> bool {
        let n = self.name.as_str();
        let privileged = ["wrs", "sfence", "sinval", "mret", "sret", "wfi", "ecall", "ebreak"];
        privileged.iter().any(|s| n.starts_with(s)) || n.contains("illegal")
    }

    /// What the other width has.
    fn of_other_width(&self, xlen: u32) -> bool {
        let name = self.name.as_str();
        // Short forms that RV64 uses for something else.
        let short32 =
            self.width == 16 && (name == "jal" && self.fixed >> 13 == 1 || matches!(name, "flw" | "fsw"));
        let only32 = short32 || matches!(name, "rev8_32" | "zext_h_32");
        let word = [
            "addw", "subw", "sllw", "srlw", "sraw", "mulw", "divw", "divuw", "remw", "remuw", "rolw", "rorw",
            "clzw", "ctzw", "cpopw",
        ];
        let only64 = word.contains(&name)
            || matches!(
                name,
                "lwu" | "ld" | "sd" | "fmv_x_d" | "fmv_d_x" | "rev8_64" | "zext_h_64" | "zcb_zext_w"
            )
            || name.ends_with("_uw")
            || matches!(name, "addiw" | "slliw" | "srliw" | "sraiw" | "roriw")
            || (name.starts_with("amo") || name.starts_with("lr_") || name.starts_with("sc_"))
                && name.ends_with("_d")
            || name.starts_with("fcvt_") && name.split('_').any(|p| p == "l" || p == "lu");
        if xlen == 32 { only64 } else { only32 }
    }

    pub(crate) fn kind(&self) -> Kind {
        let n = self.name.strip_prefix("zcb_").unwrap_or(&self.name);
        let short = self.width == 16;
        match n {
            "lb" | "lh" | "lw" | "ld" | "lbu" | "lhu" | "lwu" | "flh" | "flw" | "fld" | "sb" | "sh"
            | "sw" | "sd" | "fsh" | "fsw" | "fsd"
                if short =>
            {
                if self.fixed & 3 == 2 {
                    Kind::Stack16
                } else {
                    Kind::LoadStore16
                }
            }
            "lb" | "lh" | "lw" | "ld" | "lbu" | "lhu" | "lwu" | "flh" | "flw" | "fld" => Kind::Load,
            "sb" | "sh" | "sw" | "sd" | "fsh" | "fsw" | "fsd" => Kind::Store,
            "beq" | "bne" | "blt" | "bge" | "bltu" | "bgeu" => Kind::Branch,
            "jal" => Kind::Jump,
            "jalr" => Kind::Indirect,
            _ if n.starts_with("csr") => Kind::Csr,
            _ if n.starts_with("cbo") => Kind::Block,
            _ if n.starts_with("amo") || n.starts_with("lr_") || n.starts_with("sc_") => Kind::Atomic,
            _ => Kind::Plain,
        }
    }

    /// The instruction; `next` is the length of the one behind it, which branches and jumps skip. x31 holds the address
    /// of the data. `None` if the random word is reserved.
    pub(crate) fn word(&self, rng: &mut Rng, next: u32, xlen: u32) -> Option<u32> {
        if self.width == 16 { self.short(rng, next, xlen) } else { Some(self.long(rng, next, xlen)) }
    }

    fn short(&self, rng: &mut Rng, next: u32, xlen: u32) -> Option<u32> {
        let mut w = (self.fixed | rng.next() as u32 & !self.mask) & 0xffff;
        let skip = 2 + next;
        match self.kind() {
            // c.beqz and c.bnez: offset bits 2 1 at 4 3.
            Kind::Branch => {
                w &= !0x1c7c;
                return Some(w | (skip >> 1 & 3) << 3);
            }
            // c.j and c.jal: offset bits 3 2 1 at 5 4 3.
            Kind::Jump => {
                w &= !0x1ffc;
                return Some(w | (skip >> 1 & 7) << 3);
            }
            // What follows an indirect jump is made by the caller.
            Kind::Indirect => return Some(put(w, TARGET, 7, 5)),
            // The caller makes x15 or sp the address of the data.
            Kind::LoadStore16 => return Some(put(w, 7, 7, 3)),
            Kind::Stack16 => {
                let rd = w >> 7 & 31;
                let load = w >> 13 < 4;
                let float = w >> 13 == 1 || xlen == 32 && w >> 13 == 3;
                return (!load || float || rd != 0 && rd != 31).then_some(w);
            }
            _ => {}
        }
        let rd = w >> 7 & 31;
        let imm = w >> 12 & 1 | w >> 2 & 31;
        let bad = match (w & 3, w >> 13) {
            (0, 0) => w >> 5 & 0xff == 0,
            (1, 0 | 2) => rd == 31,
            (1, 1) => rd == 0 || rd == 31,
            (1, 3) => imm == 0 || rd == 31,
            (1, 4) => xlen == 32 && w >> 11 & 1 == 0 && w >> 12 & 1 != 0,
            (2, 0) => rd == 31 || xlen == 32 && w >> 12 & 1 != 0,
            (2, 4) => w >> 2 & 31 == 0 || rd == 31,
            _ => false,
        };
        (!bad).then_some(w)
    }

    fn long(&self, rng: &mut Rng, next: u32, xlen: u32) -> u32 {
        let free = |word: u32, value: u32, pos: u32, len: u32| {
            let mask = (((1_u64 << len) - 1) as u32) << pos;
            if self.mask & mask == 0 { put(word, value, pos, len) } else { word }
        };
        let mut w = self.fixed | rng.next() as u32 & !self.mask;
        // Few registers, so that results are used again.
        let reg = |rng: &mut Rng| if rng.one_in(3) { rng.below(31) as u32 } else { 10 + rng.below(6) as u32 };
        for (pos, len) in [(7, 5), (15, 5), (20, 5), (27, 5)] {
            let value = reg(rng);
            if !rng.one_in(4) || pos == 7 {
                w = free(w, value, pos, len);
            }
        }
        if self.rounding {
            let rm = rng.pick(&[0, 1, 2, 3, 4, 7, 7, 7]);
            w = put(w, rm, 12, 3);
        }
        match self.kind() {
            // Shifts by 32 and more do not exist on RV32.
            Kind::Plain
                if xlen == 32
                    && (self.mask >> 25 & 1 == 0)
                    && (self.fixed & 0x7f == 0x13)
                    && self.mask >> 26 == 0x3f =>
            {
                w = put(w, 0, 25, 1);
            }
            Kind::Load => {
                w = put(w, 31, 15, 5);
                w = put(w, rng.below(0xf0) as u32, 20, 12);
            }
            Kind::Store => {
                let imm = rng.below(0xf0) as u32;
                w = put(w, 31, 15, 5);
                w = put(w, imm >> 5, 25, 7);
                w = put(w, imm, 7, 5);
            }
            Kind::Atomic | Kind::Block => w = put(w, 31, 15, 5),
            // The lowest bit of the sum is dropped.
            Kind::Indirect => w = put(put(w, TARGET, 15, 5), rng.below(2) as u32, 20, 12),
            Kind::Branch => w = w & 0x01ff_f07f | b_type(0, 0, 0, 4 + next as i32),
            Kind::Jump => w = w & 0xfff | j_type(0, 4 + next as i32),
            Kind::Csr => {
                let csr = rng.pick(&[1, 1, 2, 3, 3]);
                w = put(w, csr, 20, 12);
                // A rounding mode that exists: frm by an immediate, all of fcsr is only read.
                let immediate = w >> 14 & 1 != 0;
                let value = match csr {
                    2 if immediate && w >> 12 & 3 == 1 => rng.below(5) as u32,
                    1 if immediate => rng.below(32) as u32,
                    1 => 10 + rng.below(6) as u32,
                    _ => 0,
                };
                w = put(w, value, 15, 5);
                if csr != 1 && w >> 12 & 3 == 1 && !(csr == 2 && immediate) {
                    // csrrw of x0 would be a write: make it a read.
                    w = put(w, 2, 12, 2);
                }
            }
            _ => {}
        }
        w
    }
}
