//! A node with a name.

use std::io::IoSlice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use block::{BlockError, BlockNode};
use block_formats::{Image, is_zero};
use parking_lot::{Mutex, RwLock};

use crate::bitmap::DirtyBitmap;
use crate::delegate::{image, look};
use crate::edge::Edge;
use crate::hook::{Change, Hook};

/// What becomes of written data that is all zeroes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DetectZeroes {
    /// It is written as it is.
    #[default]
    Off,
    /// It is written as zeroes.
    On,
    /// It is written as zeroes whose space may be given back.
    Unmap,
}

impl DetectZeroes {
    /// Names in options.
    pub const NAMES: [(&'static str, Self); 3] =
        [("off", Self::Off), ("on", Self::On), ("unmap", Self::Unmap)];

    /// Its name in options.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, v)| *v == self).map_or("off", |(n, _)| n)
    }
}

type Hooks = Arc<Vec<Arc<dyn Hook>>>;

/// A node with a name, hooks and bitmaps.
pub struct Node {
    name: String,
    image: Arc<dyn Image>,
    detect: DetectZeroes,
    hooked: AtomicBool,
    hooks: RwLock<Hooks>,
    bitmaps: Mutex<Vec<Arc<DirtyBitmap>>>,
    pub(crate) edges: Mutex<Vec<Weak<Edge>>>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({}: {:?})", self.name, self.image)
    }
}

impl Node {
    /// An image under a name.
    pub fn new(name: impl Into<String>, image: Arc<dyn Image>) -> Arc<Self> {
        Self::detecting(name, image, DetectZeroes::Off)
    }

    /// The same, of which written zeroes are found.
    pub fn detecting(name: impl Into<String>, image: Arc<dyn Image>, detect: DetectZeroes) -> Arc<Self> {
        Arc::new(Node {
            name: name.into(),
            image,
            detect,
            hooked: AtomicBool::new(false),
            hooks: RwLock::default(),
            bitmaps: Mutex::default(),
            edges: Mutex::default(),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is, past all hooks.
    pub fn image(&self) -> &Arc<dyn Image> {
        &self.image
    }

    /// What becomes of written zeroes.
    pub fn detect_zeroes(&self) -> DetectZeroes {
        self.detect
    }

    /// Has changes seen by a hook. To begin between two changes, drain the node around this.
    pub fn hook(&self, hook: Arc<dyn Hook>) {
        let mut hooks = self.hooks.write();
        let mut list = (**hooks).clone();
        list.push(hook);
        *hooks = Arc::new(list);
        self.hooked.store(true, Ordering::Release);
    }

    /// Ends that.
    pub fn unhook(&self, hook: &Arc<dyn Hook>) {
        let mut hooks = self.hooks.write();
        let list: Vec<_> = hooks.iter().filter(|h| !Arc::ptr_eq(h, hook)).cloned().collect();
        self.hooked.store(!list.is_empty(), Ordering::Release);
        *hooks = Arc::new(list);
    }

    /// Its dirty bitmaps.
    pub fn dirty_bitmaps(&self) -> Vec<Arc<DirtyBitmap>> {
        self.bitmaps.lock().clone()
    }

    /// The bitmap of a name.
    pub fn dirty_bitmap(&self, name: &str) -> Option<Arc<DirtyBitmap>> {
        self.bitmaps.lock().iter().find(|b| b.name() == name).cloned()
    }

    /// Adds a bitmap, which sees changes from now on.
    pub fn add_bitmap(&self, bitmap: Arc<DirtyBitmap>) {
        self.hook(bitmap.clone());
        self.bitmaps.lock().push(bitmap);
    }

    /// Takes a bitmap away.
    pub fn remove_bitmap(&self, name: &str) -> Option<Arc<DirtyBitmap>> {
        let mut bitmaps = self.bitmaps.lock();
        let at = bitmaps.iter().position(|b| b.name() == name)?;
        let gone = bitmaps.remove(at);
        drop(bitmaps);
        self.unhook(&(gone.clone() as Arc<dyn Hook>));
        Some(gone)
    }

    /// The edges that lead here.
    pub fn edges(&self) -> Vec<Arc<Edge>> {
        let mut edges = self.edges.lock();
        edges.retain(|e| e.strong_count() != 0);
        edges.iter().filter_map(Weak::upgrade).collect()
    }

    /// Who stands on it.
    pub fn users(&self) -> Vec<String> {
        self.edges().iter().map(|e| e.user().to_owned()).collect()
    }

    fn change(
        &self,
        change: Change<'_>,
        f: impl FnOnce(&dyn Image) -> Result<(), BlockError>,
    ) -> Result<(), BlockError> {
        if !self.hooked.load(Ordering::Acquire) {
            return f(&*self.image);
        }
        let hooks = self.hooks.read().clone();
        hooks.iter().try_for_each(|h| h.before(&change))?;
        let done = f(&*self.image);
        let seen = hooks.iter().map(|h| h.after(&change, done.is_ok())).fold(Ok(()), Result::and);
        done.and(seen)
    }
}

impl BlockNode for Node {
    look!(Node::image);

    fn write(&self, offset: u64, bufs: &[IoSlice<'_>], fua: bool) -> Result<(), BlockError> {
        if self.detect != DetectZeroes::Off && bufs.iter().all(|b| is_zero(b)) {
            let len = bufs.iter().map(|b| b.len() as u64).sum();
            self.write_zeroes(offset, len, self.detect == DetectZeroes::Unmap)?;
            return if fua { self.image.flush() } else { Ok(()) };
        }
        self.change(Change::Write { offset, bufs }, |i| i.write(offset, bufs, fua))
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.change(Change::Discard { offset, len }, |i| i.discard(offset, len))
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.change(Change::Zeroes { offset, len, unmap }, |i| i.write_zeroes(offset, len, unmap))
    }

    fn children(&self) -> Vec<Arc<dyn BlockNode>> {
        self.image.children()
    }
}

impl Image for Node {
    image!(Node::image);

    fn format(&self) -> &'static str {
        self.image.format()
    }

    fn filename(&self) -> &str {
        self.image.filename()
    }

    fn data_filename(&self) -> &str {
        self.image.data_filename()
    }

    fn node_name(&self) -> Option<String> {
        Some(self.name.clone())
    }

    fn write_compressed(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        self.change(Change::Write { offset, bufs: &[IoSlice::new(data)] }, |i| {
            i.write_compressed(offset, data)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bare;
    use block::{MemoryNode, NodeInfo};
    use std::io::IoSliceMut;

    /// Counts what comes to it.
    #[derive(Debug)]
    struct Counting(MemoryNode, Mutex<(usize, Vec<bool>, usize)>);

    impl BlockNode for Counting {
        fn info(&self) -> NodeInfo {
            self.0.info()
        }

        fn read(&self, offset: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<(), BlockError> {
            self.0.read(offset, bufs)
        }

        fn write(&self, offset: u64, bufs: &[IoSlice<'_>], fua: bool) -> Result<(), BlockError> {
            self.1.lock().0 += 1;
            self.0.write(offset, bufs, fua)
        }

        fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
            self.1.lock().1.push(unmap);
            self.0.write_zeroes(offset, len, unmap)
        }

        fn flush(&self) -> Result<(), BlockError> {
            self.1.lock().2 += 1;
            self.0.flush()
        }
    }

    #[test]
    fn zeroes_are_found() {
        for (detect, seen) in [
            (DetectZeroes::Off, (2, vec![], 0)),
            (DetectZeroes::On, (1, vec![false], 1)),
            (DetectZeroes::Unmap, (1, vec![true], 1)),
        ] {
            let below = Arc::new(Counting(MemoryNode::new("m", 4096), Mutex::default()));
            let node = Node::detecting("n", Arc::new(Bare::new(below.clone(), "memory", "m")), detect);
            let (zero, last) = ([0; 512], [0, 1]);
            node.write(0, &[IoSlice::new(&zero), IoSlice::new(&last)], false).unwrap();
            node.write(512, &[IoSlice::new(&zero), IoSlice::new(&zero)], true).unwrap();
            assert_eq!(*below.1.lock(), seen, "{detect:?}");
            let mut back = [9; 1024];
            node.read(512, &mut [IoSliceMut::new(&mut back)]).unwrap();
            assert_eq!(back, [0; 1024]);
        }
    }
}
