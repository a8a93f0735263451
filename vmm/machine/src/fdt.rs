//! The flattened device tree (Devicetree Specification 0.4) from the board's graph.
//!
//! A board adds what only it knows (cpus, chosen, memory layout of buses) through [`Fdt`]; `reg` and interrupts of
//! devices come from the graph, so they cannot disagree with it.

use vm_fdt::{FdtWriter, FdtWriterNode};

use crate::MachineError;
use crate::board::{Board, Dest, Space};

/// Value of a property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prop {
    /// No value.
    Empty,
    /// One cell.
    U32(u32),
    /// Two cells.
    U64(u64),
    /// Cells.
    Cells(Vec<u32>),
    /// A string.
    Str(String),
    /// Strings.
    Strings(Vec<&'static str>),
}

impl From<vm_fdt::Error> for MachineError {
    fn from(e: vm_fdt::Error) -> Self {
        MachineError::Board(format!("device tree: {e}"))
    }
}

/// A device tree under construction.
pub struct Fdt {
    w: FdtWriter,
    open: Vec<FdtWriterNode>,
}

impl Fdt {
    /// Begins the tree and its root node.
    pub fn new() -> Result<Self, MachineError> {
        let mut w = FdtWriter::new()?;
        let root = w.begin_node("")?;
        Ok(Self { w, open: vec![root] })
    }

    /// Begins a node inside the present one.
    pub fn begin(&mut self, name: &str) -> Result<(), MachineError> {
        let node = self.w.begin_node(name)?;
        self.open.push(node);
        Ok(())
    }

    /// Ends the present node.
    pub fn end(&mut self) -> Result<(), MachineError> {
        if let Some(node) = self.open.pop() {
            self.w.end_node(node)?;
        }
        Ok(())
    }

    /// Adds a property to the present node.
    pub fn prop(&mut self, name: &str, value: &Prop) -> Result<(), MachineError> {
        match value {
            Prop::Empty => self.w.property_null(name)?,
            Prop::U32(v) => self.w.property_u32(name, *v)?,
            Prop::U64(v) => self.w.property_u64(name, *v)?,
            Prop::Cells(v) => self.w.property_array_u32(name, v)?,
            Prop::Str(v) => self.w.property_string(name, v)?,
            Prop::Strings(v) => {
                self.w.property_string_list(name, v.iter().map(ToString::to_string).collect())?;
            }
        }
        Ok(())
    }

    /// Adds several properties.
    pub fn props<'a>(
        &mut self,
        props: impl IntoIterator<Item = (&'a str, Prop)>,
    ) -> Result<(), MachineError> {
        props.into_iter().try_for_each(|(n, p)| self.prop(n, &p))
    }

    /// Adds the board's devices that have a node, in ascending order of address. `interrupt` gives the cells that name an
    /// interrupt destination, beginning with the controller's phandle.
    pub fn devices(
        &mut self,
        board: &Board,
        interrupt: &dyn Fn(&Dest) -> Option<Vec<u32>>,
    ) -> Result<(), MachineError> {
        let base = |n: &&crate::board::Node| n.maps.first().map_or(u64::MAX, |m| m.base);
        let mut nodes: Vec<_> = board.nodes.iter().filter(|n| n.fdt.is_some()).collect();
        nodes.sort_by_key(base);
        for n in nodes {
            let Some(f) = &n.fdt else { continue };
            let regions = n.config.regions();
            let mut reg = Vec::new();
            for m in n.maps.iter().filter(|m| m.space == Space::Memory) {
                let size = regions.get(m.region).map_or(0, |r| r.size);
                reg.extend([(m.base >> 32) as u32, m.base as u32, (size >> 32) as u32, size as u32]);
            }
            let name = if reg.is_empty() { f.name.clone() } else { format!("{}@{:x}", f.name, base(&n)) };
            self.begin(&name)?;
            for (k, v) in &f.props {
                self.prop(k, v)?;
            }
            if !reg.is_empty() {
                self.prop("reg", &Prop::Cells(reg))?;
            }
            let irqs: Vec<u32> = n.wires.iter().filter_map(|w| interrupt(&w.dest)).flatten().collect();
            if !irqs.is_empty() {
                self.prop("interrupts-extended", &Prop::Cells(irqs))?;
            }
            self.end()?;
        }
        Ok(())
    }

    /// Ends the root node and gives the blob.
    pub fn finish(mut self) -> Result<Vec<u8>, MachineError> {
        while !self.open.is_empty() {
            self.end()?;
        }
        Ok(self.w.finish()?)
    }
}
