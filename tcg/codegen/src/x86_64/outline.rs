//! The first tier's accesses and indirect jumps: calls of code that all units share, made when it is first needed.
//!
//! An access is `rax` = address (and `rcx` = value of a store), then a `call`; a load's value comes back in `rax`, extended to 64
//! bits. The code clobbers `rcx` and `rdx`, which hold no values in the first tier, and keeps everything else. On the slow path
//! it turns into the thunk of `stubs` with the unit's own return address, so that a fault leaves with the unit's exit map.

use std::mem::offset_of;

use rustc_hash::FxHashMap;
use tcg_ir::abi::TlbEntry;
use tcg_ir::{Inst, MemOp, Order, Value};

use super::alloc::{Class, NO_REG, class, fl};
use super::asm::{Alu, Asm, Cc, Mem, Shift};
use super::regs::*;
use super::stubs::{KeyOperand, Stub, Stubs, probe};
use super::{Gen, Too};
use crate::{CodeSpace, CompileError};

/// Description of a piece of shared code: the thunk of its slow path, and the access from bit 8 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct What(pub(super) i64);

/// An indirect jump to the guest pc in `rcx`, under the unit's key.
pub(super) const fn jump() -> What {
    What(Stub::Miss as i64)
}

const fn access(thunk: Stub, m: MemOp) -> What {
    What(thunk as i64 | (m.0 as i64) << 8)
}

/// Shared code by description; jumps by their key as well.
#[derive(Debug, Default)]
pub(super) struct Shared {
    made: FxHashMap<(What, u64), u64>,
    asm: Asm,
}

impl Shared {
    pub(super) fn forget(&mut self) {
        self.made.clear();
    }

    /// Address of the code, which is made if it is not there.
    pub(super) fn make(
        &mut self,
        what: What,
        key: u64,
        stubs: &Stubs,
        space: &CodeSpace,
    ) -> Result<u64, CompileError> {
        let thunk = what.0 as usize & 0xff;
        let is_jump = what == jump();
        let name = (what, if is_jump { key } else { 0 });
        if let Some(at) = self.made.get(&name) {
            return Ok(*at);
        }
        let a = &mut self.asm;
        a.clear();
        let m = MemOp((what.0 >> 8) as u32);
        if is_jump {
            indirect(a, key);
        } else if (Stub::Load as usize..=Stub::LoadY as usize).contains(&thunk) {
            load(a, m);
        } else {
            store(a, m);
        }
        a.b(0xe9);
        a.d(0);
        a.finish();
        let code = &mut a.buf;
        let offset = space.alloc(code.len(), 32).ok_or(CompileError::Full)?;
        let base = space.rx_base() + offset as u64;
        let end = code.len();
        let rel = stubs.at[thunk].wrapping_sub(base + end as u64) as u32;
        code[end - 4..].copy_from_slice(&rel.to_le_bytes());
        space.write(offset, code);
        self.made.insert(name, base);
        Ok(base)
    }
}

/// Compares the page of the address in `rax`, with the entry for it in `rdx`. Clobbers `t`; the flags say whether it hits.
fn check(a: &mut Asm, m: MemOp, t: Gpr, field: usize) {
    let desc = tlb(m.mmu());
    a.mov(true, RDX, RAX);
    // A page number is shifted by 12, an entry has 32 bytes.
    a.shift_imm(true, Shift::Shr, RDX, 7);
    a.alu(true, Alu::And, RDX, Mem::env(desc));
    a.alu(true, Alu::Add, RDX, Mem::env(desc + 8));
    let bytes = m.bytes() as i32;
    let aligned = Gen::aligned_only(m);
    let last = if aligned { 0 } else { bytes - 1 };
    if last == 0 {
        a.mov(true, t, RAX)
    } else {
        a.lea(true, t, Mem::at(RAX, last))
    }
    a.alu_imm(true, Alu::And, t, if aligned { -4096 | (bytes - 1) } else { -4096 });
    a.alu(true, Alu::Cmp, t, Mem::at(RDX, field as i32));
}

/// The host address once the entry is known.
fn host(a: &mut Asm) -> Mem {
    a.mov(true, RDX, Mem::at(RDX, offset_of!(TlbEntry, addend) as i32));
    Mem { base: RAX, index: Some((RDX, 0)), disp: 0, guest: false }
}

fn load(a: &mut Asm, m: MemOp) {
    let slow = a.label();
    let bits = m.bytes() as u32 * 8;
    check(a, m, RCX, offset_of!(TlbEntry, read));
    a.jcc(Cc::Ne, slow);
    let at = host(a);
    if m.big_endian() && bits > 8 {
        a.movbe_load(bits, RAX, at);
        if bits < 64 {
            a.extend(m.signed(), bits, true, RAX, RAX);
        }
    } else if bits == 64 {
        a.mov(true, RAX, at);
    } else {
        a.extend(m.signed(), bits, true, RAX, at);
    }
    a.ret();
    a.bind(slow);
    a.push_rm(Mem::at(RSP, 0));
    a.store_imm(true, Mem::at(RSP, 8), m.0 as i32);
}

fn store(a: &mut Asm, m: MemOp) {
    let slow = a.label();
    let bits = m.bytes() as u32 * 8;
    a.push(RSI);
    check(a, m, RSI, offset_of!(TlbEntry, write));
    a.pop(RSI);
    a.jcc(Cc::Ne, slow);
    let to = host(a);
    match bits {
        16.. if m.big_endian() => a.movbe_store(bits, to, RCX),
        8 => a.store8(to, RCX),
        16 => a.store16(to, RCX),
        _ => a.store(bits == 64, to, RCX),
    }
    if m.order() == Order::SeqCst {
        a.mfence();
    }
    a.ret();
    a.bind(slow);
    a.push_rm(Mem::at(RSP, 0));
    a.push_rm(Mem::at(RSP, 0));
    a.store(true, Mem::at(RSP, 16), RCX);
    a.store_imm(true, Mem::at(RSP, 8), m.0 as i32);
}

fn indirect(a: &mut Asm, key: u64) {
    let miss = a.label();
    a.mov_imm(RDX, key);
    probe(a, RAX, KeyOperand::Reg(RDX), JUMP_CACHE, miss);
    a.bind(miss);
}

impl Gen<'_> {
    /// True if an access is a call.
    pub(super) fn is_outline(&self, inst: &Inst) -> bool {
        // Without a TLB an access is one instruction.
        if self.fx.opts.direct.is_some() {
            return false;
        }
        let ty = if inst.op == tcg_ir::Op::Load { inst.ty } else { self.r.inst(inst.b).ty };
        self.first && inst.memop().bytes() <= 8 && class(ty) != Class::Mem
    }

    fn address_in_rax(&mut self, inst: &Inst) -> Result<(), Too> {
        let at = self.address(inst)?;
        if at.disp == 0 {
            self.asm.mov(true, RAX, at.base);
        } else {
            self.asm.lea(true, RAX, Mem::at(at.base, at.disp));
        }
        Ok(())
    }

    pub(super) fn load_outline(&mut self, v: Value) -> Result<(), Too> {
        let inst = *self.r.inst(v);
        let m = inst.memop();
        self.address_in_rax(&inst)?;
        let body = self.body();
        let what = access(self.thunk(Stub::Load), m);
        self.go_shared(true, what);
        self.site_with(body);
        self.done(inst.a);
        if class(inst.ty) == Class::Xmm {
            let d = self.define_xmm(v, Xmm(NO_REG - 16), 0)?;
            self.asm.gpr_to_xmm(m.bytes() == 8, d, RAX);
        } else {
            let d = self.define_gpr(v, Gpr(NO_REG), 0)?;
            self.asm.mov(true, d, RAX);
            self.vals[v.index()].zx = if m.signed() { 64 } else { m.bytes() as u8 * 8 };
        }
        Ok(())
    }

    pub(super) fn store_outline(&mut self, v: Value) -> Result<(), Too> {
        let inst = *self.r.inst(v);
        let value = inst.b;
        let root = self.root(value);
        if self.vals[root as usize].is(fl::LAZY) {
            self.load_root(root)?;
        }
        let is_gpr = class(self.r.inst(value).ty) == Class::Gpr;
        match self.imm32(value).filter(|_| is_gpr) {
            Some(imm) => self.asm.mov_imm(RCX, imm as i64 as u64),
            None if is_gpr => {
                let r = self.use_gpr(value)?;
                self.asm.mov(true, RCX, r);
            }
            None => {
                let r = self.use_xmm(value)?;
                let wide = self.r.inst(value).ty.bytes() >= 8;
                self.asm.xmm_to_gpr(wide, RCX, r);
            }
        }
        self.address_in_rax(&inst)?;
        let body = self.body();
        let what = access(self.thunk(Stub::Store), inst.memop());
        self.go_shared(true, what);
        self.site_with(body);
        self.done(inst.a);
        self.done(value);
        Ok(())
    }
}
