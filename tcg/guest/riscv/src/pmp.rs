//! Physical memory protection (volume II, 3.7). Granularity is 4 bytes.

use tcg_engine::Access;

use crate::{
    cpu::Cpu,
    state::{Hart, M},
};

const R: u8 = 1;
const W: u8 = 2;
const X: u8 = 4;
/// The entry also binds M and cannot be written until reset.
pub const LOCKED: u8 = 0x80;

/// What an aligned range of physical memory allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    /// Loads.
    pub read: bool,
    /// Stores.
    pub write: bool,
    /// Fetches.
    pub exec: bool,
    /// One answer for all of the range; if not, the answer is that of its first byte.
    pub uniform: bool,
}

impl Rights {
    const ALL: Self = Self { read: true, write: true, exec: true, uniform: true };
    const NONE: Self = Self { read: false, write: false, exec: false, uniform: true };

    /// True if `access` is allowed.
    #[must_use]
    pub const fn allow(self, access: Access) -> bool {
        match access {
            Access::Load => self.read,
            Access::Store => self.write,
            Access::Fetch => self.exec,
        }
    }
}

/// First and last byte of an entry; `None` if it is off or empty.
fn range(hart: &Hart, n: usize) -> Option<(u64, u64)> {
    let addr = hart.pmpaddr[n];
    match hart.pmpcfg[n] >> 3 & 3 {
        1 => {
            let low = if n == 0 { 0 } else { hart.pmpaddr[n - 1] << 2 };
            let end = addr << 2;
            (low < end).then(|| (low, end - 1))
        }
        2 => Some((addr << 2, (addr << 2) + 3)),
        3 => {
            // Low ones give the size: 8 bytes with none of them.
            let ones = (addr | 1 << 54).trailing_ones();
            let span = 8_u64 << ones;
            let low = (addr & !((1 << ones) - 1)) << 2;
            Some((low, low.wrapping_add(span - 1)))
        }
        _ => None,
    }
}

/// What `len` bytes at `gpa` (a power of two, aligned) allow at `privilege`; `at` is the byte meant if they differ.
#[must_use]
pub fn rights(cpu: &Cpu, hart: &Hart, gpa: u64, len: u64, at: u64, privilege: u8) -> Rights {
    if cpu.pmp == 0 {
        return Rights::ALL;
    }
    let last = gpa + (len - 1);
    let mut uniform = true;
    for n in 0..cpu.pmp {
        let Some((low, high)) = range(hart, n) else { continue };
        if high < gpa || low > last {
            continue;
        }
        let covers = low <= gpa && last <= high;
        uniform &= covers;
        if covers || low <= at && at <= high {
            let cfg = hart.pmpcfg[n];
            if privilege == M && cfg & LOCKED == 0 {
                return Rights { uniform, ..Rights::ALL };
            }
            return Rights { read: cfg & R != 0, write: cfg & W != 0, exec: cfg & X != 0, uniform };
        }
    }
    if privilege == M { Rights { uniform, ..Rights::ALL } } else { Rights { uniform, ..Rights::NONE } }
}

/// `pmpcfg` byte `n` as it is after a write of `value`.
pub fn write_cfg(hart: &mut Hart, n: usize, value: u8) {
    if hart.pmpcfg[n] & LOCKED != 0 {
        return;
    }
    // W without R is reserved: the old rights stay.
    let value = if value & (R | W) == W { value & !W } else { value };
    hart.pmpcfg[n] = value & (LOCKED | 0x1f);
}

/// `pmpaddr` of entry `n`; a locked TOR entry locks its lower bound too.
pub fn write_addr(hart: &mut Hart, n: usize, value: u64) {
    let locked = hart.pmpcfg[n] & LOCKED != 0;
    let above = hart.pmpcfg.get(n + 1).is_some_and(|c| c & LOCKED != 0 && c >> 3 & 3 == 1);
    if !locked && !above {
        hart.pmpaddr[n] = value & ((1 << 54) - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{S, U};

    fn setup(entries: &[(u8, u64)]) -> (Cpu, Hart) {
        let cpu = Cpu::new(64, "", &[]).unwrap();
        let mut hart = Hart::new(64, 0, 0);
        for (n, (cfg, addr)) in entries.iter().enumerate() {
            write_addr(&mut hart, n, *addr);
            write_cfg(&mut hart, n, *cfg);
        }
        (cpu, hart)
    }

    fn page(s: &(Cpu, Hart), gpa: u64, privilege: u8) -> Rights {
        rights(&s.0, &s.1, gpa & !0xfff, 0x1000, gpa, privilege)
    }

    #[test]
    fn without_entries_only_m_passes() {
        let s = setup(&[]);
        assert_eq!(page(&s, 0x8000_0000, M), Rights::ALL);
        assert_eq!(page(&s, 0x8000_0000, S), Rights::NONE);
    }

    #[test]
    fn napot_everything() {
        let s = setup(&[(0x18 | R | W | X, u64::MAX)]);
        assert_eq!(page(&s, 0x8000_0000, U), Rights::ALL);
        assert_eq!(page(&s, 0, U), Rights::ALL);
    }

    #[test]
    fn first_match_wins_and_pages_can_be_split() {
        // 0x8000_0000..0x8000_0800 without rights, then all of memory readable.
        let s = setup(&[(0, 0x8000_0000 >> 2), (0x08, 0x8000_0800 >> 2), (0x18 | R, u64::MAX)]);
        let low = page(&s, 0x8000_0010, S);
        assert!(!low.read && !low.uniform);
        let high = page(&s, 0x8000_0900, S);
        assert!(high.read && !high.write && !high.uniform);
        assert!(page(&s, 0x8000_1000, S).uniform);
        assert_eq!(page(&s, 0x8000_1000, M), Rights::ALL);
    }

    #[test]
    fn locked_entries_bind_m_and_stay() {
        let mut s = setup(&[(0x18 | R | LOCKED, 0x8000_0000 >> 2 | 0x1ff)]);
        assert!(!page(&s, 0x8000_0000, M).write);
        write_cfg(&mut s.1, 0, 0);
        write_addr(&mut s.1, 0, 0);
        assert!(!page(&s, 0x8000_0000, M).write);
        assert!(page(&s, 0x8000_1000, M).write);
    }
}
