//! The multiprocessor table that tells a kernel without ACPI of its processors and of the I/O APIC.
//!
//! Intel MultiProcessor Specification 1.4, chapter 4.

/// Address of the local APICs.
const LOCAL_APIC: u32 = 0xfee0_0000;
/// Version of the local APICs.
const LOCAL_APIC_VERSION: u8 = 0x14;
/// ISA interrupts that have a pin of the same number.
const ISA_IRQS: u8 = 16;
/// Most processors that the table's 8-bit identities allow beside the I/O APIC's.
pub(super) const MAX_CPUS: u32 = 254;

fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, b| sum.wrapping_add(*b)).wrapping_neg()
}

/// The floating pointer structure and the table behind it, for address `base` and local APICs of these numbers.
pub(super) fn build(base: u32, ids: &[u32], ioapic: u32) -> Vec<u8> {
    let ids = ids.iter().filter(|id| **id < MAX_CPUS).map(|id| *id as u8);
    let ioapic_id = ids.clone().max().map_or(0, |id| id + 1);
    let mut entries = Vec::new();
    let mut count = 0u16;
    let mut add = |bytes: &[u8]| {
        entries.extend_from_slice(bytes);
        count += 1;
    };
    for id in ids {
        // Enabled; the first one boots.
        let flags = if id == 0 { 3 } else { 1 };
        let mut e = vec![0, id, LOCAL_APIC_VERSION, flags];
        // Family 6; FPU and APIC.
        e.extend([0x600u32.to_le_bytes(), 0x201u32.to_le_bytes(), [0; 4], [0; 4]].concat());
        add(&e);
    }
    add(b"\x01\x00ISA   ");
    let mut chip = vec![2, ioapic_id, 0x11, 1];
    chip.extend(ioapic.to_le_bytes());
    add(&chip);
    for irq in 0..ISA_IRQS {
        // Vectored, polarity and trigger as the bus has them, bus 0.
        add(&[3, 0, 0, 0, 0, irq, ioapic_id, irq]);
    }
    // Local inputs of all processors: 0 takes the 8259s, 1 the NMI.
    add(&[4, 3, 0, 0, 0, 0, 0xff, 0]);
    add(&[4, 1, 0, 0, 0, 0, 0xff, 1]);

    let mut table = b"PCMP".to_vec();
    table.extend(((44 + entries.len()) as u16).to_le_bytes());
    table.extend([4, 0]);
    table.extend(b"RHEA    MICROVM     ");
    table.extend([0; 6]);
    table.extend(count.to_le_bytes());
    table.extend(LOCAL_APIC.to_le_bytes());
    table.extend([0; 4]);
    table.extend(entries);
    table[7] = checksum(&table);

    let mut pointer = b"_MP_".to_vec();
    pointer.extend((base + 16).to_le_bytes());
    pointer.extend([1, 4, 0, 0, 0, 0, 0, 0]);
    pointer[10] = checksum(&pointer);
    pointer.extend(table);
    pointer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_zero_and_lengths_right() {
        for cpus in [1, 4, 300] {
            let t = build(0x9_fc00, &(0..cpus).collect::<Vec<_>>(), 0xfec0_0000);
            let sum = |b: &[u8]| b.iter().fold(0u8, |s, x| s.wrapping_add(*x));
            assert_eq!(sum(&t[..16]), 0);
            let len = usize::from(u16::from_le_bytes([t[20], t[21]]));
            assert_eq!(len, t.len() - 16);
            assert_eq!(sum(&t[16..]), 0);
            let n = u16::from_le_bytes([t[16 + 34], t[16 + 35]]);
            assert_eq!(u32::from(n), cpus.min(254) + 1 + 1 + 16 + 2);
            assert_eq!(len, 44 + 20 * cpus.min(254) as usize + 8 * 20);
        }
    }
}
