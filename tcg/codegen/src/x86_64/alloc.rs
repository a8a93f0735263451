//! Register allocation while emitting: where each value is, which value each state slot holds.
//!
//! Invariants:
//! - a value of class `Gpr` or `Xmm` that is still used is in a register, in its frame slot, in the state slot that is
//!   its `home`, or is a constant;
//! - a *dirty* slot's value is in a register or is a constant, so an exit map can name it;
//! - registers hold roots only; a value that is another's bits (`trunc`, a `get` of a slot just set) is an alias of it;
//! - above a value's width a register holds garbage, unless `zx` says zeros.

use tcg_ir::{Op, Region, SlotTable, Type, Value};

use super::asm::Mem;
use super::regs::*;
use super::{Gen, Too};

/// In [`Val::upper`]: the register holds zeros above the value.
pub(super) const ZEROS: u32 = u32::MAX - 1;
/// No value, no slot, no register.
pub(super) const NONE: u32 = u32::MAX;
pub(super) const NO_REG: u8 = 0xff;
pub(super) const NO_SLOT: u16 = u16::MAX;

/// Where values of a type live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Gpr,
    Xmm,
    /// In the frame only.
    Mem,
}

pub(super) fn class(ty: Type) -> Class {
    match ty {
        Type::V512 if avx512() => Class::Xmm,
        Type::Void | Type::I8 | Type::I16 | Type::I32 | Type::I64 | Type::F16 => Class::Gpr,
        Type::F32 | Type::F64 | Type::V64 | Type::V128 | Type::V256 => Class::Xmm,
        Type::I128 | Type::V512 | Type::Flags => Class::Mem,
    }
}

/// True if the host has what 512-bit recipes need.
pub(super) fn avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
}

/// Flags of [`Val::fl`].
pub(super) mod fl {
    /// A constant: needs no place.
    pub(crate) const CONST: u8 = 1;
    /// Used outside its extended basic block: its frame slot is written where it is defined.
    pub(crate) const GLOBAL: u8 = 2;
    /// The frame slot holds it.
    pub(crate) const FRAMED: u8 = 4;
    /// A comparison not computed yet.
    pub(crate) const LAZY: u8 = 8;
    /// It will be `set` before anything can leave or read the slot.
    pub(crate) const SOON: u8 = 16;
    /// A guest address: a constant that is relocated.
    pub(crate) const PC: u8 = 32;
    /// Read from a slot that is not read again before the unit leaves.
    pub(crate) const LAST: u8 = 64;
}

/// State of a value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Val {
    /// The root it is bits of; itself if it is one.
    pub(super) alias: u32,
    /// Uses not emitted yet (roots).
    pub(super) uses: u32,
    /// Constant.
    pub(super) imm: u64,
    /// Frame offset; 0 if it has none.
    pub(super) frame: u32,
    /// State slot that holds it; `NO_SLOT` if none does.
    pub(super) home: u16,
    /// Slot it is set to next.
    pub(super) hint: u16,
    /// Root of a vector whose bits its register holds above it; then `ty` is that of the vector.
    pub(super) upper: u32,
    /// Slots bound to it.
    pub(super) bound: u16,
    /// Register: 0 to 15 general, 16 to 31 vector.
    pub(super) reg: u8,
    /// The register is zero above this many bits.
    pub(super) zx: u8,
    pub(super) ty: Type,
    pub(super) fl: u8,
}

impl Val {
    pub(super) const fn new(v: u32, ty: Type) -> Self {
        Self {
            alias: v,
            uses: 0,
            imm: 0,
            frame: 0,
            home: NO_SLOT,
            hint: NO_SLOT,
            upper: NONE,
            bound: 0,
            reg: NO_REG,
            zx: 64,
            ty,
            fl: 0,
        }
    }

    pub(super) const fn is(&self, f: u8) -> bool {
        self.fl & f != 0
    }
}

/// A state slot's value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bind {
    pub(super) slot: u16,
    pub(super) dirty: bool,
    pub(super) val: u32,
}

/// The allocation at one point of the code.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) regs: [u32; 32],
    pub(super) free: u32,
    pub(super) binds: Vec<Bind>,
    /// Values with a frame slot written on this path, and its offset.
    pub(super) framed: Vec<(u32, u32)>,
    /// End of the frame in use.
    pub(super) frame: u32,
}

impl Default for State {
    fn default() -> Self {
        Self { regs: [NONE; 32], free: GPRS | XMMS, binds: Vec::new(), framed: Vec::new(), frame: SPILL }
    }
}

impl State {
    /// Nothing anywhere.
    pub(super) fn reset(&mut self, free: u32) {
        self.regs = [NONE; 32];
        self.free = free;
        self.binds.clear();
        self.framed.clear();
        self.frame = SPILL;
    }

    fn copy_from(&mut self, o: &Self) {
        self.regs = o.regs;
        self.free = o.free;
        self.binds.clone_from(&o.binds);
        self.framed.clone_from(&o.framed);
        self.frame = o.frame;
    }
}

/// What code generation knows of a state slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct SlotInfo {
    pub(super) offset: u32,
    pub(super) ty: Type,
    pub(super) log2: u8,
}

impl SlotInfo {
    pub(super) fn table(slots: &SlotTable) -> Vec<Self> {
        let row = |s: &tcg_ir::SlotDesc| Self {
            offset: s.offset,
            ty: s.ty,
            log2: s.ty.bytes().trailing_zeros() as u8,
        };
        slots.all().iter().map(row).collect()
    }

    pub(super) fn mem(self) -> Mem {
        Mem::env(state(self.offset))
    }
}

/// A slot that lives in a register throughout the region.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pin {
    pub(super) slot: u16,
    pub(super) reg: u8,
    /// Set somewhere in the region.
    pub(super) dirty: bool,
}

/// Where a value is, for reading.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Reg(u8),
    Imm(u64),
    Mem(Mem),
    Nowhere,
}

pub(super) fn frame_bytes(ty: Type) -> u32 {
    (ty.bytes() as u32).next_multiple_of(8)
}

impl Gen<'_> {
    pub(super) fn root(&self, v: Value) -> u32 {
        self.vals[v.index()].alias
    }

    /// The constant a value is, cut to its own type.
    pub(super) fn imm(&self, v: Value) -> Option<u64> {
        let r = &self.vals[self.root(v) as usize];
        (r.fl & (fl::CONST | fl::PC) == fl::CONST).then_some(r.imm & self.r.inst(v).ty.mask())
    }

    /// The same as a sign-extended 32-bit immediate.
    pub(super) fn imm32(&self, v: Value) -> Option<i32> {
        let ty = self.r.inst(v).ty;
        let imm = self.imm(v)?;
        match ty.bytes() {
            1 => Some(i32::from(imm as i8)),
            2 => Some(i32::from(imm as i16)),
            4 => Some(imm as i32),
            _ => i32::try_from(imm as i64).ok(),
        }
    }

    pub(super) fn synthetic(&mut self, ty: Type) -> u32 {
        let v = self.vals.len() as u32;
        self.vals.push(Val::new(v, ty));
        v
    }

    // Registers.

    /// Registers that hold values.
    pub(super) const fn allocatable(&self) -> u32 {
        if self.first { (GPRS | XMMS) & !SHARED_SCRATCH } else { GPRS | XMMS }
    }

    pub(super) fn put(&mut self, v: u32, reg: u8) {
        debug_assert!(self.st.regs[reg as usize] == NONE);
        self.st.regs[reg as usize] = v;
        self.st.free &= !(1 << reg);
        self.vals[v as usize].reg = reg;
    }

    pub(super) fn release(&mut self, reg: u8) {
        let v = self.st.regs[reg as usize];
        if v != NONE {
            self.vals[v as usize].reg = NO_REG;
            self.st.regs[reg as usize] = NONE;
            self.st.free |= 1 << reg;
        }
    }

    /// Takes a free register out of `mask`; evicts if there is none. The register is locked until the end of the operation.
    pub(super) fn alloc(&mut self, mask: u32) -> Result<u8, Too> {
        let mask = mask & !self.pin_mask;
        let free = self.st.free & mask & !self.locked;
        let reg = if free != 0 {
            // Registers that survive calls are for those units that have them.
            let first = if self.has_calls { free & !CLOBBERED } else { free & CLOBBERED };
            (if first != 0 { first } else { free }).trailing_zeros() as u8
        } else {
            let reg = self.victim(mask & !self.locked).ok_or(Too)?;
            self.evict(reg)?;
            reg
        };
        self.locked |= 1 << reg;
        Ok(reg)
    }

    /// Sees to it that the next `define` in `mask` emits nothing.
    pub(super) fn reserve(&mut self, mask: u32) -> Result<(), Too> {
        if self.st.free & mask & !self.pin_mask & !self.temps == 0 {
            let keep = self.locked;
            self.alloc(mask)?;
            self.locked = keep;
        }
        Ok(())
    }

    /// Bits above which a root's register is or will be zero.
    pub(super) fn zx(&self, root: u32) -> u32 {
        let x = &self.vals[root as usize];
        if x.fl & (fl::CONST | fl::PC) == fl::CONST { 64 - x.imm.leading_zeros() } else { u32::from(x.zx) }
    }

    /// Empties a register and keeps it for the current operation.
    pub(super) fn claim(&mut self, r: Gpr) -> Result<(), Too> {
        let owner = self.st.regs[r.0 as usize];
        if owner != NONE {
            let free = self.st.free & GPRS & !self.pin_mask & !self.locked;
            if free != 0 {
                let to = free.trailing_zeros() as u8;
                self.move_reg(r.0, to);
                self.release(r.0);
                self.put(owner, to);
            } else {
                self.evict(r.0)?;
            }
        }
        self.locked |= 1 << r.0;
        self.temps |= 1 << r.0;
        Ok(())
    }

    /// Lets the result of the current operation be in a claimed or temporary register.
    pub(super) fn unclaim(&mut self, r: Gpr) {
        self.temps &= !(1 << r.0);
    }

    /// A register for the current operation's own use.
    pub(super) fn temp_gpr(&mut self) -> Result<Gpr, Too> {
        let r = self.alloc(GPRS)?;
        self.temps |= 1 << r;
        Ok(Gpr(r))
    }

    /// A vector register for the current operation's own use.
    pub(super) fn temp_xmm(&mut self) -> Result<Xmm, Too> {
        let r = self.alloc(XMMS)?;
        self.temps |= 1 << r;
        Ok(Xmm(r - 16))
    }

    /// The register whose value costs least to get rid of.
    fn victim(&mut self, mask: u32) -> Option<u8> {
        let mut best = None;
        let mut left = mask & self.allocatable() & !self.st.free;
        while left != 0 {
            let reg = left.trailing_zeros() as u8;
            left &= left - 1;
            let v = &self.vals[self.st.regs[reg as usize] as usize];
            let cheap = v.uses == 0 || v.is(fl::CONST | fl::FRAMED) || v.home != NO_SLOT;
            let dirty = v.bound != 0 && v.home == NO_SLOT;
            let age = self.clock.wrapping_sub(self.touched[reg as usize]).min(0xffff);
            let score = age + if cheap { 40 } else { 0 } + if dirty { 0 } else { 20 };
            if best.is_none_or(|(s, _)| score > s) {
                best = Some((score, reg));
            }
        }
        best.map(|(_, reg)| reg)
    }

    /// Empties a register; its value stays available if it is still used.
    pub(super) fn evict(&mut self, reg: u8) -> Result<(), Too> {
        let v = self.st.regs[reg as usize];
        if v == NONE {
            return Ok(());
        }
        self.clean(v);
        self.keep(v)?;
        self.vacate(reg);
        Ok(())
    }

    /// Takes the value of a register out of it, which is in memory if it is still used. Slots that are too narrow to hold
    /// all of it are no longer bound to it.
    pub(super) fn vacate(&mut self, reg: u8) {
        let v = self.st.regs[reg as usize];
        if v == NONE {
            return;
        }
        self.release(reg);
        let x = &self.vals[v as usize];
        if x.bound == 0 || x.home != NO_SLOT || x.is(fl::CONST | fl::FRAMED) {
            return;
        }
        self.unbind_all(v);
    }

    /// No slot holds the value any more.
    fn unbind_all(&mut self, v: u32) {
        let mut i = 0;
        while i < self.st.binds.len() {
            let b = self.st.binds[i];
            if b.val == v {
                self.unbind(b.slot);
            } else {
                i += 1;
            }
        }
    }

    /// Stores a value in its frame slot if only its register holds it and it is used again.
    fn keep(&mut self, v: u32) -> Result<(), Too> {
        let x = &self.vals[v as usize];
        if x.uses != 0 && !x.is(fl::CONST | fl::FRAMED) && x.home == NO_SLOT && x.reg != NO_REG {
            self.spill(v)?;
        }
        Ok(())
    }

    /// Stores a value in its frame slot.
    pub(super) fn spill(&mut self, v: u32) -> Result<(), Too> {
        let mem = self.frame_slot(v)?;
        let x = self.vals[v as usize];
        if x.reg >= 16 {
            self.asm.vstore(x.ty.bytes().max(4), mem, Xmm(x.reg - 16));
        } else {
            self.asm.store(x.zx > 32 || x.ty.bytes() == 8, mem, Gpr(x.reg));
            if x.zx <= 32 && x.ty.bytes() < 8 {
                self.asm.store_imm(false, mem.add(4), 0);
            }
        }
        Ok(())
    }

    /// Frame slot of a value, made if it has none. The caller writes it.
    pub(super) fn frame_slot(&mut self, v: u32) -> Result<Mem, Too> {
        if self.vals[v as usize].frame == 0 {
            let at = self.frame_room(frame_bytes(self.vals[v as usize].ty))?;
            self.vals[v as usize].frame = at;
            self.st.framed.push((v, at));
        }
        self.vals[v as usize].fl |= fl::FRAMED;
        Ok(Mem::frame(self.vals[v as usize].frame))
    }

    pub(super) fn frame_room(&mut self, bytes: u32) -> Result<u32, Too> {
        let at = self.st.frame;
        self.st.frame += bytes;
        if self.st.frame > FRAME - 8 { Err(Too) } else { Ok(at) }
    }

    fn touch(&mut self, reg: u8) {
        self.locked |= 1 << reg;
        self.clock += 1;
        self.touched[reg as usize] = self.clock;
    }

    /// Where a value is now.
    pub(super) fn place(&self, root: u32) -> Place {
        let x = &self.vals[root as usize];
        if x.reg != NO_REG {
            Place::Reg(x.reg)
        } else if x.is(fl::CONST) {
            Place::Imm(x.imm)
        } else if x.is(fl::FRAMED) {
            Place::Mem(Mem::frame(x.frame))
        } else if x.home != NO_SLOT {
            Place::Mem(self.fx.slots[x.home as usize].mem())
        } else {
            Place::Nowhere
        }
    }

    /// The value in a register, which is locked.
    pub(super) fn use_gpr(&mut self, v: Value) -> Result<Gpr, Too> {
        self.load_root(self.root(v)).map(Gpr)
    }

    /// The value in a vector register, which is locked.
    pub(super) fn use_xmm(&mut self, v: Value) -> Result<Xmm, Too> {
        self.load_root(self.root(v)).map(|r| Xmm(r.wrapping_sub(16)))
    }

    /// A root in a register of its class.
    pub(super) fn load_root(&mut self, v: u32) -> Result<u8, Too> {
        if self.vals[v as usize].is(fl::LAZY) {
            self.compute_lazy(v)?;
        }
        let x = self.vals[v as usize];
        if x.reg != NO_REG {
            self.touch(x.reg);
            return Ok(x.reg);
        }
        let xmm = class(x.ty) == Class::Xmm;
        let pinned = self.pin_of(x.home).filter(|r| self.st.free & 1 << r != 0);
        let reg = match pinned {
            Some(r) => r,
            None => self.alloc(if xmm { XMMS } else { GPRS })?,
        };
        self.locked |= 1 << reg;
        self.load_to(v, reg)?;
        self.put(v, reg);
        self.touch(reg);
        Ok(reg)
    }

    /// Register a slot is pinned to.
    pub(super) fn pin_of(&self, slot: u16) -> Option<u8> {
        if slot == NO_SLOT || self.pins.is_empty() {
            return None;
        }
        self.pins.iter().find(|p| p.slot == slot).map(|p| p.reg)
    }

    /// Emits the load of a root (which is in no register) into `reg`.
    pub(super) fn load_to(&mut self, v: u32, reg: u8) -> Result<(), Too> {
        let x = self.vals[v as usize];
        if x.is(fl::CONST) {
            if reg >= 16 {
                let d = Xmm(reg - 16);
                if x.imm == 0 {
                    self.vxor(d);
                } else {
                    self.asm.mov_imm(RAX, x.imm);
                    self.asm.gpr_to_xmm(x.ty.bytes() == 8, d, RAX);
                }
            } else if x.is(fl::PC) {
                self.load_pc(Gpr(reg), x.imm);
                self.vals[v as usize].zx = if u32::try_from(x.imm).is_ok() { 32 } else { 64 };
            } else {
                self.const_gpr(Gpr(reg), x.imm);
                self.vals[v as usize].zx = (64 - x.imm.leading_zeros()) as u8;
            }
            return Ok(());
        }
        if x.is(fl::FRAMED) {
            let mem = Mem::frame(x.frame);
            if reg >= 16 {
                self.asm.vload(x.ty.bytes(), Xmm(reg - 16), mem);
            } else {
                self.asm.mov(true, Gpr(reg), mem);
            }
            return Ok(());
        }
        debug_assert_ne!(x.home, NO_SLOT, "value v{v} is nowhere");
        let slot = self.fx.slots[x.home as usize];
        if reg >= 16 {
            self.asm.vload(slot.ty.bytes(), Xmm(reg - 16), slot.mem());
        } else {
            let bits = slot.ty.bits();
            if bits == 64 {
                self.asm.mov(true, Gpr(reg), slot.mem());
            } else {
                self.asm.extend(false, bits, false, Gpr(reg), slot.mem());
                self.vals[v as usize].zx = x.zx.min(bits as u8);
            }
        }
        Ok(())
    }

    pub(super) fn const_gpr(&mut self, d: Gpr, imm: u64) {
        if imm == 0 && !self.flags_live {
            self.asm.alu(false, super::asm::Alu::Xor, d, d);
        } else {
            self.asm.mov_imm(d, imm);
        }
    }

    pub(super) fn vxor(&mut self, d: Xmm) {
        self.asm.vop(super::asm::V::new(1, 1, 0xef), d, d, d);
    }

    /// One use of a value is emitted. Its register is free if that was the last and no slot needs it.
    pub(super) fn done(&mut self, v: Value) {
        let r = self.root(v);
        self.done_root(r);
    }

    pub(super) fn done_root(&mut self, r: u32) {
        let x = &mut self.vals[r as usize];
        x.uses = x.uses.saturating_sub(1);
        if x.uses == 0 && x.reg != NO_REG {
            let (reg, bound) = (x.reg, x.bound);
            let at_home = bound == 1 && x.is(fl::LAST) && x.home != NO_SLOT;
            if bound == 0 || (at_home && self.pin_mask & 1 << reg == 0) {
                self.release(reg);
            }
        }
    }

    /// A register for the result `v` of the current operation, not in `avoid`; `first` is preferred (that of a dead operand).
    /// Its place is recorded; the caller writes it.
    pub(super) fn define(&mut self, v: Value, first: u8, avoid: u32) -> Result<u8, Too> {
        let x = self.vals[v.index()];
        let avoid = avoid | self.temps;
        let xmm = class(x.ty) == Class::Xmm;
        let mask = if xmm { XMMS } else { GPRS };
        let hinted = self.pin_of(x.hint);
        let mut reg = NO_REG;
        if let Some(r) = hinted.filter(|r| avoid & 1 << r == 0) {
            if self.st.free & 1 << r == 0
                && x.is(fl::SOON)
                && self.droppable(self.st.regs[r as usize], x.hint)
            {
                self.unbind(x.hint);
            }
            if self.st.free & 1 << r != 0 {
                reg = r;
            }
        }
        if reg == NO_REG && first != NO_REG && avoid & 1 << first == 0 {
            let owner = self.st.regs[first as usize];
            if owner != NONE
                && x.is(fl::SOON)
                && self.pin_mask & 1 << first == 0
                && self.droppable(owner, x.hint)
            {
                self.unbind(x.hint);
            }
            if self.st.free & 1 << first != 0 && self.pin_mask & 1 << first == 0 {
                reg = first;
            }
        }
        if reg == NO_REG {
            let free = self.st.free & mask & !avoid & !self.pin_mask;
            reg = if free != 0 {
                let first = if self.has_calls { free & !CLOBBERED } else { free & CLOBBERED };
                (if first != 0 { first } else { free }).trailing_zeros() as u8
            } else {
                self.alloc(mask & !avoid)?
            };
        }
        self.put(v.0, reg);
        self.touch(reg);
        Ok(reg)
    }

    pub(super) fn define_gpr(&mut self, v: Value, first: Gpr, avoid: u32) -> Result<Gpr, Too> {
        self.define(v, first.0, avoid).map(Gpr)
    }

    pub(super) fn define_xmm(&mut self, v: Value, first: Xmm, avoid: u32) -> Result<Xmm, Too> {
        self.define(v, first.0 + 16, avoid).map(|r| Xmm(r - 16))
    }

    /// True if a value is kept for nothing but `slot`.
    fn droppable(&self, owner: u32, slot: u16) -> bool {
        let o = &self.vals[owner as usize];
        o.uses == 0 && o.bound == 1 && self.bind_of(slot).is_some_and(|b| b.val == owner)
    }

    /// After the code that defines `v`: globals go to their frame slot, values without use are dropped.
    pub(super) fn finish_def(&mut self, v: Value) -> Result<(), Too> {
        let x = self.vals[v.index()];
        if x.is(fl::GLOBAL) && x.reg != NO_REG {
            self.spill(v.0)?;
        }
        if x.uses == 0 && x.bound == 0 && x.reg != NO_REG {
            self.release(x.reg);
        }
        Ok(())
    }

    /// `v` becomes another name for `root`.
    pub(super) fn make_alias(&mut self, v: Value, root: u32) {
        debug_assert!(!self.vals[v.index()].is(fl::GLOBAL));
        let uses = self.vals[v.index()].uses;
        self.vals[v.index()].alias = root;
        self.vals[root as usize].uses += uses;
    }

    // Slots.

    pub(super) fn bind_of(&self, slot: u16) -> Option<Bind> {
        let at = self.slot_pos[slot as usize];
        (at != 0).then(|| self.st.binds[at as usize - 1])
    }

    /// True if the slot's bytes are all of the value.
    fn can_be_home(&self, slot: u16, v: u32) -> bool {
        self.fx.slots[slot as usize].ty.bytes() >= self.vals[v as usize].ty.bytes()
    }

    pub(super) fn bind(&mut self, slot: u16, v: u32, dirty: bool) {
        debug_assert_eq!(self.slot_pos[slot as usize], 0);
        self.st.binds.push(Bind { slot, dirty, val: v });
        self.slot_pos[slot as usize] = self.st.binds.len() as u16;
        self.vals[v as usize].bound += 1;
        if !dirty && self.can_be_home(slot, v) {
            self.vals[v as usize].home = slot;
        }
    }

    /// The slot no longer holds its value. The value must not need the slot's memory.
    pub(super) fn unbind(&mut self, slot: u16) {
        let at = self.slot_pos[slot as usize] as usize;
        if at == 0 {
            return;
        }
        let b = self.st.binds.swap_remove(at - 1);
        self.slot_pos[slot as usize] = 0;
        if let Some(moved) = self.st.binds.get(at - 1) {
            self.slot_pos[moved.slot as usize] = at as u16;
        }
        let v = &mut self.vals[b.val as usize];
        v.bound -= 1;
        let (uses, bound, reg) = (v.uses, v.bound, v.reg);
        if v.home == slot {
            v.home = NO_SLOT;
            if bound != 0 {
                let other = self.st.binds.iter().find(|o| o.val == b.val && !o.dirty).map(|o| o.slot);
                if let Some(o) = other
                    && self.can_be_home(o, b.val)
                {
                    self.vals[b.val as usize].home = o;
                }
            }
        }
        if uses == 0 && bound == 0 && reg != NO_REG {
            self.release(reg);
        }
        // Slots that are too narrow to hold all of it do not stand for it alone.
        let v = &self.vals[b.val as usize];
        if bound != 0 && v.reg == NO_REG && v.home == NO_SLOT && !v.is(fl::CONST | fl::FRAMED) {
            self.unbind_all(b.val);
        }
    }

    /// Before a slot's memory stops holding its value: gets the value out if it is still used.
    pub(super) fn rescue(&mut self, slot: u16) -> Result<(), Too> {
        let Some(b) = self.bind_of(slot) else { return Ok(()) };
        let x = &self.vals[b.val as usize];
        if x.uses != 0 && x.home == slot && x.reg == NO_REG && !x.is(fl::CONST | fl::FRAMED) {
            self.load_root(b.val)?;
        }
        Ok(())
    }

    /// Stores a dirty slot.
    pub(super) fn write_back(&mut self, at: usize) {
        let b = self.st.binds[at];
        self.store_slot(b.slot, b.val);
        self.st.binds[at].dirty = false;
        if self.vals[b.val as usize].home == NO_SLOT && self.can_be_home(b.slot, b.val) {
            self.vals[b.val as usize].home = b.slot;
        }
    }

    /// Emits the store of a value to a slot.
    pub(super) fn store_slot(&mut self, slot: u16, v: u32) {
        let s = self.fx.slots[slot as usize];
        let x = self.vals[v as usize];
        let bytes = s.ty.bytes();
        match self.place(v) {
            Place::Reg(r) if r >= 16 => self.asm.vstore(bytes, s.mem(), Xmm(r - 16)),
            Place::Reg(r) => self.store_gpr(bytes, s.mem(), Gpr(r)),
            Place::Imm(_) if x.is(fl::PC) => {
                self.load_pc(RAX, x.imm);
                self.store_gpr(bytes, s.mem(), RAX);
            }
            Place::Imm(imm) => self.store_const(bytes, s.mem(), imm),
            Place::Mem(_) | Place::Nowhere => debug_assert!(false, "dirty slot's value is in memory"),
        }
    }

    pub(super) fn store_gpr(&mut self, bytes: usize, m: Mem, r: Gpr) {
        match bytes {
            1 => self.asm.store8(m, r),
            2 => self.asm.store16(m, r),
            4 => self.asm.store(false, m, r),
            _ => self.asm.store(true, m, r),
        }
    }

    /// Stores a constant of up to 8 bytes (16 for a vector's bits are never constants).
    pub(super) fn store_const(&mut self, bytes: usize, m: Mem, imm: u64) {
        match bytes {
            1 => self.asm.store8_imm(m, imm as u8),
            2 => self.asm.store16_imm(m, imm as u16),
            4 => self.asm.store_imm(false, m, imm as i32),
            _ => {
                if let Ok(v) = i32::try_from(imm as i64) {
                    self.asm.store_imm(true, m, v);
                } else {
                    self.asm.mov_imm(RAX, imm);
                    self.asm.store(true, m, RAX);
                }
            }
        }
    }

    /// Stores the dirty slots of a value.
    pub(super) fn clean(&mut self, v: u32) {
        if self.vals[v as usize].bound == 0 {
            return;
        }
        for i in 0..self.st.binds.len() {
            if self.st.binds[i].val == v && self.st.binds[i].dirty {
                self.write_back(i);
            }
        }
    }

    /// Stores all dirty slots.
    pub(super) fn write_back_all(&mut self) {
        for i in 0..self.st.binds.len() {
            if self.st.binds[i].dirty {
                self.write_back(i);
            }
        }
    }

    /// Emits the stores of all dirty slots for a path that leaves; the allocation stays as it is.
    pub(super) fn store_dirty(&mut self) {
        for i in 0..self.st.binds.len() {
            let b = self.st.binds[i];
            if b.dirty {
                self.store_slot(b.slot, b.val);
            }
        }
    }

    // Snapshots.

    /// The allocation now, for a block to start with.
    pub(super) fn snapshot(&mut self) -> u32 {
        let at = self.snaps_used;
        if at == self.snaps.len() {
            self.snaps.push(State::default());
        }
        self.snaps[at].copy_from(&self.st);
        self.snaps_used += 1;
        at as u32
    }

    fn forget(&mut self) {
        for r in self.st.regs {
            if r != NONE {
                self.vals[r as usize].reg = NO_REG;
            }
        }
        for b in &self.st.binds {
            self.slot_pos[b.slot as usize] = 0;
            self.vals[b.val as usize].bound = 0;
            self.vals[b.val as usize].home = NO_SLOT;
        }
        for &(v, _) in &self.st.framed {
            self.vals[v as usize].fl &= !fl::FRAMED;
            self.vals[v as usize].frame = 0;
        }
    }

    /// Continues from a snapshot.
    pub(super) fn restore_snapshot(&mut self, at: u32) {
        self.forget();
        let snap = std::mem::take(&mut self.snaps[at as usize]);
        self.st.copy_from(&snap);
        self.snaps[at as usize] = snap;
        for &(v, at) in &self.st.framed {
            self.vals[v as usize].fl |= fl::FRAMED;
            self.vals[v as usize].frame = at;
        }
        for i in 0..self.st.binds.len() {
            let b = self.st.binds[i];
            self.slot_pos[b.slot as usize] = i as u16 + 1;
            self.vals[b.val as usize].bound += 1;
            if !b.dirty && self.can_be_home(b.slot, b.val) {
                self.vals[b.val as usize].home = b.slot;
            }
        }
        for reg in 0..32u8 {
            let v = self.st.regs[reg as usize];
            if v != NONE {
                self.vals[v as usize].reg = reg;
                if self.vals[v as usize].uses == 0 && self.vals[v as usize].bound == 0 {
                    self.release(reg);
                }
            }
        }
    }

    /// Starts a block with several predecessors: pinned slots in their registers, everything else in memory.
    pub(super) fn canonical(&mut self) {
        self.forget();
        self.st.regs = [NONE; 32];
        self.st.free = self.allocatable();
        self.st.binds.clear();
        self.st.framed.clear();
        self.st.frame = self.frame_base;
        for i in 0..self.pins.len() {
            let p = self.pins[i];
            let v = self.synthetic(self.fx.slots[p.slot as usize].ty);
            self.put(v, p.reg);
            self.bind(p.slot, v, p.dirty);
        }
    }

    /// Makes the allocation canonical where a block with several predecessors may follow; values stay available.
    pub(super) fn settle(&mut self) -> Result<(), Too> {
        for i in 0..self.st.binds.len() {
            let b = self.st.binds[i];
            if b.dirty && self.pin_of(b.slot).is_none() {
                self.write_back(i);
            }
        }
        for i in 0..self.pins.len() {
            let p = self.pins[i];
            let keep = self.locked;
            self.locked = 0;
            let v = match self.bind_of(p.slot) {
                Some(b) => b.val,
                None => {
                    let v = self.synthetic(self.fx.slots[p.slot as usize].ty);
                    self.bind(p.slot, v, false);
                    v
                }
            };
            if self.vals[v as usize].reg != p.reg {
                self.clear_pin_reg(p.reg)?;
                // Another pin may share the value and already be in place, then this one gets a copy.
                let from = self.vals[v as usize].reg;
                let shared = self.pins[..i]
                    .iter()
                    .any(|q| q.reg == from && self.bind_of(q.slot).is_some_and(|b| b.val == v));
                if from == NO_REG {
                    self.load_to(v, p.reg)?;
                    self.put(v, p.reg);
                } else {
                    self.move_reg(from, p.reg);
                    if shared {
                        let dirty = self.bind_of(p.slot).is_some_and(|b| b.dirty);
                        let copy = self.synthetic(self.fx.slots[p.slot as usize].ty);
                        self.unbind(p.slot);
                        self.put(copy, p.reg);
                        self.bind(p.slot, copy, dirty);
                    } else {
                        self.release(from);
                        self.put(v, p.reg);
                    }
                }
            }
            self.locked = keep;
        }
        Ok(())
    }

    pub(super) fn move_reg(&mut self, from: u8, to: u8) {
        if to >= 16 {
            let bytes = self.vals[self.st.regs[from as usize] as usize].ty.bytes();
            self.asm.vmov_bytes(bytes, Xmm(to - 16), Xmm(from - 16));
        } else {
            self.asm.mov(true, Gpr(to), Gpr(from));
        }
    }

    /// Gets whatever is in a pinned register out of it, to another register if there is one.
    fn clear_pin_reg(&mut self, reg: u8) -> Result<(), Too> {
        let w = self.st.regs[reg as usize];
        if w == NONE {
            return Ok(());
        }
        let x = self.vals[w as usize];
        let mask = if reg >= 16 { XMMS } else { GPRS };
        let free = self.st.free & mask & !self.pin_mask;
        if free != 0 && (x.uses != 0 || x.bound != 0) {
            let to = free.trailing_zeros() as u8;
            self.move_reg(reg, to);
            self.release(reg);
            self.put(w, to);
            return Ok(());
        }
        self.evict(reg)?;
        // A slot that is pinned and not yet in place must be able to be loaded again.
        Ok(())
    }

    /// True if an edge to a block with several predecessors needs no code.
    pub(super) fn is_settled(&self) -> bool {
        self.st.binds.iter().all(|b| !b.dirty || self.pin_of(b.slot).is_some())
            && self
                .pins
                .iter()
                .all(|p| self.bind_of(p.slot).is_some_and(|b| self.vals[b.val as usize].reg == p.reg))
    }

    /// Sets the table of values up from the region.
    pub(super) fn init_vals(&mut self, r: &Region) {
        self.vals.clear();
        self.vals.reserve(r.insts.len() + 64);
        for (v, inst) in r.insts.iter().enumerate() {
            let mut x = Val::new(v as u32, inst.ty);
            match inst.op {
                Op::Const if class(inst.ty) != Class::Mem && inst.ty.bytes() <= 8 => {
                    x.fl = fl::CONST;
                    x.imm = inst.imm & inst.ty.mask();
                }
                Op::Pc if class(inst.ty) == Class::Gpr => {
                    x.fl = fl::CONST | fl::PC;
                    x.imm = inst.imm & inst.ty.mask();
                }
                _ => {}
            }
            self.vals.push(x);
        }
    }
}
