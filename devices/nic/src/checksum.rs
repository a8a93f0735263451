//! The Internet checksum (RFC 1071).

/// Adds up 16-bit words; an odd byte counts as the high half of one.
pub(crate) fn sum(bytes: &[u8], mut so_far: u32) -> u32 {
    for pair in bytes.chunks(2) {
        so_far += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
        so_far = (so_far & 0xffff) + (so_far >> 16);
    }
    so_far
}

/// Puts the checksum of `frame[start..end]` at `at`; the bytes there count, so that a host may have put a part of the sum
/// into them. What does not lie in the frame is left alone.
pub(crate) fn insert(frame: &mut [u8], start: usize, at: usize, end: usize) {
    let end = end.min(frame.len());
    if start < end && at + 2 <= frame.len() {
        let value = !(sum(&frame[start..end], 0) as u16);
        frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_to_all_ones() {
        let mut header =
            vec![0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
        insert(&mut header, 0, 10, 20);
        assert_eq!(header[10..12], [0xb8, 0x61]);
        assert_eq!(sum(&header, 0), 0xffff);
        insert(&mut header, 30, 10, 40);
        insert(&mut header, 0, 19, 20);
        assert_eq!(sum(&[1], 0), 0x100);
    }
}
