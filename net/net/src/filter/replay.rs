//! `filter-replay`: where frames are recorded, and given back in a replay (QEMU's `-icount rr=`). Where nothing is recorded or
//! replayed, as here always, frames pass.

use super::{Direction, Filter, Verdict};

/// Lets everything pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReplayFilter;

impl Filter for ReplayFilter {
    fn frame(&self, _direction: Direction, _frame: &[u8], _header: usize) -> Verdict {
        Verdict::Pass
    }
}
