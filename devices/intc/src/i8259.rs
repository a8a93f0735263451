//! Two Intel 8259A interrupt controllers (datasheet 231468-003), cascaded as in a PC.
//!
//! Regions: master (ports 0x20, 0x21), slave (0xa0, 0xa1), edge/level control (0x4d0, 0x4d1). Inputs `irq` 0 to
//! 15; number 2 is the cascade and leads nowhere. The CPU fetches vectors with
//! [`InterruptController::acknowledge`].

use device::{
    Access, AccessRule, BuildError, Device, DeviceConfig, InterruptController, IrqLine, PinSpec, RegionSpec,
    ResetKind, StateBlob, StateError, Wires, device_config, le_fill, le_value,
};

device_config! {
    /// PC interrupt controllers.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct I8259Config {}
}

impl DeviceConfig for I8259Config {
    const KIND: &'static str = "isa-i8259";
    const HELP: &'static str = "cascaded pair of 8259A interrupt controllers";

    fn regions(&self) -> Vec<RegionSpec> {
        let ports = |name| RegionSpec::new(name, 2, AccessRule::BYTE);
        vec![ports("master"), ports("slave"), ports("elcr")]
    }

    fn inputs(&self) -> Vec<PinSpec> {
        vec![PinSpec::row("irq", 16)]
    }

    fn outputs(&self) -> Vec<PinSpec> {
        vec![PinSpec::one("intr")]
    }

    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        Ok(Box::new(I8259 { intr: wires.line("intr"), chips: Default::default() }))
    }
}

const MASTER: usize = 0;
const SLAVE: usize = 1;
/// Master's input that the slave drives.
const CASCADE: u8 = 2;
/// Inputs whose trigger mode can be chosen: not the timer, keyboard, cascade, and RTC, FPU.
const ELCR_MASK: [u8; 2] = [0xf8, 0xde];

/// What the next write to the odd port is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Init {
    #[default]
    Done,
    Icw2,
    Icw3,
    Icw4,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Chip {
    irr: u8,
    imr: u8,
    isr: u8,
    /// Input levels.
    level: u8,
    elcr: u8,
    /// The input of the highest priority.
    first: u8,
    vector_base: u8,
    init: Init,
    /// ICW1: ICW4 follows; there is no slave.
    icw4: bool,
    single: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    fully_nested: bool,
    special_mask: bool,
    read_isr: bool,
    poll: bool,
}

impl Chip {
    /// Rank of the highest set input, 0 the best; 8 if none is set.
    fn rank(&self, inputs: u8) -> u32 {
        inputs.rotate_right(self.first.into()).trailing_zeros()
    }

    /// The input to be served now.
    fn pending(&self, is_master: bool) -> Option<u8> {
        let wanted = self.rank(self.irr & !self.imr);
        let mut serving = self.isr;
        if self.special_mask {
            serving &= !self.imr;
        }
        // In fully nested mode the slave may interrupt its own service.
        if self.fully_nested && is_master {
            serving &= !(1 << CASCADE);
        }
        (wanted < self.rank(serving)).then(|| (wanted as u8 + self.first) & 7)
    }

    fn set_input(&mut self, input: u8, level: bool) {
        let bit = 1 << input;
        let rises = level && self.level & bit == 0;
        self.level = self.level & !bit | if level { bit } else { 0 };
        if self.elcr & bit != 0 {
            self.irr = self.irr & !bit | self.level & bit;
        } else if rises {
            self.irr |= bit;
        }
    }

    fn acknowledge(&mut self, input: u8) {
        let bit = 1 << input;
        if self.auto_eoi {
            if self.rotate_on_auto_eoi {
                self.first = (input + 1) & 7;
            }
        } else {
            self.isr |= bit;
        }
        if self.elcr & bit == 0 {
            self.irr &= !bit;
        }
    }

    fn read(&mut self, odd: bool, is_master: bool) -> u8 {
        if self.poll {
            self.poll = false;
            return match self.pending(is_master) {
                Some(input) => {
                    self.acknowledge(input);
                    0x80 | input
                }
                None => 0,
            };
        }
        match (odd, self.read_isr) {
            (true, _) => self.imr,
            (false, true) => self.isr,
            (false, false) => self.irr,
        }
    }

    fn write_even(&mut self, value: u8) {
        if value & 0x10 != 0 {
            // ICW1. Edge inputs have to rise anew, level inputs stay.
            *self = Chip {
                elcr: self.elcr,
                level: self.level,
                irr: self.level & self.elcr,
                init: Init::Icw2,
                icw4: value & 1 != 0,
                single: value & 2 != 0,
                ..Chip::default()
            };
        } else if value & 0x08 != 0 {
            // OCW3.
            if value & 0x04 != 0 {
                self.poll = true;
            }
            if value & 0x02 != 0 {
                self.read_isr = value & 1 != 0;
            }
            if value & 0x40 != 0 {
                self.special_mask = value & 0x20 != 0;
            }
        } else {
            self.write_ocw2(value);
        }
    }

    fn write_ocw2(&mut self, value: u8) {
        let level = value & 7;
        let serving = self.rank(self.isr);
        let highest = (serving < 8).then(|| (serving as u8 + self.first) & 7);
        match value >> 5 {
            0 | 4 => self.rotate_on_auto_eoi = value >> 5 == 4,
            1 | 5 => {
                if let Some(input) = highest {
                    self.isr &= !(1 << input);
                    if value >> 5 == 5 {
                        self.first = (input + 1) & 7;
                    }
                }
            }
            3 => self.isr &= !(1 << level),
            6 => self.first = (level + 1) & 7,
            7 => {
                self.isr &= !(1 << level);
                self.first = (level + 1) & 7;
            }
            _ => {}
        }
    }

    fn write_odd(&mut self, value: u8) {
        match self.init {
            Init::Done => self.imr = value,
            Init::Icw2 => {
                self.vector_base = value & 0xf8;
                self.init = match (self.single, self.icw4) {
                    (false, _) => Init::Icw3,
                    (true, true) => Init::Icw4,
                    (true, false) => Init::Done,
                };
            }
            // Which input the slave is on is soldered.
            Init::Icw3 => self.init = if self.icw4 { Init::Icw4 } else { Init::Done },
            Init::Icw4 => {
                self.fully_nested = value & 0x10 != 0;
                self.auto_eoi = value & 0x02 != 0;
                self.init = Init::Done;
            }
        }
    }
}

struct I8259 {
    intr: IrqLine,
    chips: [Chip; 2],
}

impl I8259 {
    fn output(&self) -> bool {
        self.chips[MASTER].pending(true).is_some()
    }

    fn update(&mut self) {
        let cascade = self.chips[SLAVE].pending(false).is_some();
        self.chips[MASTER].set_input(CASCADE, cascade);
        self.intr.set(self.output());
    }
}

impl InterruptController for I8259 {
    fn acknowledge(&mut self) -> u8 {
        // Without a request any more, the vector is that of input 7.
        let vector = match self.chips[MASTER].pending(true) {
            Some(CASCADE) => {
                let input = match self.chips[SLAVE].pending(false) {
                    Some(input) => {
                        self.chips[SLAVE].acknowledge(input);
                        input
                    }
                    None => 7,
                };
                self.chips[MASTER].acknowledge(CASCADE);
                self.chips[SLAVE].vector_base | input
            }
            Some(input) => {
                self.chips[MASTER].acknowledge(input);
                self.chips[MASTER].vector_base | input
            }
            None => self.chips[MASTER].vector_base | 7,
        };
        // A slave that still has a request must make a new edge on the cascade.
        self.chips[MASTER].set_input(CASCADE, false);
        self.update();
        vector
    }
}

impl Device for I8259 {
    fn read(&mut self, region: usize, offset: u64, data: &mut [u8]) -> Access {
        let value = match region {
            MASTER | SLAVE => self.chips[region].read(offset == 1, region == MASTER),
            _ => self.chips[offset as usize & 1].elcr,
        };
        self.update();
        le_fill(data, value.into());
        Access::Ok
    }

    fn write(&mut self, region: usize, offset: u64, data: &[u8]) -> Access {
        let value = le_value(data) as u8;
        match (region, offset) {
            (MASTER | SLAVE, 0) => {
                self.chips[region].write_even(value);
                // The cascade is an edge input: let it rise anew if the slave wants something.
                self.chips[MASTER].set_input(CASCADE, false);
            }
            (MASTER | SLAVE, _) => self.chips[region].write_odd(value),
            _ => {
                let which = offset as usize & 1;
                let chip = &mut self.chips[which];
                chip.elcr = value & ELCR_MASK[which];
                chip.irr = chip.irr & !chip.elcr | chip.level & chip.elcr;
            }
        }
        self.update();
        Access::Ok
    }

    fn line_in(&mut self, pin: usize, level: bool) {
        if pin < 16 && pin != usize::from(CASCADE) {
            self.chips[pin / 8].set_input(pin as u8 % 8, level);
            self.update();
        }
    }

    fn interrupt_controller(&mut self) -> Option<&mut dyn InterruptController> {
        Some(self)
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.chips = Default::default();
        self.intr.set(false);
    }

    fn save(&self) -> StateBlob {
        I8259State { chips: self.chips.iter().map(Chip::save).collect() }.to_blob()
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        self.chips = I8259State::from_blob(state)?.chips()?;
        self.intr.import(self.output());
        Ok(())
    }
}

impl Chip {
    fn save(&self) -> I8259ChipState {
        I8259ChipState {
            irr: self.irr,
            imr: self.imr,
            isr: self.isr,
            level: self.level,
            elcr: self.elcr,
            first: self.first,
            vector_base: self.vector_base,
            init: self.init as u8,
            icw4: self.icw4,
            single: self.single,
            auto_eoi: self.auto_eoi,
            rotate_on_auto_eoi: self.rotate_on_auto_eoi,
            fully_nested: self.fully_nested,
            special_mask: self.special_mask,
            read_isr: self.read_isr,
            poll: self.poll,
        }
    }

    fn restore(c: &I8259ChipState, elcr_mask: u8) -> Result<Self, StateError> {
        StateError::at_most("chips/first", c.first, 7)?;
        StateError::at_most("chips/init", c.init, 3)?;
        Ok(Chip {
            irr: c.irr,
            imr: c.imr,
            isr: c.isr,
            level: c.level,
            elcr: c.elcr & elcr_mask,
            first: c.first,
            vector_base: c.vector_base & 0xf8,
            init: [Init::Done, Init::Icw2, Init::Icw3, Init::Icw4][usize::from(c.init)],
            icw4: c.icw4,
            single: c.single,
            auto_eoi: c.auto_eoi,
            rotate_on_auto_eoi: c.rotate_on_auto_eoi,
            fully_nested: c.fully_nested,
            special_mask: c.special_mask,
            read_isr: c.read_isr,
            poll: c.poll,
        })
    }
}

device::state! {
    /// Saved state of one 8259A.
    pub struct I8259ChipState {
        1 => irr: u8,
        2 => imr: u8,
        3 => isr: u8,
        4 => level: u8,
        5 => elcr: u8,
        6 => first: u8,
        7 => vector_base: u8,
        8 => init: u8,
        9 => icw4: bool,
        10 => single: bool,
        11 => auto_eoi: bool,
        12 => rotate_on_auto_eoi: bool,
        13 => fully_nested: bool,
        14 => special_mask: bool,
        15 => read_isr: bool,
        16 => poll: bool,
    }
}
device::state! {
    /// Saved state of the pair, version 1: master, slave.
    pub struct I8259State { 1 => chips: Vec<I8259ChipState> }
}

impl I8259State {
    /// As a device saves it.
    #[must_use]
    pub fn to_blob(&self) -> StateBlob {
        StateBlob::new(I8259Config::KIND, 1, self)
    }

    /// From what a device has saved.
    pub fn from_blob(state: &StateBlob) -> Result<Self, StateError> {
        state.decode(I8259Config::KIND, 1)
    }

    /// Level of the `intr` output.
    pub fn output(&self) -> Result<bool, StateError> {
        Ok(self.chips()?[MASTER].pending(true).is_some())
    }

    fn chips(&self) -> Result<[Chip; 2], StateError> {
        let [master, slave] = &self.chips[..] else {
            return Err(StateError::new("chips", format!("expected 2 chips, found {}", self.chips.len())));
        };
        Ok([Chip::restore(master, ELCR_MASK[MASTER])?, Chip::restore(slave, ELCR_MASK[SLAVE])?])
    }
}

#[cfg(test)]
mod tests {
    use device::test_bench::{Bench, check};

    use super::*;

    /// Initialised as Linux does it: vectors 0x30 and 0x38, nothing masked.
    fn pics() -> Bench {
        let b = Bench::new(I8259Config::default());
        for (chip, icw) in [(0, [0x11, 0x30, 4, 1]), (1, [0x11, 0x38, 2, 1])] {
            b.write(chip, 0, 1, icw[0]);
            icw[1..].iter().for_each(|&word| b.write(chip, 1, 1, word));
        }
        b
    }

    fn ack(b: &Bench) -> u8 {
        b.cell().acknowledge().unwrap()
    }

    #[test]
    fn priorities_and_end_of_interrupt() {
        let b = pics();
        b.input("irq", 4, true);
        b.input("irq", 1, true);
        assert!(b.line("intr"));
        assert_eq!(ack(&b), 0x31);
        assert!(!b.line("intr"), "4 is below 1");
        b.write(0, 0, 1, 0x20);
        assert_eq!((b.line("intr"), ack(&b)), (true, 0x34));
        b.write(0, 0, 1, 0x0b);
        assert_eq!(b.read(0, 0, 1), 0x10, "in service");
        b.write(0, 0, 1, 0x64);
        assert!(!b.line("intr"), "still high, but edge-triggered");
        b.input("irq", 4, false);
        b.input("irq", 4, true);
        assert!(b.line("intr"));
        b.write(0, 1, 1, 0x10);
        assert!(!b.line("intr"), "masked");
        assert_eq!(ack(&b), 0x37, "spurious");
    }

    #[test]
    fn the_slave_goes_through_input_2() {
        let b = pics();
        b.input("irq", 12, true);
        b.input("irq", 3, true);
        assert_eq!(ack(&b), 0x3c);
        assert!(!b.line("intr"));
        b.input("irq", 8, true);
        assert!(!b.line("intr"), "not fully nested: the master serves its input 2");
        b.write(1, 0, 1, 0x20);
        b.write(0, 0, 1, 0x20);
        assert_eq!(ack(&b), 0x38);
        b.write(1, 0, 1, 0x20);
        b.write(0, 0, 1, 0x20);
        assert_eq!(ack(&b), 0x33);
    }

    #[test]
    fn two_requests_of_the_slave_follow_each_other() {
        let b = pics();
        b.input("irq", 12, true);
        b.input("irq", 14, true);
        for vector in [0x3c, 0x3e] {
            assert!(b.line("intr"));
            assert_eq!(ack(&b), vector);
            b.write(1, 0, 1, 0x20);
            b.write(0, 0, 1, 0x20);
        }
        assert!(!b.line("intr"));
    }

    #[test]
    fn level_triggered_inputs_follow_their_line() {
        let b = pics();
        b.write(2, 1, 1, 0xff);
        assert_eq!(b.read(2, 1, 1), 0xde);
        b.input("irq", 11, true);
        assert_eq!(ack(&b), 0x3b);
        b.write(1, 0, 1, 0x20);
        b.write(0, 0, 1, 0x20);
        assert!(b.line("intr"), "still high");
        b.input("irq", 11, false);
        b.write(1, 0, 1, 0x0a);
        assert_eq!(b.read(1, 0, 1), 0);
    }

    #[test]
    fn automatic_end_rotation_and_poll() {
        let b = pics();
        for word in [0x11, 0x30, 4, 3] {
            b.write(0, u64::from(word != 0x11), 1, word);
        }
        b.write(0, 0, 1, 0x80);
        b.input("irq", 0, true);
        b.input("irq", 1, true);
        assert_eq!(ack(&b), 0x30);
        b.input("irq", 0, false);
        b.input("irq", 0, true);
        assert_eq!(ack(&b), 0x31, "0 is the last now");
        b.write(0, 0, 1, 0x0c);
        assert_eq!(b.read(0, 0, 1), 0x80);
        b.write(0, 0, 1, 0x0c);
        assert_eq!(b.read(0, 0, 1), 0);
    }

    #[test]
    fn passes_the_common_tests() {
        check(I8259Config::default());
    }
}
