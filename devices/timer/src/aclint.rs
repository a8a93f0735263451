//! RISC-V ACLINT ("RISC-V Advanced Core Local Interruptor Specification", 1.0-rc4), in the SiFive CLINT's layout
//! and in separate regions.
//!
//! Four regions show the same registers; a board maps those its machine has:
//!
//! - `clint`: MSIP at 0, MTIMECMP at 0x4000, MTIME at 0xbff8 (SiFive CLINT, QEMU's `virt`)
//! - `mswi`: MSIP at 0; `mtimer`: MTIMECMP at 0, MTIME at 0x7ff8; `sswi`: SETSSIP at 0
//!
//! MTIP and MSIP are levels. SSIP is an edge: the line is pulsed and the hart latches it in `mip.SSIP`, where
//! software clears it.
//!
//! MTIME counts the machine's clock. Writing it shifts it against the clock; a hart whose `time` CSR reads the
//! clock by itself does not see such a shift.

use device::{
    Access, AccessRule, BuildError, Clock, Device, DeviceConfig, IrqLine, PinSpec, RegionSpec, ResetKind,
    StateBlob, StateError, Timer, Wires, device_config, le_fill, le_value,
};

device_config! {
    /// RISC-V core-local interruptor.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct AclintConfig {
        /// Number of harts.
        pub harts: u32 = 1,
        /// Frequency of MTIME in Hz.
        pub timebase: u64 = 10_000_000,
    }
}

/// MTIMECMP registers that fit in the region; one more would be MTIME.
const MAX_HARTS: u32 = 4095;

impl DeviceConfig for AclintConfig {
    const KIND: &'static str = "riscv.aclint";
    const HELP: &'static str = "RISC-V core-local interruptor (CLINT, ACLINT)";

    fn regions(&self) -> Vec<RegionSpec> {
        vec![
            RegionSpec::new("clint", 0x1_0000, AccessRule::DWORD_QWORD),
            RegionSpec::new("mswi", 0x4000, AccessRule::DWORD),
            RegionSpec::new("mtimer", 0x8000, AccessRule::DWORD_QWORD),
            RegionSpec::new("sswi", 0x4000, AccessRule::DWORD),
        ]
    }

    fn outputs(&self) -> Vec<PinSpec> {
        let harts = self.harts as usize;
        vec![PinSpec::row("mtip", harts), PinSpec::row("msip", harts), PinSpec::row("ssip", harts)]
    }

    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        if self.harts == 0 || self.harts > MAX_HARTS {
            return Err(wires.bad_property("harts", format!("expected 1 to {MAX_HARTS}")));
        }
        if self.timebase == 0 {
            return Err(wires.bad_property("timebase", "expected at least 1"));
        }
        let count = self.harts as usize;
        let lines = |name| wires.lines(name, count).into_iter();
        let harts = lines("mtip")
            .zip(lines("msip"))
            .zip(lines("ssip"))
            .enumerate()
            .map(|(id, ((mtip, msip), ssip))| Hart {
                mtip,
                msip,
                ssip,
                timer: wires.timer(id),
                mtimecmp: u64::MAX,
            })
            .collect();
        Ok(Box::new(Aclint { harts, shift: 0, timebase: self.timebase, clock: wires.clock() }))
    }
}

struct Hart {
    mtip: IrqLine,
    msip: IrqLine,
    ssip: IrqLine,
    timer: Timer,
    mtimecmp: u64,
}

struct Aclint {
    harts: Vec<Hart>,
    /// MTIME minus the clock's ticks.
    shift: u64,
    timebase: u64,
    clock: Clock,
}

/// What an offset means.
enum Register {
    Msip(usize),
    SetSsip(usize),
    MtimeCmp(usize),
    Mtime,
}

impl Aclint {
    /// The register in a region, and the byte offset within it.
    fn decode(&self, region: usize, offset: u64) -> Option<(Register, u64)> {
        let hart = |offset: u64, size: u64| {
            (offset / size < self.harts.len() as u64).then_some((offset / size) as usize)
        };
        match (region, offset) {
            (0, 0..0x4000) | (1, _) => hart(offset, 4).map(|h| (Register::Msip(h), offset % 4)),
            (0, 0xbff8..0xc000) => Some((Register::Mtime, offset % 8)),
            (0, 0x4000..0xbff8) => hart(offset - 0x4000, 8).map(|h| (Register::MtimeCmp(h), offset % 8)),
            (2, 0x7ff8..) => Some((Register::Mtime, offset % 8)),
            (2, _) => hart(offset, 8).map(|h| (Register::MtimeCmp(h), offset % 8)),
            (3, _) => hart(offset, 4).map(|h| (Register::SetSsip(h), offset % 4)),
            _ => None,
        }
    }

    fn mtime(&self) -> u64 {
        self.clock.ticks(self.timebase).wrapping_add(self.shift)
    }

    /// Level and deadline of a hart's timer.
    fn due(&self, mtimecmp: u64) -> (bool, Option<u64>) {
        let ticks = self.clock.ticks(self.timebase);
        match mtimecmp.checked_sub(ticks.wrapping_add(self.shift)) {
            None | Some(0) => (true, None),
            Some(left) => {
                let deadline = Clock::ns_of_ticks(ticks.saturating_add(left), self.timebase);
                (false, (deadline != u64::MAX).then_some(deadline))
            }
        }
    }

    fn update(&self, hart: usize) {
        if let Some(hart) = self.harts.get(hart) {
            let (level, deadline) = self.due(hart.mtimecmp);
            hart.timer.set(deadline);
            hart.mtip.set(level);
        }
    }

    fn update_all(&self) {
        (0..self.harts.len()).for_each(|hart| self.update(hart));
    }
}

/// Replaces half or all of a 64-bit register.
fn merge(old: u64, offset: u64, data: &[u8]) -> u64 {
    let mut bytes = old.to_le_bytes();
    bytes.iter_mut().skip(offset as usize).zip(data).for_each(|(to, from)| *to = *from);
    u64::from_le_bytes(bytes)
}

impl Device for Aclint {
    fn read(&mut self, region: usize, offset: u64, data: &mut [u8]) -> Access {
        let Some((register, within)) = self.decode(region, offset) else { return Access::NoRegister };
        let value = match register {
            Register::Msip(_) | Register::SetSsip(_) if data.len() != 4 => return Access::BadSize,
            Register::Msip(hart) => u64::from(self.harts[hart].msip.level()),
            Register::SetSsip(_) => 0,
            Register::MtimeCmp(hart) => self.harts[hart].mtimecmp,
            Register::Mtime => self.mtime(),
        };
        le_fill(data, value >> (8 * within));
        Access::Ok
    }

    fn write(&mut self, region: usize, offset: u64, data: &[u8]) -> Access {
        let Some((register, within)) = self.decode(region, offset) else { return Access::NoRegister };
        match register {
            Register::Msip(_) | Register::SetSsip(_) if data.len() != 4 => return Access::BadSize,
            Register::Msip(hart) => self.harts[hart].msip.set(le_value(data) & 1 != 0),
            Register::SetSsip(hart) => {
                if le_value(data) & 1 != 0 {
                    self.harts[hart].ssip.pulse();
                }
            }
            Register::MtimeCmp(hart) => {
                self.harts[hart].mtimecmp = merge(self.harts[hart].mtimecmp, within, data);
                self.update(hart);
            }
            Register::Mtime => {
                let wanted = merge(self.mtime(), within, data);
                self.shift = wanted.wrapping_sub(self.clock.ticks(self.timebase));
                self.update_all();
            }
        }
        Access::Ok
    }

    fn timer(&mut self, id: usize) {
        self.update(id);
    }

    fn reset(&mut self, _kind: ResetKind) {
        // MTIME goes on: it is the platform's clock, not the harts'.
        self.shift = 0;
        for hart in &mut self.harts {
            hart.mtimecmp = u64::MAX;
            hart.timer.cancel();
            hart.mtip.set(false);
            hart.msip.set(false);
            hart.ssip.set(false);
        }
    }

    fn save(&self) -> StateBlob {
        let state = state::V1 {
            shift: self.shift,
            mtimecmp: self.harts.iter().map(|h| h.mtimecmp).collect(),
            msip: self.harts.iter().map(|h| h.msip.level()).collect(),
            mtip: self.harts.iter().map(|h| h.mtip.level()).collect(),
        };
        StateBlob::new(AclintConfig::KIND, 1, &state)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        let s: state::V1 = state.decode(AclintConfig::KIND, 1)?;
        let harts = self.harts.len();
        for (name, found) in [("mtimecmp", s.mtimecmp.len()), ("msip", s.msip.len()), ("mtip", s.mtip.len())]
        {
            if found != harts {
                return Err(StateError::new(name, format!("expected {harts} harts, found {found}")));
            }
        }
        self.shift = s.shift;
        for (hart, ((mtimecmp, msip), mtip)) in
            self.harts.iter_mut().zip(s.mtimecmp.into_iter().zip(s.msip).zip(s.mtip))
        {
            hart.mtimecmp = mtimecmp;
            hart.msip.import(msip);
            hart.mtip.import(mtip);
        }
        for hart in &self.harts {
            // An expiry the saved machine had not seen yet fires from the timer, as an edge.
            let (due, deadline) = self.due(hart.mtimecmp);
            hart.timer.set(if due && !hart.mtip.level() { Some(self.clock.now()) } else { deadline });
        }
        Ok(())
    }
}

mod state {
    device::state! {
        /// Saved state of an ACLINT, version 1.
        pub(super) struct V1 {
            1 => shift: u64,
            2 => mtimecmp: Vec<u64>,
            3 => msip: Vec<bool>,
            4 => mtip: Vec<bool>,
        }
    }
}

#[cfg(test)]
mod tests {
    use device::test_bench::{Bench, Edge, check};

    use super::*;

    fn bench() -> Bench {
        Bench::new(AclintConfig { harts: 2, ..AclintConfig::default() })
    }

    #[test]
    fn timer_fires_on_the_tick() {
        let b = bench();
        b.write(0, 0x4008, 8, 15);
        b.advance(1499);
        assert_eq!((b.read(0, 0xbff8, 8), b.line_at("mtip", 1)), (14, false));
        b.advance(1);
        assert_eq!((b.read(2, 0x7ff8, 8), b.line_at("mtip", 1), b.line_at("mtip", 0)), (15, true, false));
        b.write(2, 8, 8, 16);
        assert!(!b.line_at("mtip", 1));
        b.advance(100);
        assert!(b.line_at("mtip", 1));
    }

    #[test]
    fn halves_and_shifted_time() {
        let b = bench();
        b.write(0, 0x4000, 4, 0xffff_ffff);
        b.write(0, 0x4004, 4, 0);
        assert_eq!(b.read(0, 0x4000, 8), 0xffff_ffff);
        b.write(0, 0xbffc, 4, 1);
        assert_eq!(b.read(0, 0xbffc, 4), 1);
        assert!(b.line_at("mtip", 0));
        b.write(0, 0xbff8, 8, 0xffff_fffe);
        assert!(!b.line_at("mtip", 0));
        b.advance(100);
        assert!(b.line_at("mtip", 0));
    }

    #[test]
    fn software_interrupts() {
        let b = bench();
        b.write(0, 4, 4, 0xffff_ffff);
        assert_eq!((b.line_at("msip", 1), b.read(1, 4, 4)), (true, 1));
        b.write(1, 4, 4, 0);
        assert!(!b.line_at("msip", 1));
        b.take_edges();
        b.write(3, 4, 4, 1);
        b.write(3, 4, 4, 0);
        let edge = |level| Edge { name: "ssip".into(), index: 1, level };
        assert_eq!(b.take_edges(), [edge(true), edge(false)]);
        assert_eq!(b.try_read(0, 8, 4).0, Access::NoRegister, "no third hart");
    }

    #[test]
    fn passes_the_common_tests() {
        check(AclintConfig { harts: 3, ..AclintConfig::default() });
    }
}
