//! Stage 1 translation tables of EL1 and EL0, read as a debugger does.
//!
//! Arm Architecture Reference Manual, D8.2 and D8.3: granules of 4, 16 and 64 KiB, tables of 48-bit output
//! addresses. Permissions are not looked at.

/// The registers that say where the tables are.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Registers {
    pub(super) sctlr: u64,
    pub(super) tcr: u64,
    pub(super) ttbr0: u64,
    pub(super) ttbr1: u64,
}

/// Maps an address; `read` gives the 8-byte entry at a physical address.
pub(super) fn translate(r: &Registers, gva: u64, read: impl Fn(u64) -> Option<u64>) -> Option<u64> {
    if r.sctlr & 1 == 0 {
        return Some(gva);
    }
    let upper = gva >> 55 & 1 == 1;
    let (field, base) = if upper { (r.tcr >> 16, r.ttbr1) } else { (r.tcr, r.ttbr0) };
    let size = 64 - (field & 0x3F) as u32;
    // The two halves encode the granule differently.
    let page_bits = match (upper, field >> 14 & 3) {
        (false, 0) | (true, 2) => 12,
        (false, 2) | (true, 1) => 14,
        (false, 1) | (true, 3) => 16,
        _ => return None,
    };
    if !(25..=48).contains(&size) {
        return None;
    }
    // With top byte ignore the uppermost 8 bits do not count.
    let ignored = if upper { r.tcr >> 38 & 1 } else { r.tcr >> 37 & 1 } == 1;
    let top = if ignored { 56 } else { 64 };
    let above = gva << (64 - top) >> (64 - top) >> size;
    if above != if upper { (1u64 << (top - size)) - 1 } else { 0 } {
        return None;
    }
    let stride = page_bits - 3;
    let levels = (size - page_bits).div_ceil(stride);
    let mut table = base & 0x0000_FFFF_FFFF_FFFE;
    for left in (0..levels).rev() {
        let shift = page_bits + left * stride;
        let bits = if left == levels - 1 { size - shift } else { stride };
        let index = gva >> shift & ((1 << bits) - 1);
        let entry = read(table.checked_add(index * 8)?)?;
        let address = entry & 0x0000_FFFF_FFFF_FFFF & !((1 << page_bits) - 1);
        match (entry & 3, left) {
            (3, 0) => return Some(address | gva & ((1 << page_bits) - 1)),
            (3, _) => table = address,
            (1, 1 | 2) => {
                let mask = (1u64 << shift) - 1;
                return Some(address & !mask | gva & mask);
            }
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_and_blocks_of_4_kib_tables() {
        let r = Registers { sctlr: 1, tcr: 16 | 16 << 16 | 2 << 30, ttbr0: 0x1000, ttbr1: 0x9000 };
        let read = |gpa: u64| {
            Some(match gpa {
                0x1000 => 0x2003,
                0x2000 => 0x3003,
                0x2008 => 0x4000_0001,
                0x3008 => 0x4003,
                0x4018 => 0x8_5003,
                _ => 0,
            })
        };
        assert_eq!(translate(&r, 0x20_3123, read), Some(0x8_5123));
        assert_eq!(translate(&r, 0x4012_3456, read), Some(0x4012_3456));
        assert_eq!(translate(&r, 0x8000_0000, read), None);
        assert_eq!(translate(&r, 1 << 50, read), None);
        assert_eq!(translate(&Registers::default(), 77, read), Some(77));
    }
}
