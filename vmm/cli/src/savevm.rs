//! Snapshots of the whole machine: its state and, at the same moment, its disks.
//!
//! Each disk that can be written has a snapshot inside its image; one of them keeps the state of the machine as well. A machine
//! without such disks is saved in a file of its own. A state is written before, and read and checked before, any disk changes.

use std::io::{self, BufReader, BufWriter, IoSliceMut, Read, Write};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow, bail};
use block::{BlockError, BlockNode};
use block_formats::{Image, Snapshot};
use block_graph::Node;
use control::vm::{Event, RunState, SnapshotScope};
use machine::{MachineError, snapshot};
use serde_json::Value;

use crate::backends::Backends;
use crate::blockjobs::{Arguments, needed, text};
use crate::nodes::snapshot_info;
use crate::vm::RheaVm;

/// Bytes of the state that are moved at once.
const CHUNK: usize = 1 << 20;

/// The disks that a snapshot is of, and which of them keeps the state.
struct Disks {
    /// Each with its name for people.
    all: Vec<(String, Arc<Node>)>,
    state: usize,
}

impl Disks {
    /// The disks that a scope names; nothing if the machine has none.
    fn of(b: &Backends, scope: &SnapshotScope) -> Result<Option<Self>> {
        let nodes = match &scope.devices {
            None => b.graph.tops(),
            Some(names) if names.is_empty() => bail!("At least one device is required for snapshot"),
            Some(names) => names.iter().map(|n| b.node_of(n)).collect::<Result<_>>()?,
        };
        let all: Vec<(String, Arc<Node>)> = nodes.into_iter().map(|n| (b.name_of(&n), n)).collect();
        if let Some((name, _)) = all.iter().find(|(_, n)| !n.image().can_snapshot()) {
            bail!("Device '{name}' is writable but does not support snapshots");
        }
        let state = match &scope.vmstate {
            None => 0,
            Some(name) => {
                let at = all.iter().position(|(n, node)| n == name || node.name() == name);
                at.ok_or_else(|| anyhow!("vmstate block device '{name}' does not exist"))?
            }
        };
        Ok((!all.is_empty()).then_some(Disks { all, state }))
    }

    /// The disk that keeps the state.
    fn keeper(&self) -> &Arc<Node> {
        &self.all[self.state].1
    }

    /// The snapshot of a name in each disk that has it.
    fn named(&self, tag: &str) -> Vec<(&Arc<Node>, Snapshot)> {
        self.all.iter().filter_map(|(_, n)| Some((n, find(&**n.image(), tag)?))).collect()
    }
}

fn find(image: &dyn Image, tag: &str) -> Option<Snapshot> {
    image.snapshots().into_iter().find(|s| s.name == tag)
}

/// What makes it impossible that disks change as a whole.
fn undisturbed(vm: &RheaVm) -> Result<()> {
    if vm.migration.is_active() {
        bail!("the machine is being migrated");
    }
    match vm.block_jobs.query_block().first() {
        Some(job) => bail!("the disks are in use by job {}", job["device"]),
        None => Ok(()),
    }
}

fn new_snapshot(vm_clock_nsec: u64, name: &str) -> Snapshot {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Snapshot {
        name: name.to_owned(),
        date_sec: u32::try_from(now.as_secs()).unwrap_or(u32::MAX),
        date_nsec: now.subsec_nanos(),
        vm_clock_nsec,
        ..Snapshot::default()
    }
}

fn as_io(e: BlockError) -> io::Error {
    match e {
        BlockError::Io(e) => e,
        other => io::Error::other(other.to_string()),
    }
}

/// Writes the state of a machine into an image.
struct StateOut<'a> {
    image: &'a dyn Image,
    at: u64,
}

impl Write for StateOut<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.image.write_state(self.at, buf).map_err(as_io)?;
        self.at += buf.len() as u64;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads the state of a machine from its start.
struct StateIn<'a> {
    node: &'a dyn BlockNode,
    at: u64,
}

impl Read for StateIn<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.node.size().saturating_sub(self.at);
        let n = left.min(buf.len() as u64) as usize;
        self.node.read(self.at, &mut [IoSliceMut::new(&mut buf[..n])]).map_err(as_io)?;
        self.at += n as u64;
        Ok(n)
    }
}

fn input(node: &dyn BlockNode) -> BufReader<StateIn<'_>> {
    BufReader::with_capacity(CHUNK, StateIn { node, at: 0 })
}

/// Saves the machine and its disks; false if it has no disks to keep it.
pub(crate) fn save(vm: &RheaVm, tag: &str, scope: &SnapshotScope, replace: bool) -> Result<bool> {
    let Some(disks) = Disks::of(&vm.backends.lock(), scope)? else { return Ok(false) };
    undisturbed(vm)?;
    if tag.is_empty() {
        bail!("a snapshot needs a name");
    }
    if !replace && !disks.named(tag).is_empty() {
        bail!("Snapshot '{tag}' already exists in one or more devices");
    }
    let ran = vm.machine.stop();
    vm.backends.lock().drain();
    let done = save_stopped(vm, &disks, tag);
    if done.is_err() {
        // The error that led here is the one that is told.
        let _ = disks.keeper().image().discard_state();
    }
    if ran {
        vm.machine.start();
    }
    done.map(|()| true)
}

fn save_stopped(vm: &RheaVm, disks: &Disks, tag: &str) -> Result<()> {
    let fail = |source| MachineError::Host { what: "the state of the machine", source };
    let out = StateOut { image: &**disks.keeper().image(), at: 0 };
    let out = snapshot::write(&vm.machine, BufWriter::with_capacity(CHUNK, out), fail)?;
    let vm_state_size = out.into_inner().map_err(|e| fail(e.into_error()))?.at;
    // What is to be replaced goes only now that there is something to replace it.
    disks.named(tag).into_iter().try_for_each(|(n, s)| n.image().delete_snapshot(&s.id))?;
    let new = new_snapshot(vm.machine.clock().now(), tag);
    for (i, (name, node)) in disks.all.iter().enumerate() {
        let vm_state_size = if i == disks.state { vm_state_size } else { 0 };
        if let Err(e) = node.image().create_snapshot(&Snapshot { vm_state_size, ..new.clone() }) {
            for (node, s) in disks.named(tag) {
                let _ = node.image().delete_snapshot(&s.id);
            }
            bail!("device '{name}': {e}");
        }
    }
    Ok(())
}

/// Loads the machine and its disks; false if it has no disks that could keep it.
pub(crate) fn load(vm: &RheaVm, tag: &str, scope: &SnapshotScope) -> Result<bool> {
    let Some(disks) = Disks::of(&vm.backends.lock(), scope)? else { return Ok(false) };
    undisturbed(vm)?;
    let found = disks.named(tag);
    if found.len() != disks.all.len() {
        bail!("Snapshot '{tag}' does not exist in one or more devices");
    }
    let keeper = &found[disks.state];
    if keeper.1.vm_state_size == 0 {
        bail!("This is a disk-only snapshot. Revert to it offline using qemu-img");
    }
    if let Some((name, _)) = disks.all.iter().find(|(_, n)| !n.dirty_bitmaps().is_empty()) {
        bail!("Device '{name}' has active dirty bitmaps");
    }
    let state = keeper.0.image().open_state(&keeper.1.id)?;
    let ran = vm.machine.stop();
    let goes_on = |done: &Result<()>| ran && done.is_ok();
    let checked = match snapshot::checked(&vm.machine, input(&*state)) {
        Ok(checked) => checked,
        Err(e) => {
            if ran {
                vm.machine.start();
            }
            return Err(e.into());
        }
    };
    let done = {
        let b = vm.backends.lock();
        b.drain();
        b.resizing(|| found.iter().try_for_each(|(n, s)| n.image().apply_snapshot(&s.id)))
            .map_err(anyhow::Error::from)
    };
    let done = done.and_then(|()| Ok(checked.apply(&vm.machine, input(&*state))?));
    if goes_on(&done) {
        vm.machine.start();
    } else if ran {
        vm.set_state(RunState::Paused);
        vm.emit(&Event::stop());
    }
    done.map_err(|e| {
        anyhow!("{e:#}; the disks may be as in snapshot '{tag}' already, and the machine stands")
    })?;
    Ok(true)
}

/// Deletes a snapshot from all disks; false if there are no disks that could have it.
pub(crate) fn delete(vm: &RheaVm, tag: &str, scope: &SnapshotScope) -> Result<bool> {
    let Some(disks) = Disks::of(&vm.backends.lock(), scope)? else { return Ok(false) };
    undisturbed(vm)?;
    let found = disks.named(tag);
    if found.is_empty() {
        bail!("Snapshot '{tag}' does not exist in one or more devices");
    }
    found.into_iter().try_for_each(|(n, s)| n.image().delete_snapshot(&s.id))?;
    Ok(true)
}

/// Tables of the snapshots that all disks have, and for each disk of those that not all have. `files` tells of machines that are
/// saved without disks.
pub(crate) fn table(vm: &RheaVm, files: impl FnOnce() -> Vec<Snapshot>) -> Result<String> {
    let disks = Disks::of(&vm.backends.lock(), &SnapshotScope::default())?;
    let is_whole = |s: &Snapshot| disks.as_ref().is_none_or(|d| d.named(&s.name).len() == d.all.len());
    let mut whole = disks.as_ref().map_or_else(files, |d| d.keeper().image().snapshots());
    whole.retain(is_whole);
    // Each disk has an id of its own for it.
    whole.iter_mut().for_each(|s| s.id = "--".into());
    let mut out = String::new();
    if !whole.is_empty() {
        out = format!("List of snapshots present on all disks:\n{}", block_tool::snapshot_table(&whole));
    }
    for (name, node) in disks.iter().flat_map(|d| &d.all) {
        let mut partial = node.image().snapshots();
        partial.retain(|s| !is_whole(s));
        if !partial.is_empty() {
            let table = block_tool::snapshot_table(&partial);
            out += &format!("\nList of partial (non-loadable) snapshots on '{name}':\n{table}");
        }
    }
    Ok(if out.is_empty() { "There is no snapshot available.\n".into() } else { out })
}

/// The image that a command about one disk's snapshots means.
fn image_of(b: &Backends, a: &Arguments) -> Result<(String, Arc<Node>)> {
    let device = needed(a, "device")?;
    let node = b.node_of(device)?;
    if node.info().read_only {
        bail!("Device '{device}' is read only");
    }
    if !node.image().can_snapshot() {
        let format = node.format();
        bail!("Block format '{format}' used by device '{device}' does not support internal snapshots");
    }
    Ok((device.to_owned(), node))
}

/// Prepares `blockdev-snapshot-internal-sync`.
pub(crate) fn internal(b: &Backends, clock: u64, a: &Arguments) -> Result<(Arc<Node>, Snapshot)> {
    let (device, node) = image_of(b, a)?;
    let name = needed(a, "name")?;
    if name.is_empty() {
        bail!("Name is empty");
    }
    if find(&**node.image(), name).is_some() {
        bail!("Snapshot with name '{name}' already exists on device '{device}'");
    }
    Ok((node, new_snapshot(clock, name)))
}

/// `blockdev-snapshot-delete-internal-sync`.
pub(crate) fn delete_internal(vm: &RheaVm, a: &Arguments) -> Result<Value> {
    let (device, node) = image_of(&vm.backends.lock(), a)?;
    let (id, name) = (text(a, "id"), text(a, "name"));
    if id.is_none() && name.is_none() {
        bail!("Name or id must be provided");
    }
    let fits = |s: &Snapshot| id.is_none_or(|id| s.id == id) && name.is_none_or(|name| s.name == name);
    let Some(found) = node.image().snapshots().into_iter().find(fits) else {
        let shown = |v: Option<&str>| v.unwrap_or("(null)").to_owned();
        bail!(
            "Snapshot with id '{}' and name '{}' does not exist on device '{device}'",
            shown(id),
            shown(name)
        );
    };
    node.image().delete_snapshot(&found.id)?;
    Ok(snapshot_info(&found).to_json())
}
