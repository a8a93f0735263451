//! A pass changes nothing that can be seen: on random regions and inputs, slots, memory, sticky exceptions, budget and
//! exit are those of the region it was given.

use tcg_ir::abi::UnitExit;
use tcg_ir::interp::{Interp, Machine, read_slot};
use tcg_ir::passes::{Optimizer, PASSES, PassSet};
use tcg_ir::testing::{GenConfig, Rng, TestMachine, generate, helpers, slots};
use tcg_ir::{Builder, Cond, FlagKind, Op, Region, Tables, Type, parse, print};

/// The exit, without the number of a link: the pc slot says where it leads, passes may renumber.
fn run(interp: &mut Interp, r: &Region, m: &TestMachine, t: Tables<'_>) -> (UnitExit, TestMachine) {
    let mut m = m.clone();
    let exit = match interp.run(r, &mut m, t.slots) {
        UnitExit::Link { .. } => UnitExit::Link { index: 0 },
        exit => exit,
    };
    (exit, m)
}

fn differences(a: &TestMachine, b: &TestMachine, t: Tables<'_>) -> String {
    let mut s = String::new();
    for slot in t.slots.all() {
        let (x, y) = (read_slot(&a.state, slot), read_slot(&b.state, slot));
        if x != y {
            s += &format!("{}: {x:x?} became {y:x?}\n", slot.name);
        }
    }
    if a.exceptions() != b.exceptions() || a.budget != b.budget {
        s += &format!("{:?} {} became {:?} {}\n", a.exc, a.budget, b.exc, b.budget);
    }
    if let Some(i) = a.mem.iter().zip(&b.mem).position(|(x, y)| x != y) {
        s += &format!("memory differs from offset {i:#x}\n");
    }
    s
}

fn fuzz(set: PassSet, what: &str, seed: u64, regions: usize, cfg: &GenConfig) {
    let (slots, helpers) = (slots(), helpers());
    let t = Tables { slots: &slots, helpers: &helpers };
    let mut rng = Rng::new(seed);
    let mut optimizer = Optimizer::new(set);
    let mut interp = Interp::new();
    for n in 0..regions {
        let r = generate(&mut rng, cfg, t);
        let mut after = r.clone();
        optimizer.run(&mut after, t);
        for _ in 0..4 {
            let m = TestMachine::random(&mut rng, &slots);
            let (exit, end) = run(&mut interp, &r, &m, t);
            let (exit2, end2) = run(&mut interp, &after, &m, t);
            assert!(
                exit == exit2 && end == end2,
                "{what}, region {n}: {exit:?} became {exit2:?}\n{}\nbefore:\n{}\nafter:\n{}",
                differences(&end, &end2, t),
                print::region(&r, t),
                print::region(&after, t)
            );
        }
    }
}

#[test]
fn no_pass_alone_changes_what_is_seen() {
    for (i, pass) in PASSES.iter().enumerate() {
        fuzz(PassSet::only(i), pass.name, 10 + i as u64, 400, &GenConfig::default());
    }
}

#[test]
fn all_passes_together_change_nothing_that_is_seen() {
    fuzz(PassSet::ALL, "all", 20, 1500, &GenConfig::default());
    // Integers, slots and flags alone: more of what the passes work on meets.
    let types = vec![Type::I64, Type::I32, Type::I8, Type::Flags];
    let ops: Vec<Op> = Op::ALL.iter().copied().filter(|o| *o as u8 <= Op::FlagGet as u8).collect();
    let dense = GenConfig { types, ops, blocks: 4, ..GenConfig::default() };
    fuzz(PassSet::ALL, "dense", 21, 3000, &dense);
    // Memory and calls between sets and gets.
    let ops =
        vec![Op::Get, Op::Set, Op::Load, Op::Store, Op::Call, Op::Add, Op::Fadd, Op::Fexget, Op::Fexset];
    let effects = GenConfig { ops, ..GenConfig::default() };
    fuzz(PassSet::ALL, "effects", 22, 1500, &effects);
}

/// Short chains of integer operations with constants: what `fold` has rules for.
#[test]
fn algebra_holds() {
    const OPS: &[Op] = &[
        Op::Add,
        Op::Sub,
        Op::And,
        Op::Or,
        Op::Xor,
        Op::Andc,
        Op::Mul,
        Op::Divu,
        Op::Remu,
        Op::Shl,
        Op::Shl,
        Op::Shr,
        Op::Sar,
        Op::Rotl,
        Op::Not,
        Op::Neg,
        Op::Bswap,
        Op::Trunc,
        Op::Zext,
        Op::Sext,
        Op::Extract,
        Op::Sextract,
        Op::Setcc,
        Op::Setcc,
        Op::Select,
        Op::Flags,
    ];
    let (slots, helpers) = (slots(), helpers());
    let t = Tables { slots: &slots, helpers: &helpers };
    let x1 = slots.find("x1").expect("a slot");
    let x2 = slots.find("x2").expect("a slot");
    let types = [Type::I8, Type::I16, Type::I32, Type::I64];
    let mut rng = Rng::new(40);
    let mut optimizer = Optimizer::new(PassSet::ALL);
    let (mut interp, mut r) = (Interp::new(), Region::default());
    for n in 0..30_000 {
        let mut b = Builder::new(&mut r, 0);
        let first = b.get(x1, Type::I64);
        let mut v = b.trunc(rng.pick(&types), first);
        for _ in 0..2 + rng.below(3) {
            let ty = b.ty(v);
            let w = ty.bits();
            let mut constant = |b: &mut Builder<'_>, small: bool| {
                let n = if small { rng.below(w as usize) as u64 } else { rng.number() };
                b.iconst(ty, n)
            };
            let zero = b.iconst(ty, 0);
            let c = constant(&mut b, n % 3 == 0);
            let count = constant(&mut b, true);
            let (pos, to) = (rng.below(w as usize) as u32, rng.pick(&types));
            let len = 1 + rng.below((w - pos) as usize) as u32;
            v = match rng.pick(OPS) {
                op @ (Op::Shl | Op::Shr | Op::Sar | Op::Rotl) => b.binary(op, v, count),
                op @ (Op::Not | Op::Neg | Op::Bswap) => b.unary(op, v),
                Op::Trunc | Op::Zext if to.bits() < w => b.trunc(to, v),
                Op::Trunc | Op::Zext => b.zext(to, v),
                Op::Sext if to.bits() > w => b.sext(to, v),
                Op::Extract => b.extract(v, pos, len),
                Op::Sextract => b.sextract(v, pos, len),
                Op::Setcc => {
                    let other = rng.pick(&[zero, zero, c, v]);
                    let cond = rng.pick(&Cond::ALL[..12]);
                    if rng.one_in(4) { b.setcc(to, cond, other, v) } else { b.setcc(to, cond, v, other) }
                }
                Op::Select => {
                    let x = rng.pick(&[v, c]);
                    b.select(x, v, count)
                }
                Op::Flags => {
                    let kind = rng.pick(&[FlagKind::Sub, FlagKind::Logic]);
                    let f = b.flags(kind, v, if kind == FlagKind::Sub { c } else { zero }, zero);
                    let cond = rng.pick(&[&Cond::ALL[..10], &Cond::ALL[12..]].concat());
                    b.flag_cond(to, cond, f)
                }
                op if op.info().args == 2 => {
                    let other = rng.pick(&[c, c, c, v]);
                    if rng.one_in(5) { b.binary(op, other, v) } else { b.binary(op, v, other) }
                }
                _ => v,
            };
        }
        let last = b.zext(Type::I64, v);
        b.set(x2, last);
        b.lookup();
        let mut after = r.clone();
        optimizer.run(&mut after, t);
        for _ in 0..4 {
            let mut m = TestMachine::new();
            m.state[16..24].copy_from_slice(&rng.number().to_le_bytes());
            let (a, b) = (run(&mut interp, &r, &m, t), run(&mut interp, &after, &m, t));
            assert_eq!(read_slot(&m.state, slots.get(x1)).0[0], read_slot(&a.1.state, slots.get(x1)).0[0]);
            assert!(
                a == b,
                "{}\n{}\n{}",
                differences(&a.1, &b.1, t),
                print::region(&r, t),
                print::region(&after, t)
            );
        }
    }
}

#[test]
fn every_exit_is_reached_by_the_generator() {
    let (slots, helpers) = (slots(), helpers());
    let t = Tables { slots: &slots, helpers: &helpers };
    let mut rng = Rng::new(30);
    let mut interp = Interp::new();
    let mut count = [0; 6];
    for _ in 0..2000 {
        let r = generate(&mut rng, &GenConfig::default(), t);
        let m = TestMachine::random(&mut rng, &slots);
        let (exit, _) = run(&mut interp, &r, &m, t);
        count[match exit {
            UnitExit::Link { .. } => 0,
            UnitExit::Lookup => 1,
            UnitExit::Budget => 2,
            UnitExit::Fault => 3,
            UnitExit::HelperExit => 4,
            UnitExit::Code(_) => 5,
        }] += 1;
    }
    assert!(count.iter().all(|c| *c > 20), "links, lookups, budget, faults, helper exits, codes: {count:?}");
}

/// The region after all passes.
fn optimized(body: &str) -> String {
    let (slots, helpers) = (slots(), helpers());
    let t = Tables { slots: &slots, helpers: &helpers };
    let mut r = parse::region(&format!("region 0x0 len=4 insns=1\n{body}"), t).expect("the test's own text");
    Optimizer::new(PassSet::ALL).run(&mut r, t);
    let text = print::region(&r, t);
    text.lines().skip(2).map(str::trim).collect::<Vec<_>>().join("\n")
}

#[test]
fn slots_are_read_once_and_written_last() {
    let body = "b0:\n  insn 0x0 4\n  v0 = get.i64 x1\n  set x2, v0\n  v1 = get.i64 x2\n  v2 = add.i64 v1, v0\n  \
                set x2, v2\n  set x1, v0\n  lookup\n";
    assert_eq!(optimized(body), "insn 0x0 4\nv0 = get.i64 x1\nv2 = add.i64 v0, v0\nset x2, v2\nlookup");
    // A load between the sets may fault and must find the first.
    let body = "b0:\n  insn 0x0 4\n  v0 = get.i64 x1\n  set x2, v0\n  v1 = load.i64 [v0] ld8\n  set x2, v1\n  lookup\n";
    assert_eq!(
        optimized(body),
        "insn 0x0 4\nv0 = get.i64 x1\nset x2, v0\nv1 = load.i64 [v0] ld8\nset x2, v1\nlookup"
    );
}

#[test]
fn values_flow_along_branches_but_not_over_joins() {
    let body = "b0:\n  insn 0x0 4\n  v0 = get.i64 x1\n  br v0, b1, b2\nb1:\n  v1 = get.i64 x1\n  v2 = add.i64 v1, v1\n  \
                set x2, v2\n  jump b3\nb2:\n  jump b3\nb3:\n  v3 = get.i64 x1\n  v4 = get.i64 x2\n  \
                v5 = add.i64 v3, v4\n  set x3, v5\n  jump b4\nb4:\n  budget 1\n  v6 = get.i64 x3\n  \
                v7 = add.i64 v6, v0\n  set x3, v7\n  br v6, b4, b5\nb5:\n  v8 = get.i64 x3\n  set x4, v8\n  lookup\n";
    let text = optimized(body);
    for line in ["v2 = add.i64 v0, v0", "v3 = get.i64 x1", "v6 = get.i64 x3", "set x4, v7"] {
        assert!(text.contains(line), "{line}:\n{text}");
    }
}

#[test]
fn addresses_flags_and_extensions_fold() {
    let body = "b0:\n  insn 0x0 4\n  v0 = get.i64 x1\n  v1 = const.i64 0x10\n  v2 = add.i64 v0, v1\n  v3 = add.i64 v1, v2\n  \
                v4 = load.i32 [v3-4] ld4\n  v5 = sext.i64 v4\n  v6 = trunc.i32 v5\n  set w0, v6\n  lookup\n";
    assert_eq!(optimized(body), "insn 0x0 4\nv0 = get.i64 x1\nv4 = load.i32 [v0+28] ld4\nset w0, v4\nlookup");
    let body = "b0:\n  insn 0x0 4\n  v0 = get.i64 x1\n  v1 = get.i64 x2\n  v2 = flags.sub.i64 v0, v1, v1\n  set fl0, v2\n  \
                v3 = get.flags fl0\n  v4 = flagcond.i8.lt v3\n  v5 = flags.logic.i64 v0, v1, v1\n  set fl0, v5\n  \
                br v4, b1, b2\nb1:\n  lookup\nb2:\n  exit 1\n";
    let text = optimized(body);
    assert!(text.contains("v4 = setcc.i8.lt v0, v1"), "{text}");
    assert!(!text.contains("flags.sub"), "{text}");
    // lui and addi, auipc and addi, slli and srli of RISC-V.
    let body = "b0:\n  v0 = pc.i64 0x1000\n  v1 = const.i64 0x20\n  v2 = add.i64 v0, v1\n  set x1, v2\n  v3 = get.i64 x2\n  \
                v4 = shl.i64 v3, v1\n  v5 = shr.i64 v4, v1\n  set x3, v5\n  lookup\n";
    assert_eq!(
        optimized(body),
        "v2 = pc.i64 0x1020\nset x1, v2\nv3 = get.i64 x2\nv5 = extract.i64 v3, 0, 32\nset x3, v5\nlookup"
    );
}

#[test]
fn exceptions_are_raised_as_often_as_they_can_be_seen() {
    // The second sum raises nothing the first has not raised; after a write of the exceptions it may.
    let twice = "  v0 = get.f64 d0\n  v1 = fadd.f64 v0, v0\n  set d1, v1\n";
    let body = format!("b0:\n{twice}  v2 = fadd.f64 v0, v0\n  set d2, v2\n  lookup\n");
    assert_eq!(optimized(&body).matches("fadd").count(), 1);
    let clear = "  v8 = const.i32 0x0\n  fexset v8\n";
    let body = format!("b0:\n{twice}{clear}  v2 = fadd.f64 v0, v0\n  set d2, v2\n  lookup\n");
    assert_eq!(optimized(&body).matches("fadd").count(), 2);
    // An unused result does not take its exceptions with it, unless it raises none.
    assert!(optimized("b0:\n  v0 = get.f64 d0\n  v1 = fadd.f64 v0, v0\n  lookup\n").contains("fadd"));
    assert_eq!(optimized("b0:\n  v0 = get.f64 d0\n  v1 = fadd.f64.quiet v0, v0\n  lookup\n"), "lookup");
}

#[test]
fn straight_lines_become_one_block() {
    let body = "b0:\n  insn 0x0 4\n  v0 = const.i64 0x0\n  br v0, b1, b2\nb1:\n  exit 1\nb2:\n  v1 = get.i64 x1\n  \
                jump b3(v1)\nb3(v2: i64):\n  set x2, v2\n  lookup\n";
    assert_eq!(optimized(body), "insn 0x0 4\nv1 = get.i64 x1\nset x2, v1\nlookup");
}

#[test]
fn pass_lists_are_read() {
    let all = PassSet::ALL;
    assert_eq!("".parse(), Ok(all));
    let dce = PASSES.iter().position(|p| p.name == "dce").expect("there is one");
    assert_eq!("none,dce".parse(), Ok(PassSet::only(dce)));
    let without: PassSet = "-dce:-cse".parse().expect("both exist");
    assert!(!without.contains(dce) && without.contains(0));
    let e = "-dec".parse::<PassSet>().expect_err("no such pass").to_string();
    assert_eq!(e, "`dec` is no pass; there are: forward, fold, flags, address, cse, branch, deadset, dce");
}
