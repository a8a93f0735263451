//! `vc`: a text console of a display, a small terminal (ECMA-48): what a monitor or a serial port writes stands on its screen, what
//! the user types there it reads.
//!
//! Lock order: the screen's lock and the queue's are never held while the receiver runs, so a front end may write from inside
//! `receive`. Nobody but the display's thread delivers input.

use std::collections::VecDeque;

use device::{Cell, CharBackend, CharReceiver, TextScreen};
use parking_lot::Mutex;

/// Size of the screen.
const COLUMNS: usize = 80;
const ROWS: usize = 24;
/// Typed bytes kept for a front end that cannot take them yet.
const WAITING: usize = 4096;
/// Numbers of a control sequence that are looked at, and the largest.
const NUMBERS: usize = 8;
const LARGEST: usize = 999;
/// Grey on black.
const PLAIN: u8 = 7;
/// Colours of a terminal in the order of a VGA.
const COLOURS: [u8; 8] = [0, 4, 2, 6, 1, 5, 3, 7];

/// The console.
#[derive(Default)]
pub struct TextConsole {
    screen: Mutex<Screen>,
    receiver: Mutex<Option<Box<dyn CharReceiver>>>,
    typed: Mutex<VecDeque<u8>>,
}

/// What of a control sequence has come.
#[derive(Default)]
enum Sequence {
    #[default]
    None,
    Escape,
    /// Numbers so far.
    Control(Vec<usize>),
}

struct Screen {
    cells: Vec<Cell>,
    column: usize,
    row: usize,
    attribute: u8,
    sequence: Sequence,
}

impl Default for Screen {
    fn default() -> Self {
        let cells = vec![Cell { code: b' ', attribute: PLAIN }; COLUMNS * ROWS];
        Screen { cells, column: 0, row: 0, attribute: PLAIN, sequence: Sequence::None }
    }
}

impl Screen {
    fn clear(&mut self, from: usize, to: usize) {
        let blank = Cell { code: b' ', attribute: self.attribute };
        self.cells.get_mut(from..to).unwrap_or_default().fill(blank);
    }

    fn down(&mut self) {
        if self.row + 1 < ROWS {
            self.row += 1;
        } else {
            self.cells.copy_within(COLUMNS.., 0);
            self.clear(COLUMNS * (ROWS - 1), COLUMNS * ROWS);
        }
    }

    fn put(&mut self, code: u8) {
        if self.column == COLUMNS {
            self.column = 0;
            self.down();
        }
        let at = self.row * COLUMNS + self.column;
        if let Some(cell) = self.cells.get_mut(at) {
            *cell = Cell { code, attribute: self.attribute };
        }
        self.column += 1;
    }

    fn byte(&mut self, byte: u8) {
        match std::mem::take(&mut self.sequence) {
            Sequence::None => self.plain(byte),
            Sequence::Escape if byte == b'[' => self.sequence = Sequence::Control(vec![0]),
            Sequence::Escape => {}
            Sequence::Control(mut numbers) => match byte {
                b'0'..=b'9' => {
                    if let Some(last) = numbers.last_mut() {
                        *last = (*last * 10 + usize::from(byte - b'0')).min(LARGEST);
                    }
                    self.sequence = Sequence::Control(numbers);
                }
                b';' => {
                    if numbers.len() < NUMBERS {
                        numbers.push(0);
                    }
                    self.sequence = Sequence::Control(numbers);
                }
                // Private ones and intermediate bytes.
                0x20..=0x3f => self.sequence = Sequence::Control(numbers),
                _ => self.control(byte, &numbers),
            },
        }
    }

    fn plain(&mut self, byte: u8) {
        match byte {
            0x1b => self.sequence = Sequence::Escape,
            b'\r' => self.column = 0,
            b'\n' => self.down(),
            0x08 => self.column = self.column.min(COLUMNS).saturating_sub(1),
            b'\t' => self.column = ((self.column / 8 + 1) * 8).min(COLUMNS - 1),
            0x20..=0x7e => self.put(byte),
            // The first byte of a character that is none of ours.
            0xc0.. => self.put(b'?'),
            _ => {}
        }
    }

    fn control(&mut self, byte: u8, numbers: &[usize]) {
        let number = |i: usize| numbers.get(i).copied().unwrap_or(0);
        let step = number(0).max(1);
        let at = self.row * COLUMNS + self.column.min(COLUMNS - 1);
        let line = self.row * COLUMNS;
        match byte {
            b'A' => self.row = self.row.saturating_sub(step),
            b'B' => self.row = (self.row + step).min(ROWS - 1),
            b'C' => self.column = (self.column + step).min(COLUMNS - 1),
            b'D' => self.column = self.column.min(COLUMNS - 1).saturating_sub(step),
            b'H' | b'f' => {
                self.row = (step - 1).min(ROWS - 1);
                self.column = (number(1).max(1) - 1).min(COLUMNS - 1);
            }
            b'J' => match number(0) {
                0 => self.clear(at, COLUMNS * ROWS),
                1 => self.clear(0, at + 1),
                _ => self.clear(0, COLUMNS * ROWS),
            },
            b'K' => match number(0) {
                0 => self.clear(at, line + COLUMNS),
                1 => self.clear(line, at + 1),
                _ => self.clear(line, line + COLUMNS),
            },
            b'm' => numbers.iter().for_each(|n| self.style(*n)),
            _ => {}
        }
    }

    fn style(&mut self, number: usize) {
        let a = self.attribute;
        self.attribute = match number {
            0 => PLAIN,
            1 => a | 8,
            22 => a & !8,
            7 | 27 => a & 0x88 | a >> 4 & 7 | (a & 7) << 4,
            30..=37 => a & !7 | COLOURS[number - 30],
            39 => a & !7 | PLAIN,
            40..=47 => a & !0x70 | COLOURS[number - 40] << 4,
            49 => a & !0x70,
            _ => a,
        };
    }
}

impl TextConsole {
    /// What is on the screen.
    pub fn screen(&self) -> TextScreen {
        let s = self.screen.lock();
        let cursor = (s.column.min(COLUMNS - 1) as u32, s.row as u32);
        TextScreen {
            columns: COLUMNS as u32,
            rows: ROWS as u32,
            cells: s.cells.clone(),
            cursor: Some(cursor),
        }
    }

    /// The user types; what does not fit is lost.
    pub fn type_in(&self, bytes: &[u8]) {
        let mut typed = self.typed.lock();
        let room = WAITING - typed.len().min(WAITING);
        typed.extend(bytes.iter().take(room));
    }

    /// Delivers what was typed, as far as the front end can take it. For the display's thread alone.
    pub fn deliver(&self) {
        let mut receiver = self.receiver.lock();
        let Some(receiver) = receiver.as_mut() else { return };
        loop {
            let room = receiver.can_receive();
            let data: Vec<u8> = {
                let mut typed = self.typed.lock();
                let n = room.min(typed.len());
                typed.drain(..n).collect()
            };
            if data.is_empty() {
                return;
            }
            receiver.receive(&data);
        }
    }
}

impl CharBackend for TextConsole {
    fn write(&self, data: &[u8]) -> usize {
        let mut screen = self.screen.lock();
        data.iter().for_each(|byte| screen.byte(*byte));
        data.len()
    }

    fn set_receiver(&self, receiver: Option<Box<dyn CharReceiver>>) {
        *self.receiver.lock() = receiver;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_wraps_scrolls_and_is_moved_about() {
        let c = TextConsole::default();
        c.write(b"one\r\ntwo\x08O\x1b[31;1mred\x1b[0m\x1b[3;5Hthere\x1b[1K!\x1b[2A<\x1b[?25l\xc3\xa9");
        let lines = c.screen().lines();
        assert_eq!(lines[..3], ["one       <?", "twOred", "         !"]);
        assert_eq!(c.screen().cells[83].attribute, 12);
        c.write(b"\x1b[2J\x1b[24;79Habcd\r\nend");
        let screen = c.screen();
        assert_eq!(
            (screen.lines()[21].len(), &screen.lines()[22][..], &screen.lines()[23][..]),
            (80, "cd", "end")
        );
        assert_eq!(screen.cursor, Some((3, 23)));
        c.write(b"\x1b[9999;9999;;;;;;;;;;;;;;;;H*\x1b[C\x1b[D\t\x08\x1b");
        assert_eq!(c.screen().cursor.map(|(x, _)| x), Some(78));
    }

    #[test]
    fn any_bytes_are_shown_or_not() {
        let c = TextConsole::default();
        let mut x = 1u32;
        for _ in 0..200_000 {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let byte = (x >> 24) as u8;
            c.write(&[if x & 0x700 == 0 {
                0x1b
            } else if x & 0x100 == 0 {
                b'['
            } else {
                byte
            }]);
        }
        let screen = c.screen();
        assert_eq!(screen.cells.len(), 80 * 24);
    }

    struct Reader(std::sync::Arc<Mutex<Vec<u8>>>, usize);
    impl CharReceiver for Reader {
        fn can_receive(&mut self) -> usize {
            self.1
        }
        fn receive(&mut self, data: &[u8]) {
            self.1 -= data.len();
            self.0.lock().extend(data);
        }
        fn event(&mut self, _: device::CharEvent) {}
    }

    #[test]
    fn typed_bytes_wait_for_room() {
        let c = TextConsole::default();
        c.type_in(b"early");
        c.deliver();
        let got = std::sync::Arc::<Mutex<Vec<u8>>>::default();
        c.set_receiver(Some(Box::new(Reader(got.clone(), 3))));
        c.deliver();
        assert_eq!(*got.lock(), b"ear");
        c.set_receiver(Some(Box::new(Reader(got.clone(), 10_000))));
        c.type_in(&[b'x'; 10_000]);
        c.deliver();
        assert_eq!(got.lock().len(), 3 + WAITING);
    }
}
