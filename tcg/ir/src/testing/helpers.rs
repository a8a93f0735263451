#![expect(unsafe_code, reason = "helper entry points get the environment as a raw pointer, by the ABI")]
//! Helpers with every kind of effect, callable by the interpreter and by generated code alike.

use std::ffi::c_void;

use super::STATE_BYTES;
use crate::abi::STATE_OFFSET;
use crate::{Effects, HelperDesc, HelperId, HelperResult, SlotId, SlotSet, Type};

/// Status of a helper that failed.
pub const HELPER_STATUS_FAULT: u64 = 1;
/// Status of a helper that asks to leave.
pub const HELPER_STATUS_EXIT: u64 = 2;

// Slots of `testing::slots` by number: `pc` is 0, `x0` 1, `sys` 9.
const X1: SlotId = SlotId(2);
const X2: SlotId = SlotId(3);
const SYS: SlotId = SlotId(9);

fn word(state: &[u8], slot: SlotId) -> u64 {
    let at = slot.0 as usize * 8;
    state.get(at..at + 8).and_then(|s| s.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn set_word(state: &mut [u8], slot: SlotId, v: u64) {
    let at = slot.0 as usize * 8;
    if let Some(s) = state.get_mut(at..at + 8) {
        s.copy_from_slice(&v.to_le_bytes());
    }
}

/// Calls helper `id` on a state structure; a number outside the table fails.
#[must_use]
pub fn call(id: HelperId, state: &mut [u8], args: &[u64]) -> HelperResult {
    let arg = |i: usize| args.get(i).copied().unwrap_or(0);
    let ok = |value| HelperResult { value, status: 0 };
    match id.0 {
        0 => ok(arg(0).rotate_left(7) ^ arg(1).wrapping_mul(0x9e37_79b9)),
        1 => ok(word(state, X1).wrapping_add(arg(0))),
        2 => {
            set_word(state, X2, arg(0) ^ arg(1));
            set_word(state, SYS, arg(2));
            ok(0)
        }
        3 if arg(0) & 7 == 0 => HelperResult { value: 0, status: HELPER_STATUS_FAULT },
        3 => ok(arg(0) ^ arg(1) ^ arg(2) ^ arg(3)),
        4 => {
            let sum = (0..9).fold(0, |s: u64, i| s.wrapping_add(word(state, SlotId(i))));
            set_word(state, SYS, sum);
            let status = if arg(0) & 7 == 0 { HELPER_STATUS_EXIT } else { 0 };
            HelperResult { value: sum, status }
        }
        _ => HelperResult { value: 0, status: HELPER_STATUS_FAULT },
    }
}

macro_rules! entries {
    ($($name:ident $id:literal;)*) => {$(
        extern "C" fn $name(env: *mut c_void, a: u64, b: u64, c: u64, d: u64) -> HelperResult {
            // SAFETY: generated code passes the environment it runs on, which holds the state structure of
            // `testing::slots` at `STATE_OFFSET` and which nothing else refers to during the call.
            let state = unsafe {
                std::slice::from_raw_parts_mut(env.cast::<u8>().add(STATE_OFFSET), STATE_BYTES)
            };
            call(HelperId($id), state, &[a, b, c, d])
        }
    )*};
}

entries! {
    mix 0;
    peek 1;
    poke 2;
    trap 3;
    leave 4;
}

/// The helper table: a pure one, a reader, a writer, one that raises, one that reads all and asks to leave.
#[must_use]
pub fn helpers() -> Vec<HelperDesc> {
    let row = |name, entry, args, result, reads, writes, effects| HelperDesc {
        name,
        entry,
        args,
        result,
        reads,
        writes,
        effects,
    };
    let (none, i64) = (SlotSet::None, Type::I64);
    vec![
        row("mix", mix, 2, i64, none, none, Effects::PURE),
        row("peek", peek, 1, i64, SlotSet::Only(&[X1]), none, Effects::empty()),
        row("poke", poke, 3, Type::Void, none, SlotSet::Only(&[X2, SYS]), Effects::empty()),
        row("trap", trap, 4, i64, none, none, Effects::RAISES),
        row("leave", leave, 1, i64, SlotSet::All, SlotSet::Only(&[SYS]), Effects::EXITS),
    ]
}
