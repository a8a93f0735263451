//! String operations (SDM volume 1, 7.3.9): single ones are inline, repeated ones and those on ports call a helper.

use iced_x86::{Mnemonic, OpKind};
use tcg_ir::{FlagKind, Type, Value};

use super::{
    Ea, Flow, Translator,
    operand::{int, seg_number},
};
use crate::{
    state::{self, seg},
    strings::{StringHelper, StringOp, kind},
};

const SI: usize = 6;
const DI: usize = 7;

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn string(&mut self, m: Mnemonic) -> bool {
        use Mnemonic as M;
        if !self.insn.is_string_instruction() {
            return false;
        }
        let (kind, log2) = match m {
            M::Movsb => (kind::MOVS, 0),
            M::Movsw => (kind::MOVS, 1),
            M::Movsd => (kind::MOVS, 2),
            M::Movsq => (kind::MOVS, 3),
            M::Stosb => (kind::STOS, 0),
            M::Stosw => (kind::STOS, 1),
            M::Stosd => (kind::STOS, 2),
            M::Stosq => (kind::STOS, 3),
            M::Lodsb => (kind::LODS, 0),
            M::Lodsw => (kind::LODS, 1),
            M::Lodsd => (kind::LODS, 2),
            M::Lodsq => (kind::LODS, 3),
            M::Scasb => (kind::SCAS, 0),
            M::Scasw => (kind::SCAS, 1),
            M::Scasd => (kind::SCAS, 2),
            M::Scasq => (kind::SCAS, 3),
            M::Cmpsb => (kind::CMPS, 0),
            M::Cmpsw => (kind::CMPS, 1),
            M::Cmpsd => (kind::CMPS, 2),
            M::Cmpsq => (kind::CMPS, 3),
            M::Insb => (kind::INS, 0),
            M::Insw => (kind::INS, 1),
            M::Insd => (kind::INS, 2),
            M::Outsb => (kind::OUTS, 0),
            M::Outsw => (kind::OUTS, 1),
            M::Outsd => (kind::OUTS, 2),
            _ => return false,
        };
        let repeat = match (self.insn.has_repne_prefix(), self.insn.has_rep_prefix()) {
            (true, _) => 2,
            (_, true) => 1,
            _ => 0,
        };
        let op = StringOp {
            kind,
            log2,
            address: self.index_bytes(),
            segment: seg_number(self.insn.memory_segment()),
            repeat,
            single: self.mode.tf || self.mode.debug,
        };
        if repeat == 0 && kind < kind::INS {
            self.single(op);
        } else {
            self.repeated(op);
        }
        true
    }

    /// Bytes of the index registers.
    fn index_bytes(&self) -> u32 {
        for n in 0..2 {
            match self.insn.op_kind(n) {
                OpKind::MemorySegSI | OpKind::MemoryESDI => return 2,
                OpKind::MemorySegESI | OpKind::MemoryESEDI => return 4,
                OpKind::MemorySegRSI | OpKind::MemoryESRDI => return 8,
                _ => {}
            }
        }
        self.mode.bitness() / 8
    }

    fn repeated(&mut self, op: StringOp) {
        self.set_next_pc();
        let how = self.b.iconst(Type::I64, op.pack());
        let pc = self.b.pc(Type::I64, self.pc);
        self.call::<StringHelper>(&[how, pc]);
        if op.single {
            self.leave();
        } else {
            // What the helper may have written to is not known: code goes on in a unit that is looked up.
            self.flow = Flow::Next;
        }
    }

    /// Address in an index register.
    fn index_ea(&mut self, r: usize, segment: usize, op: StringOp, write: bool) -> Ea {
        let v = self.gpr(r, int(op.address as usize));
        let v = if op.address == 2 { self.b.zext(Type::I32, v) } else { v };
        self.segmented(segment, v, 0, 1 << op.log2, write)
    }

    /// The size of an element, negative if the direction flag is set, in the width of the addresses.
    fn direction(&mut self, op: StringOp) -> Value {
        let sys = self.b.get(state::SYS, Type::I64);
        let df = self.b.extract(sys, 10, 1);
        let n = self.b.iconst(Type::I64, u64::from(op.log2 + 1));
        let back = self.b.shl(df, n);
        let size = self.b.iconst(Type::I64, 1 << op.log2);
        let step = self.b.sub(size, back);
        self.b.trunc(int(op.address as usize), step)
    }

    fn advance(&mut self, r: usize, op: StringOp, step: Value) {
        let v = self.gpr(r, int(op.address as usize));
        let v = self.b.add(v, step);
        self.set_gpr(r, v);
    }

    fn single(&mut self, op: StringOp) {
        let ty = int(1 << op.log2);
        match op.kind {
            kind::MOVS => {
                let from = self.index_ea(SI, op.segment, op, false);
                let to = self.index_ea(DI, seg::ES, op, true);
                let v = self.load(ty, &from);
                self.store(&to, v);
            }
            kind::STOS => {
                let to = self.index_ea(DI, seg::ES, op, true);
                let v = self.gpr(0, ty);
                self.store(&to, v);
            }
            kind::LODS => {
                let from = self.index_ea(SI, op.segment, op, false);
                let v = self.load(ty, &from);
                self.set_gpr(0, v);
            }
            _ => {
                let a = if op.kind == kind::CMPS {
                    let from = self.index_ea(SI, op.segment, op, false);
                    self.load(ty, &from)
                } else {
                    self.gpr(0, ty)
                };
                let to = self.index_ea(DI, seg::ES, op, false);
                let b = self.load(ty, &to);
                let r = self.b.sub(a, b);
                self.set_flags(FlagKind::Sub, [a, b, Value::NONE], r);
            }
        }
        let step = self.direction(op);
        if matches!(op.kind, kind::MOVS | kind::LODS | kind::CMPS) {
            self.advance(SI, op, step);
        }
        if op.kind != kind::LODS {
            self.advance(DI, op, step);
        }
    }
}
