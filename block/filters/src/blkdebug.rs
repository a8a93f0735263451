//! `blkdebug`: errors on demand, for tests of what stands above.
//!
//! A rule makes requests of one kind fail, of all or of one sector, once or always, while the node is in a state; another
//! changes the state when a kind of request comes. QEMU's events that only its own formats raise are not known here: `none`,
//! which every request raises, and those of reads, writes and flushes of the file are.

use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;
use std::sync::Arc;

use block::{BlockError, BlockNode, Extent, NodeInfo};
use parking_lot::Mutex;
use serde_json::{Map, Value};

use crate::breakpoints::Breakpoints;
use crate::driver::{Children, items, scalars, wrong};
use crate::pass::{named, pass, total, total_mut};

pub(crate) const OPTIONS: &[&str] =
    &["image", "config", "inject-error", "set-state", "align", "max-transfer"];

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads.
    Read,
    /// Writes data.
    Write,
    /// Writes zeroes.
    WriteZeroes,
    /// Gives up a range.
    Discard,
    /// Flushes.
    Flush,
    /// Asks for status.
    BlockStatus,
}

const KINDS: [(&str, Kind); 6] = [
    ("read", Kind::Read),
    ("write", Kind::Write),
    ("write-zeroes", Kind::WriteZeroes),
    ("discard", Kind::Discard),
    ("flush", Kind::Flush),
    ("block-status", Kind::BlockStatus),
];

/// Events with the requests that raise them; `None` is every request.
const EVENTS: [(&str, Option<&[Kind]>); 8] = [
    ("none", None),
    ("read_aio", Some(&[Kind::Read])),
    ("read_backing_aio", Some(&[Kind::Read])),
    ("write_aio", Some(&[Kind::Write])),
    ("pwritev", Some(&[Kind::Write])),
    ("pwritev_zero", Some(&[Kind::WriteZeroes])),
    ("flush_to_os", Some(&[Kind::Flush])),
    ("flush_to_disk", Some(&[Kind::Flush])),
];

/// A rule by which requests fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Kinds of requests; empty for all.
    pub kinds: Vec<Kind>,
    /// Only while the node is in this state; 0 is any.
    pub state: u64,
    /// Only requests that touch this sector.
    pub sector: Option<u64>,
    /// Only the first time.
    pub once: bool,
    /// The error, by its number on Linux.
    pub errno: u32,
}

#[derive(Clone, Debug)]
struct Change {
    kinds: Vec<Kind>,
    state: u64,
    new_state: u64,
}

#[derive(Debug)]
struct Rules {
    state: u64,
    faults: Vec<Fault>,
    changes: Vec<Change>,
    /// Requests that failed by a rule.
    failed: u64,
}

/// A node that fails.
#[derive(Debug)]
pub struct BlkDebug {
    child: Arc<dyn BlockNode>,
    rules: Mutex<Rules>,
    breakpoints: Arc<Breakpoints>,
    align: u64,
    max_transfer: u64,
}

impl BlkDebug {
    /// Over `child`, with these rules.
    pub fn new(child: Arc<dyn BlockNode>, faults: Vec<Fault>) -> Self {
        let rules = Rules { state: 1, faults, changes: Vec::new(), failed: 0 };
        BlkDebug {
            child,
            rules: Mutex::new(rules),
            breakpoints: Arc::default(),
            align: 1,
            max_transfer: u64::MAX,
        }
    }

    /// Other rules from now on.
    pub fn set(&self, faults: Vec<Fault>) {
        self.rules.lock().faults = faults;
    }

    /// Requests that failed by a rule so far.
    pub fn failed(&self) -> u64 {
        self.rules.lock().failed
    }

    fn request(&self, kind: Kind, range: Range<u64>) -> Result<(), BlockError> {
        self.breakpoints.meet(kind);
        let mut rules = self.rules.lock();
        let state = rules.state;
        let raises = |kinds: &[Kind]| kinds.is_empty() || kinds.contains(&kind);
        let hit = rules.faults.iter().position(|f| {
            let sector = f.sector.is_none_or(|s| range.start < (s + 1) * 512 && s * 512 < range.end);
            raises(&f.kinds) && (f.state == 0 || f.state == state) && sector
        });
        if let Some(c) = rules.changes.iter().find(|c| raises(&c.kinds) && (c.state == 0 || c.state == state))
        {
            rules.state = c.new_state;
        }
        if let Some(at) = hit {
            rules.failed += 1;
            let errno =
                if rules.faults[at].once { rules.faults.remove(at).errno } else { rules.faults[at].errno };
            return Err(error(errno));
        }
        if !range.start.is_multiple_of(self.align)
            || !range.end.is_multiple_of(self.align) && range.end != self.size()
        {
            let text = format!("blkdebug: a request of {range:?} is not aligned to {}", self.align);
            return Err(BlockError::Io(std::io::Error::new(std::io::ErrorKind::InvalidInput, text)));
        }
        if range.end - range.start > self.max_transfer {
            let text = format!("blkdebug: a request of {range:?} is longer than {}", self.max_transfer);
            return Err(BlockError::Io(std::io::Error::new(std::io::ErrorKind::InvalidInput, text)));
        }
        Ok(())
    }
}

impl Breakpoints {
    /// Has the next request that raises an event stop, with a tag.
    pub fn set(&self, event: &str, tag: &str) -> Result<(), BlockError> {
        self.set_kinds(of_event(event)?.unwrap_or_default().to_vec(), tag);
        Ok(())
    }
}

/// The requests that raise an event; nothing for all.
fn of_event(event: &str) -> Result<Option<&'static [Kind]>, BlockError> {
    EVENTS.iter().find(|(n, _)| *n == event).map(|(_, kinds)| *kinds).ok_or_else(|| {
        let known: Vec<_> = EVENTS.iter().map(|(n, _)| *n).collect();
        wrong("blkdebug", format!("event={event}: expected one of {}", known.join(", ")))
    })
}

/// The error of a number.
fn error(errno: u32) -> BlockError {
    BlockError::Io(std::io::Error::from_raw_os_error(errno as i32))
}

fn kinds(options: &block_formats::Options) -> Result<Vec<Kind>, BlockError> {
    let of_event = of_event(options.text("event").unwrap_or("none"))?;
    let words: Vec<(&str, Kind)> = KINDS.to_vec();
    Ok(match (options.choice("iotype", &words)?, of_event) {
        (Some(kind), _) => vec![kind],
        (None, Some(kinds)) => kinds.to_vec(),
        // As in QEMU, where a rule without a type is about these.
        (None, None) => {
            vec![Kind::Read, Kind::Write, Kind::WriteZeroes, Kind::Discard, Kind::Flush]
        }
    })
}

fn known(options: &block_formats::Options, names: &[&str]) -> Result<(), BlockError> {
    match options.iter().find(|(k, _)| !names.contains(k)) {
        Some((key, _)) => {
            Err(wrong("blkdebug", format!("unknown key '{key}' of a rule; there are: {}", names.join(", "))))
        }
        None => Ok(()),
    }
}

fn fault(options: &block_formats::Options) -> Result<Fault, BlockError> {
    known(options, &["event", "state", "iotype", "errno", "sector", "once", "immediately"])?;
    options.switch("immediately")?;
    Ok(Fault {
        kinds: kinds(options)?,
        state: options.number("state")?.unwrap_or(0),
        sector: options
            .text("sector")
            .filter(|s| *s != "-1")
            .map(|_| options.number("sector"))
            .transpose()?
            .flatten(),
        once: options.switch("once")?.unwrap_or(false),
        errno: options.number("errno")?.unwrap_or(5) as u32,
    })
}

fn change(options: &block_formats::Options) -> Result<Change, BlockError> {
    known(options, &["event", "state", "new_state"])?;
    let new_state =
        options.number("new_state")?.ok_or_else(|| wrong("blkdebug", "set-state needs 'new_state'"))?;
    Ok(Change { kinds: kinds(options)?, state: options.number("state")?.unwrap_or(0), new_state })
}

/// Rules in a file: sections `[inject-error]` and `[set-state]` of `key = "value"` lines.
fn read_config(path: &str, faults: &mut Vec<Fault>, changes: &mut Vec<Change>) -> Result<(), BlockError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| BlockError::Open { path: path.into(), source })?;
    let mut sections: Vec<(String, block_formats::Options)> = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            sections.push((name.into(), block_formats::Options::default()));
        } else if let (Some((key, value)), Some((_, options))) = (line.split_once('='), sections.last_mut()) {
            options.set(key.trim(), value.trim().trim_matches('"'));
        } else {
            return Err(wrong(path, format!("line {}: expected [SECTION] or key = \"value\"", i + 1)));
        }
    }
    for (name, options) in &sections {
        match name.as_str() {
            "inject-error" => faults.push(fault(options)?),
            "set-state" => changes.push(change(options)?),
            other => {
                return Err(wrong(path, format!("section [{other}]: expected inject-error or set-state")));
            }
        }
    }
    Ok(())
}

pub(crate) fn make(
    children: &mut dyn Children,
    map: &Map<String, Value>,
) -> Result<Arc<dyn BlockNode>, BlockError> {
    let options = scalars(map);
    let (mut faults, mut changes) = (Vec::new(), Vec::new());
    if let Some(path) = options.text("config") {
        read_config(path, &mut faults, &mut changes)?;
    }
    let rule = |v: &Value| match v {
        Value::Object(map) => Ok(scalars(map)),
        _ => Err(wrong("blkdebug", "a rule: expected an object")),
    };
    for v in items("blkdebug", map, "inject-error")? {
        faults.push(fault(&rule(&v)?)?);
    }
    for v in items("blkdebug", map, "set-state")? {
        changes.push(change(&rule(&v)?)?);
    }
    let mut node = BlkDebug::new(children.child(map, "image")?, faults);
    node.rules.get_mut().changes = changes;
    children.breakpoints(&node.breakpoints);
    let align = options.size("align")?.unwrap_or(0).max(1);
    if !align.is_power_of_two() {
        return Err(wrong("blkdebug", format!("align={align}: expected a power of two")));
    }
    node.align = align;
    node.max_transfer = options.size("max-transfer")?.filter(|m| *m != 0).unwrap_or(u64::MAX);
    Ok(Arc::new(node))
}

impl BlockNode for BlkDebug {
    pass!(child: size resize allocated_size grows children);

    fn info(&self) -> NodeInfo {
        let info = named("blkdebug", &*self.child);
        NodeInfo { granularity: info.granularity.max(self.align.min(1 << 20) as u32), ..info }
    }

    fn read(&self, offset: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<(), BlockError> {
        self.request(Kind::Read, offset..offset + total_mut(bufs))?;
        self.child.read(offset, bufs)
    }

    fn write(&self, offset: u64, bufs: &[IoSlice<'_>], fua: bool) -> Result<(), BlockError> {
        self.request(Kind::Write, offset..offset + total(bufs))?;
        self.child.write(offset, bufs, fua)
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.request(Kind::Flush, 0..0)?;
        self.child.flush()
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.request(Kind::Discard, offset..offset)?;
        self.child.discard(offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.request(Kind::WriteZeroes, offset..offset)?;
        self.child.write_zeroes(offset, len, unmap)
    }

    fn status(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        self.request(Kind::BlockStatus, range.start..range.start)?;
        self.child.status(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_stops_until_it_is_let_go() {
        let node = BlkDebug::new(Arc::new(block::MemoryNode::new("m", 4096)), Vec::new());
        let points = node.breakpoints.clone();
        assert!(points.set("l1_update", "x").is_err());
        points.set("write_aio", "a").unwrap();
        points.set("write_aio", "b").unwrap();
        std::thread::scope(|s| {
            let write = || node.write(0, &[IoSlice::new(&[1; 512])], false).unwrap();
            let first = s.spawn(write);
            while !points.is_stopped("a") {
                std::thread::yield_now();
            }
            let second = s.spawn(write);
            while points.stopped() != 2 {
                std::thread::yield_now();
            }
            let mut data = [9];
            node.read(0, &mut [IoSliceMut::new(&mut data)]).unwrap();
            assert_eq!(data, [0], "neither is written");
            assert!(points.resume("b") && !points.resume("b"));
            second.join().unwrap();
            assert!(!first.is_finished());
            assert!(points.remove("a") && !points.remove("a"));
        });
        assert_eq!(points.stopped(), 0);
    }

    #[test]
    fn rules() {
        let child = Arc::new(block::MemoryNode::new("m", 4096));
        let fault = |kinds: &[Kind], sector, once, errno| Fault {
            kinds: kinds.to_vec(),
            state: 0,
            sector,
            once,
            errno,
        };
        let node = BlkDebug::new(
            child,
            vec![fault(&[Kind::Read], Some(2), false, 5), fault(&[Kind::Write], None, true, 28)],
        );
        assert!(node.write(0, &[IoSlice::new(&[1; 512])], false).unwrap_err().is_no_space());
        node.write(0, &[IoSlice::new(&[1; 2048])], false).unwrap();
        let mut data = [0; 512];
        node.read(512, &mut [IoSliceMut::new(&mut data)]).unwrap();
        assert!(node.read(1000, &mut [IoSliceMut::new(&mut data)]).is_err());
        assert!(node.read(1536, &mut [IoSliceMut::new(&mut data)]).is_ok());
        assert_eq!(node.failed(), 2);
        node.set(Vec::new());
        node.read(1000, &mut [IoSliceMut::new(&mut data)]).unwrap();
    }
}
