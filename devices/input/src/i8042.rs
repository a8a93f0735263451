//! Intel 8042 keyboard controller (IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device
//! Controller") with a PS/2 keyboard and mouse behind it.
//!
//! Region 0 is the data port (0x60), region 1 the command port (0x64). Keys and movements come in through [`I8042`].
//! The line of a device falls and rises between two bytes, so that an edge-triggered input sees each.

use std::any::Any;
use std::collections::VecDeque;

use device::{
    Access, AccessRule, BuildError, Bytes, Device, DeviceConfig, IrqLine, PinSpec, RegionSpec, ResetKind,
    StateBlob, StateError, SystemControl, SystemRequest, Wires, device_config, le_fill, le_value,
};

use crate::keyboard::{ANSWERS_HELD, KEYS_HELD, Keyboard};
use crate::keys::Key;
use crate::mouse::{Motion, Mouse, REPORTS_HELD};

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
            keyboard: Keyboard::default(),
            mouse: Mouse::default(),
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
    pub(super) const TRANSLATE: u8 = 1 << 6;
}

/// Output port bits.
const OUT_RESET: u8 = 1 << 0;
const OUT_A20: u8 = 1 << 1;

/// Most answers of the controller itself that wait.
const DEPTH: usize = 16;
/// Prefix of a release in set 2.
const RELEASE: u8 = 0xf0;

/// A byte on its way to the host, and whether it comes from the mouse.
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
    /// What the data port reads once it has been read.
    last: u8,
    /// Answers of the controller itself; they go before those of the devices.
    own: VecDeque<Sent>,
    /// A release prefix has been translated away; the code after it is to become a release.
    release: bool,
}

impl Default for Registers {
    fn default() -> Self {
        Registers {
            mode: mode::KBD_IRQ | mode::AUX_IRQ,
            out_port: OUT_RESET | OUT_A20,
            command_last: false,
            command: 0,
            output: None,
            last: 0,
            own: VecDeque::new(),
            release: false,
        }
    }
}

/// The controller; reached through [`Device::as_any`] by whoever has input for it.
pub struct I8042 {
    kbd: IrqLine,
    aux: IrqLine,
    a20: IrqLine,
    system: SystemControl,
    keyboard: Keyboard,
    mouse: Mouse,
    r: Registers,
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
    /// A key goes down or up; false if the keyboard is switched off or its buffer full.
    pub fn key(&mut self, key: &Key, down: bool) -> bool {
        let taken = self.keyboard.key(key, down);
        self.update();
        taken
    }

    /// The mouse is moved or clicked; false if it is switched off.
    pub fn motion(&mut self, motion: &Motion) -> bool {
        let taken = self.mouse.motion(motion);
        self.update();
        taken
    }

    /// Lights of the keyboard: scroll, num and caps lock from bit 0.
    pub fn leds(&self) -> u8 {
        self.keyboard.leds
    }

    /// Fills the output buffer if it is empty, and sets the lines by it.
    fn update(&mut self) {
        if self.r.output.is_none() {
            self.r.output = self.next();
        }
        let (kbd, aux) = self.levels();
        self.kbd.set(kbd);
        self.aux.set(aux);
    }

    fn next(&mut self) -> Option<Sent> {
        if let Some(own) = self.r.own.pop_front() {
            return Some(own);
        }
        if self.r.mode & mode::KBD_OFF == 0
            && let Some(byte) = self.next_key()
        {
            return Some((byte, false));
        }
        if self.r.mode & mode::AUX_OFF == 0 { self.mouse.next().map(|byte| (byte, true)) } else { None }
    }

    /// The next byte of the keyboard, translated to set 1 if the mode says so.
    fn next_key(&mut self) -> Option<u8> {
        while let Some(byte) = self.keyboard.next() {
            if self.r.mode & mode::TRANSLATE == 0 {
                return Some(byte);
            }
            // The release prefix becomes the high bit of the code after it.
            if byte == RELEASE {
                self.r.release = true;
                continue;
            }
            let release = if std::mem::take(&mut self.r.release) { 0x80 } else { 0 };
            return Some(translate(byte) | release);
        }
        None
    }

    fn levels(&self) -> (bool, bool) {
        match self.r.output {
            Some((_, false)) => (self.r.mode & mode::KBD_IRQ != 0, false),
            Some((_, true)) => (false, self.r.mode & mode::AUX_IRQ != 0),
            None => (false, false),
        }
    }

    fn answer(&mut self, byte: u8, aux: bool) {
        if self.r.own.len() < DEPTH {
            self.r.own.push_back((byte, aux));
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
            0x20 => self.answer(self.r.mode, false),
            0xa7 => self.r.mode |= mode::AUX_OFF,
            0xa8 => self.r.mode &= !mode::AUX_OFF,
            0xaa => {
                self.r.mode |= mode::SYSTEM;
                self.answer(0x55, false);
            }
            // Port tests: no fault found.
            0xa9 | 0xab => self.answer(0, false),
            0xad => self.r.mode |= mode::KBD_OFF,
            0xae => self.r.mode &= !mode::KBD_OFF,
            // The keyboard is not locked.
            0xc0 => self.answer(0x80, false),
            0xd0 => {
                let full = match self.r.output {
                    Some((_, aux)) => 1 << (4 + u8::from(aux)),
                    None => 0,
                };
                self.answer(self.r.out_port & 0xcf | full, false);
            }
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
            0xd2 => self.answer(value, false),
            0xd3 => self.answer(value, true),
            0xd4 => {
                self.r.mode &= !mode::AUX_OFF;
                self.mouse.write(value);
            }
            _ => {
                self.r.mode &= !mode::KBD_OFF;
                self.keyboard.write(value);
            }
        }
    }
}

impl Device for I8042 {
    fn read(&mut self, region: usize, _offset: u64, data: &mut [u8]) -> Access {
        let value = if region == 0 {
            if let Some((byte, _)) = self.r.output.take() {
                self.r.last = byte;
            }
            self.kbd.set(false);
            self.aux.set(false);
            self.update();
            self.r.last
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
        self.keyboard = Keyboard::default();
        self.mouse = Mouse::default();
        self.a20.set(true);
        self.update();
    }

    fn as_any(&mut self) -> Option<&mut dyn Any> {
        Some(self)
    }

    fn save(&self) -> StateBlob {
        let (r, k, m) = (&self.r, &self.keyboard, &self.mouse);
        let sent = |&(byte, aux): &Sent| u16::from(aux) << 8 | u16::from(byte);
        let bytes = |queue: &VecDeque<u8>| Bytes(queue.iter().copied().collect());
        let state = state::V2 {
            mode: r.mode,
            out_port: r.out_port,
            command_last: r.command_last,
            command: r.command,
            output: r.output.as_ref().map(sent),
            own: r.own.iter().map(sent).collect(),
            last: r.last,
            release: r.release,
            keyboard: state::KeyboardV2 {
                keys: bytes(&k.keys),
                answers: bytes(&k.answers),
                command: k.command,
                scanning: k.scanning,
                set: k.set,
                leds: k.leds,
                rate: k.rate,
                last: k.last,
            },
            mouse: state::MouseV2 {
                reports: bytes(&m.reports),
                answers: bytes(&m.answers),
                command: m.command,
                status: m.status,
                wrap: m.wrap,
                resolution: m.resolution,
                rate: m.rate,
                rates: m.rates,
                id: m.id,
                buttons: m.buttons,
                dx: m.dx,
                dy: m.dy,
                wheel: m.wheel,
                moved: m.moved,
            },
        };
        StateBlob::new(I8042Config::KIND, 2, &state)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        let s: state::V2 = state.decode(I8042Config::KIND, 2)?;
        StateError::at_most("own", s.own.len(), DEPTH)?;
        let (k, m) = (s.keyboard, s.mouse);
        let queue = |name: &str, bytes: Bytes, most: usize| -> Result<VecDeque<u8>, StateError> {
            StateError::at_most(name, bytes.0.len(), most)?;
            Ok(bytes.0.into())
        };
        let keyboard = Keyboard {
            keys: queue("keyboard/keys", k.keys, KEYS_HELD)?,
            answers: queue("keyboard/answers", k.answers, ANSWERS_HELD)?,
            command: k.command,
            scanning: k.scanning,
            set: StateError::at_most("keyboard/set", k.set, 3)?,
            leds: k.leds,
            rate: k.rate,
            last: k.last,
        };
        self.mouse = Mouse {
            reports: queue("mouse/reports", m.reports, REPORTS_HELD)?,
            answers: queue("mouse/answers", m.answers, ANSWERS_HELD)?,
            command: m.command,
            status: m.status,
            wrap: m.wrap,
            resolution: m.resolution,
            rate: m.rate,
            rates: m.rates,
            id: m.id,
            buttons: m.buttons,
            dx: m.dx,
            dy: m.dy,
            wheel: m.wheel,
            moved: m.moved,
        };
        self.keyboard = keyboard;
        let sent = |word: u16| (word as u8, word & 0x100 != 0);
        self.r = Registers {
            mode: s.mode,
            out_port: s.out_port,
            command_last: s.command_last,
            command: s.command,
            output: s.output.map(sent),
            own: s.own.into_iter().map(sent).collect(),
            last: s.last,
            release: s.release,
        };
        let (kbd, aux) = self.levels();
        self.kbd.import(kbd);
        self.aux.import(aux);
        self.a20.import(self.r.out_port & OUT_A20 != 0);
        Ok(())
    }
}

mod state {
    use device::Bytes;

    device::state! {
        /// Saved state of a keyboard, version 2.
        pub(super) struct KeyboardV2 {
            1 => keys: Bytes,
            2 => answers: Bytes,
            3 => command: u8,
            4 => scanning: bool,
            5 => set: u8,
            6 => leds: u8,
            7 => rate: u8,
            8 => last: u8,
        }
    }

    device::state! {
        /// Saved state of a mouse, version 2.
        pub(super) struct MouseV2 {
            1 => reports: Bytes,
            2 => answers: Bytes,
            3 => command: u8,
            4 => status: u8,
            5 => wrap: bool,
            6 => resolution: u8,
            7 => rate: u8,
            8 => rates: [u8; 2],
            9 => id: u8,
            10 => buttons: u8,
            11 => dx: i32,
            12 => dy: i32,
            13 => wheel: i32,
            14 => moved: bool,
        }
    }

    device::state! {
        /// Saved state of a keyboard controller, version 2.
        pub(super) struct V2 {
            1 => mode: u8,
            2 => out_port: u8,
            3 => command_last: bool,
            4 => command: u8,
            5 => output: Option<u16>,
            6 => own: Vec<u16>,
            16 => last: u8,
            17 => release: bool,
            18 => keyboard: KeyboardV2,
            19 => mouse: MouseV2,
        }
    }
}

#[cfg(test)]
mod tests;
