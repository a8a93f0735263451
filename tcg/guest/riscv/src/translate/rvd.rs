//! D: double precision.

use tcg_ir::{FCond, Op, Type};

use super::{Translator, rvf::fp_instructions};
use crate::{cpu::Ext, decode::*};

const S: Type = Type::F32;
const D: Type = Type::F64;

fp_instructions! {
    trans_fld ArgI => fp_load(D, 3, Ext::D);
    trans_fsd ArgS => fp_store(3, Ext::D);
    trans_fmadd_d ArgF3 => fp_fma(false, false, D, Ext::D);
    trans_fmsub_d ArgF3 => fp_fma(false, true, D, Ext::D);
    trans_fnmsub_d ArgF3 => fp_fma(true, false, D, Ext::D);
    trans_fnmadd_d ArgF3 => fp_fma(true, true, D, Ext::D);
    trans_fadd_d ArgF2 => fp_binary(Op::Fadd, D, Ext::D);
    trans_fsub_d ArgF2 => fp_binary(Op::Fsub, D, Ext::D);
    trans_fmul_d ArgF2 => fp_binary(Op::Fmul, D, Ext::D);
    trans_fdiv_d ArgF2 => fp_binary(Op::Fdiv, D, Ext::D);
    trans_fsqrt_d ArgF1 => fp_sqrt(D, Ext::D);
    trans_fsgnj_d ArgR => fp_sign(0, D, Ext::D);
    trans_fsgnjn_d ArgR => fp_sign(1, D, Ext::D);
    trans_fsgnjx_d ArgR => fp_sign(2, D, Ext::D);
    trans_fmin_d ArgR => fp_min_max(Op::Fmin, D, Ext::D);
    trans_fmax_d ArgR => fp_min_max(Op::Fmax, D, Ext::D);
    trans_feq_d ArgR => fp_compare(FCond::Eq, D, Ext::D);
    trans_flt_d ArgR => fp_compare(FCond::Lt, D, Ext::D);
    trans_fle_d ArgR => fp_compare(FCond::Le, D, Ext::D);
    trans_fclass_d ArgR2 => fp_class(D, Ext::D);
    trans_fcvt_w_d ArgF1 => fp_to_int(Type::I32, false, D, Ext::D);
    trans_fcvt_wu_d ArgF1 => fp_to_int(Type::I32, true, D, Ext::D);
    trans_fcvt_l_d ArgF1 => fp_to_int(Type::I64, false, D, Ext::D);
    trans_fcvt_lu_d ArgF1 => fp_to_int(Type::I64, true, D, Ext::D);
    trans_fcvt_d_w ArgF1 => fp_from_int(Type::I32, false, D, Ext::D);
    trans_fcvt_d_wu ArgF1 => fp_from_int(Type::I32, true, D, Ext::D);
    trans_fcvt_d_l ArgF1 => fp_from_int(Type::I64, false, D, Ext::D);
    trans_fcvt_d_lu ArgF1 => fp_from_int(Type::I64, true, D, Ext::D);
    trans_fcvt_s_d ArgF1 => fp_convert(S, D, Ext::D);
    trans_fcvt_d_s ArgF1 => fp_convert(D, S, Ext::D);
}

impl Translator<'_, '_> {
    pub(crate) fn trans_fmv_x_d(&mut self, a: &ArgR2) -> bool {
        self.rv64() && self.fp_move_to_x(a, D, Ext::D)
    }

    pub(crate) fn trans_fmv_d_x(&mut self, a: &ArgR2) -> bool {
        self.rv64() && self.fp_move_from_x(a, D, Ext::D)
    }
}
