//! Zicsr: CSR instructions.
//!
//! The floating-point CSRs and a few that only hold a value are inline; the table of `csr` does the rest through a
//! helper. Any write but to a register that only holds a value ends the unit: the key or the enabled interrupts may
//! have changed.

use tcg_ir::{Op, SlotId, Type, Value};

use super::Translator;
use crate::{
    cpu::Ext,
    csr::{self, num},
    decode::*,
    helpers,
    state::{self, M, S},
};

/// What a CSR instruction does with its operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Update {
    Write,
    Set,
    Clear,
}

impl Translator<'_, '_> {
    pub(crate) fn trans_csrrw(&mut self, a: &ArgCsr) -> bool {
        let v = self.x(a.rs1);
        self.csr(a.csr, a.rd, Update::Write, v, true)
    }

    pub(crate) fn trans_csrrs(&mut self, a: &ArgCsr) -> bool {
        let v = self.x(a.rs1);
        self.csr(a.csr, a.rd, Update::Set, v, a.rs1 != 0)
    }

    pub(crate) fn trans_csrrc(&mut self, a: &ArgCsr) -> bool {
        let v = self.x(a.rs1);
        self.csr(a.csr, a.rd, Update::Clear, v, a.rs1 != 0)
    }

    pub(crate) fn trans_csrrwi(&mut self, a: &ArgCsri) -> bool {
        let v = self.imm(i64::from(a.zimm));
        self.csr(a.csr, a.rd, Update::Write, v, true)
    }

    pub(crate) fn trans_csrrsi(&mut self, a: &ArgCsri) -> bool {
        let v = self.imm(i64::from(a.zimm));
        self.csr(a.csr, a.rd, Update::Set, v, a.zimm != 0)
    }

    pub(crate) fn trans_csrrci(&mut self, a: &ArgCsri) -> bool {
        let v = self.imm(i64::from(a.zimm));
        self.csr(a.csr, a.rd, Update::Clear, v, a.zimm != 0)
    }

    fn csr(&mut self, csr: i32, rd: i32, update: Update, v: Value, writes: bool) -> bool {
        if !self.has(Ext::ZICSR) {
            return false;
        }
        match csr as u16 {
            n @ (num::FFLAGS | num::FRM | num::FCSR) => self.csr_fp(n, rd, update, v, writes),
            n => match self.plain_slot(n) {
                Some(slot) => self.csr_slot(slot, rd, update, v, writes),
                None => match self.v_csr(n).filter(|_| !writes) {
                    Some(v) => {
                        self.set_x(rd, v);
                        true
                    }
                    None => self.csr_helper(n, rd, update, v, writes),
                },
            },
        }
    }

    /// The slot of a CSR that only holds a value and is accessible now.
    fn plain_slot(&self, csr: u16) -> Option<SlotId> {
        let (slot, lowest) = match csr {
            num::SSCRATCH => (state::SSCRATCH, S),
            num::SCAUSE => (state::SCAUSE, S),
            num::STVAL => (state::STVAL, S),
            num::MSCRATCH => (state::MSCRATCH, M),
            _ => return None,
        };
        (self.has(Ext::S) && self.mode.privilege >= lowest).then_some(slot)
    }

    fn updated(&mut self, update: Update, old: Value, v: Value) -> Value {
        match update {
            Update::Write => v,
            Update::Set => self.b.or(old, v),
            Update::Clear => self.b.binary(Op::Andc, old, v),
        }
    }

    fn csr_slot(&mut self, slot: SlotId, rd: i32, update: Update, v: Value, writes: bool) -> bool {
        let old = self.b.get(slot, self.xt);
        if writes {
            let new = self.updated(update, old, v);
            self.b.set(slot, new);
        }
        self.set_x(rd, old);
        true
    }

    /// fflags, frm and fcsr. A new frm is a new key.
    fn csr_fp(&mut self, csr: u16, rd: i32, update: Update, v: Value, writes: bool) -> bool {
        if !self.fp_on(Ext::F) {
            return false;
        }
        let shift = if csr == num::FCSR { 5 } else { 0 };
        let needs_old = rd != 0 || update != Update::Write;
        let mut old = self.b.iconst(Type::I32, 0);
        if needs_old {
            if csr != num::FRM {
                old = self.fflags();
            }
            if csr != num::FFLAGS {
                let frm = self.b.iconst(Type::I32, u64::from(self.mode.frm) << shift);
                old = self.b.or(old, frm);
            }
        }
        if writes {
            let v = self.b.trunc(Type::I32, v);
            let new = self.updated(update, old, v);
            if csr != num::FRM {
                self.set_fflags(new);
            }
            self.set_fs_dirty();
            if csr != num::FFLAGS {
                let frm = self.b.extract(new, shift, 3);
                let frm = self.b.zext(Type::I64, frm);
                self.b.set(state::FRM, frm);
            }
        }
        let old = self.b.zext(self.xt, old);
        self.set_x(rd, old);
        if writes && csr != num::FFLAGS {
            self.end_lookup();
        }
        true
    }

    /// `fflags` from the IR's exceptions: NV DZ OF UF NX are bits 4 to 0 here, 0 2 3 4 5 there.
    fn fflags(&mut self) -> Value {
        let e = self.b.fexget();
        let mut flags = self.b.extract(e, 5, 1);
        for (from, to) in [(4, 1), (3, 2), (2, 3), (0, 4)] {
            let bit = self.b.extract(e, from, 1);
            flags = self.b.deposit(flags, bit, to, 1);
        }
        flags
    }

    fn set_fflags(&mut self, flags: Value) {
        let mut e = self.b.extract(flags, 4, 1);
        for (from, to) in [(3, 2), (2, 3), (1, 4), (0, 5)] {
            let bit = self.b.extract(flags, from, 1);
            e = self.b.deposit(e, bit, to, 1);
        }
        self.b.fexset(e);
    }

    fn csr_helper(&mut self, csr: u16, rd: i32, update: Update, v: Value, writes: bool) -> bool {
        let v = self.b.zext(Type::I64, v);
        let op = match update {
            Update::Write => 0,
            Update::Set => 1,
            Update::Clear => 2,
        };
        // A write with rd = x0 does not read, a set or clear of nothing does not write.
        let reads = rd != 0 || update != Update::Write;
        let how = self
            .b
            .iconst(Type::I64, u64::from(csr) | op << 12 | u64::from(reads) << 14 | u64::from(writes) << 15);
        if writes {
            let pc = self.b.pc(self.xt, self.next);
            self.b.set(state::PC, pc);
        }
        let helper = if writes { helpers::CSR_WRITE } else { helpers::CSR_READ };
        let old = self.call_bits(helper, Type::I64, &[how, v]);
        let old = self.b.trunc(self.xt, old);
        self.set_x(rd, old);
        if writes {
            if csr::enables_interrupts(csr) {
                self.b.call(helpers::id(helpers::CHECK_INTERRUPTS), Type::Void, &[]);
            }
            self.end_lookup();
        }
        true
    }
}
