//! `cse`: an operation that was computed before, in this block or one before it in its extended block, is not computed
//! again. (A value that crosses a join costs the back end more than most operations: it goes through memory.)
//!
//! A direct-mapped table from the hash of an instruction to the last value that had it; nothing is lost but speed when
//! entries collide. Constants are shared inside a block only: between blocks they are cheaper to make than to keep.
//! Operations that raise exceptions are shared inside a block only, while nobody writes the sticky exceptions.

use super::{NOP, Scratch, filled, resolve, resolve_end};
use crate::print::is_vector;
use crate::{BlockId, Effect, Effects, FpAttr, Inst, Op, Region, Tables, Type, Value};

/// Most entries of the table; a small region gets a small one.
const MOST: usize = 1024;
const EMPTY: u32 = u32::MAX;

fn hash(i: &Inst) -> usize {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    let head = i.op as u64 | (i.ty as u64) << 8 | u64::from(i.sub) << 16 | u64::from(i.c.0) << 32;
    let args = u64::from(i.a.0) | u64::from(i.b.0) << 32;
    let h = (head.wrapping_mul(K) ^ args).rotate_left(23).wrapping_mul(K) ^ i.imm;
    (h.wrapping_mul(K) >> 48) as usize
}

pub(super) fn run(r: &mut Region, s: &mut Scratch, t: Tables<'_>) -> bool {
    s.reset_repl(r.insts.len());
    let Scratch { graph, repl, words: home, table, .. } = s;
    let entries = r.insts.len().next_power_of_two().clamp(32, MOST);
    let table = filled(table, entries, EMPTY);
    if home.len() < r.insts.len() {
        home.resize(r.insts.len(), 0);
    }
    // What raises is shared within a stretch: a block, up to a write of the exceptions. `home` holds the block of a
    // pure value and the stretch of one that raises.
    let mut stretch = 0;
    let mut replaced = false;
    for &b in graph.order() {
        let at = b.0 as usize;
        stretch += 1;
        for k in r.blocks[at].params as usize..r.blocks[at].insts.len() {
            let v = r.blocks[at].insts[k];
            if replaced {
                resolve(r, repl, v);
            }
            let i = &r.insts[v.index()];
            let raises = match i.op.info().effect {
                Effect::Pure if i.op != Op::Nop => false,
                Effect::Fp => !FpAttr(if is_vector(i.op) { i.imm as u16 } else { i.sub }).quiet(),
                Effect::FpState if i.ty == Type::Void => {
                    stretch += 1;
                    continue;
                }
                Effect::Call => {
                    let fp = |h: &crate::HelperDesc| h.effects.contains(Effects::FP);
                    stretch += u32::from(t.helpers.get(i.sub as usize).is_none_or(fp));
                    continue;
                }
                _ => continue,
            };
            home[v.index()] = if raises { stretch } else { b.0 };
            let entry = &mut table[hash(i) & (entries - 1)];
            let old = Value(*entry);
            *entry = v.0;
            if old.0 == EMPTY || r.insts[old.index()] != *i {
                continue;
            }
            let shared = if raises {
                home[old.index()] == stretch
            } else {
                let from = BlockId(home[old.index()]);
                from == b || !matches!(i.op, Op::Const | Op::Pc) && graph.extends(from, b)
            };
            if shared {
                *entry = old.0;
                repl[v.index()] = old;
                r.insts[v.index()] = NOP;
                replaced = true;
            }
        }
        if replaced {
            resolve_end(r, repl, at);
        }
    }
    false
}
