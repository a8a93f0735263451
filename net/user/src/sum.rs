//! The Internet checksum (RFC 1071). A sum over words of either byte order is the same sum, its bytes swapped (section 2, B),
//! so the words are added as the host reads them, several at a time.

/// Sum of the big-endian 16-bit words of `bytes`, folded; a last odd byte counts as the upper half of a word.
pub(crate) fn data(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut sum: u64 = words.iter().map(|w| u64::from(u32::from_ne_bytes(*w))).sum();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    sum += u64::from(u32::from_ne_bytes(last));
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::from_be(sum as u16)
}

#[cfg(test)]
mod tests {
    use smoltcp::wire::checksum;

    #[test]
    fn the_same_as_word_by_word() {
        let bytes: Vec<u8> = (0..70_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for length in (0..100).chain([1460, 1461, 65_535, 70_000]) {
            for from in 0..4.min(70_001 - length) {
                let part = &bytes[from..(from + length).min(70_000)];
                assert_eq!(super::data(part), checksum::data(part), "{length} bytes from {from}");
            }
        }
        assert_eq!(super::data(&[0xff; 60_000]), 0xffff);
        assert_eq!(super::data(&[]), 0);
    }
}
