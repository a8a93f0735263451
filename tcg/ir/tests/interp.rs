//! The interpreter against arithmetic written down by hand.

use tcg_ir::abi::UnitExit;
use tcg_ir::interp::{Interp, Val, eval, flag_bits, flag_holds, read_slot};
use tcg_ir::testing::{MEM_BASE, Rng, TestMachine, slots};
use tcg_ir::{
    Builder, Cond, Exceptions, FlagBits, FlagKind, FpAttr, Hint, Inst, MemOp, Op, Region, RmwOp, SlotTable,
    Type, Value,
};

fn pure(op: Op, ty: Type, sub: u16, imm: u64, aty: Type, a: u128, b: u128) -> u128 {
    let inst = Inst { op, ty, sub, a: Value(0), b: Value(1), c: Value(2), imm };
    let mut exc = Exceptions::empty();
    eval(&inst, [aty; 3], [&Val::from_u128(a), &Val::from_u128(b), &Val::ZERO], &mut exc).u128()
}

fn same(op: Op, ty: Type, a: u128, b: u128) -> u128 {
    pure(op, ty, 0, 0, ty, a, b)
}

#[test]
fn integers_have_no_undefined_corner() {
    for ty in [Type::I8, Type::I16, Type::I32, Type::I64, Type::I128] {
        let w = ty.bits();
        let ones = u128::MAX >> (128 - w);
        let min = 1u128 << (w - 1);
        assert_eq!(same(Op::Add, ty, ones, 1), 0, "{ty:?}");
        assert_eq!(same(Op::Divu, ty, 7, 0), ones, "{ty:?}");
        assert_eq!(same(Op::Remu, ty, 7, 0), 7, "{ty:?}");
        assert_eq!(same(Op::Divs, ty, min, ones), min, "{ty:?}");
        assert_eq!(same(Op::Rems, ty, min, ones), 0, "{ty:?}");
        assert_eq!(same(Op::Divs, ty, 7, 0), ones, "{ty:?}");
        assert_eq!(same(Op::Rems, ty, ones, 0), ones, "{ty:?}");
        assert_eq!(same(Op::Mulhu, ty, ones, ones), ones - 1, "{ty:?}");
        assert_eq!(same(Op::Mulhs, ty, ones, ones), 0, "{ty:?}");
        assert_eq!(same(Op::Mulhs, ty, min, min), 1 << (w - 2), "{ty:?}");
        assert_eq!(same(Op::Mulhsu, ty, ones, ones), ones, "{ty:?}");
        assert_eq!(same(Op::Shl, ty, 1, u128::from(w)), 1, "{ty:?}");
        assert_eq!(same(Op::Sar, ty, min, u128::from(w - 1)), ones, "{ty:?}");
        assert_eq!(same(Op::Rotl, ty, min, 1), 1, "{ty:?}");
        assert_eq!(same(Op::Rotr, ty, 1, 1), min, "{ty:?}");
        assert_eq!(same(Op::Clz, ty, 0, 0), u128::from(w), "{ty:?}");
        assert_eq!(same(Op::Ctz, ty, 0, 0), u128::from(w), "{ty:?}");
        assert_eq!(same(Op::Clz, ty, 1, 0), u128::from(w - 1), "{ty:?}");
        assert_eq!(same(Op::Bswap, ty, 0x12, 0), 0x12 << (w - 8), "{ty:?}");
        assert_eq!(same(Op::Clmul, ty, 3, 3), 5, "{ty:?}");
        assert_eq!(same(Op::Clmulh, ty, min, min), 1 << (w - 2), "{ty:?}");
        assert_eq!(pure(Op::Extract, ty, 0, 4 | 3 << 8, ty, 0xf0, 0), 7, "{ty:?}");
        assert_eq!(pure(Op::Sextract, ty, 0, 4 | 3 << 8, ty, 0xf0, 0), ones, "{ty:?}");
        assert_eq!(pure(Op::Deposit, ty, 0, 4 | 3 << 8, ty, 0, 0xff), 0x70, "{ty:?}");
        assert_eq!(pure(Op::Setcc, Type::I32, Cond::Lt as u16, 0, ty, min, 0), 1, "{ty:?}");
        assert_eq!(pure(Op::Setcc, Type::I32, Cond::Ltu as u16, 0, ty, min, 0), 0, "{ty:?}");
    }
    assert_eq!(pure(Op::Sext, Type::I128, 0, 0, Type::I8, 0x80, 0), 0x80u128.wrapping_sub(0x100));
    assert_eq!(pure(Op::Zext, Type::I64, 0, 0, Type::I8, 0x80, 0), 0x80);
    assert_eq!(pure(Op::Concat, Type::I128, 0, 0, Type::I64, 1, 2), 1 | 2 << 64);
}

#[test]
fn wide_products_agree_with_schoolbook() {
    let mut rng = Rng::new(1);
    for _ in 0..2000 {
        let a = u128::from(rng.number()) << 64 | u128::from(rng.number());
        let b = u128::from(rng.number()) << 64 | u128::from(rng.number());
        // 32-bit digits, carried by hand.
        let digit = |v: u128, i: usize| v >> (32 * i) & 0xffff_ffff;
        let mut out = [0u128; 9];
        for i in 0..4 {
            for j in 0..4 {
                out[i + j] += digit(a, i) * digit(b, j);
                out[i + j + 1] += out[i + j] >> 32;
                out[i + j] &= 0xffff_ffff;
            }
        }
        for i in 0..8 {
            out[i + 1] += out[i] >> 32;
            out[i] &= 0xffff_ffff;
        }
        let high = (0..4).fold(0, |h, i| h | out[4 + i] << (32 * i));
        assert_eq!(same(Op::Mulhu, Type::I128, a, b), high);
    }
}

#[test]
fn flags_agree_with_wide_arithmetic() {
    let mut rng = Rng::new(2);
    for _ in 0..20000 {
        let ty = [Type::I8, Type::I16, Type::I32, Type::I64][rng.below(4)];
        let w = ty.bits();
        let (a, b, c) = (rng.number() & ty.mask(), rng.number() & ty.mask(), rng.bits() & 1);
        let signed = |v: u64| i128::from((v << (64 - w)) as i64 >> (64 - w));
        let rec = |kind: FlagKind| flag_bits(&[kind as u64 | (ty as u64) << 8, a, b, c]);
        let check = |kind: FlagKind, unsigned: i128, wide: i128| {
            let f = rec(kind);
            let r = wide as u64 & ty.mask();
            assert_eq!(
                f & FlagBits::C != 0,
                unsigned < 0 || unsigned >> w != 0,
                "{kind:?} {ty:?} {a:x} {b:x} {c}"
            );
            assert_eq!(f & FlagBits::V != 0, signed(r) != wide, "{kind:?} {ty:?} {a:x} {b:x} {c}");
            assert_eq!(f & FlagBits::Z != 0, r == 0);
            assert_eq!(f & FlagBits::N != 0, signed(r) < 0);
        };
        let (ua, ub, uc) = (i128::from(a), i128::from(b), i128::from(c));
        check(FlagKind::Add, ua + ub, signed(a) + signed(b));
        check(FlagKind::Adc, ua + ub + uc, signed(a) + signed(b) + uc);
        check(FlagKind::Sub, ua - ub, signed(a) - signed(b));
        check(FlagKind::Sbb, ua - ub - uc, signed(a) - signed(b) - uc);
        // A compare's record answers as the comparison itself.
        let f = rec(FlagKind::Sub);
        for cond in &Cond::ALL[..10] {
            let direct = tcg_ir::interp::compare(*cond, w, a, b);
            assert_eq!(flag_holds(*cond, f), direct, "{cond:?} {ty:?} {a:x} {b:x}");
        }
        let n = 1 + rng.below(w as usize) as u64;
        let shifted = |kind: FlagKind| flag_bits(&[kind as u64 | (ty as u64) << 8, a, n, 0]);
        assert_eq!(shifted(FlagKind::Shl) & 1, a >> (u64::from(w) - n) & 1);
        assert_eq!(shifted(FlagKind::Shr) & 1, a >> (n - 1) & 1);
        assert_eq!(shifted(FlagKind::Sar) & 1, (signed(a) >> (n - 1)) as u64 & 1);
    }
}

fn slot(m: &TestMachine, slots: &SlotTable, name: &str) -> u64 {
    read_slot(&m.state, slots.get(slots.find(name).expect("a slot"))).0[0]
}

#[test]
fn a_loop_runs_and_is_interruptible() {
    let slots = slots();
    let (x0, x1) = (slots.find("x0").unwrap(), slots.find("x1").unwrap());
    let mut region = Region::default();
    let mut b = Builder::new(&mut region, 0x1000);
    let head = b.new_block();
    let exit = b.new_block();
    b.insn(0x1000, 4);
    b.jump(head);
    b.switch_to(head);
    b.insn(0x1004, 4);
    b.budget(2);
    let n = b.get(x0, Type::I64);
    let sum = b.get(x1, Type::I64);
    let sum = b.add(sum, n);
    b.set(x1, sum);
    let n = b.addi(n, -1);
    b.set(x0, n);
    b.branch(n, head, exit, true);
    b.switch_to(exit);
    b.link(0x1010, Hint::None);

    let mut m = TestMachine::new();
    m.state[8..16].copy_from_slice(&100u64.to_le_bytes());
    let exit = Interp::new().run(&region, &mut m, &slots);
    assert_eq!(exit, UnitExit::Link { index: 0 });
    assert_eq!(slot(&m, &slots, "x1"), 5050);
    assert_eq!(slot(&m, &slots, "pc"), 0x1010);
    assert_eq!(m.budget, 500 - 200);

    m.state[8..16].copy_from_slice(&1000u64.to_le_bytes());
    assert_eq!(Interp::new().run(&region, &mut m, &slots), UnitExit::Budget);
    assert_eq!(slot(&m, &slots, "pc"), 0x1004);
    assert_eq!(slot(&m, &slots, "x0"), 1000 - 150);
}

#[test]
fn faults_carry_the_pc_of_their_instruction() {
    let slots = slots();
    let x0 = slots.find("x0").unwrap();
    let mut region = Region::default();
    let mut b = Builder::new(&mut region, 0x2000);
    b.insn(0x2000, 4);
    let one = b.iconst(Type::I64, 1);
    b.set(x0, one);
    b.insn(0x2004, 2);
    let addr = b.iconst(Type::I64, MEM_BASE + 0x3000);
    let v = b.load(Type::I64, MemOp::new(3), addr, -4);
    b.set(x0, v);
    b.lookup();
    let mut m = TestMachine::new();
    assert_eq!(Interp::new().run(&region, &mut m, &slots), UnitExit::Fault);
    assert_eq!((slot(&m, &slots, "pc"), slot(&m, &slots, "x0")), (0x2004, 1));
}

#[test]
fn memory_extends_swaps_and_wraps() {
    let slots = slots();
    let [x0, x1, x2, x3] = ["x0", "x1", "x2", "x3"].map(|n| slots.find(n).unwrap());
    let mut region = Region::default();
    let mut b = Builder::new(&mut region, 0);
    b.insn(0, 4);
    let addr = b.iconst(Type::I64, MEM_BASE);
    let v = b.iconst(Type::I64, 0x8182_8384);
    b.store(MemOp::new(2).with_big_endian(), addr, 4, v);
    let l = b.load(Type::I64, MemOp::new(1).with_sign(), addr, 4);
    b.set(x0, l);
    let narrow = b.iconst(Type::I32, 0xffff_fff8);
    let l = b.load(Type::I64, MemOp::new(0), narrow, (MEM_BASE + 12) as i32);
    b.set(x1, l);
    let old = b.rmw(Type::I64, RmwOp::Max, MemOp::new(0).with_sign(), addr, v);
    b.set(x2, old);
    let expected = b.iconst(Type::I64, 0xff00);
    let old = b.cas(Type::I64, MemOp::new(0), addr, expected, v);
    b.set(x3, old);
    b.exit(7);
    let mut m = TestMachine::new();
    m.mem[0] = 0x80;
    assert_eq!(Interp::new().run(&region, &mut m, &slots), UnitExit::Code(7));
    assert_eq!(m.mem[4..8], [0x81, 0x82, 0x83, 0x84]);
    assert_eq!(slot(&m, &slots, "x0"), 0xffff_ffff_ffff_8281);
    assert_eq!(slot(&m, &slots, "x1"), 0x81);
    assert_eq!(slot(&m, &slots, "x2"), 0xffff_ffff_ffff_ff80);
    assert_eq!((slot(&m, &slots, "x3"), m.mem[0]), (0x84, 0x84));
}

#[test]
fn floating_point_is_sticky_and_boxed() {
    let slots = slots();
    let (d0, x0) = (slots.find("d0").unwrap(), slots.find("x0").unwrap());
    let mut region = Region::default();
    let mut b = Builder::new(&mut region, 0);
    let one = b.iconst(Type::F32, 0x3f80_0000);
    let three = b.iconst(Type::F32, 0x4040_0000);
    let q = b.fp(Op::Fdiv, FpAttr::RISCV, one, three);
    let boxed = b.fbox(q);
    b.set(d0, boxed);
    let nan = b.iconst(Type::F64, 0x7ff8_0000_0000_0000);
    let n = b.convert(Op::Ftoi, Type::I32, FpAttr::RISCV, nan);
    let n = b.sext(Type::I64, n);
    b.set(x0, n);
    b.lookup();
    let mut m = TestMachine::new();
    assert_eq!(Interp::new().run(&region, &mut m, &slots), UnitExit::Lookup);
    assert_eq!(slot(&m, &slots, "d0"), 0xffff_ffff_3eaa_aaab);
    assert_eq!(slot(&m, &slots, "x0"), 0x7fff_ffff);
    assert_eq!(m.exc, Exceptions::INEXACT | Exceptions::INVALID);
}

#[test]
fn edges_assign_all_parameters_at_once() {
    let slots = slots();
    let (x0, x1) = (slots.find("x0").unwrap(), slots.find("x1").unwrap());
    let mut region = Region::default();
    let mut b = Builder::new(&mut region, 0);
    let body = b.new_block();
    let done = b.new_block();
    let [p, q, n] = [(); 3].map(|()| b.param(body, Type::I64));
    let (one, two) = (b.iconst(Type::I64, 1), b.iconst(Type::I64, 2));
    b.jump_with(tcg_ir::Edge { block: body, args: vec![one, two, two] });
    b.switch_to(body);
    b.insn(0, 4);
    let n1 = b.addi(n, -1);
    b.set(x0, p);
    b.set(x1, q);
    let end = tcg_ir::Terminator::Branch {
        cond: n1,
        then: tcg_ir::Edge { block: body, args: vec![q, p, n1] },
        other: tcg_ir::Edge::to(done),
        likely_then: true,
    };
    b.switch_to(done);
    b.lookup();
    region.blocks[1].end = Some(end);
    let mut m = TestMachine::new();
    assert_eq!(Interp::new().run(&region, &mut m, &slots), UnitExit::Lookup);
    assert_eq!((slot(&m, &slots, "x0"), slot(&m, &slots, "x1")), (2, 1));
}

#[test]
fn vectors_work_by_lane() {
    let lane = |op, sub, a: u128, b: u128| pure(op, Type::V128, sub, 4, Type::V128, a, b);
    assert_eq!(lane(Op::Vadd, 0, 0xff01, 0x0101), 0x0002);
    assert_eq!(lane(Op::Vadd, 1, 0xff01, 0x0101), 0x0002_u128);
    assert_eq!(lane(Op::Vadd, 2, 0xff01, 0x0101), 0x1_0002);
    assert_eq!(lane(Op::Vcmp, (Cond::Gt as u16) << 8, 0x7f80, 0x0000), 0xff00);
    assert_eq!(lane(Op::Vsari, 1, 0x8000, 0), 0xf800);
    assert_eq!(lane(Op::Vtbl, 0, 0x33_2211, 0x01_ff02), 0x1111_1111_1111_1111_1111_1111_1122_0033);
}
