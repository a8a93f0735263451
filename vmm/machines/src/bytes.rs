//! Little-endian fields in bytes, as kernels' headers and the tables they are given have them.

/// The number of `n` bytes at `at`; 0 if it is not all there.
pub(crate) fn le(data: &[u8], at: usize, n: usize) -> u64 {
    data.get(at..at + n).map_or(0, |b| b.iter().rev().fold(0, |v, x| v << 8 | u64::from(*x)))
}

/// Sets the field of `n` bytes at `at`, which must be inside.
pub(crate) fn put(data: &mut [u8], at: usize, value: u64, n: usize) {
    let to = data.get_mut(at..at + n);
    debug_assert!(to.is_some(), "field at {at:#x} outside of the table");
    if let Some(to) = to {
        to.copy_from_slice(&value.to_le_bytes()[..n]);
    }
}
