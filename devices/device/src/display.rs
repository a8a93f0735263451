//! What a display device shows, for whoever shows it on: a picture, and the text on it if it is a text screen.
//!
//! The device keeps what the guest wrote; the viewer keeps a [`Surface`] and has it brought up to date when it wants
//! a new picture. A device has one viewer at a time; who serves several copies the surface.

/// A picture: rows of pixels `0x00RRGGBB`, from the top left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surface {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// The pixels; `width * height` of them.
    pub pixels: Vec<u32>,
}

impl Surface {
    /// A black picture.
    pub fn new(width: u32, height: u32) -> Self {
        Surface { width, height, pixels: vec![0; width as usize * height as usize] }
    }

    /// Makes it a picture of this size; true if it was another, and is black now.
    pub fn resize(&mut self, width: u32, height: u32) -> bool {
        let other = (self.width, self.height) != (width, height);
        if other {
            *self = Self::new(width, height);
        }
        other
    }

    /// One row, to be drawn.
    pub fn row_mut(&mut self, y: u32) -> &mut [u32] {
        let width = self.width as usize;
        let at = y as usize * width;
        self.pixels.get_mut(at..at + width).unwrap_or_default()
    }
}

/// Part of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rect {
    /// Left edge.
    pub x: u32,
    /// Upper edge.
    pub y: u32,
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

/// A character cell of a text screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// Character in the hardware's character set (code page 437 on a PC).
    pub code: u8,
    /// Colours as on a VGA: foreground in the low 4 bits, background above.
    pub attribute: u8,
}

/// A text screen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextScreen {
    /// Cells in a row.
    pub columns: u32,
    /// Rows.
    pub rows: u32,
    /// The cells, row after row.
    pub cells: Vec<Cell>,
    /// Column and row of the cursor, if it is shown.
    pub cursor: Option<(u32, u32)>,
}

/// Code page 437 from 0x80 on; below 0x20 are the signs that screens show.
const HIGH: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀\
αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";
const LOW: &str = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼";

impl Cell {
    /// The character as text.
    pub fn character(self) -> char {
        let of = |table: &str, at: u8| table.chars().nth(at.into()).unwrap_or(' ');
        match self.code {
            code @ 0..0x20 => of(LOW, code),
            0x7f => '⌂',
            code @ 0x80.. => of(HIGH, code - 0x80),
            code => code.into(),
        }
    }
}

impl TextScreen {
    /// The rows as text, without what is blank at their ends.
    pub fn lines(&self) -> Vec<String> {
        let row = |cells: &[Cell]| {
            let text: String = cells.iter().map(|cell| cell.character()).collect();
            text.trim_end_matches([' ', '\u{a0}']).to_owned()
        };
        self.cells.chunks(self.columns.max(1) as usize).map(row).collect()
    }
}

/// The display side of a device.
pub trait Display {
    /// Brings the surface up to date, all of it if `all`; the part that changed.
    fn refresh(&mut self, surface: &mut Surface, all: bool) -> Option<Rect>;

    /// The text on the screen, if it is in a text mode.
    fn text(&mut self) -> Option<TextScreen> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_reads_as_it_is_shown() {
        let cells: Vec<Cell> = b"\xc9\xcd\xbb  A\xe1\xff\x01\x10\x7f\x20"
            .iter()
            .map(|&code| Cell { code, attribute: 7 })
            .collect();
        let screen = TextScreen { columns: 6, rows: 2, cells, cursor: None };
        assert_eq!(screen.lines(), ["╔═╗  A", "ß\u{a0}☺►⌂"]);
        assert_eq!((LOW.chars().count(), HIGH.chars().count()), (32, 128));
    }
}
