//! Passes: small rewrites of a region, each in its own file, each switchable by name.
//!
//! They run on every cold translation, so each is one walk over the schedule, in arrays indexed by value, slot or block
//! number that a [`Optimizer`] keeps from region to region. What a pass makes superfluous becomes a `nop`; `dce` takes
//! those out of the schedule.
//!
//! What passes must leave alone: the order of operations that may leave the unit; a `set` that such an operation can
//! observe (the back end keeps its exit maps from the program order of sets); operations that raise floating-point
//! exceptions, unless the same exceptions are raised anyway; marks.

mod address;
mod branch;
mod cse;
mod dce;
mod deadset;
mod flags;
mod fold;
mod forward;
mod simplify;

use thiserror::Error;

use crate::graph::Graph;
use crate::{Inst, Op, Region, Tables, Terminator, Type, Value};

/// A pass.
#[derive(Debug, Clone, Copy)]
pub struct Pass {
    /// Name in `passes=` and in messages.
    pub name: &'static str,
    /// Rewrites a region whose blocks can all be reached; true if it changed edges or blocks.
    pub run: fn(&mut Region, &mut Scratch, Tables<'_>) -> bool,
}

/// All passes in the order they run.
pub const PASSES: &[Pass] = &[
    Pass { name: "forward", run: forward::run },
    Pass { name: "fold", run: fold::run },
    Pass { name: "flags", run: flags::run },
    Pass { name: "address", run: address::run },
    Pass { name: "cse", run: cse::run },
    Pass { name: "branch", run: branch::run },
    Pass { name: "deadset", run: deadset::run },
    Pass { name: "dce", run: dce::run },
];

/// Buffers of the passes.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Control flow of the region; up to date when a pass starts.
    pub(crate) graph: Graph,
    /// What stands for a value, by value.
    repl: Vec<Value>,
    /// A word by value.
    words: Vec<u32>,
    /// A block's new schedule.
    out: Vec<Value>,
    /// A value by slot.
    slot_values: Vec<Value>,
    /// A value by block and slot.
    block_slots: Vec<Value>,
    /// A word by slot or block.
    stamps: Vec<u32>,
    /// A value by hash.
    table: Vec<u32>,
}

impl Scratch {
    /// Lets each value stand for itself.
    fn reset_repl(&mut self, n: usize) {
        self.repl.clear();
        self.repl.extend((0..n as u32).map(Value));
    }
}

/// Which passes run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassSet(u32);

/// A name in a list of passes that is none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{name}` is no pass; there are: {known}")]
pub struct UnknownPass {
    /// The name.
    pub name: String,
    /// The names there are.
    pub known: String,
}

impl PassSet {
    /// Every pass.
    pub const ALL: Self = Self((1 << PASSES.len()) - 1);
    /// No pass.
    pub const NONE: Self = Self(0);

    /// True if pass number `i` runs.
    #[must_use]
    pub const fn contains(self, i: usize) -> bool {
        self.0 >> i & 1 != 0
    }

    /// The set with pass number `i` alone.
    #[must_use]
    pub const fn only(i: usize) -> Self {
        Self(1 << i & Self::ALL.0)
    }
}

impl Default for PassSet {
    fn default() -> Self {
        Self::ALL
    }
}

/// `-dce,-cse`: all but these; `none,dce`: this alone. Names are separated by commas or colons.
impl std::str::FromStr for PassSet {
    type Err = UnknownPass;

    fn from_str(s: &str) -> Result<Self, UnknownPass> {
        let mut set = Self::ALL.0;
        for item in s.split([',', ':']).filter(|i| !i.is_empty()) {
            match item {
                "all" => set = Self::ALL.0,
                "none" => set = 0,
                _ => {
                    let name = item.trim_start_matches(['-', '+']);
                    let Some(i) = PASSES.iter().position(|p| p.name == name) else {
                        let known = PASSES.iter().map(|p| p.name).collect::<Vec<_>>().join(", ");
                        return Err(UnknownPass { name: name.into(), known });
                    };
                    if item.starts_with('-') {
                        set &= !(1 << i);
                    } else {
                        set |= 1 << i;
                    }
                }
            }
        }
        Ok(Self(set))
    }
}

/// Runs the passes of a set.
#[derive(Debug, Default)]
pub struct Optimizer {
    set: PassSet,
    scratch: Scratch,
}

impl Optimizer {
    /// An optimizer that runs `set`.
    #[must_use]
    pub fn new(set: PassSet) -> Self {
        Self { set, scratch: Scratch::default() }
    }

    /// Rewrites a verified region. Blocks that cannot be reached are removed if any pass runs.
    ///
    /// Builds with debug assertions verify before the first and after each pass, and panic with the name of the pass
    /// that broke a rule.
    pub fn run(&mut self, r: &mut Region, t: Tables<'_>) {
        check(r, t, "the front end");
        if self.set == PassSet::NONE {
            return;
        }
        let s = &mut self.scratch;
        s.graph.build(r);
        branch::remove_unreachable(r, s);
        for (i, pass) in PASSES.iter().enumerate() {
            if self.set.contains(i) {
                if (pass.run)(r, s, t) {
                    s.graph.build(r);
                }
                check(r, t, pass.name);
            }
        }
    }
}

fn check(r: &Region, t: Tables<'_>, after: &str) {
    if cfg!(debug_assertions)
        && let Err(e) = crate::verify::verify(r, t)
    {
        panic!("after {after}: {e}\n{}", crate::print::region(r, t));
    }
}

/// The first `n` entries, all `with`.
fn filled<T: Copy>(v: &mut Vec<T>, n: usize, with: T) -> &mut [T] {
    if v.len() < n {
        v.resize(n, with);
    }
    let v = &mut v[..n];
    v.fill(with);
    v
}

/// An instruction that does nothing.
const NOP: Inst =
    Inst { op: Op::Nop, ty: Type::Void, sub: 0, a: Value::NONE, b: Value::NONE, c: Value::NONE, imm: 0 };

/// Puts the values that stand for them in place of an instruction's operands.
#[inline]
fn resolve(r: &mut Region, repl: &[Value], v: Value) {
    let i = &mut r.insts[v.index()];
    match i.op.info().args {
        0 if i.op == Op::Call => {
            let (first, n) = (i.a.index(), i.b.index());
            for o in &mut r.lists[first..first + n] {
                *o = repl[o.index()];
            }
        }
        0 => {}
        1 => i.a = repl[i.a.index()],
        2 => {
            i.a = repl[i.a.index()];
            i.b = repl[i.b.index()];
        }
        _ => {
            i.a = repl[i.a.index()];
            i.b = repl[i.b.index()];
            i.c = repl[i.c.index()];
        }
    }
}

/// Calls `f` on each value a terminator uses.
fn for_each_operand(end: &mut Terminator, mut f: impl FnMut(&mut Value)) {
    match end {
        Terminator::Jump(e) => e.args.iter_mut().for_each(f),
        Terminator::Branch { cond, then, other, .. } => {
            f(cond);
            then.args.iter_mut().chain(&mut other.args).for_each(f);
        }
        Terminator::Indirect { pc, .. } => f(pc),
        _ => {}
    }
}

/// The same for the terminator of block `b`.
fn resolve_end(r: &mut Region, repl: &[Value], b: usize) {
    if let Some(end) = &mut r.blocks[b].end {
        for_each_operand(end, |v| *v = repl[v.index()]);
    }
}
