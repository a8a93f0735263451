//! Emitted code as text, for small regions in which every byte counts.

use tcg_ir::{Builder, Cond, Hint, Lane, MemOp, Op, Region, Rounding, SlotId, Type, Value};

use super::Bench;
use crate::Tier;

const X0: SlotId = SlotId(1);
const X1: SlotId = SlotId(2);
const X2: SlotId = SlotId(3);
const D0: SlotId = SlotId(10);
const D1: SlotId = SlotId(11);
const V0: SlotId = SlotId(32);
const V1: SlotId = SlotId(33);

/// The hot part of a region's code, up to and with its first jump that is not conditional.
fn code(bench: &mut Bench, make: impl FnOnce(&mut Builder<'_>)) -> String {
    let mut r = Region::default();
    make(&mut Builder::new(&mut r, 0x4000));
    let text = bench.disassemble(&r, Rounding::NearestEven, Tier::Second);
    let mut out = String::new();
    for line in text.lines() {
        let insn = line.trim_start().split_once("  ").map_or("", |(_, i)| i);
        out += insn;
        out.push('\n');
        if insn.starts_with("jmp") {
            break;
        }
    }
    out
}

fn check(make: impl FnOnce(&mut Builder<'_>), want: &[&str]) {
    let Some(mut bench) = Bench::new() else { return };
    let got = code(&mut bench, make);
    let pads = |l: &&str| !l.contains("nop") && !l.starts_with("jmp") && *l != "xchg ax, ax";
    let cut = |l| match str::split_once(l, ' ') {
        Some((jump @ ("jp" | "jne"), _)) => jump,
        _ => l,
    };
    let got: Vec<&str> = got.lines().map(str::trim).filter(pads).map(cut).collect();
    assert_eq!(got, want);
}

#[test]
fn add_in_place() {
    check(
        |b| {
            b.insn(0x4000, 4);
            let x = b.get(X0, Type::I64);
            let y = b.addi(x, 8);
            b.set(X0, y);
            b.link(0x4004, Hint::None);
        },
        &["mov rcx, [rbp-0x78]", "add rcx, 8", "mov [rbp-0x78], rcx"],
    );
}

#[test]
fn three_operands() {
    check(
        |b| {
            b.insn(0x4000, 4);
            let x = b.get(X0, Type::I64);
            let y = b.get(X1, Type::I64);
            let z = b.add(x, y);
            b.set(X2, z);
            b.link(0x4004, Hint::None);
        },
        &["mov rcx, [rbp-0x78]", "add rcx, [rbp-0x70]", "mov [rbp-0x68], rcx"],
    );
}

#[test]
fn constants_stay_immediate() {
    check(
        |b| {
            b.insn(0x4000, 4);
            let c = b.iconst(Type::I64, 5);
            b.set(X0, c);
            b.link(0x4004, Hint::None);
        },
        &["mov qword ptr [rbp-0x78], 5"],
    );
}

#[test]
fn addw() {
    check(
        |b| {
            b.insn(0x4000, 4);
            let x = b.get(X0, Type::I64);
            let y = b.get(X1, Type::I64);
            let (x, y) = (b.trunc(Type::I32, x), b.trunc(Type::I32, y));
            let z = b.add(x, y);
            let z = b.sext(Type::I64, z);
            b.set(X0, z);
            b.link(0x4004, Hint::None);
        },
        &["mov rcx, [rbp-0x78]", "add ecx, [rbp-0x70]", "movsxd rcx, ecx", "mov [rbp-0x78], rcx"],
    );
}

#[test]
fn fused_compare() {
    let Some(mut bench) = Bench::new() else { return };
    let text = code(&mut bench, |b| {
        b.insn(0x4000, 4);
        let x = b.get(X0, Type::I64);
        let y = b.get(X1, Type::I64);
        let c = b.setcc(Type::I32, Cond::Ltu, x, y);
        let (t, e) = (b.new_block(), b.new_block());
        b.branch(c, t, e, false);
        b.switch_to(t);
        b.link(0x5000, Hint::None);
        b.switch_to(e);
        b.link(0x4004, Hint::None);
    });
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["mov rcx, [rbp-0x78]", "cmp rcx, [rbp-0x70]"]);
    assert!(lines[2].starts_with("jb "), "{text}");
}

/// A loop keeps its slots in registers: nothing but the loop's own work between its label and the branch back.
#[test]
fn loop_in_registers() {
    let Some(mut bench) = Bench::new() else { return };
    let mut r = Region::default();
    let mut b = Builder::new(&mut r, 0x4000);
    b.insn(0x4000, 4);
    let head = b.new_block();
    let out = b.new_block();
    b.jump(head);
    b.switch_to(head);
    b.insn(0x4004, 4);
    let x = b.get(X0, Type::I64);
    let y = b.get(X1, Type::I64);
    let s = b.add(x, y);
    b.set(X0, s);
    b.insn(0x4008, 4);
    let y = b.get(X1, Type::I64);
    let y = b.addi(y, -1);
    b.set(X1, y);
    b.insn(0x400c, 4);
    let zero = b.iconst(Type::I64, 0);
    let c = b.setcc(Type::I32, Cond::Ne, y, zero);
    b.branch(c, head, out, true);
    b.switch_to(out);
    b.insn(0x4010, 4);
    b.link(0x4010, Hint::None);
    let text = bench.disassemble(&r, Rounding::NearestEven, Tier::Second);
    let lines: Vec<&str> =
        text.lines().map(|l| l.trim_start().split_once("  ").map_or("", |(_, i)| i)).collect();
    let at = lines.iter().position(|l| l.starts_with("add r")).expect(&text);
    let body: Vec<&str> = lines[at..at + 4].iter().map(|l| l.split(' ').next().unwrap_or("")).collect();
    assert_eq!(body, ["add", "add", "test", "jne"], "{text}");
    assert!(lines[at..at + 4].iter().all(|l| !l.contains('[')), "{text}");
}

#[test]
fn float_add() {
    check(
        |b| {
            b.insn(0x4000, 4);
            let x = b.get(D0, Type::F64);
            let y = b.get(D1, Type::F64);
            let z = b.fp(Op::Fadd, tcg_ir::FpAttr::RISCV, x, y);
            b.set(D0, z);
            b.link(0x4004, Hint::None);
        },
        &[
            "vmovq xmm0, [rbp-0x30]",
            "vmovq xmm1, [rbp-0x28]",
            "vaddsd xmm0, xmm0, xmm1",
            "vucomisd xmm0, xmm0",
            "jp",
            "vmovq [rbp-0x30], xmm0",
        ],
    );
}

/// The length of a load's fast path and slow stub: what most guest code consists of.
#[test]
fn load_size() {
    let Some(mut bench) = Bench::new() else { return };
    let mut r = Region::default();
    let mut b = Builder::new(&mut r, 0x4000);
    b.insn(0x4000, 4);
    let x = b.get(X0, Type::I64);
    let v = b.load(Type::I64, MemOp::new(3), x, 16);
    b.set(X1, v);
    b.link(0x4004, Hint::None);
    let text = bench.disassemble(&r, Rounding::NearestEven, Tier::Second);
    let at: Vec<&str> = text.lines().collect();
    assert!(at.len() <= 26, "{text}");
}

/// A binary vector operation on the slots `v0` and `v1`, to `v0`.
fn vector(op: Op, lane: Lane, extra: u16, imm: u64, want: &[&str]) {
    check(
        |b| {
            b.insn(0x4000, 4);
            let (x, y) = (b.get(V0, Type::V128), b.get(V1, Type::V128));
            let y = if op.info().args > 1 { y } else { Value::NONE };
            let z = b.vector(op, Type::V128, lane, extra, [x, y, Value::NONE], imm);
            b.set(V0, z);
            b.link(0x4004, Hint::None);
        },
        want,
    );
}

const LOAD_BOTH: [&str; 2] = ["vmovups xmm0, [rbp+0x50]", "vmovups xmm1, [rbp+0x60]"];

/// The lines of a recipe between the loads of its operands and the store of its result; constants are cut off.
fn recipe(op: Op, lane: Lane, extra: u16, imm: u64, want: &[&str]) {
    let loads = &LOAD_BOTH[..op.info().args as usize];
    let all = [loads, want, &["vmovups [rbp+0x50], xmm0"]].concat();
    vector(op, lane, extra, imm, &all);
}

#[test]
fn vector_add() {
    recipe(Op::Vadd, Lane::I16, 0, 0, &["vpaddw xmm0, xmm0, xmm1"]);
}

#[test]
fn vector_compare_unsigned() {
    recipe(
        Op::Vcmp,
        Lane::I8,
        Cond::Leu as u16,
        0,
        &["vpminub xmm15, xmm0, xmm1", "vpcmpeqb xmm0, xmm15, xmm0"],
    );
}

#[test]
fn vector_product_of_quadwords() {
    recipe(
        Op::Vmul,
        Lane::I64,
        0,
        0,
        &[
            "vpshufd xmm15, xmm1, 0xb1",
            "vpmulld xmm15, xmm15, xmm0",
            "vpsrlq xmm14, xmm15, 0x20",
            "vpaddd xmm15, xmm15, xmm14",
            "vpsllq xmm15, xmm15, 0x20",
            "vpmuludq xmm14, xmm0, xmm1",
            "vpaddq xmm0, xmm14, xmm15",
        ],
    );
}

#[test]
fn vector_arithmetic_shift_of_quadwords() {
    recipe(
        Op::Vsari,
        Lane::I64,
        0,
        7,
        &[
            "vpxor xmm15, xmm15, xmm15",
            "vpcmpgtq xmm15, xmm15, xmm0",
            "vpxor xmm14, xmm0, xmm15",
            "vpsrlq xmm14, xmm14, 7",
            "vpxor xmm0, xmm14, xmm15",
        ],
    );
}

#[test]
fn vector_float_product() {
    recipe(
        Op::Vfmul,
        Lane::F32,
        0,
        0,
        &["vmulps xmm0, xmm0, xmm1", "vcmpunordps xmm15, xmm0, xmm0", "vtestps xmm15, xmm15", "jne"],
    );
}

/// The first tier's load, and what a branch leaves of a unit's end.
#[test]
fn first_tier() {
    let Some(mut bench) = Bench::new() else { return };
    let mut r = Region::default();
    let mut b = Builder::new(&mut r, 0x4000);
    b.insn(0x4000, 4);
    let x = b.get(X0, Type::I64);
    let v = b.load(Type::I64, MemOp::new(3), x, 16);
    b.set(X1, v);
    b.insn(0x4004, 4);
    let (v, zero) = (b.get(X1, Type::I64), b.iconst(Type::I64, 0));
    let c = b.setcc(Type::I32, Cond::Ne, v, zero);
    let (t, e) = (b.new_block(), b.new_block());
    b.branch(c, t, e, false);
    b.switch_to(t);
    b.link(0x4100, Hint::None);
    b.switch_to(e);
    b.link(0x4008, Hint::None);
    let text = bench.disassemble(&r, Rounding::NearestEven, Tier::First);
    let lines = text.lines().map(|l| l.trim_start().split_once("  ").map_or("", |(_, i)| i));
    let words = lines.filter(|l| !l.contains("nop") && *l != "xchg ax, ax");
    let words: Vec<&str> = words.map(|l| l.split(' ').next().unwrap_or("")).collect();
    let want = ["mov", "lea", "call", "mov", "mov", "test", "jne", "jmp", "call", "call", "int3"];
    assert_eq!(words, want, "{text}");
}
