//! RISC-V Platform-Level Interrupt Controller ("RISC-V PLIC Specification" 1.0.0), as SiFive lays it out.
//!
//! Source 0 does not exist. Gateways are level-sensitive: a source that is high becomes pending unless it is being
//! served, stays pending even if it falls, and is looked at again on completion. Priority 0 means never; a claim
//! ignores the threshold, as the specification has it.

use device::{
    Access, AccessRule, BuildError, Device, DeviceConfig, IrqLine, PinSpec, RegionSpec, ResetKind, StateBlob,
    StateError, Wires, device_config, le_fill, le_value,
};

device_config! {
    /// RISC-V platform-level interrupt controller.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct PlicConfig {
        /// Number of the highest source.
        pub sources: u32 = 95,
        /// Number of contexts (usually two a hart: machine, supervisor).
        pub contexts: u32 = 2,
        /// Highest priority, one less than a power of two.
        pub max_priority: u32 = 7,
    }
}

const PRIORITY: u64 = 0;
const PENDING: u64 = 0x1000;
const ENABLE: u64 = 0x2000;
const ENABLE_STEP: u64 = 0x80;
const CONTEXT: u64 = 0x20_0000;
const CONTEXT_STEP: u64 = 0x1000;

impl DeviceConfig for PlicConfig {
    const KIND: &'static str = "riscv.plic";
    const HELP: &'static str = "RISC-V platform-level interrupt controller";

    fn regions(&self) -> Vec<RegionSpec> {
        let size = CONTEXT + CONTEXT_STEP * u64::from(self.contexts);
        vec![RegionSpec::new("registers", size, AccessRule::DWORD)]
    }

    /// Pin `source` 0 is not used, so that pin and source numbers agree.
    fn inputs(&self) -> Vec<PinSpec> {
        vec![PinSpec::row("source", self.sources as usize + 1)]
    }

    fn outputs(&self) -> Vec<PinSpec> {
        vec![PinSpec::row("context", self.contexts as usize)]
    }

    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        if !(1..=1023).contains(&self.sources) {
            return Err(wires.bad_property("sources", "expected 1 to 1023"));
        }
        if !(1..=15872).contains(&self.contexts) {
            return Err(wires.bad_property("contexts", "expected 1 to 15872"));
        }
        if self.max_priority.wrapping_add(1).count_ones() != 1 || self.max_priority == 0 {
            return Err(wires.bad_property("max_priority", "expected one less than a power of two"));
        }
        let lines = wires.lines("context", self.contexts as usize);
        Ok(Box::new(Plic { r: Registers::new(&self), config: self, lines }))
    }
}

/// One bit a source.
type Bits = Vec<u32>;

fn bit(bits: &[u32], source: usize) -> bool {
    bits[source / 32] >> (source % 32) & 1 != 0
}

fn set_bit(bits: &mut [u32], source: usize, value: bool) {
    let mask = 1 << (source % 32);
    if value { bits[source / 32] |= mask } else { bits[source / 32] &= !mask }
}

#[derive(Clone, Debug, PartialEq)]
struct Context {
    enabled: Bits,
    threshold: u32,
}

#[derive(Clone, Debug, PartialEq)]
struct Registers {
    priority: Vec<u32>,
    level: Bits,
    pending: Bits,
    /// Claimed and not completed.
    serving: Bits,
    contexts: Vec<Context>,
}

impl Registers {
    fn new(config: &PlicConfig) -> Self {
        let words = (config.sources as usize + 1).div_ceil(32);
        let context = Context { enabled: vec![0; words], threshold: 0 };
        Registers {
            priority: vec![0; config.sources as usize + 1],
            level: vec![0; words],
            pending: vec![0; words],
            serving: vec![0; words],
            contexts: vec![context; config.contexts as usize],
        }
    }

    /// The pending source of the highest priority that is enabled in a context; the lowest number wins a tie.
    fn best(&self, context: &Context) -> Option<(u32, usize)> {
        let mut best: Option<(u32, usize)> = None;
        for (w, (pending, enabled)) in self.pending.iter().zip(&context.enabled).enumerate() {
            let mut word = pending & enabled;
            while word != 0 {
                let source = w * 32 + word.trailing_zeros() as usize;
                word &= word - 1;
                let priority = self.priority[source];
                if priority > best.map_or(0, |(p, _)| p) {
                    best = Some((priority, source));
                }
            }
        }
        best
    }

    fn raised(&self, context: &Context) -> bool {
        self.best(context).is_some_and(|(priority, _)| priority > context.threshold)
    }
}

struct Plic {
    config: PlicConfig,
    lines: Vec<IrqLine>,
    r: Registers,
}

/// What an offset means.
enum Register {
    Priority(usize),
    Pending(usize),
    Enable(usize, usize),
    Threshold(usize),
    Claim(usize),
}

impl Plic {
    fn decode(&self, offset: u64) -> Option<Register> {
        let words = self.r.pending.len();
        let contexts = self.r.contexts.len();
        let index = |n: u64, limit: usize| usize::try_from(n).ok().filter(|&n| n < limit);
        match offset {
            PRIORITY..PENDING => {
                index(offset / 4, self.r.priority.len()).filter(|&source| source != 0).map(Register::Priority)
            }
            PENDING..ENABLE => index((offset - PENDING) / 4, words).map(Register::Pending),
            ENABLE..CONTEXT => {
                let context = index((offset - ENABLE) / ENABLE_STEP, contexts)?;
                index((offset - ENABLE) % ENABLE_STEP / 4, words).map(|word| Register::Enable(context, word))
            }
            _ => {
                let context = index((offset - CONTEXT) / CONTEXT_STEP, contexts)?;
                match (offset - CONTEXT) % CONTEXT_STEP {
                    0 => Some(Register::Threshold(context)),
                    4 => Some(Register::Claim(context)),
                    _ => None,
                }
            }
        }
    }

    fn update(&self) {
        for (line, context) in self.lines.iter().zip(&self.r.contexts) {
            line.set(self.r.raised(context));
        }
    }

    fn claim(&mut self, context: usize) -> u32 {
        let Some((_, source)) = self.r.best(&self.r.contexts[context]) else { return 0 };
        set_bit(&mut self.r.pending, source, false);
        set_bit(&mut self.r.serving, source, true);
        self.update();
        source as u32
    }

    fn complete(&mut self, context: usize, source: u64) {
        let Some(source) = usize::try_from(source).ok().filter(|&s| s < self.r.priority.len()) else {
            return;
        };
        if bit(&self.r.contexts[context].enabled, source) && bit(&self.r.serving, source) {
            set_bit(&mut self.r.serving, source, false);
            if bit(&self.r.level, source) {
                set_bit(&mut self.r.pending, source, true);
            }
            self.update();
        }
    }
}

impl Device for Plic {
    fn read(&mut self, _region: usize, offset: u64, data: &mut [u8]) -> Access {
        let value = match self.decode(offset) {
            Some(Register::Priority(source)) => self.r.priority[source],
            Some(Register::Pending(word)) => self.r.pending[word],
            Some(Register::Enable(context, word)) => self.r.contexts[context].enabled[word],
            Some(Register::Threshold(context)) => self.r.contexts[context].threshold,
            Some(Register::Claim(context)) => self.claim(context),
            None => return Access::NoRegister,
        };
        le_fill(data, value.into());
        Access::Ok
    }

    fn write(&mut self, _region: usize, offset: u64, data: &[u8]) -> Access {
        let value = le_value(data) as u32;
        match self.decode(offset) {
            Some(Register::Priority(source)) => self.r.priority[source] = value & self.config.max_priority,
            Some(Register::Pending(_)) => return Access::ReadOnly,
            Some(Register::Enable(context, word)) => {
                // Source 0 cannot be enabled, nor those beyond the last.
                let beyond = (word * 32 + 32).saturating_sub(self.r.priority.len());
                let mask = (u32::MAX >> beyond.min(31)) & if word == 0 { !1 } else { !0 };
                self.r.contexts[context].enabled[word] = value & mask;
            }
            Some(Register::Threshold(context)) => {
                self.r.contexts[context].threshold = value & self.config.max_priority;
            }
            Some(Register::Claim(context)) => self.complete(context, value.into()),
            None => return Access::NoRegister,
        }
        self.update();
        Access::Ok
    }

    fn line_in(&mut self, pin: usize, level: bool) {
        if pin == 0 || pin >= self.r.priority.len() {
            return;
        }
        set_bit(&mut self.r.level, pin, level);
        if level && !bit(&self.r.serving, pin) {
            set_bit(&mut self.r.pending, pin, true);
            self.update();
        }
    }

    fn reset(&mut self, _kind: ResetKind) {
        // The inputs are wires: their levels are whatever their drivers say, and those are reset as well.
        self.r = Registers::new(&self.config);
        self.update();
    }

    fn save(&self) -> StateBlob {
        let r = &self.r;
        let state = state::V1 {
            priority: r.priority.clone(),
            level: r.level.clone(),
            pending: r.pending.clone(),
            serving: r.serving.clone(),
            contexts: r
                .contexts
                .iter()
                .map(|c| state::Context { enabled: c.enabled.clone(), threshold: c.threshold })
                .collect(),
        };
        StateBlob::new(PlicConfig::KIND, 1, &state)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        let s: state::V1 = state.decode(PlicConfig::KIND, 1)?;
        let (sources, words) = (self.r.priority.len(), self.r.pending.len());
        let sized = |name: &str, found: usize, wanted: usize| {
            if found == wanted {
                Ok(())
            } else {
                Err(StateError::new(name, format!("expected {wanted} elements, found {found}")))
            }
        };
        sized("priority", s.priority.len(), sources)?;
        sized("level", s.level.len(), words)?;
        sized("pending", s.pending.len(), words)?;
        sized("serving", s.serving.len(), words)?;
        sized("contexts", s.contexts.len(), self.r.contexts.len())?;
        for context in &s.contexts {
            sized("contexts/enabled", context.enabled.len(), words)?;
        }
        let beyond = |bits: &Bits| (sources..words * 32).chain([0]).any(|source| bit(bits, source));
        for (name, bits) in [("level", &s.level), ("pending", &s.pending), ("serving", &s.serving)] {
            if beyond(bits) {
                return Err(StateError::new(name, "expected bits of existing sources only"));
            }
        }
        if s.contexts.iter().any(|c| beyond(&c.enabled)) {
            return Err(StateError::new("contexts/enabled", "expected bits of existing sources only"));
        }
        let context = |c: state::Context| Context { enabled: c.enabled, threshold: c.threshold };
        self.r = Registers {
            priority: s.priority,
            level: s.level,
            pending: s.pending,
            serving: s.serving,
            contexts: s.contexts.into_iter().map(context).collect(),
        };
        for (line, context) in self.lines.iter().zip(&self.r.contexts) {
            line.import(self.r.raised(context));
        }
        Ok(())
    }
}

mod state {
    device::state! {
        /// Saved state of a context.
        pub(super) struct Context { 1 => enabled: Vec<u32>, 2 => threshold: u32 }
    }
    device::state! {
        /// Saved state of a PLIC, version 1.
        pub(super) struct V1 {
            1 => priority: Vec<u32>,
            2 => level: Vec<u32>,
            3 => pending: Vec<u32>,
            4 => serving: Vec<u32>,
            5 => contexts: Vec<Context>,
        }
    }
}

#[cfg(test)]
mod tests {
    use device::test_bench::{Bench, check};

    use super::*;

    const CLAIM0: u64 = CONTEXT + 4;
    const CLAIM1: u64 = CONTEXT + CONTEXT_STEP + 4;

    /// Sources 1 to 40; 5 and 33 enabled for context 1 with priorities 1 and 2.
    fn plic() -> Bench {
        let b = Bench::new(PlicConfig { sources: 40, ..PlicConfig::default() });
        b.write(0, 5 * 4, 4, 1);
        b.write(0, 33 * 4, 4, 2);
        b.write(0, ENABLE + ENABLE_STEP, 4, 1 << 5);
        b.write(0, ENABLE + ENABLE_STEP + 4, 4, 1 << 1);
        b
    }

    #[test]
    fn claims_in_order_of_priority() {
        let b = plic();
        b.input("source", 5, true);
        b.input("source", 33, true);
        assert_eq!((b.line_at("context", 0), b.line_at("context", 1)), (false, true));
        assert_eq!(b.read(0, CLAIM0, 4), 0);
        assert_eq!((b.read(0, PENDING, 4), b.read(0, PENDING + 4, 4)), (1 << 5, 2));
        assert_eq!((b.read(0, CLAIM1, 4), b.read(0, CLAIM1, 4), b.read(0, CLAIM1, 4)), (33, 5, 0));
        assert!(!b.line_at("context", 1), "all are being served");
        b.input("source", 5, false);
        b.write(0, CLAIM1, 4, 5);
        assert!(!b.line_at("context", 1));
        b.write(0, CLAIM1, 4, 33);
        assert!(b.line_at("context", 1), "still high: pending again");
        b.write(0, CLAIM1, 4, 0xffff_ffff);
    }

    #[test]
    fn a_pulse_stays_pending() {
        let b = plic();
        b.input("source", 5, true);
        b.input("source", 5, false);
        assert_eq!(b.read(0, CLAIM1, 4), 5);
    }

    #[test]
    fn threshold_masks_the_line_but_not_the_claim() {
        let b = plic();
        b.write(0, CONTEXT + CONTEXT_STEP, 4, 1);
        b.input("source", 5, true);
        assert!(!b.line_at("context", 1));
        assert_eq!(b.read(0, CLAIM1, 4), 5);
        b.input("source", 33, true);
        assert!(b.line_at("context", 1));
        b.write(0, 33 * 4, 4, 0xfff8);
        assert!(!b.line_at("context", 1), "priority 0 never interrupts");
        assert_eq!(b.read(0, CLAIM1, 4), 0);
    }

    #[test]
    fn what_does_not_exist() {
        let b = plic();
        b.write(0, ENABLE, 4, !0);
        b.write(0, ENABLE + 4, 4, !0);
        assert_eq!((b.read(0, ENABLE, 4), b.read(0, ENABLE + 4, 4)), (0xffff_fffe, 0x1ff));
        for offset in [0, 41 * 4, PENDING + 8, ENABLE + 8, ENABLE + 2 * ENABLE_STEP, CONTEXT + 8] {
            assert_eq!(b.try_read(0, offset, 4).0, Access::NoRegister, "{offset:#x}");
        }
        assert_eq!(b.try_write(0, PENDING, 4, 1), Access::ReadOnly);
    }

    #[test]
    fn passes_the_common_tests() {
        check(PlicConfig { sources: 40, contexts: 3, ..PlicConfig::default() });
        check(PlicConfig { sources: 31, contexts: 1, ..PlicConfig::default() });
    }
}
