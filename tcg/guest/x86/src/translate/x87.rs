//! x87 (SDM volume 1, chapter 8): everything but control words is done by helpers.

use iced_x86::{Code, MemorySize, Mnemonic};
use tcg_ir::{Type, Value};

use super::Translator;
use crate::{
    exceptions::{self, vector},
    fpu::{
        FpuArith, FpuArithMemory, FpuCompare, FpuCompareFlags, FpuLoad, FpuLoad80, FpuMove, FpuRestore,
        FpuSave, FpuStore80, FpuStored, FpuUnary, FpuWait, moves,
    },
    x87::{Arith, Kind, Unary},
};

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn x87(&mut self, m: Mnemonic) -> bool {
        if !is_x87(m) {
            return false;
        }
        if self.mode.em || self.mode.ts {
            self.raise(exceptions::plain(vector::NM));
            return true;
        }
        self.x87_move(m) || self.x87_arith(m) || self.x87_unary(m)
    }

    fn number(&mut self, n: u64) -> Value {
        self.b.iconst(Type::I64, n)
    }

    /// Number of the stack register that operand `n` is.
    fn stack(&self, n: u32) -> u64 {
        self.insn.op_register(n).number() as u64
    }

    /// A number in memory, as it lies there.
    fn x87_memory(&mut self) -> Option<(Kind, Value)> {
        let (kind, ty) = match self.insn.memory_size() {
            MemorySize::Float32 => (Kind::F32, Type::I32),
            MemorySize::Float64 => (Kind::F64, Type::I64),
            MemorySize::Int16 => (Kind::I16, Type::I16),
            MemorySize::Int32 => (Kind::I32, Type::I32),
            MemorySize::Int64 => (Kind::I64, Type::I64),
            _ => return None,
        };
        let ea = self.ea_sized(ty.bytes() as u64, false);
        let v = self.load(ty, &ea);
        Some((kind, self.b.zext(Type::I64, v)))
    }

    fn register_move(&mut self, what: u64, i: u64, pops: u64) {
        let args = [what, i, pops, 1].map(|n| self.number(n));
        self.call::<FpuMove>(&args);
    }

    fn x87_move(&mut self, m: Mnemonic) -> bool {
        use Mnemonic as M;
        match m {
            M::Fld | M::Fild if self.is_memory(0) => {
                if let Some((kind, v)) = self.x87_memory() {
                    let kind = self.number(kind as u64);
                    self.call::<FpuLoad>(&[kind, v]);
                } else {
                    self.load80(false);
                }
            }
            M::Fbld => self.load80(true),
            M::Fld => {
                let i = self.stack(0);
                self.register_move(moves::LOAD, i, 0);
            }
            M::Fst | M::Fstp | M::Fist | M::Fistp | M::Fisttp if self.is_memory(0) => self.store_number(m),
            M::Fbstp => self.store80(true),
            M::Fst | M::Fstp | M::Fstpnce => {
                let i = self.stack(0);
                self.register_move(moves::STORE, i, u64::from(m != M::Fst));
            }
            M::Fxch => {
                let i = self.stack(1);
                self.register_move(moves::EXCHANGE, i, 0);
            }
            M::Ffree => {
                let i = self.stack(0);
                self.register_move(moves::FREE, i, 0);
            }
            M::Ffreep => {
                let i = self.stack(0);
                self.register_move(moves::FREE_POP, i, 1);
            }
            M::Fcmovb
            | M::Fcmove
            | M::Fcmovbe
            | M::Fcmovu
            | M::Fcmovnb
            | M::Fcmovne
            | M::Fcmovnbe
            | M::Fcmovnu => {
                let cond = match m {
                    M::Fcmovb | M::Fcmovnb => iced_x86::ConditionCode::b,
                    M::Fcmove | M::Fcmovne => iced_x86::ConditionCode::e,
                    M::Fcmovbe | M::Fcmovnbe => iced_x86::ConditionCode::be,
                    _ => iced_x86::ConditionCode::p,
                };
                let holds =
                    self.x87_condition(cond, matches!(m, M::Fcmovnb | M::Fcmovne | M::Fcmovnbe | M::Fcmovnu));
                let i = self.stack(1);
                let args = [moves::CONDITIONAL, i, 0].map(|n| self.number(n));
                self.call::<FpuMove>(&[args[0], args[1], args[2], holds]);
            }
            M::Fnstenv | M::Fnsave | M::Fldenv | M::Frstor => {
                let wide = !matches!(
                    self.insn.code(),
                    Code::Fnstenv_m14byte
                        | Code::Fnsave_m94byte
                        | Code::Fldenv_m14byte
                        | Code::Frstor_m94byte
                );
                let registers = matches!(m, M::Fnsave | M::Frstor);
                let bytes = if wide { 28 } else { 14 } + if registers { 80 } else { 0 };
                let store = matches!(m, M::Fnstenv | M::Fnsave);
                let ea = self.ea_sized(bytes, store);
                let at = self.ea_value(&ea);
                let how = self.number(u64::from(wide) | u64::from(registers) << 1);
                if store {
                    self.call::<FpuSave>(&[at, how]);
                } else {
                    self.call::<FpuRestore>(&[at, how]);
                }
            }
            M::Fnop => {
                self.call::<FpuWait>(&[]);
            }
            _ => return false,
        }
        true
    }

    /// Whether a condition of FCMOV holds, as an i64.
    fn x87_condition(&mut self, cond: iced_x86::ConditionCode, not: bool) -> Value {
        use iced_x86::ConditionCode as C;
        let bits = self.flag_bits();
        // Packed: C 1, Z 2, P 16.
        let mask = match cond {
            C::b => 1,
            C::e => 2,
            C::be => 3,
            _ => 16,
        };
        let mask = self.number(mask);
        let bits = self.b.and(bits, mask);
        let zero = self.number(0);
        self.b.setcc(Type::I64, if not { tcg_ir::Cond::Eq } else { tcg_ir::Cond::Ne }, bits, zero)
    }

    fn load80(&mut self, packed: bool) {
        let ea = self.ea_sized(10, false);
        let low = self.load(Type::I64, &ea);
        let at = self.ea_plus(&ea, 8);
        let high = self.load(Type::I16, &at);
        let high = self.b.zext(Type::I64, high);
        let packed = self.number(packed.into());
        self.call::<FpuLoad80>(&[low, high, packed]);
    }

    fn store80(&mut self, packed: bool) {
        let ea = self.ea_sized(10, true);
        let at = self.ea_value(&ea);
        let packed = self.number(packed.into());
        self.call::<FpuStore80>(&[at, packed]);
        self.register_move(moves::POP, 0, 1);
    }

    fn store_number(&mut self, m: Mnemonic) {
        use Mnemonic as M;
        let (kind, ty) = match self.insn.memory_size() {
            MemorySize::Float32 => (Kind::F32, Type::I32),
            MemorySize::Float64 => (Kind::F64, Type::I64),
            MemorySize::Int16 => (Kind::I16, Type::I16),
            MemorySize::Int32 => (Kind::I32, Type::I32),
            MemorySize::Int64 => (Kind::I64, Type::I64),
            _ => return self.store80(false),
        };
        let ea = self.ea_sized(ty.bytes() as u64, true);
        let how = self.number(kind as u64 | u64::from(m == M::Fisttp) << 3);
        let v = self.call::<FpuStored>(&[how]);
        let v = self.b.trunc(ty, v);
        self.store(&ea, v);
        if !matches!(m, M::Fst | M::Fist) {
            self.register_move(moves::POP, 0, 1);
        }
    }

    fn x87_arith(&mut self, m: Mnemonic) -> bool {
        use Mnemonic as M;
        let (op, pops) = match m {
            M::Fadd | M::Fiadd => (Arith::Add, 0),
            M::Fmul | M::Fimul => (Arith::Mul, 0),
            M::Fsub | M::Fisub => (Arith::Sub, 0),
            M::Fsubr | M::Fisubr => (Arith::Subr, 0),
            M::Fdiv | M::Fidiv => (Arith::Div, 0),
            M::Fdivr | M::Fidivr => (Arith::Divr, 0),
            M::Fcom | M::Ficom => (Arith::Com, 0),
            M::Fcomp | M::Ficomp => (Arith::Comp, 0),
            M::Faddp => (Arith::Add, 1),
            M::Fmulp => (Arith::Mul, 1),
            M::Fsubp => (Arith::Sub, 1),
            M::Fsubrp => (Arith::Subr, 1),
            M::Fdivp => (Arith::Div, 1),
            M::Fdivrp => (Arith::Divr, 1),
            M::Fcompp | M::Fucom | M::Fucomp | M::Fucompp => {
                let pops = match m {
                    M::Fucom => 0,
                    M::Fucomp => 1,
                    _ => 2,
                };
                let i = if pops == 2 { 1 } else { self.stack(1) };
                let args = [i, u64::from(m == M::Fcompp), pops].map(|n| self.number(n));
                self.call::<FpuCompare>(&args);
                return true;
            }
            M::Fcomi | M::Fcomip | M::Fucomi | M::Fucomip => {
                let i = self.stack(1);
                let signalling = u64::from(matches!(m, M::Fcomi | M::Fcomip));
                let pops = u64::from(matches!(m, M::Fcomip | M::Fucomip));
                let args = [i, signalling, pops].map(|n| self.number(n));
                let bits = self.call::<FpuCompareFlags>(&args);
                self.set_flags_bits(bits);
                return true;
            }
            _ => return false,
        };
        if self.is_memory(0) {
            let Some((kind, v)) = self.x87_memory() else { return false };
            let (op, kind) = (self.number(op as u64), self.number(kind as u64));
            self.call::<FpuArithMemory>(&[op, kind, v]);
        } else {
            let (to, with) = (self.stack(0), self.stack(1));
            let args = [op as u64, to, with, pops].map(|n| self.number(n));
            self.call::<FpuArith>(&args);
        }
        true
    }

    fn x87_unary(&mut self, m: Mnemonic) -> bool {
        use Mnemonic as M;
        let op = match m {
            M::Fchs => Unary::Chs,
            M::Fabs => Unary::Abs,
            M::Ftst => Unary::Tst,
            M::Fxam => Unary::Xam,
            M::Fsqrt => Unary::Sqrt,
            M::Frndint => Unary::Rndint,
            M::Fscale => Unary::Scale,
            M::Fprem => Unary::Prem,
            M::Fprem1 => Unary::Prem1,
            M::Fxtract => Unary::Xtract,
            M::F2xm1 => Unary::F2xm1,
            M::Fyl2x => Unary::Yl2x,
            M::Fyl2xp1 => Unary::Yl2xp1,
            M::Fptan => Unary::Ptan,
            M::Fpatan => Unary::Patan,
            M::Fsin => Unary::Sin,
            M::Fcos => Unary::Cos,
            M::Fsincos => Unary::Sincos,
            M::Fincstp => Unary::Incstp,
            M::Fdecstp => Unary::Decstp,
            M::Fld1 => Unary::One,
            M::Fldl2t => Unary::L2t,
            M::Fldl2e => Unary::L2e,
            M::Fldpi => Unary::Pi,
            M::Fldlg2 => Unary::Lg2,
            M::Fldln2 => Unary::Ln2,
            M::Fldz => Unary::Zero,
            _ => return false,
        };
        let op = self.number(op as u64);
        self.call::<FpuUnary>(&[op]);
        true
    }
}

/// Whether an instruction belongs here.
fn is_x87(m: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        m,
        M::Fld
            | M::Fild
            | M::Fbld
            | M::Fst
            | M::Fstp
            | M::Fstpnce
            | M::Fist
            | M::Fistp
            | M::Fisttp
            | M::Fbstp
            | M::Fxch
            | M::Ffree
            | M::Ffreep
            | M::Fcmovb
            | M::Fcmove
            | M::Fcmovbe
            | M::Fcmovu
            | M::Fcmovnb
            | M::Fcmovne
            | M::Fcmovnbe
            | M::Fcmovnu
            | M::Fnstenv
            | M::Fnsave
            | M::Fldenv
            | M::Frstor
            | M::Fnop
            | M::Fadd
            | M::Fiadd
            | M::Fmul
            | M::Fimul
            | M::Fsub
            | M::Fisub
            | M::Fsubr
            | M::Fisubr
            | M::Fdiv
            | M::Fidiv
            | M::Fdivr
            | M::Fidivr
            | M::Fcom
            | M::Ficom
            | M::Fcomp
            | M::Ficomp
            | M::Faddp
            | M::Fmulp
            | M::Fsubp
            | M::Fsubrp
            | M::Fdivp
            | M::Fdivrp
            | M::Fcompp
            | M::Fucom
            | M::Fucomp
            | M::Fucompp
            | M::Fcomi
            | M::Fcomip
            | M::Fucomi
            | M::Fucomip
            | M::Fchs
            | M::Fabs
            | M::Ftst
            | M::Fxam
            | M::Fsqrt
            | M::Frndint
            | M::Fscale
            | M::Fprem
            | M::Fprem1
            | M::Fxtract
            | M::F2xm1
            | M::Fyl2x
            | M::Fyl2xp1
            | M::Fptan
            | M::Fpatan
            | M::Fsin
            | M::Fcos
            | M::Fsincos
            | M::Fincstp
            | M::Fdecstp
            | M::Fld1
            | M::Fldl2t
            | M::Fldl2e
            | M::Fldpi
            | M::Fldlg2
            | M::Fldln2
            | M::Fldz
    )
}
