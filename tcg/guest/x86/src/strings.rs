//! String operations with a repeat prefix, and those on ports (SDM volume 1, 7.3.9).
//!
//! Forward copies, fills and loads from ports go page by page; everything else an element at a time. The registers
//! are exact at every fault and whenever the operation is interrupted, so that it restarts where it stopped.

use tcg_engine::{Cx, Trap};
use tcg_ir::{FlagKind, MemOp, SlotSet, Type};

use crate::{
    debug, flags,
    guest::X86,
    helpers::{RAISES_EXITS, helpers},
    mode, port, segment,
    state::{Cpu, seg},
};

/// Kinds of operations.
pub(crate) mod kind {
    /// MOVS.
    pub(crate) const MOVS: u64 = 0;
    /// STOS.
    pub(crate) const STOS: u64 = 1;
    /// LODS.
    pub(crate) const LODS: u64 = 2;
    /// SCAS.
    pub(crate) const SCAS: u64 = 3;
    /// CMPS.
    pub(crate) const CMPS: u64 = 4;
    /// INS.
    pub(crate) const INS: u64 = 5;
    /// OUTS.
    pub(crate) const OUTS: u64 = 6;
}

/// What an instruction asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StringOp {
    /// One of [`kind`].
    pub(crate) kind: u64,
    /// log2 of an element's size.
    pub(crate) log2: u32,
    /// Bytes of an address: 2, 4, 8.
    pub(crate) address: u32,
    /// Segment of the source.
    pub(crate) segment: usize,
    /// 0 none, 1 REP or REPE, 2 REPNE.
    pub(crate) repeat: u64,
    /// One element only, for traps behind each.
    pub(crate) single: bool,
}

impl StringOp {
    /// As a helper's argument.
    pub(crate) const fn pack(self) -> u64 {
        self.kind
            | (self.log2 as u64) << 4
            | (self.address as u64) << 8
            | (self.segment as u64) << 12
            | self.repeat << 16
            | (self.single as u64) << 20
    }

    const fn unpack(v: u64) -> Self {
        Self {
            kind: v & 15,
            log2: (v >> 4 & 3) as u32,
            address: (v >> 8 & 15) as u32,
            segment: (v >> 12 & 7) as usize,
            repeat: v >> 16 & 3,
            single: v >> 20 & 1 != 0,
        }
    }

    const fn size(self) -> u64 {
        1 << self.log2
    }

    const fn mask(self) -> u64 {
        match self.address {
            2 => 0xffff,
            4 => 0xffff_ffff,
            _ => u64::MAX,
        }
    }

    fn reads_memory(self) -> bool {
        matches!(self.kind, kind::MOVS | kind::LODS | kind::CMPS | kind::OUTS)
    }

    fn writes_memory(self) -> bool {
        matches!(self.kind, kind::MOVS | kind::STOS | kind::INS)
    }
}

const CX: usize = 1;
const SI: usize = 6;
const DI: usize = 7;

/// A register in the address size.
fn get(s: &Cpu, op: StringOp, r: usize) -> u64 {
    s.regs[r] & op.mask()
}

/// Writes a register in the address size: 16 bits leave the rest.
fn set(s: &mut Cpu, op: StringOp, r: usize, v: u64) {
    s.regs[r] = if op.address == 2 { s.regs[r] & !0xffff | v & 0xffff } else { v & op.mask() };
}

/// Linear address of `len` bytes at the offset in a register.
fn place(s: &Cpu, op: StringOp, r: usize, n: usize, len: u64, write: bool) -> Result<u64, Trap> {
    let offset = get(s, op, r);
    if s.code64() {
        return Ok(if n >= seg::FS { s.seg_base[n].wrapping_add(offset) } else { offset });
    }
    segment::check(s, n, offset, len, write)
}

/// How many elements can go in one piece from `offset`, counting up: to the end of the page and of the address size.
fn room(op: StringOp, offset: u64, linear: u64) -> u64 {
    let page = 4096 - (linear & 4095);
    let wrap = if op.address == 8 { u64::MAX } else { op.mask() + 1 - offset };
    page.min(wrap) >> op.log2
}

struct Run<'a, 'b> {
    cx: &'a mut Cx<'b, X86>,
    op: StringOp,
    mmu: usize,
    back: bool,
}

impl Run<'_, '_> {
    fn mem(&self) -> MemOp {
        MemOp::new(self.op.log2).with_mmu(self.mmu)
    }

    fn count(&self) -> u64 {
        get(self.cx.state, self.op, CX)
    }

    /// Moves index and count registers behind `n` elements.
    fn advance(&mut self, n: u64) {
        let op = self.op;
        let by = n << op.log2;
        let by = if self.back { by.wrapping_neg() } else { by };
        if op.reads_memory() {
            let v = get(self.cx.state, op, SI).wrapping_add(by);
            set(self.cx.state, op, SI, v);
        }
        if op.writes_memory() || matches!(op.kind, kind::SCAS | kind::CMPS) {
            let v = get(self.cx.state, op, DI).wrapping_add(by);
            set(self.cx.state, op, DI, v);
        }
        if op.repeat != 0 {
            let v = self.count().wrapping_sub(n);
            set(self.cx.state, op, CX, v);
        }
    }

    fn source(&self) -> Result<u64, Trap> {
        place(self.cx.state, self.op, SI, self.op.segment, self.op.size(), false)
    }

    fn destination(&self, write: bool) -> Result<u64, Trap> {
        place(self.cx.state, self.op, DI, seg::ES, self.op.size(), write)
    }

    /// Data breakpoints that this element hits. Nothing of it may fault any more.
    fn watch(&mut self, at: u64, write: bool) {
        if self.cx.state.dr7 & 0xff != 0 {
            let hit = debug::data_hits(self.cx.state, at, self.op.size(), write);
            self.cx.state.dr_hit |= hit;
        }
    }

    /// One element; true if a comparison ends the repetition.
    fn one(&mut self) -> Result<bool, Trap> {
        let (op, m) = (self.op, self.mem());
        let port = self.cx.state.regs[2] as u16;
        let bytes = op.size() as usize;
        let mut end = false;
        match op.kind {
            kind::MOVS => {
                let (from, to) = (self.source()?, self.destination(true)?);
                let v = self.cx.load(from, m)?;
                self.cx.store(to, m, v)?;
                self.watch(from, false);
                self.watch(to, true);
            }
            kind::STOS => {
                let to = self.destination(true)?;
                let v = self.cx.state.regs[0];
                self.cx.store(to, m, v)?;
                self.watch(to, true);
            }
            kind::LODS => {
                let from = self.source()?;
                let v = self.cx.load(from, m)?;
                self.watch(from, false);
                let r = &mut self.cx.state.regs[0];
                *r = match op.log2 {
                    0 => *r & !0xff | v,
                    1 => *r & !0xffff | v,
                    _ => v,
                };
            }
            kind::SCAS | kind::CMPS => {
                let a = if op.kind == kind::CMPS {
                    let from = self.source()?;
                    let v = self.cx.load(from, m)?;
                    self.watch(from, false);
                    v
                } else {
                    self.cx.state.regs[0]
                };
                let to = self.destination(false)?;
                let b = self.cx.load(to, m)?;
                self.watch(to, false);
                end = self.compare(a, b);
            }
            kind::INS => {
                let to = self.destination(true)?;
                // The port is read only if the store will succeed.
                self.cx.probe(to, op.size(), tcg_engine::Access::Store, self.mmu)?;
                let v = self.cx.pio_read(port, bytes);
                self.cx.store(to, m, u64::from(v))?;
                self.watch(to, true);
            }
            _ => {
                let from = self.source()?;
                let v = self.cx.load(from, m)?;
                self.watch(from, false);
                self.cx.pio_write(port, bytes, v as u32);
            }
        }
        self.advance(1);
        Ok(end)
    }

    /// Sets the flags; true if the repetition ends.
    fn compare(&mut self, a: u64, b: u64) -> bool {
        let (ty, mask) = match self.op.log2 {
            0 => (Type::I8, 0xff),
            1 => (Type::I16, 0xffff),
            2 => (Type::I32, 0xffff_ffff),
            _ => (Type::I64, u64::MAX),
        };
        let (a, b) = (a & mask, b & mask);
        self.cx.state.flags = [FlagKind::Sub as u64 | (ty as u64) << 8, a, b, 0];
        (a == b) != (self.op.repeat == 1)
    }

    /// Elements that go in one piece, 0 if this one must go alone.
    fn piece(&self) -> u64 {
        let (op, s) = (self.op, &*self.cx.state);
        let mut n = self.count();
        if op.reads_memory() {
            let Ok(at) = self.source() else { return 0 };
            n = n.min(room(op, get(s, op, SI), at));
        }
        if op.writes_memory() {
            let Ok(at) = self.destination(true) else { return 0 };
            n = n.min(room(op, get(s, op, DI), at));
        }
        // The whole piece must be inside the segments, too.
        let len = (n << op.log2).max(1);
        let fits = |r, seg, write| place(s, op, r, seg, len, write).is_ok();
        let good = (!op.reads_memory() || fits(SI, op.segment, false))
            && (!op.writes_memory() || fits(DI, seg::ES, true));
        if good { n } else { 0 }
    }

    /// Copies or fills a piece; false if it must go element by element.
    fn fast(&mut self) -> Result<bool, Trap> {
        let op = self.op;
        if self.back || !matches!(op.kind, kind::MOVS | kind::STOS) {
            return Ok(false);
        }
        let mut n = self.piece();
        if n < 4 {
            return Ok(false);
        }
        let to = self.destination(true)?;
        if op.kind == kind::MOVS {
            let from = self.source()?;
            // A destination shortly behind the source repeats what is copied.
            let distance = to.wrapping_sub(from);
            if distance < n << op.log2 {
                n = distance >> op.log2;
                if n < 4 {
                    return Ok(false);
                }
            }
            let len = (n << op.log2) as usize;
            if self.cx.copy_run(from, to, self.mmu, len)? != Some(len) {
                return Ok(false);
            }
        } else {
            let v = self.cx.state.regs[0];
            let pattern = match op.log2 {
                0 => (v & 0xff) * 0x0101_0101_0101_0101,
                1 => (v & 0xffff) * 0x0001_0001_0001_0001,
                2 => (v & 0xffff_ffff) * 0x0000_0001_0000_0001,
                _ => v,
            };
            let len = (n << op.log2) as usize;
            if self.cx.fill_run(to, self.mmu, pattern, len)? != Some(len) {
                return Ok(false);
            }
        }
        self.advance(n);
        Ok(true)
    }
}

/// Executes an instruction. `pc` is its own address; the program counter is behind it.
fn string(cx: &mut Cx<'_, X86>, op: StringOp, pc: u64) -> Result<(), Trap> {
    if op.kind >= kind::INS {
        let port = cx.state.regs[2] as u16;
        port::check(cx, port, op.size())?;
    }
    let mmu = mode::data_mmu(cx.state);
    let back = cx.state.sys & flags::DF != 0;
    let mut run = Run { cx, op, mmu, back };
    if op.repeat == 0 {
        run.one()?;
        return Ok(());
    }
    let mut turns = 0_u32;
    loop {
        if run.count() == 0 {
            return Ok(());
        }
        let end = if op.single { run.one()? } else { !run.fast()? && run.one()? };
        if end || run.count() == 0 {
            return Ok(());
        }
        turns += 1;
        if op.single {
            run.cx.state.pc = pc;
            return Ok(());
        }
        if (turns & 15 == 0 || op.kind == kind::OUTS) && run.cx.exit_requested() {
            run.cx.state.pc = pc;
            run.cx.leave_unit();
            return Ok(());
        }
    }
}

helpers! {
    base port::FIRST + port::COUNT;

    /// A string operation: a packed `StringOp` and the instruction's address.
    StringHelper "string" (op, pc) -> Void
        reads SlotSet::All, writes SlotSet::All, effects RAISES_EXITS;
        |cx| string(cx, StringOp::unpack(op), pc).map(|()| 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_pack() {
        let op = StringOp { kind: kind::OUTS, log2: 3, address: 8, segment: 5, repeat: 2, single: true };
        assert_eq!(StringOp::unpack(op.pack()), op);
        assert_eq!(room(StringOp { address: 2, ..op }, 0xffff, 0x1_2345), 0);
        assert_eq!(room(op, 0, 0x1ff0), 2);
    }
}
