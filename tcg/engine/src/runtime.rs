//! Entry points that generated code calls off its fast path.
#![expect(unsafe_code, reason = "called by generated code with raw addresses")]

use std::ffi::c_void;

use tcg_codegen::RuntimeFns;
use tcg_ir::{HelperResult, MemOp, RmwOp};

use crate::{Cx, Guest, Trap, guest::STATUS_FAULT, memory::Wide, vcpu::Vcpu};

/// The table for guest `G`.
pub(crate) fn functions<G: Guest>() -> RuntimeFns {
    RuntimeFns {
        load: load::<G>,
        store: store::<G>,
        load_wide: load_wide::<G>,
        store_wide: store_wide::<G>,
        rmw: rmw::<G>,
        cas: cas::<G>,
        lookup: lookup::<G>,
    }
}

/// The vCPU behind the pointer that generated code passes.
///
/// # Safety
/// `vcpu` must be the `EnvHeader::vcpu` of a `Vcpu<G>`, on that vCPU's thread, with generated code suspended in this call.
unsafe fn vcpu<'a, G: Guest>(vcpu: *mut c_void) -> &'a mut Vcpu<G> {
    // SAFETY: by the caller's promise there is no other live reference.
    unsafe { &mut *vcpu.cast::<Vcpu<G>>() }
}

fn access<G: Guest, R: Default>(
    v: &mut Vcpu<G>,
    f: impl FnOnce(&mut Cx<'_, G>) -> Result<R, Trap>,
) -> (R, u64) {
    match v.with(|_, cx| f(cx)) {
        Ok(r) => (r, 0),
        Err(trap) => {
            v.core.trap = Some(trap);
            (R::default(), STATUS_FAULT)
        }
    }
}

unsafe extern "C" fn load<G: Guest>(v: *mut c_void, gva: u64, memop: u32) -> HelperResult {
    // SAFETY: called by generated code as `vcpu` requires.
    let v = unsafe { vcpu::<G>(v) };
    let (value, status) = access(v, |cx| cx.load(gva, MemOp(memop)));
    HelperResult { value, status }
}

unsafe extern "C" fn store<G: Guest>(v: *mut c_void, gva: u64, memop: u32, value: u64) -> u64 {
    // SAFETY: called by generated code as `vcpu` requires.
    let v = unsafe { vcpu::<G>(v) };
    access(v, |cx| cx.store(gva, MemOp(memop), value)).1
}

unsafe extern "C" fn load_wide<G: Guest>(v: *mut c_void, gva: u64, memop: u32, buffer: *mut u8) -> u64 {
    // SAFETY: called by generated code as `vcpu` requires.
    let v = unsafe { vcpu::<G>(v) };
    match v.with(|_, cx| cx.load_wide(gva, MemOp(memop))) {
        Ok(w) => {
            // SAFETY: generated code passes a buffer of 64 bytes.
            unsafe { buffer.cast::<Wide>().write_unaligned(w) };
            0
        }
        Err(trap) => {
            v.core.trap = Some(trap);
            STATUS_FAULT
        }
    }
}

unsafe extern "C" fn store_wide<G: Guest>(v: *mut c_void, gva: u64, memop: u32, buffer: *mut u8) -> u64 {
    // SAFETY: called by generated code as `vcpu` requires, with a buffer of 64 bytes.
    let (v, w) = unsafe { (vcpu::<G>(v), buffer.cast::<Wide>().read_unaligned()) };
    access(v, |cx| cx.store_wide(gva, MemOp(memop), &w)).1
}

unsafe extern "C" fn rmw<G: Guest>(
    v: *mut c_void,
    gva: u64,
    memop: u32,
    op: u32,
    value: u64,
) -> HelperResult {
    // SAFETY: called by generated code as `vcpu` requires.
    let v = unsafe { vcpu::<G>(v) };
    let (value, status) = access(v, |cx| cx.rmw(gva, MemOp(memop), RmwOp::from_bits(op as u16), value));
    HelperResult { value, status }
}

unsafe extern "C" fn cas<G: Guest>(
    v: *mut c_void,
    gva: u64,
    memop: u32,
    expected: u64,
    new: u64,
) -> HelperResult {
    // SAFETY: called by generated code as `vcpu` requires.
    let v = unsafe { vcpu::<G>(v) };
    let (value, status) = access(v, |cx| cx.cas(gva, MemOp(memop), expected, new));
    HelperResult { value, status }
}

unsafe extern "C" fn lookup<G: Guest>(v: *mut c_void) -> u64 {
    // SAFETY: called by generated code as `vcpu` requires.
    unsafe { vcpu::<G>(v) }.jump_miss()
}
