//! The files on a volume as the guest has written it. Nothing in it is trusted: a volume on which anything does not
//! fit is told as what it is, in the middle of a change or damaged, and nobody acts on it.

use std::collections::{BTreeMap, BTreeSet};

use super::build::{DIRECTORY, MAX_DEPTH, MAX_DIRECTORY, VOLUME};
use super::layout::{END, ENTRY, Layout, Width};
use super::names::{LONG, Long, Short, spell, valid};
use crate::bytes::{le16, le32};

/// A file or directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) directory: bool,
    /// All its clusters, as far as they hold it.
    pub(super) chain: Vec<u32>,
    pub(super) size: u32,
    pub(super) slot: (u32, u32),
}

impl Item {
    pub(super) fn first(&self) -> u32 {
        self.chain.first().copied().unwrap_or(0)
    }
}

/// Everything on a volume, by path.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) items: BTreeMap<String, Item>,
    /// Bytes of each directory by its first cluster, 0 for the root.
    pub(super) directories: BTreeMap<u32, Vec<u8>>,
}

/// Reads a volume; `read` gives a cluster, or with 0 the root directory that is no cluster.
pub(super) struct Reader<'a> {
    pub(super) layout: Layout,
    pub(super) table: Vec<u32>,
    pub(super) read: &'a mut dyn FnMut(u32) -> Result<Vec<u8>, block::BlockError>,
    used: BTreeSet<u32>,
    tree: Tree,
}

/// Why there is no tree: the volume, or the host's disk.
pub(super) enum Trouble {
    Volume(String),
    Host(block::BlockError),
}

impl From<block::BlockError> for Trouble {
    fn from(e: block::BlockError) -> Self {
        Trouble::Host(e)
    }
}

fn volume<T>(what: impl Into<String>) -> Result<T, Trouble> {
    Err(Trouble::Volume(what.into()))
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        layout: Layout,
        table: Vec<u32>,
        read: &'a mut dyn FnMut(u32) -> Result<Vec<u8>, block::BlockError>,
    ) -> Self {
        Reader { layout, table, read, used: BTreeSet::new(), tree: Tree::default() }
    }

    /// All there is.
    pub(super) fn tree(mut self) -> Result<Tree, Trouble> {
        let bytes = if self.layout.width == Width::Fat32 {
            let chain = self.chain(2, None, "the root directory")?;
            self.directory_bytes(&chain)?
        } else {
            (self.read)(0)?
        };
        self.directory("", 0, None, bytes, 0)?;
        Ok(self.tree)
    }

    /// The clusters of a chain, each of which belongs to nothing else.
    fn chain(&mut self, first: u32, size: Option<u32>, path: &str) -> Result<Vec<u32>, Trouble> {
        let cluster = self.layout.cluster() as u64;
        let wanted = size.map(|s| u64::from(s).div_ceil(cluster) as usize);
        let mut out = Vec::new();
        let mut at = first;
        if first == 0 && wanted.is_none_or(|w| w == 0) {
            return Ok(out);
        }
        loop {
            if !self.layout.is_cluster(at) || !self.used.insert(at) {
                return volume(format!("{path}: cluster {at} is not there or belongs to two files"));
            }
            out.push(at);
            at = self.table[at as usize];
            if at == END {
                break;
            }
        }
        if let Some(wanted) = wanted {
            if out.len() < wanted {
                return volume(format!("{path}: {} clusters, expected {wanted}", out.len()));
            }
            // What was taken ahead is not yet the file's.
            out.truncate(wanted);
        }
        Ok(out)
    }

    fn directory_bytes(&mut self, chain: &[u32]) -> Result<Vec<u8>, Trouble> {
        if chain.len() * self.layout.cluster() > MAX_DIRECTORY * ENTRY {
            return volume(format!("a directory of {} clusters", chain.len()));
        }
        let mut out = Vec::new();
        for cluster in chain {
            out.extend_from_slice(&(self.read)(*cluster)?);
        }
        Ok(out)
    }

    fn directory(
        &mut self,
        path: &str,
        own: u32,
        parent: Option<u32>,
        bytes: Vec<u8>,
        depth: usize,
    ) -> Result<(), Trouble> {
        if depth > MAX_DEPTH {
            return volume(format!("{path}: directories are nested deeper than {MAX_DEPTH}"));
        }
        if let Some(parent) = parent {
            let dots = |at: usize, name: &[u8; 11], first: u32| {
                bytes
                    .get(at..at + ENTRY)
                    .is_some_and(|e| e.starts_with(name) && e[11] & DIRECTORY != 0 && self.first(e) == first)
            };
            if !dots(0, b".          ", own) || !dots(ENTRY, b"..         ", parent) {
                return volume(format!("{path}: the directory does not start with . and .."));
            }
        }
        let mut long = Long::default();
        let mut spellings = BTreeSet::new();
        let skip = if parent.is_some() { 2 } else { 0 };
        for (i, e) in bytes.chunks_exact(ENTRY).enumerate().skip(skip) {
            match (e[0], e[11]) {
                (0, _) => break,
                (0xe5, _) => {
                    long = Long::default();
                    continue;
                }
                (_, kind) if kind & 0x3f == LONG => {
                    long.add(e);
                    continue;
                }
                (_, kind) if kind & VOLUME != 0 => {
                    long = Long::default();
                    continue;
                }
                _ => {}
            }
            let mut short: Short = [0; 11];
            short.copy_from_slice(&e[..11]);
            let name = long.take(&short).or_else(|| spell(&short, e[12]));
            let Some(name) = name.filter(|n| valid(n) && spellings.insert(n.to_lowercase())) else {
                return volume(format!("{path}: entry {i} has a name that is not valid, or is there twice"));
            };
            let full = if path.is_empty() { name } else { format!("{path}/{name}") };
            let (first, size) = (self.first(e), le32(e, 28));
            let directory = e[11] & DIRECTORY != 0;
            if directory && !self.layout.is_cluster(first) {
                return volume(format!("{full}: a directory without clusters"));
            }
            let chain = self.chain(first, (!directory).then_some(size), &full)?;
            let slot = (own, i as u32);
            self.tree.items.insert(full.clone(), Item { directory, chain: chain.clone(), size, slot });
            if directory {
                let inner = self.directory_bytes(&chain)?;
                self.directory(&full, first, Some(own), inner, depth + 1)?;
            }
        }
        self.tree.directories.insert(own, bytes);
        Ok(())
    }

    fn first(&self, entry: &[u8]) -> u32 {
        let high = if self.layout.width == Width::Fat32 { u32::from(le16(entry, 20)) << 16 } else { 0 };
        high | u32::from(le16(entry, 26))
    }
}
