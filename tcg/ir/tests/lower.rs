//! Lowered regions compute what the whole operations do, and contain none the host lacks.

use tcg_ir::interp::Interp;
use tcg_ir::lower::{Capabilities, Lowering, OpSet};
use tcg_ir::testing::{GenConfig, Rng, TestMachine, generate, helpers, slots};
use tcg_ir::{Op, Tables, Type, print, verify};

/// All that has an expansion for integers of at most 64 bits, floats and vectors.
const LACKING: &[Op] = &[
    Op::Andc,
    Op::Orc,
    Op::Eqv,
    Op::Not,
    Op::Neg,
    Op::Rotl,
    Op::Rotr,
    Op::Popcnt,
    Op::Clz,
    Op::Ctz,
    Op::Bswap,
    Op::Mulhu,
    Op::Mulhs,
    Op::Mulhsu,
    Op::Extract,
    Op::Sextract,
    Op::Deposit,
    Op::Select,
    Op::Fneg,
    Op::Fabs,
    Op::Fsgnj,
    Op::Fbox,
    Op::Funbox,
    Op::Vnot,
    Op::Vandc,
    Op::Vneg,
    Op::Vmin,
    Op::Vmax,
    Op::Vminu,
    Op::Vmaxu,
    Op::Vselect,
    Op::Vshli,
    Op::Vshri,
    Op::Vsari,
];

fn fuzz(caps: Capabilities, seed: u64, cfg: &GenConfig) {
    let (slots, helpers) = (slots(), helpers());
    let t = Tables { slots: &slots, helpers: &helpers };
    let mut rng = Rng::new(seed);
    let (mut lowering, mut interp) = (Lowering::default(), Interp::new());
    for n in 0..500 {
        let r = generate(&mut rng, cfg, t);
        let mut after = r.clone();
        lowering.run(&mut after, &caps);
        verify::verify(&after, t).unwrap_or_else(|e| panic!("region {n}: {e}\n{}", print::region(&r, t)));
        for v in after.blocks.iter().flat_map(|b| &b.insts) {
            let i = after.inst(*v);
            let of = if i.a.index() < after.insts.len() { after.inst(i.a).ty } else { Type::Void };
            // Rows without an expansion: i128, and a choice between what is no integer.
            let kept = i.ty == Type::I128
                || i.op == Op::Select && (!i.ty.is_int() || of == Type::I128)
                || caps.ops.contains(i.op);
            assert!(kept, "region {n}: {:?} is left\n{}", i.op, print::region(&after, t));
            let arithmetic = matches!(i.op as u8, x if x >= Op::Add as u8 && x <= Op::Clmulh as u8);
            assert!(
                caps.narrow || !arithmetic || !matches!(i.ty, Type::I8 | Type::I16),
                "{:?}.{:?}",
                i.op,
                i.ty
            );
        }
        for _ in 0..3 {
            let mut m = TestMachine::random(&mut rng, &slots);
            let mut m2 = m.clone();
            let (a, b) = (interp.run(&r, &mut m, &slots), interp.run(&after, &mut m2, &slots));
            assert!(a == b && m == m2, "region {n}\n{}\n{}", print::region(&r, t), print::region(&after, t));
        }
    }
}

#[test]
fn a_host_that_has_all_changes_nothing() {
    let (slots, helpers) = (slots(), helpers());
    let t = Tables { slots: &slots, helpers: &helpers };
    let r = generate(&mut Rng::new(1), &GenConfig::default(), t);
    let mut after = r.clone();
    Lowering::default().run(&mut after, &Capabilities { ops: OpSet::ALL, narrow: true });
    assert_eq!(print::region(&r, t), print::region(&after, t));
}

#[test]
fn expansions_compute_the_same() {
    let ops = OpSet::ALL.without(LACKING);
    let dense = GenConfig { ops: [LACKING, &[Op::Get, Op::Set, Op::Setcc]].concat(), ..GenConfig::default() };
    for (k, cfg) in [GenConfig::default(), dense].iter().enumerate() {
        let seed = 80 + 3 * k as u64;
        fuzz(Capabilities { ops, narrow: true }, seed, cfg);
        fuzz(Capabilities { ops: OpSet::ALL, narrow: false }, seed + 1, cfg);
        fuzz(Capabilities { ops, narrow: false }, seed + 2, cfg);
    }
}
