//! Reading.

use std::io::IoSliceMut;

use block::BlockError;

use super::Qcow2;
use super::l2::{Kind, Run};
use crate::image::Image;
use std::sync::Arc;

impl Qcow2 {
    /// Reads without regard to the gate, which the caller holds.
    pub(super) fn read_inner(&self, mut offset: u64, mut buf: &mut [u8]) -> Result<(), BlockError> {
        while !buf.is_empty() {
            let run = self.lookup(&mut self.meta.lock(), offset, buf.len() as u64)?;
            let (part, rest) = buf.split_at_mut(run.len as usize);
            self.read_run(run, offset, part)?;
            offset += run.len;
            buf = rest;
        }
        Ok(())
    }

    /// Reads what one run of the tables covers.
    fn read_run(&self, run: Run, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        match (run.kind, run.host) {
            (Kind::Data, Some(host)) => self.read_data(host, offset, &mut [IoSliceMut::new(buf)]),
            (Kind::Packed, Some(host)) => {
                let within = (offset % self.geo.cluster()) as usize;
                self.compressors.read(self, host, run.packed, within, buf)
            }
            (Kind::Hole, _) => self.read_backing(offset, buf),
            _ => {
                buf.fill(0);
                Ok(())
            }
        }
    }

    /// Reads what lies below, zero beyond its end.
    pub(super) fn read_backing(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        let backing: Option<Arc<dyn Image>> = self.backing.read().clone();
        let Some(backing) = backing else {
            buf.fill(0);
            return Ok(());
        };
        let there = backing.size().saturating_sub(offset).min(buf.len() as u64) as usize;
        let (data, beyond) = buf.split_at_mut(there);
        beyond.fill(0);
        if data.is_empty() {
            return Ok(());
        }
        backing.read(offset, &mut [IoSliceMut::new(data)])
    }

    /// Reads into several buffers.
    pub(super) fn read_buffers(
        &self,
        mut offset: u64,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Result<(), BlockError> {
        let _gate = self.gate.read();
        if bufs.len() > 1 {
            // One run for all buffers is one transfer.
            let total = bufs.iter().map(|b| b.len() as u64).sum();
            let run = self.lookup(&mut self.meta.lock(), offset, total)?;
            if let (Kind::Data, Some(host), true) = (run.kind, run.host, run.len == total) {
                return self.read_data(host, offset, bufs);
            }
        }
        for buf in bufs {
            self.read_inner(offset, buf)?;
            offset += buf.len() as u64;
        }
        Ok(())
    }
}
