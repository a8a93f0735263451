#![expect(unsafe_code, reason = "called by generated code with pointers into its frame and environment")]
//! The soft fallback: any operation without a recipe is computed by the interpreter's `eval`.

use tcg_ir::abi::EnvHeader;
use tcg_ir::interp::{Val, eval};
use tcg_ir::{Exceptions, Inst, Op, Type, Value};

/// An operation and its operands, in the frame of generated code.
#[derive(Debug)]
#[repr(C)]
pub(super) struct SoftCall {
    /// `Op`, result `Type`, `sub` (16 bits).
    pub(super) what: u32,
    /// `Type` of each operand, a byte each.
    pub(super) types: u32,
    pub(super) imm: u64,
    pub(super) args: [[u64; 8]; 3],
    pub(super) out: [u64; 8],
}

/// First word of a call.
pub(super) fn what(inst: &Inst) -> u32 {
    inst.op as u32 | (inst.ty as u32) << 8 | u32::from(inst.sub) << 16
}

/// Computes `call`. Exceptions go to the environment.
///
/// # Safety
/// `call` and `env` are valid, exclusive pointers.
pub(super) unsafe extern "C" fn soft(call: *mut SoftCall, env: *mut EnvHeader) {
    // SAFETY: generated code passes its own frame and environment, which nothing else uses meanwhile.
    let (call, env) = unsafe { (&mut *call, &mut *env) };
    let ty = |n: u32| Type::ALL.get(n as usize & 0xff).copied().unwrap_or(Type::Void);
    let inst = Inst {
        op: Op::ALL.get(call.what as usize & 0xff).copied().unwrap_or(Op::Nop),
        ty: ty(call.what >> 8),
        sub: (call.what >> 16) as u16,
        a: Value::NONE,
        b: Value::NONE,
        c: Value::NONE,
        imm: call.imm,
    };
    let types = [ty(call.types), ty(call.types >> 8), ty(call.types >> 16)];
    let [a, b, c] = call.args.map(Val);
    let mut raised = Exceptions::empty();
    call.out = eval(&inst, types, [&a, &b, &c], &mut raised).0;
    env.fpexc |= raised.bits();
}
