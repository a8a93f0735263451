//! What a flash chip says of itself when asked: the Common Flash Memory Interface (JEDEC JESD68.01) and the Intel/Sharp extended
//! query of command set 1 (JEP137).

/// Bytes of the answer.
pub(crate) const LEN: usize = 0x40;
/// log2 of the bytes of the write buffer of one chip.
pub(crate) const BUFFER_BITS: u8 = 11;

/// The answer of one chip of `size` bytes in erase blocks of `block` bytes.
pub(crate) fn query(size: u64, block: u64) -> [u8; LEN] {
    let mut q = [0; LEN];
    let mut put = |at: usize, bytes: &[u8]| q[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x10, b"QRY");
    // Primary command set 1, its table at 0x31; no alternative set.
    put(0x13, &[1, 0, 0x31, 0]);
    // Supply from 4.5 to 5.5 V, no programming voltage.
    put(0x1b, &[0x45, 0x55]);
    // 2^n: microseconds of a word and of a buffer, milliseconds of a block, none for the chip; then how many times more at most.
    put(0x1f, &[7, 7, 10, 0, 4, 4, 4, 0]);
    put(0x27, &[size.max(1).ilog2() as u8]);
    // Interface: x8 and x16.
    put(0x28, &[2, 0, BUFFER_BITS, 0]);
    // One region of equal blocks: their number less one, and their size in units of 256 bytes.
    put(0x2c, &[1]);
    put(0x2d, &((size / block.max(1)).saturating_sub(1) as u16).to_le_bytes());
    put(0x2f, &((block >> 8) as u16).to_le_bytes());
    // Extended table, version 1.0: no suspension, no locking, 5 V, one protection field without contents.
    put(0x31, b"PRI10");
    put(0x3f, &[1]);
    q
}
