//! Privileged instructions (volume II, 3.3 and chapter "Supervisor-level ISA"), Svinval. Their checks are in
//! `helpers.rs`: all are rare.

use tcg_ir::Type;

use super::{Flow, Translator};
use crate::{cpu::Ext, decode::*, guest, helpers, state, state::U};

impl Translator<'_, '_> {
    fn trap_return(&mut self, helper: usize) -> bool {
        self.call_bits(helper, Type::Void, &[]);
        self.b.lookup();
        self.flow = Flow::End;
        true
    }

    pub(crate) fn trans_mret(&mut self, _: &ArgEmpty) -> bool {
        self.trap_return(helpers::MRET)
    }

    pub(crate) fn trans_sret(&mut self, _: &ArgEmpty) -> bool {
        self.has(Ext::S) && self.trap_return(helpers::SRET)
    }

    pub(crate) fn trans_wfi(&mut self, _: &ArgEmpty) -> bool {
        self.call_bits(helpers::WFI, Type::Void, &[]);
        let pc = self.b.pc(self.xt, self.next);
        self.b.set(state::PC, pc);
        self.b.exit(guest::EXIT_WFI);
        self.flow = Flow::End;
        true
    }

    /// rs1 and rs2 by number say whether an address and an address space are meant, their values say which.
    fn fence_vma(&mut self, a: &ArgVma) -> bool {
        let addr = self.x(a.rs1);
        let addr = self.b.sext(Type::I64, addr);
        let space = self.x(a.rs2);
        let space = self.b.zext(Type::I64, space);
        let which = u64::from(a.rs1 != 0) | u64::from(a.rs2 != 0) << 1 | u64::from(self.bits) << 32;
        let which = self.b.iconst(Type::I64, which);
        let pc = self.b.pc(self.xt, self.next);
        self.b.set(state::PC, pc);
        self.b.call(helpers::id(helpers::SFENCE_VMA), Type::Void, &[addr, space, which]);
        self.end_lookup();
        true
    }

    pub(crate) fn trans_sfence_vma(&mut self, a: &ArgVma) -> bool {
        self.has(Ext::S) && self.mode.privilege != U && self.fence_vma(a)
    }

    pub(crate) fn trans_sinval_vma(&mut self, a: &ArgVma) -> bool {
        self.has(Ext::SVINVAL) && self.mode.privilege != U && self.fence_vma(a)
    }

    /// sinval.vma takes effect at once, so its fences have nothing to do.
    fn inval_fence(&mut self) -> bool {
        self.has(Ext::SVINVAL) && self.mode.privilege != U
    }

    pub(crate) fn trans_sfence_w_inval(&mut self, _: &ArgEmpty) -> bool {
        self.inval_fence()
    }

    pub(crate) fn trans_sfence_inval_ir(&mut self, _: &ArgEmpty) -> bool {
        self.inval_fence()
    }
}
