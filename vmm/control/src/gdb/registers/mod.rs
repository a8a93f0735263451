//! Register files as GDB sees them ("Target Descriptions" and "Standard Target Features" in GDB's manual).
//!
//! A description lists registers with their numbers and sizes; one function an architecture says where each
//! lives in the neutral CPU state. Reading, writing, the `g` packet and the XML all follow from these two.

mod i386;
mod riscv;
mod x86;

use accel::arch::{CpuState, GuestArch};
use std::fmt::Write;

/// One register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Register {
    pub(super) name: String,
    pub(super) number: usize,
    pub(super) bits: usize,
    /// GDB's type: `int`, `code_ptr`, `ieee_double` or one that the feature defines.
    pub(super) kind: &'static str,
    /// `general`, `float`, `vector`, `csr`, ...; empty for GDB's own choice.
    pub(super) group: &'static str,
}

/// A set of registers that GDB knows by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Feature {
    pub(super) name: &'static str,
    /// Type definitions in XML.
    pub(super) types: String,
    pub(super) registers: Vec<Register>,
}

/// A register file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// GDB's name of the architecture.
    pub(super) arch: &'static str,
    /// GDB's name of the system that programs run on, for a program.
    pub(super) system: Option<&'static str>,
    pub(super) features: Vec<Feature>,
    /// Registers with numbers below this are in the `g` packet; others are asked for one by one.
    pub(super) in_g: usize,
    pub(super) pc: usize,
}

/// Where a register lives.
pub(super) enum Place<'a> {
    U64(&'a mut u64),
    U32(&'a mut u32),
    U16(&'a mut u16),
    U8(&'a mut u8),
    /// 80 bits.
    Wide(&'a mut u128),
    Bytes(&'a mut [u8]),
    /// Some bits of a larger register.
    Field {
        of: &'a mut u64,
        shift: u32,
        mask: u64,
    },
    /// Cannot be written.
    Fixed(u64),
}

impl Place<'_> {
    fn read(&self, out: &mut [u8]) {
        let copy = |out: &mut [u8], from: &[u8]| {
            let n = out.len().min(from.len());
            out[..n].copy_from_slice(&from[..n]);
        };
        match self {
            Self::U64(v) => copy(out, &v.to_le_bytes()),
            Self::U32(v) => copy(out, &v.to_le_bytes()),
            Self::U16(v) => copy(out, &v.to_le_bytes()),
            Self::U8(v) => copy(out, &[**v]),
            Self::Wide(v) => copy(out, &v.to_le_bytes()),
            Self::Bytes(v) => copy(out, v),
            Self::Field { of, shift, mask } => copy(out, &(**of >> shift & mask).to_le_bytes()),
            Self::Fixed(v) => copy(out, &v.to_le_bytes()),
        }
    }

    fn write(self, from: &[u8]) {
        let mut wide = [0; 16];
        let n = from.len().min(16);
        wide[..n].copy_from_slice(&from[..n]);
        let value = u128::from_le_bytes(wide);
        let low = value as u64;
        match self {
            Self::U64(v) => *v = low,
            Self::U32(v) => *v = low as u32,
            Self::U16(v) => *v = low as u16,
            Self::U8(v) => *v = low as u8,
            Self::Wide(v) => *v = value & ((1 << 80) - 1),
            Self::Bytes(v) => {
                let n = v.len().min(from.len());
                v[..n].copy_from_slice(&from[..n]);
            }
            Self::Field { of, shift, mask } => *of = *of & !(mask << shift) | (low & mask) << shift,
            Self::Fixed(_) => {}
        }
    }
}

impl Description {
    /// The register file of a vCPU, by what its state holds.
    pub fn of(state: &CpuState, arch: GuestArch) -> Option<Self> {
        match state {
            CpuState::Riscv(s) => Some(riscv::description(s)),
            CpuState::X86_64(_) => Some(x86::description()),
            _ => {
                tracing::debug!(%arch, "no register description");
                None
            }
        }
    }

    /// What of it a program sees, which has no control registers; one of 32 bits has its own file.
    pub fn of_program(state: &CpuState, arch: GuestArch) -> Option<Self> {
        const SHOWN: [&str; 6] = [
            "org.gnu.gdb.riscv.cpu",
            "org.gnu.gdb.riscv.fpu",
            "org.gnu.gdb.riscv.vector",
            "org.gnu.gdb.i386.core",
            "org.gnu.gdb.i386.sse",
            "org.gnu.gdb.i386.segments",
        ];
        let mut d = match arch {
            GuestArch::I386 => i386::description(),
            _ => Self::of(state, arch)?,
        };
        d.system = Some("GNU/Linux");
        d.features.retain(|f| SHOWN.contains(&f.name));
        if arch == GuestArch::X86_64 {
            d.features.push(x86::linux());
        }
        Some(d)
    }

    fn registers(&self) -> impl Iterator<Item = &Register> {
        self.features.iter().flat_map(|f| &f.registers)
    }

    fn register(&self, number: usize) -> Option<&Register> {
        self.registers().find(|r| r.number == number)
    }

    /// One register's bytes, guest byte order.
    pub fn read(&self, state: &mut CpuState, number: usize) -> Option<Vec<u8>> {
        let mut out = vec![0; self.register(number)?.bits.div_ceil(8)];
        place(state, number)?.read(&mut out);
        Some(out)
    }

    /// Replaces one register; false when there is none of that number or the size is not right.
    pub fn write(&self, state: &mut CpuState, number: usize, bytes: &[u8]) -> bool {
        let fits = self.register(number).is_some_and(|r| r.bits.div_ceil(8) == bytes.len());
        match place(state, number) {
            Some(place) if fits => {
                place.write(bytes);
                true
            }
            _ => false,
        }
    }

    /// The `g` packet.
    pub fn read_all(&self, state: &mut CpuState) -> Vec<u8> {
        let numbers: Vec<usize> = self.registers().map(|r| r.number).filter(|n| *n < self.in_g).collect();
        numbers.into_iter().filter_map(|n| self.read(state, n)).flatten().collect()
    }

    /// The `G` packet; false when it is too short or too long.
    pub fn write_all(&self, state: &mut CpuState, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        for r in self.registers().filter(|r| r.number < self.in_g) {
            let Some((value, tail)) = rest.split_at_checked(r.bits.div_ceil(8)) else { return false };
            rest = tail;
            self.write(state, r.number, value);
        }
        rest.is_empty()
    }

    /// The program counter.
    pub fn pc(&self, state: &mut CpuState) -> u64 {
        let mut bytes = [0; 8];
        if let Some(place) = place(state, self.pc) {
            place.read(&mut bytes);
        }
        u64::from_le_bytes(bytes)
    }

    /// `target.xml`.
    pub fn xml(&self) -> String {
        let mut x = String::from(
            "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target version=\"1.0\">",
        );
        // Writing to a String cannot fail.
        let _ = write!(x, "<architecture>{}</architecture>", self.arch);
        if let Some(system) = self.system {
            let _ = write!(x, "<osabi>{system}</osabi>");
        }
        for f in &self.features {
            let _ = write!(x, "<feature name=\"{}\">{}", f.name, f.types);
            for r in &f.registers {
                let _ = write!(
                    x,
                    "<reg name=\"{}\" bitsize=\"{}\" regnum=\"{}\" type=\"{}\"",
                    r.name, r.bits, r.number, r.kind
                );
                if !r.group.is_empty() {
                    let _ = write!(x, " group=\"{}\"", r.group);
                }
                x.push_str("/>");
            }
            x.push_str("</feature>");
        }
        x.push_str("</target>");
        x
    }
}

fn place(state: &mut CpuState, number: usize) -> Option<Place<'_>> {
    match state {
        CpuState::Riscv(s) => riscv::place(s, number),
        CpuState::X86_64(s) => x86::place(s, i386::wide(number)?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mut state: CpuState, d: &Description) {
        let mut numbers: Vec<usize> = d.registers().map(|r| r.number).collect();
        for r in d.registers() {
            assert!(place(&mut state, r.number).is_some(), "{}", r.name);
            // What is written is read again, and nothing else changes.
            let before: Vec<_> = numbers.iter().map(|n| d.read(&mut state, *n)).collect();
            let fixed = matches!(place(&mut state, r.number), Some(Place::Fixed(_)));
            let shared = matches!(place(&mut state, r.number), Some(Place::Field { .. })) || r.name == "fcsr";
            let old = d.read(&mut state, r.number).unwrap();
            // The lowest bit: fields narrower than GDB's idea of the register ignore the upper bytes.
            let mut new = old.clone();
            new[0] ^= 1;
            assert!(d.write(&mut state, r.number, &new));
            if !fixed && !shared {
                assert_eq!(d.read(&mut state, r.number).unwrap(), new, "{}", r.name);
            }
            assert!(d.write(&mut state, r.number, &old));
            let after: Vec<_> = numbers.iter().map(|n| d.read(&mut state, *n)).collect();
            assert_eq!(before, after, "{}", r.name);
            assert!(!d.write(&mut state, r.number, &[0; 200]));
        }
        let n = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), n);
        let all = d.read_all(&mut state);
        assert!(d.write_all(&mut state, &all) && !d.write_all(&mut state, &all[1..]));
        assert_eq!(d.xml().matches("<reg ").count(), n);
    }

    #[test]
    fn riscv_registers() {
        let mut s = accel::arch::riscv::State { xlen: 64, misa: 0x2d, ..Default::default() };
        s.v = vec![0; 32 * 16];
        for xlen in [64, 32] {
            s.xlen = xlen;
            let state = CpuState::Riscv(Box::new(s.clone()));
            check(state.clone(), &Description::of(&state, GuestArch::Riscv64).unwrap());
            check(state.clone(), &Description::of_program(&state, GuestArch::Riscv64).unwrap());
        }
    }

    #[test]
    fn x86_registers() {
        let state = CpuState::X86_64(Box::new(accel::arch::x86_64::State::reset()));
        check(state.clone(), &Description::of(&state, GuestArch::X86_64).unwrap());
        for arch in [GuestArch::X86_64, GuestArch::I386] {
            let d = Description::of_program(&state, arch).unwrap();
            check(state.clone(), &d);
            assert!(!d.xml().contains("cr3"));
        }
    }
}
