//! Gathers and scatters (SDM volume 2, VGATHER*, VPGATHER*, VSCATTER*, VPSCATTER*).

use iced_x86::{Mnemonic, Register};
use tcg_ir::Type;

use super::super::{Translator, operand::seg_number};
use crate::avx512::{Indexed, indexed};

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn evex_indexed(&mut self, m: Mnemonic) -> bool {
        use Mnemonic as M;
        match m {
            M::Vgatherdps | M::Vpgatherdd => self.indexed_move(4, 4, false),
            M::Vgatherqps | M::Vpgatherqd => self.indexed_move(8, 4, false),
            M::Vgatherdpd | M::Vpgatherdq => self.indexed_move(4, 8, false),
            M::Vgatherqpd | M::Vpgatherqq => self.indexed_move(8, 8, false),
            M::Vscatterdps | M::Vpscatterdd => self.indexed_move(4, 4, true),
            M::Vscatterqps | M::Vpscatterqd => self.indexed_move(8, 4, true),
            M::Vscatterdpd | M::Vpscatterdq => self.indexed_move(4, 8, true),
            M::Vscatterqpd | M::Vpscatterqq => self.indexed_move(8, 8, true),
            _ => return false,
        }
        true
    }

    /// Lanes of `bytes` bytes from or to addresses of their own, with indices of `index` bytes.
    fn indexed_move(&mut self, index: u64, bytes: u64, store: bool) {
        if !self.avx_on() {
            return;
        }
        let i = self.insn;
        let (reg, from) = (i.op_register(u32::from(store)), i.memory_index());
        // The base alone: indices are added by the helper.
        let (base, disp) = self.offset_value();
        let base = self.b.addi(base, i64::from(disp));
        let base = self.b.zext(Type::I64, base);
        let lanes = (reg.size() as u64 / bytes).min(from.size() as u64 / index);
        let number = |r: Register| r.number() as u64;
        let how = number(reg)
            | number(i.op_mask()) << indexed::MASK
            | number(from) << indexed::INDICES
            | u64::from(i.memory_index_scale().trailing_zeros()) << indexed::SCALE
            | (seg_number(i.memory_segment()) as u64) << indexed::SEGMENT
            | lanes << indexed::LANES
            | u64::from(index == 8) << indexed::WIDE_INDEX
            | u64::from(bytes == 8) << indexed::WIDE_LANE
            | u64::from(self.address_size() == 8) << indexed::WIDE_ADDRESS
            | u64::from(store) << indexed::STORE;
        let how = self.b.iconst(Type::I64, how);
        if reg.is_zmm() && !store {
            self.go_high();
        }
        self.call::<Indexed>(&[base, how]);
    }
}
