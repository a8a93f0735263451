//! Devices that come and go while the machine stands, running or not.
//!
//! A device that comes is built and wired like those of the board; the bus it is attached to decides what the guest sees of
//! it. One that goes has been let go by its bus before. Saved machines name what they consist of: one with a plugged device
//! is the same as one that had it from the start.

use std::sync::Arc;

use crate::board::{Board, Node};
use crate::{Machine, MachineError};

/// The graph as text, by device.
pub(crate) struct Graph {
    head: String,
    nodes: Vec<(String, String)>,
    /// Where the next plugged device goes.
    plug_at: usize,
}

impl Graph {
    pub(crate) fn of(board: &Board) -> Self {
        let nodes: Vec<_> = board.nodes.iter().map(|n| (n.name.clone(), n.describe())).collect();
        Graph { head: board.describe_memory(), plug_at: board.plug_at.unwrap_or(nodes.len()), nodes }
    }

    pub(crate) fn text(&self) -> String {
        self.nodes.iter().fold(self.head.clone(), |text, (_, node)| text + node)
    }

    fn add(&mut self, node: &Node) {
        self.nodes.insert(self.plug_at, (node.name.clone(), node.describe()));
        self.plug_at += 1;
    }

    fn remove(&mut self, name: &str) {
        if let Some(at) = self.nodes.iter().position(|(n, _)| n == name) {
            self.nodes.remove(at);
            self.plug_at -= usize::from(at < self.plug_at);
        }
    }
}

impl Machine {
    /// Plugs a device, which must neither have memory of its own nor be mapped: its bus sees to that.
    pub fn plug(&self, node: &Node) -> Result<(), MachineError> {
        let bad = |why: &str| Err(MachineError::Board(format!("{}: {why}", node.name)));
        if !node.config.rams().is_empty() || !node.maps.is_empty() {
            return bad("a device with memory or places of its own cannot be plugged while the machine runs");
        }
        let lifecycle = self.lifecycle.lock();
        let present = self.devices();
        if present.iter().map(|(name, _)| name).chain(&self.held).any(|name| *name == node.name) {
            return bad("there is a device of this name");
        }
        let mut late = Vec::new();
        let (cell, _) = self.workshop.build(node, &mut late)?;
        self.workshop.connect(late, &present);
        if lifecycle.running {
            cell.resume();
        } else {
            cell.quiesce();
        }
        let mut all = Vec::clone(&present);
        all.push((node.name.clone(), cell));
        *self.cells.write() = Arc::new(all);
        self.graph.write().add(node);
        Ok(())
    }

    /// Takes a device out that its bus has let go of; false if there is none of this name. Nothing of it is left when this
    /// returns.
    pub fn unplug(&self, name: &str) -> bool {
        let _lifecycle = self.lifecycle.lock();
        let mut all = Vec::clone(&self.devices());
        let Some(at) = all.iter().position(|(n, _)| n == name) else { return false };
        let (_, cell) = all.remove(at);
        *self.cells.write() = Arc::new(all);
        self.graph.write().remove(name);
        cell.retire();
        true
    }
}
