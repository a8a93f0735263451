//! AVX, AVX2, FMA, F16C (SDM volume 1, chapter 14).
//!
//! Most instructions are those of SSE with VEX: three operands, all of the destination written, memory not aligned. Their
//! names differ by a letter, and `sse` translates them by the older name. What is new stands here.

mod fma;
mod half;
mod masked;
mod moves;
mod permute;

use iced_x86::Mnemonic;
use tcg_ir::{Lane, Type};

use super::{
    Flow, Translator,
    names::{self, ByName},
};
use crate::{
    avx512::ClearRegisters,
    exceptions::{self, vector},
    state,
};

/// For each instruction with VEX that one of SSE does the same as, that one.
static OLDER: ByName<Mnemonic> = ByName::new(|name| {
    // Of logic EVEX names the lanes that its mask counts.
    let older = name.strip_prefix('v').map(|n| match n {
        "pandd" | "pandq" => "pand",
        "pandnd" | "pandnq" => "pandn",
        "pord" | "porq" => "por",
        "pxord" | "pxorq" => "pxor",
        n => n,
    });
    older.and_then(names::find).unwrap_or(Mnemonic::INVALID)
});

impl Translator<'_, '_> {
    /// Vector instructions with VEX.
    pub(super) fn avx(&mut self, m: Mnemonic) -> bool {
        if !self.is_vex() {
            return false;
        }
        if self.opmask(m) {
            return true;
        }
        if self.is_evex() && self.evex(m) {
            return true;
        }
        if self.avx_permute(m)
            || self.avx_moves(m)
            || self.avx_masked(m)
            || self.avx_fma(m)
            || self.avx_half(m)
        {
            return true;
        }
        match m {
            Mnemonic::Vzeroupper | Mnemonic::Vzeroall => {
                if self.avx_on() {
                    self.clear_registers(m == Mnemonic::Vzeroall);
                }
                return true;
            }
            Mnemonic::Vtestps => self.test(Some(Lane::I32)),
            Mnemonic::Vtestpd => self.test(Some(Lane::I64)),
            _ => {
                let older = OLDER.get(m);
                return older != Mnemonic::INVALID && (self.sse(older) || self.fpu_env(older));
            }
        }
        true
    }

    /// Raises #UD or #NM if AVX may not be used now (SDM volume 2, 2.4); true if it may.
    pub(super) fn avx_on(&mut self) -> bool {
        let on = if self.is_evex() { self.mode.avx512 } else { self.mode.avx };
        self.extended_on(on)
    }

    /// The same for instructions of a state component that is on or not.
    pub(super) fn extended_on(&mut self, on: bool) -> bool {
        if !on || !self.mode.protected || self.mode.vm86 {
            self.undefined();
            return false;
        }
        if self.mode.ts {
            self.raise(exceptions::plain(vector::NM));
            return false;
        }
        true
    }

    fn clear_registers(&mut self, all: bool) {
        if self.mode.high {
            let all = self.b.iconst(Type::I64, all.into());
            self.call::<ClearRegisters>(&[all]);
            self.flow = Flow::NewKey;
            return;
        }
        let zero = self.zeros();
        for n in 0..if self.mode.code64 { 16 } else { 8 } {
            self.b.set(state::ymmh(n), zero);
            if all {
                self.set_xmm(n, zero);
            }
        }
    }
}
