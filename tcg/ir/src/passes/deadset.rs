//! `deadset`: a `set` that is overwritten in its block before anything can look goes away.
//!
//! What looks: a `get`, a helper that reads the slot, whatever may leave the unit, the end of the block. `link` and
//! `indirect` write the pc slot themselves.

use super::{NOP, Scratch, filled};
use crate::verify::may_leave;
use crate::{Op, Region, SlotSet, Tables, Terminator};

pub(super) fn run(r: &mut Region, s: &mut Scratch, t: Tables<'_>) -> bool {
    // A slot whose stamp is `now` will be overwritten unseen.
    let stamps = filled(&mut s.stamps, t.slots.len(), 0);
    let mut now = 0;
    for block in &r.blocks {
        now += 1;
        if matches!(block.end, Some(Terminator::Link { .. } | Terminator::Indirect { .. }))
            && let Some(pc) = stamps.get_mut(t.slots.pc().0 as usize)
        {
            *pc = now;
        }
        for &v in block.insts.iter().rev() {
            let i = &mut r.insts[v.index()];
            match i.op {
                Op::Set => {
                    let stamp = &mut stamps[i.sub as usize];
                    if *stamp == now {
                        *i = NOP;
                    } else {
                        *stamp = now;
                    }
                }
                Op::Get => stamps[i.sub as usize] = 0,
                _ if may_leave(i, t) => now += 1,
                Op::Call => match t.helpers.get(i.sub as usize).map_or(SlotSet::All, |h| h.reads) {
                    SlotSet::None => {}
                    SlotSet::Only(list) => {
                        for slot in list {
                            stamps[slot.0 as usize] = 0;
                        }
                    }
                    SlotSet::All => now += 1,
                },
                _ => {}
            }
        }
    }
    false
}
