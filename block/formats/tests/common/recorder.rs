//! A file in memory that remembers every write, so that a power cut can be put after any of them.
#![allow(dead_code, clippy::allow_attributes, reason = "every test file uses a part of it")]

use std::io::{IoSlice, IoSliceMut};

use block::{BlockError, BlockNode, NodeInfo};
use parking_lot::Mutex;

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Write(u64, Vec<u8>),
    Size(u64),
    Barrier,
}

/// A file in memory that remembers what was done to it, and can fail.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    pub(crate) data: Mutex<Vec<u8>>,
    pub(crate) log: Mutex<Vec<Op>>,
    /// Writes left until one fails; `None` for never.
    pub(crate) fail_in: Mutex<Option<u64>>,
}

impl Recorder {
    pub(crate) fn apply(data: &mut Vec<u8>, op: &Op) {
        match op {
            Op::Write(at, bytes) => {
                let end = *at as usize + bytes.len();
                if data.len() < end {
                    data.resize(end, 0);
                }
                data[*at as usize..end].copy_from_slice(bytes);
            }
            Op::Size(size) => data.resize(*size as usize, 0),
            Op::Barrier => {}
        }
    }

    fn push(&self, op: Op) -> Result<(), BlockError> {
        if let Some(left) = &mut *self.fail_in.lock() {
            if *left == 0 {
                return Err(std::io::Error::other("injected").into());
            }
            *left -= 1;
        }
        Self::apply(&mut self.data.lock(), &op);
        self.log.lock().push(op);
        Ok(())
    }
}

impl BlockNode for Recorder {
    fn info(&self) -> NodeInfo {
        NodeInfo {
            name: "recorder:".into(),
            size: self.size(),
            read_only: false,
            granularity: 512,
            can_discard: false,
        }
    }

    fn size(&self) -> u64 {
        self.data.lock().len() as u64
    }

    fn read(&self, offset: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<(), BlockError> {
        let data = self.data.lock();
        let mut at = offset as usize;
        for buf in bufs {
            for b in buf.iter_mut() {
                *b = data.get(at).copied().unwrap_or(0);
                at += 1;
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, bufs: &[IoSlice<'_>], _: bool) -> Result<(), BlockError> {
        self.push(Op::Write(offset, bufs.iter().flat_map(|b| b.iter().copied()).collect()))
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.push(Op::Barrier)
    }

    fn resize(&self, size: u64) -> Result<(), BlockError> {
        self.push(Op::Size(size))
    }

    fn grows(&self) -> bool {
        true
    }
}
