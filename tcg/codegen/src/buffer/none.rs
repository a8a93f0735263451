//! Hosts without a code mapping yet: the space cannot be made, and the engine uses the interpreter.

use std::io;

/// Never made.
#[derive(Debug)]
pub(super) struct Copy;

/// Never made.
#[derive(Debug)]
pub(super) struct Mapping {
    pub(super) rw: *mut u8,
    pub(super) rx: *mut u8,
}

// SAFETY: never made.
unsafe impl Send for Mapping {}
// SAFETY: never made.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub(super) fn copy(&self, _used: usize) -> io::Result<Copy> {
        Ok(Copy)
    }

    pub(super) fn replace(&self, _copy: &Copy) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn settle(&self, _range: std::ops::Range<usize>) {}

    pub(super) fn new(_size: usize) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "no executable memory on this host"))
    }
}
