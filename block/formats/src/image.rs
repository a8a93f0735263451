//! What an image is beyond a node: the things people do to images, which not every format can.

use std::sync::Arc;

use block::{BlockError, BlockNode};
use serde_json::Value;

use crate::options::Options;

/// A name of a backing file as the image holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackingName {
    /// The file, relative to the image's folder unless absolute.
    pub file: String,
    /// Its format, if the image says.
    pub format: Option<String>,
}

/// What `info` shows.
#[derive(Clone, Debug, Default)]
pub struct Details {
    /// Unit of allocation in bytes.
    pub cluster_size: Option<u64>,
    /// The image was not closed properly.
    pub dirty: bool,
    /// All its data is compressed.
    pub compressed: bool,
    /// Data can be written compressed only, whole clusters once.
    pub compressed_only: bool,
    /// It is encrypted.
    pub encrypted: bool,
    /// What only this format has, in order of display: names as in JSON (`lazy-refcounts`).
    pub specific: Vec<(&'static str, Value)>,
}

/// An internal snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Unique id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Size of the saved machine state in bytes.
    pub vm_state_size: u64,
    /// When it was made: seconds since 1970.
    pub date_sec: u32,
    /// Nanoseconds of that.
    pub date_nsec: u32,
    /// Guest clock in nanoseconds.
    pub vm_clock_nsec: u64,
    /// Instructions executed, if counted.
    pub icount: Option<u64>,
    /// Size of the disk then.
    pub disk_size: u64,
}

/// What a check may change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Repair {
    /// Nothing.
    #[default]
    No,
    /// Give back clusters nobody uses.
    Leaks,
    /// Everything.
    All,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Lines for the user, in order.
    pub messages: Vec<String>,
    /// Damage that is left.
    pub corruptions: u64,
    /// Clusters lost that are left.
    pub leaks: u64,
    /// Damage that was repaired.
    pub corruptions_fixed: u64,
    /// Lost clusters that were given back.
    pub leaks_fixed: u64,
    /// Things that could not be looked at.
    pub check_errors: u64,
    /// Where the last used cluster ends.
    pub image_end_offset: u64,
    /// Clusters of the disk; 0 if the format does not count.
    pub total_clusters: u64,
    /// Clusters with contents of their own.
    pub allocated_clusters: u64,
    /// Clusters not stored right after the one before them.
    pub fragmented_clusters: u64,
    /// Compressed clusters.
    pub compressed_clusters: u64,
}

impl CheckReport {
    /// Most lines kept: a damaged image could fill memory with them.
    const MAX_MESSAGES: usize = 1000;

    pub(crate) fn say(&mut self, line: String) {
        if self.messages.len() < Self::MAX_MESSAGES {
            self.messages.push(line);
        }
    }

    /// Damage that was or was not repaired.
    pub(crate) fn found(&mut self, line: String, repaired: bool) {
        if repaired {
            self.corruptions_fixed += 1;
            self.say(format!("Repairing {line}"));
        } else {
            self.corruption(line);
        }
    }

    pub(crate) fn corruption(&mut self, line: String) {
        self.corruptions += 1;
        self.say(format!("ERROR {line}"));
    }
}

/// A dirty bitmap kept in an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitmapInfo {
    /// Name.
    pub name: String,
    /// Bytes of the disk a bit stands for.
    pub granularity: u64,
    /// It records writes.
    pub enabled: bool,
    /// It was not saved properly, so that it says nothing.
    pub inconsistent: bool,
}

/// A change to the bitmaps of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BitmapChange {
    /// Makes one; `None` for the default granularity.
    Add {
        /// Bytes a bit stands for.
        granularity: Option<u64>,
        /// Whether it does not record yet.
        disabled: bool,
    },
    /// Deletes it.
    Remove,
    /// Clears all bits.
    Clear,
    /// Makes it record.
    Enable,
    /// Stops it from recording.
    Disable,
    /// Adds the ranges (of the disk) where another one has bits.
    Merge(Vec<std::ops::Range<u64>>),
}

/// How space is taken when an image is made or grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preallocation {
    /// Not at all.
    #[default]
    Off,
    /// Only the tables.
    Metadata,
    /// The host reserves the space.
    Falloc,
    /// Zeroes are written.
    Full,
}

impl Preallocation {
    /// Names in options.
    pub const NAMES: [(&'static str, Self); 4] =
        [("off", Self::Off), ("metadata", Self::Metadata), ("falloc", Self::Falloc), ("full", Self::Full)];
}

/// An opened image.
pub trait Image: BlockNode {
    /// Name of its format.
    fn format(&self) -> &'static str;

    /// Its file name, as the user or the image above gave it.
    fn filename(&self) -> &str;

    /// The node its bytes are in, by role (`file`, `data-file`, `extents.0`).
    fn files(&self) -> Vec<(String, Arc<dyn BlockNode>)> {
        Vec::new()
    }

    /// The file that data at [`block::Extent::offset`] lies in.
    fn data_filename(&self) -> &str {
        self.filename()
    }

    /// What `info` shows.
    fn details(&self) -> Details {
        Details::default()
    }

    /// What unallocated parts are read from.
    fn backing(&self) -> Option<Arc<dyn Image>> {
        None
    }

    /// The name of that in the image, which is there even if it is not opened.
    fn backing_name(&self) -> Option<BackingName> {
        None
    }

    /// Stores data compressed, at a multiple of the cluster size; the length is a cluster's, or less at the end.
    fn write_compressed(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        let _ = (offset, data);
        Err(BlockError::Unsupported("writing compressed data"))
    }

    /// Stores several parts as [`Image::write_compressed`] does, in order; `turn` is called once before anything is stored,
    /// and what can be done before is done by then.
    fn write_compressed_parts(&self, parts: &[(u64, &[u8])], turn: &dyn Fn()) -> Result<(), BlockError> {
        turn();
        parts.iter().try_for_each(|(offset, data)| self.write_compressed(*offset, data))
    }

    /// Whether a new image reads as zero where nothing was written.
    fn starts_zero(&self) -> bool {
        true
    }

    /// Changes the name of the backing file, not what is read.
    fn set_backing(&self, backing: Option<&BackingName>) -> Result<(), BlockError> {
        let _ = backing;
        Err(BlockError::Unsupported("a backing file"))
    }

    /// Reads what it does not have from another image from now on; the name in the image stays.
    fn replace_backing(&self, backing: Option<Arc<dyn Image>>) -> Result<(), BlockError> {
        let _ = backing;
        Err(BlockError::Unsupported("another backing file while it is in use"))
    }

    /// Its name in the block graph, if it has one.
    fn node_name(&self) -> Option<String> {
        None
    }

    /// Gives up all contents, so that everything is read from the backing file.
    fn make_empty(&self) -> Result<(), BlockError> {
        Err(BlockError::Unsupported("emptying"))
    }

    /// Changes the size, taking space as asked.
    fn resize_with(&self, size: u64, how: Preallocation) -> Result<(), BlockError> {
        if how != Preallocation::Off {
            return Err(BlockError::Unsupported("preallocation when resizing"));
        }
        self.resize(size)
    }

    /// Takes space for all of the disk that has none yet.
    fn preallocate(&self, how: Preallocation) -> Result<(), BlockError> {
        let _ = how;
        Err(BlockError::Unsupported("preallocation"))
    }

    /// Looks for damage and repairs it.
    fn check(&self, repair: Repair) -> Result<CheckReport, BlockError> {
        let _ = repair;
        Err(BlockError::Unsupported("checking"))
    }

    /// Changes options given at creation.
    fn amend(&self, options: &Options) -> Result<(), BlockError> {
        let _ = options;
        Err(BlockError::Unsupported("amending options"))
    }

    /// Snapshots inside the image.
    fn snapshots(&self) -> Vec<Snapshot> {
        Vec::new()
    }

    /// Makes a snapshot of the disk; its id is chosen.
    fn create_snapshot(&self, snapshot: &Snapshot) -> Result<(), BlockError> {
        let _ = snapshot;
        Err(BlockError::Unsupported("a snapshot inside it"))
    }

    /// Sets the disk to a snapshot, by id or name.
    fn apply_snapshot(&self, id: &str) -> Result<(), BlockError> {
        let _ = id;
        Err(BlockError::Unsupported("a snapshot inside it"))
    }

    /// Deletes a snapshot, by id or name.
    fn delete_snapshot(&self, id: &str) -> Result<(), BlockError> {
        let _ = id;
        Err(BlockError::Unsupported("a snapshot inside it"))
    }

    /// A read-only view of a snapshot, by id or name.
    fn open_snapshot(&self, id: &str) -> Result<Arc<dyn BlockNode>, BlockError> {
        let _ = id;
        Err(BlockError::Unsupported("a snapshot inside it"))
    }

    /// Whether there can be snapshots inside it.
    fn can_snapshot(&self) -> bool {
        false
    }

    /// Writes a part of the state of a machine. The next snapshot keeps as much of it as its `vm_state_size` says, and the
    /// image forgets it.
    fn write_state(&self, at: u64, data: &[u8]) -> Result<(), BlockError> {
        let _ = (at, data);
        Err(BlockError::Unsupported("the state of a machine"))
    }

    /// Reads a part of the state of a machine that no snapshot has yet.
    fn read_state(&self, at: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        let _ = (at, buf);
        Err(BlockError::Unsupported("the state of a machine"))
    }

    /// Forgets the state of a machine that no snapshot has.
    fn discard_state(&self) -> Result<(), BlockError> {
        Err(BlockError::Unsupported("the state of a machine"))
    }

    /// The state of a machine that a snapshot keeps, by id or name, as a disk of its length.
    fn open_state(&self, id: &str) -> Result<Arc<dyn BlockNode>, BlockError> {
        let _ = id;
        Err(BlockError::Unsupported("the state of a machine"))
    }

    /// Dirty bitmaps kept in the image.
    fn bitmaps(&self) -> Result<Vec<BitmapInfo>, BlockError> {
        Ok(Vec::new())
    }

    /// Ranges of the disk where a bitmap has bits.
    fn bitmap_ranges(&self, name: &str) -> Result<Vec<std::ops::Range<u64>>, BlockError> {
        let _ = name;
        Err(BlockError::Unsupported("a dirty bitmap"))
    }

    /// Changes a bitmap.
    fn change_bitmap(&self, name: &str, change: &BitmapChange) -> Result<(), BlockError> {
        let _ = (name, change);
        Err(BlockError::Unsupported("a dirty bitmap"))
    }

    /// Puts everything on stable storage and marks the image closed. Later requests may fail.
    fn close(&self) -> Result<(), BlockError> {
        self.flush()
    }
}
