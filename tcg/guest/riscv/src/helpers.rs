//! Helpers: what translated code calls. Each is rare or has too many conditions to be inline.

use tcg_engine::{Cx, Helper, Trap, helper};
use tcg_ir::{Effects, HelperDesc, HelperId, MemOp, SlotId, SlotSet, Type};

use crate::{
    cpu::Ext,
    csr::{self, Request},
    exceptions::{self, cause},
    guest::Riscv,
    interrupts, mmu, monitor,
    state::{self, M, S, U, status},
    triggers, vector,
};

/// `raise(cause, tval)`.
pub(crate) const RAISE: usize = 0;
/// `csr_read(how, operand, bits)`.
pub(crate) const CSR_READ: usize = 1;
/// `csr_write(how, operand, bits)`.
pub(crate) const CSR_WRITE: usize = 2;
/// `mret(bits)`.
pub(crate) const MRET: usize = 3;
/// `sret(bits)`.
pub(crate) const SRET: usize = 4;
/// `wfi(bits)`.
pub(crate) const WFI: usize = 5;
/// `wrs(bits)`.
pub(crate) const WRS: usize = 6;
/// `sfence_vma(address, asid, which)`.
pub(crate) const SFENCE_VMA: usize = 7;
/// `cbo(address, kind, bits)`.
pub(crate) const CBO: usize = 8;
/// `fclass(value, width)`.
pub(crate) const FCLASS: usize = 9;
/// `trigger_exec(pc)`.
pub(crate) const TRIGGER_EXEC: usize = 10;
/// `trigger_data(address, store)`.
pub(crate) const TRIGGER_DATA: usize = 11;
/// `check_interrupts()`, with the pc slot set.
pub(crate) const CHECK_INTERRUPTS: usize = 12;
/// `lr(address, memop)`.
pub(crate) const LR: usize = 13;
/// `sc(address, memop, value)`.
pub(crate) const SC: usize = 14;
/// The first of those of `vector/`.
pub(crate) const VECTOR: usize = 15;

/// Kinds of cache block operations.
pub(crate) const CBO_INVAL: u64 = 0;
/// cbo.clean and cbo.flush.
pub(crate) const CBO_CLEAN: u64 = 1;
/// cbo.zero.
pub(crate) const CBO_ZERO: u64 = 2;

/// Slots that the CSR table may change.
const CSR_SLOTS: SlotSet = SlotSet::Only(&[
    state::MSTATUS,
    state::FRM,
    state::SSCRATCH,
    state::MSCRATCH,
    state::SCAUSE,
    state::STVAL,
    state::VSTART,
    state::VCSR,
    state::VL,
    state::VTYPE,
]);
/// Slots that a return from a trap changes.
const RETURN_SLOTS: SlotSet = SlotSet::Only(&[state::PC, state::MSTATUS, state::RES_ADDR]);
/// A reservation.
const RESERVATION: &[SlotId] = &[state::RES_ADDR, state::RES_VAL];
/// What checks of privilege look at.
const STATUS_SLOT: &[SlotId] = &[state::MSTATUS];

pub(crate) const fn id(helper: usize) -> HelperId {
    HelperId(helper as u16)
}

/// The table, in the order of the numbers above.
pub(crate) fn table(pieces: usize) -> Vec<HelperDesc> {
    let mut table = vec![
        helper::<Riscv, Raise>(),
        helper::<Riscv, CsrRead>(),
        helper::<Riscv, CsrWrite>(),
        helper::<Riscv, Mret>(),
        helper::<Riscv, Sret>(),
        helper::<Riscv, Wfi>(),
        helper::<Riscv, Wrs>(),
        helper::<Riscv, SfenceVma>(),
        helper::<Riscv, Cbo>(),
        helper::<Riscv, Fclass>(),
        helper::<Riscv, TriggerExec>(),
        helper::<Riscv, TriggerData>(),
        helper::<Riscv, CheckInterrupts>(),
        helper::<Riscv, Lr>(),
        helper::<Riscv, Sc>(),
    ];
    debug_assert_eq!(table.len(), VECTOR);
    table.extend(vector::helpers(pieces));
    table
}

macro_rules! helpers {
    ($($(#[$meta:meta])* $ty:ident $name:literal ($($arg:pat),*) -> $result:ident
        reads $reads:expr, writes $writes:expr, effects $effects:expr; |$cx:ident| $body:expr)*) => {
        $($(#[$meta])*
        struct $ty;

        impl Helper<Riscv> for $ty {
            const NAME: &'static str = $name;
            const ARGS: u8 = { const NAMES: &[&str] = &[$(stringify!($arg)),*]; NAMES.len() as u8 };
            const RESULT: Type = Type::$result;
            const READS: SlotSet = $reads;
            const WRITES: SlotSet = $writes;
            const EFFECTS: Effects = $effects;

            fn call($cx: &mut Cx<'_, Riscv>, args: [u64; 4]) -> Result<u64, Trap> {
                let [$($arg,)* ..] = args;
                $body
            }
        })*
    };
}

helpers! {
    /// Raises an exception of the instruction.
    Raise "raise" (code, value) -> Void
        reads SlotSet::None, writes SlotSet::None, effects Effects::RAISES;
        |_cx| Err(Trap { code, value })

    /// A CSR instruction that does not write.
    CsrRead "csr_read" (how, operand, bits) -> I64
        reads CSR_SLOTS, writes SlotSet::None, effects Effects::RAISES.union(Effects::FP);
        |cx| csr::access(cx, Request::unpack(how), operand, bits)

    /// A CSR instruction that writes: the unit ends behind it.
    CsrWrite "csr_write" (how, operand, bits) -> I64
        reads CSR_SLOTS, writes CSR_SLOTS, effects Effects::RAISES.union(Effects::FP);
        |cx| csr::access(cx, Request::unpack(how), operand, bits)

    /// Return from a trap to M.
    Mret "mret" (bits) -> Void
        reads RETURN_SLOTS, writes RETURN_SLOTS, effects Effects::RAISES.union(Effects::EXITS);
        |cx| {
            if cx.state.privilege != M {
                return Err(illegal(bits));
            }
            exceptions::mret(cx.guest().cpu(), cx.state);
            interrupts::leave_if_due(cx);
            Ok(0)
        }

    /// Return from a trap to S.
    Sret "sret" (bits) -> Void
        reads RETURN_SLOTS, writes RETURN_SLOTS, effects Effects::RAISES.union(Effects::EXITS);
        |cx| {
            let trapped = cx.state.privilege == S && cx.state.mstatus & status::TSR != 0;
            if cx.state.privilege == U || trapped {
                return Err(illegal(bits));
            }
            exceptions::sret(cx.state);
            interrupts::leave_if_due(cx);
            Ok(0)
        }

    /// May the hart wait?
    Wfi "wfi" (bits) -> Void
        reads SlotSet::Only(STATUS_SLOT), writes SlotSet::None, effects Effects::RAISES;
        |cx| wait_allowed(cx, bits)

    /// May the hart wait for a store to its reservation?
    Wrs "wrs" (bits) -> Void
        reads SlotSet::Only(STATUS_SLOT), writes SlotSet::None, effects Effects::RAISES;
        |cx| {
            let forbidden = cx.state.privilege != M && cx.state.mstatus & status::TW != 0;
            if forbidden { Err(illegal(bits)) } else { Ok(0) }
        }

    /// Drops translations. `which`: bit 0 an address is given, bit 1 an address space is, upper half the instruction.
    SfenceVma "sfence_vma" (addr, space, which) -> Void
        reads SlotSet::Only(STATUS_SLOT), writes SlotSet::None, effects Effects::RAISES;
        |cx| {
            if cx.state.privilege == S && cx.state.mstatus & status::TVM != 0 {
                return Err(illegal(which >> 32));
            }
            let xlen = cx.guest().cpu().xlen;
            let addr = if xlen == 32 { addr & 0xffff_ffff } else { addr };
            let gva = (which & 1 != 0).then_some(addr);
            let mask = if xlen == 32 { 0x1ff } else { 0xffff };
            let all = which & 2 == 0;
            cx.flush_tlb(gva, move |tag| all || mmu::asid(xlen, tag) == space & mask);
            Ok(0)
        }

    /// Cache block operations. `kind`: low byte which, next byte the MMU index.
    Cbo "cbo" (addr, kind, bits) -> Void
        reads SlotSet::None, writes SlotSet::None, effects Effects::RAISES.union(Effects::MEMORY);
        |cx| cache_block(cx, addr, kind & 0xff, (kind >> 8) as usize & 15, bits)

    /// Class of a float as `fclass` has it.
    Fclass "fclass" (value, width) -> I64
        reads SlotSet::None, writes SlotSet::None, effects Effects::PURE;
        |_cx| Ok(float_class(value, width as u32))

    /// Checks the execution triggers.
    TriggerExec "trigger_exec" (pc) -> Void
        reads SlotSet::Only(STATUS_SLOT), writes SlotSet::None, effects Effects::RAISES;
        |cx| triggers::execute(cx.state, pc).map(|()| 0)

    /// Checks the load and store triggers.
    TriggerData "trigger_data" (addr, store) -> Void
        reads SlotSet::Only(STATUS_SLOT), writes SlotSet::None, effects Effects::RAISES;
        |cx| triggers::data(cx.state, addr, store != 0).map(|()| 0)

    /// Load-reserved of a thread among others.
    Lr "lr" (addr, memop) -> I64
        reads SlotSet::None, writes SlotSet::Only(RESERVATION), effects Effects::RAISES.union(Effects::MEMORY);
        |cx| monitor::reserve(cx, addr, MemOp(memop as u32))

    /// Store-conditional of a thread among others.
    Sc "sc" (addr, memop, value) -> I64
        reads SlotSet::Only(RESERVATION), writes SlotSet::Only(RESERVATION),
        effects Effects::RAISES.union(Effects::MEMORY);
        |cx| monitor::conditional(cx, addr, MemOp(memop as u32), value)

    /// Leaves the unit if the CSR write before it enabled an interrupt that is pending.
    CheckInterrupts "check_interrupts" () -> Void
        reads SlotSet::Only(STATUS_SLOT), writes SlotSet::None, effects Effects::EXITS;
        |cx| {
            interrupts::leave_if_due(cx);
            Ok(0)
        }
}

const fn illegal(bits: u64) -> Trap {
    Trap { code: cause::ILLEGAL, value: bits }
}

/// wfi is illegal below M under TW, and in U when S exists (it may not stop the supervisor's hart).
fn wait_allowed(cx: &mut Cx<'_, Riscv>, bits: u64) -> Result<u64, Trap> {
    let s = cx.guest().cpu().ext.has(Ext::S);
    let forbidden = match cx.state.privilege {
        M => false,
        U if s => true,
        _ => cx.state.mstatus & status::TW != 0,
    };
    if forbidden { Err(illegal(bits)) } else { Ok(0) }
}

/// Permission by menvcfg and senvcfg, then the operation itself: only zeroing changes anything.
fn cache_block(cx: &mut Cx<'_, Riscv>, addr: u64, kind: u64, mmu: usize, bits: u64) -> Result<u64, Trap> {
    // CBIE is two bits of which 0 forbids; CBCFE and CBZE are one.
    let field = match kind {
        CBO_INVAL => 3 << 4,
        CBO_CLEAN => 1 << 6,
        _ => 1 << 7,
    };
    let privilege = cx.state.privilege;
    let s = cx.guest().cpu().ext.has(Ext::S);
    let by_m = privilege == M || cx.state.menvcfg & field != 0;
    let by_s = privilege != U || !s || cx.state.senvcfg & field != 0;
    if !by_m || !by_s {
        return Err(illegal(bits));
    }
    let block = cx.guest().cpu().cbo_block;
    let start = addr & !(block - 1);
    if kind == CBO_ZERO {
        // A kernel that clears its pages so spends much of its time here.
        if cx.fill_run(start, mmu, 0, block as usize)?.is_some() {
            return Ok(0);
        }
        for at in (0..block).step_by(8) {
            cx.store(start + at, MemOp::new(3).with_mmu(mmu), 0)?;
        }
        return Ok(0);
    }
    // The block must be accessible in some way; what fails is reported as a store.
    if cx.probe(start, block, tcg_engine::Access::Load, mmu).is_err() {
        cx.probe(start, block, tcg_engine::Access::Store, mmu)?;
    }
    Ok(0)
}

/// One of ten bits: -inf, -normal, -subnormal, -0, +0, +subnormal, +normal, +inf, signalling NaN, quiet NaN.
fn float_class(value: u64, width: u32) -> u64 {
    let fraction_bits = match width {
        16 => 10,
        32 => 23,
        _ => 52,
    };
    let exponent_bits = width - 1 - fraction_bits;
    let negative = value >> (width - 1) & 1 != 0;
    let max = (1 << exponent_bits) - 1;
    let exponent = value >> fraction_bits & max;
    let fraction = value & ((1 << fraction_bits) - 1);
    let positive_class = match (exponent == 0, exponent == max, fraction == 0) {
        (true, _, true) => 4,
        (true, _, false) => 5,
        (false, true, true) => 7,
        (false, true, false) => return if fraction >> (fraction_bits - 1) == 0 { 1 << 8 } else { 1 << 9 },
        _ => 6,
    };
    1 << if negative { 7 - positive_class } else { positive_class }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        let cases: [(f32, u64); 8] = [
            (f32::NEG_INFINITY, 0),
            (-1.0, 1),
            (-1e-40, 2),
            (-0.0, 3),
            (0.0, 4),
            (1e-40, 5),
            (1.0, 6),
            (f32::INFINITY, 7),
        ];
        for (f, class) in cases {
            assert_eq!(float_class(u64::from(f.to_bits()), 32), 1 << class, "{f}");
            assert_eq!(float_class(f64::from(f).to_bits(), 64) & 0x99, (1 << class) & 0x99, "{f}");
        }
        assert_eq!(float_class(0x7f80_0001, 32), 1 << 8);
        assert_eq!(float_class(0x7e00, 16), 1 << 9);
    }
}
