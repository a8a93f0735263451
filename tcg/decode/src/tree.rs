//! From the pattern tree as written to the decision tree that the generated code follows.
//!
//! In a disjoint group the bits that every member fixes are looked at first, as windows of adjacent bits small
//! enough for a jump table; the window that tells most members apart goes first. An ordered group becomes a
//! sequence of tests. Bits already decided on the way down are never tested again.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::model::{Model, Node, Pattern, low_bits};

/// Widest window of a switch: the host's jump table has at most 256 entries.
const WINDOW: u32 = 8;

/// A decision tree.
#[derive(Debug)]
pub(crate) enum Tree<'a> {
    /// Selects on `len` bits from bit `shift`.
    Switch { shift: u32, len: u32, arms: Vec<(u64, Tree<'a>)> },
    /// Goes on only if the bits are right.
    Test { mask: u64, bits: u64, then: Box<Tree<'a>> },
    /// Tries one after the other until one accepts.
    Sequence(Vec<Tree<'a>>),
    /// Calls the pattern's function.
    Leaf(&'a Pattern),
}

/// Checks that members of disjoint groups cannot match the same word.
pub(crate) fn check_overlap(model: &Model, node: &Node) -> Result<(), Error> {
    match node {
        Node::Pattern(_) => Ok(()),
        Node::Ordered(members) => members.iter().try_for_each(|m| check_overlap(model, m)),
        Node::Disjoint(members) => {
            members.iter().try_for_each(|m| check_overlap(model, m))?;
            let mut seen: Vec<&Pattern> = Vec::new();
            for member in members {
                let mut found = Vec::new();
                member.each(&mut |p| found.push(p));
                for b in &found {
                    for a in &seen {
                        if (a.bits ^ b.bits) & a.mask & b.mask == 0 {
                            return Err(overlap(model, a, b));
                        }
                    }
                }
                seen.append(&mut found);
            }
            Ok(())
        }
    }
}

fn overlap(model: &Model, a: &Pattern, b: &Pattern) -> Error {
    let file = &model.files[b.place.file];
    let digits = (file.width / 4) as usize;
    let message = format!(
        "patterns `{}` (line {}) and `{}` (line {}) overlap: both match {:#0w$x}",
        a.name,
        a.place.line,
        b.name,
        b.place.line,
        a.bits | b.bits,
        w = digits + 2
    );
    Error::new(&file.path, b.place.line, message)
}

/// Builds the decision tree of `node` when the bits of `known` are already decided.
pub(crate) fn build(node: &Node, known: u64) -> Tree<'_> {
    match node {
        Node::Pattern(p) => test(p.mask & !known, p.bits, Tree::Leaf(p)),
        Node::Ordered(members) => {
            let (bits, mask) = node.common();
            let trees = members.iter().map(|m| build(m, known | mask)).collect();
            test(mask & !known, bits, sequence(trees))
        }
        Node::Disjoint(members) => {
            let mut flat = Vec::new();
            flatten(members, &mut flat);
            disjoint(&flat, known)
        }
    }
}

/// A disjoint group in a disjoint group makes no difference.
fn flatten<'a>(members: &'a [Node], flat: &mut Vec<&'a Node>) {
    for member in members {
        match member {
            Node::Disjoint(inner) => flatten(inner, flat),
            other => flat.push(other),
        }
    }
}

fn disjoint<'a>(members: &[&'a Node], known: u64) -> Tree<'a> {
    if let [only] = members {
        return build(only, known);
    }
    let common: Vec<(u64, u64)> = members.iter().map(|m| m.common()).collect();
    let inner = common.iter().fold(u64::MAX, |mask, c| mask & c.1) & !known;
    let Some((shift, len)) = best_window(inner, &common) else {
        // Either nothing is common (the order does not matter then, no two match), or all agree on it.
        if inner == 0 {
            return sequence(members.iter().map(|m| build(m, known)).collect());
        }
        return test(inner, common[0].0, disjoint(members, known | inner));
    };
    let mut arms: BTreeMap<u64, Vec<&'a Node>> = BTreeMap::new();
    for (member, c) in members.iter().zip(&common) {
        arms.entry(c.0 >> shift & low_bits(len)).or_default().push(member);
    }
    let known = known | low_bits(len) << shift;
    let arms = arms.into_iter().map(|(value, members)| (value, disjoint(&members, known))).collect();
    Tree::Switch { shift, len, arms }
}

/// The window of adjacent bits of `inner` with most distinct values, the narrowest of those.
fn best_window(inner: u64, common: &[(u64, u64)]) -> Option<(u32, u32)> {
    let mut best = None;
    let mut best_count = 1;
    for len in 1..=WINDOW {
        for shift in 0..=64 - len {
            if inner >> shift & low_bits(len) != low_bits(len) {
                continue;
            }
            let mut values: Vec<u64> = common.iter().map(|c| c.0 >> shift & low_bits(len)).collect();
            values.sort_unstable();
            values.dedup();
            if values.len() > best_count {
                best_count = values.len();
                best = Some((shift, len));
            }
        }
    }
    best
}

fn test(mask: u64, bits: u64, then: Tree<'_>) -> Tree<'_> {
    if mask == 0 {
        return then;
    }
    let bits = bits & mask;
    match then {
        Tree::Test { mask: m, bits: b, then } => Tree::Test { mask: mask | m, bits: bits | b, then },
        then => Tree::Test { mask, bits, then: Box::new(then) },
    }
}

fn sequence(trees: Vec<Tree<'_>>) -> Tree<'_> {
    let mut flat = Vec::new();
    for tree in trees {
        match tree {
            Tree::Sequence(inner) => flat.extend(inner),
            other => flat.push(other),
        }
    }
    if flat.len() == 1 { flat.remove(0) } else { Tree::Sequence(flat) }
}
