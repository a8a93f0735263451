//! Joined regions do what their pieces do one after the other: random pieces that call, return, branch and jump to each other, run
//! both ways by the interpreter, with and without the passes behind.

use tcg_ir::abi::UnitExit;
use tcg_ir::interp::Interp;
use tcg_ir::passes::{Optimizer, PassSet};
use tcg_ir::testing::{Rng, TestMachine, helpers, slots};
use tcg_ir::{
    Builder, Cond, Edge, Hint, Op, Region, SlotId, Tables, Terminator, Type, join::join, print, verify,
};

const PC: SlotId = SlotId(0);
/// Counts down, and stops the program at zero.
const STEPS: SlotId = SlotId(8);
/// Where a return goes.
const BACK: SlotId = SlotId(7);
const END: u64 = 0xdead_0000;

fn x(n: usize) -> SlotId {
    SlotId(1 + n as u16)
}

fn address(piece: usize) -> u64 {
    0x1000 + piece as u64 * 0x10
}

fn piece(rng: &mut Rng, n: usize, pieces: usize) -> Region {
    let pc = address(n);
    let mut r = Region::default();
    let mut b = Builder::new(&mut r, pc);
    // As front ends have it: an entry block that leads to the head of the loop.
    let head = b.new_block();
    b.jump(head);
    b.switch_to(head);
    b.insn(pc, 4);
    b.budget(1);
    let steps = b.get(STEPS, Type::I64);
    let steps = b.addi(steps, -1);
    b.set(STEPS, steps);
    let zero = b.iconst(Type::I64, 0);
    let over = b.setcc(Type::I64, Cond::Eq, steps, zero);
    let (end, on) = (b.new_block(), b.new_block());
    b.branch(over, end, on, false);
    b.switch_to(end);
    b.link(END, Hint::None);
    b.switch_to(on);
    let (p, q) = (b.get(x(rng.below(4)), Type::I64), b.get(x(rng.below(4)), Type::I64));
    let sum = if rng.one_in(2) { b.add(p, q) } else { b.xor(p, q) };
    let sum = b.addi(sum, rng.below(16) as i64);
    b.set(x(rng.below(4)), sum);
    let any = |rng: &mut Rng| address(rng.below(pieces + 1));
    match rng.below(7) {
        0 => {
            let (back, to) = (any(rng), any(rng));
            let v = b.pc(Type::I64, back);
            b.set(BACK, v);
            b.link(to, Hint::Call(back));
        }
        1 | 2 => {
            let v = b.get(BACK, Type::I64);
            b.indirect(v, Hint::Return);
        }
        3 => {
            let to = any(rng);
            let v = b.pc(Type::I64, to);
            b.indirect(v, Hint::None);
        }
        4 => b.link(any(rng), Hint::None),
        5 => {
            let one = b.iconst(Type::I64, 1);
            let odd = b.and(sum, one);
            let side = b.new_block();
            b.branch(odd, head, side, true);
            b.switch_to(side);
            b.link(any(rng), Hint::None);
        }
        _ => {
            let one = b.iconst(Type::I64, 1);
            let odd = b.and(sum, one);
            let (then, other) = (b.new_block(), b.new_block());
            b.branch(odd, then, other, rng.one_in(2));
            b.switch_to(then);
            b.link(any(rng), Hint::None);
            b.switch_to(other);
            b.link(any(rng), Hint::None);
        }
    }
    b.set_extent(4, 1);
    r
}

/// Runs pieces until none is at the pc.
fn run(interp: &mut Interp, pieces: &[Region], m: &mut TestMachine, t: Tables<'_>) {
    loop {
        let at = t.slots.get(PC).offset as usize;
        let pc = m.state[at..at + 8].iter().rev().fold(0, |pc, byte| pc << 8 | u64::from(*byte));
        let Some(r) = pieces.iter().find(|p| p.pc == pc) else { return };
        let exit = interp.run(r, m, t.slots);
        assert!(matches!(exit, UnitExit::Link { .. } | UnitExit::Lookup), "{exit:?}");
    }
}

fn set_pc(m: &mut TestMachine, t: Tables<'_>, pc: u64) {
    let at = t.slots.get(PC).offset as usize;
    m.state[at..at + 8].copy_from_slice(&pc.to_le_bytes());
}

/// Enters the whole by each of its side entries; how many there were.
fn enter_at_sides(
    interp: &mut Interp,
    pieces: &[Region],
    whole: &Region,
    rng: &mut Rng,
    t: Tables<'_>,
) -> usize {
    for side in &whole.entries {
        let mark = whole.inst(whole.blocks[side.0 as usize].insts[0]);
        let mut r = whole.clone();
        r.entries.clear();
        r.blocks[0].end = Some(Terminator::Jump(Edge::to(*side)));
        let mut m = TestMachine::random(rng, t.slots);
        m.budget = i64::MAX;
        let at = t.slots.get(STEPS).offset as usize;
        m.state[at..at + 8].copy_from_slice(&(1 + rng.below(60) as u64).to_le_bytes());
        set_pc(&mut m, t, mark.imm);
        let mut apart = m.clone();
        run(interp, pieces, &mut apart, t);
        interp.run(&r, &mut m, t.slots);
        run(interp, pieces, &mut m, t);
        assert!(m.state == apart.state, "{:#x}\n{}", mark.imm, print::region(&r, t));
    }
    whole.entries.len()
}

#[test]
fn joined_pieces_do_what_they_do_alone() {
    let (slots, helpers) = (slots(), helpers());
    let t = Tables { slots: &slots, helpers: &helpers };
    let mut rng = Rng::new(77);
    let mut interp = Interp::new();
    let mut optimizer = Optimizer::new(PassSet::ALL);
    let mut sides = 0;
    for n in 0..300 {
        let count = 1 + rng.below(8);
        let pieces: Vec<Region> = (0..count).map(|p| piece(&mut rng, p, count)).collect();
        let whole = join(&pieces, Type::I64);
        verify::verify(&whole, t).unwrap_or_else(|e| panic!("{n}: {e}\n{}", print::region(&whole, t)));
        let mut better = whole.clone();
        optimizer.run(&mut better, t);
        for _ in 0..4 {
            let mut m = TestMachine::random(&mut rng, &slots);
            m.budget = i64::MAX;
            let at = slots.get(STEPS).offset as usize;
            m.state[at..at + 8].copy_from_slice(&(1 + rng.below(60) as u64).to_le_bytes());
            set_pc(&mut m, t, address(0));
            let (mut apart, mut joined, mut improved) = (m.clone(), m.clone(), m);
            run(&mut interp, &pieces, &mut apart, t);
            for (m, r) in [(&mut joined, &whole), (&mut improved, &better)] {
                let exit = interp.run(r, m, t.slots);
                assert!(matches!(exit, UnitExit::Link { .. } | UnitExit::Lookup), "{exit:?}");
                // It may be left for a piece that it holds, by a return that was not foreseen.
                run(&mut interp, &pieces, m, t);
                assert!(m.state == apart.state, "{n}\n{}", print::region(r, t));
            }
            sides += enter_at_sides(&mut interp, &pieces, &whole, &mut rng, t);
        }
    }
    assert!(sides > 300, "{sides}");
}

#[test]
fn loops_check_their_budget_and_nothing_else_does() {
    let (slots, helpers) = (slots(), helpers());
    let t = Tables { slots: &slots, helpers: &helpers };
    let region = |pc: u64, to: &[u64]| {
        let mut r = Region::default();
        let mut b = Builder::new(&mut r, pc);
        b.insn(pc, 4);
        b.budget(1);
        match to {
            [to] => b.link(*to, Hint::None),
            _ => {
                let c = b.get(x(0), Type::I64);
                let (then, other) = (b.new_block(), b.new_block());
                b.branch(c, then, other, false);
                b.switch_to(then);
                b.link(to[0], Hint::None);
                b.switch_to(other);
                b.link(to[1], Hint::None);
            }
        }
        b.set_extent(4, 1);
        r
    };
    // A diamond in a loop, and the way out.
    let pieces = [region(1, &[2, 3]), region(2, &[4]), region(3, &[4]), region(4, &[1, 9])];
    let whole = join(&pieces, Type::I64);
    verify::verify(&whole, t).unwrap();
    let checks: Vec<usize> = (0..whole.blocks.len())
        .filter(|b| whole.blocks[*b].insts.iter().any(|v| whole.inst(*v).op == Op::Budget))
        .collect();
    assert_eq!(checks, [1]);
    assert!(whole.entries.is_empty());
    let links: Vec<&Terminator> = whole
        .blocks
        .iter()
        .filter_map(|b| b.end.as_ref())
        .filter(|t| matches!(t, Terminator::Link { .. }))
        .collect();
    assert_eq!(links, [&Terminator::Link { pc: 9, hint: Hint::None }]);
    assert_eq!((whole.pc, whole.guest_insns), (1, 4));
}

#[test]
fn loops_and_returns_are_side_entries() {
    let (slots, helpers) = (slots(), helpers());
    let t = Tables { slots: &slots, helpers: &helpers };
    let region = |pc: u64, end: &dyn Fn(&mut Builder<'_>)| {
        let mut r = Region::default();
        let mut b = Builder::new(&mut r, pc);
        b.insn(pc, 4);
        b.budget(1);
        end(&mut b);
        b.set_extent(4, 1);
        r
    };
    // 1 calls 5, which returns behind that, to 2; 2 has a loop with 3.
    let pieces = [
        region(1, &|b| b.link(5, Hint::Call(2))),
        region(2, &|b| b.link(3, Hint::None)),
        region(3, &|b| {
            let c = b.get(x(0), Type::I64);
            let (then, other) = (b.new_block(), b.new_block());
            b.branch(c, then, other, false);
            b.switch_to(then);
            b.link(3, Hint::None);
            b.switch_to(other);
            b.link(1, Hint::None);
        }),
        region(5, &|b| {
            let to = b.get(BACK, Type::I64);
            b.indirect(to, Hint::Return);
        }),
    ];
    let whole = join(&pieces, Type::I64);
    verify::verify(&whole, t).unwrap();
    let sides = |r: &Region| -> Vec<u64> {
        r.entries.iter().map(|e| r.inst(r.blocks[e.0 as usize].insts[0]).imm).collect()
    };
    assert_eq!(sides(&whole), [2, 3]);
    let text = print::region(&whole, t);
    assert!(text.contains(" entry:\n"), "{text}");
    assert_eq!(tcg_ir::parse::region(&text, t).unwrap().entries, whole.entries);
    let mut better = whole.clone();
    Optimizer::new(PassSet::ALL).run(&mut better, t);
    assert_eq!(sides(&better), [2, 3], "they stay: {}", print::region(&better, t));
    assert!(better.blocks[0].insts.is_empty());
    // Nothing leads back to the first block, which stays apart from the entry all the same.
    let text = "region 0x1 len=0 insns=2\nb0:\n  jump b1\nb1:\n  insn 0x1 4\n  jump b2\nb2 entry:\n  insn 0x5 4\n  link 0x9\n";
    let mut open = tcg_ir::parse::region(text, t).unwrap();
    Optimizer::new(PassSet::ALL).run(&mut open, t);
    assert!(open.blocks[0].insts.is_empty());
    assert_eq!((sides(&open), open.blocks.len()), (vec![5], 3));
}
