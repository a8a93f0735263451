//! Permutations, blends and shifts by lane (SDM volume 2, VPERM*, VPBLENDD, VPSLLV*, VPSRLV*, VPSRAV*).

use iced_x86::{Mnemonic, OpKind};
use tcg_ir::VecFn;

use super::super::Translator;

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn avx_permute(&mut self, m: Mnemonic) -> bool {
        use Mnemonic as M;
        let by_immediate = self.insn.op_kind(self.insn.op_count().saturating_sub(1)) == OpKind::Immediate8;
        match m {
            M::Vpermilps if by_immediate => self.one(VecFn::Pick32),
            M::Vpermilpd if by_immediate => self.one(VecFn::Pick64),
            M::Vpermilps => self.two(VecFn::PickV32),
            M::Vpermilpd => self.two(VecFn::PickV64),
            M::Vpermq | M::Vpermpd => self.one(VecFn::Gather64),
            M::Vpermd | M::Vpermps => {
                if self.avx_on() {
                    // The indices come first.
                    let (data, indices) = (self.vector(1), self.vector(0));
                    let r = self.function(VecFn::Gather32, data, indices, 0);
                    self.set_vector(r);
                }
            }
            M::Vpblendd => self.two(VecFn::Blend32),
            M::Vpsllvd => self.two(VecFn::ShlV32),
            M::Vpsllvq => self.two(VecFn::ShlV64),
            M::Vpsrlvd => self.two(VecFn::ShrV32),
            M::Vpsrlvq => self.two(VecFn::ShrV64),
            M::Vpsravd => self.two(VecFn::SarV32),
            _ => return false,
        }
        true
    }

    fn one(&mut self, f: VecFn) {
        if self.avx_on() {
            let v = self.vector(1);
            let imm = u64::from(self.imm8());
            let r = self.function1(f, v, imm);
            self.set_vector(r);
        }
    }

    fn two(&mut self, f: VecFn) {
        let imm = u64::from(self.imm8());
        self.of_two_by(f, imm);
    }
}
