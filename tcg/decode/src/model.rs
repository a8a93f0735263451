//! What a parsed set of `.decode` files is made of: fields, argument sets, formats, patterns and groups.
//!
//! Masks are over the instruction word, bit 0 the least significant; words up to 64 bits are held in `u64`.

use std::collections::BTreeMap;

/// Place of a definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Place {
    /// Index of the file in [`Model::files`].
    pub(crate) file: usize,
    /// 1-based line.
    pub(crate) line: usize,
}

/// One piece of a field's value, most significant piece first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Segment {
    /// `len` bits of the instruction from bit `pos`.
    Bits { pos: u32, len: u32, signed: bool },
    /// The low `len` bits of another field of the same pattern.
    Named { name: String, len: u32, signed: bool },
}

impl Segment {
    pub(crate) fn len(&self) -> u32 {
        match self {
            Segment::Bits { len, .. } | Segment::Named { len, .. } => *len,
        }
    }
}

/// How one argument gets its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// `name=number`.
    Const(i64),
    /// Segments, then the function if there is one. No segments: the function takes no input.
    Field { segments: Vec<Segment>, function: Option<String> },
}

impl Value {
    /// Instruction bits the value is made of.
    pub(crate) fn mask(&self) -> u64 {
        match self {
            Value::Const(_) => 0,
            Value::Field { segments, .. } => segments
                .iter()
                .map(|s| match s {
                    Segment::Bits { pos, len, .. } => low_bits(*len) << pos,
                    Segment::Named { .. } => 0,
                })
                .fold(0, |a, b| a | b),
        }
    }
}

/// A mask of the low `len` bits, `len` 1 to 64.
pub(crate) fn low_bits(len: u32) -> u64 {
    if len >= 64 { u64::MAX } else { (1 << len) - 1 }
}

/// `%name`.
#[derive(Debug, Clone)]
pub(crate) struct FieldDef {
    pub(crate) place: Place,
    pub(crate) value: Value,
    pub(crate) used: bool,
}

/// `&name`: the argument struct that a pattern's function receives.
#[derive(Debug, Clone)]
pub(crate) struct ArgSet {
    pub(crate) place: Place,
    /// Names and Rust types, in order of declaration.
    pub(crate) args: Vec<(String, String)>,
    pub(crate) used: bool,
}

/// What formats and patterns have in common.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shape {
    pub(crate) fixed_bits: u64,
    pub(crate) fixed_mask: u64,
    /// Bits marked `-`: not looked at.
    pub(crate) ignored_mask: u64,
    pub(crate) values: BTreeMap<String, Value>,
    pub(crate) args: Option<String>,
}

impl Shape {
    pub(crate) fn field_mask(&self) -> u64 {
        self.values.values().map(Value::mask).fold(0, |a, b| a | b)
    }
}

/// `@name`.
#[derive(Debug, Clone)]
pub(crate) struct Format {
    pub(crate) place: Place,
    pub(crate) shape: Shape,
    pub(crate) used: bool,
}

/// A pattern with its format merged in and its argument set known.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    pub(crate) place: Place,
    pub(crate) name: String,
    pub(crate) bits: u64,
    pub(crate) mask: u64,
    pub(crate) values: BTreeMap<String, Value>,
    /// Values in an order in which named fields are computed before their users.
    pub(crate) order: Vec<String>,
    pub(crate) args: String,
}

/// A node of the pattern tree as written.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    /// One pattern.
    Pattern(Pattern),
    /// `[ ]` or the file itself: members match disjoint sets of words.
    Disjoint(Vec<Node>),
    /// `{ }`: members are tried in order.
    Ordered(Vec<Node>),
}

impl Node {
    /// Bits and mask that every pattern below has in common.
    pub(crate) fn common(&self) -> (u64, u64) {
        match self {
            Node::Pattern(p) => (p.bits, p.mask),
            Node::Disjoint(members) | Node::Ordered(members) => members
                .iter()
                .map(Node::common)
                .reduce(|(ab, am), (bb, bm)| {
                    let mask = am & bm & !(ab ^ bb);
                    (ab & mask, mask)
                })
                .unwrap_or((0, 0)),
        }
    }

    /// Calls `f` for every pattern below, in order of the file.
    pub(crate) fn each<'a>(&'a self, f: &mut impl FnMut(&'a Pattern)) {
        match self {
            Node::Pattern(p) => f(p),
            Node::Disjoint(members) | Node::Ordered(members) => members.iter().for_each(|m| m.each(f)),
        }
    }
}

/// One input file: a decode function.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) path: String,
    /// Name of the generated function.
    pub(crate) function: String,
    /// Bits of an instruction word: 8, 16, 32 or 64.
    pub(crate) width: u32,
    pub(crate) root: Node,
}

/// Everything that was read.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) files: Vec<File>,
    pub(crate) args: BTreeMap<String, ArgSet>,
}
