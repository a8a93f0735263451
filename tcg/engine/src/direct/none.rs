//! Hosts without user-mode emulation: no partition has direct memory, so nothing here is ever called.

use crate::user::HostFault;

const NONE: HostFault = HostFault { address: 0, signal: 0, code: 0, write: false };

pub(crate) fn without_signals<R>(f: impl FnOnce() -> R) -> R {
    f()
}

pub(crate) fn read(_: u64, _: &mut [u8]) -> Result<(), HostFault> {
    Err(NONE)
}

pub(crate) fn write(_: u64, _: &[u8]) -> Result<(), HostFault> {
    Err(NONE)
}

pub(crate) fn copy(_: u64, _: u64, _: usize) -> Result<(), HostFault> {
    Err(NONE)
}

pub(crate) fn fill(_: u64, _: u64, _: usize) -> Result<(), HostFault> {
    Err(NONE)
}

pub(crate) fn cas_wide(_: u64, _: u128, _: u128) -> Result<u128, HostFault> {
    Err(NONE)
}

pub(crate) fn cas(_: u64, _: usize, _: u64, _: u64) -> Result<u64, HostFault> {
    Err(NONE)
}
