//! Routing of PCI interrupts to ISA interrupts, as PIIX3 and ICH9 have it (Intel 82371SB, 2.2.6): a register a wire, whose
//! low four bits name the ISA interrupt unless bit 7 is set.

use device::{IrqLine, Wires};

/// Interrupts of the 8259s.
pub(crate) const ISA_IRQS: usize = 16;
/// A wire that is routed nowhere.
pub(crate) const UNROUTED: u8 = 0x80;
/// ISA interrupts that a wire can be routed to.
const ROUTABLE: u16 = 0xdef8;

/// The router of some wires.
pub(crate) struct Pirq<const N: usize> {
    irqs: Vec<IrqLine>,
    levels: [bool; N],
    routes: [u8; N],
}

impl<const N: usize> Pirq<N> {
    /// A router to output row `irq`.
    pub(crate) fn new(wires: &Wires) -> Self {
        Pirq { irqs: wires.lines("irq", ISA_IRQS), levels: [false; N], routes: [UNROUTED; N] }
    }

    fn level(&self, irq: usize) -> bool {
        let to = |route: u8| route & UNROUTED == 0 && usize::from(route & 15) == irq;
        ROUTABLE >> irq & 1 != 0
            && self.routes.iter().zip(self.levels).any(|(route, level)| level && to(*route))
    }

    fn drive(&self) {
        self.irqs.iter().enumerate().for_each(|(irq, line)| line.set(self.level(irq)));
    }

    /// A wire changes.
    pub(crate) fn set_level(&mut self, wire: usize, level: bool) {
        if let Some(now) = self.levels.get_mut(wire) {
            *now = level;
            self.drive();
        }
    }

    /// The registers change.
    pub(crate) fn set_routes(&mut self, routes: [u8; N]) {
        if self.routes != routes {
            self.routes = routes;
            self.drive();
        }
    }

    /// After a reset all wires are low: their sources say so again, or otherwise.
    pub(crate) fn reset(&mut self, routes: [u8; N]) {
        self.levels = [false; N];
        self.routes = routes;
        self.drive();
    }

    /// Levels of the wires as bits.
    pub(crate) fn save(&self) -> u8 {
        self.levels.iter().enumerate().fold(0, |bits, (i, level)| bits | u8::from(*level) << i)
    }

    /// Takes levels and registers over, without edges.
    pub(crate) fn restore(&mut self, bits: u8, routes: [u8; N]) {
        self.levels = std::array::from_fn(|i| bits >> i & 1 != 0);
        self.routes = routes;
        self.irqs.iter().enumerate().for_each(|(irq, line)| line.import(self.level(irq)));
    }
}
