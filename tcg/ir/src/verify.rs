//! The verifier: what every region fulfils between passes.
//!
//! Rules: operands and results have the types the op table asks for; attributes are in range; a value is defined once,
//! before its uses, in a block that dominates them; edges bring one argument a parameter, of its type; each block ends
//! in one terminator; side entries have no parameters, and where there are any the entry block holds nothing; slots and helpers exist and are used with their types; whatever may leave the unit stands behind
//! an `insn` mark that is the same on every path. Code that cannot be reached is checked for all but dominance.

use thiserror::Error;

use crate::graph::Graph;
use crate::print::{self, Tables, fp_mask, is_vector};
use crate::{
    Block, BlockId, Cond, Edge, Effect, Effects, FpAttr, Inst, IntConv, Lane, MinMax, Op, Region, Rounding,
    SlotId, Terminator, Type, Value,
};

/// A rule that is broken, and where.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("block b{block}: `{inst}`: {rule}")]
pub struct VerifyError {
    /// The block.
    pub block: u32,
    /// The instruction or terminator, printed.
    pub inst: String,
    /// The rule.
    pub rule: &'static str,
}

/// True if the instruction may leave the unit: state must be exact there.
#[must_use]
pub fn may_leave(i: &Inst, t: Tables<'_>) -> bool {
    match i.op.info().effect {
        Effect::Load | Effect::Store => true,
        Effect::Mark => i.op == Op::Budget,
        Effect::Call => t
            .helpers
            .get(i.sub as usize)
            .is_none_or(|h| h.effects.intersects(Effects::RAISES | Effects::EXITS)),
        _ => false,
    }
}

/// Checks a region.
pub fn verify(r: &Region, t: Tables<'_>) -> Result<(), VerifyError> {
    if r.blocks.is_empty() {
        return Err(VerifyError { block: 0, inst: "region".into(), rule: "a region has an entry block" });
    }
    let mut def = vec![(u32::MAX, 0u32); r.insts.len()];
    for (b, block) in r.blocks.iter().enumerate() {
        for (pos, &v) in block.insts.iter().enumerate() {
            let Some(d) = def.get_mut(v.index()) else {
                return Err(at_inst(r, t, b, v, "a scheduled value has an instruction"));
            };
            if d.0 != u32::MAX {
                return Err(at_inst(r, t, b, v, "an instruction is scheduled once"));
            }
            *d = (b as u32, pos as u32);
        }
        if block.params as usize > block.insts.len() {
            return Err(at_end(b, block, "parameters are the first instructions of a block"));
        }
        match &block.end {
            None => return Err(at_end(b, block, "a block ends in a terminator")),
            Some(end) => {
                if end.edges().any(|e| e.block.0 as usize >= r.blocks.len()) {
                    return Err(at_end(b, block, "an edge leads to a block of the region"));
                }
            }
        }
    }
    if r.blocks[0].params != 0 {
        return Err(at_end(0, &r.blocks[0], "the entry block has no parameters"));
    }
    if let Some(e) =
        r.entries.iter().find(|e| e.0 == 0 || r.blocks.get(e.0 as usize).is_none_or(|b| b.params != 0))
    {
        let inst = format!("entry b{}", e.0);
        return Err(VerifyError {
            block: e.0,
            inst,
            rule: "a side entry is another block, without parameters",
        });
    }
    if !r.entries.is_empty() && !r.blocks[0].insts.is_empty() {
        return Err(at_end(0, &r.blocks[0], "the entry block of a region with side entries holds nothing"));
    }
    let mut graph = Graph::default();
    graph.build(r);
    graph.dominators(r);
    for (b, block) in r.blocks.iter().enumerate() {
        let usable = |v: Value, pos: usize| -> Result<(), &'static str> {
            let Some(&(db, dp)) = def.get(v.index()) else {
                return Err("an operand is a value of the region");
            };
            if db == u32::MAX {
                return Err("an operand is scheduled");
            }
            let before = if db == b as u32 {
                (dp as usize) < pos
            } else {
                !graph.is_reachable(BlockId(b as u32)) || graph.dominates(BlockId(db), BlockId(b as u32))
            };
            if before { Ok(()) } else { Err("an operand is defined before its use on every path") }
        };
        for (pos, &v) in block.insts.iter().enumerate() {
            let i = r.inst(v);
            if i.op == Op::Call && r.lists.get(i.a.index()..i.a.index().saturating_add(i.b.index())).is_none()
            {
                return Err(at_inst(r, t, b, v, "a call's operands lie in the region's list"));
            }
            let check = if pos < block.params as usize {
                param(i, pos)
            } else {
                r.operands(i).try_for_each(|o| usable(o, pos)).and_then(|()| inst(r, t, i))
            };
            check.map_err(|rule| at_inst(r, t, b, v, rule))?;
        }
        if let Some(end) = &block.end {
            let used = |v: Value| usable(v, usize::MAX);
            terminator(r, end, &used).map_err(|rule| at_end(b, block, rule))?;
        }
    }
    marks(r, t, &graph)
}

fn at_inst(r: &Region, t: Tables<'_>, block: usize, v: Value, rule: &'static str) -> VerifyError {
    let mut s = String::new();
    print::inst(&mut s, r, t, v);
    VerifyError { block: block as u32, inst: s, rule }
}

fn at_end(b: usize, block: &Block, rule: &'static str) -> VerifyError {
    let mut s = String::new();
    if let Some(end) = &block.end {
        print::terminator(&mut s, end);
    }
    VerifyError { block: b as u32, inst: s, rule }
}

type Rule = Result<(), &'static str>;

fn need(ok: bool, rule: &'static str) -> Rule {
    if ok { Ok(()) } else { Err(rule) }
}

fn param(i: &Inst, pos: usize) -> Rule {
    need(
        i.op == Op::Nop && i.ty != Type::Void && i.sub as usize == pos,
        "a parameter is a typed `nop` with its number in `sub`",
    )
}

fn terminator(r: &Region, end: &Terminator, used: &dyn Fn(Value) -> Rule) -> Rule {
    let ty = |v: Value| r.insts.get(v.index()).map_or(Type::Void, |i| i.ty);
    let edge = |e: &Edge| {
        let to = &r.blocks[e.block.0 as usize];
        need(e.args.len() == to.params as usize, "an edge brings one argument a parameter")?;
        for (a, p) in e.args.iter().zip(&to.insts) {
            used(*a)?;
            need(ty(*a) == ty(*p), "an argument has the type of its parameter")?;
        }
        Ok(())
    };
    match end {
        Terminator::Jump(e) => edge(e),
        Terminator::Branch { cond, then, other, .. } => {
            used(*cond)?;
            need(ty(*cond).is_int(), "a branch condition is an integer")?;
            edge(then)?;
            edge(other)
        }
        Terminator::Indirect { pc, .. } => {
            used(*pc)?;
            need(matches!(ty(*pc), Type::I32 | Type::I64), "a guest address is i32 or i64")
        }
        _ => Ok(()),
    }
}

/// Type rules of one instruction.
#[expect(clippy::too_many_lines, reason = "one arm a row of the op table")]
pub(crate) fn inst(r: &Region, t: Tables<'_>, i: &Inst) -> Rule {
    const SAME: &str = "operands have the type of the result";
    let of = |v: Value| r.insts.get(v.index()).map_or(Type::Void, |i| i.ty);
    let (ty, ta, tb, tc) = (i.ty, of(i.a), of(i.b), of(i.c));
    let void = |x: Type| need(x == Type::Void, "the operation has no result");
    let int = |x: Type| need(x.is_int(), "an integer type is asked for");
    let float = |x: Type| need(x.is_float(), "a float type is asked for");
    let address = |x: Type| need(matches!(x, Type::I32 | Type::I64), "an address is i32 or i64");
    if is_vector(i.op) {
        return vector(i, ty, ta, tb, tc);
    }
    match i.op {
        Op::Nop | Op::Budget | Op::Insn => void(ty),
        Op::Const => {
            need(ty.is_int() || ty.is_float(), "a constant is an integer or a float")?;
            need(i.imm & !ty.mask() == 0, "a constant fits its type")
        }
        Op::Pc => {
            address(ty)?;
            need(i.imm & !ty.mask() == 0, "a constant fits its type")
        }
        Op::Get => need(slot_type(t, i.slot()) == Some(ty), "the slot exists and has this type"),
        Op::Set => {
            void(ty)?;
            need(slot_type(t, i.slot()) == Some(ta), "the slot exists and has the operand's type")
        }
        Op::Add
        | Op::Sub
        | Op::Mul
        | Op::Mulhu
        | Op::Mulhs
        | Op::Mulhsu
        | Op::Divu
        | Op::Divs
        | Op::Remu
        | Op::Rems
        | Op::And
        | Op::Or
        | Op::Xor
        | Op::Andc
        | Op::Orc
        | Op::Eqv
        | Op::Shl
        | Op::Shr
        | Op::Sar
        | Op::Rotl
        | Op::Rotr
        | Op::Clmul
        | Op::Clmulh => {
            int(ty)?;
            need(ta == ty && tb == ty, SAME)
        }
        Op::Not | Op::Neg | Op::Clz | Op::Ctz | Op::Popcnt | Op::Bswap => {
            int(ty)?;
            need(ta == ty, SAME)
        }
        Op::Trunc => {
            int(ty)?;
            int(ta)?;
            need(ta.bits() > ty.bits(), "`trunc` makes an integer narrower")
        }
        Op::Zext | Op::Sext => {
            int(ty)?;
            int(ta)?;
            need(ta.bits() < ty.bits(), "an extension makes an integer wider")
        }
        Op::Extract | Op::Sextract | Op::Deposit => {
            int(ty)?;
            need(ta == ty && (i.op != Op::Deposit || tb == ty), SAME)?;
            let (pos, len) = ((i.imm & 0xff) as u32, (i.imm >> 8 & 0xff) as u32);
            need(len > 0 && pos + len <= ty.bits() && i.imm >> 16 == 0, "a bit field lies inside the width")
        }
        Op::Setcc => {
            int(ty)?;
            int(ta)?;
            need(ta == tb, "operands have one type")?;
            need(i.sub <= Cond::TestNz as u16, "the condition is one of comparisons")
        }
        Op::Select => {
            int(ta)?;
            need(ty != Type::Void && tb == ty && tc == ty, SAME)
        }
        Op::Bitcast => need(
            ty != ta
                && ty.bytes() == ta.bytes()
                && ty != Type::Flags
                && ta != Type::Flags
                && ty != Type::Void,
            "`bitcast` goes between different types of one size",
        ),
        Op::Concat => need(ty == Type::I128 && ta == Type::I64 && tb == Type::I64, "i128 from two i64"),
        Op::Flags => {
            need(ty == Type::Flags, "the result is a flag record")?;
            let w = Type::ALL.get((i.sub >> 8) as usize).copied().unwrap_or(Type::Void);
            need(w.is_int() && w.bytes() <= 8, "a flag record is of i8 to i64")?;
            need(ta == w && tb == w && tc == w, "operands have the type of the record")?;
            need((i.sub & 0xff) < crate::FlagKind::ALL.len() as u16, "the kind of the record exists")
        }
        Op::FlagCond => {
            int(ty)?;
            need(ta == Type::Flags, "the operand is a flag record")?;
            let ok =
                i.sub <= Cond::ParO as u16 && !matches!(Cond::from_bits(i.sub), Cond::TestZ | Cond::TestNz);
            need(ok, "the condition is one of flag records")
        }
        Op::FlagGet => {
            need(ta == Type::Flags, "the operand is a flag record")?;
            need(matches!(ty, Type::I32 | Type::I64), "the result is i32 or i64")
        }
        Op::Fadd | Op::Fsub | Op::Fmul | Op::Fdiv | Op::Fsqrt | Op::Fma | Op::Fmin | Op::Fmax | Op::Frint => {
            float(ty)?;
            let n = i.op.info().args;
            need(ta == ty && (n < 2 || tb == ty) && (n < 3 || tc == ty), SAME)?;
            fp_attr(i.op, FpAttr(i.sub))
        }
        Op::Fcmp => {
            int(ty)?;
            float(ta)?;
            need(ta == tb, "operands have one type")?;
            fp_attr(i.op, FpAttr(i.sub))
        }
        Op::Fcvt => {
            float(ty)?;
            float(ta)?;
            need(ta != ty, "a conversion changes the type")?;
            fp_attr(i.op, FpAttr(i.sub))
        }
        Op::Ftoi => {
            need(matches!(ty, Type::I32 | Type::I64), "the integer is i32 or i64")?;
            float(ta)?;
            fp_attr(i.op, FpAttr(i.sub))
        }
        Op::Itof => {
            need(matches!(ta, Type::I32 | Type::I64), "the integer is i32 or i64")?;
            float(ty)?;
            fp_attr(i.op, FpAttr(i.sub))
        }
        Op::Fneg | Op::Fabs => {
            float(ty)?;
            need(ta == ty, SAME)
        }
        Op::Fsgnj => {
            float(ty)?;
            need(ta == ty && tb == ty, SAME)?;
            need(i.sub < 3, "the sign rule is 0, 1 or 2")
        }
        Op::Fbox => need(ty == Type::F64 && matches!(ta, Type::F16 | Type::F32), "f64 from f16 or f32"),
        Op::Funbox => need(ta == Type::F64 && matches!(ty, Type::F16 | Type::F32), "f16 or f32 from f64"),
        Op::Fexget => need(ty == Type::I32, "exceptions are i32"),
        Op::Fexset => {
            void(ty)?;
            need(ta == Type::I32, "exceptions are i32")
        }
        Op::Load => {
            address(ta)?;
            access(i, ty)
        }
        Op::Store => {
            void(ty)?;
            address(ta)?;
            need(!i.memop().signed(), "only what reads extends a sign")?;
            access(i, tb)
        }
        Op::Rmw | Op::Cas => {
            address(ta)?;
            int(ty)?;
            need(tb == ty && (i.op == Op::Rmw || tc == ty), SAME)?;
            need(i.op != Op::Rmw || i.sub < crate::RmwOp::ALL.len() as u16, "the atomic operation exists")?;
            access(i, ty)
        }
        Op::Fence => {
            void(ty)?;
            need(i.sub < 16, "a fence has four bits")
        }
        Op::Call => {
            let Some(h) = t.helpers.get(i.sub as usize) else { return Err("the helper exists") };
            need(i.b.0 == u32::from(h.args) && h.args <= 4, "a call has the helper's number of operands")?;
            need(ty == h.result, "a call has the helper's result type")?;
            let scalar = |x: Type| (x.is_int() || x.is_float()) && x.bytes() <= 8;
            need(ty == Type::Void || scalar(ty), "a helper's result has at most 64 bits")?;
            need(r.operands(i).all(|v| scalar(of(v))), "a helper's operands have at most 64 bits")
        }
        _ => Err("the operation has a rule"),
    }
}

fn slot_type(t: Tables<'_>, slot: SlotId) -> Option<Type> {
    t.slots.all().get(slot.0 as usize).map(|s| s.ty)
}

/// Size of an access against the type of the value moved.
fn access(i: &Inst, ty: Type) -> Rule {
    let m = i.memop();
    need(m.log2() <= 6, "an access has at most 64 bytes")?;
    if ty.is_int() {
        need(m.bytes() <= ty.bytes(), "an access is not wider than its integer")
    } else {
        need(ty != Type::Void && ty != Type::Flags, "a float, vector or integer is moved")?;
        need(m.bytes() == ty.bytes() && !m.signed(), "a float or vector is moved whole and not extended")
    }
}

fn fp_attr(op: Op, a: FpAttr) -> Rule {
    need(a.0 & 7 < Rounding::ALL.len() as u16, "the rounding exists")?;
    need(a.0 >> 3 & 7 < crate::NanPolicy::ALL.len() as u16, "the NaN policy exists")?;
    let variants = match op {
        Op::Fmin | Op::Fmax | Op::Vfmin | Op::Vfmax => MinMax::ALL.len(),
        Op::Ftoi | Op::Vftoi => IntConv::ALL.len(),
        _ => 4,
    };
    need(fp_mask(op) & 3 << 12 == 0 || a.variant() < variants as u16, "the variant exists")
}

fn vector(i: &Inst, ty: Type, ta: Type, tb: Type, tc: Type) -> Rule {
    const SAME: &str = "operands have the type of the result";
    let need_lane = (i.sub & 0xff) < Lane::ALL.len() as u16;
    need(need_lane, "the lane exists")?;
    let lane = Lane::from_bits(i.sub & 0xff);
    let float_lane = matches!(lane, Lane::F32 | Lane::F64);
    let scalar = |x: Type| {
        x.is_int() && x.bytes() >= lane.bytes() && x.bytes() <= 8 || x.is_float() && x.bytes() == lane.bytes()
    };
    if i.op == Op::Vextract {
        need(ta.is_vector() && scalar(ty), "a scalar that holds the lane, from a vector")?;
        return need(i.imm < (ta.bytes() / lane.bytes()) as u64, "the lane number is inside the vector");
    }
    if matches!(i.op, Op::Vbits | Op::Vreduce) {
        need(ta.is_vector() && ty.is_int() && ty.bytes() <= 8, "an integer from a vector")?;
        need(!float_lane, "integer lanes are asked for")?;
        if i.op == Op::Vbits {
            return need(
                ty.bits() as usize >= ta.bytes() / lane.bytes(),
                "the integer has a bit for each lane",
            );
        }
        let kind = i.sub >> 8;
        need(kind != 0 && kind < crate::RmwOp::ALL.len() as u16, "the combination exists")?;
        return need(ty.bytes() >= lane.bytes(), "the integer holds the lane");
    }
    need(ty.is_vector(), "the result is a vector")?;
    let n = i.op.info().args;
    let same = ta == ty && (n < 2 || tb == ty) && (n < 3 || tc == ty);
    match i.op {
        Op::Vsplat => return need(scalar(ta), "the operand is a scalar that holds the lane"),
        Op::Vinsert => {
            need(ta == ty && scalar(tb), "a vector and a scalar that holds the lane")?;
            return need(i.imm < (ty.bytes() / lane.bytes()) as u64, "the lane number is inside the vector");
        }
        Op::Vmask => {
            need(!float_lane, "integer lanes are asked for")?;
            return need(ta.is_int() && ta.bytes() <= 8, "the operand is an integer");
        }
        Op::Vwiden => {
            need(matches!(lane, Lane::I16 | Lane::I32 | Lane::I64), "the lane has a half")?;
            need(i.sub >> 8 < 4, "a half and a signedness")?;
        }
        Op::Vnarrow => need(matches!(lane, Lane::I8 | Lane::I16 | Lane::I32), "the lane has a double")?,
        Op::Vjoin => {
            return need(
                ta == tb && ta.is_vector() && ty.bytes() == 2 * ta.bytes(),
                "two halves of the result",
            );
        }
        Op::Vpart => {
            need(ta.is_vector() && ta.bytes() > ty.bytes(), "the operand is a wider vector")?;
            return need(i.imm < (ta.bytes() / ty.bytes()) as u64, "the part lies inside the operand");
        }
        Op::Vfn1 | Op::Vfn2 | Op::Vfn3 => {
            need(i.sub >> 8 < crate::VecFn::ALL.len() as u16, "the function exists")?;
            let f = crate::VecFn::from_bits(i.sub >> 8);
            need(f.args() == n, "the function has the operation's number of operands")?;
            need(f.scope().allows(ty), "the function exists for the type")?;
            need(i.imm < 256, "the immediate is a byte")?;
        }
        Op::Vand | Op::Vor | Op::Vxor | Op::Vandc | Op::Vnot | Op::Vselect | Op::Vtbl => {}
        Op::Vcmp => {
            need(i.sub >> 8 <= Cond::TestNz as u16, "the condition is one of comparisons")?;
            need(!float_lane, "integer lanes are asked for")?;
        }
        op if op.info().effect == Effect::Fp => {
            need(float_lane, "float lanes are asked for")?;
            fp_attr(op, FpAttr(i.imm as u16))?;
        }
        Op::Vshli | Op::Vshri | Op::Vsari => {
            need(!float_lane, "integer lanes are asked for")?;
            need(i.imm < lane.bytes() as u64 * 8, "the count is below the lane's width")?;
        }
        _ => need(!float_lane, "integer lanes are asked for")?,
    }
    need(same, SAME)
}

/// Whatever may leave has one instruction mark in force.
fn marks(r: &Region, t: Tables<'_>, graph: &Graph) -> Result<(), VerifyError> {
    let entry = graph.entry_marks(r);
    for &b in graph.order() {
        let block = &r.blocks[b.0 as usize];
        let mut mark = entry[b.0 as usize];
        for &v in &block.insts {
            let i = r.inst(v);
            if i.op == Op::Insn {
                mark = Some(v);
            } else if mark.is_none() && may_leave(i, t) {
                let rule = "what may leave stands behind one `insn` mark, the same on every path";
                return Err(at_inst(r, t, b.0 as usize, v, rule));
            }
        }
    }
    Ok(())
}
