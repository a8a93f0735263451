//! Masked moves and gathers (SDM volume 2, VMASKMOV, VPMASKMOV, VGATHER*, VPGATHER*).

use iced_x86::{Mnemonic, Register};
use tcg_ir::Type;

use super::super::{Translator, operand::seg_number};
use crate::sse::{Gather, MaskedLoad, MaskedStore, gather};

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn avx_masked(&mut self, m: Mnemonic) -> bool {
        use Mnemonic as M;
        match m {
            M::Vmaskmovps | M::Vpmaskmovd => self.masked_move(4),
            M::Vmaskmovpd | M::Vpmaskmovq => self.masked_move(8),
            M::Vgatherdps | M::Vpgatherdd => return self.gather(4, 4),
            M::Vgatherqps | M::Vpgatherqd => return self.gather(8, 4),
            M::Vgatherdpd | M::Vpgatherdq => return self.gather(4, 8),
            M::Vgatherqpd | M::Vpgatherqq => return self.gather(8, 8),
            _ => return false,
        }
        true
    }

    /// Lanes of `bytes` bytes whose mask has its sign; others are zeros, and memory is not looked at for them.
    fn masked_move(&mut self, bytes: u64) {
        if !self.avx_on() {
            return;
        }
        let size = self.vector_type().bytes() as u64;
        let ea = self.ea_sized(size, self.is_memory(0));
        let at = self.ea_value(&ea);
        let number = |n: u32| self.insn.op_register(n).number() as u64;
        let how = if self.is_memory(0) { number(1) << 8 | number(2) } else { number(1) << 8 | number(0) };
        let how = self.b.iconst(Type::I64, how | bytes << 16 | size << 24);
        if self.is_memory(0) {
            self.call::<MaskedStore>(&[at, how]);
        } else {
            self.call::<MaskedLoad>(&[at, how]);
        }
    }

    /// Lanes from addresses of their own: indices of `index` bytes, lanes of `bytes`. False if two registers are the same.
    fn gather(&mut self, index: u64, bytes: u64) -> bool {
        let i = self.insn;
        let (to, mask, from) = (i.op_register(0), i.op_register(2), i.memory_index());
        if to.number() == mask.number() || to.number() == from.number() || mask.number() == from.number() {
            return false;
        }
        if !self.avx_on() {
            return true;
        }
        // The base alone: indices are added by the helper.
        let (base, disp) = self.offset_value();
        let base = self.b.addi(base, i64::from(disp));
        let base = self.b.zext(Type::I64, base);
        let sized = |r: Register| if r.is_ymm() { 32 } else { 16 };
        let lanes = (sized(to) / bytes).min(sized(from) / index);
        let how = to.number() as u64
            | (mask.number() as u64) << gather::MASK
            | (from.number() as u64) << gather::INDICES
            | u64::from(i.memory_index_scale().trailing_zeros()) << gather::SCALE
            | (seg_number(i.memory_segment()) as u64) << gather::SEGMENT
            | lanes << gather::LANES
            | u64::from(index == 8) << gather::WIDE_INDEX
            | u64::from(bytes == 8) << gather::WIDE_LANE
            | u64::from(self.address_size() == 8) << gather::WIDE_ADDRESS;
        let how = self.b.iconst(Type::I64, how);
        self.call::<Gather>(&[base, how]);
        true
    }
}
