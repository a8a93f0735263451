//! Pushing and popping from helpers: stacks that may be another level's, written before state changes.

use tcg_engine::{Access, Cx, Trap};
use tcg_ir::MemOp;

use crate::{
    exceptions::{self, vector},
    guest::X86,
    mode,
    segment::{self, CONFORMING, DB, Descriptor, P},
    state::{Cpu, seg},
};

/// A stack and how far it has been pushed or popped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stack {
    base: u64,
    limit: u64,
    access: u64,
    long: bool,
    /// Bits of the stack pointer that count.
    mask: u64,
    /// Stack pointer.
    pub(crate) sp: u64,
    mmu: usize,
    /// What SS becomes: selector, descriptor, attributes.
    pub(crate) segment: Option<(u16, Descriptor, u64)>,
}

impl Stack {
    /// The present one.
    pub(crate) fn current(s: &Cpu) -> Self {
        let long = s.code64();
        let mask = match (long, s.seg_access[seg::SS] & DB != 0) {
            (true, _) => u64::MAX,
            (_, true) => 0xffff_ffff,
            _ => 0xffff,
        };
        Self {
            base: if long { 0 } else { s.seg_base[seg::SS] },
            limit: s.seg_limit[seg::SS],
            access: s.seg_access[seg::SS],
            long,
            mask,
            sp: s.regs[4],
            mmu: mode::data_mmu(s),
            segment: None,
        }
    }

    /// A stack in 64-bit mode.
    pub(crate) const fn long(sp: u64, mmu: usize) -> Self {
        Self { base: 0, limit: 0, access: 0, long: true, mask: u64::MAX, sp, mmu, segment: None }
    }

    /// A stack in another segment.
    pub(crate) fn inner(sp: u64, selector: u16, d: Descriptor, access: u64, mmu: usize) -> Self {
        let mask = if access & DB != 0 { 0xffff_ffff } else { 0xffff };
        Self {
            base: d.base(),
            limit: u64::from(d.limit()),
            access,
            long: false,
            mask,
            sp,
            mmu,
            segment: Some((selector, d, access)),
        }
    }

    /// Aligns the pointer as delivery in long mode does.
    pub(crate) const fn align16(&mut self) {
        self.sp &= !15;
    }

    /// Linear address of `len` bytes at stack offset `sp`.
    fn place(&self, sp: u64, len: u64) -> Result<u64, Trap> {
        if self.long {
            return Ok(sp);
        }
        let offset = sp & self.mask;
        let last = offset + (len - 1);
        let inside = if self.access & CONFORMING != 0 {
            let top = if self.access & DB != 0 { 0xffff_ffff } else { 0xffff };
            offset > self.limit && last <= top
        } else {
            last <= self.limit
        };
        // A task switch may have left SS without a segment.
        if !inside || self.access & P == 0 {
            let selector = self.segment.map_or(0, |(s, ..)| s & !3);
            return Err(exceptions::with_error(vector::SS, selector));
        }
        Ok(self.base.wrapping_add(offset) & 0xffff_ffff)
    }

    /// Pushes `1 << log2` bytes.
    pub(crate) fn push(&mut self, cx: &mut Cx<'_, X86>, log2: u32, v: u64) -> Result<(), Trap> {
        let sp = self.moved(-(1 << log2));
        let at = self.place(sp, 1 << log2)?;
        cx.store(at, MemOp::new(log2).with_mmu(self.mmu), v)?;
        self.sp = sp;
        Ok(())
    }

    /// Pops `1 << log2` bytes.
    pub(crate) fn pop(&mut self, cx: &mut Cx<'_, X86>, log2: u32) -> Result<u64, Trap> {
        let at = self.place(self.sp, 1 << log2)?;
        let v = cx.load(at, MemOp::new(log2).with_mmu(self.mmu))?;
        self.sp = self.moved(1 << log2);
        Ok(v)
    }

    /// Checks that the top of the stack can be written.
    pub(crate) fn probe(&self, cx: &mut Cx<'_, X86>) -> Result<(), Trap> {
        let at = self.place(self.sp, 1)?;
        cx.probe(at, 1, Access::Store, self.mmu)
    }

    /// Bytes of the stack pointer.
    pub(crate) const fn pointer_bytes(&self) -> u64 {
        match self.mask {
            0xffff => 2,
            0xffff_ffff => 4,
            _ => 8,
        }
    }

    /// The stack pointer moved by `by`; bits that do not count stay.
    pub(crate) const fn moved(&self, by: i64) -> u64 {
        self.sp & !self.mask | self.sp.wrapping_add(by as u64) & self.mask
    }

    /// Writes the pointer, and SS if it is another one.
    pub(crate) fn commit(self, s: &mut Cpu) {
        if let Some((selector, d, access)) = self.segment {
            segment::put(s, seg::SS, selector, d, access);
        }
        s.regs[4] = match self.mask {
            0xffff => s.regs[4] & !0xffff | self.sp & 0xffff,
            m => self.sp & m,
        };
    }
}
