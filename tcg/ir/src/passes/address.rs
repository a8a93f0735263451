//! `address`: a constant added to an address moves into the displacement of the access.
//!
//! Exact because the sum wraps in the address's own width. A displacement has 32 bits; what does not fit stays an
//! addition.

use super::Scratch;
use crate::{Effect, Op, Region, Tables, Type};

pub(super) fn run(r: &mut Region, _: &mut Scratch, _: Tables<'_>) -> bool {
    for block in &r.blocks {
        for &v in &block.insts {
            let i = r.insts[v.index()];
            if matches!(i.op.info().effect, Effect::Load | Effect::Store)
                && let Some((base, disp)) = split(r, &i)
            {
                let i = &mut r.insts[v.index()];
                i.a = base;
                i.imm = i.imm & 0xffff_ffff | u64::from(disp as u32) << 32;
            }
        }
    }
    false
}

/// Base and displacement with all constants of the address in the displacement, if there are any.
fn split(r: &Region, i: &crate::Inst) -> Option<(crate::Value, i32)> {
    let (mut base, mut disp) = (i.a, i.disp());
    let mut found = false;
    // `fold` leaves chains of one; a few more are possible without it.
    for _ in 0..4 {
        let a = r.inst(base);
        if a.op != Op::Add {
            break;
        }
        let Some(c) = r.as_const(a.b) else { break };
        let sum = if a.ty == Type::I32 {
            Some(disp.wrapping_add(c as u32 as i32))
        } else {
            (c as i64).checked_add(i64::from(disp)).and_then(|d| i32::try_from(d).ok())
        };
        let Some(sum) = sum else { break };
        (base, disp, found) = (a.a, sum, true);
    }
    found.then_some((base, disp))
}
