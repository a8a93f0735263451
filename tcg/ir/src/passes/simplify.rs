//! The algebra of `fold`: one step on one pure instruction, by what defines its operands.
//!
//! Every rule holds for all operands. Constants stand second (see `fold`). Each result is cheaper than what it replaces
//! or closer to a form another rule knows.

use crate::interp::low_mask;
use crate::{Cond, Inst, Op, Region, Type, Value};

/// What an instruction becomes.
#[derive(Debug)]
pub(super) enum Rewrite {
    /// Nothing else.
    Same,
    /// Another value stands for it.
    Is(Value),
    /// A constant.
    Const(u64),
    /// Another operation.
    Op(Inst),
    /// Another operation whose second operand is a new constant of its first operand's type.
    OpConst(Inst, u64),
}

use Rewrite::{Is, Same};

/// One step.
pub(super) fn simplify(r: &Region, i: &Inst) -> Rewrite {
    let w = i.ty.bits();
    match i.op {
        Op::Add | Op::Sub | Op::And | Op::Or | Op::Xor | Op::Andc | Op::Mul | Op::Divu | Op::Remu => {
            arithmetic(r, i)
        }
        Op::Shl | Op::Shr | Op::Sar | Op::Rotl | Op::Rotr => shift(r, i),
        Op::Trunc | Op::Zext | Op::Sext => extension(r, i),
        Op::Extract | Op::Sextract => {
            let (pos, len) = ((i.imm & 0xff) as u32, (i.imm >> 8) as u32);
            let d = r.inst(i.a);
            match d.op {
                _ if pos == 0 && len == w => Is(i.a),
                Op::Zext if i.op == Op::Extract && pos == 0 && len >= r.inst(d.a).ty.bits() => Is(i.a),
                Op::Sext if i.op == Op::Sextract && pos == 0 && len >= r.inst(d.a).ty.bits() => Is(i.a),
                _ => Same,
            }
        }
        Op::Deposit if i.imm == u64::from(w) << 8 => Is(i.b),
        Op::Setcc => setcc(r, i),
        Op::Select => match r.as_const(i.a) {
            Some(c) => Is(if c != 0 { i.b } else { i.c }),
            None if i.b == i.c => Is(i.b),
            None => Same,
        },
        Op::Not | Op::Neg | Op::Fneg | Op::Vnot | Op::Bswap if r.inst(i.a).op == i.op => Is(r.inst(i.a).a),
        Op::Fabs if matches!(r.inst(i.a).op, Op::Fabs | Op::Fneg) => {
            Rewrite::Op(Inst { a: r.inst(i.a).a, ..*i })
        }
        Op::Fsgnj if i.a == i.b => match i.sub {
            0 => Is(i.a),
            n => {
                let op = if n == 1 { Op::Fneg } else { Op::Fabs };
                Rewrite::Op(Inst { op, sub: 0, b: Value::NONE, ..*i })
            }
        },
        Op::Funbox if r.inst(i.a).op == Op::Fbox && r.inst(r.inst(i.a).a).ty == i.ty => Is(r.inst(i.a).a),
        Op::Bitcast if r.inst(i.a).op == Op::Bitcast => {
            let a = r.inst(i.a).a;
            if r.inst(a).ty == i.ty { Is(a) } else { Rewrite::Op(Inst { a, ..*i }) }
        }
        Op::Vand | Op::Vor if i.a == i.b => Is(i.a),
        Op::Vpart => part(r, i),
        Op::Vjoin => {
            let (low, high) = (r.inst(i.a), r.inst(i.b));
            let halves = low.op == Op::Vpart && high.op == Op::Vpart && low.a == high.a;
            if halves && r.inst(low.a).ty == i.ty && low.imm == 0 && high.imm == 1 { Is(low.a) } else { Same }
        }
        _ => Same,
    }
}

/// A part of what was joined, of a part, or of lanes that are all the same.
fn part(r: &Region, i: &Inst) -> Rewrite {
    let d = r.inst(i.a);
    match d.op {
        Op::Vjoin => {
            let half = r.inst(d.a).ty;
            let per_half = (half.bytes() / i.ty.bytes()) as u64;
            let (a, imm) = if i.imm < per_half { (d.a, i.imm) } else { (d.b, i.imm - per_half) };
            if half == i.ty { Is(a) } else { Rewrite::Op(Inst { a, imm, ..*i }) }
        }
        Op::Vpart => {
            let per_part = (d.ty.bytes() / i.ty.bytes()) as u64;
            Rewrite::Op(Inst { a: d.a, imm: d.imm * per_part + i.imm, ..*i })
        }
        Op::Vsplat => Rewrite::Op(Inst { ty: i.ty, ..*d }),
        _ => Same,
    }
}

/// The operand of `d` if it is `op` with a constant.
fn with_const(r: &Region, v: Value, op: Op) -> Option<(Value, u64)> {
    let d = r.inst(v);
    if d.op == op { r.as_const(d.b).map(|c| (d.a, c)) } else { None }
}

fn arithmetic(r: &Region, i: &Inst) -> Rewrite {
    let w = i.ty.bits();
    let mask = low_mask(w);
    let narrow = w <= 64;
    let zero = || if narrow || i.ty == Type::I128 { Rewrite::Const(0) } else { Same };
    let Some(c) = r.as_const(i.b) else {
        return match i.op {
            Op::Sub | Op::Xor | Op::Andc if i.a == i.b => zero(),
            Op::And | Op::Or if i.a == i.b => Is(i.a),
            Op::Sub if r.as_const(i.a) == Some(0) => {
                Rewrite::Op(Inst { op: Op::Neg, a: i.b, b: Value::NONE, ..*i })
            }
            _ => Same,
        };
    };
    match (i.op, c) {
        (Op::Add | Op::Sub | Op::Or | Op::Xor | Op::Andc, 0) | (Op::Mul | Op::Divu, 1) => return Is(i.a),
        (Op::And | Op::Mul, 0) | (Op::Remu, 1) => return zero(),
        _ if !narrow => return Same,
        _ => {}
    }
    // The same operation twice with constants is once with one.
    let chain = |op: Op, join: fn(u64, u64) -> u64| match with_const(r, i.a, op) {
        Some((a, c2)) => Rewrite::OpConst(Inst { a, ..*i }, join(c, c2)),
        None => Same,
    };
    match i.op {
        Op::Add => {
            let d = r.inst(i.a);
            if d.op == Op::Pc {
                return Rewrite::Op(Inst { imm: d.imm.wrapping_add(c) & mask, ..*d });
            }
            chain(Op::Add, u64::wrapping_add)
        }
        Op::Sub => Rewrite::OpConst(Inst { op: Op::Add, ..*i }, c.wrapping_neg()),
        Op::And if c == mask => Is(i.a),
        Op::And => {
            let d = r.inst(i.a);
            let bound = match d.op {
                Op::Zext => r.inst(d.a).ty.mask(),
                Op::Setcc | Op::FlagCond | Op::Fcmp => 1,
                Op::Extract => low_mask((d.imm >> 8) as u32),
                _ => return chain(Op::And, |x, y| x & y),
            };
            if c & bound == bound { Is(i.a) } else { Same }
        }
        Op::Andc => Rewrite::OpConst(Inst { op: Op::And, ..*i }, !c),
        Op::Or if c == mask => Rewrite::Const(mask),
        Op::Or => chain(Op::Or, |x, y| x | y),
        Op::Xor if c == mask => Rewrite::Op(Inst { op: Op::Not, b: Value::NONE, ..*i }),
        Op::Xor => chain(Op::Xor, |x, y| x ^ y),
        Op::Mul if c.is_power_of_two() => {
            Rewrite::OpConst(Inst { op: Op::Shl, ..*i }, u64::from(c.trailing_zeros()))
        }
        Op::Divu if c.is_power_of_two() => {
            Rewrite::OpConst(Inst { op: Op::Shr, ..*i }, u64::from(c.trailing_zeros()))
        }
        Op::Remu if c.is_power_of_two() => Rewrite::OpConst(Inst { op: Op::And, ..*i }, c - 1),
        _ => Same,
    }
}

fn shift(r: &Region, i: &Inst) -> Rewrite {
    let w = i.ty.bits();
    let Some(c) = r.as_const(i.b) else { return Same };
    let c = c as u32 & (w - 1);
    if c == 0 {
        return Is(i.a);
    }
    let Some((a, left)) = with_const(r, i.a, Op::Shl) else { return Same };
    let left = left as u32 & (w - 1);
    // Left, then right: a bit field.
    if c < left || !matches!(i.op, Op::Shr | Op::Sar) {
        return Same;
    }
    let op = if i.op == Op::Shr { Op::Extract } else { Op::Sextract };
    Rewrite::Op(Inst { op, a, b: Value::NONE, imm: u64::from((c - left) | ((w - c) << 8)), ..*i })
}

fn extension(r: &Region, i: &Inst) -> Rewrite {
    let d = r.inst(i.a);
    let inner = || r.inst(d.a).ty.bits();
    let w = i.ty.bits();
    let from = |op: Op, a: Value| Rewrite::Op(Inst { op, a, ..*i });
    match (i.op, d.op) {
        (Op::Trunc, Op::Zext | Op::Sext) if inner() == w => Is(d.a),
        (Op::Trunc, Op::Zext | Op::Sext) if inner() > w => from(Op::Trunc, d.a),
        (Op::Trunc, op @ (Op::Zext | Op::Sext)) => from(op, d.a),
        (Op::Trunc, Op::Trunc) | (Op::Zext, Op::Zext) | (Op::Sext, Op::Sext) => from(i.op, d.a),
        (Op::Sext, Op::Zext) => from(Op::Zext, d.a),
        (Op::Trunc, Op::Concat) if w == 64 => Is(d.a),
        // The masked bits are cut off.
        (Op::Trunc, Op::And) if d.ty.bits() <= 64 => match r.as_const(d.b) {
            Some(c) if c & low_mask(w) == low_mask(w) => from(Op::Trunc, d.a),
            _ => Same,
        },
        (Op::Trunc, Op::Extract | Op::Sextract) if d.imm & 0xff == 0 && (d.imm >> 8) as u32 >= w => {
            from(Op::Trunc, d.a)
        }
        // What a box was made of, read through its bits.
        (Op::Trunc, Op::Bitcast) => {
            let boxed = r.inst(d.a);
            if boxed.op == Op::Fbox && r.inst(boxed.a).ty.bits() == w {
                Rewrite::Op(Inst { op: Op::Bitcast, a: boxed.a, ..*i })
            } else {
                Same
            }
        }
        (Op::Zext, Op::Setcc | Op::FlagCond) => Rewrite::Op(Inst { ty: i.ty, ..*d }),
        _ => Same,
    }
}

fn setcc(r: &Region, i: &Inst) -> Rewrite {
    let cond = Cond::from_bits(i.sub);
    if i.a == i.b {
        match cond {
            Cond::Eq | Cond::Ge | Cond::Le | Cond::Geu | Cond::Leu => return Rewrite::Const(1),
            Cond::Ne | Cond::Lt | Cond::Gt | Cond::Ltu | Cond::Gtu => return Rewrite::Const(0),
            _ => return Same,
        }
    }
    let Some(c) = r.as_const(i.b) else { return Same };
    let d = r.inst(i.a);
    match (cond, c) {
        (Cond::Ltu | Cond::TestNz, 0) => Rewrite::Const(0),
        (Cond::Geu | Cond::TestZ, 0) => Rewrite::Const(1),
        (Cond::Gtu, 0) => Rewrite::Op(Inst { sub: Cond::Ne as u16, ..*i }),
        (Cond::Leu, 0) => Rewrite::Op(Inst { sub: Cond::Eq as u16, ..*i }),
        // A comparison asked whether it holds.
        (Cond::Eq | Cond::Ne, 0) if matches!(d.op, Op::Setcc | Op::FlagCond) => {
            let inner = Cond::from_bits(d.sub);
            let sub = if cond == Cond::Eq { inner.negate() } else { inner };
            Rewrite::Op(Inst { ty: i.ty, sub: sub as u16, ..*d })
        }
        (Cond::Eq | Cond::Ne, 0) if d.op == Op::And && r.as_const(d.b) != Some(0) => {
            let sub = if cond == Cond::Eq { Cond::TestZ } else { Cond::TestNz };
            Rewrite::Op(Inst { sub: sub as u16, a: d.a, b: d.b, ..*i })
        }
        (Cond::Eq | Cond::Ne, 0) if matches!(d.op, Op::Zext | Op::Sext) && r.inst(d.a).ty.is_int() => {
            // The constant must have the narrower type.
            Rewrite::OpConst(Inst { a: d.a, ..*i }, 0)
        }
        _ => Same,
    }
}
