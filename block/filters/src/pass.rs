//! What a filter leaves as it is.

/// Writes the named methods of a node so that they do what the child does. Those that are not named here are what the filter
/// is about.
macro_rules! pass {
    ($child:ident: $($method:ident)*) => { $($crate::pass::pass!(@ $child $method);)* };
    (@ $c:ident size) => { fn size(&self) -> u64 { self.$c.size() } };
    (@ $c:ident read) => {
        fn read(&self, offset: u64, bufs: &mut [std::io::IoSliceMut<'_>]) -> Result<(), block::BlockError> {
            self.$c.read(offset, bufs)
        }
    };
    (@ $c:ident write) => {
        fn write(&self, offset: u64, bufs: &[std::io::IoSlice<'_>], fua: bool) -> Result<(), block::BlockError> {
            self.$c.write(offset, bufs, fua)
        }
    };
    (@ $c:ident flush) => { fn flush(&self) -> Result<(), block::BlockError> { self.$c.flush() } };
    (@ $c:ident discard) => {
        fn discard(&self, offset: u64, len: u64) -> Result<(), block::BlockError> { self.$c.discard(offset, len) }
    };
    (@ $c:ident write_zeroes) => {
        fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), block::BlockError> {
            self.$c.write_zeroes(offset, len, unmap)
        }
    };
    (@ $c:ident status) => {
        fn status(&self, range: std::ops::Range<u64>) -> Result<Vec<block::Extent>, block::BlockError> {
            self.$c.status(range)
        }
    };
    (@ $c:ident resize) => {
        fn resize(&self, size: u64) -> Result<(), block::BlockError> { self.$c.resize(size) }
    };
    (@ $c:ident allocated_size) => { fn allocated_size(&self) -> Option<u64> { self.$c.allocated_size() } };
    (@ $c:ident grows) => { fn grows(&self) -> bool { self.$c.grows() } };
    (@ $c:ident children) => {
        fn children(&self) -> Vec<std::sync::Arc<dyn block::BlockNode>> { vec![self.$c.clone()] }
    };
}

pub(crate) use pass;

/// What a node says of itself, under the name of a filter.
pub(crate) fn named(filter: &str, child: &dyn block::BlockNode) -> block::NodeInfo {
    let info = child.info();
    block::NodeInfo { name: format!("{filter}:{}", info.name), ..info }
}

/// Bytes in all buffers.
pub(crate) fn total(bufs: &[std::io::IoSlice<'_>]) -> u64 {
    bufs.iter().map(|b| b.len() as u64).sum()
}

/// Bytes in all buffers.
pub(crate) fn total_mut(bufs: &[std::io::IoSliceMut<'_>]) -> u64 {
    bufs.iter().map(|b| b.len() as u64).sum()
}

/// All buffers in one.
pub(crate) fn joined(bufs: &[std::io::IoSlice<'_>]) -> Vec<u8> {
    bufs.iter().flat_map(|b| b.iter().copied()).collect()
}

/// One buffer into several.
pub(crate) fn spread(mut data: &[u8], bufs: &mut [std::io::IoSliceMut<'_>]) {
    for b in bufs {
        let n = b.len().min(data.len());
        b[..n].copy_from_slice(&data[..n]);
        data = &data[n..];
    }
}
