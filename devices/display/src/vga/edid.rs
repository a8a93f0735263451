//! What the card says of its monitor (VESA E-EDID Standard, Release A, revision 2, 3): one block, without extensions.

/// Size of a block.
pub(super) const SIZE: usize = 128;

/// Smallest and largest monitor that the fields have room for.
pub(super) const WIDTHS: std::ops::RangeInclusive<u32> = 320..=4095;
pub(super) const HEIGHTS: std::ops::RangeInclusive<u32> = 200..=4095;

/// Pixels on 25.4 mm.
const DPI: u32 = 100;
/// Blanking as the coordinated video timings have it for flat panels: lines and pixels around the picture.
const H_BLANK: u32 = 160;
const H_FRONT: u32 = 48;
const H_SYNC: u32 = 32;
const V_BLANK: u32 = 23;
const V_FRONT: u32 = 3;
const V_SYNC: u32 = 6;
const REFRESH: u32 = 60;

/// The block of a monitor with this many pixels.
pub(super) fn block(width: u32, height: u32) -> [u8; SIZE] {
    let mut e = [0; SIZE];
    e[1..7].fill(0xff);
    // Manufacturer RHE, five bits a letter; first model, of the 36th year since 1990.
    let letters = b"RHE".iter().fold(0u16, |word, c| word << 5 | u16::from(c - b'@'));
    e[8..10].copy_from_slice(&letters.to_be_bytes());
    e[10] = 1;
    (e[16], e[17]) = (1, 36);
    // Version 1.4, digital with 8 bits a colour.
    (e[18], e[19], e[20]) = (1, 4, 0xa5);
    let millimetres = |pixels: u32| pixels * 254 / (10 * DPI);
    (e[21], e[22]) = ((millimetres(width) / 10) as u8, (millimetres(height) / 10) as u8);
    // Gamma 2.2; sRGB, and the first timing is the best. Chromaticity of sRGB.
    (e[23], e[24]) = (120, 0x06);
    e[25..35].copy_from_slice(&[0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54]);
    // 640x480, 800x600 and 1024x768 at 60 Hz.
    (e[35], e[36]) = (0x21, 0x08);
    e[38..54].fill(1);
    for (i, (w, ratio)) in [(1280u32, 2u8), (1600, 1), (1920, 3)].into_iter().enumerate() {
        e[38 + 2 * i] = (w / 8 - 31) as u8;
        e[39 + 2 * i] = ratio << 6;
    }
    e[54..72].copy_from_slice(&timing(width, height, millimetres(width), millimetres(height)));
    e[72..90].copy_from_slice(b"\0\0\0\xfc\0Rhea Monitor\n");
    // Limits: 50 to 125 Hz, 30 to 160 kHz, 1200 MHz.
    e[90..108].copy_from_slice(&[
        0, 0, 0, 0xfd, 0, 50, 125, 30, 160, 120, 1, b'\n', b' ', b' ', b' ', b' ', b' ', b' ',
    ]);
    e[111] = 0x10;
    e[SIZE - 1] = e.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg();
    e
}

/// A detailed timing.
fn timing(width: u32, height: u32, width_mm: u32, height_mm: u32) -> [u8; 18] {
    let clock = (width + H_BLANK) * (height + V_BLANK) / 10_000 * REFRESH;
    let [low, high] = (clock.min(0xffff) as u16).to_le_bytes();
    let upper = |a: u32, b: u32| (a >> 8 << 4 | b >> 8 & 15) as u8;
    [
        low,
        high,
        width as u8,
        H_BLANK as u8,
        upper(width, H_BLANK),
        height as u8,
        V_BLANK as u8,
        upper(height, V_BLANK),
        H_FRONT as u8,
        H_SYNC as u8,
        (V_FRONT << 4 | V_SYNC) as u8,
        0,
        width_mm as u8,
        height_mm as u8,
        upper(width_mm, height_mm),
        0,
        0,
        // Separate digital synchronization.
        0x18,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_sum_to_nothing_and_hold_the_size() {
        for (w, h) in [(1280, 800), (*WIDTHS.end(), *HEIGHTS.end()), (*WIDTHS.start(), *HEIGHTS.start())] {
            let e = block(w, h);
            assert_eq!(e.iter().fold(0u8, |s, b| s.wrapping_add(*b)), 0);
            let of = |at: usize, up: usize| u32::from(e[at]) | u32::from(e[up] >> 4) << 8;
            assert_eq!((of(56, 58), of(59, 61)), (w, h));
        }
        assert_eq!(block(1280, 800)[8..10], [0x49, 0x05]);
    }
}
