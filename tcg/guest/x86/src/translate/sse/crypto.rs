//! AES, carry-less products, GF(2^8) and SHA (SDM volume 1, 5.12 to 5.16).

use iced_x86::Mnemonic;
use tcg_ir::{Lane, Op, Value, VecFn};

use super::super::Translator;

impl Translator<'_, '_> {
    /// Instructions of this family.
    pub(super) fn sse_crypto(&mut self, m: Mnemonic) -> bool {
        use Mnemonic as M;
        let f = match m {
            M::Aesenc => VecFn::AesEnc,
            M::Aesenclast => VecFn::AesEncLast,
            M::Aesdec => VecFn::AesDec,
            M::Aesdeclast => VecFn::AesDecLast,
            M::Pclmulqdq => VecFn::Clmul,
            M::Gf2p8mulb => VecFn::GfMul,
            M::Gf2p8affineqb => VecFn::GfAffine,
            M::Gf2p8affineinvqb => VecFn::GfInverse,
            M::Sha1rnds4 => VecFn::Sha1Rounds,
            M::Sha1nexte => VecFn::Sha1Next,
            M::Sha1msg1 => VecFn::Sha1Msg1,
            M::Sha1msg2 => VecFn::Sha1Msg2,
            M::Sha256msg1 => VecFn::Sha256Msg1,
            M::Sha256msg2 => VecFn::Sha256Msg2,
            M::Aesimc | M::Aeskeygenassist => {
                if self.sse_on() {
                    let v = self.vector(1);
                    let f = if m == M::Aesimc { VecFn::AesInvMix } else { VecFn::AesKey };
                    let imm = u64::from(self.imm8());
                    let r = self.function1(f, v, imm);
                    self.set_vector(r);
                }
                return true;
            }
            M::Sha256rnds2 => {
                if self.sse_on() {
                    let (b, a) = (self.vector(1), self.vector(0));
                    let words: Value = self.xmm(0);
                    let ty = self.b.ty(a);
                    let f = VecFn::Sha256Rounds as u16;
                    let r = self.b.vector(Op::Vfn3, ty, Lane::I8, f, [a, b, words], 0);
                    self.set_vector(r);
                }
                return true;
            }
            _ => return false,
        };
        if self.sse_on() {
            let (b, a) = (self.vector(1), self.vector(0));
            let imm = u64::from(self.imm8());
            let r = self.function(f, a, b, imm);
            self.set_vector(r);
        }
        true
    }
}
