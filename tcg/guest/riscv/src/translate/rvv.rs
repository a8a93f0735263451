//! V: an instruction is a call of one of the helpers of `vector/`, which read its word again, unless `rvv_mode.rs` and its
//! siblings translate it.
//!
//! The helpers check `mstatus.VS`, `vtype` and the registers, since the unit's key need not say
//! anything of them; what is left to do here is to pass scalars and to write scalar results.

use tcg_ir::{Type, Value};

use super::Translator;
use crate::{decode::*, helpers::id, state, vector};

macro_rules! families {
    ($($family:ident($args:ident): $($name:ident)*;)*) => {
        impl Translator<'_, '_> {$($(
            pub(crate) fn $name(&mut self, a: &$args) -> bool {
                self.$family(a);
                true
            }
        )*)*}
    };
}

families! {
    v_memory(ArgVmem):
        trans_vle8_v trans_vle16_v trans_vle32_v trans_vle64_v trans_vle8ff_v trans_vle16ff_v
        trans_vle32ff_v trans_vle64ff_v trans_vse8_v trans_vse16_v trans_vse32_v trans_vse64_v;
    v_memory(ArgVx1):
        trans_vlm_v trans_vsm_v;
    v_memory(ArgVmemr):
        trans_vlre8_v trans_vlre16_v trans_vlre32_v trans_vlre64_v trans_vsr_v;
    v_strided(ArgVmems):
        trans_vlse8_v trans_vlse16_v trans_vlse32_v trans_vlse64_v trans_vsse8_v trans_vsse16_v
        trans_vsse32_v trans_vsse64_v;
    v_memory(ArgVmemx):
        trans_vluxei8_v trans_vluxei16_v trans_vluxei32_v trans_vluxei64_v trans_vloxei8_v trans_vloxei16_v
        trans_vloxei32_v trans_vloxei64_v trans_vsuxei8_v trans_vsuxei16_v trans_vsuxei32_v
        trans_vsuxei64_v trans_vsoxei8_v trans_vsoxei16_v trans_vsoxei32_v trans_vsoxei64_v;
    v_int(ArgVv):
        trans_vadd_vv trans_vsub_vv trans_vminu_vv trans_vmin_vv trans_vmaxu_vv trans_vmax_vv trans_vand_vv
        trans_vor_vv trans_vxor_vv trans_vmadc_vv trans_vmsbc_vv trans_vmseq_vv trans_vmsne_vv
        trans_vmsltu_vv trans_vmslt_vv trans_vmsleu_vv trans_vmsle_vv trans_vsll_vv trans_vsrl_vv
        trans_vsra_vv trans_vnsrl_wv trans_vnsra_wv trans_vdivu_vv trans_vdiv_vv trans_vremu_vv
        trans_vrem_vv trans_vmulhu_vv trans_vmul_vv trans_vmulhsu_vv trans_vmulh_vv trans_vmadd_vv
        trans_vnmsub_vv trans_vmacc_vv trans_vnmsac_vv trans_vwaddu_vv trans_vwadd_vv trans_vwsubu_vv
        trans_vwsub_vv trans_vwaddu_wv trans_vwadd_wv trans_vwsubu_wv trans_vwsub_wv trans_vwmulu_vv
        trans_vwmulsu_vv trans_vwmul_vv trans_vwmaccu_vv trans_vwmacc_vv trans_vwmaccsu_vv trans_vsaddu_vv
        trans_vsadd_vv trans_vssubu_vv trans_vssub_vv trans_vsmul_vv trans_vssrl_vv trans_vssra_vv
        trans_vnclipu_wv trans_vnclip_wv trans_vaaddu_vv trans_vaadd_vv trans_vasubu_vv trans_vasub_vv
        trans_vredsum_vs trans_vredand_vs trans_vredor_vs trans_vredxor_vs trans_vredminu_vs
        trans_vredmin_vs trans_vredmaxu_vs trans_vredmax_vs trans_vwredsumu_vs trans_vwredsum_vs
        trans_vrgather_vv trans_vrgatherei16_vv;
    v_int(ArgVvm):
        trans_vadc_vvm trans_vsbc_vvm trans_vmerge_vvm trans_vmandn_mm trans_vmand_mm trans_vmor_mm
        trans_vmxor_mm trans_vmorn_mm trans_vmnand_mm trans_vmnor_mm trans_vmxnor_mm trans_vcompress_vm;
    v_int_x(ArgVx):
        trans_vadd_vx trans_vsub_vx trans_vrsub_vx trans_vminu_vx trans_vmin_vx trans_vmaxu_vx
        trans_vmax_vx trans_vand_vx trans_vor_vx trans_vxor_vx trans_vmadc_vx trans_vmsbc_vx trans_vmseq_vx
        trans_vmsne_vx trans_vmsltu_vx trans_vmslt_vx trans_vmsleu_vx trans_vmsle_vx trans_vmsgtu_vx
        trans_vmsgt_vx trans_vsll_vx trans_vsrl_vx trans_vsra_vx trans_vnsrl_wx trans_vnsra_wx
        trans_vdivu_vx trans_vdiv_vx trans_vremu_vx trans_vrem_vx trans_vmulhu_vx trans_vmul_vx
        trans_vmulhsu_vx trans_vmulh_vx trans_vmadd_vx trans_vnmsub_vx trans_vmacc_vx trans_vnmsac_vx
        trans_vwaddu_vx trans_vwadd_vx trans_vwsubu_vx trans_vwsub_vx trans_vwaddu_wx trans_vwadd_wx
        trans_vwsubu_wx trans_vwsub_wx trans_vwmulu_vx trans_vwmulsu_vx trans_vwmul_vx trans_vwmaccu_vx
        trans_vwmacc_vx trans_vwmaccus_vx trans_vwmaccsu_vx trans_vsaddu_vx trans_vsadd_vx trans_vssubu_vx
        trans_vssub_vx trans_vsmul_vx trans_vssrl_vx trans_vssra_vx trans_vnclipu_wx trans_vnclip_wx
        trans_vaaddu_vx trans_vaadd_vx trans_vasubu_vx trans_vasub_vx trans_vslideup_vx trans_vslidedown_vx
        trans_vslide1up_vx trans_vslide1down_vx trans_vrgather_vx;
    v_int_x(ArgVxm):
        trans_vadc_vxm trans_vsbc_vxm trans_vmerge_vxm;
    v_int(ArgVi):
        trans_vadd_vi trans_vrsub_vi trans_vand_vi trans_vor_vi trans_vxor_vi trans_vmadc_vi trans_vmseq_vi
        trans_vmsne_vi trans_vmsleu_vi trans_vmsle_vi trans_vmsgtu_vi trans_vmsgt_vi trans_vsll_vi
        trans_vsrl_vi trans_vsra_vi trans_vnsrl_wi trans_vnsra_wi trans_vsaddu_vi trans_vsadd_vi
        trans_vssrl_vi trans_vssra_vi trans_vnclipu_wi trans_vnclip_wi trans_vslideup_vi
        trans_vslidedown_vi trans_vrgather_vi;
    v_int(ArgVim):
        trans_vadc_vim trans_vmerge_vim;
    v_int(ArgVv1):
        trans_vmv_v_v;
    v_int_x(ArgVx1):
        trans_vmv_v_x trans_vmv_s_x;
    v_int(ArgVi1):
        trans_vmv_v_i;
    v_int(ArgV1):
        trans_vzext_vf8 trans_vsext_vf8 trans_vzext_vf4 trans_vsext_vf4 trans_vzext_vf2 trans_vsext_vf2
        trans_vmsbf_m trans_vmsof_m trans_vmsif_m trans_viota_m;
    v_int(ArgV1m):
        trans_vmv1r_v trans_vmv2r_v trans_vmv4r_v trans_vmv8r_v;
    v_float(ArgVv):
        trans_vfadd_vv trans_vfsub_vv trans_vfmin_vv trans_vfmax_vv trans_vfsgnj_vv trans_vfsgnjn_vv
        trans_vfsgnjx_vv trans_vmfeq_vv trans_vmfle_vv trans_vmflt_vv trans_vmfne_vv trans_vfdiv_vv
        trans_vfmul_vv trans_vfmadd_vv trans_vfnmadd_vv trans_vfmsub_vv trans_vfnmsub_vv trans_vfmacc_vv
        trans_vfnmacc_vv trans_vfmsac_vv trans_vfnmsac_vv trans_vfwadd_vv trans_vfwsub_vv trans_vfwmul_vv
        trans_vfwmacc_vv trans_vfwnmacc_vv trans_vfwmsac_vv trans_vfwnmsac_vv trans_vfwadd_wv
        trans_vfwsub_wv trans_vfredusum_vs trans_vfredosum_vs trans_vfredmin_vs trans_vfredmax_vs
        trans_vfwredusum_vs trans_vfwredosum_vs;
    v_float_f(ArgVx):
        trans_vfadd_vf trans_vfsub_vf trans_vfmin_vf trans_vfmax_vf trans_vfsgnj_vf trans_vfsgnjn_vf
        trans_vfsgnjx_vf trans_vmfeq_vf trans_vmfle_vf trans_vmflt_vf trans_vmfne_vf trans_vmfgt_vf
        trans_vmfge_vf trans_vfdiv_vf trans_vfrdiv_vf trans_vfmul_vf trans_vfrsub_vf trans_vfmadd_vf
        trans_vfnmadd_vf trans_vfmsub_vf trans_vfnmsub_vf trans_vfmacc_vf trans_vfnmacc_vf trans_vfmsac_vf
        trans_vfnmsac_vf trans_vfwadd_vf trans_vfwsub_vf trans_vfwmul_vf trans_vfwmacc_vf trans_vfwnmacc_vf
        trans_vfwmsac_vf trans_vfwnmsac_vf trans_vfwadd_wf trans_vfwsub_wf trans_vfslide1up_vf
        trans_vfslide1down_vf;
    v_float_f(ArgVxm):
        trans_vfmerge_vfm;
    v_float(ArgV1):
        trans_vfcvt_xu_f_v trans_vfcvt_x_f_v trans_vfcvt_f_xu_v trans_vfcvt_f_x_v trans_vfcvt_rtz_xu_f_v
        trans_vfcvt_rtz_x_f_v trans_vfwcvt_xu_f_v trans_vfwcvt_x_f_v trans_vfwcvt_f_xu_v trans_vfwcvt_f_x_v
        trans_vfwcvt_f_f_v trans_vfwcvt_rtz_xu_f_v trans_vfwcvt_rtz_x_f_v trans_vfncvt_xu_f_w
        trans_vfncvt_x_f_w trans_vfncvt_f_xu_w trans_vfncvt_f_x_w trans_vfncvt_f_f_w trans_vfncvt_rod_f_f_w
        trans_vfncvt_rtz_xu_f_w trans_vfncvt_rtz_x_f_w trans_vfsqrt_v trans_vfrsqrt7_v trans_vfrec7_v
        trans_vfclass_v;
    v_float_f(ArgVx1):
        trans_vfmv_v_f trans_vfmv_s_f;
    v_to_x(ArgTox):
        trans_vcpop_m trans_vfirst_m;
    v_to_x(ArgToxm):
        trans_vmv_x_s;
    v_int(ArgV0):
        trans_vid_v;
    v_to_f(ArgToxm):
        trans_vfmv_f_s;
}

macro_rules! scalars {
    ($($args:ident $field:ident;)*) => {$(
        impl Scalar for $args {
            fn register(&self) -> i32 {
                self.$field
            }
        }
    )*};
}

/// The integer or floating-point register of an instruction.
trait Scalar {
    fn register(&self) -> i32;
}

scalars! {
    ArgVx rs1;
    ArgVxm rs1;
    ArgVx1 rs1;
    ArgVmem rs1;
    ArgVmemr rs1;
    ArgVmemx rs1;
    ArgTox rd;
    ArgToxm rd;
}

impl Translator<'_, '_> {
    pub(super) fn word(&mut self) -> Value {
        self.b.iconst(Type::I64, u64::from(self.bits))
    }

    fn v_call(&mut self, helper: usize, scalar: Value) -> Value {
        let word = self.word();
        self.b.call(id(helper), Type::I64, &[word, scalar])
    }

    fn v_int<A>(&mut self, _: &A) {
        if self.v_inline_int() {
            return;
        }
        let zero = self.b.iconst(Type::I64, 0);
        self.v_call(vector::INTEGER, zero);
    }

    fn v_int_x(&mut self, a: &impl Scalar) {
        if self.v_inline_int() {
            return;
        }
        let x = self.x(a.register());
        let x = self.b.sext(Type::I64, x);
        self.v_call(vector::INTEGER, x);
    }

    fn v_to_x(&mut self, a: &impl Scalar) {
        if self.v_inline_int() {
            return;
        }
        let zero = self.b.iconst(Type::I64, 0);
        let v = self.v_call(vector::INTEGER, zero);
        let v = self.b.trunc(self.xt, v);
        self.set_x(a.register(), v);
    }

    fn v_float<A>(&mut self, _: &A) {
        if self.v_inline_float() {
            return;
        }
        let zero = self.b.iconst(Type::I64, 0);
        self.v_call(vector::FLOAT, zero);
    }

    fn v_float_f(&mut self, a: &impl Scalar) {
        if self.v_inline_float() {
            return;
        }
        let f = self.f_bits(a.register());
        self.v_call(vector::FLOAT, f);
    }

    fn v_to_f(&mut self, a: &impl Scalar) {
        if self.v_inline_float() {
            return;
        }
        let zero = self.b.iconst(Type::I64, 0);
        let v = self.v_call(vector::FLOAT, zero);
        let v = self.b.bitcast(Type::F64, v);
        self.b.set(state::f(a.register() as u16), v);
    }

    fn v_access(&mut self, rs1: i32, stride: Value) {
        let base = self.x(rs1);
        self.v_access_call(base, stride);
    }

    fn v_memory(&mut self, a: &impl Scalar) {
        if self.v_inline_memory() {
            return;
        }
        let none = self.b.iconst(Type::I64, 0);
        self.v_access(a.register(), none);
        // Fault-only-first loads may have made `vl` smaller.
        if self.bits >> 20 & 31 == 16 && self.bits >> 26 & 3 == 0 && self.bits & 0x7f == 0x07 {
            self.v_check_vl();
        }
    }

    fn v_strided(&mut self, a: &ArgVmems) {
        let stride = self.x(a.rs2);
        let stride = self.b.sext(Type::I64, stride);
        self.v_access(a.rs1, stride);
    }
}
