//! `quorum`: several nodes that hold the same; a read is what enough of them agree on, a write goes to all.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use block::{BlockError, BlockNode, Extent, NodeInfo};
use serde_json::{Map, Value};

use crate::driver::{Children, items, scalars, wrong};
use crate::pass::{spread, total_mut};

/// Most children.
const MAX_CHILDREN: usize = 32;

/// A node that votes.
#[derive(Debug)]
pub struct Quorum {
    children: Vec<Arc<dyn BlockNode>>,
    /// Children that have to agree.
    threshold: usize,
    /// Write what was agreed on to those that had something else.
    rewrite: bool,
    /// Read from the first that can be read, without a vote.
    fifo: bool,
    size: u64,
}

impl Quorum {
    /// Over `children`, of which `threshold` have to agree.
    pub fn new(
        children: Vec<Arc<dyn BlockNode>>,
        threshold: usize,
        rewrite: bool,
        fifo: bool,
    ) -> Result<Self, BlockError> {
        if !(1..=MAX_CHILDREN).contains(&children.len()) {
            return Err(wrong(
                "quorum",
                format!("{} children: expected 1 to {MAX_CHILDREN}", children.len()),
            ));
        }
        if !(1..=children.len()).contains(&threshold) {
            return Err(wrong(
                "quorum",
                format!("vote-threshold={threshold}: expected 1 to {}", children.len()),
            ));
        }
        let size = children[0].size();
        if let Some(other) = children.iter().map(|c| c.size()).find(|s| *s != size) {
            return Err(wrong("quorum", format!("children of {size} and {other} bytes: expected one size")));
        }
        Ok(Quorum { children, threshold, rewrite, fifo, size })
    }

    /// Does something with all children; enough of them have to succeed.
    fn all(&self, mut f: impl FnMut(&dyn BlockNode) -> Result<(), BlockError>) -> Result<(), BlockError> {
        let (mut good, mut first) = (0, None);
        for c in &self.children {
            match f(&**c) {
                Ok(()) => good += 1,
                Err(e) => {
                    tracing::warn!("quorum: {}: {e}", c.info().name);
                    first.get_or_insert(e);
                }
            }
        }
        match first {
            Some(e) if good < self.threshold => Err(e),
            _ => Ok(()),
        }
    }

    fn vote(&self, offset: u64, len: usize) -> Result<Vec<u8>, BlockError> {
        let mut versions: Vec<(Vec<u8>, Vec<usize>)> = Vec::new();
        let mut first = None;
        for (i, c) in self.children.iter().enumerate() {
            let mut data = vec![0; len];
            match c.read(offset, &mut [IoSliceMut::new(&mut data)]) {
                Ok(()) => match versions.iter_mut().find(|(v, _)| *v == data) {
                    Some((_, who)) => who.push(i),
                    None => versions.push((data, vec![i])),
                },
                Err(e) => {
                    tracing::warn!("quorum: {}: {e}", c.info().name);
                    first.get_or_insert(e);
                }
            }
        }
        let best = versions.iter().position(|(_, who)| who.len() >= self.threshold);
        let Some(best) = best else {
            return Err(first.unwrap_or_else(|| {
                let text = format!(
                    "quorum: fewer than {} children agree on {len} bytes at {offset:#x}",
                    self.threshold
                );
                BlockError::Io(std::io::Error::other(text))
            }));
        };
        let (data, _) = versions.swap_remove(best);
        for i in versions.iter().flat_map(|(_, who)| who) {
            let c = &self.children[*i];
            tracing::warn!("quorum: {} differs from the others in {len} bytes at {offset:#x}", c.info().name);
            if self.rewrite && !c.info().read_only {
                c.write(offset, &[IoSlice::new(&data)], false)?;
            }
        }
        Ok(data)
    }
}

pub(crate) fn make(
    children: &mut dyn Children,
    map: &Map<String, Value>,
) -> Result<Arc<dyn BlockNode>, BlockError> {
    let options = scalars(map);
    let mut nodes: Vec<Arc<dyn BlockNode>> = Vec::new();
    for item in items("quorum", map, "children")? {
        nodes.push(children.item(map, &item)?);
    }
    let threshold =
        options.number("vote-threshold")?.ok_or_else(|| wrong("quorum", "needs 'vote-threshold'"))?;
    if options.switch("blkverify")? == Some(true) && (nodes.len() != 2 || threshold != 2) {
        return Err(wrong("quorum", "blkverify=on: expected two children and vote-threshold=2"));
    }
    let fifo = options.choice("read-pattern", &[("quorum", false), ("fifo", true)])?.unwrap_or(false);
    let rewrite = options.switch("rewrite-corrupted")?.unwrap_or(false);
    if fifo && rewrite {
        return Err(wrong("quorum", "rewrite-corrupted=on does not go with read-pattern=fifo"));
    }
    Ok(Arc::new(Quorum::new(nodes, usize::try_from(threshold).unwrap_or(0), rewrite, fifo)?))
}

impl BlockNode for Quorum {
    fn info(&self) -> NodeInfo {
        let first = self.children[0].info();
        NodeInfo {
            name: "quorum".into(),
            size: self.size,
            read_only: self.children.iter().any(|c| c.info().read_only),
            ..first
        }
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<(), BlockError> {
        if self.fifo {
            let mut last = None;
            for c in &self.children {
                match c.read(offset, bufs) {
                    Ok(()) => return Ok(()),
                    Err(e) => last = Some(e),
                }
            }
            return last.map_or(Ok(()), Err);
        }
        let data = self.vote(offset, total_mut(bufs) as usize)?;
        spread(&data, bufs);
        Ok(())
    }

    fn write(&self, offset: u64, bufs: &[IoSlice<'_>], fua: bool) -> Result<(), BlockError> {
        self.all(|c| c.write(offset, bufs, fua))
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.all(|c| c.flush())
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.all(|c| c.write_zeroes(offset, len, unmap))
    }

    // A discard leaves contents open, on which the children need not agree: so there is none.

    fn status(&self, range: std::ops::Range<u64>) -> Result<Vec<Extent>, BlockError> {
        // It is zero if all say so.
        let mut zero = true;
        for c in &self.children {
            zero &= c.status(range.clone())?.iter().all(|e| e.zero);
        }
        Ok(vec![Extent::new(range, true, zero)])
    }

    fn children(&self) -> Vec<Arc<dyn BlockNode>> {
        self.children.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::MemoryNode;

    #[test]
    fn the_majority_is_right_and_repairs() {
        let nodes: Vec<_> = (0..3).map(|i| Arc::new(MemoryNode::new(format!("{i}"), 4096))).collect();
        let all = || nodes.iter().map(|n| n.clone() as Arc<dyn BlockNode>).collect::<Vec<_>>();
        let q = Quorum::new(all(), 2, true, false).unwrap();
        q.write(0, &[IoSlice::new(&[5; 1024])], false).unwrap();
        nodes[1].write(10, &[IoSlice::new(&[9; 10])], false).unwrap();
        let mut data = [0; 1024];
        q.read(0, &mut [IoSliceMut::new(&mut data)]).unwrap();
        assert!(data == [5; 1024]);
        let mut one = [0; 1024];
        nodes[1].read(0, &mut [IoSliceMut::new(&mut one)]).unwrap();
        assert!(one == [5; 1024], "repaired");
        nodes[0].write(10, &[IoSlice::new(&[1; 10])], false).unwrap();
        nodes[1].write(10, &[IoSlice::new(&[2; 10])], false).unwrap();
        assert!(
            q.read(0, &mut [IoSliceMut::new(&mut data)]).unwrap_err().to_string().contains("fewer than 2")
        );
        let first = Quorum::new(all(), 2, false, true).unwrap();
        first.read(0, &mut [IoSliceMut::new(&mut data)]).unwrap();
        assert_eq!(data[10], 1);
        assert!(
            Quorum::new(all(), 4, false, false).is_err() && Quorum::new(Vec::new(), 1, false, false).is_err()
        );
    }
}
