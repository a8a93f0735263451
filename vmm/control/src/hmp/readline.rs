//! Line editing on a terminal: cursor, history, completion. Bytes in, lines and echo out.

use super::MAX_LINE;

/// Most lines remembered.
const MAX_HISTORY: usize = 64;

/// What a byte led to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing but echo.
    None,
    /// A line is complete.
    Line(String),
    /// The user asked for completion of what stands before the cursor.
    Complete(String),
}

/// Position within an escape sequence (ECMA-48 CSI, and SS3 for the cursor keys).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    Start,
    Csi(u8),
}

/// The line being edited.
#[derive(Debug, Default)]
pub(super) struct Editor {
    line: Vec<u8>,
    cursor: usize,
    escape: Escape,
    history: Vec<Vec<u8>>,
    /// Place in the history; its length is the new line.
    place: usize,
    last_was_cr: bool,
}

impl Editor {
    /// Shows the prompt and the line so far.
    pub(super) fn redraw(&self, prompt: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\r\x1b[K");
        out.extend_from_slice(prompt.as_bytes());
        out.extend_from_slice(&self.line);
        let back = self.line.len() - self.cursor;
        if back > 0 {
            out.extend_from_slice(format!("\x1b[{back}D").as_bytes());
        }
    }

    /// Takes one byte.
    pub(super) fn push(&mut self, byte: u8, prompt: &str, out: &mut Vec<u8>) -> Outcome {
        let after_cr = std::mem::take(&mut self.last_was_cr);
        match self.escape {
            Escape::Start => {
                self.escape = if byte == b'[' || byte == b'O' { Escape::Csi(0) } else { Escape::None };
                return Outcome::None;
            }
            Escape::Csi(n) => {
                self.escape = match byte {
                    b'0'..=b'9' => Escape::Csi(n.wrapping_mul(10).wrapping_add(byte - b'0')),
                    b';' => Escape::Csi(0),
                    _ => Escape::None,
                };
                if self.escape == Escape::None {
                    self.key(byte, n);
                    self.redraw(prompt, out);
                }
                return Outcome::None;
            }
            Escape::None => {}
        }
        match byte {
            b'\n' if after_cr => {}
            b'\r' | b'\n' => {
                self.last_was_cr = byte == b'\r';
                return self.enter(out);
            }
            0x1b => self.escape = Escape::Start,
            b'\t' => {
                return Outcome::Complete(String::from_utf8_lossy(&self.line[..self.cursor]).into_owned());
            }
            // Printable ASCII; the monitor's commands need no more.
            0x20..=0x7e => {
                if self.line.len() < MAX_LINE {
                    self.line.insert(self.cursor, byte);
                    self.cursor += 1;
                    if self.cursor == self.line.len() {
                        out.push(byte);
                    } else {
                        self.redraw(prompt, out);
                    }
                }
            }
            _ => {
                self.control(byte);
                self.redraw(prompt, out);
            }
        }
        Outcome::None
    }

    fn enter(&mut self, out: &mut Vec<u8>) -> Outcome {
        out.extend_from_slice(b"\r\n");
        let line = std::mem::take(&mut self.line);
        self.cursor = 0;
        if !line.is_empty() && self.history.last() != Some(&line) {
            if self.history.len() == MAX_HISTORY {
                self.history.remove(0);
            }
            self.history.push(line.clone());
        }
        self.place = self.history.len();
        Outcome::Line(String::from_utf8_lossy(&line).into_owned())
    }

    /// Control characters, as in Emacs.
    fn control(&mut self, byte: u8) {
        match byte {
            0x01 => self.cursor = 0,
            0x02 => self.cursor = self.cursor.saturating_sub(1),
            0x03 | 0x15 => {
                self.line.clear();
                self.cursor = 0;
            }
            0x04 => self.delete(),
            0x05 => self.cursor = self.line.len(),
            0x06 => self.cursor = (self.cursor + 1).min(self.line.len()),
            0x08 | 0x7f if self.cursor > 0 => {
                self.cursor -= 1;
                self.line.remove(self.cursor);
            }
            0x0b => self.line.truncate(self.cursor),
            0x0e => self.recall(true),
            0x10 => self.recall(false),
            0x17 => {
                let kept = self.line[..self.cursor].trim_ascii_end();
                let start = kept.iter().rposition(|b| *b == b' ').map_or(0, |i| i + 1);
                self.line.drain(start..self.cursor);
                self.cursor = start;
            }
            _ => {}
        }
    }

    fn key(&mut self, byte: u8, n: u8) {
        match (byte, n) {
            (b'A', _) => self.recall(false),
            (b'B', _) => self.recall(true),
            (b'C', _) => self.control(0x06),
            (b'D', _) => self.control(0x02),
            (b'H', _) | (b'~', 1 | 7) => self.cursor = 0,
            (b'F', _) | (b'~', 4 | 8) => self.cursor = self.line.len(),
            (b'~', 3) => self.delete(),
            _ => {}
        }
    }

    fn delete(&mut self) {
        if self.cursor < self.line.len() {
            self.line.remove(self.cursor);
        }
    }

    fn recall(&mut self, newer: bool) {
        let place =
            if newer { (self.place + 1).min(self.history.len()) } else { self.place.saturating_sub(1) };
        if place != self.place {
            self.place = place;
            self.line = self.history.get(place).cloned().unwrap_or_default();
            self.cursor = self.line.len();
        }
    }

    /// Inserts a completion at the cursor.
    pub(super) fn insert(&mut self, text: &str) {
        for byte in text.bytes().filter(|b| (0x20..=0x7e).contains(b)) {
            if self.line.len() < MAX_LINE {
                self.line.insert(self.cursor, byte);
                self.cursor += 1;
            }
        }
    }
}
