//! A text screen in a terminal's control sequences (ECMA-48): only what has changed since the last time.

use std::fmt::Write as _;

use device::{Cell, TextScreen};

/// Colours of a VGA in the order of a terminal's.
const COLOURS: [u8; 8] = [0, 4, 2, 6, 1, 5, 3, 7];

/// Ends it: plain colours, a cursor, an empty screen.
pub(super) const END: &str = "\x1b[0m\x1b[?25h\x1b[2J\x1b[H";

/// What the terminal shows.
#[derive(Default)]
pub(super) struct Painter {
    shown: Option<TextScreen>,
}

fn style(attribute: u8) -> String {
    let bold = if attribute & 8 != 0 { ";1" } else { "" };
    let (fore, back) = (COLOURS[usize::from(attribute & 7)], COLOURS[usize::from(attribute >> 4 & 7)]);
    format!("\x1b[0{bold};3{fore};4{back}m")
}

fn row(cells: &[Cell], y: usize, out: &mut String) {
    // Writing to a string does not fail.
    let _ = write!(out, "\x1b[{};1H", y + 1);
    let mut last = None;
    for cell in cells {
        if last != Some(cell.attribute) {
            out.push_str(&style(cell.attribute));
            last = Some(cell.attribute);
        }
        out.push(cell.character());
    }
}

impl Painter {
    /// What makes the terminal show `screen`.
    pub(super) fn paint(&mut self, screen: TextScreen) -> String {
        let mut out = String::new();
        let columns = screen.columns.max(1) as usize;
        let same = |old: &TextScreen| (old.columns, old.rows) == (screen.columns, screen.rows);
        let old = self.shown.take().filter(same);
        if old.is_none() {
            out.push_str("\x1b[0m\x1b[2J");
        }
        for (y, cells) in screen.cells.chunks(columns).enumerate() {
            let before = old.as_ref().and_then(|old| old.cells.chunks(columns).nth(y));
            if before != Some(cells) {
                row(cells, y, &mut out);
            }
        }
        if !out.is_empty() || old.as_ref().map(|old| old.cursor) != Some(screen.cursor) {
            match screen.cursor {
                Some((x, y)) => drop(write!(out, "\x1b[{};{}H\x1b[?25h", y + 1, x + 1)),
                None => out.push_str("\x1b[?25l"),
            }
        }
        self.shown = Some(screen);
        out
    }

    /// The terminal shows something else now.
    pub(super) fn forget(&mut self) {
        self.shown = None;
    }
}

/// A screen with one line in its middle.
pub(super) fn notice(text: &str) -> TextScreen {
    const COLUMNS: usize = 80;
    const ROWS: usize = 25;
    let mut cells = vec![Cell { code: b' ', attribute: 7 }; COLUMNS * ROWS];
    let start = ROWS / 2 * COLUMNS + COLUMNS.saturating_sub(text.len()) / 2;
    for (cell, code) in cells.iter_mut().skip(start).zip(text.bytes().take(COLUMNS)) {
        cell.code = code;
    }
    TextScreen { columns: COLUMNS as u32, rows: ROWS as u32, cells, cursor: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_are_painted() {
        let mut painter = Painter::default();
        let mut screen = notice("640 x 480 Graphic mode");
        assert_eq!(screen.lines()[12].trim(), "640 x 480 Graphic mode");
        let all = painter.paint(screen.clone());
        assert!(
            all.starts_with("\x1b[0m\x1b[2J\x1b[1;1H\x1b[0;37;40m ") && all.ends_with("\x1b[?25l"),
            "{all:?}"
        );
        assert_eq!(painter.paint(screen.clone()), "");
        screen.cells[81] = Cell { code: 0xe1, attribute: 0x1e };
        screen.cursor = Some((2, 1));
        let part = painter.paint(screen.clone());
        assert!(part.starts_with("\x1b[2;1H\x1b[0;37;40m \x1b[0;1;33;44mß\x1b[0;37;40m "), "{part:?}");
        assert!(part.ends_with("\x1b[2;3H\x1b[?25h"), "{part:?}");
        screen.cursor = None;
        assert_eq!(painter.paint(screen.clone()), "\x1b[?25l");
        painter.forget();
        assert!(painter.paint(screen).starts_with("\x1b[0m\x1b[2J"));
    }
}
