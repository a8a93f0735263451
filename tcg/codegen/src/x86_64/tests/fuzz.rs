//! Random regions. `RHEA_FUZZ` is a number of thousands of regions (default 1), `RHEA_SEED` one seed to run alone.

use tcg_ir::testing::{GenConfig, Rng, TestMachine, generate};
use tcg_ir::{
    Block, BlockId, Edge, Hint, Inst, Op, Region, Rounding, Tables, Terminator, Type, Value, join, print,
    verify,
};

use super::Bench;
use crate::{CompileError, Tier};

fn count() -> u64 {
    std::env::var("RHEA_FUZZ").ok().and_then(|s| s.parse().ok()).unwrap_or(1) * 1000
}

/// Names the seed when code generation or a run panics.
struct Note(u64);

impl Drop for Note {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("RHEA_SEED={}", self.0);
        }
    }
}

/// Runs regions of a configuration; panics with everything one needs at the first difference.
fn run(cfg: &GenConfig, salt: u64) {
    run_n(cfg, salt, count());
}

fn run_n(cfg: &GenConfig, salt: u64, count: u64) {
    let Some(mut bench) = Bench::new() else { return };
    let one = std::env::var("RHEA_SEED").ok().and_then(|s| s.parse::<u64>().ok());
    let seeds = match one {
        Some(s) => s..s + 1,
        None => 0..count,
    };
    let mut skipped = 0u64;
    let n = seeds.end - seeds.start;
    for seed in seeds {
        let _note = Note(seed);
        let mut rng = Rng::new(seed ^ salt << 40);
        let region = generate(&mut rng, cfg, bench.tables());
        let rounding = rng.pick(&[Rounding::NearestEven, Rounding::Zero, Rounding::Down, Rounding::Up]);
        for tier in [Tier::Second, Tier::First] {
            let start = TestMachine::random(&mut rng, &bench.slots);
            let fast = rng.bits() as u32;
            if one.is_some() {
                println!("{}", print::region(&region, bench.tables()));
                println!("{}", bench.disassemble(&region, rounding, tier));
            }
            let got = match bench.jit(&region, &start, rounding, tier, fast) {
                Ok(o) => o,
                Err(CompileError::TooLarge) => {
                    skipped += 1;
                    break;
                }
                Err(e) => panic!("{e}"),
            };
            let want = bench.interpret(&region, &start);
            if let Some(d) = bench.differ(&got, &want) {
                if one.is_none() {
                    println!("{}", print::region(&region, bench.tables()));
                    println!("{}", bench.disassemble(&region, rounding, tier));
                }
                for s in bench.slots.all() {
                    let v = tcg_ir::interp::read_slot(&start.state, s).0;
                    println!("{} = {:x?}", s.name, &v[..s.ty.bytes().div_ceil(8)]);
                }
                panic!("seed {seed}, rounding {rounding:?}, tier {tier:?}: {d}");
            }
        }
    }
    // Atomics of 128-bit values have no code yet.
    assert!(skipped * 2 < n.max(20), "{skipped} of {n} regions were too large");
}

/// All operations but `fexget`: the host also records denormal operands, which only x86 guests look at.
fn all_ops() -> Vec<Op> {
    GenConfig::default().ops.into_iter().filter(|o| *o != Op::Fexget).collect()
}

#[test]
fn everything() {
    run(&GenConfig { ops: all_ops(), ..GenConfig::default() }, 0);
}

/// Each operation alone: small regions, which name the culprit.
#[test]
fn each_op() {
    for op in all_ops() {
        println!("{}", op.info().name);
        let cfg = GenConfig {
            ops: vec![op, op, op, Op::Get, Op::Set],
            blocks: 1,
            insts: 6,
            ..GenConfig::default()
        };
        run_n(&cfg, 3 + ((op as u64) << 8), count() / 15);
    }
}

#[test]
fn integers() {
    use tcg_ir::Effect;
    use tcg_ir::Type::*;
    let ops = Op::ALL.iter().copied().filter(|o| {
        matches!(
            o.info().effect,
            Effect::Pure | Effect::Get | Effect::Set | Effect::Load | Effect::Store | Effect::Call
        ) && (*o as u8) < Op::Flags as u8
            || matches!(o, Op::Load | Op::Store | Op::Rmw | Op::Cas | Op::Call)
    });
    let mut ops: Vec<_> = ops.filter(|o| *o != Op::Nop).collect();
    for _ in 0..6 {
        ops.extend([Op::Get, Op::Set]);
    }
    let cfg = GenConfig { ops, types: vec![I8, I16, I32, I64], ..GenConfig::default() };
    run(&cfg, 1);
}

#[test]
fn floats() {
    use tcg_ir::Effect;
    use tcg_ir::Type::*;
    let ops = Op::ALL.iter().copied().filter(|o| {
        (matches!(o.info().effect, Effect::Fp) || *o == Op::Fexset) && (*o as u8) < Op::Vadd as u8
            || matches!(
                o,
                Op::Fneg
                    | Op::Fabs
                    | Op::Fsgnj
                    | Op::Fbox
                    | Op::Funbox
                    | Op::Bitcast
                    | Op::Select
                    | Op::Load
                    | Op::Store
            )
    });
    let mut ops: Vec<_> = ops.collect();
    for _ in 0..5 {
        ops.extend([Op::Get, Op::Set]);
    }
    let cfg = GenConfig { ops, types: vec![I32, I64, F32, F64], ..GenConfig::default() };
    run(&cfg, 2);
}

/// Vectors of all widths and what moves between them and scalars, in regions long enough to run out of registers.
#[test]
fn vectors() {
    use tcg_ir::Type::*;
    let ops = Op::ALL.iter().copied().filter(|o| (*o as u8) >= Op::Vadd as u8);
    let mut ops: Vec<_> = ops.chain([Op::Load, Op::Store, Op::Select, Op::Bitcast]).collect();
    for _ in 0..8 {
        ops.extend([Op::Get, Op::Set]);
    }
    let types = vec![I8, I16, I32, I64, F32, F64, V64, V128, V256, V512];
    run(&GenConfig { ops, types, insts: 40, ..GenConfig::default() }, 5);
}

/// Binary16 through the wider formats, with the rounding modes of the host.
#[test]
fn halves() {
    use tcg_ir::Effect;
    use tcg_ir::Type::*;
    let fp = Op::ALL.iter().copied().filter(|o| o.info().effect == Effect::Fp && (*o as u8) < Op::Vadd as u8);
    let mut ops: Vec<_> = fp.collect();
    for _ in 0..3 {
        ops.extend([Op::Get, Op::Set]);
    }
    run(&GenConfig { ops, types: vec![I32, I64, F16, F32], ..GenConfig::default() }, 6);
}

/// Some random regions that lead to each other, joined.
fn joined(rng: &mut Rng, cfg: &GenConfig, t: Tables<'_>) -> Region {
    let address = |n: usize| 0x1000 + n as u64 * 0x100;
    let none = Value::NONE;
    let pieces: Vec<Region> = (0..3)
        .map(|n| {
            let mut r = generate(rng, cfg, t);
            r.pc = address(n);
            // A head that is marked, and looks for requests, as front ends have it.
            let to = BlockId(r.blocks.len() as u32);
            let mark = Inst { op: Op::Insn, ty: Type::Void, sub: 4, a: none, b: none, c: none, imm: r.pc };
            let first = Value(r.insts.len() as u32);
            r.insts.extend([mark, Inst { op: Op::Budget, sub: 0, imm: 1, ..mark }]);
            let insts = vec![first, Value(first.0 + 1)];
            let head = Block { insts, params: 0, end: Some(Terminator::Jump(Edge::to(to))) };
            let body = std::mem::replace(&mut r.blocks[0], head);
            r.blocks.push(body);
            for end in r.blocks.iter_mut().filter_map(|b| b.end.as_mut()) {
                if matches!(end, Terminator::Link { .. } | Terminator::Lookup | Terminator::Exit { .. }) {
                    let hint = if rng.one_in(2) { Hint::Call(address(rng.below(3))) } else { Hint::None };
                    *end = Terminator::Link { pc: address(rng.below(4)), hint };
                }
            }
            r
        })
        .collect();
    join::join(&pieces, t.slots.get(t.slots.pc()).ty)
}

#[test]
fn side_entries() {
    let Some(mut bench) = Bench::new() else { return };
    let cfg = GenConfig { ops: all_ops(), ..GenConfig::default() };
    let mut runs = 0;
    for seed in 0..count() {
        let _note = Note(seed);
        let mut rng = Rng::new(seed ^ 77 << 40);
        let region = joined(&mut rng, &cfg, bench.tables());
        verify::verify(&region, bench.tables()).unwrap();
        for side in (0..region.entries.len()).map(Some).chain([None]) {
            let mut alone = region.clone();
            if let Some(n) = side {
                alone.blocks[0].end = Some(Terminator::Jump(Edge::to(region.entries[n])));
            }
            let mut start = TestMachine::random(&mut rng, &bench.slots);
            start.budget = rng.below(40) as i64;
            bench.side = side;
            let got = bench.jit(&region, &start, Rounding::NearestEven, Tier::Second, rng.bits() as u32);
            let Ok(got) = got else { break };
            runs += 1;
            let want = bench.interpret(&alone, &start);
            if let Some(d) = bench.differ(&got, &want) {
                panic!("seed {seed}, {side:?}: {d}\n{}", print::region(&region, bench.tables()));
            }
        }
    }
    assert!(runs > count(), "{runs} runs");
}

#[test]
fn side_entries_look_for_requests() {
    use std::sync::atomic::Ordering::Relaxed;
    use tcg_ir::abi::UnitExit;

    let Some(mut bench) = Bench::new() else { return };
    let text = "region 0x1000 len=8 insns=2\nb0:\n  jump b1\nb1:\n  insn 0x1000 4\n  v0 = get.i64 x1\n  v1 = get.i64 x2\n  \
        v2 = add.i64 v0, v1\n  set x1, v2\n  br v2, b2, b3\nb2 entry:\n  insn 0x1004 4\n  v3 = get.i64 x1\n  set x2, v3\n  \
        br v3, b1, b3\nb3:\n  link 0x2000\n";
    let region = tcg_ir::parse::region(text, bench.tables()).unwrap();
    verify::verify(&region, bench.tables()).unwrap();
    let mut start = TestMachine::new();
    start.budget = 100;
    bench.side = Some(0);
    bench.header().exit_request.store(1, Relaxed);
    let got = bench.jit(&region, &start, Rounding::NearestEven, Tier::Second, 0).unwrap();
    assert_eq!(got.exit, UnitExit::Budget);
    let pc = bench.slots.get(bench.slots.pc());
    assert_eq!(tcg_ir::interp::read_slot(&got.m.state, pc).0[0], 0x1004);
    bench.header().exit_request.store(0, Relaxed);
    let got = bench.jit(&region, &start, Rounding::NearestEven, Tier::Second, 0).unwrap();
    assert_eq!(got.exit, UnitExit::Link { index: 0 });
}
