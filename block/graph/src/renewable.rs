//! An image that can be given up to another process and taken back: what is known of it is read anew then.
//!
//! While it is somebody else's it is only looked at: it is opened for reading, and what it says of itself may be out of date.

use std::ops::Range;
use std::sync::Arc;

use block::{BlockError, BlockNode, NodeInfo};
use block_formats::Image;
use parking_lot::RwLock;

use crate::delegate::{change, image, look};

/// Opens the image; it is ours, or only looked at.
type Open = dyn Fn(bool) -> Result<Arc<dyn Image>, BlockError> + Send + Sync;

/// Such an image.
pub struct Renewable {
    open: Box<Open>,
    format: &'static str,
    filename: String,
    /// Not for writing, whoever has it.
    read_only: bool,
    /// The image as it is at the moment, and whether it is ours.
    now: RwLock<(Arc<dyn Image>, bool)>,
}

impl std::fmt::Debug for Renewable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.now.read().0)
    }
}

impl Renewable {
    /// An image opened by `open`; `ours` if nobody else has it.
    pub fn new(
        open: impl Fn(bool) -> Result<Arc<dyn Image>, BlockError> + Send + Sync + 'static,
        read_only: bool,
        ours: bool,
    ) -> Result<Self, BlockError> {
        let image = open(ours)?;
        Ok(Renewable {
            format: image.format(),
            filename: image.filename().to_owned(),
            open: Box::new(open),
            read_only,
            now: RwLock::new((image, ours)),
        })
    }

    /// Gives it up, after everything of it is in its file. Nothing may be under way.
    pub fn give(&self) -> Result<(), BlockError> {
        let mut now = self.now.write();
        if !now.1 {
            return Ok(());
        }
        if !self.read_only {
            now.0.close()?;
        }
        // Files of its own go with it.
        self.renew(&mut now, false)
    }

    fn renew(&self, now: &mut (Arc<dyn Image>, bool), ours: bool) -> Result<(), BlockError> {
        let below = now.0.backing();
        let image = (self.open)(ours)?;
        // What stands below by a node stays there.
        if image.backing().is_none() && below.is_some() {
            image.replace_backing(below)?;
        }
        *now = (image, ours);
        Ok(())
    }

    /// Takes it, as it is now.
    pub fn take(&self) -> Result<(), BlockError> {
        let mut now = self.now.write();
        if now.1 { Ok(()) } else { self.renew(&mut now, true) }
    }

    fn any(&self) -> Arc<dyn Image> {
        self.now.read().0.clone()
    }

    fn ours(&self) -> Result<Arc<dyn Image>, BlockError> {
        let now = self.now.read();
        if now.1 { Ok(now.0.clone()) } else { Err(BlockError::ReadOnly) }
    }
}

/// What changes the image.
struct Changer<'a>(&'a Renewable);

impl Changer<'_> {
    fn write(&self, offset: u64, bufs: &[std::io::IoSlice<'_>], fua: bool) -> Result<(), BlockError> {
        self.0.ours()?.write(offset, bufs, fua)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.0.ours()?.discard(offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.0.ours()?.write_zeroes(offset, len, unmap)
    }
}

/// What looks at it; it is said to be for writing if it will be.
struct Looker<'a>(&'a Renewable);

impl Looker<'_> {
    fn info(&self) -> NodeInfo {
        NodeInfo { read_only: self.0.read_only, ..self.0.any().info() }
    }

    fn size(&self) -> u64 {
        self.0.any().size()
    }

    fn read(&self, offset: u64, bufs: &mut [std::io::IoSliceMut<'_>]) -> Result<(), BlockError> {
        self.0.any().read(offset, bufs)
    }

    fn flush(&self) -> Result<(), BlockError> {
        // What is not ours has nothing of ours in it.
        self.0.ours().map_or(Ok(()), |image| image.flush())
    }

    fn status(&self, range: Range<u64>) -> Result<Vec<block::Extent>, BlockError> {
        self.0.any().status(range)
    }

    fn resize(&self, size: u64) -> Result<(), BlockError> {
        self.0.ours()?.resize(size)
    }

    fn allocated_size(&self) -> Option<u64> {
        self.0.any().allocated_size()
    }

    fn grows(&self) -> bool {
        self.0.any().grows()
    }

    fn relock(&self, locked: bool) -> Result<(), BlockError> {
        self.0.any().relock(locked)
    }
}

impl BlockNode for Renewable {
    look!(Looker);
    change!(Changer);

    fn children(&self) -> Vec<Arc<dyn BlockNode>> {
        self.any().children()
    }
}

impl Image for Renewable {
    image!(Renewable::any);

    fn format(&self) -> &'static str {
        self.format
    }

    fn filename(&self) -> &str {
        &self.filename
    }

    fn write_compressed(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        self.ours()?.write_compressed(offset, data)
    }

    fn starts_zero(&self) -> bool {
        self.any().starts_zero()
    }

    fn check(&self, repair: block_formats::Repair) -> Result<block_formats::CheckReport, BlockError> {
        self.any().check(repair)
    }

    fn preallocate(&self, how: block_formats::Preallocation) -> Result<(), BlockError> {
        self.ours()?.preallocate(how)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{IoSlice, IoSliceMut};
    use std::path::Path;

    fn renewable(path: &Path, ours: bool) -> Renewable {
        let path = path.display().to_string();
        let open = move |ours: bool| {
            let sharing = if ours { block::Sharing::Readers } else { block::Sharing::Unlocked };
            let options = block_formats::OpenOptions {
                read_only: !ours,
                sharing,
                ..block_formats::OpenOptions::default()
            };
            block_formats::open(&path, Some("qcow2"), &options)
        };
        Renewable::new(open, false, ours).unwrap()
    }

    #[test]
    fn an_image_changes_hands() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        block_formats::create("qcow2", &path, None, Some(1 << 20), &block_formats::Options::default())
            .unwrap();
        let source = renewable(&path, true);
        let target = renewable(&path, false);
        assert!(!target.info().read_only, "it will be writable");
        assert!(matches!(target.write(0, &[IoSlice::new(&[1])], false), Err(BlockError::ReadOnly)));
        source.write(70_000, &[IoSlice::new(&[7; 100])], false).unwrap();
        assert!(target.take().is_err(), "the source has it");
        source.give().unwrap();
        assert!(source.write(0, &[IoSlice::new(&[1])], false).is_err());
        target.take().unwrap();
        let mut back = [0; 2];
        target.read(70_099, &mut [IoSliceMut::new(&mut back)]).unwrap();
        assert_eq!(back, [7, 0], "what was written is seen");
        target.write(70_100, &[IoSlice::new(&[8])], true).unwrap();
        target.give().unwrap();
        source.take().unwrap();
        source.read(70_099, &mut [IoSliceMut::new(&mut back)]).unwrap();
        assert_eq!(back, [7, 8]);
    }
}
