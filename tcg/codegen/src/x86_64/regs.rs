//! Host registers and what generated code uses them for.
//!
//! `rsp`: frame, the same size for all units, so that they jump to each other freely. `rbp`: environment plus a bias.
//! `rax`: scratch inside one operation, never holds a value. `xmm15`, `xmm14`: the same for vectors. All others hold
//! values.

use std::mem::offset_of;

use tcg_ir::abi::{EnvHeader, STATE_OFFSET, TlbDesc};

/// A general register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gpr(pub(super) u8);

/// A vector register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Xmm(pub(super) u8);

pub(super) const RAX: Gpr = Gpr(0);
pub(super) const RCX: Gpr = Gpr(1);
pub(super) const RDX: Gpr = Gpr(2);
pub(super) const RBX: Gpr = Gpr(3);
pub(super) const RSP: Gpr = Gpr(4);
pub(super) const RBP: Gpr = Gpr(5);
pub(super) const RSI: Gpr = Gpr(6);
pub(super) const RDI: Gpr = Gpr(7);
pub(super) const R8: Gpr = Gpr(8);
pub(super) const R12: Gpr = Gpr(12);
pub(super) const R13: Gpr = Gpr(13);
pub(super) const R14: Gpr = Gpr(14);
pub(super) const R15: Gpr = Gpr(15);

/// Scratch vector registers.
pub(super) const X15: Xmm = Xmm(15);
pub(super) const X14: Xmm = Xmm(14);

/// Allocatable registers: bits 0 to 15 general, 16 to 31 vector.
pub(super) const GPRS: u32 = 0xffff & !(1 << 0 | 1 << 4 | 1 << 5);
pub(super) const XMMS: u32 = 0x3fff << 16;
/// General registers a call does not preserve (besides `rax`).
pub(super) const CALLER_SAVED: u32 = 1 << 1 | 1 << 2 | 1 << 6 | 1 << 7 | 0xf << 8;
/// Registers that the code units share clobbers besides `rax`: they hold no values in the first tier.
pub(super) const SHARED_SCRATCH: u32 = 1 << 1 | 1 << 2;
/// All that a call does not preserve.
pub(super) const CLOBBERED: u32 = CALLER_SAVED | XMMS;
/// Order in which loops pin slots to general registers.
pub(super) const PIN_GPRS: [u8; 8] = [3, 12, 13, 14, 15, 10, 11, 9];
/// Order in which loops pin slots to vector registers.
pub(super) const PIN_XMMS: [u8; 8] = [6, 7, 8, 9, 10, 11, 12, 13];

/// `rbp` is the environment's address plus this: the first 256 bytes of state are in reach of one byte.
pub(super) const BIAS: i32 = STATE_OFFSET as i32 + 128;

/// Displacement from `rbp` of a byte of state.
pub(super) const fn state(offset: u32) -> i32 {
    STATE_OFFSET as i32 + offset as i32 - BIAS
}

macro_rules! header {
    ($($name:ident $field:ident)*) => {
        $(pub(super) const $name: i32 = offset_of!(EnvHeader, $field) as i32 - BIAS;)*
    };
}
header! {
    EXIT_REQUEST exit_request
    FPEXC fpexc
    BUDGET budget
    STATUS status
    EXIT_SITE exit_site
    CALL_TARGETS call_targets
    JUMP_CACHE jump_cache
    SHARED_JUMPS shared_jumps
    TLB tlb
    HOST_FPCR host_fpcr
    GUEST_FPCR guest_fpcr
    VCPU vcpu
    SCRATCH scratch
}

/// Displacement of a TLB description.
pub(super) const fn tlb(index: usize) -> i32 {
    TLB + (index * size_of::<TlbDesc>()) as i32
}

/// Displacement of the scratch word of a general register.
pub(super) const fn saved_gpr(r: u8) -> i32 {
    SCRATCH + r as i32 * 8
}

/// Displacement of the scratch words of a vector register.
pub(super) const fn saved_xmm(r: u8) -> i32 {
    SCRATCH + 128 + r as i32 * 64
}

/// Scratch words behind the registers: MXCSR while a stub runs Rust code, and one more.
pub(super) const SAVED_MXCSR: i32 = SCRATCH + 144 * 8;
pub(super) const SCRATCH_WORD: i32 = SCRATCH + 145 * 8;

/// Frame: operands and result of the soft fallback at its bottom, then spill space.
pub(super) const SOFT: i32 = 0;
/// Bytes the soft fallback takes.
pub(super) const SOFT_SIZE: i32 = size_of::<super::soft::SoftCall>() as i32;
/// First byte of spill space.
pub(super) const SPILL: u32 = (SOFT_SIZE as u32).next_multiple_of(64);
/// Bytes of the frame; with the return address and six pushes, `rsp` is a multiple of 16 in units.
pub(super) const FRAME: u32 = 8192 + 8;
/// Offset of the buffer of wide accesses in the soft area: its result.
pub(super) const WIDE_BUFFER: i32 = std::mem::offset_of!(super::soft::SoftCall, out) as i32;
