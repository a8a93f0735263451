//! A unit of guest code as a plugin sees it while it is translated, and what the plugin asks for.

use std::ops::Range;

use crate::Counter;

/// One guest instruction of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Insn {
    /// Guest virtual address.
    pub address: u64,
    /// Its bytes; none if the engine could not keep them.
    pub bytes: Vec<u8>,
}

/// Which accesses to memory are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accesses {
    /// Those that read.
    pub loads: bool,
    /// Those that write.
    pub stores: bool,
}

impl Accesses {
    /// All of them.
    pub const ALL: Self = Self { loads: true, stores: true };

    /// True if an access is one of them.
    #[must_use]
    pub const fn wants(self, access: &Access) -> bool {
        (self.loads && access.load) || (self.stores && access.store)
    }
}

/// An access to memory that has been done. One that does both is atomic, and its value is the old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Guest virtual address.
    pub address: u64,
    /// Bytes.
    pub size: u32,
    /// It read.
    pub load: bool,
    /// It wrote.
    pub store: bool,
    /// What was read or written, if it has at most 8 bytes.
    pub value: Option<u64>,
}

/// What a plugin asks for. `id` and `data` are its own and come back with the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// [`Plugin::executed`](crate::Plugin::executed) whenever the instruction starts.
    Call {
        /// The plugin's.
        id: u32,
        /// The plugin's.
        data: u64,
    },
    /// `n` added to a counter whenever it starts.
    Count {
        /// Which.
        counter: Counter,
        /// How much.
        n: u32,
    },
    /// [`Plugin::accessed`](crate::Plugin::accessed) for each access that it makes.
    Access {
        /// Which.
        which: Accesses,
        /// The plugin's.
        id: u32,
        /// The plugin's.
        data: u64,
    },
}

/// A request with its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requested {
    /// Number of the instruction in the unit.
    pub insn: usize,
    /// Number of the plugin.
    pub plugin: u8,
    /// What.
    pub request: Request,
}

/// A stretch of guest code about to be translated. The same code may come again, in this unit or in another: code that runs
/// often is translated a second time in longer stretches.
pub struct Unit<'a> {
    insns: Vec<Insn>,
    blocks: Vec<Range<usize>>,
    text: &'a dyn Fn(u64, &[u8]) -> String,
    requests: Vec<Requested>,
    plugin: u8,
}

impl<'a> Unit<'a> {
    /// A unit of instructions. `blocks` are those of them that run one behind the other; `text` disassembles one.
    #[must_use]
    pub fn new(insns: Vec<Insn>, blocks: Vec<Range<usize>>, text: &'a dyn Fn(u64, &[u8]) -> String) -> Self {
        Self { insns, blocks, text, requests: Vec::new(), plugin: 0 }
    }

    /// Its instructions.
    #[must_use]
    pub fn insns(&self) -> &[Insn] {
        &self.insns
    }

    /// Its blocks, as ranges of instructions: whoever starts the first of one goes through all, unless one of them faults.
    #[must_use]
    pub fn blocks(&self) -> &[Range<usize>] {
        &self.blocks
    }

    /// Instruction number `i` in readable form.
    #[must_use]
    pub fn text(&self, i: usize) -> String {
        self.insns.get(i).map_or_else(String::new, |insn| (self.text)(insn.address, &insn.bytes))
    }

    /// Asks for something at instruction number `i`; one that does not exist is none.
    pub fn ask(&mut self, i: usize, request: Request) {
        if i < self.insns.len() {
            self.requests.push(Requested { insn: i, plugin: self.plugin, request });
        }
    }

    /// Whose turn it is to ask.
    pub(crate) fn turn(&mut self, plugin: u8) {
        self.plugin = plugin;
    }

    /// Everything that was asked for, in order of the instructions.
    #[must_use]
    pub fn requests(mut self) -> Vec<Requested> {
        self.requests.sort_by_key(|r| r.insn);
        self.requests
    }
}
