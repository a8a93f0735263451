//! V inline: comparisons and mask instructions.
//!
//! A mask register is a row of bits. What makes one gathers the bits of all pieces in words of 64, merges them with the old
//! mask where the instruction is masked, and writes as many bits as there are elements.

use tcg_ir::{Cond, Lane, Op, Type, Value};

use super::Translator;
use super::rvv_mode::Shape;
use crate::vector::form;

impl Translator<'_, '_> {
    /// Word `w` of mask register `reg`, with rubbish above the last element.
    fn v_mask_word(&mut self, s: &Shape, reg: u32, w: usize) -> Value {
        let per = s.bytes / 8;
        let v = self.vget(s, reg, w / per);
        self.vlane(v, Lane::I64, w % per)
    }

    /// Number of words with elements in a mask.
    fn v_mask_words(s: &Shape) -> usize {
        s.vlmax.div_ceil(64)
    }

    /// Writes word `w` of mask register `reg`: bits above the last element stay.
    fn v_set_mask_word(&mut self, s: &Shape, reg: u32, w: usize, v: Value) {
        let per = s.bytes / 8;
        let old = self.vget(s, reg, w / per);
        let bits = (s.vlmax - w * 64).min(64);
        let new = match bits {
            64 => self.vput(old, Lane::I64, w % per, v),
            32 => self.vput(old, Lane::I32, w % per * 2, v),
            16 => self.vput(old, Lane::I16, w % per * 4, v),
            8 => self.vput(old, Lane::I8, w % per * 8, v),
            n => {
                let byte = self.vlane(old, Lane::I64, w % per);
                let word = self.b.deposit(byte, v, 0, n as u32);
                self.vput(old, Lane::I64, w % per, word)
            }
        };
        self.vset(s, reg, w / per, s.bytes, new);
    }

    /// Writes `words` to the active bits of the mask in `vd`.
    fn v_set_mask(&mut self, s: &Shape, words: &[Value]) {
        let vd = s.insn.vd();
        for (w, &new) in words.iter().enumerate() {
            let mut v = new;
            let mut active = (!s.insn.vm()).then(|| self.v_mask_word(s, 0, w));
            if !s.full {
                let body = self.v_tail_word(w);
                active = Some(match active {
                    Some(mask) => self.b.and(mask, body),
                    None => body,
                });
            }
            if let Some(mask) = active {
                let old = self.v_mask_word(s, vd, w);
                let kept = self.b.binary(Op::Andc, old, mask);
                let taken = self.b.and(v, mask);
                v = self.b.or(kept, taken);
            }
            self.v_set_mask_word(s, vd, w, v);
        }
    }

    /// Gathers the lanes' top bits of all pieces that `f` makes.
    pub(super) fn v_gather(
        &mut self,
        s: &Shape,
        pieces: usize,
        mut f: impl FnMut(&mut Self, usize) -> Value,
    ) -> Vec<Value> {
        let per = s.per_piece();
        let mut words: Vec<Value> = Vec::new();
        for n in 0..pieces {
            let v = f(self, n);
            let bits = self.b.vector(Op::Vbits, Type::I64, s.lane, 0, [v, Value::NONE, Value::NONE], 0);
            let at = n * per % 64;
            if at == 0 {
                words.push(bits);
                continue;
            }
            let by = self.b.iconst(Type::I64, at as u64);
            let bits = self.b.shl(bits, by);
            if let Some(last) = words.last_mut() {
                *last = self.b.or(*last, bits);
            }
        }
        words
    }

    /// Checks the sources of what writes a mask; `reg` is the second one's group. The pieces.
    pub(super) fn v_mask_sources(&self, s: &Shape, reg: Option<u32>) -> Option<usize> {
        let (vd, vs2) = (s.insn.vd(), s.insn.vs2());
        let (pieces, _) = s.group(vs2, s.sew)?;
        let clear = |vs: u32| vd <= vs || vd >= vs + s.registers(s.sew);
        if let Some(reg) = reg {
            s.group(reg, s.sew)?;
            if !clear(reg) {
                return None;
            }
        }
        clear(vs2).then_some(pieces)
    }

    /// vmseq to vmsgt
    pub(super) fn v_compare(&mut self, s: &Shape) -> Option<()> {
        let cond = [Cond::Eq, Cond::Ne, Cond::Ltu, Cond::Lt, Cond::Leu, Cond::Le, Cond::Gtu, Cond::Gt]
            [s.insn.funct6() as usize & 7];
        let (vs2, vs1) = (s.insn.vs2(), s.insn.vs1());
        let group = (s.insn.funct3() == form::IVV).then_some(vs1);
        let pieces = self.v_mask_sources(s, group)?;
        let splat = match (group, s.insn.funct3()) {
            (Some(_), _) => Value::NONE,
            (None, form::IVI) => {
                let simm = i64::from(vs1) << 59 >> 59;
                self.vconst(s, s.lane, simm as u64)
            }
            _ => {
                let x = self.x_wide(vs1 as i32);
                self.vsplat(s, s.lane, x)
            }
        };
        let words = self.v_gather(s, pieces, |t, n| {
            let a = t.vget(s, vs2, n);
            let x = if let Some(reg) = group { t.vget(s, reg, n) } else { splat };
            t.b.vector(Op::Vcmp, s.piece, s.lane, cond as u16, [a, x, Value::NONE], 0)
        });
        self.v_set_mask(s, &words);
        Some(())
    }

    /// Writes masks made elsewhere.
    pub(super) fn v_finish_mask(&mut self, s: &Shape, words: &[Value]) {
        self.v_set_mask(s, words);
    }

    /// vmandn to vmxnor
    pub(super) fn v_mask_logical(&mut self, s: &Shape, funct6: u32) -> Option<()> {
        let (vd, vs2, vs1) = (s.insn.vd(), s.insn.vs2(), s.insn.vs1());
        for w in 0..Self::v_mask_words(s) {
            let (a, b) = (self.v_mask_word(s, vs2, w), self.v_mask_word(s, vs1, w));
            let v = match funct6 & 7 {
                0 => self.b.binary(Op::Andc, a, b),
                1 => self.b.and(a, b),
                2 => self.b.or(a, b),
                3 => self.b.xor(a, b),
                4 => self.b.binary(Op::Orc, a, b),
                5 => {
                    let v = self.b.and(a, b);
                    self.b.unary(Op::Not, v)
                }
                6 => {
                    let v = self.b.or(a, b);
                    self.b.unary(Op::Not, v)
                }
                _ => self.b.binary(Op::Eqv, a, b),
            };
            self.v_set_mask_word(s, vd, w, v);
        }
        Some(())
    }

    /// The only word of mask `reg`, cut to its elements.
    fn v_one_word(&mut self, s: &Shape, reg: u32) -> Option<Value> {
        if s.vlmax > 64 {
            return None;
        }
        let v = self.v_mask_word(s, reg, 0);
        Some(if s.vlmax == 64 { v } else { self.b.extract(v, 0, s.vlmax as u32) })
    }

    /// vmsbf, vmsof, vmsif without a mask, in one word; vid.
    pub(super) fn v_mask_unary(&mut self, s: &Shape) -> Option<()> {
        let (vd, vs2) = (s.insn.vd(), s.insn.vs2());
        let kind = s.insn.vs1();
        if kind == 17 {
            return self.v_id(s);
        }
        if !s.insn.vm() || !(1..=3).contains(&kind) || vd == vs2 {
            return None;
        }
        let v = self.v_one_word(s, vs2)?;
        let less = self.b.addi(v, -1);
        let v = match kind {
            // Below the first bit; nothing set gives all ones.
            1 => self.b.binary(Op::Andc, less, v),
            2 => self.b.binary(Op::Andc, v, less),
            _ => self.b.xor(v, less),
        };
        self.v_set_mask_word(s, vd, 0, v);
        Some(())
    }

    /// vcpop, vfirst
    pub(super) fn v_mask_to_scalar(&mut self, s: &Shape) -> Option<()> {
        let kind = s.insn.vs1();
        if !matches!(kind, 16 | 17) {
            return None;
        }
        let words = Self::v_mask_words(s);
        if words > 2 {
            return None;
        }
        let mut result = None;
        // The lowest word that has a bit decides about the first.
        for w in (0..words).rev() {
            let mut v = self.v_mask_word(s, s.insn.vs2(), w);
            if !s.insn.vm() {
                let mask = self.v_mask_word(s, 0, w);
                v = self.b.and(v, mask);
            }
            let bits = (s.vlmax - w * 64).min(64) as u32;
            if bits < 64 {
                v = self.b.extract(v, 0, bits);
            }
            result = Some(if kind == 16 {
                let n = self.b.unary(Op::Popcnt, v);
                match result {
                    Some(sum) => self.b.binary(Op::Add, sum, n),
                    None => n,
                }
            } else {
                let n = self.b.unary(Op::Ctz, v);
                let n = self.b.addi(n, w as i64 * 64);
                let none = match result {
                    Some(later) => later,
                    None => self.b.iconst(Type::I64, u64::MAX),
                };
                self.b.select(v, n, none)
            });
        }
        let x = self.b.trunc(self.xt, result?);
        self.set_x(s.insn.vd() as i32, x);
        Some(())
    }

    /// vid without a mask.
    fn v_id(&mut self, s: &Shape) -> Option<()> {
        let (pieces, bytes) = s.group(s.insn.vd(), s.sew)?;
        if !s.insn.vm() {
            return None;
        }
        // Numbers of the first piece, then as many more for each.
        let per_word = 8 >> s.sew;
        let word =
            |w: usize| (0..per_word).map(|i| ((w * per_word + i) as u64) << (i * (8 << s.sew))).sum::<u64>();
        let mut first = self.vconst(s, Lane::I64, word(0));
        for w in 1..s.bytes / 8 {
            let x = self.b.iconst(Type::I64, word(w));
            first = self.vput(first, Lane::I64, w, x);
        }
        for n in 0..pieces {
            let v = if n == 0 {
                first
            } else {
                let more = self.vconst(s, s.lane, (n * s.per_piece()) as u64);
                self.vop(s, Op::Vadd, s.lane, first, more)
            };
            self.vset(s, s.insn.vd(), n, bytes, v);
        }
        Some(())
    }
}
