//! What the BitBLT engine makes of source and destination (CL-GD5446 Technical Reference Manual, register GR32).

/// A raster operation on bytes of source and destination.
pub(super) type Operation = fn(u8, u8) -> u8;

/// The sixteen operations by the codes the chip has for them.
pub(super) const OPERATIONS: [(u8, Operation); 16] = [
    (0x00, |_, _| 0),
    (0x05, |s, d| s & d),
    (0x06, |_, d| d),
    (0x09, |s, d| s & !d),
    (0x0b, |_, d| !d),
    (0x0d, |s, _| s),
    (0x0e, |_, _| 0xff),
    (0x50, |s, d| !s & d),
    (0x59, |s, d| s ^ d),
    (0x6d, |s, d| s | d),
    (0x90, |s, d| !(s & d)),
    (0x95, |s, d| !(s ^ d)),
    (0xad, |s, d| s | !d),
    (0xd0, |s, _| !s),
    (0xd6, |s, d| !s | d),
    (0xda, |s, d| !(s | d)),
];

/// The operation of a code; one that does not exist changes nothing.
pub(super) fn operation(code: u8) -> Operation {
    OPERATIONS.iter().find(|(known, _)| *known == code).map_or(|_, d| d, |(_, operation)| *operation)
}
