//! Each vector operation alone, with every lane, width and attribute that has code of its own: the result and the exceptions
//! of interesting lanes as in the interpreter, and no call of the soft fallback where there is a recipe.

use tcg_ir::testing::{MEM_BASE, Rng, TestMachine};
use tcg_ir::{
    Builder, Effect, FpAttr, Inst, Lane, MemOp, MinMax, NanPolicy, Op, Region, RmwOp, Rounding, SlotId, Type,
    Value, VecFn, verify,
};

use super::super::alloc::avx512;
use super::super::lower_vecfn::is_inline;
use super::Bench;
use crate::Tier;

const X0: SlotId = SlotId(1);
const ROUNDINGS: [Rounding; 4] = [Rounding::NearestEven, Rounding::Zero, Rounding::Down, Rounding::Up];
/// Offset of the result in memory; operands come every 64 bytes before it.
const RESULT: u64 = 0x100;

/// The operation with operands from memory, its result to memory or `x0`.
fn region(op: Op, ty: Type, scalar: Type, sub: u16, imm: u64) -> Region {
    let mut r = Region::default();
    let mut b = Builder::new(&mut r, 0x4000);
    b.insn(0x4000, 4);
    let base = b.iconst(Type::I64, MEM_BASE);
    let move_of = |ty: Type| MemOp::new(ty.bytes().trailing_zeros());
    let mut args = [Value::NONE; 3];
    for (n, arg) in args.iter_mut().enumerate().take(op.info().args as usize) {
        let from_scalar = matches!((op, n), (Op::Vsplat | Op::Vmask, 0) | (Op::Vinsert, 1));
        let ty = if from_scalar { scalar } else { ty };
        *arg = b.load(ty, move_of(ty), base, n as i32 * 64);
    }
    let to_scalar = matches!(op, Op::Vextract | Op::Vbits | Op::Vreduce);
    let [x, y, z] = args;
    let v = b.push(Inst { op, ty: if to_scalar { scalar } else { ty }, sub, a: x, b: y, c: z, imm });
    if to_scalar && scalar.is_int() && scalar != Type::I64 {
        let v = b.zext(Type::I64, v);
        b.set(X0, v);
    } else {
        b.store(move_of(b.ty(v)), base, RESULT as i32, v);
    }
    b.exit(1);
    r
}

/// Values of an integer lane that arithmetic finds interesting.
fn integer(rng: &mut Rng, bits: u32) -> u64 {
    let top = 1u64 << (bits - 1);
    match rng.below(8) {
        0 => 0,
        1 => u64::MAX,
        2 => top,
        3 => top - 1,
        4 => 1 << rng.below(bits as usize),
        5 => rng.below(20) as u64,
        _ => rng.bits(),
    }
}

fn operands(rng: &mut Rng, lane: Lane, m: &mut TestMachine) {
    let n = lane.bytes();
    let calm = rng.one_in(3);
    for chunk in m.mem[..RESULT as usize].chunks_mut(n) {
        let v = match lane {
            // Numbers without NaNs and infinities, which take the hot path as a whole.
            Lane::F32 if calm => {
                u64::from(((rng.bits() as i32) as f32 / 3.0 * 2f32.powi(rng.below(60) as i32 - 60)).to_bits())
            }
            Lane::F64 if calm => ((rng.bits() as i64) as f64 / 3.0).to_bits(),
            Lane::F32 => rng.float(Type::F32),
            Lane::F64 => rng.float(Type::F64),
            _ => integer(rng, n as u32 * 8),
        };
        chunk.copy_from_slice(&v.to_le_bytes()[..n]);
    }
}

fn attributes(op: Op) -> Vec<u16> {
    let mut all = Vec::new();
    let variants = match op {
        Op::Vfcmp => 4,
        Op::Vfmin | Op::Vfmax | Op::Vftoi => 3,
        _ => 1,
    };
    for r in ROUNDINGS {
        for nan in NanPolicy::ALL {
            for variant in 0..variants {
                for more in [0, 1 << 9, 1 << 14, 1 << 6, 3 << 10, 1 << 10] {
                    let used = match op {
                        Op::Vfma => 0x0fff,
                        Op::Vfmin | Op::Vfmax => 0x33ff,
                        Op::Vfcmp | Op::Vftoi => 0x73ff,
                        Op::Vitof | Op::Vfrint => 0x43ff,
                        _ => 0x03ff,
                    };
                    let a = FpAttr::RISCV.with_rounding(r).with_nan(*nan).with_variant(variant).0;
                    all.push((a | more) & used);
                }
            }
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// The values of `sub` above the lane, and of `imm`.
fn forms(op: Op, lane: Lane, ty: Type) -> Vec<(u16, u64)> {
    let lanes = (ty.bytes() / lane.bytes()) as u64;
    match op {
        Op::Vcmp => (0..12).map(|c| (c << 8, 0)).collect(),
        Op::Vreduce => (1..RmwOp::ALL.len() as u16).map(|c| (c << 8, 0)).collect(),
        Op::Vwiden => (0..4).map(|c| (c << 8, 0)).collect(),
        Op::Vshli | Op::Vshri | Op::Vsari => (0..lane.bytes() as u64 * 8).map(|n| (0, n)).collect(),
        Op::Vextract | Op::Vinsert => (0..lanes).map(|n| (0, n)).collect(),
        // Parts: see `parts`.
        Op::Vjoin | Op::Vpart => Vec::new(),
        Op::Vfn1 | Op::Vfn2 | Op::Vfn3 if lane != Lane::I8 => Vec::new(),
        Op::Vfn1 | Op::Vfn2 | Op::Vfn3 => {
            let all = (0..VecFn::ALL.len() as u16).filter(|f| VecFn::from_bits(*f).args() == op.info().args);
            all.flat_map(|f| [0, 1, 0x1b, 0xe4, 0x11, 0xa5, 0xff].map(|imm| (f << 8, imm))).collect()
        }
        _ if op.info().effect == Effect::Fp => {
            attributes(op).into_iter().map(|a| (0, u64::from(a))).collect()
        }
        _ => vec![(0, 0)],
    }
}

/// True if the operation has a recipe in a unit with `rounding`.
fn inline(op: Op, lane: Lane, ty: Type, (sub, imm): (u16, u64), rounding: Rounding) -> bool {
    let a = FpAttr(imm as u16);
    if matches!(op, Op::Vfn1 | Op::Vfn2 | Op::Vfn3) {
        return is_inline(VecFn::from_bits(sub >> 8), ty);
    }
    if ty == Type::V512 {
        return avx512()
            && match op {
                Op::Vtbl | Op::Vftoi => false,
                Op::Vmulhu | Op::Vmulhs => lane == Lane::I16,
                Op::Vfmin | Op::Vfmax => a.variant() == MinMax::X86 as u16,
                Op::Vfmul | Op::Vfdiv | Op::Vfma => !a.tiny_before(),
                _ => true,
            };
    }
    match op {
        Op::Vmulhu | Op::Vmulhs => lane != Lane::I64,
        Op::Vfmul | Op::Vfdiv | Op::Vfma => !a.tiny_before(),
        Op::Vitof => lane == Lane::F32 && !a.flag(),
        Op::Vftoi => {
            lane == Lane::F32 && !a.flag() && (a.rounding() == Rounding::Zero || a.rounding() == rounding)
        }
        _ => true,
    }
}

#[test]
fn each_form_alone() {
    let Some(mut bench) = Bench::new() else { return };
    let mut rng = Rng::new(11);
    let mut count = 0;
    for &op in Op::ALL.iter().filter(|o| **o as u8 >= Op::Vadd as u8) {
        for &lane in Lane::ALL {
            for ty in [Type::V64, Type::V128, Type::V256, Type::V512] {
                let scalars = [Type::I8, Type::I16, Type::I32, Type::I64, Type::F16, Type::F32, Type::F64];
                let uses_scalar = matches!(
                    op,
                    Op::Vsplat | Op::Vmask | Op::Vinsert | Op::Vextract | Op::Vbits | Op::Vreduce
                );
                for scalar in if uses_scalar { &scalars[..] } else { &scalars[..1] } {
                    for (sub, imm) in forms(op, lane, ty) {
                        count += one(&mut bench, &mut rng, (op, lane, ty, *scalar), sub, imm);
                    }
                }
            }
        }
    }
    assert!(count > 5000, "{count} forms");
}

/// Compares one form. 1 if it exists.
fn one(
    bench: &mut Bench,
    rng: &mut Rng,
    (op, lane, ty, scalar): (Op, Lane, Type, Type),
    sub: u16,
    imm: u64,
) -> u32 {
    let r = region(op, ty, scalar, lane as u16 | sub, imm);
    if verify::verify(&r, bench.tables()).is_err() {
        return 0;
    }
    let rounding = rng.pick(&ROUNDINGS);
    let name = || format!("{op:?} {lane:?} {ty:?} {scalar:?} {sub:#x} {imm:#x} {rounding:?}");
    let text = bench.disassemble(&r, rounding, Tier::Second);
    let hot: Vec<&str> = text.lines().take_while(|l| !l.contains(" jmp ")).collect();
    let soft = hot.iter().any(|l| l.contains(" call "));
    assert!(
        ty == Type::V512 && !avx512() || soft != inline(op, lane, ty, (sub, imm), rounding),
        "{}: soft fallback is {soft}\n{text}",
        name()
    );
    for tier in [Tier::Second, Tier::First, Tier::Second] {
        let mut start = TestMachine::new();
        operands(rng, lane, &mut start);
        let got = bench.jit(&r, &start, rounding, tier, u32::MAX).unwrap();
        let want = bench.interpret(&r, &start);
        if let Some(d) = bench.differ(&got, &want) {
            let show = |m: &[u8], at: usize| format!("{:02x?}", &m[at..at + ty.bytes()]);
            let all: Vec<String> = (0..3).map(|n| show(&start.mem, n * 64)).collect();
            panic!(
                "{}: {d}\noperands {all:#?}\ngot {}\nwant {}\n{text}",
                name(),
                show(&got.m.mem, RESULT as usize),
                show(&want.m.mem, RESULT as usize)
            );
        }
    }
    1
}
