//! Expansion ROMs that name another function: one ROM does for a family of cards, if its header is made to fit.
//!
//! PCI Firmware Specification 3.0, 5.1: a header of an image, which points to a data structure with vendor and device; the bytes of
//! an image for PCs add up to nothing.

/// Begin of an image, and of its data structure.
const IMAGE: [u8; 2] = [0x55, 0xaa];
const DATA: [u8; 4] = *b"PCIR";
/// In an image: its length in 512 bytes, a byte that programs do not look at, and where its data structure is.
const LENGTH: usize = 2;
const SPARE: usize = 6;
const POINTER: usize = 0x18;
/// In the data structure: vendor and device, and the kind of code; 0 is that of PCs.
const IDS: usize = 4;
const CODE: usize = 0x14;

/// The ROM with vendor and device in its first image, if that is one for PCs and names others.
pub(crate) fn fitted(rom: &[u8], vendor: u16, device: u16) -> Option<Vec<u8>> {
    let at = usize::from(u16::from_le_bytes(*rom.get(POINTER..)?.first_chunk()?));
    let data = rom.get(at..)?;
    let length = usize::from(*rom.get(LENGTH)?) * 512;
    let known = rom.starts_with(&IMAGE) && data.starts_with(&DATA) && data.get(CODE)? == &0;
    if !known || length > rom.len() || at + CODE >= length {
        return None;
    }
    let [v, d] = [vendor.to_le_bytes(), device.to_le_bytes()];
    let ids = [v[0], v[1], d[0], d[1]];
    let mut fitted = rom.to_vec();
    let old = fitted.get_mut(at + IDS..at + IDS + 4)?;
    if old == ids {
        return None;
    }
    let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    let more = sum(&ids).wrapping_sub(sum(old));
    old.copy_from_slice(&ids);
    let spare = fitted.get_mut(SPARE)?;
    *spare = spare.wrapping_sub(more);
    Some(fitted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_change_and_the_sum_stays() {
        let mut rom = vec![0; 1024];
        rom[..3].copy_from_slice(&[0x55, 0xaa, 2]);
        rom[0x18] = 0x40;
        rom[0x40..0x48].copy_from_slice(b"PCIR\xf4\x1a\x00\x10");
        let sum = |rom: &[u8]| rom.iter().fold(0u8, |s, b| s.wrapping_add(*b));
        rom[1023] = 0u8.wrapping_sub(sum(&rom));
        let new = fitted(&rom, 0x1af4, 0x1041).unwrap();
        assert_eq!((&new[0x44..0x48], sum(&new)), (&[0xf4, 0x1a, 0x41, 0x10][..], 0));
        assert_eq!(fitted(&new, 0x1af4, 0x1041), None);
        // What is no image, is cut off, or is for others.
        for (at, byte) in [(0, 0), (0x40, 0), (2, 3), (2, 0), (0x54, 3), (0x19, 0xff)] {
            let mut bad = rom.clone();
            bad[at] = byte;
            assert_eq!(fitted(&bad, 1, 2), None, "{at:#x}");
        }
        (0..0x48).for_each(|len| assert_eq!(fitted(&rom[..len], 1, 2), None));
    }
}
