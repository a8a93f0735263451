//! Reads the text form of a region (`docs/ir.md`): the inverse of [`crate::print`].
//!
//! Values keep their numbers (those nobody defines become `nop`s) and instructions without a result are numbered above
//! them, so what is read prints as it was. The parser checks the syntax alone: run the verifier over what it returns.

use thiserror::Error;

use crate::print::{Tables, WIDEN, flag_name, is_scalar_fp, is_vecfn, is_vector};
use crate::{
    Align, Atomicity, Block, BlockId, Cond, Edge, Effect, FCond, FlagKind, FpAttr, Hint, Inst, IntConv, Lane,
    MemOp, MinMax, NanPolicy, Op, Order, Region, RmwOp, Rounding, Terminator, Type, Value, VecFn,
};

/// What is wrong in a text, and where.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line}, column {column}: {message}")]
pub struct ParseError {
    /// From 1.
    pub line: usize,
    /// From 1, in bytes.
    pub column: usize,
    /// What was expected or is unknown.
    pub message: String,
}

type Result<T> = std::result::Result<T, ParseError>;

/// Largest value number a text may use: bounds what a malformed text can allocate.
const MAX_VALUES: u32 = 1 << 20;

/// Reads a region. Empty lines and everything after `;` in a line are skipped.
pub fn region(text: &str, t: Tables<'_>) -> Result<Region> {
    let mut r = Region::default();
    let mut voids = Vec::new();
    let mut head = false;
    for (n, line) in text.lines().enumerate() {
        let code = line.split(';').next().unwrap_or("");
        let mut c = Cursor { text: code, at: 0, line: n + 1 };
        c.space();
        if c.done() {
            continue;
        }
        if !head {
            c.word("region")?;
            r.pc = c.number()?;
            c.word("len=")?;
            r.guest_len = c.number()? as u32;
            c.word("insns=")?;
            r.guest_insns = c.number()? as u32;
            head = true;
        } else if !code.starts_with([' ', '\t']) {
            block_head(&mut c, &mut r, &mut voids)?;
        } else {
            let Some(block) = r.blocks.last_mut() else {
                return c.fail("expected a block head such as `b0:`");
            };
            if block.end.is_some() {
                return c.fail("the block has its terminator already");
            }
            match terminator(&mut c)? {
                Some(end) => block.end = Some(end),
                None => instruction(&mut c, &mut r, &mut voids, t)?,
            }
        }
        c.space();
        if !c.done() {
            return c.fail("expected the end of the line");
        }
    }
    for i in r.insts.iter_mut().filter(|i| **i == FREE) {
        i.sub = 0;
    }
    let first = r.insts.len() as u32;
    r.insts.append(&mut voids);
    for v in r.blocks.iter_mut().flat_map(|b| &mut b.insts).filter(|v| v.0 >= VOID) {
        v.0 = first + (v.0 - VOID);
    }
    Ok(r)
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn done(&self) -> bool {
        self.rest().is_empty()
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(ParseError { line: self.line, column: self.at + 1, message: message.into() })
    }

    fn space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    /// Takes `s` if it is next, after blanks.
    fn eat(&mut self, s: &str) -> bool {
        self.space();
        let yes = self.rest().starts_with(s);
        if yes {
            self.at += s.len();
        }
        yes
    }

    fn word(&mut self, s: &str) -> Result<()> {
        if self.eat(s) { Ok(()) } else { self.fail(format!("expected `{s}`")) }
    }

    /// Letters, digits, `_`, `-`; may be empty.
    fn name(&mut self) -> &'a str {
        let rest = self.rest();
        let end =
            rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-')).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// A decimal or `0x` number.
    fn number(&mut self) -> Result<u64> {
        self.space();
        let start = self.at;
        let name = self.name();
        let n = match name.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => name.parse(),
        };
        n.or_else(|_| {
            self.at = start;
            self.fail("expected a number")
        })
    }

    /// A number after a letter, such as `v12`.
    fn numbered(&mut self, letter: char, what: &str) -> Result<u32> {
        self.space();
        let rest = self.rest();
        let digits = rest.strip_prefix(letter).unwrap_or("");
        let digits = &digits[..digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len())];
        match digits.parse::<u32>() {
            Ok(n) if n < MAX_VALUES => {
                self.at += 1 + digits.len();
                Ok(n)
            }
            _ => self.fail(format!("expected {what}")),
        }
    }

    fn value(&mut self) -> Result<Value> {
        self.numbered('v', "a value such as `v3`").map(Value)
    }

    fn values(&mut self) -> Result<Vec<Value>> {
        let mut list = Vec::new();
        if self.eat("(") {
            loop {
                list.push(self.value()?);
                if !self.eat(",") {
                    break;
                }
            }
            self.word(")")?;
        }
        Ok(list)
    }

    fn edge(&mut self) -> Result<Edge> {
        let block = BlockId(self.numbered('b', "a block such as `b2`")?);
        Ok(Edge { block, args: self.values()? })
    }

    /// One of the names `of` gives numbers to, at the current position.
    fn named<T: Copy>(&mut self, all: &[T], name: impl Fn(T) -> &'static str, what: &str) -> Result<T> {
        let start = self.at;
        let text = self.name();
        match all.iter().find(|x| name(**x) == text) {
            Some(x) => Ok(*x),
            None => {
                self.at = start;
                self.fail(format!("`{text}` is no {what}"))
            }
        }
    }

    fn ty(&mut self) -> Result<Type> {
        self.named(&Type::ALL, Type::name, "type")
    }

    fn cond(&mut self) -> Result<Cond> {
        self.named(Cond::ALL, Cond::name, "condition")
    }

    fn dot(&mut self) -> Result<()> {
        if self.rest().starts_with('.') {
            self.at += 1;
            return Ok(());
        }
        self.fail("expected `.`")
    }
}

/// Numbers of instructions without a result while the text is read: the text does not show any.
const VOID: u32 = 1 << 31;

const FREE: Inst = Inst {
    op: Op::Nop,
    ty: Type::Void,
    sub: u16::MAX,
    a: Value::NONE,
    b: Value::NONE,
    c: Value::NONE,
    imm: 0,
};

/// Puts `inst` into the current block, as value `v` if it has a result. A value is defined once.
fn define(c: &Cursor<'_>, r: &mut Region, voids: &mut Vec<Inst>, v: Option<Value>, inst: Inst) -> Result<()> {
    let v = if let Some(v) = v {
        if r.insts.len() <= v.index() {
            r.insts.resize(v.index() + 1, FREE);
        }
        if r.insts[v.index()] != FREE {
            return c.fail(format!("v{} is defined twice", v.0));
        }
        r.insts[v.index()] = inst;
        v
    } else {
        voids.push(inst);
        Value(VOID + voids.len() as u32 - 1)
    };
    if let Some(b) = r.blocks.last_mut() {
        b.insts.push(v);
    }
    Ok(())
}

fn block_head(c: &mut Cursor<'_>, r: &mut Region, voids: &mut Vec<Inst>) -> Result<()> {
    let n = c.numbered('b', "a block head such as `b0:`")?;
    if n as usize != r.blocks.len() {
        return c.fail(format!("expected block b{}", r.blocks.len()));
    }
    r.blocks.push(Block { insts: Vec::new(), params: 0, end: None });
    let mut params = 0u32;
    if c.eat("(") {
        loop {
            let v = c.value()?;
            c.word(":")?;
            c.space();
            let ty = c.ty()?;
            let none = Value::NONE;
            let inst = Inst { op: Op::Nop, ty, sub: params as u16, a: none, b: none, c: none, imm: 0 };
            define(c, r, voids, Some(v), inst)?;
            params += 1;
            if !c.eat(",") {
                break;
            }
        }
        c.word(")")?;
    }
    if let Some(b) = r.blocks.last_mut() {
        b.params = params;
    }
    if c.eat("entry") {
        r.entries.push(BlockId(n));
    }
    c.word(":")
}

fn terminator(c: &mut Cursor<'_>) -> Result<Option<Terminator>> {
    let start = c.at;
    let hint = |c: &mut Cursor<'_>| -> Result<Hint> {
        if c.eat("call=") {
            return Ok(Hint::Call(c.number()?));
        }
        Ok(if c.eat("return") { Hint::Return } else { Hint::None })
    };
    Ok(Some(match c.name() {
        "jump" => Terminator::Jump(c.edge()?),
        "br" => {
            let cond = c.value()?;
            c.word(",")?;
            let then = c.edge()?;
            c.word(",")?;
            let other = c.edge()?;
            Terminator::Branch { cond, then, other, likely_then: c.eat("likely") }
        }
        "link" => Terminator::Link { pc: c.number()?, hint: hint(c)? },
        "indirect" => Terminator::Indirect { pc: c.value()?, hint: hint(c)? },
        "lookup" => Terminator::Lookup,
        "exit" => Terminator::Exit { code: c.number()? as u32 },
        _ => {
            c.at = start;
            return Ok(None);
        }
    }))
}

fn instruction(c: &mut Cursor<'_>, r: &mut Region, voids: &mut Vec<Inst>, t: Tables<'_>) -> Result<()> {
    let start = c.at;
    let mut defined = None;
    if let Ok(v) = c.value() {
        c.word("=")?;
        c.space();
        defined = Some(v);
    } else {
        c.at = start;
    }
    let op = c.named(Op::ALL, |o| o.info().name, "operation")?;
    let none = Value::NONE;
    let mut i = Inst { op, ty: Type::Void, sub: 0, a: none, b: none, c: none, imm: 0 };
    if op == Op::Flags {
        i.ty = Type::Flags;
    } else if defined.is_some() {
        c.dot()?;
        i.ty = c.ty()?;
    }
    suffix(c, &mut i)?;
    body(c, r, t, &mut i)?;
    define(c, r, voids, defined, i)
}

fn suffix(c: &mut Cursor<'_>, i: &mut Inst) -> Result<()> {
    match i.op {
        Op::Setcc | Op::FlagCond => {
            c.dot()?;
            i.sub = c.cond()? as u16;
        }
        Op::Flags => {
            c.dot()?;
            let kind = c.named(FlagKind::ALL, FlagKind::name, "kind of flag record")?;
            c.dot()?;
            i.sub = kind as u16 | (c.ty()? as u16) << 8;
        }
        Op::Rmw => {
            c.dot()?;
            i.sub = c.named(RmwOp::ALL, RmwOp::name, "read-modify-write operation")? as u16;
        }
        Op::Fsgnj => {
            c.dot()?;
            i.sub = c.named(&[0u16, 1, 2], |n| ["copy", "neg", "xor"][n as usize], "sign rule")?;
        }
        op if is_scalar_fp(op) => i.sub = fp_attr(c, op)?.0,
        op if is_vector(op) => {
            c.dot()?;
            i.sub = c.named(Lane::ALL, Lane::name, "lane")? as u16;
            if op == Op::Vcmp {
                c.dot()?;
                i.sub |= (c.cond()? as u16) << 8;
            }
            if op == Op::Vreduce {
                c.dot()?;
                i.sub |= (c.named(RmwOp::ALL, RmwOp::name, "combination")? as u16) << 8;
            }
            if op == Op::Vwiden {
                c.dot()?;
                i.sub |= c.named(&[0u16, 1, 2, 3], |n| WIDEN[n as usize], "half and signedness")? << 8;
            }
            if is_vecfn(op) {
                c.dot()?;
                i.sub |= (c.named(VecFn::ALL, VecFn::name, "vector function")? as u16) << 8;
            }
            if op.info().effect == Effect::Fp {
                i.imm = u64::from(fp_attr(c, op)?.0);
            }
        }
        _ => {}
    }
    Ok(())
}

fn fp_attr(c: &mut Cursor<'_>, op: Op) -> Result<FpAttr> {
    let mut a = FpAttr(0);
    match op {
        Op::Fcmp | Op::Vfcmp => {
            c.dot()?;
            a = a.with_variant(c.named(FCond::ALL, FCond::name, "comparison")? as u16);
        }
        Op::Fmin | Op::Fmax | Op::Vfmin | Op::Vfmax => {
            c.dot()?;
            let names = |m: MinMax| ["mm-num", "mm-nan", "mm-x86"][m as usize];
            a = a.with_variant(c.named(MinMax::ALL, names, "minimum rule")? as u16);
        }
        Op::Ftoi | Op::Vftoi => {
            c.dot()?;
            let names = |m: IntConv| ["to-satmax", "to-sat0", "to-indef"][m as usize];
            a = a.with_variant(c.named(IntConv::ALL, names, "out-of-range rule")? as u16);
        }
        _ => {}
    }
    while c.rest().starts_with('.') {
        c.at += 1;
        let start = c.at;
        let name = c.name();
        a = match name {
            "tiny" => a.with_tiny_before(),
            "ftz" => FpAttr(a.0 | 1 << 7),
            "daz" => FpAttr(a.0 | 1 << 8),
            "quiet" => a.with_quiet(),
            "np" => FpAttr(a.0 | 1 << 10),
            "na" => FpAttr(a.0 | 1 << 11),
            _ if name == flag_name(op) => a.with_flag(true),
            _ => {
                let nan = name.strip_prefix("nan-");
                let nan = nan.and_then(|n| NanPolicy::ALL.iter().find(|p| p.name() == n));
                let rounding = Rounding::ALL.iter().find(|r| r.name() == name);
                match (nan, rounding) {
                    (Some(n), _) => a.with_nan(*n),
                    (_, Some(r)) => a.with_rounding(*r),
                    _ => {
                        c.at = start;
                        return c.fail(format!("`{name}` is no floating-point attribute"));
                    }
                }
            }
        };
    }
    Ok(a)
}

/// `[v3+8] ld8.s.al`
fn memory(c: &mut Cursor<'_>, i: &mut Inst) -> Result<()> {
    c.word("[")?;
    i.a = c.value()?;
    let mut disp = 0i64;
    let sign = if c.eat("+") { 1 } else { -i64::from(c.eat("-")) };
    if sign != 0 {
        disp = sign * i64::from(c.number()? as u32);
    }
    c.word("]")?;
    c.word(match i.op {
        Op::Load => "ld",
        Op::Store => "st",
        _ => "rw",
    })?;
    let start = c.at;
    let bytes = c.number()?;
    if !bytes.is_power_of_two() || bytes > 64 {
        c.at = start;
        return c.fail("an access has 1, 2, 4, 8, 16, 32 or 64 bytes");
    }
    let mut m = MemOp::new(bytes.trailing_zeros());
    while c.rest().starts_with('.') {
        c.at += 1;
        let start = c.at;
        let name = c.name();
        m = match name {
            "s" => m.with_sign(),
            "be" => m.with_big_endian(),
            "ram" => m.with_never_device(),
            "nt" => m.with_non_temporal(),
            _ => {
                let align = Align::ALL.iter().find(|x| x.name() == name);
                let atomicity = Atomicity::ALL.iter().find(|x| x.name() == name);
                let order = Order::ALL.iter().find(|x| x.name() == name);
                let mmu = name.strip_prefix('m').and_then(|n| n.parse::<usize>().ok());
                match (align, atomicity, order, mmu) {
                    (Some(a), ..) => m.with_align(*a),
                    (_, Some(a), ..) => m.with_atomicity(*a),
                    (_, _, Some(o), _) => m.with_order(*o),
                    (.., Some(n)) if n < 16 => m.with_mmu(n),
                    _ => {
                        c.at = start;
                        return c.fail(format!("`{name}` is no memory attribute"));
                    }
                }
            }
        };
    }
    i.imm = u64::from(m.0) | u64::from(disp as u32) << 32;
    Ok(())
}

fn body(c: &mut Cursor<'_>, r: &mut Region, t: Tables<'_>, i: &mut Inst) -> Result<()> {
    match i.op {
        Op::Nop | Op::Fexget => {}
        Op::Insn => {
            i.imm = c.number()?;
            i.sub = c.number()? as u16;
        }
        Op::Budget | Op::Const | Op::Pc => i.imm = c.number()?,
        Op::Fence => i.sub = c.number()? as u16,
        Op::Get | Op::Set => {
            c.space();
            let start = c.at;
            let name = c.name();
            let Some(slot) = t.slots.find(name) else {
                c.at = start;
                return c.fail(format!("`{name}` is no slot"));
            };
            i.sub = slot.0;
            if i.op == Op::Set {
                c.word(",")?;
                i.a = c.value()?;
            }
        }
        Op::Call => {
            c.space();
            let start = c.at;
            let name = c.name();
            let Some(helper) = t.helpers.iter().position(|h| h.name == name) else {
                c.at = start;
                return c.fail(format!("`{name}` is no helper"));
            };
            let args = c.values()?;
            i.sub = helper as u16;
            (i.a, i.b) = (Value(r.lists.len() as u32), Value(args.len() as u32));
            r.lists.extend(args);
        }
        Op::Load | Op::Store | Op::Rmw | Op::Cas => {
            memory(c, i)?;
            let n = i.op.info().args;
            for v in [&mut i.b, &mut i.c].into_iter().take(n as usize - 1) {
                c.word(",")?;
                *v = c.value()?;
            }
        }
        _ => {
            let n = i.op.info().args as usize;
            for (k, v) in [&mut i.a, &mut i.b, &mut i.c].into_iter().take(n).enumerate() {
                if k > 0 {
                    c.word(",")?;
                }
                *v = c.value()?;
            }
            match i.op {
                Op::Extract | Op::Sextract | Op::Deposit => {
                    c.word(",")?;
                    let pos = c.number()?;
                    c.word(",")?;
                    i.imm = pos & 0xff | (c.number()? & 0xff) << 8;
                }
                Op::Vshli
                | Op::Vshri
                | Op::Vsari
                | Op::Vextract
                | Op::Vinsert
                | Op::Vpart
                | Op::Vfn1
                | Op::Vfn2
                | Op::Vfn3 => {
                    c.word(",")?;
                    i.imm = c.number()?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}
