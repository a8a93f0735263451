//! `flags`: a condition asked of a flag record that is at hand becomes a comparison of the record's operands.
//!
//! The record itself goes away in `dce` if its slot is overwritten unread (`deadset`).

use super::Scratch;
use crate::{Cond, FlagKind, Inst, Op, Region, Tables, Value};

pub(super) fn run(r: &mut Region, _: &mut Scratch, _: Tables<'_>) -> bool {
    for block in &r.blocks {
        for &v in &block.insts {
            let i = r.insts[v.index()];
            if i.op == Op::FlagCond
                && let Some(new) = fuse(r, &i)
            {
                r.insts[v.index()] = new;
            }
        }
    }
    false
}

fn fuse(r: &Region, i: &Inst) -> Option<Inst> {
    let record = r.inst(i.a);
    if record.op != Op::Flags {
        return None;
    }
    let cond = Cond::from_bits(i.sub);
    let compare =
        |cond: Cond, a, b| Some(Inst { op: Op::Setcc, sub: cond as u16, a, b, c: Value::NONE, ..*i });
    let constant = |n: u64| {
        Some(Inst { op: Op::Const, sub: 0, a: Value::NONE, b: Value::NONE, c: Value::NONE, imm: n, ..*i })
    };
    let zero = || [record.b, record.c].into_iter().find(|v| r.as_const(*v) == Some(0));
    match (FlagKind::from_bits(record.sub & 0xff), cond) {
        (
            FlagKind::Sub,
            Cond::Eq
            | Cond::Ne
            | Cond::Lt
            | Cond::Ge
            | Cond::Le
            | Cond::Gt
            | Cond::Ltu
            | Cond::Geu
            | Cond::Leu
            | Cond::Gtu,
        ) => compare(cond, record.a, record.b),
        // C and V are clear, so the order is that of `a` and 0.
        (FlagKind::Logic, Cond::Eq | Cond::Leu) => compare(Cond::TestZ, record.a, record.a),
        (FlagKind::Logic, Cond::Ne | Cond::Gtu) => compare(Cond::TestNz, record.a, record.a),
        (FlagKind::Logic, Cond::Ltu | Cond::Ov) => constant(0),
        (FlagKind::Logic, Cond::Geu | Cond::NoOv) => constant(1),
        (FlagKind::Logic, Cond::Lt | Cond::Neg) => compare(Cond::Lt, record.a, zero()?),
        (FlagKind::Logic, Cond::Ge | Cond::Pos) => compare(Cond::Ge, record.a, zero()?),
        (FlagKind::Logic, Cond::Le | Cond::Gt) => compare(cond, record.a, zero()?),
        _ => None,
    }
}
