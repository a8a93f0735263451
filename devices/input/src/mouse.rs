//! The PS/2 mouse (IBM PS/2 Hardware Interface Technical Reference, "Mouse"), with the wheel of Microsoft's
//! IntelliMouse (id 3) and the two more buttons of its Explorer (id 4), each switched on by a sequence of sample rates.

use std::collections::VecDeque;

use crate::keyboard::{ACK, ANSWERS_HELD, PASSED, RESEND};

/// A button of a mouse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Button {
    /// Left.
    Left,
    /// Right.
    Right,
    /// Middle.
    Middle,
    /// First of the side.
    Side,
    /// Second of the side.
    Extra,
}

impl Button {
    /// All buttons with their names.
    pub const NAMES: [(&'static str, Button); 5] = [
        ("left", Button::Left),
        ("right", Button::Right),
        ("middle", Button::Middle),
        ("side", Button::Side),
        ("extra", Button::Extra),
    ];

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// What a hand does to a mouse between two reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Motion {
    /// To the right.
    pub dx: i32,
    /// Towards the user, as screens count.
    pub dy: i32,
    /// Wheel steps towards the user.
    pub wheel: i32,
    /// A button and whether it is down now.
    pub button: Option<(Button, bool)>,
}

/// Most that a movement adds up to while the host does not listen.
const FAR: i32 = 1 << 16;
/// Bytes of reports held; what comes then adds up until there is room.
pub(crate) const REPORTS_HELD: usize = 16;

const REMOTE: u8 = 1 << 6;
const ENABLED: u8 = 1 << 5;
const SCALING: u8 = 1 << 4;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mouse {
    pub(crate) reports: VecDeque<u8>,
    pub(crate) answers: VecDeque<u8>,
    pub(crate) command: u8,
    /// Remote, enabled, scaling: the bits of the status answer.
    pub(crate) status: u8,
    pub(crate) wrap: bool,
    pub(crate) resolution: u8,
    pub(crate) rate: u8,
    /// Sample rates before the present one, oldest first.
    pub(crate) rates: [u8; 2],
    /// 0, 3 or 4.
    pub(crate) id: u8,
    pub(crate) buttons: u8,
    pub(crate) dx: i32,
    pub(crate) dy: i32,
    pub(crate) wheel: i32,
    /// There is something to report.
    pub(crate) moved: bool,
}

impl Default for Mouse {
    fn default() -> Self {
        Mouse {
            reports: VecDeque::new(),
            answers: VecDeque::new(),
            command: 0,
            status: 0,
            wrap: false,
            resolution: 2,
            rate: 100,
            rates: [0; 2],
            id: 0,
            buttons: 0,
            dx: 0,
            dy: 0,
            wheel: 0,
            moved: false,
        }
    }
}

impl Mouse {
    /// Takes a movement in; false if nobody listens.
    pub(crate) fn motion(&mut self, motion: &Motion) -> bool {
        if let Some((button, down)) = motion.button {
            self.buttons = if down { self.buttons | button.bit() } else { self.buttons & !button.bit() };
        }
        self.dx = self.dx.saturating_add(motion.dx).clamp(-FAR, FAR);
        self.dy = self.dy.saturating_sub(motion.dy).clamp(-FAR, FAR);
        self.wheel = self.wheel.saturating_add(motion.wheel).clamp(-FAR, FAR);
        self.moved = true;
        if self.status & ENABLED == 0 {
            (self.dx, self.dy, self.wheel, self.moved) = (0, 0, 0, false);
            return false;
        }
        self.stream();
        true
    }

    /// Reports what has not been reported, as far as there is room.
    fn stream(&mut self) {
        while self.moved
            && self.status & (ENABLED | REMOTE) == ENABLED
            && self.reports.len() + 4 <= REPORTS_HELD
        {
            let report = self.report();
            self.reports.extend(report);
        }
    }

    /// The next report; what does not fit into it stays.
    fn report(&mut self) -> Vec<u8> {
        let (dx, dy) = (self.dx.clamp(-255, 255), self.dy.clamp(-255, 255));
        let most = if self.id == 4 { 7 } else { 127 };
        let wheel = if self.id == 0 { self.wheel } else { self.wheel.clamp(-most, most) };
        (self.dx, self.dy, self.wheel) = (self.dx - dx, self.dy - dy, self.wheel - wheel);
        self.moved = (self.dx, self.dy, self.wheel) != (0, 0, 0);
        let signs = u8::from(dx < 0) << 4 | u8::from(dy < 0) << 5;
        let mut report = vec![8 | signs | self.buttons & 7, dx as u8, dy as u8];
        match self.id {
            3 => report.push(wheel as u8),
            4 => report.push(wheel as u8 & 0xf | (self.buttons & 0x18) << 1),
            _ => {}
        }
        report
    }

    /// The next byte on the wire.
    pub(crate) fn next(&mut self) -> Option<u8> {
        let byte = self.answers.pop_front().or_else(|| self.reports.pop_front());
        self.stream();
        byte
    }

    fn answer(&mut self, bytes: &[u8]) {
        self.answers.extend(bytes);
        while self.answers.len() > ANSWERS_HELD {
            self.answers.pop_front();
        }
    }

    fn defaults(&mut self) {
        let (buttons, id) = (self.buttons, self.id);
        let answers = std::mem::take(&mut self.answers);
        *self = Mouse { buttons, id, answers, ..Mouse::default() };
    }

    fn set_rate(&mut self, rate: u8) {
        match (self.rates[1], self.rate, rate) {
            (200, 100, 80) => self.id = 3,
            (200, 200, 80) if self.id == 3 => self.id = 4,
            _ => {}
        }
        self.rates = [self.rates[1], self.rate];
        self.rate = rate;
    }

    /// A byte from the host.
    pub(crate) fn write(&mut self, value: u8) {
        if self.wrap && !matches!(value, 0xec | 0xff) {
            return self.answer(&[value]);
        }
        match (std::mem::take(&mut self.command), value) {
            (0xe8, resolution @ 0..=3) => {
                self.resolution = resolution;
                self.answer(&[ACK]);
            }
            (0xf3, rate) if rate != 0 => {
                self.set_rate(rate);
                self.answer(&[ACK]);
            }
            (_, 0xe8 | 0xf3) => {
                self.command = value;
                self.answer(&[ACK]);
            }
            (_, 0xe6 | 0xe7) => {
                self.status = self.status & !SCALING | if value == 0xe7 { SCALING } else { 0 };
                self.answer(&[ACK]);
            }
            (_, 0xe9) => {
                let b = self.buttons;
                let buttons = (b & 1) << 2 | (b & 4) >> 1 | (b & 2) >> 1;
                self.answer(&[ACK, self.status | buttons, self.resolution, self.rate]);
            }
            (_, 0xea | 0xf0) => {
                self.status = self.status & !REMOTE | if value == 0xf0 { REMOTE } else { 0 };
                self.reports.clear();
                self.answer(&[ACK]);
            }
            (_, 0xeb) => {
                let report = self.report();
                self.answer(&[ACK]);
                self.answer(&report);
            }
            (_, 0xec | 0xee) => {
                self.wrap = value == 0xee;
                self.answer(&[ACK]);
            }
            (_, 0xf2) => self.answer(&[ACK, self.id]),
            (_, 0xf4 | 0xf5) => {
                self.status = self.status & !ENABLED | if value == 0xf4 { ENABLED } else { 0 };
                self.reports.clear();
                self.answer(&[ACK]);
            }
            (_, 0xf6) => {
                self.defaults();
                self.answer(&[ACK]);
            }
            (_, 0xff) => {
                *self = Mouse { buttons: self.buttons, ..Mouse::default() };
                self.answer(&[ACK, PASSED, 0]);
            }
            _ => self.answer(&[RESEND]),
        }
    }
}
