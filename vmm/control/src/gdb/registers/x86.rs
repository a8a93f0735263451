//! x86-64: features `org.gnu.gdb.i386.{core,sse,segments}` and the control registers in one of our own.

use super::{Description, Feature, Place, Register};
use accel::arch::x86_64::State;

pub(super) const RIP: usize = 16;
pub(super) const EFLAGS: usize = 17;
pub(super) const ST0: usize = 24;
const FCTRL: usize = ST0 + 8;
pub(super) const XMM0: usize = 40;
pub(super) const MXCSR: usize = 56;
const FS_BASE: usize = 57;
const GS_BASE: usize = 58;
const CR0: usize = 59;
const ORIG_RAX: usize = 65;

const GENERAL: [&str; 16] = [
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];
const SEGMENTS: [&str; 6] = ["cs", "ss", "ds", "es", "fs", "gs"];
const X87: [&str; 8] = ["fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop"];
const CONTROL: [&str; 6] = ["cr0", "cr2", "cr3", "cr4", "cr8", "efer"];

pub(super) fn register(
    name: &str,
    number: usize,
    bits: usize,
    kind: &'static str,
    group: &'static str,
) -> Register {
    Register { name: name.to_owned(), number, bits, kind, group }
}

/// The register file of a vCPU.
pub(super) fn description() -> Description {
    let mut core = Feature { name: "org.gnu.gdb.i386.core", ..Feature::default() };
    for (n, name) in GENERAL.iter().enumerate() {
        let kind = if matches!(*name, "rbp" | "rsp") { "data_ptr" } else { "int64" };
        core.registers.push(register(name, n, 64, kind, ""));
    }
    core.registers.push(register("rip", RIP, 64, "code_ptr", ""));
    core.registers.extend(old(EFLAGS, ST0));
    let sse = sse(16, XMM0, MXCSR);

    let mut segments = Feature { name: "org.gnu.gdb.i386.segments", ..Feature::default() };
    segments.registers =
        vec![register("fs_base", FS_BASE, 64, "int", ""), register("gs_base", GS_BASE, 64, "int", "")];

    let mut control = Feature { name: "org.rhea.i386.control", ..Feature::default() };
    control.registers =
        CONTROL.iter().enumerate().map(|(n, name)| register(name, CR0 + n, 64, "int64", "system")).collect();

    Description {
        arch: "i386:x86-64",
        system: None,
        features: vec![core, sse, segments, control],
        in_g: CR0 + CONTROL.len(),
        pc: RIP,
    }
}

/// What Linux's programs have besides: GDB takes no file without it for one of Linux's.
pub(super) fn linux() -> Feature {
    let registers = vec![register("orig_rax", ORIG_RAX, 64, "int", "system")];
    Feature { name: "org.gnu.gdb.i386.linux", registers, ..Feature::default() }
}

/// What every processor of the family has, from numbers on: flags and segment registers, the x87 stack and its control words.
pub(super) fn old(eflags: usize, st0: usize) -> Vec<Register> {
    let mut all = vec![register("eflags", eflags, 32, "int32", "")];
    all.extend(SEGMENTS.iter().enumerate().map(|(n, name)| register(name, eflags + 1 + n, 32, "int32", "")));
    all.extend((0..8).map(|n| register(&format!("st{n}"), st0 + n, 80, "i387_ext", "")));
    all.extend(X87.iter().enumerate().map(|(n, name)| register(name, st0 + 8 + n, 32, "int", "float")));
    all
}

/// The registers of SSE.
pub(super) fn sse(count: usize, xmm0: usize, mxcsr: usize) -> Feature {
    let mut sse = Feature { name: "org.gnu.gdb.i386.sse", ..Feature::default() };
    let mut union = String::new();
    for (id, kind, count) in [
        ("v4f", "ieee_single", 4),
        ("v2d", "ieee_double", 2),
        ("v16i8", "int8", 16),
        ("v8i16", "int16", 8),
        ("v4i32", "int32", 4),
        ("v2i64", "int64", 2),
    ] {
        sse.types.push_str(&format!("<vector id=\"{id}\" type=\"{kind}\" count=\"{count}\"/>"));
    }
    for (name, kind) in [
        ("v4_float", "v4f"),
        ("v2_double", "v2d"),
        ("v16_int8", "v16i8"),
        ("v8_int16", "v8i16"),
        ("v4_int32", "v4i32"),
        ("v2_int64", "v2i64"),
        ("uint128", "uint128"),
    ] {
        union.push_str(&format!("<field name=\"{name}\" type=\"{kind}\"/>"));
    }
    sse.types.push_str(&format!("<union id=\"vec128\">{union}</union>"));
    sse.registers = (0..count).map(|n| register(&format!("xmm{n}"), xmm0 + n, 128, "vec128", "")).collect();
    sse.registers.push(register("mxcsr", mxcsr, 32, "int", "vector"));
    sse
}

/// Where a register lives.
pub(super) fn place(s: &mut State, number: usize) -> Option<Place<'_>> {
    Some(match number {
        0 => Place::U64(&mut s.rax),
        1 => Place::U64(&mut s.rbx),
        2 => Place::U64(&mut s.rcx),
        3 => Place::U64(&mut s.rdx),
        4 => Place::U64(&mut s.rsi),
        5 => Place::U64(&mut s.rdi),
        6 => Place::U64(&mut s.rbp),
        7 => Place::U64(&mut s.rsp),
        8 => Place::U64(&mut s.r8),
        9 => Place::U64(&mut s.r9),
        10 => Place::U64(&mut s.r10),
        11 => Place::U64(&mut s.r11),
        12 => Place::U64(&mut s.r12),
        13 => Place::U64(&mut s.r13),
        14 => Place::U64(&mut s.r14),
        15 => Place::U64(&mut s.r15),
        RIP => Place::U64(&mut s.rip),
        EFLAGS => Place::U64(&mut s.rflags),
        18 => Place::U16(&mut s.cs.selector),
        19 => Place::U16(&mut s.ss.selector),
        20 => Place::U16(&mut s.ds.selector),
        21 => Place::U16(&mut s.es.selector),
        22 => Place::U16(&mut s.fs.selector),
        23 => Place::U16(&mut s.gs.selector),
        ST0..FCTRL => Place::Wide(&mut s.fpu.st[number - ST0]),
        32 => Place::U16(&mut s.fpu.fcw),
        33 => Place::U16(&mut s.fpu.fsw),
        34 => Place::U8(&mut s.fpu.ftw),
        // The selectors of the last x87 instruction do not exist in 64-bit state.
        35 | 37 => Place::Fixed(0),
        36 => Place::U64(&mut s.fpu.fip),
        38 => Place::U64(&mut s.fpu.fdp),
        39 => Place::U16(&mut s.fpu.fop),
        XMM0..MXCSR => Place::Bytes(&mut s.fpu.zmm[number - XMM0].0[..16]),
        MXCSR => Place::U32(&mut s.fpu.mxcsr),
        FS_BASE => Place::U64(&mut s.fs.base),
        GS_BASE => Place::U64(&mut s.gs.base),
        59 => Place::U64(&mut s.cr0),
        60 => Place::U64(&mut s.cr2),
        61 => Place::U64(&mut s.cr3),
        62 => Place::U64(&mut s.cr4),
        63 => Place::U64(&mut s.cr8),
        64 => Place::U64(&mut s.efer),
        // No system call is being made.
        ORIG_RAX => Place::Fixed(u64::MAX),
        _ => return None,
    })
}
