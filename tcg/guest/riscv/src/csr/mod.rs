//! Control and status registers (volume II, chapter 2): one table of number, name, condition, read and write.
//!
//! The number itself says who may access a register (bits 8-9: lowest privilege, 10-11 all ones: read-only). A
//! register that the hart lacks, or that is closed by an enable bit of a more privileged level, is an illegal
//! instruction.

mod machine;
mod supervisor;
mod user;
mod vector;

pub(crate) use user::{counters, fflags_from, fflags_to, set_counters};

use tcg_engine::{Cx, Trap};

use crate::{
    cpu::{Cpu, Ext},
    exceptions::cause,
    guest::Riscv,
    state::Hart,
};

type C<'a, 'b> = &'a mut Cx<'b, Riscv>;

/// Numbers that translation treats specially.
pub mod num {
    /// `fflags`
    pub const FFLAGS: u16 = 0x001;
    /// `frm`
    pub const FRM: u16 = 0x002;
    /// `fcsr`
    pub const FCSR: u16 = 0x003;
    /// `sscratch`
    pub const SSCRATCH: u16 = 0x140;
    /// `scause`
    pub const SCAUSE: u16 = 0x142;
    /// `stval`
    pub const STVAL: u16 = 0x143;
    /// `mscratch`
    pub const MSCRATCH: u16 = 0x340;
}

/// When a register exists.
#[derive(Debug, Clone, Copy)]
enum When {
    Always,
    /// With all of these extensions.
    With(Ext),
    /// The same, on RV32 only: the upper half of a 64-bit register.
    High(Ext),
}

/// Reads register `n` (counted from the row's first).
type Read = fn(C<'_, '_>, usize) -> u64;
/// Writes it; what it cannot hold is dropped.
type Write = fn(C<'_, '_>, usize, u64);
/// Further conditions at the present state.
type Open = fn(C<'_, '_>, usize) -> bool;

/// One row: `count` registers from `first` on.
struct Row {
    first: u16,
    count: u16,
    name: &'static str,
    when: When,
    open: Open,
    read: Read,
    write: Write,
}

fn always(_: C<'_, '_>, _: usize) -> bool {
    true
}

fn ignore(_: C<'_, '_>, _: usize, _: u64) {}

fn zero(_: C<'_, '_>, _: usize) -> u64 {
    0
}

/// A row; the middle arguments default to "always there" and "writes are ignored".
const fn row(first: u16, name: &'static str, when: When, read: Read, write: Write) -> Row {
    Row { first, count: 1, name, when, open: always, read, write }
}

impl Row {
    const fn many(mut self, count: u16) -> Self {
        self.count = count;
        self
    }

    const fn open(mut self, open: Open) -> Self {
        self.open = open;
        self
    }

    fn exists(&self, cpu: &Cpu) -> bool {
        match self.when {
            When::Always => true,
            When::With(ext) => cpu.ext.has(ext),
            When::High(ext) => cpu.xlen == 32 && cpu.ext.has(ext),
        }
    }
}

/// A row whose register is field `$field` of the state, with the bits of `$mask` writable.
macro_rules! field {
    ($first:literal, $name:literal, $when:expr, $field:ident, $mask:expr) => {
        crate::csr::row(
            $first,
            $name,
            $when,
            |c, _| c.state.$field,
            |c, _, v| c.state.$field = c.state.$field & !$mask | v & $mask,
        )
    };
}
use field;

/// All rows, by level.
const TABLE: [&[Row]; 4] = [user::ROWS, vector::ROWS, supervisor::ROWS, machine::ROWS];

fn find(cpu: &Cpu, csr: u16) -> Option<(&'static Row, usize)> {
    let row = TABLE.into_iter().flatten().find(|r| (r.first..r.first + r.count).contains(&csr))?;
    row.exists(cpu).then(|| (row, usize::from(csr - row.first)))
}

/// Name of a register, such as `mstatus`, if a hart could have it.
#[must_use]
pub fn name(csr: u16) -> Option<String> {
    let row = TABLE.into_iter().flatten().find(|r| (r.first..r.first + r.count).contains(&csr))?;
    if row.count == 1 {
        return Some(row.name.to_owned());
    }
    // Counters start at number 3, all other families at 0.
    let base = if row.name.contains("hpm") { 3 } else { 0 };
    let (stem, suffix) = row.name.split_once('*').unwrap_or((row.name, ""));
    Some(format!("{stem}{}{suffix}", csr - row.first + base))
}

/// What a CSR instruction asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Number.
    pub csr: u16,
    /// 0 write, 1 set bits, 2 clear bits.
    pub op: u64,
    /// The old value is wanted.
    pub reads: bool,
    /// The register is to be written.
    pub writes: bool,
}

impl Request {
    /// As `zicsr.rs` packs it.
    #[must_use]
    pub const fn unpack(how: u64) -> Self {
        Self {
            csr: (how & 0xfff) as u16,
            op: how >> 12 & 3,
            reads: how >> 14 & 1 != 0,
            writes: how >> 15 & 1 != 0,
        }
    }
}

/// Executes a CSR instruction; the old value, sign-extended as a register holds it.
pub fn access(cx: C<'_, '_>, request: Request, operand: u64, bits: u64) -> Result<u64, Trap> {
    let illegal = Trap { code: cause::ILLEGAL, value: bits };
    let cpu = cx.guest().cpu();
    let csr = request.csr;
    let allowed = cx.state.privilege >= (csr >> 8 & 3) as u8 && !(request.writes && csr >> 10 == 3);
    let (row, n) = find(cpu, csr).filter(|_| allowed).ok_or(illegal)?;
    if !(row.open)(cx, n) {
        return Err(illegal);
    }
    let mask = if cpu.xlen == 32 { 0xffff_ffff } else { u64::MAX };
    let old = if request.reads { (row.read)(cx, n) & mask } else { 0 };
    if request.writes {
        // Bits of mip that wires hold must not become software's by a read-modify-write.
        let base = match csr {
            machine::MIP | supervisor::SIP => cx.state.mip,
            _ => old,
        };
        let new = match request.op {
            1 => base | operand,
            2 => base & !operand,
            _ => operand,
        };
        (row.write)(cx, n, new & mask);
    }
    Ok(old)
}

/// True if a write of the register may make a pending interrupt due.
#[must_use]
pub const fn enables_interrupts(csr: u16) -> bool {
    // sstatus, sie, sip, stimecmp(h); mstatus, mideleg, mie, menvcfg(h), mip.
    matches!(csr, 0x100 | 0x104 | 0x144 | 0x14d | 0x15d | 0x300 | 0x303 | 0x304 | 0x30a | 0x31a | 0x344)
}

/// A register for the debugger: no check of privilege.
pub fn peek(cx: C<'_, '_>, csr: u16) -> Option<u64> {
    let (row, n) = find(cx.guest().cpu(), csr)?;
    Some((row.read)(cx, n))
}

/// What `menvcfg` and `senvcfg` have in common: FIOM, and CBIE, CBCFE and CBZE of the cache block extensions.
const fn envcfg(ext: Ext) -> u64 {
    let mut mask = 1;
    if ext.has(Ext::ZICBOM) {
        mask |= 7 << 4;
    }
    if ext.has(Ext::ZICBOZ) {
        mask |= 1 << 7;
    }
    mask
}

/// Sets the bit that says "state is dirty" in a status register as read: SD, at the top.
fn with_sd(cpu: &Cpu, hart: &Hart, value: u64) -> u64 {
    use crate::state::status::{FS, VS};
    let dirty = hart.mstatus & FS == FS || hart.mstatus & VS == VS;
    value | u64::from(dirty) << (cpu.xlen - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_do_not_overlap() {
        let mut all: Vec<(u16, u16, &str)> =
            TABLE.into_iter().flatten().map(|r| (r.first, r.first + r.count, r.name)).collect();
        all.sort_unstable();
        for pair in all.windows(2) {
            assert!(pair[0].1 <= pair[1].0, "{} and {} overlap", pair[0].2, pair[1].2);
        }
    }

    #[test]
    fn names() {
        assert_eq!(name(0x300).unwrap(), "mstatus");
        assert_eq!(name(0x3b2).unwrap(), "pmpaddr2");
        assert_eq!(name(0xb03).unwrap(), "mhpmcounter3");
        assert_eq!(name(0xb84).unwrap(), "mhpmcounter4h");
        assert_eq!(name(0x7ff), None);
    }
}
