//! Segments: descriptors, loading segment registers, what an access must check (Intel SDM volume 3, 3.4 and 5).

use tcg_engine::{Cx, Trap};
use tcg_ir::MemOp;

use crate::{
    control::CR4_SMAP,
    exceptions::{self, vector},
    guest::X86,
    mode::{MMU_KERNEL, MMU_SMAP},
    state::{Cpu, Segment, seg},
};

/// Attribute: present.
pub const P: u64 = 1 << 7;
/// Attribute: code or data.
pub const S: u64 = 1 << 4;
/// Attribute: 64-bit code.
pub const L: u64 = 1 << 9;
/// Attribute: 32-bit default.
pub const DB: u64 = 1 << 10;
/// Attribute: limit in pages.
pub const G: u64 = 1 << 11;
/// Type bit: code.
pub const CODE: u64 = 8;
/// Type bit: conforming code, or data that expands down.
pub const CONFORMING: u64 = 4;
/// Type bit: readable code, or writable data.
pub const RW: u64 = 2;
/// Type bit: accessed.
pub const ACCESSED: u64 = 1;

/// What an access through a segment register takes below 64-bit mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// Nothing: base 0, 4 GiB, readable and writable.
    Flat,
    /// The base is added; 4 GiB, readable and writable.
    Based,
    /// The base is added and the limit compared; readable and writable, expands up.
    Limited,
    /// Everything, by a helper.
    Checked,
}

impl Class {
    /// From the low two bits.
    #[must_use]
    pub const fn from_bits(n: u8) -> Self {
        match n & 3 {
            0 => Self::Flat,
            1 => Self::Based,
            2 => Self::Limited,
            _ => Self::Checked,
        }
    }
}

/// Class of segment register `n`; for CS, `Flat` says only that fetches need no check of the limit.
#[must_use]
pub fn class(s: &Cpu, n: usize) -> Class {
    let access = s.seg_access[n];
    if n == seg::CS {
        let whole = s.seg_limit[n] == 0xffff_ffff || access & DB == 0 && s.seg_limit[n] >= 0xffff;
        return if whole { Class::Flat } else { Class::Checked };
    }
    let usable = access & (P | S | CODE | CONFORMING | RW) == P | S | RW;
    if !usable {
        return Class::Checked;
    }
    match (s.seg_limit[n] == 0xffff_ffff, s.seg_base[n]) {
        (true, 0) => Class::Flat,
        (true, _) => Class::Based,
        _ => Class::Limited,
    }
}

/// A descriptor as it lies in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Linear address of its second word.
    pub at: u64,
    /// The eight bytes.
    pub raw: u64,
    /// Bits 32 to 63 of the base, of a 16-byte system descriptor.
    pub high: u64,
}

impl Descriptor {
    /// Attributes as state keeps them.
    #[must_use]
    pub const fn access(self) -> u64 {
        self.raw >> 40 & 0xff | self.raw >> 44 & 0xf00
    }

    /// Type field.
    #[must_use]
    pub const fn kind(self) -> u64 {
        self.raw >> 40 & 0xf
    }

    /// Code or data.
    #[must_use]
    pub const fn is_segment(self) -> bool {
        self.access() & S != 0
    }

    /// Code.
    #[must_use]
    pub const fn is_code(self) -> bool {
        self.access() & (S | CODE) == S | CODE
    }

    /// Present.
    #[must_use]
    pub const fn present(self) -> bool {
        self.access() & P != 0
    }

    /// Privilege level.
    #[must_use]
    pub const fn dpl(self) -> u8 {
        (self.raw >> 45 & 3) as u8
    }

    /// Base.
    #[must_use]
    pub const fn base(self) -> u64 {
        self.raw >> 16 & 0xff_ffff | self.raw >> 32 & 0xff00_0000 | self.high << 32
    }

    /// Limit in bytes.
    #[must_use]
    pub const fn limit(self) -> u32 {
        let limit = (self.raw & 0xffff | self.raw >> 32 & 0xf_0000) as u32;
        if self.access() & G != 0 { limit << 12 | 0xfff } else { limit }
    }

    /// A gate's offset.
    #[must_use]
    pub const fn gate_offset(self) -> u64 {
        self.raw & 0xffff | self.raw >> 32 & 0xffff_0000 | self.high << 32
    }

    /// A gate's selector.
    #[must_use]
    pub const fn gate_selector(self) -> u16 {
        (self.raw >> 16) as u16
    }
}

/// MMU index of accesses to tables that the processor makes by itself: SMAP holds for them whatever AC says.
pub(crate) const fn sys_mmu(s: &Cpu) -> usize {
    if s.cr4 & CR4_SMAP != 0 { MMU_SMAP } else { MMU_KERNEL }
}

/// Loads as the processor itself does: with supervisor rights, whatever the privilege.
pub(crate) fn sys_load(cx: &mut Cx<'_, X86>, at: u64, log2: u32) -> Result<u64, Trap> {
    let mmu = sys_mmu(cx.state);
    cx.load(at, MemOp::new(log2).with_mmu(mmu))
}

/// Stores in the same way.
pub(crate) fn sys_store(cx: &mut Cx<'_, X86>, at: u64, log2: u32, v: u64) -> Result<(), Trap> {
    let mmu = sys_mmu(cx.state);
    cx.store(at, MemOp::new(log2).with_mmu(mmu), v)
}

/// A linear address in the width of the mode.
pub(crate) fn linear(s: &Cpu, at: u64) -> u64 {
    if s.long_mode() { at } else { at & 0xffff_ffff }
}

/// Reads the descriptor of a selector that is not null. Beyond the table's limit: `vector` with the selector.
pub(crate) fn read(cx: &mut Cx<'_, X86>, selector: u16, vector: u8) -> Result<Descriptor, Trap> {
    if let Some(p) = &cx.guest().program {
        let raw = p.descriptor(cx.state, selector);
        let raw = raw.ok_or(exceptions::with_error(vector, selector & !3))?;
        return Ok(Descriptor { at: 0, raw, high: 0 });
    }
    let (base, limit, usable) = if selector & 4 != 0 {
        let l = cx.state.ldt;
        (l.base, u64::from(l.limit), u64::from(l.access) & P != 0)
    } else {
        (cx.state.gdt.base, u64::from(cx.state.gdt.limit), true)
    };
    let offset = u64::from(selector & !7);
    if !usable || offset + 7 > limit {
        return Err(exceptions::with_error(vector, selector & !3));
    }
    let at = linear(cx.state, base.wrapping_add(offset));
    let raw = sys_load(cx, at, 3)?;
    Ok(Descriptor { at: at.wrapping_add(4), raw, high: 0 })
}

/// Reads a system descriptor, which takes 16 bytes in long mode.
pub(crate) fn read_system(cx: &mut Cx<'_, X86>, selector: u16, vector: u8) -> Result<Descriptor, Trap> {
    let mut d = read(cx, selector, vector)?;
    if cx.state.long_mode() && !d.is_segment() {
        let limit =
            if selector & 4 != 0 { u64::from(cx.state.ldt.limit) } else { u64::from(cx.state.gdt.limit) };
        if u64::from(selector & !7) + 15 > limit {
            return Err(exceptions::with_error(vector, selector & !3));
        }
        let high = sys_load(cx, d.at.wrapping_add(4), 3)?;
        d.high = high & 0xffff_ffff;
    }
    Ok(d)
}

/// Sets the accessed bit of a code or data descriptor.
pub(crate) fn mark_accessed(cx: &mut Cx<'_, X86>, d: Descriptor) -> Result<u64, Trap> {
    if d.kind() & ACCESSED == 0 && cx.guest().program.is_none() {
        let word = (d.raw >> 32 | 1 << 8) & 0xffff_ffff;
        sys_store(cx, d.at, 2, word)?;
    }
    Ok(d.access() | ACCESSED)
}

/// Puts a descriptor into a segment register.
pub(crate) fn put(s: &mut Cpu, n: usize, selector: u16, d: Descriptor, access: u64) {
    s.seg_sel[n] = u64::from(selector);
    s.seg_base[n] = d.base();
    s.seg_limit[n] = u64::from(d.limit());
    s.seg_access[n] = access;
}

/// What a segment register holds in real mode and virtual-8086 mode. Real mode keeps the limit and the attributes.
pub(crate) fn put_real(s: &mut Cpu, n: usize, selector: u16) {
    s.seg_sel[n] = u64::from(selector);
    s.seg_base[n] = u64::from(selector) << 4;
    if s.vm86() {
        s.seg_limit[n] = 0xffff;
        s.seg_access[n] = P | S | 3 | 3 << 5;
    } else if s.seg_access[n] & P == 0 {
        s.seg_access[n] = P | S | 3;
    } else if n == seg::CS {
        s.seg_access[n] = s.seg_access[n] & !(15 | 3 << 5) | RW | ACCESSED;
    }
}

/// Loads ES, SS, DS, FS or GS as MOV and POP do.
pub(crate) fn load(cx: &mut Cx<'_, X86>, n: usize, selector: u16) -> Result<(), Trap> {
    if !cx.state.protected() || cx.state.vm86() {
        put_real(cx.state, n, selector);
        return Ok(());
    }
    let (cpl, rpl) = (cx.state.cpl, (selector & 3) as u8);
    let gp = |s: u16| exceptions::with_error(vector::GP, s & !3);
    if selector & !3 == 0 {
        let null_ss = cx.state.code64() && cpl != 3 && rpl == cpl;
        if n == seg::SS && !null_ss {
            return Err(gp(0));
        }
        let s = &mut *cx.state;
        s.seg_sel[n] = u64::from(selector);
        s.seg_access[n] = if n == seg::SS { P | S | 3 | u64::from(cpl) << 5 } else { 0 };
        s.seg_base[n] = 0;
        s.seg_limit[n] = 0;
        return Ok(());
    }
    let d = read(cx, selector, vector::GP)?;
    let access = d.access();
    if n == seg::SS {
        let writable = access & (S | CODE | RW) == S | RW;
        if rpl != cpl || d.dpl() != cpl || !writable {
            return Err(gp(selector));
        }
        if !d.present() {
            return Err(exceptions::with_error(vector::SS, selector & !3));
        }
    } else {
        let readable = access & S != 0 && (access & CODE == 0 || access & RW != 0);
        let conforming = access & (CODE | CONFORMING) == CODE | CONFORMING;
        if !readable || !conforming && (rpl > d.dpl() || cpl > d.dpl()) {
            return Err(gp(selector));
        }
        if !d.present() {
            return Err(exceptions::with_error(vector::NP, selector & !3));
        }
    }
    let access = mark_accessed(cx, d)?;
    put(cx.state, n, selector, d, access);
    Ok(())
}

/// Linear address of an access of `len` bytes at `offset` of segment `n`, with every check (below 64-bit mode).
pub(crate) fn check(s: &Cpu, n: usize, offset: u64, len: u64, write: bool) -> Result<u64, Trap> {
    let access = s.seg_access[n];
    let fault = if n == seg::SS { vector::SS } else { vector::GP };
    let bad = Err(exceptions::with_error(fault, 0));
    if access & P == 0 {
        return bad;
    }
    let code = access & CODE != 0;
    // In real mode everything can be written, through CS as well.
    let real = !s.protected() || s.vm86();
    let right = access & RW != 0;
    let allowed = if write { !code && right } else { !code || right };
    if !real && !allowed {
        return bad;
    }
    let last = offset + (len - 1);
    let limit = s.seg_limit[n];
    let inside = if !code && access & CONFORMING != 0 {
        let top = if access & DB != 0 { 0xffff_ffff } else { 0xffff };
        offset > limit && last <= top
    } else {
        last <= limit
    };
    if inside { Ok(s.seg_base[n].wrapping_add(offset) & 0xffff_ffff) } else { bad }
}

/// A system segment from its descriptor.
pub(crate) fn system(selector: u16, d: Descriptor) -> Segment {
    Segment { selector, access: d.access() as u16, limit: d.limit(), base: d.base() }
}
