//! Random regions. `RHEA_FUZZ` is a number of thousands of regions (default 1), `RHEA_SEED` one seed to run alone.

use tcg_ir::testing::{GenConfig, Rng, TestMachine, generate};
use tcg_ir::{Op, Rounding, print};

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
