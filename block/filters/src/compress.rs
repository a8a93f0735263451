//! `compress`: what is written is stored compressed, where the format below can do that and whole clusters come that have no
//! data yet; other writes pass as they are.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use block::{BlockError, BlockNode, NodeInfo};
use block_formats::Image;
use serde_json::{Map, Value};

use crate::driver::{Children, wrong};
use crate::pass::{joined, named, pass, total};

/// A node that compresses.
#[derive(Debug)]
pub struct Compress {
    child: Arc<dyn Image>,
    cluster: u64,
}

impl Compress {
    /// Over `child`.
    pub fn new(child: Arc<dyn Image>) -> Result<Self, BlockError> {
        let cluster = child.details().cluster_size;
        match cluster.filter(|_| block_formats::find(child.format()).is_ok_and(|f| f.compresses)) {
            Some(cluster) => Ok(Compress { child, cluster }),
            None => Err(wrong("compress", format!("format {} cannot store compressed data", child.format()))),
        }
    }
}

pub(crate) fn make(
    children: &mut dyn Children,
    map: &Map<String, Value>,
) -> Result<Arc<dyn BlockNode>, BlockError> {
    Ok(Arc::new(Compress::new(children.child(map, "file")?)?))
}

impl BlockNode for Compress {
    pass!(child: size flush discard write_zeroes status resize allocated_size);

    fn info(&self) -> NodeInfo {
        let info = named("compress", &*self.child);
        NodeInfo { granularity: self.cluster.min(1 << 30) as u32, ..info }
    }

    fn read(&self, offset: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<(), BlockError> {
        self.child.read(offset, bufs)
    }

    fn write(&self, offset: u64, bufs: &[IoSlice<'_>], fua: bool) -> Result<(), BlockError> {
        let end = offset + total(bufs);
        let whole =
            offset.is_multiple_of(self.cluster) && (end.is_multiple_of(self.cluster) || end == self.size());
        let free = || Ok::<_, BlockError>(self.child.status(offset..end)?.iter().all(|e| !e.allocated));
        if !whole || offset == end || !free()? {
            return self.child.write(offset, bufs, fua);
        }
        let data = joined(bufs);
        for (i, part) in data.chunks(self.cluster as usize).enumerate() {
            self.child.write_compressed(offset + i as u64 * self.cluster, part)?;
        }
        if fua { self.child.flush() } else { Ok(()) }
    }

    fn children(&self) -> Vec<Arc<dyn BlockNode>> {
        vec![self.child.clone()]
    }
}
