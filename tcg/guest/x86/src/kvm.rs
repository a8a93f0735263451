//! The paravirtual clock that KVM's guests know (Linux Documentation/virt/kvm/x86/msr.rst and cpuid.rst).
//!
//! The time stamp counter runs with the machine's clock, so the page that relates them is written once and stays true.

use std::time::{SystemTime, UNIX_EPOCH};

use tcg_engine::Cx;

use crate::{guest::X86, msr};

/// MSR_KVM_SYSTEM_TIME_NEW.
pub(crate) const SYSTEM_TIME: u32 = 0x4b56_4d01;
/// MSR_KVM_SYSTEM_TIME.
pub(crate) const SYSTEM_TIME_OLD: u32 = 0x12;
/// MSR_KVM_WALL_CLOCK_NEW.
pub(crate) const WALL_CLOCK: u32 = 0x4b56_4d00;
/// MSR_KVM_WALL_CLOCK.
pub(crate) const WALL_CLOCK_OLD: u32 = 0x11;

/// Leaf 0x40000001: clock by both pairs of registers, and its rate is the same for all vCPUs.
pub(crate) const FEATURES: u32 = 1 | 1 << 3 | 1 << 24;

const ENABLED: u64 = 1;
/// Flag of the time page: readings of different vCPUs compare.
const STABLE: u64 = 1;

/// Writes eight bytes of guest physical memory, if it is RAM.
fn put(cx: &mut Cx<'_, X86>, gpa: u64, v: u64) {
    while let Some(old) = cx.phys_read(gpa, 8) {
        if old == v || cx.phys_cas(gpa, 8, old, v) != Some(false) {
            return;
        }
    }
}

/// A write to the system time register: the page says how nanoseconds follow from the counter.
pub(crate) fn set_system_time(cx: &mut Cx<'_, X86>, value: u64) {
    cx.state.msrs.kvm_system_time = value;
    if value & ENABLED == 0 {
        return;
    }
    let gpa = value & !3;
    // Nanoseconds are (ticks << shift) * multiplier >> 32.
    let (mut multiplier, mut shift) = ((msr::TSC_KHZ << 32) / cx.state.msrs.tsc_khz.max(1), 0u8);
    while multiplier >> 32 != 0 {
        (multiplier, shift) = (multiplier >> 1, shift.wrapping_add(1));
    }
    while multiplier >> 31 == 0 && multiplier != 0 {
        (multiplier, shift) = (multiplier << 1, shift.wrapping_sub(1));
    }
    let (tsc, now) = (msr::tsc(cx), cx.now_ns());
    let scale = multiplier | u64::from(shift) << 32 | STABLE << 40;
    for (at, v) in [(0, 2), (8, tsc), (16, now), (24, scale)] {
        put(cx, gpa + at, v);
    }
}

/// A write to the wall clock register: the time of day at which the machine's clock was zero.
pub(crate) fn set_wall_clock(cx: &mut Cx<'_, X86>, value: u64) {
    cx.state.msrs.kvm_wall_clock = value;
    let day = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let start = day.as_nanos().saturating_sub(u128::from(cx.now_ns()));
    let (sec, nsec) = ((start / 1_000_000_000) as u64 & 0xffff_ffff, (start % 1_000_000_000) as u64);
    let gpa = value & !3;
    // Twelve bytes: version, seconds, nanoseconds.
    put(cx, gpa, 2 | sec << 32);
    if let Some(old) = cx.phys_read(gpa + 8, 4) {
        let _ = cx.phys_cas(gpa + 8, 4, old, nsec);
    }
}
