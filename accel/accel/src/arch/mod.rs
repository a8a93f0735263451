//! Neutral register state, one module per guest architecture.

pub mod aarch64;
pub mod irqchip;
pub mod riscv;
pub mod table;
pub mod x86_64;
pub mod x86_models;
pub mod x86_topology;

use std::{fmt, str::FromStr};

pub use table::{Difference, StateError};
use table::{Field, Reader};

/// A guest architecture. Width and byte order are part of it; privilege extensions are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GuestArch {
    /// 32-bit RISC-V.
    Riscv32,
    /// 64-bit RISC-V.
    Riscv64,
    /// x86 in all its modes, starting in real mode.
    X86_64,
    /// 32-bit x86, of programs.
    I386,
    /// 64-bit ARM.
    Aarch64,
}

impl GuestArch {
    /// Those of machines.
    pub const ALL: [Self; 4] = [Self::Riscv32, Self::Riscv64, Self::X86_64, Self::Aarch64];

    /// Name as in `qemu-system-NAME`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Riscv32 => "riscv32",
            Self::Riscv64 => "riscv64",
            Self::X86_64 => "x86_64",
            Self::I386 => "i386",
            Self::Aarch64 => "aarch64",
        }
    }
}

impl fmt::Display for GuestArch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for GuestArch {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|a| a.name() == s).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|a| a.name()).collect();
            format!("unknown guest architecture '{s}', expected one of {}", names.join(", "))
        })
    }
}

/// The state of one vCPU of any architecture.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum CpuState {
    /// RISC-V, 32 or 64 bit.
    Riscv(Box<riscv::State>),
    /// x86.
    X86_64(Box<x86_64::State>),
    /// 64-bit ARM.
    Aarch64(Box<aarch64::State>),
}

impl CpuState {
    /// Name of the architecture.
    #[must_use]
    pub fn arch_name(&self) -> &'static str {
        match self {
            Self::Riscv(_) => "riscv",
            Self::X86_64(_) => "x86_64",
            Self::Aarch64(_) => "aarch64",
        }
    }

    /// The state as a field, for everything that treats its parts alike.
    #[must_use]
    pub fn fields(&self) -> &dyn Field {
        match self {
            Self::Riscv(s) => &**s,
            Self::X86_64(s) => &**s,
            Self::Aarch64(s) => &**s,
        }
    }

    fn fields_mut(&mut self) -> &mut dyn Field {
        match self {
            Self::Riscv(s) => &mut **s,
            Self::X86_64(s) => &mut **s,
            Self::Aarch64(s) => &mut **s,
        }
    }

    /// Virtual address of the next instruction (x86: linear).
    #[must_use]
    pub fn pc(&self) -> u64 {
        match self {
            Self::Riscv(s) => s.pc,
            Self::X86_64(s) => s.linear_pc(),
            Self::Aarch64(s) => s.pc,
        }
    }

    /// The saved form: the length and name of the architecture, then the fields (see [`table`]).
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        let name = self.arch_name();
        let mut out = vec![name.len() as u8];
        out.extend_from_slice(name.as_bytes());
        self.fields().put(&mut out);
        out
    }

    /// Reads the saved form back: all of it, or an error with the path of the first bad field.
    pub fn restore(bytes: &[u8]) -> Result<Self, StateError> {
        let mut from = Reader::new(bytes);
        let [len] = from.array::<1>("arch")?;
        let name = from.take(usize::from(len), "arch")?;
        let mut state = match name {
            b"riscv" => Self::Riscv(Box::default()),
            b"x86_64" => Self::X86_64(Box::default()),
            b"aarch64" => Self::Aarch64(Box::default()),
            _ => {
                return Err(StateError::new(
                    "arch",
                    format!("is '{}', expected riscv, x86_64 or aarch64", name.escape_ascii()),
                ));
            }
        };
        let mut path = state.arch_name().to_owned();
        state.fields_mut().take(&mut from, &mut path)?;
        from.end(&path)?;
        Ok(state)
    }

    /// The fields in which `self` and `other` differ.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Vec<Difference> {
        if self == other { Vec::new() } else { table::compare(self.fields(), other.fields()) }
    }

    /// Readable text of the whole state, several lines (`info registers`).
    #[must_use]
    pub fn inspect(&self) -> String {
        table::inspect(self.fields())
    }

    /// Value of the field at `path` (`rax`, `cs.limit`, `x.5`) in its saved form, which for a register is
    /// its bytes in little-endian order; `None` if there is no such field.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        self.fields().find(path)?.put(&mut out);
        Some(out)
    }

    /// Sets the field at `path` from its saved form. On error nothing has changed.
    pub fn set(&mut self, path: &str, value: &[u8]) -> Result<(), StateError> {
        let Some(field) = self.fields_mut().find_mut(path) else {
            return Err(StateError::new(path, "does not exist"));
        };
        let mut before = Vec::new();
        field.put(&mut before);
        let mut from = Reader::new(value);
        let done = field.take(&mut from, &mut path.to_owned()).and_then(|()| from.end(path));
        if done.is_err() {
            field.take(&mut Reader::new(&before), &mut path.to_owned())?;
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<CpuState> {
        let mut riscv = riscv::State { xlen: 64, pc: 0x8000_0000, ..Default::default() };
        riscv.x[5] = 0x1234;
        riscv.v = vec![1, 2, 3];
        riscv.reservation = Some((8, 9));
        riscv.triggers[7].data2 = 77;
        let mut x86 = x86_64::State::reset();
        x86.msrs = vec![x86_64::Msr { index: 0x10, value: 5 }];
        x86.lapic = Some([7; x86_64::LAPIC_REGISTERS]);
        x86.fpu.zmm[31].0[63] = 0xAA;
        x86.events.error_code = Some(3);
        x86.run = x86_64::RunState::WaitForSipi;
        let arm = aarch64::State { pc: 4, run: aarch64::RunState::Off, ..Default::default() };
        vec![
            CpuState::Riscv(Box::new(riscv)),
            CpuState::X86_64(Box::new(x86)),
            CpuState::Aarch64(Box::new(arm)),
        ]
    }

    #[test]
    fn a_state_survives_saving() {
        for s in samples() {
            assert_eq!(CpuState::restore(&s.save()).unwrap(), s);
        }
    }

    #[test]
    fn no_cut_or_flipped_byte_panics_and_a_cut_is_an_error() {
        for s in samples() {
            let bytes = s.save();
            for n in 0..bytes.len() {
                assert!(CpuState::restore(&bytes[..n]).is_err(), "{n} of {} bytes", bytes.len());
            }
            for i in 0..bytes.len() {
                let mut b = bytes.clone();
                b[i] ^= 0xFF;
                let _ = CpuState::restore(&b);
            }
        }
    }

    #[test]
    fn a_bad_field_is_named_by_its_path() {
        let mut s = x86_64::State::reset();
        s.cs.limit = 0x1234_5678;
        let s = CpuState::X86_64(Box::new(s));
        let mut bytes = s.save();
        let at = bytes.windows(4).position(|w| w == [0x78, 0x56, 0x34, 0x12]).unwrap();
        // The length in front of the value.
        bytes[at - 4] = 3;
        let e = CpuState::restore(&bytes).unwrap_err();
        assert_eq!(e.path, "x86_64.cs.limit");
        let mut bytes = samples()[2].save();
        *bytes.last_mut().unwrap() = 9;
        assert_eq!(
            CpuState::restore(&bytes).unwrap_err().to_string(),
            "cpu state field 'aarch64.run': is 9, expected one of 0 1 2"
        );
    }

    #[test]
    fn compare_lists_exactly_what_differs() {
        let a = samples().remove(0);
        let mut b = a.clone();
        b.set("x.5", &0x99u64.to_le_bytes()).unwrap();
        b.set("v.1", &[8]).unwrap();
        let CpuState::Riscv(s) = &mut b else { panic!() };
        s.reservation = None;
        let paths: Vec<_> = a.compare(&b).into_iter().map(|d| d.path).collect();
        assert_eq!(paths, ["x.5", "v.1", "reservation.0", "reservation.1"]);
        assert!(a.compare(&a).is_empty());
    }

    #[test]
    fn fields_are_reached_by_name() {
        let mut s = samples().remove(1);
        assert_eq!(s.get("rip").unwrap(), 0xFFF0u64.to_le_bytes());
        assert_eq!(s.get("cs.selector").unwrap(), [0, 0xF0]);
        assert!(s.get("cs.colour").is_none());
        s.set("lapic.2", &1u32.to_le_bytes()).unwrap();
        assert_eq!(s.get("lapic.2").unwrap(), [1, 0, 0, 0]);
        assert!(s.set("rax", &[1, 2]).is_err());
        assert!(s.set("rax", &[1; 9]).is_err());
        assert_eq!(s.get("rax").unwrap(), [0; 8]);
        assert_eq!(s.pc(), 0xFFFF_FFF0);
    }

    #[test]
    fn listed_registers_are_known_by_their_number() {
        let a = samples().remove(1);
        let mut b = a.clone();
        if let CpuState::X86_64(s) = &mut b {
            s.msrs = vec![x86_64::Msr { index: 0x10, value: 6 }, x86_64::Msr { index: 0x174, value: 0 }];
        }
        let paths: Vec<_> = a.compare(&b).into_iter().map(|d| (d.path, d.right)).collect();
        let wanted = [("msrs.0x10", "0000000000000006"), ("msrs.0x174", "0000000000000000")];
        assert_eq!(paths, wanted.map(|(p, v)| (p.to_owned(), v.to_owned())));
        assert!(b.inspect().contains("msrs.0x10=0000000000000006"));
        assert!(!b.inspect().contains("0x174"));
    }

    #[test]
    fn inspect_names_registers() {
        let text = samples()[0].inspect();
        assert!(text.contains("x5=0000000000001234"), "{text}");
        assert!(text.contains("pc=0000000080000000"), "{text}");
        assert!(text.lines().all(|l| l.len() <= 200), "{text}");
    }
}
