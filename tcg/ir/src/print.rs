//! The text form of a region. The syntax is in `docs/ir.md`, the parser in [`crate::parse`].
//!
//! Printing never fails: what no table names (a slot or helper outside its table) is printed as a number.

use std::fmt::Write;

use crate::{
    BlockId, Cond, Edge, FCond, FlagKind, FpAttr, HelperDesc, Hint, Inst, IntConv, Lane, MemOp, MinMax,
    NanPolicy, Op, Region, Rounding, SlotTable, Terminator, Type, Value,
};

/// The tables of a guest that a region refers to by number.
#[derive(Debug, Clone, Copy)]
pub struct Tables<'a> {
    /// State slots.
    pub slots: &'a SlotTable,
    /// Helpers.
    pub helpers: &'a [HelperDesc],
}

/// The whole region.
#[must_use]
pub fn region(r: &Region, t: Tables<'_>) -> String {
    let mut s = String::new();
    let _ = writeln!(s, "region {:#x} len={} insns={}", r.pc, r.guest_len, r.guest_insns);
    for (i, b) in r.blocks.iter().enumerate() {
        let _ = write!(s, "b{i}");
        for (n, &p) in b.insts.iter().take(b.params as usize).enumerate() {
            let ty = r.insts.get(p.index()).map_or("?", |i| i.ty.name());
            let _ = write!(s, "{}v{}: {ty}", if n == 0 { "(" } else { ", " }, p.0);
        }
        s.push_str(if b.params > 0 { ")" } else { "" });
        s.push_str(if r.entries.contains(&BlockId(i as u32)) { " entry:\n" } else { ":\n" });
        for &v in b.insts.iter().skip(b.params as usize) {
            s.push_str("  ");
            inst(&mut s, r, t, v);
            s.push('\n');
        }
        s.push_str("  ");
        match &b.end {
            Some(end) => terminator(&mut s, end),
            None => s.push_str("(no terminator)"),
        }
        s.push('\n');
    }
    s
}

/// Appends a terminator.
pub fn terminator(s: &mut String, end: &Terminator) {
    let _ = match end {
        Terminator::Jump(e) => {
            s.push_str("jump ");
            edge(s, e);
            Ok(())
        }
        Terminator::Branch { cond, then, other, likely_then } => {
            let _ = write!(s, "br v{}, ", cond.0);
            edge(s, then);
            s.push_str(", ");
            edge(s, other);
            s.push_str(if *likely_then { " likely" } else { "" });
            Ok(())
        }
        Terminator::Link { pc, hint } => write!(s, "link {pc:#x}{}", hint_text(*hint)),
        Terminator::Indirect { pc, hint } => write!(s, "indirect v{}{}", pc.0, hint_text(*hint)),
        Terminator::Lookup => write!(s, "lookup"),
        Terminator::Exit { code } => write!(s, "exit {code}"),
    };
}

fn hint_text(h: Hint) -> String {
    match h {
        Hint::None => String::new(),
        Hint::Call(pc) => format!(" call={pc:#x}"),
        Hint::Return => " return".into(),
    }
}

fn edge(s: &mut String, e: &Edge) {
    let BlockId(n) = e.block;
    let _ = write!(s, "b{n}");
    list(s, &e.args);
}

fn list(s: &mut String, values: &[Value]) {
    for (n, v) in values.iter().enumerate() {
        let _ = write!(s, "{}v{}", if n == 0 { "(" } else { ", " }, v.0);
    }
    s.push_str(if values.is_empty() { "" } else { ")" });
}

/// Appends the instruction that defines `v`, without indentation.
pub fn inst(s: &mut String, r: &Region, t: Tables<'_>, v: Value) {
    let Some(i) = r.insts.get(v.index()) else {
        let _ = write!(s, "v{} (no such instruction)", v.0);
        return;
    };
    if i.ty != Type::Void {
        let _ = write!(s, "v{} = ", v.0);
    }
    s.push_str(i.op.info().name);
    if i.ty != Type::Void && i.op != Op::Flags {
        let _ = write!(s, ".{}", i.ty.name());
    }
    suffix(s, i);
    s.push_str(match i.op {
        Op::Nop | Op::Fexget => "",
        _ => " ",
    });
    body(s, r, t, i);
}

/// What stands between the operation's type and its operands.
fn suffix(s: &mut String, i: &Inst) {
    let sub = i.sub;
    let _ = match i.op {
        Op::Setcc | Op::FlagCond => write!(s, ".{}", Cond::from_bits(sub).name()),
        Op::Flags => {
            let ty = Type::ALL.get((sub >> 8) as usize).map_or("?", |t| t.name());
            write!(s, ".{}.{ty}", FlagKind::from_bits(sub & 0xff).name())
        }
        Op::Rmw => write!(s, ".{}", crate::RmwOp::from_bits(sub).name()),
        Op::Fsgnj => write!(s, ".{}", ["copy", "neg", "xor"][(sub % 3) as usize]),
        op if is_scalar_fp(op) => {
            fp_attr(s, op, FpAttr(sub));
            Ok(())
        }
        op if is_vector(op) => {
            let _ = write!(s, ".{}", Lane::from_bits(sub & 0xff).name());
            if op == Op::Vcmp {
                let _ = write!(s, ".{}", Cond::from_bits(sub >> 8).name());
            }
            if op == Op::Vreduce {
                let _ = write!(s, ".{}", crate::RmwOp::from_bits(sub >> 8).name());
            }
            if op == Op::Vwiden {
                let _ = write!(s, ".{}", WIDEN[(sub >> 8 & 3) as usize]);
            }
            if is_vecfn(op) {
                let _ = write!(s, ".{}", crate::VecFn::from_bits(sub >> 8).name());
            }
            if op.info().effect == crate::Effect::Fp {
                fp_attr(s, op, FpAttr(i.imm as u16));
            }
            Ok(())
        }
        _ => Ok(()),
    };
}

/// Names of what `vwiden` takes, by the high byte of `sub`.
pub(crate) const WIDEN: [&str; 4] = ["ulo", "slo", "uhi", "shi"];

/// True for operations with a lane in `sub`.
#[must_use]
pub(crate) const fn is_vector(op: Op) -> bool {
    op as u8 >= Op::Vadd as u8
}

/// True for operations with a `VecFn` in the high byte of `sub` and an immediate.
#[must_use]
pub(crate) const fn is_vecfn(op: Op) -> bool {
    matches!(op, Op::Vfn1 | Op::Vfn2 | Op::Vfn3)
}

/// True for operations with an `FpAttr` in `sub`.
#[must_use]
pub(crate) const fn is_scalar_fp(op: Op) -> bool {
    matches!(op.info().effect, crate::Effect::Fp) && !is_vector(op)
}

/// The attribute bits that mean something to `op`.
#[must_use]
pub(crate) const fn fp_mask(op: Op) -> u16 {
    match op {
        Op::Fma | Op::Vfma => 0x0fff,
        Op::Fmin | Op::Fmax | Op::Vfmin | Op::Vfmax => 0x33ff,
        Op::Fcmp | Op::Ftoi | Op::Vfcmp | Op::Vftoi => 0x73ff,
        Op::Itof | Op::Frint | Op::Vitof | Op::Vfrint => 0x43ff,
        _ => 0x03ff,
    }
}

fn fp_attr(s: &mut String, op: Op, a: FpAttr) {
    let mut put = |on: bool, text: &str| {
        if on {
            s.push('.');
            s.push_str(text);
        }
    };
    match op {
        Op::Fcmp | Op::Vfcmp => put(true, FCond::from_bits(a.variant()).name()),
        Op::Fmin | Op::Fmax | Op::Vfmin | Op::Vfmax => {
            put(true, &format!("mm-{}", MinMax::from_bits(a.variant()).name()))
        }
        Op::Ftoi | Op::Vftoi => put(true, &format!("to-{}", IntConv::from_bits(a.variant()).name())),
        _ => {}
    }
    put(a.rounding() != Rounding::NearestEven, a.rounding().name());
    put(a.nan() != NanPolicy::Canonical, &format!("nan-{}", a.nan().name()));
    put(a.tiny_before(), "tiny");
    put(a.flush(), "ftz");
    put(a.daz(), "daz");
    put(a.quiet(), "quiet");
    let m = a.0 & fp_mask(op);
    put(m & 1 << 10 != 0, "np");
    put(m & 1 << 11 != 0, "na");
    put(m & 1 << 14 != 0, flag_name(op));
}

/// Name of `FpAttr::flag`.
pub(crate) const fn flag_name(op: Op) -> &'static str {
    match op {
        Op::Fcmp | Op::Vfcmp => "sig",
        Op::Frint | Op::Vfrint => "noinex",
        _ => "u",
    }
}

fn memory(s: &mut String, i: &Inst) {
    let d = i.disp();
    let _ = write!(s, "[v{}", i.a.0);
    let _ = match d {
        0 => Ok(()),
        _ if d < 0 => write!(s, "-{}", d.unsigned_abs()),
        _ => write!(s, "+{d}"),
    };
    s.push_str("] ");
    s.push_str(match i.op {
        Op::Load => "ld",
        Op::Store => "st",
        _ => "rw",
    });
    memop(s, i.memop());
}

fn memop(s: &mut String, m: MemOp) {
    let _ = write!(s, "{}", m.bytes());
    let mut put = |on: bool, text: &str| {
        if on {
            s.push('.');
            s.push_str(text);
        }
    };
    put(m.signed(), "s");
    put(m.big_endian(), "be");
    put(m.align() as u8 != 0, m.align().name());
    put(m.atomicity() as u8 != 1, m.atomicity().name());
    put(m.order() as u8 != 0, m.order().name());
    put(m.never_device(), "ram");
    put(m.non_temporal(), "nt");
    put(m.mmu() != 0, &format!("m{}", m.mmu()));
}

fn body(s: &mut String, r: &Region, t: Tables<'_>, i: &Inst) {
    let slot = || {
        let known = t.slots.all().get(i.sub as usize);
        known.map_or_else(|| format!("slot{}", i.sub), |d| d.name.to_string())
    };
    let _ = match i.op {
        Op::Nop | Op::Fexget => Ok(()),
        Op::Insn => write!(s, "{:#x} {}", i.imm, i.sub),
        Op::Budget => write!(s, "{}", i.imm),
        Op::Const | Op::Pc => write!(s, "{:#x}", i.imm),
        Op::Get => write!(s, "{}", slot()),
        Op::Set => write!(s, "{}, v{}", slot(), i.a.0),
        Op::Fence => write!(s, "{}", i.sub),
        Op::Call => {
            let known = t.helpers.get(i.sub as usize);
            match known {
                Some(h) => s.push_str(h.name),
                None => {
                    let _ = write!(s, "helper{}", i.sub);
                }
            }
            let (first, n) = (i.a.index(), i.b.index());
            list(s, r.lists.get(first..first.saturating_add(n)).unwrap_or(&[]));
            Ok(())
        }
        Op::Load | Op::Store | Op::Rmw | Op::Cas => {
            memory(s, i);
            for v in [i.b, i.c].iter().take(i.op.info().args as usize - 1) {
                let _ = write!(s, ", v{}", v.0);
            }
            Ok(())
        }
        _ => {
            for (n, v) in [i.a, i.b, i.c].iter().take(i.op.info().args as usize).enumerate() {
                let _ = write!(s, "{}v{}", if n == 0 { "" } else { ", " }, v.0);
            }
            match i.op {
                Op::Extract | Op::Sextract | Op::Deposit => {
                    write!(s, ", {}, {}", i.imm & 0xff, i.imm >> 8 & 0xff)
                }
                Op::Vshli | Op::Vshri | Op::Vsari | Op::Vextract | Op::Vinsert | Op::Vpart => {
                    write!(s, ", {}", i.imm)
                }
                op if is_vecfn(op) => write!(s, ", {}", i.imm),
                _ => Ok(()),
            }
        }
    };
}
