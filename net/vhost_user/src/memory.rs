//! The front end's memory, mapped from the files that came with its table.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use guest_memory::{Backing, RamBlock, RamConfig};

use crate::Error;
use crate::message::request;

/// A piece of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// Its guest physical address, by which buffers are named.
    pub guest: u64,
    /// Bytes.
    pub size: u64,
    /// Its address in the front end, by which rings are named.
    pub user: u64,
    /// Where it begins in its file.
    pub offset: u64,
}

impl Region {
    /// Where `address` lies in it if the region begins at `start`, and `length` bytes from there do as well.
    fn find(&self, start: u64, address: u64, length: u64) -> Option<u64> {
        let at = address.checked_sub(start)?;
        (at.checked_add(length)? <= self.size).then_some(at)
    }
}

/// All pieces, mapped.
#[derive(Clone, Debug, Default)]
pub struct Memory(Vec<(Region, Arc<RamBlock>)>);

/// A piece of a block of memory.
pub(crate) struct Place {
    pub(crate) block: Arc<RamBlock>,
    pub(crate) offset: u64,
}

impl Memory {
    /// Maps the pieces of a table.
    ///
    /// # Errors
    /// A piece is not in its file, or the host maps none of it.
    pub fn map(regions: Vec<Region>, files: Vec<OwnedFd>) -> Result<Self, Error> {
        if regions.len() != files.len() {
            return Err(Error::protocol(request::SET_MEM_TABLE, "expected one descriptor for each piece"));
        }
        let mut all = Memory::default();
        regions.into_iter().zip(files).try_for_each(|(region, file)| all.add(region, &file))?;
        Ok(all)
    }

    /// Maps one more piece.
    ///
    /// # Errors
    /// See [`Memory::map`].
    pub fn add(&mut self, region: Region, file: &OwnedFd) -> Result<(), Error> {
        let bad = |why: &str| Error::protocol(request::SET_MEM_TABLE, why);
        let end = region.offset.checked_add(region.size).filter(|_| region.size > 0);
        let end = end.ok_or_else(|| bad("a piece without a size, or beyond all addresses"))?;
        let fits =
            region.guest.checked_add(region.size).is_some() && region.user.checked_add(region.size).is_some();
        let there = rustix::fs::fstat(file).map_err(|e| Error::host("a piece of memory", e))?;
        if !fits || u64::try_from(there.st_size).unwrap_or(0) < end {
            return Err(bad("a piece of memory that is not in its file"));
        }
        // What is mapped from a descriptor begins at a page; the piece need not.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
        let backing = Backing::File { path, shared: true, offset: 0 };
        let config = RamConfig { backing, ..RamConfig::default() };
        let block = RamBlock::new("vhost-user", end, &config)
            .map_err(|e| Error::host("a piece of memory", std::io::Error::other(e)))?;
        self.0.push((region, block));
        Ok(())
    }

    /// Adds a piece that is mapped here already: where it begins in `block` is the region's offset.
    pub fn add_block(&mut self, region: Region, block: Arc<RamBlock>) {
        self.0.push((region, block));
    }

    /// Takes a piece away; false if there is none such.
    pub fn remove(&mut self, region: &Region) -> bool {
        let before = self.0.len();
        self.0.retain(|(r, _)| (r.guest, r.size, r.user) != (region.guest, region.size, region.user));
        self.0.len() < before
    }

    /// Where `length` bytes at a guest physical address are.
    pub(crate) fn at_guest(&self, address: u64, length: u64) -> Option<Place> {
        self.0.iter().find_map(|(r, block)| {
            let at = r.find(r.guest, address, length)?;
            Some(Place { block: block.clone(), offset: r.offset + at })
        })
    }

    /// Where `length` bytes at an address of the front end's own are.
    pub(crate) fn at_user(&self, address: u64, length: u64) -> Option<Place> {
        self.0.iter().find_map(|(r, block)| {
            let at = r.find(r.user, address, length)?;
            Some(Place { block: block.clone(), offset: r.offset + at })
        })
    }

    /// Whether these bytes lie in memory.
    pub fn contains(&self, address: u64, length: u64) -> bool {
        self.at_guest(address, length).is_some()
    }

    /// Copies bytes at a guest physical address; `None` if they are not all in memory.
    pub fn read(&self, address: u64, to: &mut [u8]) -> Option<()> {
        let place = self.at_guest(address, to.len() as u64)?;
        place.block.read(place.offset, to).ok()
    }

    /// Writes bytes to a guest physical address; `None` if they are not all in memory.
    pub fn write(&self, address: u64, from: &[u8]) -> Option<()> {
        let place = self.at_guest(address, from.len() as u64)?;
        place.block.write(place.offset, from).ok()
    }
}
