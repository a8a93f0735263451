//! RAM blocks: pieces of host memory that the guest sees as RAM or ROM.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vm_memory::{AtomicAccess, Bytes, VolatileSlice};

use crate::dirty::{DirtyClient, DirtyMap, DirtyPages, DirtySlice, WriteHook};
use crate::error::RamError;
use crate::host::{self, Mapping};

/// Huge page sizes for memfd backings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// 2 MiB.
    Size2M,
    /// 1 GiB.
    Size1G,
}

/// Where the memory of a block comes from.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Backing {
    /// Private anonymous memory.
    #[default]
    Anonymous,
    /// An unnamed file that other processes can map by its descriptor (vhost-user, device-model daemons).
    Memfd {
        /// Take the file from the host's pool of huge pages.
        huge: Option<HugePages>,
    },
    /// A file, grown to the block's size if it is shorter.
    File {
        /// Path of the file; created if it does not exist and the mapping is shared. A directory (hugetlbfs,
        /// tmpfs) gets an unnamed file.
        path: PathBuf,
        /// Whether guest writes reach the file.
        shared: bool,
        /// Where the block starts in the file, in bytes.
        offset: u64,
    },
}

/// How to make a block.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RamConfig {
    /// Where the memory comes from.
    pub backing: Backing,
    /// Take all memory now instead of at first touch.
    pub prealloc: bool,
    /// Let the host share pages of equal content with other processes (kernel samepage merging).
    pub merge: bool,
    /// Leave the memory out of core dumps of the process.
    pub no_dump: bool,
}

/// A block of RAM. Lives as long as anybody (region tree, flat view, accelerator) holds it; never moves.
#[derive(Debug)]
pub struct RamBlock {
    name: String,
    size: u64,
    shared: bool,
    file: Option<File>,
    /// Where the block starts in the file.
    file_offset: u64,
    /// Size of the pages that the host maps it with.
    page: u64,
    mapping: Mapping,
    dirty: DirtyMap,
}

impl RamConfig {
    /// For a second block that goes on where one of `size` bytes ends: in a file it starts behind it.
    #[must_use]
    pub fn after(&self, size: u64) -> Self {
        let mut next = self.clone();
        if let Backing::File { offset, .. } = &mut next.backing {
            *offset = offset.saturating_add(size);
        }
        next
    }
}

impl HugePages {
    /// Size of a page in bytes.
    fn bytes(self) -> u64 {
        match self {
            HugePages::Size2M => 2 << 20,
            HugePages::Size1G => 1 << 30,
        }
    }
}

impl RamBlock {
    /// Makes a block of `size` bytes, zeroed unless it comes from a file.
    pub fn new(name: impl Into<String>, size: u64, config: &RamConfig) -> Result<Arc<Self>, RamError> {
        let name = name.into();
        let bad_size = || RamError::BadSize { name: name.clone(), size };
        let file_error = |path: &std::path::Path, source| RamError::File {
            name: name.clone(),
            path: path.display().to_string(),
            source,
        };
        let round = |page| size.checked_next_multiple_of(page).filter(|&s| s != 0).ok_or_else(bad_size);
        let small = host::page_size();
        let (file, file_offset, shared, page) = match &config.backing {
            Backing::Anonymous => (None, 0, false, small),
            Backing::Memfd { huge } => {
                let page = huge.map_or(small, HugePages::bytes);
                (Some(open_memfd(&name, round(page)?, *huge)?), 0, true, page)
            }
            Backing::File { path, shared, offset } => {
                let opened = open_file(path, *shared).map_err(|source| file_error(path, source))?;
                let page = host::huge_page_size(&opened).unwrap_or(small);
                if !offset.is_multiple_of(page) {
                    let what = format!("the offset {offset:#x} is expected to be a multiple of {page:#x}");
                    return Err(file_error(path, io::Error::new(io::ErrorKind::InvalidInput, what)));
                }
                let end = offset.checked_add(size).ok_or_else(bad_size)?;
                let mapped = offset.checked_add(round(page)?).ok_or_else(bad_size)?;
                let grows = *shared || path.is_dir();
                size_file(&opened, end, mapped, grows).map_err(|source| file_error(path, source))?;
                (Some(opened), *offset, *shared, page)
            }
        };
        let mapped = round(page)?;
        let length =
            usize::try_from(mapped).ok().filter(|&s| isize::try_from(s).is_ok()).ok_or_else(bad_size)?;
        let huge = page > small;
        let map = Mapping::new(length, file.as_ref().map(|f| (f, file_offset)), shared, !huge);
        let mapping = map.map_err(|source| {
            if huge && source.kind() == io::ErrorKind::OutOfMemory {
                let free = host::free_huge_pages(page >> 10).unwrap_or(0);
                RamError::HugePages { name: name.clone(), page: page >> 10, needed: mapped / page, free }
            } else {
                RamError::Map { name: name.clone(), size, source }
            }
        })?;
        let unsupported = |what| RamError::Unsupported { name: name.clone(), what };
        if config.merge {
            mapping.merge().map_err(|_| unsupported("merging of equal pages"))?;
        }
        if config.no_dump {
            mapping.leave_out_of_dumps().map_err(|_| unsupported("leaving memory out of core dumps"))?;
        }
        if config.prealloc {
            let populated = mapping.populate(page as usize);
            populated.map_err(|source| RamError::Populate { name: name.clone(), size, source })?;
        }
        let dirty = DirtyMap::new(size);
        Ok(Arc::new(RamBlock { name, size, shared, file, file_offset, page, mapping, dirty }))
    }

    /// Makes a block of private anonymous memory.
    pub fn anonymous(name: impl Into<String>, size: u64) -> Result<Arc<Self>, RamError> {
        Self::new(name, size, &RamConfig::default())
    }

    /// Name of the block, unique within a machine by convention (it names the block in a migration stream).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The backing file, if any; the block starts at [`RamBlock::file_offset`].
    pub fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// Where the block starts in its file, in bytes.
    pub fn file_offset(&self) -> u64 {
        self.file_offset
    }

    /// Whether other processes that map [`RamBlock::file`] see the guest's writes.
    pub fn shared(&self) -> bool {
        self.shared
    }

    /// First byte in the host's address space, for accelerators and generated code. Aligned to the host's page,
    /// valid for [`RamBlock::size`] bytes (rounded up to a page) while the block lives. Whoever writes through
    /// it must call [`RamBlock::set_dirty`] and respect [`RamBlock::watch`].
    pub fn host_ptr(&self) -> NonNull<u8> {
        self.mapping.base()
    }

    /// A volatile slice of the block; writes through it are tracked.
    pub fn slice(&self, offset: u64, len: u64) -> Result<VolatileSlice<'_, DirtySlice<'_>>, RamError> {
        let bad = || RamError::OutOfRange { name: self.name.clone(), offset, len, size: self.size };
        if offset.checked_add(len).is_none_or(|end| end > self.size) {
            return Err(bad());
        }
        self.mapping.slice(offset as usize, len as usize, &self.dirty).ok_or_else(bad)
    }

    /// Copies from the block. Naturally aligned accesses up to 8 bytes are single copies.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), RamError> {
        self.slice(offset, data.len() as u64)?.copy_to(data);
        Ok(())
    }

    /// Copies into the block and marks it dirty.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), RamError> {
        self.slice(offset, data.len() as u64)?.copy_from(data);
        Ok(())
    }

    /// Sets `len` bytes to `value`.
    pub fn fill(&self, offset: u64, len: u64, value: u8) -> Result<(), RamError> {
        self.slice(offset, len)?;
        let chunk = [value; 4096];
        let mut done = 0;
        while done < len {
            let n = (len - done).min(4096);
            self.write(offset + done, &chunk[..n as usize])?;
            done += n;
        }
        Ok(())
    }

    /// Atomically reads a value in the host's byte order. The offset must be naturally aligned.
    pub fn load<T: AtomicAccess>(&self, offset: u64, order: Ordering) -> Result<T, RamError> {
        let len = size_of::<T>() as u64;
        let slice = self.slice(offset, len)?;
        slice.load(0, order).map_err(|_| self.out_of_range(offset, len))
    }

    /// Atomically writes a value in the host's byte order. The offset must be naturally aligned.
    pub fn store<T: AtomicAccess>(&self, offset: u64, value: T, order: Ordering) -> Result<(), RamError> {
        let len = size_of::<T>() as u64;
        let slice = self.slice(offset, len)?;
        slice.store(value, 0, order).map_err(|_| self.out_of_range(offset, len))
    }

    fn out_of_range(&self, offset: u64, len: u64) -> RamError {
        RamError::OutOfRange { name: self.name.clone(), offset, len, size: self.size }
    }

    /// Gives the whole pages of the range back to the host; anonymous memory reads as zero afterwards.
    pub fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let page = self.page;
        let start = offset.checked_next_multiple_of(page).ok_or(io::ErrorKind::InvalidInput)?;
        let end = offset.saturating_add(len).min(self.size) / page * page;
        if start >= end {
            return Ok(());
        }
        self.mapping.discard(
            start as usize,
            (end - start) as usize,
            self.file.as_ref().filter(|_| self.shared),
        )?;
        self.set_dirty(start, end - start);
        Ok(())
    }

    /// The dirty bitmaps and watches of this block.
    pub fn dirty(&self) -> &DirtyMap {
        &self.dirty
    }

    /// Marks bytes as written. Lock-free; beyond the end is ignored.
    #[inline]
    pub fn set_dirty(&self, offset: u64, len: u64) {
        self.dirty.mark(offset, len);
    }

    /// Takes and clears a client's dirty pages in a range.
    pub fn take_dirty(&self, client: DirtyClient, offset: u64, len: u64) -> DirtyPages {
        self.dirty.take(client, offset, len)
    }

    /// Asks for the block's write hooks to be called when something writes to these pages.
    pub fn watch(&self, offset: u64, len: u64) {
        self.dirty.watch(offset, len);
    }

    /// Ends a watch.
    pub fn unwatch(&self, offset: u64, len: u64) {
        self.dirty.unwatch(offset, len);
    }

    /// Adds a hook for watched pages; held weakly.
    pub fn add_write_hook(&self, hook: &Arc<dyn WriteHook>) {
        self.dirty.add_hook(hook);
    }
}

#[cfg(target_os = "linux")]
fn open_memfd(name: &str, size: u64, huge: Option<HugePages>) -> Result<File, RamError> {
    let shift = huge.map(|h| h.bytes().trailing_zeros());
    host::memfd(name, size, shift).map_err(|source| RamError::File {
        name: name.to_owned(),
        path: "memfd".to_owned(),
        source,
    })
}

#[cfg(not(target_os = "linux"))]
fn open_memfd(name: &str, _size: u64, _huge: Option<HugePages>) -> Result<File, RamError> {
    Err(RamError::Unsupported { name: name.to_owned(), what: "memfd" })
}

fn open_file(path: &std::path::Path, shared: bool) -> io::Result<File> {
    if path.is_dir() {
        return unnamed_file(path);
    }
    OpenOptions::new().read(true).write(shared).create(shared).truncate(false).open(path)
}

/// Makes sure that a file has `end` bytes, by growing it to `mapped` if it may.
fn size_file(file: &File, end: u64, mapped: u64, grows: bool) -> io::Result<()> {
    let length = file.metadata()?.len();
    if length >= end {
        return Ok(());
    }
    if !grows {
        let what = format!("has {length:#x} bytes, {end:#x} are needed");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    file.set_len(mapped)
}

/// A file in `dir` whose name is removed as soon as it is open.
fn unnamed_file(dir: &std::path::Path) -> io::Result<File> {
    for attempt in 0..1000u32 {
        let path = dir.join(format!("rhea-ram-{}-{attempt}", std::process::id()));
        match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
            Ok(file) => {
                // On hosts that keep open files named, the leftover file is harmless.
                let _ = std::fs::remove_file(&path);
                return Ok(file);
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_and_tracks() {
        let ram = RamBlock::anonymous("ram", 0x5001).unwrap();
        ram.dirty().start(DirtyClient::Migration);
        ram.write(0x4ffe, &[1, 2, 3]).unwrap();
        let mut back = [0; 3];
        ram.read(0x4ffe, &mut back).unwrap();
        assert_eq!(back, [1, 2, 3]);
        let dirty: Vec<_> = ram.take_dirty(DirtyClient::Migration, 0, u64::MAX).offsets().collect();
        assert_eq!(dirty, [0x4000, 0x5000]);
        assert!(ram.write(0x5000, &[0, 0]).is_err());
        assert!(ram.read(u64::MAX, &mut [0]).is_err());
        ram.store(0x10, 0x1234_5678u32, Ordering::SeqCst).unwrap();
        assert_eq!(ram.load::<u32>(0x10, Ordering::SeqCst).unwrap(), 0x1234_5678);
        assert!(ram.load::<u32>(0x11, Ordering::SeqCst).is_err());
        ram.fill(0, 0x5001, 0xaa).unwrap();
        assert_eq!(ram.load::<u8>(0x5000, Ordering::SeqCst).unwrap(), 0xaa);
    }

    #[test]
    fn impossible_sizes_are_one_clear_error() {
        for size in [0, u64::MAX, 1 << 63] {
            let text = RamBlock::anonymous("big", size).unwrap_err().to_string();
            assert!(text.contains("RAM 'big'"), "{text}");
        }
        let text = RamBlock::anonymous("big", 1 << 56).unwrap_err().to_string();
        assert!(text.contains("cannot map 0x100000000000000 bytes"), "{text}");
    }

    #[test]
    fn large_blocks_are_lazy() {
        let ram = RamBlock::anonymous("ram", 64 << 30).unwrap();
        ram.write((64 << 30) - 1, &[7]).unwrap();
        assert_eq!(ram.load::<u8>((64 << 30) - 1, Ordering::Relaxed).unwrap(), 7);
    }

    #[cfg(unix)]
    #[test]
    fn shared_file_keeps_the_data_and_discard_zeroes() {
        let path = std::env::temp_dir().join(format!("rhea-ram-test-{}", std::process::id()));
        let config = RamConfig {
            backing: Backing::File { path: path.clone(), shared: true, offset: 0 },
            prealloc: true,
            ..RamConfig::default()
        };
        let ram = RamBlock::new("file", 0x10000, &config).unwrap();
        ram.write(5, b"hello").unwrap();
        assert_eq!(&std::fs::read(&path).unwrap()[5..10], b"hello");
        let private = RamConfig {
            backing: Backing::File { path: path.clone(), shared: false, offset: 0 },
            ..RamConfig::default()
        };
        let copy = RamBlock::new("copy", 0x10000, &private).unwrap();
        copy.write(5, b"HELLO").unwrap();
        assert_eq!(&std::fs::read(&path).unwrap()[5..10], b"hello");
        assert!(RamBlock::new("copy", 0x20000, &private).is_err());
        std::fs::remove_file(&path).unwrap();

        let ram = RamBlock::anonymous("ram", 1 << 20).unwrap();
        ram.fill(0, 1 << 20, 1).unwrap();
        ram.discard(1, (1 << 20) - 1).unwrap();
        assert_eq!(ram.load::<u8>(1, Ordering::Relaxed).unwrap(), 1);
        assert_eq!(ram.load::<u8>(0x10000, Ordering::Relaxed).unwrap(), 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memfd_is_shared() {
        use std::os::unix::fs::FileExt;
        let config = RamConfig { backing: Backing::Memfd { huge: None }, ..RamConfig::default() };
        let ram = RamBlock::new("mem", 0x10000, &config).unwrap();
        ram.write(9, &[42]).unwrap();
        let mut byte = [0];
        ram.file().unwrap().read_exact_at(&mut byte, 9).unwrap();
        assert_eq!((byte, ram.shared()), ([42], true));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_empty_pool_of_huge_pages_is_named() {
        // More than any host has.
        let config =
            RamConfig { backing: Backing::Memfd { huge: Some(HugePages::Size2M) }, ..RamConfig::default() };
        let text = RamBlock::new("ram", 1 << 44, &config).unwrap_err().to_string();
        assert!(
            text.contains("RAM 'ram': 8388608 huge pages of 2048 KiB are needed") || text.contains("memfd"),
            "{text}"
        );
        let free = host::free_huge_pages(2048).unwrap_or(0);
        match RamBlock::new("ram", 4 << 20, &RamConfig { prealloc: true, ..config }) {
            Ok(ram) => ram.write((4 << 20) - 1, &[1]).unwrap(),
            Err(e) => assert!(free < 2 && e.to_string().contains("nr_hugepages"), "{e}"),
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_block_starts_inside_of_a_file() {
        let file = std::env::temp_dir().join(format!("rhea-ram-offset-{}", std::process::id()));
        std::fs::write(&file, [7; 0x1000]).unwrap();
        let config = |offset| RamConfig {
            backing: Backing::File { path: file.clone(), shared: true, offset },
            ..RamConfig::default()
        };
        let step = host::page_size();
        let ram = RamBlock::new("file", step, &config(step)).unwrap();
        ram.write(3, b"x").unwrap();
        assert_eq!(std::fs::read(&file).unwrap()[step as usize + 3], b'x');
        ram.discard(0, step).unwrap();
        let kept = std::fs::read(&file).unwrap();
        assert_eq!((kept[0], kept[step as usize + 3]), (7, 0), "only the block's own part is discarded");
        let text = RamBlock::new("file", step, &config(5)).unwrap_err().to_string();
        assert!(text.contains("offset 0x5 is expected to be a multiple of"), "{text}");
        assert!(RamBlock::new("file", step, &config(u64::MAX - step + 1)).is_err());
        std::fs::remove_file(&file).unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn merging_dumping_and_preallocation_reach_the_mapping() {
        let config = RamConfig { prealloc: true, merge: true, no_dump: true, ..RamConfig::default() };
        let ram = match RamBlock::new("flags", 3 << 20, &config) {
            Ok(ram) => ram,
            Err(RamError::Unsupported { what, .. }) => {
                println!("SKIPPED: {what} is not available on this host");
                return;
            }
            Err(e) => panic!("{e}"),
        };
        let address = ram.host_ptr().as_ptr() as u64;
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut mine = false;
        let (mut flags, mut resident) = (String::new(), 0);
        for line in maps.lines() {
            let mut words = line.split_whitespace();
            let first = words.next().unwrap_or_default();
            if let Some((from, to)) = first.split_once('-').filter(|_| !first.ends_with(':')) {
                let number = |t| u64::from_str_radix(t, 16).unwrap_or(0);
                mine = (number(from)..number(to)).contains(&address);
            } else if mine && first == "VmFlags:" {
                flags = line.to_owned();
            } else if mine && first == "Rss:" {
                resident = words.next().and_then(|n| n.parse().ok()).unwrap_or(0);
            }
        }
        assert!(flags.contains(" mg") && flags.contains(" dd"), "{flags}");
        assert!(resident >= 3 << 10, "{resident} KiB are resident");
    }
}
