//! FXSAVE, XSAVE and back (SDM volume 1, 10.5 and chapter 13).

use tcg_engine::{Cx, Trap};
use tcg_ir::Exceptions;

use crate::{
    cpuid,
    exceptions::{self, vector},
    guest::X86,
    mode,
    state::{Cpu, X87},
};

/// Bytes of the legacy area.
const LEGACY: usize = 512;
/// Bytes of the largest component beyond it.
const LARGEST: usize = 1024;
/// Bytes of all components beyond the legacy area and the header, in either form.
const EXTENDED: usize = 256 + 64 + 512 + LARGEST + 8;
/// Bits of MXCSR that exist.
pub(crate) const MXCSR_MASK: u32 = 0xffff;

fn gp<T>() -> Result<T, Trap> {
    Err(exceptions::with_error(vector::GP, 0))
}

/// MXCSR as software sees it.
pub(crate) fn mxcsr(cx: &Cx<'_, X86>) -> u32 {
    (cx.state.mxcsr & !0x3f) as u32 | cx.exceptions().bits() & 0x3f
}

/// Sets MXCSR; bits that do not exist are #GP.
pub(crate) fn set_mxcsr(cx: &mut Cx<'_, X86>, v: u32) -> Result<(), Trap> {
    if v & !MXCSR_MASK != 0 {
        return gp();
    }
    cx.state.mxcsr = u64::from(v & !0x3f);
    cx.set_exceptions(Exceptions::from_bits_truncate(v & 0x3f));
    Ok(())
}

fn write_bytes(cx: &mut Cx<'_, X86>, at: u64, data: &[u8]) -> Result<(), Trap> {
    let mmu = mode::data_mmu(cx.state);
    cx.store_run(at, mmu, data)
}

fn read_bytes(cx: &mut Cx<'_, X86>, at: u64, out: &mut [u8]) -> Result<(), Trap> {
    let mmu = mode::data_mmu(cx.state);
    cx.load_run(at, mmu, out)
}

fn put(image: &mut [u8], at: usize, v: u64, bytes: usize) {
    image[at..at + bytes].copy_from_slice(&v.to_le_bytes()[..bytes]);
}

fn take(image: &[u8], at: usize, bytes: usize) -> u64 {
    let mut b = [0; 8];
    b[..bytes].copy_from_slice(&image[at..at + bytes]);
    u64::from_le_bytes(b)
}

/// x87 registers into the legacy area. Reserved bytes become zero, as processors have it.
fn put_x87(f: &X87, image: &mut [u8], wide: bool) {
    put(image, 0, f.fcw, 2);
    put(image, 2, f.fsw & !0x3800 | (f.top & 7) << 11, 2);
    put(image, 4, f.ftw, 2);
    put(image, 6, f.fop, 2);
    if wide {
        put(image, 8, f.fip, 8);
        put(image, 16, f.fdp, 8);
    } else {
        put(image, 8, f.fip, 4);
        put(image, 12, f.fcs, 4);
        put(image, 16, f.fdp, 4);
        put(image, 20, f.fds, 4);
    }
    for n in 0..8 {
        let [m, e] = f.regs[(f.top as usize + n) & 7];
        put(image, 32 + 16 * n, m, 8);
        put(image, 40 + 16 * n, e & 0xffff, 8);
    }
}

fn take_x87(f: &mut X87, image: &[u8], wide: bool) {
    f.fcw = take(image, 0, 2) | 0x40;
    let fsw = take(image, 2, 2);
    f.top = fsw >> 11 & 7;
    f.fsw = fsw & !0x3800;
    f.ftw = take(image, 4, 1);
    f.fop = take(image, 6, 2) & 0x7ff;
    if wide {
        (f.fip, f.fdp, f.fcs, f.fds) = (take(image, 8, 8), take(image, 16, 8), 0, 0);
    } else {
        (f.fip, f.fcs) = (take(image, 8, 4), take(image, 12, 2));
        (f.fdp, f.fds) = (take(image, 16, 4), take(image, 20, 2));
    }
    for n in 0..8 {
        f.regs[(f.top as usize + n) & 7] = [take(image, 32 + 16 * n, 8), take(image, 40 + 16 * n, 2)];
    }
}

/// Number of vector registers that the mode reaches.
fn vectors(s: &Cpu) -> usize {
    if s.code64() { 16 } else { 8 }
}

fn put_xmm(s: &Cpu, image: &mut [u8]) {
    for n in 0..vectors(s) {
        put(image, 160 + 16 * n, s.xmm[n][0], 8);
        put(image, 168 + 16 * n, s.xmm[n][1], 8);
    }
}

fn take_xmm(s: &mut Cpu, image: &[u8]) {
    for n in 0..vectors(s) {
        s.xmm[n] = [take(image, 160 + 16 * n, 8), take(image, 168 + 16 * n, 8)];
    }
}

/// FXSAVE.
pub(crate) fn fxsave(cx: &mut Cx<'_, X86>, at: u64, wide: bool) -> Result<(), Trap> {
    if at & 15 != 0 {
        return gp();
    }
    let mut image = [0; LEGACY];
    // Bytes 464 to 511 are software's.
    read_bytes(cx, at, &mut image)?;
    put_x87(&cx.state.x87, &mut image, wide);
    let v = mxcsr(cx);
    put(&mut image, 24, u64::from(v), 4);
    put(&mut image, 28, u64::from(MXCSR_MASK), 4);
    put_xmm(cx.state, &mut image);
    write_bytes(cx, at, &image)
}

/// FXRSTOR.
pub(crate) fn fxrstor(cx: &mut Cx<'_, X86>, at: u64, wide: bool) -> Result<(), Trap> {
    if at & 15 != 0 {
        return gp();
    }
    let mut image = [0; LEGACY];
    read_bytes(cx, at, &mut image)?;
    set_mxcsr(cx, take(&image, 24, 4) as u32)?;
    take_x87(&mut cx.state.x87, &image, wide);
    take_xmm(cx.state, &image);
    Ok(())
}

/// Components that EDX:EAX asks for.
fn requested(s: &Cpu) -> u64 {
    (u64::from(s.reg32(0)) | u64::from(s.reg32(2)) << 32) & s.xcr0
}

/// Component of ZMM16 to ZMM31, which outside of 64-bit mode is neither written nor read (SDM volume 1, 13.5.5).
const HI16_ZMM: u64 = 1 << 7;

/// Components of `mask` that the mode reaches.
fn reached(s: &Cpu, mask: u64) -> u64 {
    if s.code64() { mask } else { mask & !HI16_ZMM }
}

/// The bytes of a component beyond the legacy area.
fn component(s: &Cpu, n: u32, image: &mut [u8]) {
    match n {
        2 => {
            for r in 0..vectors(s) {
                put(image, 16 * r, s.ymmh[r][0], 8);
                put(image, 16 * r + 8, s.ymmh[r][1], 8);
            }
        }
        5 => (0..8).for_each(|r| put(image, 8 * r, s.opmask[r], 8)),
        6 => {
            for r in 0..vectors(s) {
                (0..4).for_each(|w| put(image, 32 * r + 8 * w, s.zmmh[r][w], 8));
            }
        }
        7 => {
            for r in 16..32 {
                let at = 64 * (r - 16);
                let words = [s.xmm[r], s.ymmh[r], [s.zmmh[r][0], s.zmmh[r][1]], [s.zmmh[r][2], s.zmmh[r][3]]];
                for (w, v) in words.as_flattened().iter().enumerate() {
                    put(image, at + 8 * w, *v, 8);
                }
            }
        }
        _ => put(image, 0, s.pkru, 4),
    }
}

fn set_component(s: &mut Cpu, n: u32, image: &[u8]) {
    match n {
        2 => {
            for r in 0..vectors(s) {
                s.ymmh[r] = [take(image, 16 * r, 8), take(image, 16 * r + 8, 8)];
            }
        }
        5 => (0..8).for_each(|r| s.opmask[r] = take(image, 8 * r, 8)),
        6 => {
            for r in 0..vectors(s) {
                (0..4).for_each(|w| s.zmmh[r][w] = take(image, 32 * r + 8 * w, 8));
            }
            s.look_at_high();
        }
        7 => {
            for r in 16..32 {
                let word = |w: usize| take(image, 64 * (r - 16) + 8 * w, 8);
                s.xmm[r] = [word(0), word(1)];
                s.ymmh[r] = [word(2), word(3)];
                s.zmmh[r] = [word(4), word(5), word(6), word(7)];
            }
            s.look_at_high();
        }
        _ => s.pkru = take(image, 0, 4),
    }
}

/// The standard form of all components, but for the flags of MXCSR.
pub(crate) fn image(s: &Cpu) -> Vec<u8> {
    let mut image = vec![0; cpuid::xsave_size(s.xcr0) as usize];
    put_x87(&s.x87, &mut image, s.code64());
    put(&mut image, 24, s.mxcsr, 4);
    put(&mut image, 28, u64::from(MXCSR_MASK), 4);
    put_xmm(s, &mut image);
    put(&mut image, LEGACY, s.xcr0, 8);
    for n in 2..10 {
        if s.xcr0 >> n & 1 != 0
            && let Some((at, len)) = cpuid::xsave_component(n)
        {
            component(s, n, &mut image[at as usize..(at + len) as usize]);
        }
    }
    image
}

/// Takes components back from an image of at least the legacy area.
pub(crate) fn set_image(s: &mut Cpu, image: &[u8]) {
    if image.len() < LEGACY {
        return;
    }
    let wide = s.code64();
    take_x87(&mut s.x87, image, wide);
    take_xmm(s, image);
    let present = if image.len() >= LEGACY + 64 { take(image, LEGACY, 8) & s.xcr0 } else { 0 };
    for n in 2..10 {
        if present >> n & 1 != 0
            && let Some((at, len)) = cpuid::xsave_component(n)
            && let Some(part) = image.get(at as usize..(at + len) as usize)
        {
            set_component(s, n, part);
        }
    }
}

/// Where components go, and whether those in their initial state are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// XSAVE.
    Standard,
    /// XSAVEOPT: what is in its initial state is not written.
    Optimized,
    /// XSAVEC: the same, and components follow each other.
    Compact,
}

impl Form {
    pub(crate) const fn from_bits(n: u64) -> Self {
        match n {
            0 => Self::Standard,
            1 => Self::Optimized,
            _ => Self::Compact,
        }
    }
}

/// Bit of XCOMP_BV that says that components follow each other.
const COMPACTED: u64 = 1 << 63;
const MXCSR_RESET: u32 = 0x1f80;

/// Components that are not in their initial state (XINUSE).
pub(crate) fn in_use(s: &Cpu) -> u64 {
    let any = |on: bool, n: u32| u64::from(on) << n;
    // Without that mark they are all zero.
    let high = s.high != 0;
    any(s.x87 != X87::default(), 0)
        | any(s.xmm[..16] != [[0; 2]; 16], 1)
        | any(s.ymmh[..16] != [[0; 2]; 16], 2)
        | any(s.opmask != [0; 8], 5)
        | any(high && s.zmmh[..16] != [[0; 4]; 16], 6)
        | any(
            s.xmm[16..] != [[0; 2]; 16]
                || s.ymmh[16..] != [[0; 2]; 16]
                || high && s.zmmh[16..] != [[0; 4]; 16],
            7,
        )
        | any(s.pkru != 0, 9)
}

/// Components of `mask` beyond the legacy area: number, offset and size.
fn layout(mask: u64, compact: Option<u64>) -> impl Iterator<Item = (u32, u64, usize)> {
    let mut next = (LEGACY + 64) as u64;
    (2..10).filter_map(move |n| {
        let (offset, len) = cpuid::xsave_component(n)?;
        let at = match compact {
            Some(present) if present >> n & 1 != 0 => {
                next += u64::from(len);
                next - u64::from(len)
            }
            _ => u64::from(offset),
        };
        (mask >> n & 1 != 0).then_some((n, at, len as usize))
    })
}

/// XSAVE and its kin.
pub(crate) fn xsave(cx: &mut Cx<'_, X86>, at: u64, wide: bool, form: Form) -> Result<(), Trap> {
    if at & 63 != 0 {
        return gp();
    }
    let rfbm = requested(cx.state);
    let control = mxcsr(cx);
    let mut used = rfbm & in_use(cx.state);
    if form == Form::Compact && control != MXCSR_RESET {
        // There MXCSR is a part of the component.
        used |= rfbm & 2;
    }
    let written = if form == Form::Standard { rfbm } else { used };
    let mut image = [0; LEGACY + 64];
    read_bytes(cx, at, &mut image)?;
    if written & 1 != 0 {
        put_x87(&cx.state.x87, &mut image, wide);
    }
    if if form == Form::Compact { used & 2 != 0 } else { rfbm & 6 != 0 } {
        put(&mut image, 24, u64::from(control), 4);
        put(&mut image, 28, u64::from(MXCSR_MASK), 4);
    }
    if written & 2 != 0 {
        put_xmm(cx.state, &mut image);
    }
    let old = if form == Form::Compact { 0 } else { take(&image, LEGACY, 8) & !rfbm };
    put(&mut image, LEGACY, old | used, 8);
    if form == Form::Compact {
        put(&mut image, LEGACY + 8, rfbm | COMPACTED, 8);
    }
    write_bytes(cx, at, &image)?;
    let mut part = [0; LARGEST];
    for (n, offset, len) in layout(reached(cx.state, written), (form == Form::Compact).then_some(rfbm)) {
        let part = &mut part[..len];
        part.fill(0);
        component(cx.state, n, part);
        write_bytes(cx, at.wrapping_add(offset), part)?;
    }
    Ok(())
}

/// XRSTOR in both forms.
pub(crate) fn xrstor(cx: &mut Cx<'_, X86>, at: u64, wide: bool) -> Result<(), Trap> {
    if at & 63 != 0 {
        return gp();
    }
    let rfbm = requested(cx.state);
    let mut image = [0; LEGACY + 64];
    read_bytes(cx, at, &mut image)?;
    let (bv, comp) = (take(&image, LEGACY, 8), take(&image, LEGACY + 8, 8));
    let compact = comp & COMPACTED != 0 && cx.guest().model().has().xsavec;
    let reserved = |from: usize| (from..64).step_by(8).any(|n| take(&image, LEGACY + n, 8) != 0);
    let present = comp & !COMPACTED;
    let bad = if compact {
        present & !cx.state.xcr0 != 0 || bv & !present != 0 || reserved(16)
    } else {
        bv & !cx.state.xcr0 != 0 || reserved(8)
    };
    if bad {
        return gp();
    }
    let all = reached(cx.state, rfbm);
    // Nothing changes before all is read.
    let mut area = [0; EXTENDED];
    let mut end = 0;
    for (_, offset, len) in layout(all & bv, compact.then_some(present)) {
        read_bytes(cx, at.wrapping_add(offset), &mut area[end..end + len])?;
        end += len;
    }
    if compact && rfbm & 2 != 0 {
        let v = if bv & 2 != 0 { take(&image, 24, 4) as u32 } else { MXCSR_RESET };
        set_mxcsr(cx, v)?;
    } else if !compact && rfbm & 6 != 0 {
        set_mxcsr(cx, take(&image, 24, 4) as u32)?;
    }
    if rfbm & 1 != 0 {
        if bv & 1 != 0 {
            take_x87(&mut cx.state.x87, &image, wide);
        } else {
            cx.state.x87 = X87::default();
        }
    }
    if rfbm & 2 != 0 {
        if bv & 2 == 0 {
            image[160..416].fill(0);
        }
        take_xmm(cx.state, &image);
    }
    let (mut parts, was) = (&area[..], in_use(cx.state));
    for (n, _, len) in layout(all, None) {
        if bv >> n & 1 != 0 {
            let (part, rest) = parts.split_at(len);
            set_component(cx.state, n, part);
            parts = rest;
        } else if was >> n & 1 != 0 {
            set_component(cx.state, n, &[0; LARGEST]);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_follow_each_other_in_the_compacted_form() {
        let layout = |mask, compact| layout(mask, compact).collect::<Vec<_>>();
        assert_eq!(layout(0xe4, None), [(2, 576, 256), (5, 1088, 64), (6, 1152, 512), (7, 1664, 1024)]);
        assert_eq!(layout(0xe4, Some(0xe7)), [(2, 576, 256), (5, 832, 64), (6, 896, 512), (7, 1408, 1024)]);
        // What is not asked for keeps its place.
        assert_eq!(layout(0xc0, Some(0xe7)), [(6, 896, 512), (7, 1408, 1024)]);
    }
}
