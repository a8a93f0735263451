//! The registers of one local APIC, by their index (offset in the page / 16, MSR - 0x800).

use device::{Clock, NS_PER_SEC, StateError};

use super::LapicsConfig;
use super::message::{Delivery, Destination, Message};

pub(super) const MSR_BASE: u32 = 0x1b;
pub(super) const MSR_TSC_DEADLINE: u32 = 0x6e0;

const BASE_ADDRESS: u64 = 0xfee0_0000;
const BASE_BSP: u64 = 1 << 8;
const BASE_X2: u64 = 1 << 10;
const BASE_ENABLE: u64 = 1 << 11;

const ID: u8 = 0x02;
const VERSION: u8 = 0x03;
const TPR: u8 = 0x08;
const APR: u8 = 0x09;
const PPR: u8 = 0x0a;
const EOI: u8 = 0x0b;
const LDR: u8 = 0x0d;
const DFR: u8 = 0x0e;
const SVR: u8 = 0x0f;
const ISR: u8 = 0x10;
const TMR: u8 = 0x18;
const IRR: u8 = 0x20;
const ESR: u8 = 0x28;
const ICR: u8 = 0x30;
const ICR_HIGH: u8 = 0x31;
const LVT_TIMER: u8 = 0x32;
pub(super) const LVT_LINT0: u8 = 0x35;
pub(super) const LVT_LINT1: u8 = 0x36;
const LVT_ERROR: u8 = 0x37;
const INITIAL: u8 = 0x38;
const CURRENT: u8 = 0x39;
const DIVIDE: u8 = 0x3e;
const SELF_IPI: u8 = 0x3f;

/// Registers of the page that [`Registers::from_page`] knows of.
pub(super) const WORDS: usize = 64;

/// Integrated APIC with six LVT entries.
const VERSION_VALUE: u64 = 5 << 16 | 0x14;
const SVR_ENABLE: u32 = 1 << 8;
const LVT_MASKED: u32 = 1 << 16;
const ESR_SEND_VECTOR: u32 = 1 << 5;
const ESR_RECEIVE_VECTOR: u32 = 1 << 6;

/// One bit a vector.
type Vectors = [u32; 8];

fn highest(vectors: &Vectors) -> Option<u8> {
    let word = vectors.iter().rposition(|&w| w != 0)?;
    Some((word * 32) as u8 + 31 - vectors[word].leading_zeros() as u8)
}

fn set(vectors: &mut Vectors, vector: u8, value: bool) {
    let bit = 1 << (vector % 32);
    let word = &mut vectors[usize::from(vector / 32)];
    *word = if value { *word | bit } else { *word & !bit };
}

fn get(vectors: &Vectors, vector: u8) -> bool {
    vectors[usize::from(vector / 32)] >> (vector % 32) & 1 != 0
}

/// What a write asks of the bus.
pub(super) enum Effect {
    Nothing,
    /// A level-triggered interrupt has ended.
    Eoi(u8),
    Send(Message),
}

/// One local APIC without its wires.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Registers {
    id: u32,
    base: u64,
    tpr: u8,
    ldr: u32,
    dfr: u32,
    svr: u32,
    isr: Vectors,
    tmr: Vectors,
    irr: Vectors,
    /// As last latched for reading, and what has happened since.
    esr: u32,
    errors: u32,
    icr: u64,
    /// Timer, thermal, performance, LINT0, LINT1, error.
    lvt: [u32; 6],
    initial: u32,
    divide: u32,
    /// Virtual nanosecond at which the count began.
    start: u64,
    /// TSC value at which the timer expires; 0 if disarmed.
    deadline: u64,
    /// TSC minus the clock's ticks.
    pub(super) tsc_offset: u64,
}

impl Registers {
    pub(super) fn new(id: u32) -> Self {
        let bsp = if id == 0 { BASE_BSP } else { 0 };
        let mut lvt = [LVT_MASKED; 6];
        if id == 0 {
            // As PC firmware leaves it ("virtual wire"): kernels started without firmware rely on it.
            lvt[usize::from(LVT_LINT0 - LVT_TIMER)] = 7 << 8;
        }
        Registers {
            id,
            base: BASE_ADDRESS | BASE_ENABLE | bsp,
            tpr: 0,
            ldr: 0,
            dfr: u32::MAX,
            svr: 0xff,
            isr: [0; 8],
            tmr: [0; 8],
            irr: [0; 8],
            esr: 0,
            errors: 0,
            icr: 0,
            lvt,
            initial: 0,
            divide: 0,
            start: 0,
            deadline: 0,
            tsc_offset: 0,
        }
    }

    /// INIT: all but the base, the id and the TSC.
    pub(super) fn init(&mut self) {
        *self = Registers { base: self.base, tsc_offset: self.tsc_offset, ..Registers::new(self.id) };
        if self.x2apic() {
            self.ldr = x2_ldr(self.id);
        }
    }

    /// Where the registers are in memory, if they are.
    pub(super) fn page(&self) -> Option<u64> {
        let on = self.base & (BASE_ENABLE | BASE_X2) == BASE_ENABLE;
        on.then_some(self.base & !0xfff)
    }

    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// Whether the write is allowed; the transitions are those of SDM figure 13-27.
    pub(super) fn set_base(&mut self, value: u64) -> bool {
        let reserved = !(BASE_BSP | BASE_X2 | BASE_ENABLE | 0xf_ffff_ffff_f000);
        let mode = |base: u64| (base & BASE_ENABLE != 0, base & BASE_X2 != 0);
        let allowed = match (mode(self.base), mode(value)) {
            (_, (false, true)) => false,
            ((true, true), (true, false)) => false,
            ((false, _), (true, true)) => false,
            _ => value & reserved == 0,
        };
        if !allowed {
            return false;
        }
        let was = mode(self.base);
        self.base = value;
        if mode(value) != was {
            if mode(value).0 && self.x2apic() {
                self.ldr = x2_ldr(self.id);
            } else if !mode(value).0 {
                self.init();
            }
        }
        true
    }

    pub(super) fn x2apic(&self) -> bool {
        self.base & (BASE_X2 | BASE_ENABLE) == BASE_X2 | BASE_ENABLE
    }

    /// Whether it takes interrupts at all.
    pub(super) fn enabled(&self) -> bool {
        self.svr & SVR_ENABLE != 0 && self.base & BASE_ENABLE != 0
    }

    pub(super) fn tpr(&self) -> u8 {
        self.tpr
    }

    pub(super) fn set_tpr(&mut self, value: u8) {
        self.tpr = value;
    }

    /// Processor priority (SDM 13.8.3.1).
    pub(super) fn ppr(&self) -> u8 {
        let serving = highest(&self.isr).unwrap_or(0);
        if self.tpr >> 4 >= serving >> 4 { self.tpr } else { serving & 0xf0 }
    }

    /// The vector to be delivered now.
    pub(super) fn deliverable(&self) -> Option<u8> {
        let vector = highest(&self.irr)?;
        (self.enabled() && vector >> 4 > self.ppr() >> 4).then_some(vector)
    }

    pub(super) fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.deliverable()?;
        set(&mut self.irr, vector, false);
        set(&mut self.isr, vector, true);
        Some(vector)
    }

    /// An interrupt with this vector arrives.
    pub(super) fn request(&mut self, vector: u8, level: bool) {
        if vector < 16 {
            self.errors |= ESR_RECEIVE_VECTOR;
        } else if self.enabled() {
            set(&mut self.irr, vector, true);
            set(&mut self.tmr, vector, level);
        }
    }

    fn eoi(&mut self) -> Effect {
        let Some(vector) = highest(&self.isr) else { return Effect::Nothing };
        set(&mut self.isr, vector, false);
        if get(&self.tmr, vector) { Effect::Eoi(vector) } else { Effect::Nothing }
    }

    /// Whether a logical destination means this APIC.
    pub(super) fn logical_match(&self, to: u32) -> bool {
        if self.x2apic() {
            return to >> 16 == self.ldr >> 16 && to & self.ldr & 0xffff != 0;
        }
        let mine = self.ldr >> 24;
        match self.dfr >> 28 {
            0xf => to & mine & 0xff != 0,
            // Cluster model.
            _ => to >> 4 & 0xf == mine >> 4 && to & mine & 0xf != 0,
        }
    }

    /// The 8259 reaches the CPU: through LINT0 as ExtINT, or past an APIC that is switched off.
    pub(super) fn passes_extint(&self) -> bool {
        let lint0 = self.lvt[usize::from(LVT_LINT0 - LVT_TIMER)];
        if self.base & BASE_ENABLE == 0 {
            return self.base & BASE_BSP != 0;
        }
        lint0 & LVT_MASKED == 0 && Delivery::from_bits(lint0) == Delivery::ExtInt
    }

    /// What an LVT entry sends when its source fires.
    pub(super) fn local_interrupt(&self, index: u8) -> Option<Message> {
        let entry = self.lvt[usize::from(index - LVT_TIMER)];
        let delivery =
            if matches!(index, LVT_TIMER | LVT_ERROR) { Delivery::Fixed } else { Delivery::from_bits(entry) };
        (entry & LVT_MASKED == 0).then_some(Message {
            destination: Destination::Itself,
            delivery,
            vector: entry as u8,
            level: false,
            wide: false,
        })
    }

    // The timer.

    fn timer_mode(&self) -> u32 {
        self.lvt[0] >> 17 & 3
    }

    fn divider(&self) -> u64 {
        1 << (((self.divide >> 1 & 4 | self.divide & 3) + 1) & 7)
    }

    /// Nanoseconds that so many counts take, rounded up.
    fn count_ns(&self, counts: u64, config: &LapicsConfig) -> u64 {
        let ns = u128::from(counts) * u128::from(self.divider()) * u128::from(NS_PER_SEC);
        u64::try_from(ns.div_ceil(u128::from(config.bus_frequency))).unwrap_or(u64::MAX)
    }

    fn current(&self, now: u64, config: &LapicsConfig) -> u32 {
        if self.initial == 0 || self.timer_mode() >= 2 {
            return 0;
        }
        let elapsed = u128::from(now.saturating_sub(self.start)) * u128::from(config.bus_frequency)
            / (u128::from(NS_PER_SEC) * u128::from(self.divider()));
        let initial = u128::from(self.initial);
        match self.timer_mode() {
            0 => initial.saturating_sub(elapsed) as u32,
            _ => (initial - elapsed % initial) as u32,
        }
    }

    pub(super) fn tsc_deadline(&self) -> u64 {
        if self.timer_mode() == 2 { self.deadline } else { 0 }
    }

    pub(super) fn set_tsc_deadline(&mut self, value: u64) {
        if self.timer_mode() == 2 {
            self.deadline = value;
        }
    }

    /// When the timer expires next, in virtual nanoseconds.
    pub(super) fn deadline(&self, config: &LapicsConfig) -> Option<u64> {
        match self.timer_mode() {
            2 if self.deadline != 0 => {
                // A TSC value before the offset has passed; far away ones never come.
                let ticks = self.deadline.wrapping_sub(self.tsc_offset) as i64;
                Some(Clock::ns_of_ticks(ticks.max(0) as u64, config.tsc_frequency))
            }
            0 | 1 if self.initial != 0 => {
                Some(self.start.saturating_add(self.count_ns(self.initial.into(), config)))
            }
            _ => None,
        }
    }

    /// The deadline is here: what to send, if anything.
    pub(super) fn timer_expired(&mut self, now: u64, config: &LapicsConfig) -> Option<Message> {
        match self.timer_mode() {
            2 => self.deadline = 0,
            1 => {
                // The next period begins on the grid; if the host was late, whole periods are left out.
                let period = self.count_ns(self.initial.into(), config).max(1);
                self.start += now.saturating_sub(self.start) / period * period;
            }
            _ => self.initial = 0,
        }
        self.local_interrupt(LVT_TIMER)
    }

    fn write_lvt(&mut self, index: u8, value: u32) {
        const COMMON: u32 = 0x1_10ff & !(1 << 12);
        let writable = match index {
            LVT_TIMER => COMMON | 3 << 17,
            LVT_LINT0 | LVT_LINT1 => COMMON | 7 << 8 | 1 << 13 | 1 << 15,
            LVT_ERROR => COMMON,
            _ => COMMON | 7 << 8,
        };
        let mut value = value & writable;
        if self.svr & SVR_ENABLE == 0 {
            value |= LVT_MASKED;
        }
        let before = self.timer_mode();
        self.lvt[usize::from(index - LVT_TIMER)] = value;
        if index == LVT_TIMER && (before == 2) != (self.timer_mode() == 2) {
            self.initial = 0;
            self.deadline = 0;
        }
    }

    // Register access.

    /// A register as the page shows it.
    pub(super) fn read(&self, index: u8, now: u64, config: &LapicsConfig) -> Option<u64> {
        let vectors = |v: &Vectors, first: u8| u64::from(v[usize::from(index - first)]);
        Some(match index {
            ID if self.x2apic() => self.id.into(),
            ID => u64::from(self.id) << 24,
            VERSION => VERSION_VALUE,
            TPR => self.tpr.into(),
            APR => 0,
            PPR => self.ppr().into(),
            EOI => 0,
            LDR => self.ldr.into(),
            DFR => self.dfr.into(),
            SVR => self.svr.into(),
            ISR..TMR => vectors(&self.isr, ISR),
            TMR..IRR => vectors(&self.tmr, TMR),
            IRR..ESR => vectors(&self.irr, IRR),
            ESR => self.esr.into(),
            ICR => self.icr & 0xffff_ffff,
            ICR_HIGH => self.icr >> 32,
            LVT_TIMER..=LVT_ERROR => self.lvt[usize::from(index - LVT_TIMER)].into(),
            INITIAL => self.initial.into(),
            CURRENT => self.current(now, config).into(),
            DIVIDE => self.divide.into(),
            _ => return None,
        })
    }

    /// A register as an MSR; `None` is #GP.
    pub(super) fn read_x2(&self, index: u8, now: u64, config: &LapicsConfig) -> Option<u64> {
        match index {
            APR | DFR | ICR_HIGH | EOI => None,
            ICR => Some(self.icr),
            _ => self.read(index, now, config),
        }
    }

    /// A write to the page; `None` if there is no such register.
    pub(super) fn write(&mut self, index: u8, value: u64, now: u64, config: &LapicsConfig) -> Option<Effect> {
        let word = value as u32;
        match index {
            TPR => self.tpr = word as u8,
            EOI => return Some(self.eoi()),
            LDR => self.ldr = word & 0xff00_0000,
            DFR => self.dfr = word | 0x0fff_ffff,
            SVR => {
                self.svr = word & 0x1ff;
                if self.svr & SVR_ENABLE == 0 {
                    self.lvt.iter_mut().for_each(|entry| *entry |= LVT_MASKED);
                }
            }
            ESR => {
                self.esr = std::mem::take(&mut self.errors);
            }
            ICR => {
                // The delivery status is always idle.
                self.icr = self.icr >> 32 << 32 | u64::from(word & !(1 << 12));
                return Some(self.send(false));
            }
            ICR_HIGH => self.icr = self.icr & 0xffff_ffff | u64::from(word & 0xff00_0000) << 32,
            LVT_TIMER..=LVT_ERROR => self.write_lvt(index, word),
            INITIAL => {
                if self.timer_mode() < 2 {
                    self.initial = word;
                    self.start = now;
                }
            }
            DIVIDE => {
                // A running count goes on at the new speed from where it is.
                let current = self.current(now, config);
                self.divide = word & 0xb;
                if self.initial != 0 && self.timer_mode() < 2 {
                    self.start = now.saturating_sub(self.count_ns((self.initial - current).into(), config));
                }
            }
            ID | VERSION | APR | PPR | ISR..ESR | CURRENT => {}
            _ => return None,
        }
        Some(Effect::Nothing)
    }

    /// A write of an MSR; `None` is #GP.
    pub(super) fn write_x2(
        &mut self,
        index: u8,
        value: u64,
        now: u64,
        config: &LapicsConfig,
    ) -> Option<Effect> {
        match index {
            ICR => {
                self.icr = value & 0xffff_ffff_000c_cfff;
                Some(self.send(true))
            }
            SELF_IPI if value <= 0xff => Some(Effect::Send(Message {
                destination: Destination::Itself,
                delivery: Delivery::Fixed,
                vector: value as u8,
                level: false,
                wide: true,
            })),
            ESR | EOI if value != 0 => None,
            TPR | EOI | SVR | ESR | LVT_TIMER..=LVT_ERROR | INITIAL | DIVIDE if value >> 32 == 0 => {
                self.write(index, value, now, config)
            }
            _ => None,
        }
    }

    fn send(&mut self, x2apic: bool) -> Effect {
        let Some(message) = Message::from_icr(self.icr, x2apic) else { return Effect::Nothing };
        let has_vector = matches!(message.delivery, Delivery::Fixed | Delivery::LowestPriority);
        if has_vector && message.vector < 16 {
            self.errors |= ESR_SEND_VECTOR;
            return Effect::Nothing;
        }
        Effect::Send(message)
    }

    /// The APIC of vCPU `id` whose page another implementation shows as `page`, one word a register; `base` and `deadline`
    /// (in ticks as in [`saved::Registers`]) are its MSRs.
    pub(super) fn from_page(
        id: u32,
        page: &[u32; WORDS],
        base: u64,
        deadline: u64,
        now: u64,
        config: &LapicsConfig,
    ) -> Self {
        let word = |index: u8| page[usize::from(index)];
        let vectors = |first: u8| std::array::from_fn(|i| word(first + i as u8));
        let mut r = Registers {
            base,
            tpr: word(TPR) as u8,
            ldr: word(LDR),
            dfr: word(DFR),
            svr: word(SVR) & 0x1ff,
            isr: vectors(ISR),
            tmr: vectors(TMR),
            irr: vectors(IRR),
            esr: word(ESR),
            icr: u64::from(word(ICR_HIGH)) << 32 | u64::from(word(ICR)),
            lvt: std::array::from_fn(|i| word(LVT_TIMER + i as u8)),
            initial: word(INITIAL),
            divide: word(DIVIDE) & 0xb,
            ..Registers::new(id)
        };
        if r.timer_mode() < 2 {
            // Counted down by so much; a one-shot timer that has come to its end does not run.
            let current = word(CURRENT).min(r.initial);
            r.start = now.saturating_sub(r.count_ns((r.initial - current).into(), config));
            if current == 0 && r.timer_mode() == 0 {
                r.initial = 0;
            }
        }
        r.deadline = deadline;
        r
    }

    /// The page as another implementation takes it.
    pub(super) fn to_page(&self, now: u64, config: &LapicsConfig) -> [u32; WORDS] {
        let word = |index| self.read(index as u8, now, config).unwrap_or_default() as u32;
        let mut page = std::array::from_fn(word);
        // Its high bits whatever the mode.
        page[usize::from(ID)] = self.id << 24;
        page
    }

    // Saved state.

    pub(super) fn save(&self) -> saved::Registers {
        saved::Registers {
            base: self.base,
            tpr: self.tpr,
            ldr: self.ldr,
            dfr: self.dfr,
            svr: self.svr,
            isr: self.isr,
            tmr: self.tmr,
            irr: self.irr,
            esr: self.esr,
            errors: self.errors,
            icr: self.icr,
            lvt: self.lvt,
            initial: self.initial,
            divide: self.divide,
            start: self.start,
            deadline: self.deadline,
            tsc_offset: self.tsc_offset,
        }
    }

    pub(super) fn restore(s: &saved::Registers, id: u32) -> Result<Self, StateError> {
        if s.divide & !0xb != 0 {
            return Err(StateError::new(
                "divide",
                format!("expected bits 0, 1 and 3 only, found {:#x}", s.divide),
            ));
        }
        // Sums with the clock must not overflow: no clock reaches this.
        StateError::at_most("start", s.start, u64::MAX / 4)?;
        Ok(Registers {
            id,
            base: s.base,
            tpr: s.tpr,
            ldr: s.ldr,
            dfr: s.dfr,
            svr: s.svr & 0x1ff,
            isr: s.isr,
            tmr: s.tmr,
            irr: s.irr,
            esr: s.esr,
            errors: s.errors,
            icr: s.icr,
            lvt: s.lvt,
            initial: s.initial,
            divide: s.divide,
            start: s.start,
            deadline: s.deadline,
            tsc_offset: s.tsc_offset,
        })
    }
}

fn x2_ldr(id: u32) -> u32 {
    (id >> 4) << 16 | 1 << (id & 0xf)
}

pub(super) mod saved {
    device::state! {
        /// Saved registers of one local APIC. Times are virtual nanoseconds or, the deadline, ticks of the TSC's frequency.
        pub struct Registers {
            1 => base: u64,
            2 => tpr: u8,
            3 => ldr: u32,
            4 => dfr: u32,
            5 => svr: u32,
            6 => isr: [u32; 8],
            7 => tmr: [u32; 8],
            8 => irr: [u32; 8],
            9 => esr: u32,
            10 => errors: u32,
            11 => icr: u64,
            12 => lvt: [u32; 6],
            13 => initial: u32,
            14 => divide: u32,
            15 => start: u64,
            16 => deadline: u64,
            17 => tsc_offset: u64,
        }
    }
}
