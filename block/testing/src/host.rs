//! The host: its files, what was done to them in order, what is to fail, and what a power cut leaves.

use std::io;
use std::sync::Arc;

use block::BlockError;
use parking_lot::Mutex;

use crate::file::HostFile;
use crate::{Random, SECTOR};

/// How a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An I/O error; nothing is done.
    Io,
    /// No space, for what may take some; other requests are done.
    NoSpace,
    /// Part of a write is done, then there is an error; other requests are done.
    Short,
}

impl Fault {
    /// All there are.
    pub const ALL: [Fault; 3] = [Fault::Io, Fault::NoSpace, Fault::Short];
}

/// A request that changes a file.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Write(u64, Vec<u8>),
    Size(u64),
    Barrier,
}

impl Change {
    pub(crate) fn apply(&self, data: &mut Vec<u8>) {
        match self {
            Change::Write(at, bytes) => {
                let (at, end) = (*at as usize, *at as usize + bytes.len());
                if data.len() < end {
                    data.resize(end, 0);
                }
                data[at..end].copy_from_slice(bytes);
            }
            Change::Size(size) => data.resize(*size as usize, 0),
            Change::Barrier => {}
        }
    }

    /// What a cut in its middle leaves of it: some sectors of the file.
    fn torn(&self, random: &mut Random) -> Vec<Change> {
        let Change::Write(at, bytes) = self else { return vec![self.clone()] };
        let mut kept = Vec::new();
        let mut done = 0;
        while done < bytes.len() {
            let here = *at as usize + done;
            let n = (SECTOR - here % SECTOR).min(bytes.len() - done);
            if random.below(2) == 0 {
                kept.push(Change::Write(here as u64, bytes[done..done + n].to_vec()));
            }
            done += n;
        }
        kept
    }
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// Contents of the files at first, and now.
    pub(crate) before: Vec<Vec<u8>>,
    pub(crate) now: Vec<Vec<u8>>,
    /// Changes with the number of their file.
    log: Vec<(usize, Change)>,
    /// Requests of any kind so far, and the number of the one that fails.
    requests: u64,
    fault: Option<(u64, Fault)>,
    failed: u64,
}

/// What kind of request is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    Other,
}

impl State {
    /// Counts a request; an error if it is to fail. `Ok(true)` is a write of which a part is done.
    pub(crate) fn request(&mut self, kind: Kind) -> Result<bool, BlockError> {
        let number = self.requests;
        self.requests += 1;
        match self.fault {
            Some((at, fault)) if at == number => {
                let error = match (fault, kind) {
                    (Fault::Io, _) => Err(io::Error::other("injected").into()),
                    (Fault::NoSpace, Kind::Write) => Err(io::Error::from(io::ErrorKind::StorageFull).into()),
                    (Fault::Short, Kind::Write) => Ok(true),
                    _ => return Ok(false),
                };
                self.failed += 1;
                error
            }
            _ => Ok(false),
        }
    }

    pub(crate) fn change(&mut self, file: usize, change: Change) {
        change.apply(&mut self.now[file]);
        self.log.push((file, change));
    }
}

/// Files of one machine, which lose power together. Clones are the same host.
#[derive(Clone, Debug, Default)]
pub struct Host(pub(crate) Arc<Mutex<State>>);

impl Host {
    /// A host with files of these contents.
    pub fn new(files: Vec<Vec<u8>>) -> Self {
        Host(Arc::new(Mutex::new(State { before: files.clone(), now: files, ..State::default() })))
    }

    /// The file of a number.
    pub fn file(&self, number: usize) -> Arc<HostFile> {
        Arc::new(HostFile { host: self.clone(), number })
    }

    /// Contents of all files.
    pub fn contents(&self) -> Vec<Vec<u8>> {
        self.0.lock().now.clone()
    }

    /// Places where the power can be cut: between changes so far. 0 is before all.
    pub fn cuts(&self) -> usize {
        self.0.lock().log.len()
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.0.lock().requests
    }

    /// Has the request that is `from_now` after the next fail, or none.
    pub fn fail(&self, fault: Option<(u64, Fault)>) {
        let mut state = self.0.lock();
        let requests = state.requests;
        state.fault = fault.map(|(from_now, fault)| (requests + from_now, fault));
    }

    /// Requests that failed.
    pub fn failed(&self) -> u64 {
        self.0.lock().failed
    }

    /// What the files hold after the power was cut at a place. `luck` decides on what was not flushed; without it all of it
    /// was written.
    pub fn after_cut(&self, cut: usize, luck: Option<&mut Random>) -> Vec<Vec<u8>> {
        let state = self.0.lock();
        let log = &state.log[..cut];
        let mut luck = luck;
        let mut files = state.before.clone();
        for (number, data) in files.iter_mut().enumerate() {
            let barrier = log.iter().rposition(|(f, c)| *f == number && matches!(c, Change::Barrier));
            for (i, (_, change)) in log.iter().enumerate().filter(|(_, (f, _))| *f == number) {
                match luck.as_deref_mut() {
                    Some(random) if barrier.is_none_or(|b| i > b) => match random.below(8) {
                        0..=1 => {}
                        2 => change.torn(random).iter().for_each(|c| c.apply(data)),
                        _ => change.apply(data),
                    },
                    _ => change.apply(data),
                }
            }
        }
        files
    }
}
