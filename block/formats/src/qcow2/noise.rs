//! Telling data that deflate cannot make smaller, at a tenth of what finding out by trying costs: what is encrypted or
//! compressed already.
//!
//! Deflate gains by bytes that are more frequent than others and by what is repeated. Noise has all bytes equally often, and
//! in samples of it nothing is found twice.

/// Bytes of a sample, and how many are taken.
const SAMPLE: usize = 4096;
const SAMPLES: usize = 4;
/// Entries of the table by which repetitions are found, as a shift.
const TABLE_BITS: u32 = 11;

/// Whether data is noise. Shorter data than all samples together is never taken for it.
pub(super) fn is_noise(data: &[u8]) -> bool {
    // Most of what is no noise shows it at once.
    data.len() >= SAMPLE * SAMPLES && is_even(&data[..SAMPLE]) && is_even(data) && !has_repetitions(data)
}

/// Whether all bytes are about equally often in it.
fn is_even(data: &[u8]) -> bool {
    // Four tables, so that equal bytes in a row do not wait for one another.
    let mut counts = [[0u32; 256]; 4];
    for four in data.chunks_exact(4) {
        for (table, byte) in counts.iter_mut().zip(four) {
            table[usize::from(*byte)] += 1;
        }
    }
    let of = |byte: usize| counts.iter().map(|table| u64::from(table[byte])).sum::<u64>();
    let squares: u64 = (0..256).map(|byte| of(byte).pow(2)).sum();
    // Were they exactly even the sum would be the least there is, n * n / 256; chance adds a bit less than n.
    let n = (data.len() / 4 * 4) as u64;
    squares <= n * n / 256 + 2 * n
}

/// Whether four bytes are found twice in one of the samples more often than by chance.
fn has_repetitions(data: &[u8]) -> bool {
    let apart = (data.len() - SAMPLE) / (SAMPLES - 1);
    (0..SAMPLES).any(|i| {
        let sample = &data[i * apart..i * apart + SAMPLE];
        let mut places = [0u16; 1 << TABLE_BITS];
        let mut found = 0;
        for (at, four) in sample.windows(4).enumerate() {
            let word = u32::from_le_bytes([four[0], four[1], four[2], four[3]]);
            let slot = (word.wrapping_mul(0x9e37_79b1) >> (32 - TABLE_BITS)) as usize;
            let before = usize::from(std::mem::replace(&mut places[slot], at as u16));
            found += usize::from(before < at && sample[before..before + 4] == *four);
        }
        found > SAMPLE / 256
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn noise_is_told_from_what_can_be_packed() {
        for len in [16384, 65536, 2 << 20] {
            assert!(is_noise(&noise(len)), "{len}");
        }
        // Too short, words, few values, what is repeated, and what is noise in part.
        assert!(!is_noise(&noise(4096)));
        let text: Vec<u8> = b"the quick brown fox ".iter().copied().cycle().take(65536).collect();
        assert!(!is_noise(&text));
        assert!(!is_noise(&noise(65536).iter().map(|b| b & 0x7f).collect::<Vec<_>>()));
        let repeated: Vec<u8> = noise(3000).into_iter().cycle().take(65536).collect();
        assert!(!is_noise(&repeated));
        let mut part = noise(65536);
        part[20_000..30_000].fill(0);
        assert!(!is_noise(&part));
    }
}
