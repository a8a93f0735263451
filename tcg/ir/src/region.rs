//! Regions: the unit of translation.
//!
//! A region is a control-flow graph with an entry, block 0; it may have side entries. Values are numbered by the instruction that defines
//! them; a value may be used in its own block and in every block it dominates. Block parameters are the first
//! instructions of their block's list (`Op::Nop` with `ty` not void and `sub` = parameter number).

use crate::{MemOp, Op, SlotId, Type};

/// A value: the number of the instruction that defines it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(pub u32);

impl Value {
    /// No value: an operand that is not used.
    pub const NONE: Self = Self(u32::MAX);

    /// Index of the defining instruction.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A block of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u32);

/// One operation; 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inst {
    /// What it does.
    pub op: Op,
    /// Type of the result.
    pub ty: Type,
    /// Attribute: slot, condition, `FpAttr`, helper, lane; see the op table.
    pub sub: u16,
    /// First operand.
    pub a: Value,
    /// Second operand.
    pub b: Value,
    /// Third operand.
    pub c: Value,
    /// Immediate; see the op table.
    pub imm: u64,
}

impl Inst {
    /// The memory attributes of a load, store or atomic.
    #[must_use]
    pub const fn memop(&self) -> MemOp {
        MemOp(self.imm as u32)
    }

    /// The displacement of a load, store or atomic.
    #[must_use]
    pub const fn disp(&self) -> i32 {
        (self.imm >> 32) as i32
    }

    /// The slot of a `get` or `set`.
    #[must_use]
    pub const fn slot(&self) -> SlotId {
        SlotId(self.sub)
    }
}

/// Where control goes inside a region: a block and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// The block.
    pub block: BlockId,
    /// One value a parameter.
    pub args: Vec<Value>,
}

impl Edge {
    /// An edge without arguments.
    #[must_use]
    pub const fn to(block: BlockId) -> Self {
        Self { block, args: Vec::new() }
    }
}

/// What a front end knows about a jump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hint {
    /// Nothing.
    #[default]
    None,
    /// A call: the matching return will go to this guest address.
    Call(u64),
    /// A return.
    Return,
}

/// How a block ends. Exactly one a block.
///
/// `Link`, `Indirect` and `Lookup` leave the region with guest state complete and the pc slot set by the
/// terminator; a front end does not `set` the pc before them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Terminator {
    /// To another block.
    Jump(Edge),
    /// `then` if `cond` is not zero, else `other`.
    Branch {
        /// An integer.
        cond: Value,
        /// Where to if it is not zero.
        then: Edge,
        /// Where to if it is zero.
        other: Edge,
        /// True if `then` is the likelier, false if `other` is or nothing is known.
        likely_then: bool,
    },
    /// To the unit at guest address `pc` under an unchanged key: chained directly once that unit is known. The engine
    /// decides whether a link may cross a page.
    Link {
        /// Guest address.
        pc: u64,
        /// What the front end knows.
        hint: Hint,
    },
    /// To the unit at the guest address in `pc` (i32 or i64) under an unchanged key, through the indirect cache.
    Indirect {
        /// Guest address.
        pc: Value,
        /// What the front end knows.
        hint: Hint,
    },
    /// To whatever the state now says: the key may have changed. The pc slot must have been `set`.
    Lookup,
    /// Back to the engine with an exit code the guest crate defines (for example: wait for interrupt). The pc slot must
    /// have been `set`.
    Exit {
        /// The code.
        code: u32,
    },
}

impl Terminator {
    /// Edges to other blocks of the region.
    pub fn edges(&self) -> impl Iterator<Item = &Edge> {
        let (a, b) = match self {
            Self::Jump(e) => (Some(e), None),
            Self::Branch { then, other, .. } => (Some(then), Some(other)),
            _ => (None, None),
        };
        a.into_iter().chain(b)
    }
}

/// A basic block: a range of the region's schedule and a terminator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Instructions in order of execution.
    pub insts: Vec<Value>,
    /// Number of parameters; they are the first so many of `insts`.
    pub params: u32,
    /// How it ends; `None` only while it is being built.
    pub end: Option<Terminator>,
}

/// A unit of translation.
#[derive(Debug, Clone, Default)]
pub struct Region {
    /// Guest address of the entry.
    pub pc: u64,
    /// Guest bytes covered, from `pc` on; 0 if nothing was translated.
    pub guest_len: u32,
    /// Guest instructions translated.
    pub guest_insns: u32,
    /// All instructions; values index into it.
    pub insts: Vec<Inst>,
    /// Blocks; 0 is the entry.
    pub blocks: Vec<Block>,
    /// Side entries: blocks where control may come in from outside as well, as if block 0 led to them too. None has parameters.
    pub entries: Vec<BlockId>,
    /// Operand lists of calls.
    pub lists: Vec<Value>,
    /// Schedules of blocks that are gone, for their allocations.
    spare: Spare,
}

/// Empty vectors; a copy has none.
#[derive(Debug, Default)]
struct Spare(Vec<Vec<Value>>);

impl Clone for Spare {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Region {
    /// The instruction that defines `v`.
    #[must_use]
    pub fn inst(&self, v: Value) -> &Inst {
        &self.insts[v.index()]
    }

    /// Operands of `inst` in order (calls: their list).
    pub fn operands(&self, inst: &Inst) -> impl Iterator<Item = Value> + '_ {
        let list: &[Value] = if inst.op == Op::Call {
            &self.lists[inst.a.index()..inst.a.index() + inst.b.index()]
        } else {
            &[]
        };
        let n = inst.op.info().args as usize;
        [inst.a, inst.b, inst.c].into_iter().take(n).chain(list.iter().copied())
    }

    /// The value if `v` is a constant integer.
    #[must_use]
    pub fn as_const(&self, v: Value) -> Option<u64> {
        let i = self.inst(v);
        (i.op == Op::Const).then_some(i.imm)
    }

    /// The number of `block`'s link in the unit: links are counted in the order of their blocks.
    #[must_use]
    pub fn link_index(&self, block: BlockId) -> u32 {
        let before = self.blocks.iter().take(block.0 as usize);
        before.filter(|b| matches!(b.end, Some(Terminator::Link { .. }))).count() as u32
    }

    /// Appends an empty block.
    pub fn add_block(&mut self) -> BlockId {
        let insts = self.spare.0.pop().unwrap_or_default();
        self.blocks.push(Block { insts, params: 0, end: None });
        BlockId(self.blocks.len() as u32 - 1)
    }

    /// Empties the region and keeps its allocations.
    pub fn clear(&mut self) {
        self.pc = 0;
        self.guest_len = 0;
        self.guest_insns = 0;
        self.insts.clear();
        self.entries.clear();
        for block in self.blocks.drain(..) {
            let mut insts = block.insts;
            if insts.capacity() > 0 && self.spare.0.len() < 64 {
                insts.clear();
                self.spare.0.push(insts);
            }
        }
        self.lists.clear();
    }
}
