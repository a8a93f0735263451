//! The state of a machine, kept with a snapshot (`docs/interop/qcow2`, "Snapshots", `vm_state_size`).
//!
//! It lies behind the disk's end, from the first entry of the L1 table that no byte of the disk needs. It is written there
//! before the snapshot is made, whose L1 table then has it alone: the disk's own is cut off where the state begins. What a crash
//! leaves of it is dropped before the disk grows to where it is.

use std::io::IoSliceMut;
use std::ops::Range;
use std::sync::Arc;

use block::{BlockError, BlockNode, Extent, NodeInfo};

use super::header::{Header, MAX_L1};
use super::{Meta, Qcow2, snapshot};

/// Entries by which the L1 table grows at least.
const STEP: u64 = 64;

impl Qcow2 {
    /// Where the state begins.
    fn state_start(&self, meta: &Meta) -> u64 {
        meta.header.l1_needed(self.virtual_size()) << meta.header.l2_span_bits()
    }

    /// Writes a part of the state.
    pub(super) fn write_state_at(&self, at: u64, data: &[u8]) -> Result<(), BlockError> {
        self.check_writable()?;
        if self.geo.external {
            return Err(BlockError::Unsupported("the state of a machine beside a data file"));
        }
        let _gate = self.gate.write();
        let start = {
            let mut guard = self.meta.lock();
            let meta = &mut *guard;
            let span = meta.header.l2_span_bits();
            let start = self.state_start(meta);
            let end = at.checked_add(data.len() as u64).and_then(|end| end.checked_add(start));
            let end = end.filter(|end| *end <= (MAX_L1 / 8) << span);
            let end = end.ok_or_else(|| {
                self.bad(
                    "the state of the machine is longer than the image can keep; larger clusters are needed",
                )
            })?;
            if end > (meta.l1.len() as u64) << span {
                let ahead = (end.div_ceil(1 << span) + STEP).min(MAX_L1 / 8);
                self.lengthen_l1(meta, ahead << span)?;
            }
            start
        };
        self.write_inner(start + at, data)
    }

    /// Makes the L1 table long enough for a place behind the disk, for good.
    fn lengthen_l1(&self, meta: &mut Meta, size: u64) -> Result<(), BlockError> {
        let (place, entries) = (meta.header.l1_offset, meta.header.l1_size);
        self.grow_l1(meta, size)?;
        if meta.header.l1_offset != place {
            return Ok(());
        }
        // It has grown where it is, and the header does not say so yet.
        self.file.flush()?;
        let before = Header { l1_size: entries, ..meta.header.clone() };
        self.commit_header(meta, before).map_err(|(e, _)| {
            meta.l1.truncate(entries as usize);
            e
        })
    }

    /// Reads a part of the state that no snapshot has yet.
    pub(super) fn read_state_at(&self, at: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        let _gate = self.gate.read();
        let start = self.state_start(&self.meta.lock());
        let place = start.checked_add(at).filter(|p| p.checked_add(buf.len() as u64).is_some());
        let place = place.ok_or_else(|| self.bad(format!("the state of a machine has no byte {at:#x}")))?;
        self.read_inner(place, buf)
    }

    /// Cuts the disk's L1 table off where a disk of `size` ends. What the rest of it held is free once that is on the disk. The
    /// gate is held for writing.
    pub(super) fn drop_state(&self, meta: &mut Meta, size: u64) -> Result<(), BlockError> {
        let first = meta.header.l1_needed(size) as usize;
        let rest: Vec<u64> = meta.l1.get(first..).unwrap_or_default().to_vec();
        if rest.iter().all(|word| *word == 0) {
            return Ok(());
        }
        self.mark_dirty(meta)?;
        for (i, _) in rest.iter().enumerate().filter(|(_, word)| **word != 0) {
            self.set_l1(meta, first + i, 0);
        }
        self.each_reached(meta, &rest, |meta, run| {
            meta.refs.drop_later(run);
            Ok(())
        })?;
        self.settle(meta)
    }

    /// The same where the disk ends now.
    pub(super) fn discard_state_now(&self) -> Result<(), BlockError> {
        self.check_writable()?;
        let _gate = self.gate.write();
        let mut meta = self.meta.lock();
        self.drop_state(&mut meta, self.virtual_size())
    }
}

/// The state that a snapshot keeps, as a disk for reading.
#[derive(Debug)]
struct Saved {
    view: Arc<Qcow2>,
    start: u64,
    size: u64,
}

impl BlockNode for Saved {
    fn info(&self) -> NodeInfo {
        NodeInfo { name: format!("state in {}", self.view.filename), size: self.size, ..self.view.info() }
    }

    fn read(&self, mut offset: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<(), BlockError> {
        for buf in bufs {
            self.view.read_inner(self.start + offset, buf)?;
            offset += buf.len() as u64;
        }
        Ok(())
    }

    fn write(&self, _: u64, _: &[std::io::IoSlice<'_>], _: bool) -> Result<(), BlockError> {
        Err(BlockError::ReadOnly)
    }

    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }

    fn status(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        Ok(vec![Extent::new(range, true, false)])
    }
}

/// The state that a snapshot keeps.
pub(super) fn open(image: &Qcow2, id: &str) -> Result<Arc<dyn BlockNode>, BlockError> {
    let view = snapshot::view(image, id)?;
    let size = {
        let meta = image.meta.lock();
        meta.snapshots[image.find_snapshot(&meta, id)?].info.vm_state_size
    };
    let start = view.state_start(&view.meta.lock());
    if start.checked_add(size).is_none() {
        return Err(
            image.bad(format!("qcow2 snapshot '{id}': vm_state_size {size:#x} is more than there is"))
        );
    }
    Ok(Arc::new(Saved { view: Arc::new(view), start, size }))
}
