//! Zfh and Zfhmin: half precision. Zfhmin has moves and conversions between formats only.

use tcg_ir::{FCond, Op, Type};

use super::{Translator, rvf::fp_instructions};
use crate::{cpu::Ext, decode::*};

const H: Type = Type::F16;
const S: Type = Type::F32;
const D: Type = Type::F64;

fp_instructions! {
    trans_flh ArgI => fp_load(H, 1, Ext::ZFHMIN);
    trans_fsh ArgS => fp_store(1, Ext::ZFHMIN);
    trans_fmadd_h ArgF3 => fp_fma(false, false, H, Ext::ZFH);
    trans_fmsub_h ArgF3 => fp_fma(false, true, H, Ext::ZFH);
    trans_fnmsub_h ArgF3 => fp_fma(true, false, H, Ext::ZFH);
    trans_fnmadd_h ArgF3 => fp_fma(true, true, H, Ext::ZFH);
    trans_fadd_h ArgF2 => fp_binary(Op::Fadd, H, Ext::ZFH);
    trans_fsub_h ArgF2 => fp_binary(Op::Fsub, H, Ext::ZFH);
    trans_fmul_h ArgF2 => fp_binary(Op::Fmul, H, Ext::ZFH);
    trans_fdiv_h ArgF2 => fp_binary(Op::Fdiv, H, Ext::ZFH);
    trans_fsqrt_h ArgF1 => fp_sqrt(H, Ext::ZFH);
    trans_fsgnj_h ArgR => fp_sign(0, H, Ext::ZFH);
    trans_fsgnjn_h ArgR => fp_sign(1, H, Ext::ZFH);
    trans_fsgnjx_h ArgR => fp_sign(2, H, Ext::ZFH);
    trans_fmin_h ArgR => fp_min_max(Op::Fmin, H, Ext::ZFH);
    trans_fmax_h ArgR => fp_min_max(Op::Fmax, H, Ext::ZFH);
    trans_feq_h ArgR => fp_compare(FCond::Eq, H, Ext::ZFH);
    trans_flt_h ArgR => fp_compare(FCond::Lt, H, Ext::ZFH);
    trans_fle_h ArgR => fp_compare(FCond::Le, H, Ext::ZFH);
    trans_fclass_h ArgR2 => fp_class(H, Ext::ZFH);
    trans_fcvt_w_h ArgF1 => fp_to_int(Type::I32, false, H, Ext::ZFH);
    trans_fcvt_wu_h ArgF1 => fp_to_int(Type::I32, true, H, Ext::ZFH);
    trans_fcvt_l_h ArgF1 => fp_to_int(Type::I64, false, H, Ext::ZFH);
    trans_fcvt_lu_h ArgF1 => fp_to_int(Type::I64, true, H, Ext::ZFH);
    trans_fcvt_h_w ArgF1 => fp_from_int(Type::I32, false, H, Ext::ZFH);
    trans_fcvt_h_wu ArgF1 => fp_from_int(Type::I32, true, H, Ext::ZFH);
    trans_fcvt_h_l ArgF1 => fp_from_int(Type::I64, false, H, Ext::ZFH);
    trans_fcvt_h_lu ArgF1 => fp_from_int(Type::I64, true, H, Ext::ZFH);
    trans_fcvt_s_h ArgF1 => fp_convert(S, H, Ext::ZFHMIN);
    trans_fcvt_h_s ArgF1 => fp_convert(H, S, Ext::ZFHMIN);
    trans_fcvt_d_h ArgF1 => fp_convert(D, H, Ext::ZFHMIN.with(Ext::D));
    trans_fcvt_h_d ArgF1 => fp_convert(H, D, Ext::ZFHMIN.with(Ext::D));
    trans_fmv_x_h ArgR2 => fp_move_to_x(H, Ext::ZFHMIN);
    trans_fmv_h_x ArgR2 => fp_move_from_x(H, Ext::ZFHMIN);
}
