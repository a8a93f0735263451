//! `fold`: operations on constants are computed, and operations the algebra makes simpler become that (`simplify`).
//!
//! Constants are made by the interpreter, so they are what the operation gives by definition. A `pc` is no constant: it
//! moves with the code. Floating-point arithmetic is left to run time, where its exceptions are raised.

use super::simplify::{Rewrite, simplify};
use super::{NOP, Scratch, resolve, resolve_end};
use crate::{Cond, Effect, Inst, Op, Region, Tables, Type, Value, interp};

/// Rewrites of one instruction: each makes it simpler, so few are needed.
const ROUNDS: usize = 6;

pub(super) fn run(r: &mut Region, s: &mut Scratch, _: Tables<'_>) -> bool {
    s.reset_repl(r.insts.len());
    let Scratch { graph, repl, out, .. } = s;
    let mut replaced = false;
    for &b in graph.order() {
        let at = b.0 as usize;
        out.clear();
        for k in 0..r.blocks[at].insts.len() {
            let v = r.blocks[at].insts[k];
            if k < r.blocks[at].params as usize {
                out.push(v);
                continue;
            }
            if replaced {
                resolve(r, repl, v);
            }
            let i = &r.insts[v.index()];
            if i.op.info().effect != Effect::Pure || i.op.info().args == 0 {
                if i.op != Op::Nop {
                    out.push(v);
                }
            } else if rewrite(r, repl, out, v) {
                out.push(v);
            } else {
                replaced = true;
            }
        }
        std::mem::swap(&mut r.blocks[at].insts, out);
        if replaced {
            resolve_end(r, repl, at);
        }
    }
    false
}

/// Simplifies pure instruction `v`; false if another value stands for it now.
fn rewrite(r: &mut Region, repl: &mut Vec<Value>, out: &mut Vec<Value>, v: Value) -> bool {
    for _ in 0..ROUNDS {
        let i = order(r, r.insts[v.index()]);
        let new = match constant(r, &i) {
            Some(c) => Rewrite::Const(c),
            None => simplify(r, &i),
        };
        let none = Value::NONE;
        let new = match new {
            Rewrite::Same => {
                r.insts[v.index()] = i;
                return true;
            }
            Rewrite::Is(x) => {
                repl[v.index()] = x;
                r.insts[v.index()] = NOP;
                return false;
            }
            Rewrite::Const(c) => Inst { op: Op::Const, sub: 0, a: none, b: none, c: none, imm: c, ..i },
            Rewrite::Op(new) => new,
            Rewrite::OpConst(new, c) => {
                let ty = r.inst(new.a).ty;
                let at = Value(r.insts.len() as u32);
                let imm = c & ty.mask();
                r.insts.push(Inst { op: Op::Const, ty, sub: 0, a: none, b: none, c: none, imm });
                repl.push(at);
                out.push(at);
                Inst { b: at, ..new }
            }
        };
        r.insts[v.index()] = new;
        if matches!(new.op, Op::Const | Op::Pc) {
            break;
        }
    }
    true
}

/// The constant operand last where the order is free.
fn order(r: &Region, mut i: Inst) -> Inst {
    let commutes = matches!(
        i.op,
        Op::Add | Op::Mul | Op::Mulhu | Op::Mulhs | Op::And | Op::Or | Op::Xor | Op::Eqv | Op::Setcc
    );
    if commutes && r.inst(i.a).op == Op::Const && r.inst(i.b).op != Op::Const {
        (i.a, i.b) = (i.b, i.a);
        if i.op == Op::Setcc {
            i.sub = Cond::from_bits(i.sub).swap() as u16;
        }
    }
    i
}

/// The value of an operation whose operands are all constants of at most 64 bits.
fn constant(r: &Region, i: &Inst) -> Option<u64> {
    let args = [i.a, i.b, i.c];
    let n = i.op.info().args as usize;
    // The last operand is the likeliest constant: see `order`.
    if r.inst(args[n - 1]).op != Op::Const {
        return if matches!(i.op, Op::FlagCond | Op::FlagGet) { record(r, i) } else { None };
    }
    let mut values = [0; 3];
    for (value, v) in values.iter_mut().zip(args).take(n) {
        let d = r.inst(v);
        if d.op != Op::Const || d.ty.bytes() > 8 {
            return None;
        }
        *value = d.imm;
    }
    if i.ty.is_vector() || i.ty == Type::Flags {
        return None;
    }
    interp::scalar(i, r.inst(i.a).ty, values[0], values[1], values[2])
}

/// What is asked of a flag record of constants.
fn record(r: &Region, i: &Inst) -> Option<u64> {
    let f = r.inst(i.a);
    if f.op != Op::Flags {
        return None;
    }
    let words = [u64::from(f.sub), r.as_const(f.a)?, r.as_const(f.b)?, r.as_const(f.c)?];
    let bits = interp::flag_bits(&words);
    Some(if i.op == Op::FlagGet { bits } else { u64::from(interp::flag_holds(Cond::from_bits(i.sub), bits)) })
}
