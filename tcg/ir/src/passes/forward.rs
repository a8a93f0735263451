//! `forward`: a `get` becomes the value the slot is known to hold; a `set` of what the slot holds goes away.
//!
//! Known values flow into blocks with one predecessor. Where paths join nothing is known: there a back end has the slots
//! in fixed places, and a value of another path would need a place of its own besides.

use super::{NOP, Scratch, filled, resolve, resolve_end};
use crate::{Op, Region, SlotSet, Tables, Value};

pub(super) fn run(r: &mut Region, s: &mut Scratch, t: Tables<'_>) -> bool {
    let slots = t.slots.len();
    let blocks = r.blocks.len();
    s.reset_repl(r.insts.len());
    let Scratch { graph, repl, slot_values: known, block_slots: entry, .. } = s;
    let known = filled(known, slots, Value::NONE);
    if blocks > 1 && entry.len() < blocks * slots {
        entry.resize(blocks * slots, Value::NONE);
    }
    for &b in graph.order() {
        let at = b.0 as usize;
        if !asks(r, at) {
            resolve_end(r, repl, at);
            continue;
        }
        if at != 0 && graph.preds(b) == 1 {
            known.copy_from_slice(&entry[at * slots..(at + 1) * slots]);
        } else {
            known.fill(Value::NONE);
        }
        let block = &r.blocks[at];
        for k in block.params as usize..block.insts.len() {
            let v = r.blocks[at].insts[k];
            resolve(r, repl, v);
            let i = &mut r.insts[v.index()];
            match i.op {
                Op::Get => {
                    let held = &mut known[i.sub as usize];
                    if *held == Value::NONE {
                        *held = v;
                    } else {
                        repl[v.index()] = *held;
                        *i = NOP;
                    }
                }
                Op::Set => {
                    let held = &mut known[i.sub as usize];
                    if *held == i.a {
                        *i = NOP;
                    } else {
                        *held = i.a;
                    }
                }
                Op::Call => match t.helpers.get(i.sub as usize).map_or(SlotSet::All, |h| h.writes) {
                    SlotSet::None => {}
                    SlotSet::Only(list) => {
                        for slot in list {
                            known[slot.0 as usize] = Value::NONE;
                        }
                    }
                    SlotSet::All => known.fill(Value::NONE),
                },
                _ => {}
            }
        }
        resolve_end(r, repl, at);
        for e in r.blocks[at].end.iter().flat_map(|t| t.edges()) {
            let to = e.block.0 as usize;
            if graph.preds(e.block) == 1 && asks(r, to) {
                entry[to * slots..(to + 1) * slots].copy_from_slice(known);
            }
        }
    }
    false
}

/// False for a side exit, which has nothing in it.
fn asks(r: &Region, b: usize) -> bool {
    let block = &r.blocks[b];
    !block.insts.is_empty() || block.end.iter().any(|t| t.edges().next().is_some())
}
