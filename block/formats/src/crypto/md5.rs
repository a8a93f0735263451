//! MD5 (RFC 1321), as a checksum of what is not secret.

/// Rotations of each round.
const TURNS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];

/// The constants: the fractions of sines, as the RFC defines them.
fn constant(i: usize) -> u32 {
    ((i as f64 + 1.0).sin().abs() * 4_294_967_296.0) as u32
}

/// The checksum of some data.
pub(crate) fn md5(data: &[u8]) -> [u8; 16] {
    let mut padded = data.to_vec();
    padded.push(0x80);
    padded.resize((data.len() + 9).next_multiple_of(64) - 8, 0);
    padded.extend((data.len() as u64).wrapping_mul(8).to_le_bytes());
    let constants: Vec<u32> = (0..64).map(constant).collect();
    let mut state: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    for block in padded.chunks_exact(64) {
        let words: Vec<u32> = block.chunks_exact(4).map(|c| crate::bytes::le32(c, 0)).collect();
        let [mut a, mut b, mut c, mut d] = state;
        for (i, constant) in constants.iter().enumerate() {
            let (mixed, word) = match i / 16 {
                0 => (b & c | !b & d, i),
                1 => (d & b | !d & c, (5 * i + 1) % 16),
                2 => (b ^ c ^ d, (3 * i + 5) % 16),
                _ => (c ^ (b | !d), 7 * i % 16),
            };
            let sum = a.wrapping_add(mixed).wrapping_add(*constant).wrapping_add(words[word]);
            (a, d, c, b) = (d, c, b, b.wrapping_add(sum.rotate_left(TURNS[i / 16][i % 4])));
        }
        for (s, n) in state.iter_mut().zip([a, b, c, d]) {
            *s = s.wrapping_add(n);
        }
    }
    let mut out = [0; 16];
    for (to, word) in out.chunks_exact_mut(4).zip(state) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    /// Of the RFC's own list.
    #[test]
    fn known_sums() {
        let shown =
            |text: &str| super::md5(text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(shown(""), "d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(shown("message digest"), "f96b697d7cb7938d525a2f31aaf161d0");
        let long = "1234567890".repeat(8);
        assert_eq!(shown(&long), "57edf4a22be3c955ac49da2e2107b67a");
    }
}
