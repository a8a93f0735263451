//! A node with a name.

use std::io::IoSlice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use block::{BlockError, BlockNode};
use block_formats::Image;
use parking_lot::{Mutex, RwLock};

use crate::bitmap::DirtyBitmap;
use crate::delegate::{image, look};
use crate::edge::Edge;
use crate::hook::{Change, Hook};

type Hooks = Arc<Vec<Arc<dyn Hook>>>;

/// A node with a name, hooks and bitmaps.
pub struct Node {
    name: String,
    image: Arc<dyn Image>,
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
        Arc::new(Node {
            name: name.into(),
            image,
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
