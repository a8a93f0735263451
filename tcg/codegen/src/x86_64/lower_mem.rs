//! Guest memory: the softmmu's fast path inline, the slow path in cold code, atomics on the host's own. Where guest memory
//! is host memory ([`crate::Direct`]), the access alone, with an exit map of its own.
//!
//! The host is TSO, so acquire and release cost nothing and sequential consistency needs a fence behind stores.

use tcg_ir::{Align, Atomicity, Inst, MemOp, Order, RmwOp, Type, Value};

use std::mem::offset_of;
use tcg_ir::abi::TlbEntry;

use super::alloc::{Class, NO_REG, Place, class, fl};
use super::asm::{Alu, Cc, Label, Mem, Shift, V};
use super::regs::*;
use super::stubs::Stub;
use super::{Gen, Too};
use crate::Direct;

/// A guest address: register and displacement, both 64 bits.
#[derive(Clone, Copy)]
pub(super) struct Addr {
    pub(super) base: Gpr,
    pub(super) disp: i32,
    pub(super) direct: Option<Direct>,
}

impl Addr {
    /// The host address, with a TLB once the addend is in `rax`.
    const fn host(self) -> Mem {
        match self.direct {
            None => Mem { base: RAX, index: Some((self.base, 0)), disp: self.disp, guest: false },
            Some(d) => Mem { base: self.base, index: None, disp: self.disp, guest: d.segment },
        }
    }
}

/// Which vector registers a slow path must preserve.
fn variant(base: Stub, used: u32, wide: bool) -> Stub {
    let all = [
        [Stub::Load, Stub::LoadX, Stub::LoadY],
        [Stub::Store, Stub::StoreX, Stub::StoreY],
        [Stub::LoadWide, Stub::LoadWideX, Stub::LoadWideY],
        [Stub::StoreWide, Stub::StoreWideX, Stub::StoreWideY],
        [Stub::Rmw, Stub::RmwX, Stub::RmwY],
        [Stub::Cas, Stub::CasX, Stub::CasY],
        [Stub::Soft, Stub::SoftX, Stub::SoftY],
    ];
    let row = all.iter().find(|r| r[0] == base).unwrap_or(&all[0]);
    row[if used == 0 { 0 } else { 1 + usize::from(wide) }]
}

impl Gen<'_> {
    /// The thunk that preserves what is live now.
    pub(super) fn thunk(&self, base: Stub) -> Stub {
        variant(base, !self.st.free & XMMS, self.wide)
    }

    pub(super) fn address(&mut self, inst: &Inst) -> Result<Addr, Too> {
        let base = self.use_gpr(inst.a)?;
        let disp = inst.disp();
        let direct = self.fx.opts.direct;
        if self.r.inst(inst.a).ty == Type::I64 {
            return Ok(Addr { base, disp, direct });
        }
        let zx = self.vals[self.root(inst.a) as usize].zx;
        if disp == 0 && zx <= 32 {
            return Ok(Addr { base, disp, direct });
        }
        let t = self.temp_gpr()?;
        self.asm.lea(false, t, Mem::at(base, disp));
        Ok(Addr { base: t, disp: 0, direct })
    }

    /// True if the fast path takes aligned accesses only.
    pub(super) fn aligned_only(m: MemOp) -> bool {
        m.bytes() > 1 && (m.align() != Align::None || m.atomicity() == Atomicity::Whole)
    }

    /// A register for [`Self::tlb`] to clobber.
    fn tlb_temp(&mut self) -> Result<Gpr, Too> {
        if self.fx.opts.direct.is_some() { Ok(RAX) } else { self.temp_gpr() }
    }

    /// True if the code for an access jumps to its slow path at all.
    fn may_be_slow(&self, m: MemOp, always: bool) -> bool {
        always || self.fx.opts.direct.is_none() || Self::aligned_only(m)
    }

    /// Emits the TLB check: goes on with the addend in `rax`, or to `slow`. Clobbers `t`.
    fn tlb(&mut self, m: MemOp, at: Addr, write: bool, t: Gpr, slow: Label) {
        let bytes = m.bytes() as i32;
        let a = &mut self.asm;
        if at.direct.is_some() {
            if Self::aligned_only(m) {
                let mut low = at.base;
                if at.disp & (bytes - 1) != 0 {
                    a.lea(true, RAX, Mem::at(at.base, at.disp));
                    low = RAX;
                }
                a.test_imm(true, low, bytes - 1);
                a.jcc(Cc::Ne, slow);
            }
            return;
        }
        let desc = tlb(m.mmu());
        if at.disp == 0 {
            a.mov(true, RAX, at.base);
        } else {
            a.lea(true, RAX, Mem::at(at.base, at.disp));
        }
        // A page number is shifted by 12, an entry has 32 bytes.
        a.shift_imm(true, Shift::Shr, RAX, 7);
        a.alu(true, Alu::And, RAX, Mem::env(desc));
        a.alu(true, Alu::Add, RAX, Mem::env(desc + 8));
        let aligned = Self::aligned_only(m);
        // What may be unaligned is looked at at its last byte: an access across pages misses.
        let last = if aligned { 0 } else { bytes - 1 };
        match at.disp.checked_add(last) {
            Some(0) => a.mov(true, t, at.base),
            Some(d) => a.lea(true, t, Mem::at(at.base, d)),
            None => {
                a.lea(true, t, Mem::at(at.base, at.disp));
                a.alu_imm(true, Alu::Add, t, last);
            }
        }
        a.alu_imm(true, Alu::And, t, if aligned { -4096 | (bytes - 1) } else { -4096 });
        let field = if write { offset_of!(TlbEntry, write) } else { offset_of!(TlbEntry, read) };
        a.alu(true, Alu::Cmp, t, Mem::at(RAX, field as i32));
        a.jcc(Cc::Ne, slow);
        a.mov(true, RAX, Mem::at(RAX, offset_of!(TlbEntry, addend) as i32));
    }

    /// `copy` where one side is guest memory: an exit map at each instruction that may fault.
    fn copy_guest(&mut self, bytes: usize, to: Mem, from: Mem, body: (u32, u32)) {
        let mut at = 0;
        while at < bytes {
            let n = match bytes - at {
                32.. => 32,
                16.. => 16,
                8.. => 8,
                _ => 4,
            };
            // Only one of the two can be the guest's; the other's map is never looked for.
            self.access_site(body);
            self.asm.vload(n, X15, from.add(at as i32));
            self.access_site(body);
            self.asm.vstore(n, to.add(at as i32), X15);
            at += n;
        }
    }

    /// Emits a slow path: `push` puts the values on the stack, `result` takes the result from `rax` or the buffer.
    fn slow(
        &mut self,
        (needed, slow, back): (bool, Label, Label),
        at: Addr,
        m: MemOp,
        (stub, body): (Stub, (u32, u32)),
        push: impl FnOnce(&mut Self) -> Result<(), Too>,
        result: impl FnOnce(&mut Self),
    ) -> Result<(), Too> {
        if !needed {
            return Ok(());
        }
        self.cold(|g| {
            g.asm.bind(slow);
            push(g)?;
            if at.disp == 0 {
                g.asm.mov(true, RAX, at.base);
            } else {
                g.asm.lea(true, RAX, Mem::at(at.base, at.disp));
            }
            g.asm.push_imm(m.0 as i32);
            g.go_stub(true, stub);
            g.site_with(body);
            result(g);
            g.asm.jmp(back);
            Ok(())
        })
    }

    pub(super) fn load(&mut self, v: Value) -> Result<(), Too> {
        let inst = *self.r.inst(v);
        let m = inst.memop();
        let bytes = m.bytes();
        let (slow, back) = (self.asm.label(), self.asm.label());
        let at = self.address(&inst)?;
        let wide = bytes > 8;
        let vector = class(inst.ty) == Class::Xmm;
        let always_slow = wide && !vector && (m.big_endian() || bytes > 32);
        if vector {
            // Behind the check nothing may be emitted that the slow path would miss.
            self.reserve(XMMS)?;
        }
        if always_slow {
            self.asm.jmp(slow);
        } else {
            let t = self.tlb_temp()?;
            self.tlb(m, at, false, t, slow);
            self.temps &= !(1 << t.0);
        }
        let body = self.body();
        let stub = self.thunk(if wide { Stub::LoadWide } else { Stub::Load });
        let may_be_slow = self.may_be_slow(m, always_slow);
        let buffer = Mem::at(RSP, SOFT + WIDE_BUFFER);
        let ty_bits = inst.ty.bits();
        match class(inst.ty) {
            Class::Gpr => {
                // The operands' registers are still read by the slow path.
                let d = self.define_gpr(v, Gpr(NO_REG), 0)?;
                let bits = bytes as u32 * 8;
                let w = ty_bits > 32;
                if !always_slow {
                    self.access_site(body);
                }
                if wide {
                    if !always_slow {
                        self.asm.mov(true, d, at.host());
                    }
                } else if m.big_endian() && bytes > 1 {
                    self.asm.movbe_load(bits, d, at.host());
                    if bits == 16 || (m.signed() && bits < ty_bits) {
                        self.asm.extend(m.signed() && bits < ty_bits, bits, w, d, d);
                    }
                } else if bits == 64 {
                    self.asm.mov(true, d, at.host());
                } else {
                    self.asm.extend(m.signed() && bits < ty_bits, bits, w, d, at.host());
                }
                let zero = if m.signed() && bits < ty_bits { if w { 64 } else { 32 } } else { bits.min(64) };
                self.vals[v.index()].zx = zero as u8;
                self.slow(
                    (may_be_slow, slow, back),
                    at,
                    m,
                    (stub, body),
                    |_| Ok(()),
                    |g| {
                        if wide {
                            g.asm.mov(true, d, buffer);
                        } else if m.signed() && zero < 64 {
                            // The run time extends to 64 bits.
                            g.asm.extend(false, zero, false, d, RAX);
                        } else {
                            g.asm.mov(true, d, RAX);
                        }
                    },
                )?;
            }
            Class::Xmm => {
                let d = self.define_xmm(v, Xmm(NO_REG - 16), 0)?;
                let n = bytes.max(4);
                if !always_slow {
                    self.access_site(body);
                }
                if always_slow {
                } else if wide && m.big_endian() {
                    self.asm.vload(n, d, at.host());
                    self.reverse_bytes(bytes, d, d);
                } else if m.big_endian() && bytes > 1 {
                    self.asm.movbe_load(bytes as u32 * 8, RAX, at.host());
                    self.asm.gpr_to_xmm(bytes == 8, d, RAX);
                } else if bytes < 4 {
                    self.asm.extend(false, bytes as u32 * 8, false, RAX, at.host());
                    self.asm.gpr_to_xmm(false, d, RAX);
                } else {
                    self.asm.vload(n, d, at.host());
                }
                self.slow(
                    (may_be_slow, slow, back),
                    at,
                    m,
                    (stub, body),
                    |_| Ok(()),
                    |g| {
                        if wide { g.asm.vload(n, d, buffer) } else { g.asm.gpr_to_xmm(bytes == 8, d, RAX) }
                    },
                )?;
            }
            Class::Mem => {
                let to = self.frame_slot(v.0)?;
                let size = inst.ty.bytes();
                if always_slow {
                } else if wide {
                    // The addend stays in `rax`: copied through the scratch vector register.
                    self.copy_guest(bytes.min(size), to, at.host(), body);
                } else {
                    let bits = bytes as u32 * 8;
                    self.access_site(body);
                    if m.big_endian() && bytes > 1 {
                        self.asm.movbe_load(bits, RAX, at.host());
                        if bits < 64 {
                            self.asm.extend(m.signed(), bits, true, RAX, RAX);
                        }
                    } else if bits == 64 {
                        self.asm.mov(true, RAX, at.host());
                    } else {
                        self.asm.extend(m.signed(), bits, true, RAX, at.host());
                    }
                }
                self.slow(
                    (may_be_slow, slow, back),
                    at,
                    m,
                    (stub, body),
                    |_| Ok(()),
                    |g| {
                        if wide {
                            g.copy(bytes.min(size), to, buffer)
                        }
                    },
                )?;
                if wide {
                    self.asm.bind(back);
                    for at in (bytes..size).step_by(8) {
                        self.asm.store_imm(true, to.add(at as i32), 0);
                    }
                } else {
                    self.asm.bind(back);
                    self.asm.store(true, to, RAX);
                    if m.signed() {
                        self.asm.shift_imm(true, Shift::Sar, RAX, 63);
                    } else {
                        self.asm.mov_imm(RAX, 0);
                    }
                    for at in (8..size).step_by(8) {
                        self.asm.store(true, to.add(at as i32), RAX);
                    }
                }
                self.done(inst.a);
                return Ok(());
            }
        }
        self.asm.bind(back);
        self.done(inst.a);
        Ok(())
    }

    /// The bytes of a vector in reverse order.
    fn reverse_bytes(&mut self, bytes: usize, d: Xmm, s: Xmm) {
        let (low, high) = (0x0809_0a0b_0c0d_0e0f, 0x0001_0203_0405_0607);
        let y = bytes == 32;
        if bytes == 64 {
            // Inside each quarter, then the quarters.
            self.asm.vop_const(V::new(0, 1, 0x10).l(true), X14, Xmm(0), [low, high, low, high]);
            self.asm.vop_imm(V::new(1, 3, 0x3a).w(true).z(), X14, X14, X14, 1);
            self.asm.vop(V::new(1, 2, 0x00).z(), d, s, X14);
            self.asm.vop_imm(V::new(1, 3, 0x43).w(true).z(), d, d, d, 0x1b);
            return;
        }
        self.asm.vop_const(V::new(1, 2, 0x00).l(y), d, s, [low, high, low, high]);
        if y {
            self.asm.vop_imm(V::new(1, 3, 0x00).w(true).l(true), d, Xmm(0), d, 0x4e);
        }
    }

    pub(super) fn store(&mut self, v: Value) -> Result<(), Too> {
        let inst = *self.r.inst(v);
        let m = inst.memop();
        let bytes = m.bytes();
        let value = inst.b;
        let (slow, back) = (self.asm.label(), self.asm.label());
        let at = self.address(&inst)?;
        let root = self.root(value);
        if self.vals[root as usize].is(fl::LAZY) {
            self.load_root(root)?;
        }
        let wide = bytes > 8;
        let size = self.r.inst(value).ty.bytes();
        let buffer = Mem::at(RSP, SOFT + WIDE_BUFFER);
        // A constant goes into the instruction if it fits.
        let imm = self
            .imm32(value)
            .filter(|_| !wide && class(self.r.inst(value).ty) == Class::Gpr && !m.big_endian());
        let src = match class(self.r.inst(value).ty) {
            Class::Gpr if imm.is_some() => NO_REG,
            Class::Gpr => self.use_gpr(value)?.0,
            Class::Xmm => self.load_root(root)?,
            Class::Mem if !wide => {
                let Place::Mem(from) = self.place(root) else { return Err(Too) };
                let t = self.temp_gpr()?;
                self.asm.mov(true, t, from);
                t.0
            }
            Class::Mem => NO_REG,
        };
        // Small pieces of a vector register, and reversed ones, go through a general register.
        let mut src = src;
        if !wide && src != NO_REG && src >= 16 && (bytes < 4 || m.big_endian()) {
            let t = self.temp_gpr()?;
            self.asm.xmm_to_gpr(size >= 8, t, Xmm(src - 16));
            src = t.0;
        }
        let in_xmm = src != NO_REG && src >= 16;
        let always_slow = wide && !in_xmm && (m.big_endian() || bytes > 32 || src != NO_REG);
        let body;
        if always_slow {
            self.asm.jmp(slow);
            body = self.body();
        } else {
            let t = self.tlb_temp()?;
            self.tlb(m, at, true, t, slow);
            let to = at.host();
            body = self.body();
            self.access_site(body);
            if wide {
                if src == NO_REG {
                    let Place::Mem(from) = self.place(root) else { return Err(Too) };
                    self.copy_guest(bytes, to, from, body);
                } else if m.big_endian() {
                    self.reverse_bytes(bytes, X15, Xmm(src - 16));
                    self.access_site(body);
                    self.asm.vstore(bytes, to, X15);
                } else {
                    self.asm.vstore(bytes, to, Xmm(src - 16));
                }
            } else if let Some(imm) = imm {
                match bytes {
                    1 => self.asm.store8_imm(to, imm as u8),
                    2 => self.asm.store16_imm(to, imm as u16),
                    n => self.asm.store_imm(n == 8, to, imm),
                }
            } else if src >= 16 {
                self.asm.vstore(bytes, to, Xmm(src - 16));
            } else if m.big_endian() && bytes > 1 {
                self.asm.movbe_store(bytes as u32 * 8, to, Gpr(src));
            } else {
                self.store_gpr(bytes, to, Gpr(src));
            }
        }
        if m.order() == Order::SeqCst && !always_slow {
            self.asm.mfence();
        }
        self.asm.bind(back);
        let stub = self.thunk(if wide { Stub::StoreWide } else { Stub::Store });
        self.slow(
            (self.may_be_slow(m, always_slow), slow, back),
            at,
            m,
            (stub, body),
            |g| {
                if wide {
                    if src == NO_REG {
                        let Place::Mem(from) = g.place(root) else { return Err(Too) };
                        g.copy(size, buffer, from);
                    } else if src >= 16 {
                        g.asm.vstore(size, buffer, Xmm(src - 16));
                    } else {
                        g.store_value(value, buffer)?;
                    }
                } else if let Some(imm) = imm {
                    g.asm.push_imm(imm);
                } else if src >= 16 {
                    g.asm.lea(true, RSP, Mem::at(RSP, -8));
                    g.asm.vstore(8, Mem::at(RSP, 0), Xmm(src - 16));
                } else {
                    g.asm.push(Gpr(src));
                }
                Ok(())
            },
            |_| {},
        )?;
        self.done(inst.a);
        self.done(value);
        Ok(())
    }

    /// Old value of an atomic of `bits` in `from`, extended into the result.
    fn atomic_result(&mut self, v: Value, m: MemOp, from: Gpr) -> Result<(), Too> {
        let ty = self.r.inst(v).ty;
        if self.vals[v.index()].uses == 0 {
            return Ok(());
        }
        if class(ty) != Class::Gpr {
            return Err(Too);
        }
        let bits = m.bytes() as u32 * 8;
        let d = self.define_gpr(v, Gpr(NO_REG), 0)?;
        if bits >= ty.bits() || bits == 64 {
            self.asm.mov(bits == 64, d, from);
            self.vals[v.index()].zx = if bits == 64 { 64 } else { 32 };
        } else {
            let w = ty.bits() > 32;
            self.asm.extend(m.signed(), bits, w, d, from);
            self.vals[v.index()].zx = if !m.signed() {
                bits as u8
            } else if w {
                64
            } else {
                32
            };
        }
        Ok(())
    }

    pub(super) fn rmw(&mut self, v: Value) -> Result<(), Too> {
        let inst = *self.r.inst(v);
        let m = inst.memop();
        let op = RmwOp::from_bits(inst.sub);
        let bits = m.bytes() as u32 * 8;
        // Atomics of 16 bytes, and narrow ones of 128-bit values, have no code yet.
        if bits > 64 || class(inst.ty) != Class::Gpr || class(self.r.inst(inst.b).ty) != Class::Gpr {
            return Err(Too);
        }
        let w = bits == 64;
        let (slow, back) = (self.asm.label(), self.asm.label());
        let at = self.address(&inst)?;
        let val = self.use_gpr(inst.b)?;
        let t = self.tlb_temp()?;
        let old = self.temp_gpr()?;
        let minmax = matches!(op, RmwOp::Min | RmwOp::Max | RmwOp::Minu | RmwOp::Maxu);
        let body = self.body();
        if (m.big_endian() && bits > 8) || (minmax && bits < 32) {
            self.asm.jmp(slow);
        } else {
            self.tlb(m.with_align(Align::Natural), at, true, t, slow);
            if !matches!(op, RmwOp::Swap | RmwOp::Add) {
                self.access_site(body);
            }
            match op {
                RmwOp::Swap => {
                    self.asm.mov(true, old, val);
                    self.access_site(body);
                    self.asm.atomic(bits, false, false, 0x87, at.host(), old);
                }
                RmwOp::Add => {
                    self.asm.mov(true, old, val);
                    self.access_site(body);
                    self.asm.atomic(bits, true, true, 0xc1, at.host(), old);
                }
                _ if !minmax && self.vals[v.index()].uses == 0 => {
                    let code = match op {
                        RmwOp::And => 0x21,
                        RmwOp::Or => 0x09,
                        _ => 0x31,
                    };
                    self.asm.atomic(bits, false, true, code, at.host(), val);
                }
                _ => {
                    let mem = if at.direct.is_some() {
                        at.host()
                    } else {
                        self.asm.lea(true, t, at.host());
                        Mem::at(t, 0)
                    };
                    let a = &mut self.asm;
                    match bits {
                        64 => a.mov(true, RAX, mem),
                        _ => a.extend(false, bits, false, RAX, mem),
                    }
                    let again = a.label();
                    a.bind(again);
                    if minmax {
                        a.mov(w, old, val);
                        a.alu(w, Alu::Cmp, RAX, val);
                        let cc = match op {
                            RmwOp::Min => Cc::L,
                            RmwOp::Max => Cc::G,
                            RmwOp::Minu => Cc::B,
                            _ => Cc::A,
                        };
                        a.cmov(w, cc, old, RAX);
                    } else {
                        a.mov(true, old, val);
                        let alu = match op {
                            RmwOp::And => Alu::And,
                            RmwOp::Or => Alu::Or,
                            _ => Alu::Xor,
                        };
                        a.alu(true, alu, old, RAX);
                    }
                    self.access_site(body);
                    let a = &mut self.asm;
                    a.atomic(bits, true, true, 0xb1, mem, old);
                    a.jcc(Cc::Ne, again);
                    a.mov(true, old, RAX);
                }
            }
        }
        self.asm.bind(back);
        let stub = self.thunk(Stub::Rmw);
        self.slow(
            (true, slow, back),
            at,
            m,
            (stub, body),
            |g| {
                g.asm.push(val);
                g.asm.push_imm(i32::from(inst.sub));
                Ok(())
            },
            |g| g.asm.mov(true, old, RAX),
        )?;
        self.done(inst.a);
        self.done(inst.b);
        self.atomic_result(v, m, old)
    }

    pub(super) fn cas(&mut self, v: Value) -> Result<(), Too> {
        let inst = *self.r.inst(v);
        let m = inst.memop();
        let bits = m.bytes() as u32 * 8;
        // Atomics of 16 bytes, and narrow ones of 128-bit values, have no code yet.
        if bits > 64 || class(inst.ty) != Class::Gpr || class(self.r.inst(inst.b).ty) != Class::Gpr {
            return Err(Too);
        }
        let (slow, back) = (self.asm.label(), self.asm.label());
        let at = self.address(&inst)?;
        let expected = self.use_gpr(inst.b)?;
        let new = self.use_gpr(inst.c)?;
        let t = self.tlb_temp()?;
        let body = self.body();
        if m.big_endian() && bits > 8 {
            self.asm.jmp(slow);
        } else {
            self.tlb(m.with_align(Align::Natural), at, true, t, slow);
            let mem = if at.direct.is_some() {
                at.host()
            } else {
                self.asm.lea(true, t, at.host());
                Mem::at(t, 0)
            };
            self.asm.mov(true, RAX, expected);
            self.access_site(body);
            self.asm.atomic(bits, true, true, 0xb1, mem, new);
        }
        self.asm.bind(back);
        let stub = self.thunk(Stub::Cas);
        self.slow(
            (true, slow, back),
            at,
            m,
            (stub, body),
            |g| {
                g.asm.push(new);
                g.asm.push(expected);
                Ok(())
            },
            |_| {},
        )?;
        self.done(inst.a);
        self.done(inst.b);
        self.done(inst.c);
        self.atomic_result(v, m, RAX)
    }

    /// Any operation, computed by the interpreter.
    pub(super) fn soft(&mut self, v: Value) -> Result<(), Too> {
        let inst = *self.r.inst(v);
        let n = inst.op.info().args as usize;
        let args = [inst.a, inst.b, inst.c];
        let mut types = 0u32;
        for (i, &a) in args.iter().take(n).enumerate() {
            let root = self.root(a);
            if self.vals[root as usize].is(fl::LAZY) {
                self.load_root(root)?;
            }
            types |= (self.r.inst(a).ty as u32) << (8 * i);
        }
        self.soft_call(&inst, types, n)?;
        for &a in &args[..n] {
            self.done(a);
        }
        let out = Mem::at(RSP, SOFT + WIDE_BUFFER);
        match class(inst.ty) {
            _ if inst.ty == Type::Void => {}
            Class::Gpr => {
                let d = self.define_gpr(v, Gpr(NO_REG), 0)?;
                self.asm.mov(inst.ty.bytes() == 8, d, out);
                self.vals[v.index()].zx = inst.ty.bits() as u8;
            }
            Class::Xmm => {
                let d = self.define_xmm(v, Xmm(NO_REG - 16), 0)?;
                self.asm.vload(inst.ty.bytes(), d, out);
            }
            Class::Mem => {
                let to = self.frame_slot(v.0)?;
                self.copy(inst.ty.bytes(), to, out);
            }
        }
        Ok(())
    }

    /// Emits the call of the soft fallback for `inst`, whose `n` operands are where they are. The result is in the frame's
    /// buffer; no register but scratch changes.
    pub(super) fn soft_call(&mut self, inst: &Inst, types: u32, n: usize) -> Result<(), Too> {
        use super::soft::{SoftCall, what};
        let args = [inst.a, inst.b, inst.c];
        for (i, &a) in args.iter().take(n).enumerate() {
            let to = offset_of!(SoftCall, args) + i * 64;
            self.store_value(a, Mem::at(RSP, SOFT + to as i32))?;
        }
        let at = |o: usize| Mem::at(RSP, SOFT + o as i32);
        self.asm.store_imm(false, at(offset_of!(SoftCall, what)), what(inst) as i32);
        self.asm.store_imm(false, at(offset_of!(SoftCall, types)), types as i32);
        self.store_const(8, at(offset_of!(SoftCall, imm)), inst.imm);
        let stub = self.thunk(Stub::Soft);
        self.go_stub(true, stub);
        Ok(())
    }
}
