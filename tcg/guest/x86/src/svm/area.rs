//! The state save area of control blocks (APM volume 2, appendix B, table B-2), which is that of the host's save area here, too.

use tcg_engine::Cx;

use super::{get, put};
use crate::{
    guest::X86,
    segment::P,
    state::{Segment, seg},
};

/// Where the state begins in a block.
const STATE: u64 = 0x400;
/// Segments that VMRUN switches.
const SWITCHED: [(usize, u64); 4] = [(seg::ES, 0), (seg::CS, 0x10), (seg::SS, 0x20), (seg::DS, 0x30)];
/// Segments that VMLOAD and VMSAVE move.
const MOVED: [(usize, u64); 2] = [(seg::FS, 0x40), (seg::GS, 0x50)];

const fn head(selector: u64, access: u64, limit: u64) -> u64 {
    selector & 0xffff | (access & 0xfff) << 16 | (limit & 0xffff_ffff) << 32
}

fn put_segment(cx: &mut Cx<'_, X86>, n: usize, at: u64) {
    let s = &*cx.state;
    let (word, base) = (head(s.seg_sel[n], s.seg_access[n], s.seg_limit[n]), s.seg_base[n]);
    put(cx, at, word);
    put(cx, at + 8, base);
}

fn take_segment(cx: &mut Cx<'_, X86>, n: usize, at: u64) {
    let (word, base) = (get(cx, at), get(cx, at + 8));
    let s = &mut *cx.state;
    let access = word >> 16 & 0xfff;
    (s.seg_sel[n], s.seg_limit[n], s.seg_base[n]) = (word & 0xffff, word >> 32, base);
    s.seg_access[n] = if access & P != 0 { access } else { 0 };
}

/// What VMRUN and an exit save.
pub(super) fn save(cx: &mut Cx<'_, X86>, block: u64) {
    let area = block + STATE;
    for (n, offset) in SWITCHED {
        put_segment(cx, n, area + offset);
    }
    let s = &*cx.state;
    let words = [
        (0x60, head(0, 0, s.gdt.limit.into())),
        (0x68, s.gdt.base),
        (0x80, head(0, 0, s.idt.limit.into())),
        (0x88, s.idt.base),
        (0xd0, s.msrs.efer),
        (0x148, s.cr4),
        (0x150, s.cr3),
        (0x158, s.cr0),
        (0x160, s.dr7),
        (0x168, s.dr6),
        (0x170, s.rflags()),
        (0x178, s.rip()),
        (0x1d8, s.regs[4]),
        (0x1f8, s.regs[0]),
        (0x240, s.cr2),
    ];
    let cpl = u64::from(s.cpl);
    for (offset, v) in words {
        put(cx, area + offset, v);
    }
    let old = get(cx, area + 0xc8);
    put(cx, area + 0xc8, old & !(0xff << 24) | cpl << 24);
}

/// What they load.
pub(super) fn load(cx: &mut Cx<'_, X86>, block: u64) {
    let area = block + STATE;
    for (n, offset) in SWITCHED {
        take_segment(cx, n, area + offset);
    }
    let f = |offset| get(cx, area + offset);
    let (gdt, idt) = ((f(0x60) >> 32, f(0x68)), (f(0x80) >> 32, f(0x88)));
    let (efer, cr4, cr3, cr0) = (f(0xd0), f(0x148), f(0x150), f(0x158));
    let (dr7, dr6, rflags, rip) = (f(0x160), f(0x168), f(0x170), f(0x178));
    let (rsp, rax, cr2, cpl) = (f(0x1d8), f(0x1f8), f(0x240), f(0xc8) >> 24);
    let s = &mut *cx.state;
    (s.gdt.limit, s.gdt.base, s.idt.limit, s.idt.base) = (gdt.0 as u16, gdt.1, idt.0 as u16, idt.1);
    (s.msrs.efer, s.cr4, s.cr3, s.cr0, s.cr2) = (efer, cr4, cr3, cr0, cr2);
    (s.dr7, s.dr6) = (dr7 | 0x400, dr6 | 0xffff_0ff0);
    s.set_rflags(rflags);
    (s.regs[4], s.regs[0]) = (rsp, rax);
    s.cpl = match (s.protected(), s.vm86()) {
        (false, _) => 0,
        (_, true) => 3,
        _ => cpl as u8 & 3,
    };
    s.set_rip(rip);
}

fn put_system(cx: &mut Cx<'_, X86>, g: Segment, at: u64) {
    put(cx, at, head(g.selector.into(), g.access.into(), g.limit.into()));
    put(cx, at + 8, g.base);
}

fn system(cx: &Cx<'_, X86>, at: u64) -> Segment {
    let word = get(cx, at);
    Segment {
        selector: word as u16,
        access: (word >> 16 & 0xfff) as u16,
        limit: (word >> 32) as u32,
        base: get(cx, at + 8),
    }
}

/// VMSAVE.
pub(crate) fn save_more(cx: &mut Cx<'_, X86>, block: u64) {
    let area = block + STATE;
    for (n, offset) in MOVED {
        put_segment(cx, n, area + offset);
    }
    let (ldt, tr) = (cx.state.ldt, cx.state.tr);
    put_system(cx, ldt, area + 0x70);
    put_system(cx, tr, area + 0x90);
    let m = &cx.state.msrs;
    let words = [
        (0x200, m.star),
        (0x208, m.lstar),
        (0x210, m.cstar),
        (0x218, m.fmask),
        (0x220, m.kernel_gs_base),
        (0x228, m.sysenter_cs),
        (0x230, m.sysenter_esp),
        (0x238, m.sysenter_eip),
    ];
    for (offset, v) in words {
        put(cx, area + offset, v);
    }
}

/// VMLOAD.
pub(crate) fn load_more(cx: &mut Cx<'_, X86>, block: u64) {
    let area = block + STATE;
    for (n, offset) in MOVED {
        take_segment(cx, n, area + offset);
    }
    (cx.state.ldt, cx.state.tr) = (system(cx, area + 0x70), system(cx, area + 0x90));
    let f = |n: u64| get(cx, area + 0x200 + 8 * n);
    let words: [u64; 8] = std::array::from_fn(|n| f(n as u64));
    let m = &mut cx.state.msrs;
    [m.star, m.lstar, m.cstar, m.fmask, m.kernel_gs_base, m.sysenter_cs, m.sysenter_esp, m.sysenter_eip] =
        words;
}
