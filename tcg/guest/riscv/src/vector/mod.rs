//! The V extension at run time: vector instructions as loops over elements.
//!
//! Follows "The RISC-V Instruction Set Manual", volume I, chapter "V". Translation only names the instruction; its word,
//! `vtype`, `vl` and `vstart` are read here, when it runs. Tail elements and masked-off elements are left undisturbed
//! under both policies, which the manual allows. A combination of registers that is reserved is an illegal
//! instruction; nothing has been changed when that is found out.
//!
//! Element widths are given as log2 of their bytes (0 to 3), group sizes (EMUL) as log2 too (-3 to 3). Elements are
//! `u64`, zero-extended.

mod config;
mod fixed;
mod float;
mod float_op;
mod integer;
mod load_store;
mod mask;
mod permute;
mod reduce;

pub(crate) use config::{VILL, legal, shape, vlmax};

use tcg_engine::{Cx, Helper, Trap, helper};
use tcg_ir::{Effects, HelperDesc, SlotId, SlotSet, Type};

use crate::{
    csr,
    exceptions::cause,
    guest::Riscv,
    state::{self, Hart, status},
};

/// Bytes of the largest vector register: VLEN is 1024 at most.
pub(crate) const MAX_VLENB: usize = 128;

/// Index of `vstart` in `vcsrs`.
pub(crate) const VSTART: usize = 0;
/// Index of `vcsr`: `vxrm` above `vxsat`.
pub(crate) const VCSR: usize = 1;
/// Index of `vl`.
pub(crate) const VL: usize = 2;
/// Index of `vtype`; vill is bit 63 on both widths.
pub(crate) const VTYPE: usize = 3;

/// First of the helpers that [`helpers`] lists; they stand behind those of `helpers.rs`.
const FIRST: usize = crate::helpers::VECTOR;
/// `v_config(word, avl, vtype)`: the new `vl`.
pub(crate) const CONFIG: usize = FIRST;
/// `v_memory(word, base, stride, mmu)`.
pub(crate) const MEMORY: usize = FIRST + 1;
/// `v_integer(word, scalar)`: what goes to an integer register, if anything does.
pub(crate) const INTEGER: usize = FIRST + 2;
/// `v_float(word, scalar)`: what goes to a floating-point register, if anything does.
pub(crate) const FLOAT: usize = FIRST + 3;

/// Slots that all of them look at, and change: some CSRs, then the pieces of the vector registers, as many as there are.
const SLOTS: [SlotId; CSRS + MAX_PIECES] = {
    let csrs = [state::MSTATUS, state::FRM, state::VSTART, state::VCSR, state::VL, state::VTYPE];
    let mut all = [state::PC; CSRS + MAX_PIECES];
    let mut n = 0;
    while n < all.len() {
        all[n] = if n < CSRS { csrs[n] } else { state::piece(n - CSRS) };
        n += 1;
    }
    all
};
static ALL_SLOTS: [SlotId; CSRS + MAX_PIECES] = SLOTS;
const CSRS: usize = 6;
const MAX_PIECES: usize = 32 * MAX_VLENB / 32;

/// The slots of a hart with `pieces` pieces of vector registers.
fn slots(pieces: usize) -> SlotSet {
    SlotSet::Only(&ALL_SLOTS[..CSRS + pieces.min(MAX_PIECES)])
}

/// The helpers' table, in the order of the numbers above.
pub(crate) fn helpers(pieces: usize) -> [HelperDesc; 4] {
    [
        helper::<Riscv, Config>(),
        helper::<Riscv, Memory>(),
        helper::<Riscv, Integer>(),
        helper::<Riscv, Float>(),
    ]
    .map(|h| HelperDesc { reads: slots(pieces), writes: slots(pieces), ..h })
}

macro_rules! vector_helpers {
    ($($(#[$meta:meta])* $ty:ident $name:literal $args:literal $result:ident $effects:expr, $run:path;)*) => {$(
        $(#[$meta])*
        struct $ty;

        impl Helper<Riscv> for $ty {
            const NAME: &'static str = $name;
            const ARGS: u8 = $args;
            const RESULT: Type = Type::$result;
            const READS: SlotSet = SlotSet::None;
            const WRITES: SlotSet = SlotSet::None;
            const EFFECTS: Effects = $effects;

            fn call(cx: &mut Cx<'_, Riscv>, args: [u64; 4]) -> Result<u64, Trap> {
                $run(cx, args)
            }
        }
    )*};
}

vector_helpers! {
    /// vsetvli, vsetivli, vsetvl.
    Config "v_config" 3 I64 Effects::RAISES, config::set;
    /// Loads and stores.
    Memory "v_memory" 4 Void Effects::RAISES.union(Effects::MEMORY), load_store::run;
    /// Everything of OPIVV, OPIVX, OPIVI, OPMVV and OPMVX.
    Integer "v_integer" 2 I64 Effects::RAISES, run_integer;
    /// Everything of OPFVV and OPFVF.
    Float "v_float" 2 I64 Effects::RAISES.union(Effects::FP), float::run;
}

/// Nothing, or "illegal instruction".
pub(crate) type Check<T = ()> = Option<T>;

/// `Some` if `condition` holds.
fn check(condition: bool) -> Check {
    condition.then_some(())
}

/// The fields of a vector instruction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Insn(pub(crate) u32);

impl Insn {
    pub(crate) fn funct6(self) -> u32 {
        self.0 >> 26
    }
    pub(crate) fn funct3(self) -> u32 {
        self.0 >> 12 & 7
    }
    pub(crate) fn vd(self) -> u32 {
        self.0 >> 7 & 31
    }
    pub(crate) fn vs1(self) -> u32 {
        self.0 >> 15 & 31
    }
    pub(crate) fn vs2(self) -> u32 {
        self.0 >> 20 & 31
    }
    /// Not masked.
    pub(crate) fn vm(self) -> bool {
        self.0 >> 25 & 1 != 0
    }
    fn simm(self) -> u64 {
        let low = u64::from(self.vs1());
        if low & 16 == 0 { low } else { low | !31 }
    }
}

/// Major forms of OP-V, by `funct3`.
pub(crate) mod form {
    pub(crate) const IVV: u32 = 0;
    pub(crate) const MVV: u32 = 2;
    pub(crate) const IVI: u32 = 3;
    pub(crate) const IVX: u32 = 4;
    pub(crate) const FVF: u32 = 5;
}

/// A group of registers as an operand.
#[derive(Debug, Clone, Copy)]
struct Group {
    reg: u32,
    /// log2 of an element's bytes; [`MASK`] for a mask.
    eew: i32,
    /// log2 of the registers.
    emul: i32,
}

/// `eew` of masks: narrower than any element.
const MASK: i32 = -3;

impl Group {
    fn end(self) -> u32 {
        self.reg + (1 << self.emul.max(0))
    }

    fn overlaps(self, other: Self) -> bool {
        self.reg < other.end() && other.reg < self.end()
    }

    /// May this be written while `source` is read? (Section 5.2.)
    fn may_overwrite(self, source: Self) -> bool {
        if !self.overlaps(source) || self.eew == source.eew {
            return true;
        }
        if self.eew < source.eew {
            return self.reg == source.reg;
        }
        source.emul >= 0 && source.end() == self.end()
    }
}

/// The second source of an instruction: elements of a register group, or one value for all.
#[derive(Debug, Clone, Copy)]
enum Operand {
    Reg(u32),
    Scalar(u64),
}

/// A vector instruction being executed.
struct Unit<'a> {
    h: &'a mut Hart,
    insn: Insn,
    vlenb: usize,
    /// log2 of SEW's bytes.
    sew: i32,
    /// log2 of LMUL.
    lmul: i32,
    vl: usize,
    vstart: usize,
    /// What `rs1` holds.
    scalar: u64,
}

impl<'a> Unit<'a> {
    /// Checks that the vector unit is on and `vtype` valid.
    fn new(h: &'a mut Hart, vlenb: u32, word: u64, scalar: u64) -> Check<Self> {
        let vtype = h.vcsrs[VTYPE];
        check(h.mstatus & status::VS != 0 && vtype & VILL == 0)?;
        let (sew, lmul) = config::shape(vtype);
        let (vl, vstart) = (h.vcsrs[VL] as usize, h.vcsrs[VSTART] as usize);
        Some(Self { h, insn: Insn(word as u32), vlenb: vlenb as usize, sew, lmul, vl, vstart, scalar })
    }

    /// Bits of an element of SEW.
    fn bits(&self) -> u32 {
        8 << self.sew
    }

    fn vlmax(&self) -> usize {
        vlmax(self.vlenb as u32, self.h.vcsrs[VTYPE]) as usize
    }

    fn at(&self, reg: u32, i: usize, eew: i32) -> usize {
        reg as usize * self.vlenb + (i << eew)
    }

    /// Element `i` of the group at `reg`.
    fn get(&self, reg: u32, i: usize, eew: i32) -> u64 {
        let at = self.at(reg, i, eew);
        let mut bytes = [0; 8];
        let n = 1 << eew;
        if let Some(b) = self.h.v.get(at..at + n) {
            bytes[..n].copy_from_slice(b);
        }
        u64::from_le_bytes(bytes)
    }

    fn set(&mut self, reg: u32, i: usize, eew: i32, value: u64) {
        let at = self.at(reg, i, eew);
        let n = 1 << eew;
        if let Some(b) = self.h.v.get_mut(at..at + n) {
            b.copy_from_slice(&value.to_le_bytes()[..n]);
        }
    }

    /// Element `i` of the second source, truncated to `eew`.
    fn operand(&self, from: Operand, i: usize, eew: i32) -> u64 {
        match from {
            Operand::Reg(reg) => self.get(reg, i, eew),
            Operand::Scalar(v) => zext(v, 8 << eew),
        }
    }

    fn bit(&self, reg: u32, i: usize) -> bool {
        self.get(reg, i >> 3, 0) >> (i & 7) & 1 != 0
    }

    fn set_bit(&mut self, reg: u32, i: usize, value: bool) {
        let byte = self.get(reg, i >> 3, 0) & !(1 << (i & 7));
        self.set(reg, i >> 3, 0, byte | u64::from(value) << (i & 7));
    }

    /// True unless element `i` is masked off.
    fn active(&self, i: usize) -> bool {
        self.insn.vm() || self.bit(0, i)
    }

    /// The group at `reg` for elements of `eew`: its width, size and alignment must exist.
    fn group(&self, reg: u32, eew: i32) -> Check<Group> {
        let emul = self.lmul + eew - self.sew;
        check((0..=3).contains(&eew) && (-3..=3).contains(&emul))?;
        check(reg & ((1 << emul.max(0)) - 1) == 0)?;
        Some(Group { reg, eew, emul })
    }

    /// The single register `reg` as a mask.
    fn mask_group(reg: u32) -> Group {
        Group { reg, eew: MASK, emul: 0 }
    }

    /// A destination group under the mask: it may not overlap it.
    fn dest(&self, reg: u32, eew: i32) -> Check<Group> {
        check(self.insn.vm() || reg != 0)?;
        self.group(reg, eew)
    }

    /// A source group: it may not hold the mask, since no register is read with two widths (section 5.2).
    fn input(&self, reg: u32, eew: i32) -> Check<Group> {
        check(self.insn.vm() || reg != 0)?;
        self.group(reg, eew)
    }

    /// Checks a source group that is read while `dest` is written.
    fn source(&self, dest: Group, reg: u32, eew: i32) -> Check {
        check(dest.may_overwrite(self.input(reg, eew)?))
    }

    /// Checks the sources of carries and comparisons: these accept v0 as elements and mask at once, as QEMU does.
    fn sources_of_bits(&self, dest: Group, vs2: u32, from: Operand) -> Check {
        check(dest.may_overwrite(self.group(vs2, self.sew)?))?;
        match from {
            Operand::Reg(reg) => check(dest.may_overwrite(self.group(reg, self.sew)?)),
            Operand::Scalar(_) => Some(()),
        }
    }

    /// Checks the sources of a widening accumulation: it reads `dest` too, at another width.
    fn accumulates(&self, dest: Group, vs2: u32, from: Operand) -> Check {
        check(!dest.overlaps(self.group(vs2, self.sew)?))?;
        match from {
            Operand::Reg(reg) => check(!dest.overlaps(self.group(reg, self.sew)?)),
            Operand::Scalar(_) => Some(()),
        }
    }

    /// Checks that the two sources, if both are registers, have no register in common that they read with two widths.
    fn apart(&self, vs2: (u32, i32), from: Operand, eew: i32) -> Check {
        let Operand::Reg(vs1) = from else { return Some(()) };
        check(eew == vs2.1 || !self.group(vs1, eew)?.overlaps(self.group(vs2.0, vs2.1)?))
    }

    /// The same for the second source.
    fn source1(&self, dest: Group, from: Operand, eew: i32) -> Check {
        match from {
            Operand::Reg(reg) => self.source(dest, reg, eew),
            Operand::Scalar(_) => Some(()),
        }
    }

    /// `vs1`, `rs1` or the sign-extended immediate.
    fn second(&self) -> Operand {
        match self.insn.funct3() {
            form::IVV | 1 | form::MVV => Operand::Reg(self.insn.vs1()),
            form::IVI => Operand::Scalar(self.insn.simm()),
            _ => Operand::Scalar(self.scalar),
        }
    }

    /// The same with an immediate that is not signed.
    fn second_unsigned(&self) -> Operand {
        match self.insn.funct3() {
            form::IVI => Operand::Scalar(u64::from(self.insn.vs1())),
            _ => self.second(),
        }
    }

    /// Body elements that are not masked off.
    fn for_active(&mut self, mut f: impl FnMut(&mut Self, usize)) {
        for i in self.vstart..self.vl {
            if self.active(i) {
                f(self, i);
            }
        }
    }

    /// Writes `f(vs2[i], second[i])`, all of SEW.
    fn map2(&mut self, b: Operand, mut f: impl FnMut(u64, u64) -> u64) -> Check {
        let (vd, vs2, sew) = (self.insn.vd(), self.insn.vs2(), self.sew);
        let dest = self.dest(vd, sew)?;
        self.source(dest, vs2, sew)?;
        self.source1(dest, b, sew)?;
        self.for_active(|u, i| {
            let v = f(u.get(vs2, i, sew), u.operand(b, i, sew));
            u.set(vd, i, sew, v);
        });
        Some(())
    }
}

/// `v` cut to `bits`.
const fn zext(v: u64, bits: u32) -> u64 {
    v & u64::MAX >> (64 - bits)
}

/// The low `bits` of `v` as a signed number.
const fn sext(v: u64, bits: u32) -> i64 {
    (v << (64 - bits)) as i64 >> (64 - bits)
}

const fn illegal(word: u64) -> Trap {
    Trap { code: cause::ILLEGAL, value: word }
}

/// OPIVV, OPIVX, OPIVI, OPMVV, OPMVX.
fn run_integer(cx: &mut Cx<'_, Riscv>, [word, scalar, ..]: [u64; 4]) -> Result<u64, Trap> {
    let vlenb = cx.guest().cpu().vlenb;
    let result = Unit::new(cx.state, vlenb, word, scalar).and_then(|mut u| {
        let result = match u.insn.funct3() {
            form::IVV | form::IVX | form::IVI => integer::opi(&mut u),
            _ => integer::opm(&mut u),
        }?;
        finish(u.h);
        Some(result)
    });
    result.ok_or(illegal(word))
}

/// What every vector instruction ends with.
fn finish(h: &mut Hart) {
    h.vcsrs[VSTART] = 0;
    h.mstatus |= status::VS;
}

/// A status for the softfloat crate with `frm`; `None` if that is reserved.
fn float_status(h: &Hart) -> Option<softfloat::Status> {
    let mut s = softfloat::Status::riscv();
    s.rounding = match h.frm {
        0 => softfloat::RoundingMode::NearestEven,
        1 => softfloat::RoundingMode::TowardZero,
        2 => softfloat::RoundingMode::Down,
        3 => softfloat::RoundingMode::Up,
        4 => softfloat::RoundingMode::NearestAway,
        _ => return None,
    };
    Some(s)
}

/// Adds `flags` to the sticky exceptions.
fn accrue(cx: &mut Cx<'_, Riscv>, flags: softfloat::Flags) {
    let new = csr::fflags_to(u64::from(flags.ieee()));
    if !new.is_empty() {
        let all = cx.exceptions() | new;
        cx.set_exceptions(all);
    }
}
