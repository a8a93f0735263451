//! QMP's `transaction` and the block commands that can be part of one: all happen at one moment, or none.

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use block_formats::Image;
use block_graph::{DirtyBitmap, Edge, Node, lead};
use serde_json::{Map, Value};

use crate::backends::Backends;
use crate::blockjobs::{
    Arguments, Prepared, bitmap, choice, flag, needed, number, prepare_backup, start_backup, text,
};
use crate::nodes::Snapshot;
use crate::savevm;
use crate::vm::RheaVm;

/// One action, prepared so far that it can hardly fail.
enum Action {
    Snapshot(Snapshot),
    Internal(Arc<Node>, block_formats::Snapshot),
    Backup(Box<Prepared>),
    Add(Arc<Node>, Arc<DirtyBitmap>),
    Remove(Arc<Node>, Arc<DirtyBitmap>),
    Clear(Arc<DirtyBitmap>, Vec<Range<u64>>),
    Enable { bitmap: Arc<DirtyBitmap>, on: bool, was: bool },
    Merge { into: Arc<DirtyBitmap>, ranges: Vec<Range<u64>>, before: Vec<Range<u64>> },
    Abort,
}

impl Action {
    /// The node at which nothing may be under way.
    fn node(&self) -> Option<Arc<Node>> {
        match self {
            Action::Snapshot(s) => Some(s.old.clone()),
            Action::Backup(p) => Some(p.source.clone()),
            Action::Internal(node, _) | Action::Add(node, _) | Action::Remove(node, _) => Some(node.clone()),
            _ => None,
        }
    }

    fn apply(&mut self) -> Result<()> {
        match self {
            Action::Snapshot(s) => s.apply()?,
            Action::Internal(node, snapshot) => node.image().create_snapshot(snapshot)?,
            Action::Backup(p) => p.backup.begin()?,
            Action::Add(node, bitmap) => node.add_bitmap(bitmap.clone()),
            Action::Remove(node, bitmap) => drop(node.remove_bitmap(bitmap.name())),
            Action::Clear(bitmap, before) => *before = bitmap.clear(),
            Action::Enable { bitmap, on, was } => {
                *was = bitmap.enabled();
                bitmap.enable(*on);
            }
            Action::Merge { into, ranges, before } => {
                *before = into.ranges(0..into.size());
                into.restore(ranges);
            }
            Action::Abort => bail!("Transaction aborted using Abort action"),
        }
        Ok(())
    }

    fn undo(&mut self) {
        match self {
            Action::Snapshot(s) => s.undo(),
            Action::Internal(node, snapshot) => drop(node.image().delete_snapshot(&snapshot.name)),
            Action::Backup(p) => p.backup.abort(),
            Action::Add(node, bitmap) => drop(node.remove_bitmap(bitmap.name())),
            Action::Remove(node, bitmap) => node.add_bitmap(bitmap.clone()),
            Action::Clear(bitmap, before) => bitmap.restore(before),
            Action::Enable { bitmap, was, .. } => bitmap.enable(*was),
            Action::Merge { into, before, .. } => {
                into.clear();
                into.restore(before);
            }
            Action::Abort => {}
        }
    }
}

fn snapshot_sync(b: &mut Backends, a: &Arguments) -> Result<Snapshot> {
    let node = match (text(a, "device"), text(a, "node-name")) {
        (Some(name), None) | (None, Some(name)) => b.node_of(name)?,
        _ => bail!("one of 'device' and 'node-name' is needed"),
    };
    let existing = choice(a, "mode", &[("absolute-paths", false), ("existing", true)])?.unwrap_or(false);
    let format = text(a, "format").unwrap_or("qcow2");
    let name = text(a, "snapshot-node-name");
    b.graph.create_overlay(node.name(), needed(a, "snapshot-file")?, format, name, existing)
}

/// Prepares an action; `clock` is the machine's.
fn prepare(b: &mut Backends, clock: u64, kind: &str, a: &Arguments) -> Result<Action> {
    Ok(match kind {
        "blockdev-snapshot" => {
            let node = b.node_of(needed(a, "node")?)?;
            Action::Snapshot(b.graph.snapshot(node.name(), needed(a, "overlay")?)?)
        }
        "blockdev-snapshot-sync" => Action::Snapshot(snapshot_sync(b, a)?),
        "blockdev-snapshot-internal-sync" => {
            let (node, snapshot) = savevm::internal(b, clock, a)?;
            Action::Internal(node, snapshot)
        }
        "blockdev-backup" => Action::Backup(Box::new(prepare_backup(b, a, false)?)),
        "drive-backup" => Action::Backup(Box::new(prepare_backup(b, a, true)?)),
        "block-dirty-bitmap-add" => {
            let node = b.node_of(needed(a, "node")?)?;
            let name = needed(a, "name")?;
            if name.is_empty() {
                bail!("Bitmap name cannot be empty");
            }
            if node.dirty_bitmap(name).is_some() {
                bail!("Bitmap already exists: {name}");
            }
            let persistent = flag(a, "persistent").unwrap_or(false);
            if persistent && node.format() != "qcow2" {
                bail!("format {} does not keep bitmaps", node.format());
            }
            let granularity = number(a, "granularity").unwrap_or(64 << 10);
            let size = node.image().size();
            let new = DirtyBitmap::new(name, size, granularity, persistent)?;
            new.enable(!flag(a, "disabled").unwrap_or(false));
            Action::Add(node, Arc::new(new))
        }
        "block-dirty-bitmap-remove" => {
            let (node, found) = bitmap(b, a)?;
            Action::Remove(node, found)
        }
        "block-dirty-bitmap-clear" => Action::Clear(bitmap(b, a)?.1, Vec::new()),
        "block-dirty-bitmap-enable" => Action::Enable { bitmap: bitmap(b, a)?.1, on: true, was: true },
        "block-dirty-bitmap-disable" => Action::Enable { bitmap: bitmap(b, a)?.1, on: false, was: true },
        "block-dirty-bitmap-merge" => merge(b, a)?,
        "abort" => Action::Abort,
        other => bail!("action '{other}' is not supported in a transaction"),
    })
}

fn merge(b: &Backends, a: &Arguments) -> Result<Action> {
    let mut named = Map::new();
    named.insert("node".into(), needed(a, "node")?.into());
    named.insert("name".into(), needed(a, "target")?.into());
    let (node, into) = bitmap(b, &named)?;
    let Some(Value::Array(list)) = a.get("bitmaps") else { bail!("argument 'bitmaps' expects a list") };
    let mut ranges = Vec::new();
    for item in list {
        let (of, name) = match item {
            Value::String(name) => (node.clone(), name.as_str()),
            other => {
                let field = |key: &str| other.get(key).and_then(Value::as_str).unwrap_or_default();
                (b.node_of(field("node"))?, field("name"))
            }
        };
        let found = of.dirty_bitmap(name).ok_or_else(|| anyhow!("Dirty bitmap '{name}' not found"))?;
        if found.size() != into.size() {
            bail!("Bitmaps '{name}' and '{}' are for disks of different sizes", into.name());
        }
        ranges.extend(found.ranges(0..found.size()));
    }
    Ok(Action::Merge { into, ranges, before: Vec::new() })
}

/// Does several actions at one moment.
fn run(vm: &Arc<RheaVm>, list: &[(String, Arguments)]) -> Result<()> {
    let mut b = vm.backends.lock();
    let mut actions: Vec<Action> = Vec::new();
    for (kind, data) in list {
        match prepare(&mut b, vm.machine.clock().now(), kind, data) {
            Ok(action) => actions.push(action),
            Err(e) => {
                give_back(&mut b, actions);
                return Err(e);
            }
        }
    }
    let nodes: Vec<Arc<Node>> = actions.iter().filter_map(Action::node).collect();
    // What is to be below an overlay is written out first, while requests still go on.
    nodes.iter().try_for_each(|n| block::BlockNode::flush(&**n))?;
    let below: Vec<Arc<Edge>> = nodes
        .iter()
        .flat_map(|n| n.edges())
        .filter(|e| actions.iter().any(|a| matches!(a, Action::Snapshot(s) if s.keeps(e))))
        .collect();
    let done = lead(
        &nodes,
        |e| below.iter().any(|b| Arc::ptr_eq(b, e)),
        || {
            for i in 0..actions.len() {
                if let Err(e) = actions[i].apply() {
                    actions[..i].iter_mut().rev().for_each(Action::undo);
                    return Err(e);
                }
            }
            let pair = |a: &Action| match a {
                Action::Snapshot(s) => Some((s.old.clone(), s.new.clone())),
                _ => None,
            };
            Ok(actions.iter().filter_map(pair).collect())
        },
    );
    if let Err(e) = done {
        give_back(&mut b, actions);
        return Err(e);
    }
    let mut backups = Vec::new();
    for a in actions {
        match a {
            Action::Snapshot(s) => b.graph.inherit(&s.old, &s.new),
            Action::Backup(p) => backups.push(p),
            Action::Remove(node, bitmap) if bitmap.persistent() => {
                // It may not be in the image yet.
                let image = node.image();
                if image.bitmaps()?.iter().any(|i| i.name == bitmap.name()) {
                    image.change_bitmap(bitmap.name(), &block_formats::BitmapChange::Remove)?;
                }
            }
            _ => {}
        }
    }
    drop(b);
    backups.into_iter().try_for_each(|p| start_backup(vm, *p))
}

/// Drops what was prepared for nothing.
fn give_back(b: &mut Backends, actions: Vec<Action>) {
    let mut names = Vec::new();
    for mut a in actions {
        match &mut a {
            Action::Backup(p) => p.backup.abort(),
            Action::Snapshot(s) => names.push(s.new.name().to_owned()),
            _ => {}
        }
    }
    for name in names {
        let _ = b.graph.remove(&name);
    }
    b.graph.collect();
}

/// A command that may be part of a transaction, alone.
pub(crate) fn alone(vm: &Arc<RheaVm>, kind: &str, a: &Arguments) -> Result<()> {
    run(vm, &[(kind.to_owned(), a.clone())])
}

/// `transaction`.
pub(crate) fn transaction(vm: &Arc<RheaVm>, a: &Arguments) -> Result<()> {
    let Some(Value::Array(list)) = a.get("actions") else { bail!("argument 'actions' expects a list") };
    let mut actions = Vec::new();
    for item in list {
        let kind = item.get("type").and_then(Value::as_str);
        let kind = kind.ok_or_else(|| anyhow!("an action needs 'type'"))?;
        let data = item.get("data").and_then(Value::as_object).cloned().unwrap_or_default();
        actions.push((kind.to_owned(), data));
    }
    run(vm, &actions)
}
