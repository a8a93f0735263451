//! National Semiconductor 16550A UART (datasheet "PC16550D", June 1995).
//!
//! Own model rather than `vm-superio`'s: that one is a 16450 without FIFO control, receive timeout, line status
//! errors and saved state, all of which guests probe for or need.
//!
//! Characters leave at once: transmission takes no virtual time. If the backend takes nothing more, they wait in
//! the transmit FIFO, THRE stays low, and the guest waits as on a slow line. Only the receive timeout uses the
//! line speed. Registers are `1 << regshift` bytes apart.

use std::collections::VecDeque;
use std::sync::Arc;

use device::{
    Access, AccessRule, BuildError, CharBackend, CharControl, CharEvent, CharReceiver, Clock, Device,
    DeviceConfig, IrqLine, NS_PER_SEC, PinSpec, RegionSpec, ResetKind, StateBlob, StateError, Timer, Wires,
    device_config, le_fill, le_value,
};

device_config! {
    /// A 16550A UART.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Ns16550Config {
        /// Input clock divided by 16: the line speed at divisor 1.
        pub baudbase: u32 = 115_200,
        /// Registers are 1 << regshift bytes apart.
        pub regshift: u8 = 0,
    }
}

impl DeviceConfig for Ns16550Config {
    const KIND: &'static str = "ns16550";
    const HELP: &'static str = "16550A UART";

    fn regions(&self) -> Vec<RegionSpec> {
        let rule = if self.regshift == 0 { AccessRule::BYTE } else { AccessRule::UP_TO_4 };
        vec![RegionSpec::new("registers", 8 << self.regshift.min(4), rule)]
    }

    fn outputs(&self) -> Vec<PinSpec> {
        vec![PinSpec::one("irq")]
    }

    fn chardevs(&self) -> Vec<&'static str> {
        vec!["chardev"]
    }

    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        if self.regshift > 4 {
            return Err(wires.bad_property("regshift", "expected at most 4"));
        }
        Ok(Box::new(Ns16550 {
            irq: wires.line("irq"),
            chars: wires.chardev("chardev"),
            timeout: wires.timer(0),
            clock: wires.clock(),
            config: self,
            r: Registers::default(),
        }))
    }
}

/// Depth of both FIFOs.
const FIFO: usize = 16;

mod ier {
    pub(super) const RDA: u8 = 1 << 0;
    pub(super) const THRE: u8 = 1 << 1;
    pub(super) const LINE: u8 = 1 << 2;
    pub(super) const MODEM: u8 = 1 << 3;
}

mod iir {
    pub(super) const MODEM: u8 = 0x0;
    pub(super) const NONE: u8 = 0x1;
    pub(super) const THRE: u8 = 0x2;
    pub(super) const RDA: u8 = 0x4;
    pub(super) const LINE: u8 = 0x6;
    pub(super) const TIMEOUT: u8 = 0xc;
    pub(super) const FIFOS: u8 = 0xc0;
}

mod lcr {
    pub(super) const STOP: u8 = 1 << 2;
    pub(super) const PARITY: u8 = 1 << 3;
    pub(super) const EVEN: u8 = 1 << 4;
    pub(super) const STICK: u8 = 1 << 5;
    pub(super) const BREAK: u8 = 1 << 6;
    pub(super) const DLAB: u8 = 1 << 7;
}

mod mcr {
    pub(super) const DTR: u8 = 1 << 0;
    pub(super) const RTS: u8 = 1 << 1;
    pub(super) const OUT1: u8 = 1 << 2;
    pub(super) const OUT2: u8 = 1 << 3;
    pub(super) const LOOP: u8 = 1 << 4;
    pub(super) const ALL: u8 = 0x1f;
}

mod lsr {
    pub(super) const DATA: u8 = 1 << 0;
    pub(super) const OVERRUN: u8 = 1 << 1;
    pub(super) const BREAK: u8 = 1 << 4;
    pub(super) const THRE: u8 = 1 << 5;
    pub(super) const TEMT: u8 = 1 << 6;
    pub(super) const FIFO_ERROR: u8 = 1 << 7;
    /// Parity and framing errors besides the two above: what raises the line status interrupt.
    pub(super) const ERRORS: u8 = 0x1e;
}

mod msr {
    pub(super) const DELTA: u8 = 0x0f;
    pub(super) const TERI: u8 = 1 << 2;
    pub(super) const CTS: u8 = 1 << 4;
    pub(super) const DSR: u8 = 1 << 5;
    pub(super) const RI: u8 = 1 << 6;
    pub(super) const DCD: u8 = 1 << 7;
    /// A modem that is there and ready.
    pub(super) const READY: u8 = CTS | DSR | DCD;
}

/// The chip without its wires.
#[derive(Clone, Debug, PartialEq)]
struct Registers {
    divisor: u16,
    ier: u8,
    lcr: u8,
    mcr: u8,
    /// Overrun and the errors of the oldest received character; the other bits are computed.
    errors: u8,
    msr: u8,
    scratch: u8,
    fifos: bool,
    trigger: u8,
    /// Received characters, each with its error bits of the LSR.
    rx: VecDeque<(u8, u8)>,
    tx: VecDeque<u8>,
    /// THR became empty and nobody has been told.
    thre_pending: bool,
    /// The FIFO holds characters nobody fetched for four character times.
    timed_out: bool,
}

impl Default for Registers {
    fn default() -> Self {
        Registers {
            divisor: 0,
            ier: 0,
            lcr: 0,
            mcr: 0,
            errors: 0,
            msr: msr::READY,
            scratch: 0,
            fifos: false,
            trigger: 1,
            rx: VecDeque::new(),
            tx: VecDeque::new(),
            thre_pending: false,
            timed_out: false,
        }
    }
}

impl Registers {
    fn depth(&self) -> usize {
        if self.fifos { FIFO } else { 1 }
    }

    fn lsr(&self) -> u8 {
        let mut value = self.errors;
        if !self.rx.is_empty() {
            value |= lsr::DATA;
        }
        if self.tx.is_empty() {
            value |= lsr::THRE | lsr::TEMT;
        }
        if self.fifos && self.rx.iter().any(|(_, errors)| errors & lsr::ERRORS != 0) {
            value |= lsr::FIFO_ERROR;
        }
        value
    }

    /// The highest pending interrupt, in the order of table III of the datasheet.
    fn interrupt(&self) -> u8 {
        if self.ier & ier::LINE != 0 && self.errors & lsr::ERRORS != 0 {
            iir::LINE
        } else if self.ier & ier::RDA != 0 && self.timed_out {
            iir::TIMEOUT
        } else if self.ier & ier::RDA != 0
            && self.rx.len() >= usize::from(if self.fifos { self.trigger } else { 1 })
        {
            iir::RDA
        } else if self.ier & ier::THRE != 0 && self.thre_pending {
            iir::THRE
        } else if self.ier & ier::MODEM != 0 && self.msr & msr::DELTA != 0 {
            iir::MODEM
        } else {
            iir::NONE
        }
    }

    /// The error bits of the oldest character show in the LSR once it is at the top.
    fn show_errors(&mut self) {
        if let Some((_, errors)) = self.rx.front_mut() {
            self.errors |= std::mem::take(errors);
        }
    }

    /// A character (with error bits) arrives.
    fn push_rx(&mut self, byte: u8, errors: u8) {
        if self.rx.len() >= self.depth() {
            self.errors |= lsr::OVERRUN;
            if !self.fifos {
                self.rx.clear();
                self.rx.push_back((byte, errors));
            }
        } else {
            self.rx.push_back((byte, errors));
        }
        self.show_errors();
    }

    /// The modem inputs take new levels; changes set the delta bits, RI only when it ends.
    fn set_modem(&mut self, inputs: u8) {
        let changed = (self.msr ^ inputs) & 0xf0;
        let mut deltas = changed >> 4;
        if inputs & msr::RI != 0 {
            deltas &= !msr::TERI;
        }
        self.msr = inputs & 0xf0 | self.msr & msr::DELTA | deltas;
    }

    fn modem_inputs(&self) -> u8 {
        if self.mcr & mcr::LOOP == 0 {
            return msr::READY;
        }
        [(mcr::RTS, msr::CTS), (mcr::DTR, msr::DSR), (mcr::OUT1, msr::RI), (mcr::OUT2, msr::DCD)]
            .into_iter()
            .filter(|(out, _)| self.mcr & out != 0)
            .fold(0, |inputs, (_, input)| inputs | input)
    }
}

struct Ns16550 {
    config: Ns16550Config,
    irq: IrqLine,
    chars: Arc<dyn CharBackend>,
    /// Receive timeout.
    timeout: Timer,
    clock: Clock,
    r: Registers,
}

impl Ns16550 {
    fn update(&self) {
        self.irq.set(self.r.interrupt() != iir::NONE);
    }

    fn baud(&self) -> u32 {
        self.config.baudbase / u32::from(self.r.divisor.max(1))
    }

    fn bits(&self) -> u64 {
        let parity = u64::from(self.r.lcr & lcr::PARITY != 0);
        let stop = if self.r.lcr & lcr::STOP != 0 { 2 } else { 1 };
        1 + u64::from(self.r.lcr & 3) + 5 + parity + stop
    }

    /// Starts the receive timeout anew: after four character times without a character coming or going.
    fn touch_rx(&mut self) {
        self.r.timed_out = false;
        if self.r.fifos && !self.r.rx.is_empty() {
            let character = self.bits() * NS_PER_SEC / u64::from(self.baud().max(1));
            self.timeout.arm(self.clock.now().saturating_add(4 * character));
        } else {
            self.timeout.cancel();
        }
    }

    /// Sends what waits in the transmit FIFO, as far as the backend takes it.
    fn transmit(&mut self) {
        if self.r.tx.is_empty() {
            return;
        }
        if self.r.mcr & mcr::LOOP != 0 {
            while let Some(byte) = self.r.tx.pop_front() {
                self.r.push_rx(byte, 0);
            }
            self.touch_rx();
        } else {
            let taken = self.chars.write(self.r.tx.make_contiguous());
            self.r.tx.drain(..taken.min(self.r.tx.len()));
        }
        if self.r.tx.is_empty() {
            self.r.thre_pending = true;
        }
    }

    fn read_rbr(&mut self) -> u8 {
        let full = self.r.rx.len() >= self.r.depth();
        let byte = self.r.rx.pop_front().map_or(0, |(byte, _)| byte);
        self.r.show_errors();
        self.touch_rx();
        if full {
            self.chars.accept_input();
        }
        byte
    }

    fn write_fcr(&mut self, value: u8) {
        let enable = value & 1 != 0;
        let toggled = enable != self.r.fifos;
        self.r.fifos = enable;
        if toggled || value & 2 != 0 {
            self.r.rx.clear();
            self.touch_rx();
            self.chars.accept_input();
        }
        if (toggled || value & 4 != 0) && !self.r.tx.is_empty() {
            self.r.tx.clear();
            self.r.thre_pending = true;
        }
        if enable {
            self.r.trigger = [1, 4, 8, 14][usize::from(value >> 6)];
        }
    }

    fn line_parameters(&self) {
        let parity = match (self.r.lcr & lcr::PARITY != 0, self.r.lcr & (lcr::EVEN | lcr::STICK)) {
            (false, _) => 'N',
            (true, 0) => 'O',
            (true, lcr::EVEN) => 'E',
            (true, lcr::STICK) => 'M',
            (true, _) => 'S',
        };
        self.chars.control(CharControl::Line {
            baud: self.baud(),
            data_bits: 5 + (self.r.lcr & 3),
            stop_bits: if self.r.lcr & lcr::STOP != 0 { 2 } else { 1 },
            parity,
        });
    }

    fn write_divisor(&mut self, divisor: u16) {
        if std::mem::replace(&mut self.r.divisor, divisor) != divisor {
            self.line_parameters();
        }
    }

    fn write_lcr(&mut self, value: u8) {
        let changed = std::mem::replace(&mut self.r.lcr, value) ^ value;
        if changed & 0x3f != 0 {
            self.line_parameters();
        }
        if changed & lcr::BREAK != 0 {
            let on = value & lcr::BREAK != 0;
            if self.r.mcr & mcr::LOOP == 0 {
                self.chars.control(CharControl::Break(on));
            } else if on {
                self.r.push_rx(0, lsr::BREAK);
                self.touch_rx();
            }
        }
    }

    fn write_mcr(&mut self, value: u8) {
        let changed = std::mem::replace(&mut self.r.mcr, value & mcr::ALL) ^ value & mcr::ALL;
        self.r.set_modem(self.r.modem_inputs());
        if changed & (mcr::DTR | mcr::RTS) != 0 && value & mcr::LOOP == 0 {
            self.chars.control(CharControl::Modem { dtr: value & mcr::DTR != 0, rts: value & mcr::RTS != 0 });
        }
        if changed & mcr::LOOP != 0 {
            self.transmit();
            if value & mcr::LOOP == 0 {
                self.chars.accept_input();
            }
        }
    }

    /// The register an access means, if it is one.
    fn register(&self, offset: u64) -> Option<u64> {
        let step = 1 << self.config.regshift;
        offset.is_multiple_of(step).then_some(offset / step)
    }
}

impl Device for Ns16550 {
    fn read(&mut self, _region: usize, offset: u64, data: &mut [u8]) -> Access {
        let dlab = self.r.lcr & lcr::DLAB != 0;
        let Some(register) = self.register(offset) else { return Access::NoRegister };
        let value = match register {
            0 if dlab => self.r.divisor as u8,
            0 => self.read_rbr(),
            1 if dlab => (self.r.divisor >> 8) as u8,
            1 => self.r.ier,
            2 => {
                let id = self.r.interrupt();
                if id == iir::THRE {
                    self.r.thre_pending = false;
                }
                id | if self.r.fifos { iir::FIFOS } else { 0 }
            }
            3 => self.r.lcr,
            4 => self.r.mcr,
            5 => {
                let value = self.r.lsr();
                self.r.errors = 0;
                value
            }
            6 => {
                let value = self.r.msr;
                self.r.msr &= !msr::DELTA;
                value
            }
            7 => self.r.scratch,
            _ => return Access::NoRegister,
        };
        self.update();
        le_fill(data, value.into());
        Access::Ok
    }

    fn write(&mut self, _region: usize, offset: u64, data: &[u8]) -> Access {
        let dlab = self.r.lcr & lcr::DLAB != 0;
        let value = le_value(data) as u8;
        let Some(register) = self.register(offset) else { return Access::NoRegister };
        match register {
            0 if dlab => self.write_divisor(self.r.divisor & 0xff00 | u16::from(value)),
            0 => {
                self.r.thre_pending = false;
                // A guest that ignores THRE overwrites, in FIFO mode it loses the new character.
                if self.r.tx.len() < self.r.depth() {
                    self.r.tx.push_back(value);
                } else if !self.r.fifos {
                    self.r.tx[0] = value;
                }
                self.transmit();
            }
            1 if dlab => self.write_divisor(self.r.divisor & 0xff | u16::from(value) << 8),
            1 => {
                let enabled = value & !self.r.ier;
                self.r.ier = value & 0x0f;
                // Enabling the interrupt while the register is empty raises it: drivers rely on it to start.
                if enabled & ier::THRE != 0 && self.r.tx.is_empty() {
                    self.r.thre_pending = true;
                }
            }
            2 => self.write_fcr(value),
            3 => self.write_lcr(value),
            4 => self.write_mcr(value),
            5 | 6 => return Access::ReadOnly,
            7 => self.r.scratch = value,
            _ => return Access::NoRegister,
        }
        self.update();
        Access::Ok
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.r = Registers::default();
        self.timeout.cancel();
        self.irq.set(false);
        self.chars.accept_input();
    }

    fn timer(&mut self, _id: usize) {
        self.r.timed_out = !self.r.rx.is_empty();
        self.update();
    }

    fn char_receiver(&mut self, _slot: usize) -> Option<&mut dyn CharReceiver> {
        Some(self)
    }

    fn save(&self) -> StateBlob {
        let r = &self.r;
        StateBlob::new(
            Ns16550Config::KIND,
            1,
            &state::V1 {
                divisor: r.divisor,
                ier: r.ier,
                lcr: r.lcr,
                mcr: r.mcr,
                errors: r.errors,
                msr: r.msr,
                scratch: r.scratch,
                fifos: r.fifos,
                trigger: r.trigger,
                rx_fifo: r
                    .rx
                    .iter()
                    .map(|&(byte, errors)| u16::from(errors) << 8 | u16::from(byte))
                    .collect(),
                tx_fifo: r.tx.iter().copied().collect(),
                thre_pending: r.thre_pending,
                timed_out: r.timed_out,
                timeout: self.timeout.deadline(),
            },
        )
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        let s: state::V1 = state.decode(Ns16550Config::KIND, 1)?;
        let depth = if s.fifos { FIFO } else { 1 };
        StateError::at_most("rx_fifo", s.rx_fifo.len(), depth)?;
        StateError::at_most("tx_fifo", s.tx_fifo.len(), depth)?;
        StateError::at_most("trigger", s.trigger, FIFO as u8)?;
        self.r = Registers {
            divisor: s.divisor,
            ier: s.ier & 0x0f,
            lcr: s.lcr,
            mcr: s.mcr & mcr::ALL,
            errors: s.errors & lsr::ERRORS,
            msr: s.msr,
            scratch: s.scratch,
            fifos: s.fifos,
            trigger: s.trigger.max(1),
            rx: s.rx_fifo.iter().map(|&c| (c as u8, (c >> 8) as u8 & lsr::ERRORS)).collect(),
            tx: s.tx_fifo.into(),
            thre_pending: s.thre_pending,
            timed_out: s.timed_out,
        };
        self.timeout.set(s.timeout);
        self.irq.import(self.r.interrupt() != iir::NONE);
        self.line_parameters();
        Ok(())
    }
}

impl CharReceiver for Ns16550 {
    fn can_receive(&mut self) -> usize {
        // In loopback the receiver is cut off from the line.
        if self.r.mcr & mcr::LOOP != 0 { 0 } else { self.r.depth().saturating_sub(self.r.rx.len()) }
    }

    fn receive(&mut self, data: &[u8]) {
        data.iter().for_each(|&byte| self.r.push_rx(byte, 0));
        self.touch_rx();
        self.update();
    }

    fn event(&mut self, event: CharEvent) {
        match event {
            CharEvent::Break if self.r.mcr & mcr::LOOP == 0 => {
                self.r.push_rx(0, lsr::BREAK);
                self.touch_rx();
            }
            CharEvent::Writable => self.transmit(),
            _ => {}
        }
        self.update();
    }
}

mod state {
    device::state! {
        /// Saved state of a 16550, version 1.
        pub(super) struct V1 {
            1 => divisor: u16,
            2 => ier: u8,
            3 => lcr: u8,
            4 => mcr: u8,
            5 => errors: u8,
            6 => msr: u8,
            7 => scratch: u8,
            8 => fifos: bool,
            9 => trigger: u8,
            10 => rx_fifo: Vec<u16>,
            11 => tx_fifo: Vec<u8>,
            12 => thre_pending: bool,
            13 => timed_out: bool,
            14 => timeout: Option<u64>,
        }
    }
}

#[cfg(test)]
mod tests {
    use device::test_bench::{Bench, check};

    use super::*;

    const RBR: u64 = 0;
    const IER: u64 = 1;
    const IIR: u64 = 2;
    const LCR: u64 = 3;
    const MCR: u64 = 4;
    const LSR: u64 = 5;
    const MSR: u64 = 6;

    fn uart() -> Bench {
        Bench::new(Ns16550Config::default())
    }

    #[test]
    fn sends_and_interrupts_when_empty() {
        let b = uart();
        assert_eq!(b.read(0, LSR, 1), 0x60);
        b.write(0, IER, 1, 2);
        assert!(b.line("irq"), "enabling THRE while empty raises it");
        assert_eq!(b.read(0, IIR, 1), 0x02);
        assert!(!b.line("irq"), "reading IIR ends it");
        b.write(0, RBR, 1, b'x'.into());
        assert!(b.line("irq"));
        assert_eq!(b.output(0), b"x");
    }

    #[test]
    fn a_full_backend_makes_the_guest_wait() {
        let b = uart();
        b.write(0, IIR, 1, 1);
        b.set_room(0, Some(1));
        b.write(0, RBR, 1, b'a'.into());
        b.write(0, RBR, 1, b'b'.into());
        assert_eq!(b.read(0, LSR, 1) & 0x60, 0);
        b.set_room(0, None);
        b.char_event(0, CharEvent::Writable);
        assert_eq!((b.output(0), b.read(0, LSR, 1) & 0x60), (b"ab".to_vec(), 0x60));
    }

    #[test]
    fn receives_one_without_fifo_and_overruns() {
        let b = uart();
        b.write(0, IER, 1, 5);
        assert_eq!(b.type_in(0, b"abc"), 1);
        assert_eq!((b.read(0, IIR, 1), b.read(0, LSR, 1)), (0x04, 0x61));
        assert_eq!(b.read(0, RBR, 1), u64::from(b'a'));
        assert!(!b.line("irq"));
        b.char_event(0, CharEvent::Break);
        b.char_event(0, CharEvent::Break);
        assert_eq!(b.read(0, IIR, 1), 0x06);
        assert_eq!(b.read(0, LSR, 1), 0x73, "break, overrun and data");
        assert_eq!(b.read(0, LSR, 1), 0x61, "reading clears the errors");
    }

    #[test]
    fn fifo_trigger_and_timeout() {
        let b = uart();
        b.write(0, LCR, 1, 0x83);
        b.write(0, RBR, 1, 12);
        b.write(0, IER, 1, 0);
        b.write(0, LCR, 1, 0x03);
        b.write(0, IIR, 1, 0x81);
        b.write(0, IER, 1, 1);
        assert_eq!(b.type_in(0, b"1234567"), 7);
        assert!(!b.line("irq"));
        b.type_in(0, b"8");
        assert_eq!(b.read(0, IIR, 1), 0xc4);
        assert_eq!(b.read(0, RBR, 1), u64::from(b'1'));
        assert!(!b.line("irq"), "below the trigger");
        // Four characters of ten bits at 9600 baud.
        b.advance(4 * 10 * NS_PER_SEC / 9600 - 1000);
        assert!(!b.line("irq"));
        b.advance(2000);
        assert_eq!(b.read(0, IIR, 1), 0xcc);
        assert_eq!(b.read(0, RBR, 1), u64::from(b'2'));
        assert!(!b.line("irq"));
        assert_eq!(b.type_in(0, &[0; 100]), 16 - 6);
    }

    #[test]
    fn loopback_returns_characters_and_modem_lines() {
        let b = uart();
        b.write(0, MCR, 1, 0x10);
        assert_eq!(b.read(0, MSR, 1), 0x0b, "CTS, DSR, DCD fell");
        b.write(0, MCR, 1, 0x1e);
        assert_eq!(b.read(0, MSR, 1), 0xd9, "CTS, RI, DCD; RI has no delta when it begins");
        b.write(0, MCR, 1, 0x12);
        assert_eq!(b.read(0, MSR, 1), 0x1c, "RI ended, DCD fell");
        b.write(0, RBR, 1, 0x5a);
        assert_eq!((b.read(0, RBR, 1), b.output(0).len()), (0x5a, 0));
        assert_eq!(b.type_in(0, b"x"), 0);
        b.write(0, IER, 1, 8);
        b.write(0, MCR, 1, 0);
        assert_eq!(b.read(0, IIR, 1), 0x00);
        assert_eq!(b.read(0, MSR, 1), 0xba);
        assert!(!b.line("irq"));
    }

    #[test]
    fn registers_may_be_spread() {
        let b = Bench::new(Ns16550Config { regshift: 2, ..Ns16550Config::default() });
        b.write(0, 7 << 2, 4, 0xabcd);
        assert_eq!(b.read(0, 7 << 2, 4), 0xcd);
        assert_eq!(b.try_read(0, 1, 1).0, Access::NoRegister);
    }

    #[test]
    fn passes_the_common_tests() {
        check(Ns16550Config::default());
        check(Ns16550Config { regshift: 2, ..Ns16550Config::default() });
    }
}
