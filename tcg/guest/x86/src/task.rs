//! Task switches (SDM volume 3, chapter 8).

use tcg_engine::{Cx, Trap};

use crate::{
    exceptions::{self, vector},
    guest::X86,
};

/// A task gate in the interrupt table.
pub(crate) fn through_gate(_: &mut Cx<'_, X86>, selector: u16, _: Option<u16>, ext: u16) -> Result<(), Trap> {
    Err(exceptions::with_error(vector::TS, selector & !3 | ext))
}
