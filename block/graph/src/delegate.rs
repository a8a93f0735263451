//! The methods of a node and an image, done by another one.

/// Implements what is left of [`block_formats::Image`] by `$get(self)`, something that derefs to an image.
macro_rules! image {
    ($get:expr) => {
        fn files(&self) -> Vec<(String, std::sync::Arc<dyn block::BlockNode>)> {
            $get(self).files()
        }

        fn details(&self) -> block_formats::Details {
            $get(self).details()
        }

        fn backing(&self) -> Option<std::sync::Arc<dyn block_formats::Image>> {
            $get(self).backing()
        }

        fn replace_backing(
            &self,
            backing: Option<std::sync::Arc<dyn block_formats::Image>>,
        ) -> Result<(), block::BlockError> {
            $get(self).replace_backing(backing)
        }

        fn backing_name(&self) -> Option<block_formats::BackingName> {
            $get(self).backing_name()
        }

        fn set_backing(&self, backing: Option<&block_formats::BackingName>) -> Result<(), block::BlockError> {
            $get(self).set_backing(backing)
        }

        fn make_empty(&self) -> Result<(), block::BlockError> {
            $get(self).make_empty()
        }

        fn resize_with(&self, size: u64, how: block_formats::Preallocation) -> Result<(), block::BlockError> {
            $get(self).resize_with(size, how)
        }

        fn amend(&self, options: &block_formats::Options) -> Result<(), block::BlockError> {
            $get(self).amend(options)
        }

        fn snapshots(&self) -> Vec<block_formats::Snapshot> {
            $get(self).snapshots()
        }

        fn create_snapshot(&self, snapshot: &block_formats::Snapshot) -> Result<(), block::BlockError> {
            $get(self).create_snapshot(snapshot)
        }

        fn apply_snapshot(&self, id: &str) -> Result<(), block::BlockError> {
            $get(self).apply_snapshot(id)
        }

        fn delete_snapshot(&self, id: &str) -> Result<(), block::BlockError> {
            $get(self).delete_snapshot(id)
        }

        fn open_snapshot(&self, id: &str) -> Result<std::sync::Arc<dyn block::BlockNode>, block::BlockError> {
            $get(self).open_snapshot(id)
        }

        fn can_snapshot(&self) -> bool {
            $get(self).can_snapshot()
        }

        fn write_state(&self, at: u64, data: &[u8]) -> Result<(), block::BlockError> {
            $get(self).write_state(at, data)
        }

        fn read_state(&self, at: u64, buf: &mut [u8]) -> Result<(), block::BlockError> {
            $get(self).read_state(at, buf)
        }

        fn discard_state(&self) -> Result<(), block::BlockError> {
            $get(self).discard_state()
        }

        fn open_state(&self, id: &str) -> Result<std::sync::Arc<dyn block::BlockNode>, block::BlockError> {
            $get(self).open_state(id)
        }

        fn bitmaps(&self) -> Result<Vec<block_formats::BitmapInfo>, block::BlockError> {
            $get(self).bitmaps()
        }

        fn bitmap_ranges(&self, name: &str) -> Result<Vec<std::ops::Range<u64>>, block::BlockError> {
            $get(self).bitmap_ranges(name)
        }

        fn change_bitmap(
            &self,
            name: &str,
            change: &block_formats::BitmapChange,
        ) -> Result<(), block::BlockError> {
            $get(self).change_bitmap(name, change)
        }

        fn close(&self) -> Result<(), block::BlockError> {
            $get(self).close()
        }
    };
}

/// Implements what a node says without changing anything.
macro_rules! look {
    ($get:expr) => {
        fn info(&self) -> block::NodeInfo {
            $get(self).info()
        }

        fn size(&self) -> u64 {
            $get(self).size()
        }

        fn read(&self, offset: u64, bufs: &mut [std::io::IoSliceMut<'_>]) -> Result<(), block::BlockError> {
            $get(self).read(offset, bufs)
        }

        fn flush(&self) -> Result<(), block::BlockError> {
            $get(self).flush()
        }

        fn status(&self, range: std::ops::Range<u64>) -> Result<Vec<block::Extent>, block::BlockError> {
            $get(self).status(range)
        }

        fn resize(&self, size: u64) -> Result<(), block::BlockError> {
            $get(self).resize(size)
        }

        fn allocated_size(&self) -> Option<u64> {
            $get(self).allocated_size()
        }

        fn grows(&self) -> bool {
            $get(self).grows()
        }

        fn relock(&self, locked: bool) -> Result<(), block::BlockError> {
            $get(self).relock(locked)
        }
    };
}

/// Implements the changes.
macro_rules! change {
    ($get:expr) => {
        fn write(
            &self,
            offset: u64,
            bufs: &[std::io::IoSlice<'_>],
            fua: bool,
        ) -> Result<(), block::BlockError> {
            $get(self).write(offset, bufs, fua)
        }

        fn discard(&self, offset: u64, len: u64) -> Result<(), block::BlockError> {
            $get(self).discard(offset, len)
        }

        fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), block::BlockError> {
            $get(self).write_zeroes(offset, len, unmap)
        }
    };
}

pub(crate) use {change, image, look};
