//! A cursor that a card lays over its picture.

/// Its place, its lines, its two colours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Overlay {
    pub(super) x: u32,
    pub(super) y: u32,
    /// Pixels in a line, at most 64.
    pub(super) width: u32,
    /// Two planes of bits, the left pixel the highest: nothing, the picture inverted, first colour, second colour.
    pub(super) lines: Vec<(u64, u64)>,
    pub(super) colours: [u32; 2],
}

impl Overlay {
    /// Draws what of it is on scan line `y`.
    pub(super) fn draw(&self, y: u32, line: &mut [u32]) {
        let Some((a, b)) = y.checked_sub(self.y).and_then(|row| self.lines.get(row as usize)) else { return };
        let pixels = line.iter_mut().skip(self.x as usize).take(self.width as usize);
        for (i, pixel) in pixels.enumerate() {
            match (a >> (63 - i) & 1, b >> (63 - i) & 1) {
                (0, 0) => {}
                (_, 0) => *pixel ^= 0x00ff_ffff,
                (0, _) => *pixel = self.colours[0],
                _ => *pixel = self.colours[1],
            }
        }
    }
}
