//! Debug registers of x86 as a tracer sees them in the user area: four addresses (0 to 3), what has been met (6), what is looked for
//! (7).
//!
//! A thread that has any of them on is executed one instruction at a time. What is written by the kernel for a program is not met, as on
//! Linux. Sources: SDM volume 3, 18.2; `arch/x86/kernel/ptrace.c` of Linux 6.12.

use accel::{WatchKind, Watchpoint};

use crate::abi::Abi;
use crate::host::Errno;

/// Number of registers, with those that are reserved.
pub(super) const COUNT: usize = 8;
/// The register that tells what has been met, and the one that says what to look for.
pub(super) const STATUS: usize = 6;
pub(super) const CONTROL: usize = 7;
/// Bits of the status that are always set.
pub(super) const STATUS_FIXED: u64 = 0xffff_0ff0;
/// The bit of a step.
pub(super) const STEP: u64 = 1 << 14;
/// `si_code` of what a debug register has met.
pub(super) const TRAP_HWBKPT: i32 = 4;
/// Where they begin in `struct user` of 64-bit and of 32-bit programs.
const PLACES: [usize; 2] = [848, 252];

/// What a thread is to look for: the numbers of the registers, and what is in them.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Points {
    watched: Vec<(u32, Watchpoint)>,
    /// Addresses of instructions.
    code: Vec<(u32, u64)>,
}

/// The register at a place of the user area.
pub(super) fn at(abi: &Abi, address: u64) -> Option<usize> {
    let (place, size) = if abi.wide { (PLACES[0], 8) } else { (PLACES[1], 4) };
    let n = usize::try_from(address).ok()?.checked_sub(place)?;
    (abi.is_hosts() && n.is_multiple_of(size) && n / size < COUNT).then_some(n / size)
}

impl Points {
    /// What the registers say; `None` if they may not.
    pub(super) fn of(registers: &[u64]) -> Option<Self> {
        let control = registers[CONTROL];
        let mut points = Self::default();
        for (n, gva) in (0..).zip(&registers[..4]) {
            if control >> (2 * n) & 3 == 0 {
                continue;
            }
            let bits = control >> (16 + 4 * n);
            let len = [1, 2, 8, 4][bits as usize >> 2 & 3];
            let kind = match bits & 3 {
                0 if len == 1 => {
                    points.code.push((n, *gva));
                    continue;
                }
                1 => WatchKind::Write,
                3 => WatchKind::Access,
                // Ports, and instructions of a length.
                _ => return None,
            };
            if !gva.is_multiple_of(len) {
                return None;
            }
            points.watched.push((n, Watchpoint { gva: *gva, len, kind }));
        }
        Some(points)
    }

    pub(super) fn watched(&self) -> Vec<Watchpoint> {
        self.watched.iter().map(|(_, w)| *w).collect()
    }

    /// True if every address that is reached is looked at.
    pub(super) fn has_code(&self) -> bool {
        !self.code.is_empty()
    }

    /// Bits of the status for an access that begins at `gva`; those of a watchpoint of its kind.
    pub(super) fn accessed(&self, gva: u64, write: bool) -> u64 {
        // An access may begin before what is watched: the longest is 64 bytes.
        let near = |w: &Watchpoint| w.gva < gva.saturating_add(64) && gva < w.gva.saturating_add(w.len);
        let kind = |w: &Watchpoint| write || w.kind == WatchKind::Access;
        self.watched.iter().filter(|(_, w)| near(w) && kind(w)).fold(0, |bits, (n, _)| bits | 1 << n)
    }

    /// Bits of the status for an instruction that is about to be executed.
    pub(super) fn reached(&self, pc: u64) -> u64 {
        self.code.iter().filter(|(_, at)| *at == pc).fold(0, |bits, (n, _)| bits | 1 << n)
    }
}

/// Writes a register, as far as a tracer may.
pub(super) fn set(registers: &mut [u64], n: usize, value: u64) -> Result<(), Errno> {
    let before = registers[n];
    registers[n] = match n {
        0..=3 => value,
        STATUS => value & !STATUS_FIXED,
        // Bit 10 is always set; general detection is not for programs.
        CONTROL => value & !0x2800,
        _ => return Err(Errno(libc::EIO)),
    };
    if Points::of(registers).is_none() {
        registers[n] = before;
        return Err(Errno(libc::EINVAL));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_say_what_is_looked_for() {
        let mut r = [0; COUNT];
        assert_eq!(set(&mut r, 0, 0x1004), Ok(()));
        assert_eq!(set(&mut r, 1, 0x2000), Ok(()));
        // Writes of four bytes at the first, an instruction at the second.
        assert_eq!(set(&mut r, CONTROL, 0x000d_0005), Ok(()));
        let p = Points::of(&r).unwrap();
        assert_eq!(p.watched(), [Watchpoint { gva: 0x1004, len: 4, kind: WatchKind::Write }]);
        assert_eq!((p.reached(0x2000), p.reached(0x2001), p.has_code()), (2, 0, true));
        assert_eq!(
            (p.accessed(0x1000, true), p.accessed(0x1004, false), p.accessed(0x1008, true)),
            (1, 0, 0)
        );
        assert_eq!(set(&mut r, 0, 0x1002), Err(Errno(libc::EINVAL)));
        assert_eq!((r[0], set(&mut r, 4, 0)), (0x1004, Err(Errno(libc::EIO))));
        // Ports.
        assert_eq!(set(&mut r, CONTROL, 0x0002_0001), Err(Errno(libc::EINVAL)));
        assert_eq!(set(&mut r, CONTROL, 0), Ok(()));
        assert_eq!(Points::of(&r), Some(Points::default()));
    }
}
