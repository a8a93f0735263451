//! How units get from one to another.

use tcg_ir::abi::{JumpEntry, UnitExit};
use tcg_ir::{Builder, Hint, Region, Rounding, SlotId, Type};

use super::{Bench, JUMP_SIZE};
use crate::{CompiledUnit, Tier, patch_link, unpatch_link};

const X0: SlotId = SlotId(1);

/// A unit at `pc` that adds `n` to `x0` and ends as `end` says.
fn unit(bench: &mut Bench, pc: u64, n: i64, end: impl FnOnce(&mut Builder<'_>)) -> CompiledUnit {
    let mut r = Region::default();
    let mut b = Builder::new(&mut r, pc);
    b.insn(pc, 4);
    let x = b.get(X0, Type::I64);
    let y = b.addi(x, n);
    b.set(X0, y);
    end(&mut b);
    bench.compiler.compile(&r, 7, Rounding::NearestEven, bench.tier, &bench.space).unwrap()
}

/// Runs a test in both tiers.
fn both(test: impl Fn(&mut Bench)) {
    for tier in [Tier::First, Tier::Second] {
        let Some(mut bench) = Bench::new() else { return };
        bench.tier = tier;
        test(&mut bench);
    }
}

#[test]
fn patched_links() {
    both(|bench| {
        let a = unit(bench, 0x4000, 1, |b| b.link(0x4100, Hint::None));
        let b = unit(bench, 0x4100, 16, |b| b.exit(5));
        assert_eq!(a.links.len(), 1);
        assert_eq!(a.links[0].site % 4, 0);
        let jumps = bench.empty_jumps();
        assert_eq!(bench.run_units(&a, &jumps, 0), (UnitExit::Link { index: 0 }, 0x4100, 1));
        assert!(patch_link(&bench.space, &a.links[0], b.entry));
        assert_eq!(bench.run_units(&a, &jumps, 0).0, UnitExit::Code(5));
        assert_eq!(bench.run_units(&a, &jumps, 0).2, 17);
        assert!(unpatch_link(&bench.space, &a.links[0]));
        assert_eq!(bench.run_units(&a, &jumps, 0), (UnitExit::Link { index: 0 }, 0x4100, 1));
    });
}

/// Puts a unit into the jump cache where generated code looks for it.
fn remember(jumps: &mut [JumpEntry; JUMP_SIZE], pc: u64, key: u64, code: u64) {
    let at = ((pc >> 1) ^ (pc >> 13)) as usize % JUMP_SIZE;
    jumps[at] = JumpEntry { pc, key, code, unused: 0 };
}

#[test]
fn indirect_jumps() {
    both(|bench| {
        let a = unit(bench, 0x4000, 1, |b| {
            let to = b.get(SlotId(2), Type::I64);
            b.indirect(to, Hint::Return);
        });
        let b = unit(bench, 0x5000, 16, |b| b.exit(5));
        let mut jumps = bench.empty_jumps();
        assert_eq!(bench.run_units(&a, &jumps, 0x5000), (UnitExit::Lookup, 0x5000, 1));
        // An empty entry compares equal to pc 0, key 0 only; its code leads to the miss.
        assert_eq!(bench.run_units(&a, &jumps, 0).1, 0);
        remember(&mut jumps, 0x5000, 7, b.entry);
        let (exit, _, x) = bench.run_units(&a, &jumps, 0x5000);
        assert_eq!((exit, x), (UnitExit::Code(5), 17));
    });
}

/// Whatever the length of a unit, the address its last exit stub leaves with lies inside it, not at its neighbour's start.
#[test]
fn exit_sites_lie_inside() {
    both(|bench| {
        let jumps = bench.empty_jumps();
        for n in 0..40 {
            let a = unit(bench, 0x4000, 1, |b| {
                for i in 0..n {
                    let c = b.iconst(Type::I64, i);
                    b.set(SlotId(3), c);
                    b.fence(15);
                }
                b.link(0x4100, Hint::None);
            });
            assert_eq!(bench.run_units(&a, &jumps, 0).0, UnitExit::Link { index: 0 });
            let site = bench.header().exit_site;
            assert!(a.contains(site) && site < a.entry + u64::from(a.len), "length {}", a.len);
        }
    });
}

/// What the second jump cache knows is copied to the first.
#[test]
fn shared_jumps_are_copied() {
    both(|bench| {
        let a = unit(bench, 0x4000, 1, |b| {
            let to = b.get(SlotId(2), Type::I64);
            b.indirect(to, Hint::None);
        });
        let b = unit(bench, 0x5000, 16, |b| b.exit(5));
        let jumps = bench.empty_jumps();
        let mut shared = bench.empty_jumps();
        remember(&mut shared, 0x5000, 7, b.entry);
        bench.shared = shared.as_ptr() as u64;
        assert_eq!(bench.run_units(&a, &jumps, 0x5000).0, UnitExit::Code(5));
        bench.shared = 0;
        // This time the second is the first.
        assert_eq!(bench.run_units(&a, &jumps, 0x5000).0, UnitExit::Code(5));
        assert_eq!(bench.run_units(&a, &bench.empty_jumps(), 0x5000).0, UnitExit::Lookup);
    });
}
