//! Ethernet's check sequence, and the hashes that cards filter group addresses with.
//!
//! IEEE 802.3, 3.2.9. Cards take the upper six bits of the sequence of an address before its inversion; which end is up
//! depends on the chip.

/// Shortest frame on a cable, without its check sequence.
pub(crate) const MIN_FRAME: usize = 60;

/// The check sequence, before it is inverted, with the first bit sent as the lowest.
fn sequence(data: &[u8]) -> u32 {
    data.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

/// What follows a frame on the cable.
pub(crate) fn check_sequence(frame: &[u8]) -> [u8; 4] {
    (!sequence(frame)).to_le_bytes()
}

/// Bit of a 64-bit filter, by the first six bits that a shift register would send.
pub(crate) fn hash_of_first(address: &[u8]) -> u32 {
    sequence(address).reverse_bits() >> 26
}

/// Bit of a 64-bit filter, by the last six bits.
pub(crate) fn hash_of_last(address: &[u8]) -> u32 {
    sequence(address) >> 26
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_ethernets() {
        assert_eq!(check_sequence(b"123456789"), 0xcbf4_3926u32.to_le_bytes());
        // All nodes of IPv6.
        let all = [0x33, 0x33, 0, 0, 0, 1];
        assert_eq!(hash_of_first(&all).reverse_bits() >> 26, sequence(&all) & 63);
    }
}
