//! On this host disks are given to others by NBD alone.

use anyhow::{Result, bail};
use block_export::Export;
use serde_json::{Map, Value};

/// Types of exports that this host has besides NBD.
pub(super) const TYPES: &[&str] = &[];

/// What keeps an export up: there is none.
pub(super) struct Held(());

impl Held {
    /// Says that there is no such export.
    pub(super) fn start(kind: &str, _: Export, _: &Map<String, Value>) -> Result<Self> {
        bail!("block export type '{kind}' is for Linux hosts")
    }

    /// There is nobody to be told.
    pub(super) fn resized(&self) {}
}
