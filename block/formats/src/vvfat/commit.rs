//! Putting what the guest has written into the directory.
//!
//! The volume is read as a whole first; if anything on it does not fit, nothing is done and it is tried again at the
//! next flush. Files are written beside their place and renamed into it. What a file of the directory still lends to
//! the volume is copied before the file is replaced or deleted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use block::BlockError;

use super::build::{Known, Source, stamp};
use super::layout::{ENTRY, Layout, SECTOR};
use super::tree::{Item, Reader, Tree, Trouble};
use super::{Vvfat, Written};

/// Most renames that are found at a time; what is beyond them is copied and deleted.
const MAX_RENAMES: usize = 1024;

/// What is to be done, in this order.
#[derive(Debug, Default)]
struct Plan {
    /// What is above comes before what is below.
    places: Vec<Step>,
    files: Vec<String>,
    /// Deepest first.
    deletes: Vec<String>,
}

/// Something that gets a place.
#[derive(Debug)]
enum Step {
    Folder(String),
    /// From, with the steps before done; to.
    Rename(String, String),
}

impl Vvfat {
    /// Puts all changes into the directory, if the volume is whole.
    pub(super) fn commit(&self, w: &mut Written) -> Result<(), BlockError> {
        if w.fresh.is_empty() {
            return Ok(());
        }
        let done = self.read_tree(w).and_then(|tree| {
            let plan = self.plan(w, &tree)?;
            self.apply(w, &tree, plan)
        });
        match done {
            Ok(()) => {
                w.fresh.clear();
                w.waiting = None;
                Ok(())
            }
            Err(Trouble::Volume(what)) => {
                w.waiting = Some(what);
                Ok(())
            }
            Err(Trouble::Host(e)) => {
                w.waiting = Some(e.to_string());
                Err(e)
            }
        }
    }

    fn volume_sectors(&self, w: &Written, sector: u32, count: u32) -> Result<Vec<u8>, BlockError> {
        let mut out = vec![0; count as usize * SECTOR];
        self.read_sectors(w, self.layout().start + sector, &mut out)?;
        Ok(out)
    }

    fn read_tree(&self, w: &Written) -> Result<Tree, Trouble> {
        let l = self.layout();
        let boot = self.volume_sectors(w, 0, 1)?;
        if Layout::shape(&boot) != Layout::shape(&l.boot(&self.base.label)) {
            return Err(Trouble::Volume("the guest has made another file system on the volume".into()));
        }
        let (fat, count) = l.fat();
        let table = l.decode(&self.volume_sectors(w, fat, count)?);
        let mut read = |cluster: u32| match cluster {
            0 => self.volume_sectors(w, l.root(), l.data() - l.root()),
            n => self.volume_sectors(w, l.sector_of(n), l.per_cluster),
        };
        Reader::new(l, table, &mut read).tree()
    }

    /// Whether the guest has freed an entry, rather than wiped or lost it.
    fn freed(&self, known: &Known, tree: &Tree) -> bool {
        match tree.directories.get(&known.slot.0) {
            Some(bytes) => bytes.get(known.slot.1 as usize * ENTRY).is_some_and(|b| *b != 0),
            // Its directory is gone as well, which has an entry of its own to tell.
            None => true,
        }
    }

    /// What differs between the directory and the volume.
    fn plan(&self, w: &Written, tree: &Tree) -> Result<Plan, Trouble> {
        let mut plan = Plan::default();
        // The directory as it will be once everything has its place.
        let mut known = w.known.clone();
        let mut by_first = by_first(&known);
        let mut renames = 0;
        for (path, item) in &tree.items {
            if known.contains_key(path) {
                continue;
            }
            // What starts at the same cluster under a name that is gone is the same thing, renamed.
            let old = by_first
                .get(&(item.first(), item.directory))
                .filter(|old| item.first() != 0 && renames < MAX_RENAMES && !tree.items.contains_key(*old));
            if let Some(old) = old.cloned() {
                renames += 1;
                follow(&mut known, &old, path, item.directory);
                if item.directory {
                    by_first = self::by_first(&known);
                }
                plan.places.push(Step::Rename(old, path.clone()));
            } else if item.directory {
                plan.places.push(Step::Folder(path.clone()));
            }
        }
        for (path, k) in known.iter().rev().filter(|(p, _)| !tree.items.contains_key(*p)) {
            if !self.freed(k, tree) {
                return Err(Trouble::Volume(format!("the entry of {path} was wiped")));
            }
            plan.deletes.push(path.clone());
        }
        for (path, item) in &tree.items {
            let k = known.get(path);
            if let Some(k) = k.filter(|k| k.directory != item.directory) {
                let (was, is) = if k.directory { ("directory", "file") } else { ("file", "directory") };
                return Err(Trouble::Volume(format!("{path} was a {was} and is a {is}")));
            }
            let same = k.is_some_and(|k| k.size == item.size && k.first == item.first());
            if !item.directory && (!same || item.chain.iter().any(|c| self.touched(w, *c))) {
                plan.files.push(path.clone());
            }
        }
        Ok(plan)
    }

    /// Whether the guest has written to a cluster lately.
    fn touched(&self, w: &Written, cluster: u32) -> bool {
        let l = self.layout();
        let first = l.start + l.sector_of(cluster);
        w.fresh.range(first..first + l.per_cluster).next().is_some()
    }

    /// The host's path of something below the directory, all of whose folders are real ones.
    fn inside(&self, path: &str) -> Result<std::path::PathBuf, Trouble> {
        let mut at = self.root.clone();
        let mut parts = path.split('/').peekable();
        while let Some(part) = parts.next() {
            at.push(part);
            if parts.peek().is_some() && !std::fs::symlink_metadata(&at).is_ok_and(|m| m.is_dir()) {
                return Err(host(&at, std::io::Error::other("is no directory any more")));
            }
        }
        Ok(at)
    }

    /// Refuses to touch what somebody else has changed.
    fn ours(&self, w: &Written, path: &str) -> Result<std::path::PathBuf, Trouble> {
        let full = self.inside(path)?;
        let metadata = std::fs::symlink_metadata(&full).map_err(|e| host(&full, e))?;
        match w.known.get(path) {
            Some(k) if k.directory == metadata.is_dir() && (k.directory || k.stamp == stamp(&metadata)) => {
                Ok(full)
            }
            _ => {
                Err(host(&full, std::io::Error::other("was changed by somebody else while the guest had it")))
            }
        }
    }

    fn apply(&self, w: &mut Written, tree: &Tree, plan: Plan) -> Result<(), Trouble> {
        for step in &plan.places {
            match step {
                Step::Folder(path) => {
                    let full = self.inside(path)?;
                    std::fs::create_dir(&full).map_err(|e| host(&full, e))?;
                    self.note(w, path, &tree.items[path], &full)?;
                }
                Step::Rename(from, to) => {
                    let (old, new) = (self.ours(w, from)?, self.inside(to)?);
                    if std::fs::symlink_metadata(&new).is_ok() {
                        return Err(host(&new, std::io::ErrorKind::AlreadyExists.into()));
                    }
                    std::fs::rename(&old, &new).map_err(|e| host(&new, e))?;
                    *self.last.lock() = None;
                    follow(&mut w.known, from, to, tree.items[to].directory);
                    for f in w.files.iter_mut().flatten() {
                        if let Some(n) = renamed(f, from, to) {
                            *f = n;
                        }
                    }
                }
            }
        }
        for path in &plan.files {
            let item = &tree.items[path];
            let (full, replaced) = match w.known.contains_key(path) {
                true => (self.ours(w, path)?, true),
                false => {
                    let full = self.inside(path)?;
                    if std::fs::symlink_metadata(&full).is_ok() {
                        return Err(host(&full, std::io::ErrorKind::AlreadyExists.into()));
                    }
                    (full, false)
                }
            };
            self.store(w, item, &full, replaced.then_some(path))?;
            self.note(w, path, item, &full)?;
        }
        for path in &plan.deletes {
            let full = self.ours(w, path)?;
            if w.known.get(path).is_some_and(|k| k.directory) {
                // One with something in it that the guest never saw stays.
                match std::fs::remove_dir(&full) {
                    Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => {}
                    other => other.map_err(|e| host(&full, e))?,
                }
            } else {
                self.copy_out(w, path)?;
                std::fs::remove_file(&full).map_err(|e| host(&full, e))?;
            }
            w.known.remove(path);
        }
        // Places of entries and first clusters may have changed without anything else.
        for (path, item) in &tree.items {
            if let Some(known) = w.known.get_mut(path) {
                (known.slot, known.first, known.size) = (item.slot, item.first(), item.size);
            }
        }
        Ok(())
    }

    /// Remembers what the directory has now.
    fn note(&self, w: &mut Written, path: &str, item: &Item, full: &Path) -> Result<(), Trouble> {
        let metadata = std::fs::symlink_metadata(full).map_err(|e| host(full, e))?;
        let known = Known {
            directory: item.directory,
            first: item.first(),
            size: item.size,
            slot: item.slot,
            stamp: stamp(&metadata),
        };
        w.known.insert(path.to_owned(), known);
        Ok(())
    }

    /// Writes a file with what its clusters hold, and puts it in place whole.
    fn store(
        &self,
        w: &mut Written,
        item: &Item,
        full: &Path,
        replaces: Option<&String>,
    ) -> Result<(), Trouble> {
        let l = self.layout();
        let folder = full.parent().unwrap_or(&self.root);
        let mut temp =
            tempfile::Builder::new().prefix(".vvfat-").tempfile_in(folder).map_err(|e| host(folder, e))?;
        let mut left = item.size as usize;
        for run in runs(&item.chain) {
            let mut data = vec![0; run.1 as usize * l.cluster()];
            self.read_sectors(w, l.start + l.sector_of(run.0), &mut data)?;
            let n = left.min(data.len());
            temp.write_all(&data[..n]).map_err(|e| host(full, e))?;
            left -= n;
        }
        temp.as_file().sync_data().map_err(|e| host(full, e))?;
        match replaces {
            Some(path) => {
                let permissions = std::fs::metadata(full).map_err(|e| host(full, e))?.permissions();
                temp.as_file().set_permissions(permissions).map_err(|e| host(full, e))?;
                self.copy_out(w, path)?;
                temp.persist(full).map_err(|e| host(full, e.error))?;
            }
            None => {
                readable(temp.as_file()).map_err(|e| host(full, e))?;
                temp.persist_noclobber(full).map_err(|e| host(full, e.error))?;
            }
        }
        Ok(())
    }

    /// Copies what a file of the directory still lends to the volume, before it goes.
    fn copy_out(&self, w: &mut Written, path: &str) -> Result<(), BlockError> {
        *self.last.lock() = None;
        let Some(number) = w.files.iter().position(|f| f.as_deref() == Some(path)) else { return Ok(()) };
        let l = self.layout();
        let run = self.base.runs.iter().find(|r| matches!(r.source, Source::File(n) if n == number));
        if let Some(run) = run {
            for cluster in run.first..run.first + run.count {
                for sector in 0..l.per_cluster {
                    let at = l.start + l.sector_of(cluster) + sector;
                    if !w.places.contains_key(&at) {
                        let mut data = [0; SECTOR];
                        self.read_sectors(w, at, &mut data)?;
                        Self::keep(w, at, &data)?;
                    }
                }
            }
        }
        *self.last.lock() = None;
        w.files[number] = None;
        Ok(())
    }
}

/// Consecutive clusters of a chain, up to a megabyte or so of them: first and number.
fn runs(chain: &[u32]) -> Vec<(u32, u32)> {
    let mut out: Vec<(u32, u32)> = Vec::new();
    for c in chain {
        match out.last_mut() {
            Some((first, n)) if *first + *n == *c && *n < 128 => *n += 1,
            _ => out.push((*c, 1)),
        }
    }
    out
}

/// Paths by first cluster and kind.
fn by_first(known: &BTreeMap<String, Known>) -> BTreeMap<(u32, bool), String> {
    known.iter().map(|(path, k)| ((k.first, k.directory), path.clone())).collect()
}

/// The path of something that is, or is in, what was renamed.
fn renamed(path: &str, from: &str, to: &str) -> Option<String> {
    let rest = path.strip_prefix(from)?;
    (rest.is_empty() || rest.starts_with('/')).then(|| format!("{to}{rest}"))
}

/// Follows a rename in what is remembered.
fn follow(known: &mut BTreeMap<String, Known>, from: &str, to: &str, directory: bool) {
    if directory {
        let all = std::mem::take(known).into_iter();
        *known = all.map(|(p, k)| (renamed(&p, from, to).unwrap_or(p), k)).collect();
    } else if let Some(k) = known.remove(from) {
        known.insert(to.to_owned(), k);
    }
}

fn host(path: &Path, source: std::io::Error) -> Trouble {
    Trouble::Host(BlockError::Open { path: path.display().to_string(), source })
}

/// New files are as other programs make them, not for their owner alone.
#[cfg(unix)]
fn readable(file: &File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable(_: &File) -> std::io::Result<()> {
    Ok(())
}
