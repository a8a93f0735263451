//! Intel 8042 keyboard controller with a PS/2 keyboard and mouse behind it (IBM PS/2 Hardware Interface Technical
//! Reference, "Keyboard and Auxiliary Device Controller").
//!
//! Both devices answer the commands drivers probe with; key and pointer events are pushed in by whoever reads the
//! user's input, through [`I8042`]. Region 0 is the data port (0x60), region 1 the command port (0x64).

use std::any::Any;
use std::collections::VecDeque;

use device::{
    Access, AccessRule, BuildError, Device, DeviceConfig, IrqLine, PinSpec, RegionSpec, ResetKind, StateBlob,
    StateError, SystemControl, SystemRequest, Wires, device_config, le_fill, le_value,
};

device_config! {
    /// PC keyboard controller.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct I8042Config {}
}

impl DeviceConfig for I8042Config {
    const KIND: &'static str = "i8042";
    const HELP: &'static str = "PC keyboard controller with PS/2 keyboard and mouse";

    fn regions(&self) -> Vec<RegionSpec> {
        vec![RegionSpec::new("data", 1, AccessRule::BYTE), RegionSpec::new("command", 1, AccessRule::BYTE)]
    }

    fn outputs(&self) -> Vec<PinSpec> {
        vec![PinSpec::one("kbd"), PinSpec::one("aux"), PinSpec::one("a20")]
    }

    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        let chip = I8042 {
            kbd: wires.line("kbd"),
            aux: wires.line("aux"),
            a20: wires.line("a20"),
            system: wires.system(),
            r: Registers::default(),
        };
        chip.a20.set(true);
        Ok(Box::new(chip))
    }
}

mod status {
    pub(super) const OUTPUT_FULL: u8 = 1 << 0;
    pub(super) const SYSTEM: u8 = 1 << 2;
    pub(super) const COMMAND: u8 = 1 << 3;
    pub(super) const UNLOCKED: u8 = 1 << 4;
    pub(super) const AUX_FULL: u8 = 1 << 5;
}

mod mode {
    pub(super) const KBD_IRQ: u8 = 1 << 0;
    pub(super) const AUX_IRQ: u8 = 1 << 1;
    pub(super) const SYSTEM: u8 = 1 << 2;
    pub(super) const KBD_OFF: u8 = 1 << 4;
    pub(super) const AUX_OFF: u8 = 1 << 5;
}

/// Output port bits.
const OUT_RESET: u8 = 1 << 0;
const OUT_A20: u8 = 1 << 1;

/// What a keyboard or mouse holds back while the host does not fetch it.
const DEPTH: usize = 256;

const ACK: u8 = 0xfa;
const RESEND: u8 = 0xfe;

/// A byte on its way to the host, and where from.
type Sent = (u8, bool);

#[derive(Clone, Debug, PartialEq)]
struct Registers {
    mode: u8,
    out_port: u8,
    /// The last write went to the command port.
    command_last: bool,
    /// A command that waits for its byte at the data port; 0 if none.
    command: u8,
    /// The byte in the output buffer.
    output: Option<Sent>,
    /// Answers of the controller itself; they go before those of the devices.
    own: VecDeque<Sent>,
    kbd: VecDeque<u8>,
    aux: VecDeque<u8>,
    /// Device commands that wait for their parameter; 0 if none.
    kbd_command: u8,
    aux_command: u8,
    kbd_scanning: bool,
    aux_reporting: bool,
    scan_set: u8,
    aux_wheel: bool,
    /// The last three sample rates, by whose sequence a wheel is switched on.
    rates: [u8; 3],
}

impl Default for Registers {
    fn default() -> Self {
        Registers {
            mode: mode::KBD_IRQ | mode::AUX_IRQ,
            out_port: OUT_RESET | OUT_A20,
            command_last: false,
            command: 0,
            output: None,
            own: VecDeque::new(),
            kbd: VecDeque::new(),
            aux: VecDeque::new(),
            kbd_command: 0,
            aux_command: 0,
            kbd_scanning: true,
            aux_reporting: false,
            scan_set: 2,
            aux_wheel: false,
            rates: [100; 3],
        }
    }
}

/// The controller; reached through [`Device::as_any`] by whoever has input for it.
pub struct I8042 {
    kbd: IrqLine,
    aux: IrqLine,
    a20: IrqLine,
    system: SystemControl,
    r: Registers,
}

fn push(queue: &mut VecDeque<u8>, bytes: &[u8]) -> bool {
    let room = queue.len() + bytes.len() <= DEPTH;
    if room {
        queue.extend(bytes);
    }
    room
}

/// Scan code set 2 to 1, as the controller translates if asked to.
fn translate(code: u8) -> u8 {
    const SET1: [u8; 0x85] = [
        0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59, 0x65,
        0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b, 0x67, 0x2e,
        0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d, 0x69, 0x31, 0x30,
        0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f, 0x6b, 0x33, 0x25, 0x17,
        0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61, 0x6d, 0x73, 0x28, 0x74, 0x1a,
        0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76, 0x55, 0x56, 0x77, 0x78, 0x79, 0x7a,
        0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f, 0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01,
        0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54, 0x80, 0x80, 0x80, 0x41, 0x54,
    ];
    SET1.get(usize::from(code)).copied().unwrap_or(code)
}

impl I8042 {
    /// Key events as the keyboard sends them, in scan code set 2; `false` if the buffer is full or the keyboard
    /// is switched off.
    pub fn push_keys(&mut self, codes: &[u8]) -> bool {
        let taken = self.r.kbd_scanning && push(&mut self.r.kbd, codes);
        self.update();
        taken
    }

    /// A pointer movement (right and up positive), buttons (left, right, middle from bit 0) and wheel steps;
    /// `false` if the buffer is full or the mouse does not report.
    pub fn push_motion(&mut self, dx: i16, dy: i16, buttons: u8, wheel: i8) -> bool {
        if !self.r.aux_reporting {
            return false;
        }
        let (dx, dy) = (dx.clamp(-255, 255), dy.clamp(-255, 255));
        let signs = u8::from(dx < 0) << 4 | u8::from(dy < 0) << 5;
        let packet = [8 | signs | buttons & 7, dx as u8, dy as u8, wheel as u8];
        let taken = push(&mut self.r.aux, &packet[..if self.r.aux_wheel { 4 } else { 3 }]);
        self.update();
        taken
    }

    /// Fills the output buffer if it is empty, and sets the lines by it.
    fn update(&mut self) {
        let r = &mut self.r;
        if r.output.is_none() {
            let kbd = r.mode & mode::KBD_OFF == 0;
            let aux = r.mode & mode::AUX_OFF == 0;
            r.output = r.own.pop_front();
            if r.output.is_none() && kbd {
                r.output = Self::next_key(r);
            }
            if r.output.is_none() && aux {
                r.output = r.aux.pop_front().map(|byte| (byte, true));
            }
        }
        let (kbd, aux) = self.levels();
        self.kbd.set(kbd);
        self.aux.set(aux);
    }

    /// The next byte of the keyboard, translated to set 1 if the mode says so.
    fn next_key(r: &mut Registers) -> Option<Sent> {
        const TRANSLATE: u8 = 1 << 6;
        let byte = r.kbd.pop_front()?;
        if r.mode & TRANSLATE == 0 {
            return Some((byte, false));
        }
        if byte == 0xf0 {
            // The release prefix becomes the high bit of the code after it.
            let code = r.kbd.pop_front()?;
            return Some((translate(code) | 0x80, false));
        }
        Some((translate(byte), false))
    }

    fn levels(&self) -> (bool, bool) {
        match self.r.output {
            Some((_, false)) => (self.r.mode & mode::KBD_IRQ != 0, false),
            Some((_, true)) => (false, self.r.mode & mode::AUX_IRQ != 0),
            None => (false, false),
        }
    }

    fn answer(&mut self, byte: u8) {
        if self.r.own.len() < DEPTH {
            self.r.own.push_back((byte, false));
        }
    }

    fn set_out_port(&mut self, value: u8) {
        self.r.out_port = value;
        self.a20.set(value & OUT_A20 != 0);
        if value & OUT_RESET == 0 {
            self.system.request(SystemRequest::Reset);
        }
    }

    fn command(&mut self, command: u8) -> Access {
        self.r.command = 0;
        match command {
            0x20 => self.answer(self.r.mode),
            0xa7 => self.r.mode |= mode::AUX_OFF,
            0xa8 => self.r.mode &= !mode::AUX_OFF,
            0xaa => {
                self.r.mode |= mode::SYSTEM;
                self.answer(0x55);
            }
            // Port tests: no fault found.
            0xa9 | 0xab => self.answer(0),
            0xad => self.r.mode |= mode::KBD_OFF,
            0xae => self.r.mode &= !mode::KBD_OFF,
            0xc0 => self.answer(0x80),
            0xd0 => self.answer(self.r.out_port),
            0x60 | 0xd1..=0xd4 => self.r.command = command,
            0xdd => self.set_out_port(self.r.out_port & !OUT_A20),
            0xdf => self.set_out_port(self.r.out_port | OUT_A20),
            // Pulses of the output port's low bits; only the reset line leads anywhere.
            0xf0..=0xff if command & 1 == 0 => self.system.request(SystemRequest::Reset),
            0xf0..=0xff => {}
            _ => return Access::Unimplemented,
        }
        Access::Ok
    }

    fn data(&mut self, value: u8) {
        match std::mem::take(&mut self.r.command) {
            0x60 => self.r.mode = value,
            0xd1 => self.set_out_port(value),
            0xd2 => self.r.own.push_back((value, false)),
            0xd3 => self.r.own.push_back((value, true)),
            0xd4 => {
                self.r.mode &= !mode::AUX_OFF;
                self.aux_byte(value);
            }
            _ => {
                self.r.mode &= !mode::KBD_OFF;
                self.kbd_byte(value);
            }
        }
        self.r.own.truncate(DEPTH);
    }

    /// A byte for the keyboard.
    fn kbd_byte(&mut self, value: u8) {
        let r = &mut self.r;
        let answer: &[u8] = match (std::mem::take(&mut r.kbd_command), value) {
            (0xf0, 0) => &[ACK, r.scan_set],
            (0xf0, 1..=3) => {
                r.scan_set = value;
                &[ACK]
            }
            // LEDs, repeat rate: nothing to see here.
            (0xed | 0xf3, _) => &[ACK],
            (_, 0xee) => &[0xee],
            (_, 0xf2) => &[ACK, 0xab, 0x83],
            (_, 0xed | 0xf0 | 0xf3) => {
                r.kbd_command = value;
                &[ACK]
            }
            (_, 0xf4) => {
                r.kbd_scanning = true;
                &[ACK]
            }
            (_, 0xf5 | 0xf6) => {
                r.kbd_scanning = value == 0xf6;
                r.scan_set = 2;
                &[ACK]
            }
            (_, 0xff) => {
                r.kbd.clear();
                r.kbd_scanning = true;
                r.scan_set = 2;
                &[ACK, 0xaa]
            }
            (_, 0xf7..=0xfd) => &[ACK],
            _ => &[RESEND],
        };
        let answer = answer.to_vec();
        push(&mut r.kbd, &answer);
    }

    /// A byte for the mouse.
    fn aux_byte(&mut self, value: u8) {
        let r = &mut self.r;
        let id = if r.aux_wheel { 3 } else { 0 };
        let answer: &[u8] = match (std::mem::take(&mut r.aux_command), value) {
            (0xf3, rate) => {
                r.rates = [r.rates[1], r.rates[2], rate];
                r.aux_wheel |= r.rates == [200, 100, 80];
                &[ACK]
            }
            (0xe8, _) => &[ACK],
            (_, 0xe8 | 0xf3) => {
                r.aux_command = value;
                &[ACK]
            }
            (_, 0xe9) => &[ACK, u8::from(r.aux_reporting) << 5, 2, 100],
            (_, 0xeb) => &[ACK, 8, 0, 0],
            (_, 0xf2) => &[ACK, id],
            (_, 0xf4 | 0xf5) => {
                r.aux_reporting = value == 0xf4;
                &[ACK]
            }
            (_, 0xf6 | 0xff) => {
                r.aux_reporting = false;
                r.rates = [100; 3];
                if value == 0xff {
                    r.aux.clear();
                    r.aux_wheel = false;
                    &[ACK, 0xaa, 0]
                } else {
                    &[ACK]
                }
            }
            (_, 0xe6 | 0xe7 | 0xea | 0xec | 0xee | 0xf0) => &[ACK],
            _ => &[RESEND],
        };
        let answer = answer.to_vec();
        push(&mut r.aux, &answer);
    }
}

impl Device for I8042 {
    fn read(&mut self, region: usize, _offset: u64, data: &mut [u8]) -> Access {
        let value = if region == 0 {
            let byte = self.r.output.take().map_or(0, |(byte, _)| byte);
            // The line falls between two bytes, so that an edge-triggered input sees the second.
            self.kbd.set(false);
            self.aux.set(false);
            self.update();
            byte
        } else {
            let full = match self.r.output {
                Some((_, true)) => status::OUTPUT_FULL | status::AUX_FULL,
                Some((_, false)) => status::OUTPUT_FULL,
                None => 0,
            };
            let system = if self.r.mode & mode::SYSTEM != 0 { status::SYSTEM } else { 0 };
            let command = if self.r.command_last { status::COMMAND } else { 0 };
            full | system | command | status::UNLOCKED
        };
        le_fill(data, value.into());
        Access::Ok
    }

    fn write(&mut self, region: usize, _offset: u64, data: &[u8]) -> Access {
        let value = le_value(data) as u8;
        self.r.command_last = region == 1;
        let access = if region == 1 {
            self.command(value)
        } else {
            self.data(value);
            Access::Ok
        };
        self.update();
        access
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.r = Registers::default();
        self.a20.set(true);
        self.update();
    }

    fn as_any(&mut self) -> Option<&mut dyn Any> {
        Some(self)
    }

    fn save(&self) -> StateBlob {
        let r = &self.r;
        let sent = |&(byte, aux): &Sent| u16::from(aux) << 8 | u16::from(byte);
        let state = state::V1 {
            mode: r.mode,
            out_port: r.out_port,
            command_last: r.command_last,
            command: r.command,
            output: r.output.as_ref().map(sent),
            own: r.own.iter().map(sent).collect(),
            kbd: r.kbd.iter().copied().collect(),
            aux: r.aux.iter().copied().collect(),
            kbd_command: r.kbd_command,
            aux_command: r.aux_command,
            kbd_scanning: r.kbd_scanning,
            aux_reporting: r.aux_reporting,
            scan_set: r.scan_set,
            aux_wheel: r.aux_wheel,
            rates: r.rates,
        };
        StateBlob::new(I8042Config::KIND, 1, &state)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        let s: state::V1 = state.decode(I8042Config::KIND, 1)?;
        StateError::at_most("own", s.own.len(), DEPTH)?;
        StateError::at_most("kbd", s.kbd.len(), DEPTH)?;
        StateError::at_most("aux", s.aux.len(), DEPTH)?;
        let sent = |word: u16| (word as u8, word & 0x100 != 0);
        self.r = Registers {
            mode: s.mode,
            out_port: s.out_port,
            command_last: s.command_last,
            command: s.command,
            output: s.output.map(sent),
            own: s.own.into_iter().map(sent).collect(),
            kbd: s.kbd.into(),
            aux: s.aux.into(),
            kbd_command: s.kbd_command,
            aux_command: s.aux_command,
            kbd_scanning: s.kbd_scanning,
            aux_reporting: s.aux_reporting,
            scan_set: s.scan_set,
            aux_wheel: s.aux_wheel,
            rates: s.rates,
        };
        let (kbd, aux) = self.levels();
        self.kbd.import(kbd);
        self.aux.import(aux);
        self.a20.import(self.r.out_port & OUT_A20 != 0);
        Ok(())
    }
}

mod state {
    device::state! {
        /// Saved state of a keyboard controller, version 1.
        pub(super) struct V1 {
            1 => mode: u8,
            2 => out_port: u8,
            3 => command_last: bool,
            4 => command: u8,
            5 => output: Option<u16>,
            6 => own: Vec<u16>,
            7 => kbd: Vec<u8>,
            8 => aux: Vec<u8>,
            9 => kbd_command: u8,
            10 => aux_command: u8,
            11 => kbd_scanning: bool,
            12 => aux_reporting: bool,
            13 => scan_set: u8,
            14 => aux_wheel: bool,
            15 => rates: [u8; 3],
        }
    }
}

#[cfg(test)]
mod tests {
    use device::test_bench::{Bench, check};

    use super::*;

    fn answers(b: &Bench) -> Vec<u8> {
        let mut all = Vec::new();
        while b.read(1, 0, 1) & 1 != 0 {
            all.push(b.read(0, 0, 1) as u8);
        }
        all
    }

    fn aux(b: &Bench, byte: u64) -> Vec<u8> {
        b.write(1, 0, 1, 0xd4);
        b.write(0, 0, 1, byte);
        answers(b)
    }

    fn chip<R>(b: &Bench, f: impl FnOnce(&mut I8042) -> R) -> R {
        b.cell().with(|device| f(device.as_any().unwrap().downcast_mut().unwrap()))
    }

    #[test]
    fn answers_the_usual_probe() {
        let b = Bench::new(I8042Config::default());
        assert!(b.line("a20"));
        b.write(1, 0, 1, 0xaa);
        assert_eq!(answers(&b), [0x55]);
        b.write(1, 0, 1, 0x20);
        assert_eq!(answers(&b), [0x07]);
        b.write(1, 0, 1, 0xab);
        assert_eq!(answers(&b), [0]);
        b.write(0, 0, 1, 0xf2);
        assert!(b.line("kbd"));
        assert_eq!(answers(&b), [0xfa, 0xab, 0x83]);
        assert!(!b.line("kbd"));
        b.write(0, 0, 1, 0xff);
        assert_eq!(answers(&b), [0xfa, 0xaa]);
    }

    #[test]
    fn resets_and_gates() {
        let b = Bench::new(I8042Config::default());
        b.write(1, 0, 1, 0xfe);
        b.write(1, 0, 1, 0xd1);
        b.write(0, 0, 1, 1);
        assert!(!b.line("a20"));
        b.write(1, 0, 1, 0xdf);
        assert!(b.line("a20"));
        b.write(1, 0, 1, 0xff);
        assert_eq!(b.take_requests(), [SystemRequest::Reset]);
    }

    #[test]
    fn keys_are_translated_and_interrupt_one_by_one() {
        let b = Bench::new(I8042Config::default());
        b.write(1, 0, 1, 0x60);
        b.write(0, 0, 1, 0x41);
        b.take_edges();
        assert!(chip(&b, |c| c.push_keys(&[0x1c, 0xf0, 0x1c])));
        assert_eq!(answers(&b), [0x1e, 0x9e], "A pressed and released in set 1");
        assert_eq!(b.take_edges().iter().filter(|e| e.level).count(), 2);
        b.write(1, 0, 1, 0xad);
        chip(&b, |c| c.push_keys(&[0x1c]));
        assert_eq!(answers(&b), [] as [u8; 0]);
        b.write(1, 0, 1, 0xae);
        assert_eq!(answers(&b), [0x1e]);
    }

    #[test]
    fn translation_of_the_letters_and_editing_keys() {
        let set2 =
            [0x76, 0x66, 0x0d, 0x5a, 0x14, 0x12, 0x59, 0x11, 0x29, 0x58, 0x77, 0x7e, 0x05, 0x78, 0x07, 0x71];
        let set1 =
            [0x01, 0x0e, 0x0f, 0x1c, 0x1d, 0x2a, 0x36, 0x38, 0x39, 0x3a, 0x45, 0x46, 0x3b, 0x57, 0x58, 0x53];
        assert_eq!(set2.map(translate), set1);
        let qwertyuiop = [0x15, 0x1d, 0x24, 0x2d, 0x2c, 0x35, 0x3c, 0x43, 0x44, 0x4d];
        assert!(qwertyuiop.into_iter().map(translate).eq(0x10..=0x19));
        let asdfghjkl = [0x1c, 0x1b, 0x23, 0x2b, 0x34, 0x33, 0x3b, 0x42, 0x4b, 0x4c, 0x52, 0x0e];
        assert!(asdfghjkl.into_iter().map(translate).eq(0x1e..=0x29));
        let zxcvbnm = [0x1a, 0x22, 0x21, 0x2a, 0x32, 0x31, 0x3a, 0x41, 0x49, 0x4a];
        assert!(zxcvbnm.into_iter().map(translate).eq(0x2c..=0x35));
        let digits = [0x16, 0x1e, 0x26, 0x25, 0x2e, 0x36, 0x3d, 0x3e, 0x46, 0x45, 0x4e, 0x55];
        assert!(digits.into_iter().map(translate).eq(0x02..=0x0d));
        let keypad = [0x6c, 0x75, 0x7d, 0x7b, 0x6b, 0x73, 0x74, 0x79, 0x69, 0x72, 0x7a, 0x70];
        assert!(keypad.into_iter().map(translate).eq(0x47..=0x52));
        let functions = [0x06, 0x04, 0x0c, 0x03, 0x0b, 0x83, 0x0a, 0x01, 0x09];
        assert!(functions.into_iter().map(translate).eq(0x3c..=0x44));
        // Answers of the keyboard pass unchanged.
        assert_eq!([0xfa, 0xfe, 0xaa, 0xee].map(translate), [0xfa, 0xfe, 0xaa, 0xee]);
    }

    #[test]
    fn mouse_with_wheel() {
        let b = Bench::new(I8042Config::default());
        assert_eq!(aux(&b, 0xff), [0xfa, 0xaa, 0]);
        for rate in [200, 100, 80] {
            aux(&b, 0xf3);
            aux(&b, rate);
        }
        assert_eq!(aux(&b, 0xf2), [0xfa, 3]);
        assert!(!chip(&b, |c| c.push_motion(1, 1, 0, 0)), "not reporting yet");
        aux(&b, 0xf4);
        assert!(chip(&b, |c| c.push_motion(-5, 300, 1, -1)));
        assert!(b.line("aux"));
        assert_eq!(b.read(1, 0, 1) & 0x21, 0x21);
        assert_eq!(answers(&b), [0x19, 0xfb, 0xff, 0xff]);
    }

    #[test]
    fn passes_the_common_tests() {
        check(I8042Config::default());
    }
}
