//! What the rest of the program sees of an image.

use std::fmt::Write;
use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;
use std::sync::Arc;

use block::{BlockError, BlockNode, Extent, NodeInfo};
use serde_json::{Value, json};

use super::header::incompatible;
use super::l2::Kind;
use super::{Qcow2, bitmap, snapshot, state};
use crate::image::{
    BackingName, BitmapChange, BitmapInfo, CheckReport, Details, Image, Preallocation, Repair, Snapshot,
};
use crate::options::Options;

impl BlockNode for Qcow2 {
    fn info(&self) -> NodeInfo {
        NodeInfo {
            name: format!("qcow2:{}", self.filename),
            size: self.virtual_size(),
            read_only: self.read_only,
            granularity: self.geo.cluster() as u32,
            can_discard: true,
        }
    }

    fn size(&self) -> u64 {
        self.virtual_size()
    }

    fn read(&self, offset: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<(), BlockError> {
        self.read_buffers(offset, bufs)
    }

    fn write(&self, offset: u64, bufs: &[IoSlice<'_>], fua: bool) -> Result<(), BlockError> {
        self.write_buffers(offset, bufs, fua)
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.do_flush()
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.discard_range(offset, len, false)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.zero_range(offset, len, unmap)
    }

    fn status(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        let _gate = self.gate.read();
        let below = self.backing.read().is_some();
        let mut out = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let run = self.lookup(&mut self.meta.lock(), at, range.end - at)?;
            let (allocated, zero) = match run.kind {
                Kind::Hole => (false, !below),
                Kind::Zero => (true, true),
                Kind::Data | Kind::Packed => (true, false),
            };
            let compressed = run.kind == Kind::Packed;
            // Nobody reads encrypted data at its place.
            let plain = !compressed && self.crypt.is_none();
            let offset = run.host.filter(|_| plain && run.kind != Kind::Hole);
            let extent = Extent { offset, compressed, ..Extent::new(at..at + run.len, allocated, zero) };
            Extent::push(&mut out, extent);
            at += run.len;
        }
        Ok(out)
    }

    fn resize(&self, size: u64) -> Result<(), BlockError> {
        self.change_size(size, Preallocation::Off)
    }

    fn allocated_size(&self) -> Option<u64> {
        let own = self.file.allocated_size()?;
        Some(own + if self.geo.external { self.data.allocated_size()? } else { 0 })
    }

    fn relock(&self, locked: bool) -> Result<(), BlockError> {
        self.file.relock(locked)?;
        if self.geo.external { self.data.relock(locked) } else { Ok(()) }
    }

    fn children(&self) -> Vec<Arc<dyn BlockNode>> {
        let mut all = vec![self.file.clone()];
        if self.geo.external {
            all.push(self.data.clone());
        }
        all.extend(self.backing.read().clone().map(|b| b as Arc<dyn BlockNode>));
        all
    }
}

impl Image for Qcow2 {
    fn format(&self) -> &'static str {
        "qcow2"
    }

    fn filename(&self) -> &str {
        &self.filename
    }

    fn files(&self) -> Vec<(String, Arc<dyn BlockNode>)> {
        let mut all = vec![("file".to_owned(), self.file.clone())];
        if self.geo.external {
            all.push(("data-file".into(), self.data.clone()));
        }
        all
    }

    fn data_filename(&self) -> &str {
        &self.data_filename
    }

    fn details(&self) -> Details {
        let bitmaps = self.bitmaps();
        let mut encrypt = self.crypt.as_ref().map(|c| ("encrypt", c.details()));
        let meta = self.meta.lock();
        let h = &meta.header;
        let mut specific: Vec<(&'static str, Value)> =
            vec![("compat", json!(if h.version == 2 { "0.10" } else { "1.1" }))];
        specific.push(("compression-type", json!(h.compression.name())));
        if h.version == 2 {
            specific.push(("refcount-bits", json!(16)));
        } else {
            specific.push(("lazy-refcounts", json!(h.lazy())));
            if let Ok(list) = bitmaps
                && !list.is_empty()
            {
                let list: Vec<Value> = list
                    .iter()
                    .map(|b| {
                        let mut flags = Vec::new();
                        if b.inconsistent {
                            flags.push("in-use");
                        }
                        if b.enabled {
                            flags.push("auto");
                        }
                        json!({ "flags": flags, "name": b.name, "granularity": b.granularity })
                    })
                    .collect();
                specific.push(("bitmaps", Value::Array(list)));
            }
            specific.push(("refcount-bits", json!(1u64 << h.refcount_order)));
            specific.extend(encrypt.take());
            specific.push(("corrupt", json!(h.incompatible & incompatible::CORRUPT != 0)));
            if let Some(name) = h.data_file.as_ref().filter(|_| h.external()) {
                specific.push(("data-file", json!(name)));
                specific.push(("data-file-raw", json!(h.data_raw())));
            }
            specific.push(("extended-l2", json!(h.extended())));
        }
        specific.extend(encrypt);
        Details {
            cluster_size: Some(h.cluster()),
            encrypted: self.crypt.is_some(),
            dirty: h.incompatible & incompatible::DIRTY != 0,
            specific,
            ..Details::default()
        }
    }

    fn backing(&self) -> Option<Arc<dyn Image>> {
        self.backing.read().clone()
    }

    fn replace_backing(&self, backing: Option<Arc<dyn Image>>) -> Result<(), BlockError> {
        *self.backing.write() = backing;
        Ok(())
    }

    fn backing_name(&self) -> Option<BackingName> {
        self.meta.lock().header.backing.clone().filter(|b| !b.file.is_empty())
    }

    fn write_compressed(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        self.write_packed(offset, data)
    }

    fn write_compressed_parts(&self, parts: &[(u64, &[u8])], turn: &dyn Fn()) -> Result<(), BlockError> {
        self.write_packed_parts(parts, turn)
    }

    fn set_backing(&self, backing: Option<&BackingName>) -> Result<(), BlockError> {
        self.check_writable()?;
        let mut meta = self.meta.lock();
        if backing.is_some() && meta.header.data_raw() {
            return Err(self.bad("an image whose data file is raw cannot have a backing file"));
        }
        self.commit_name(&mut meta, backing.cloned())
    }

    fn make_empty(&self) -> Result<(), BlockError> {
        self.discard_range(0, self.virtual_size(), true)?;
        self.do_flush()
    }

    fn resize_with(&self, size: u64, how: Preallocation) -> Result<(), BlockError> {
        self.change_size(size, how)
    }

    fn preallocate(&self, how: Preallocation) -> Result<(), BlockError> {
        Qcow2::preallocate(self, 0, self.virtual_size(), how)
    }

    fn check(&self, repair: Repair) -> Result<CheckReport, BlockError> {
        self.do_check(repair)
    }

    fn amend(&self, options: &Options) -> Result<(), BlockError> {
        self.do_amend(options)
    }

    fn snapshots(&self) -> Vec<Snapshot> {
        self.meta.lock().snapshots.iter().map(|s| s.info.clone()).collect()
    }

    fn create_snapshot(&self, snapshot: &Snapshot) -> Result<(), BlockError> {
        snapshot::create(self, snapshot)
    }

    fn apply_snapshot(&self, id: &str) -> Result<(), BlockError> {
        snapshot::apply(self, id)
    }

    fn delete_snapshot(&self, id: &str) -> Result<(), BlockError> {
        snapshot::delete(self, id)
    }

    fn open_snapshot(&self, id: &str) -> Result<Arc<dyn BlockNode>, BlockError> {
        Ok(Arc::new(snapshot::view(self, id)?))
    }

    fn can_snapshot(&self) -> bool {
        !self.geo.external
    }

    fn write_state(&self, at: u64, data: &[u8]) -> Result<(), BlockError> {
        self.write_state_at(at, data)
    }

    fn read_state(&self, at: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        self.read_state_at(at, buf)
    }

    fn discard_state(&self) -> Result<(), BlockError> {
        self.discard_state_now()
    }

    fn open_state(&self, id: &str) -> Result<Arc<dyn BlockNode>, BlockError> {
        state::open(self, id)
    }

    fn bitmaps(&self) -> Result<Vec<BitmapInfo>, BlockError> {
        bitmap::list(self)
    }

    fn bitmap_ranges(&self, name: &str) -> Result<Vec<Range<u64>>, BlockError> {
        bitmap::ranges(self, name)
    }

    fn change_bitmap(&self, name: &str, change: &BitmapChange) -> Result<(), BlockError> {
        bitmap::change(self, name, change)
    }

    fn close(&self) -> Result<(), BlockError> {
        self.do_close()
    }
}

/// A name for messages that cannot break a line.
pub(super) fn printable(name: &str) -> String {
    name.chars().fold(String::new(), |mut out, c| {
        if c.is_control() {
            let _ = write!(out, "\\x{:02x}", c as u32);
        } else {
            out.push(c);
        }
        out
    })
}
