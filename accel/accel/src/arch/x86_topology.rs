//! Where each vCPU of an x86 machine is: packages, dies, modules, cores, threads, and the local APIC's number that follows.
//!
//! Intel SDM volume 3A, 10.9 ("Programming considerations for hardware multi-threading capable processors"): the number of a
//! local APIC consists of fields, one a level, the thread's lowest, each just wide enough for its level. Where a level has a
//! count that is no power of two, numbers are left out.

/// Numbers of units of each level within one of the next. At least 1 each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    /// Packages of the machine.
    pub sockets: u32,
    /// Dies of a package.
    pub dies: u32,
    /// Modules of a die.
    pub modules: u32,
    /// Cores of a module.
    pub cores: u32,
    /// Threads of a core.
    pub threads: u32,
}

/// A level of the topology.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Threads of a core.
    Thread,
    /// Cores of a module.
    Core,
    /// Modules of a die.
    Module,
    /// Dies of a package.
    Die,
    /// Packages.
    Socket,
}

/// Where a vCPU is, by its number within each unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// Package.
    pub socket: u32,
    /// Die of the package.
    pub die: u32,
    /// Module of the die.
    pub module: u32,
    /// Core of the module.
    pub core: u32,
    /// Thread of the core.
    pub thread: u32,
}

impl Default for Topology {
    fn default() -> Self {
        Self::flat(1)
    }
}

/// Bits that numbers below `count` take.
const fn width(count: u32) -> u32 {
    u32::BITS - count.saturating_sub(1).leading_zeros()
}

impl Topology {
    /// One package with this many cores.
    #[must_use]
    pub const fn flat(cores: u32) -> Self {
        Self { sockets: 1, dies: 1, modules: 1, cores: if cores == 0 { 1 } else { cores }, threads: 1 }
    }

    /// vCPUs of a unit of `level`: 1 for threads.
    #[must_use]
    pub const fn threads_of(&self, level: Level) -> u32 {
        let below = match level {
            Level::Thread => return 1,
            Level::Core => 1,
            Level::Module => self.cores,
            Level::Die => self.cores.saturating_mul(self.modules),
            Level::Socket => self.threads_in_die(),
        };
        below.saturating_mul(self.threads)
    }

    const fn threads_in_die(&self) -> u32 {
        self.cores.saturating_mul(self.modules).saturating_mul(self.dies)
    }

    /// vCPUs of the machine.
    #[must_use]
    pub const fn total(&self) -> u32 {
        self.threads_of(Level::Socket).saturating_mul(self.sockets)
    }

    /// Lowest bit of the field of `level` in the number of a local APIC.
    #[must_use]
    pub const fn offset(&self, level: Level) -> u32 {
        let thread = width(self.threads);
        let core = thread + width(self.cores);
        let module = core + width(self.modules);
        match level {
            Level::Thread => 0,
            Level::Core => thread,
            Level::Module => core,
            Level::Die => module,
            Level::Socket => module + width(self.dies),
        }
    }

    /// Whether there are levels between cores and packages.
    #[must_use]
    pub const fn is_deep(&self) -> bool {
        self.dies > 1 || self.modules > 1
    }

    /// Where vCPU `index` is.
    #[must_use]
    pub const fn place(&self, index: u32) -> Place {
        let core = index / self.threads;
        let module = core / self.cores;
        let die = module / self.modules;
        Place {
            socket: die / self.dies,
            die: die % self.dies,
            module: module % self.modules,
            core: core % self.cores,
            thread: index % self.threads,
        }
    }

    /// The vCPU at a place; none if the place does not exist.
    #[must_use]
    pub fn index(&self, p: &Place) -> Option<u32> {
        let there = p.socket < self.sockets
            && p.die < self.dies
            && p.module < self.modules
            && p.core < self.cores
            && p.thread < self.threads;
        let die = p.socket.checked_mul(self.dies)?.checked_add(p.die)?;
        let core = (die.checked_mul(self.modules)?.checked_add(p.module)?).checked_mul(self.cores)?;
        let index = core.checked_add(p.core)?.checked_mul(self.threads)?.checked_add(p.thread)?;
        there.then_some(index)
    }

    /// Number of the local APIC of vCPU `index`.
    #[must_use]
    pub const fn apic_id(&self, index: u32) -> u32 {
        let p = self.place(index);
        let id = p.core << self.offset(Level::Core) | p.thread;
        let id = id | p.module << self.offset(Level::Module) | p.die << self.offset(Level::Die);
        match p.socket.checked_shl(self.offset(Level::Socket)) {
            Some(socket) => id | socket,
            None => id,
        }
    }

    /// Registers of the extended topology leaves of CPUID, 0xb and 0x1f (SDM volume 2): EAX, EBX, ECX, EDX. 0xb knows
    /// threads and cores, the newer leaf the levels between cores and packages as well and is empty where there are none.
    #[must_use]
    pub fn cpuid(&self, leaf: u32, subleaf: u32, apic_id: u32) -> [u32; 4] {
        let mut levels = vec![Level::Thread, Level::Core];
        if leaf != 0xb {
            if !self.is_deep() {
                return [0; 4];
            }
            levels.extend((self.modules > 1).then_some(Level::Module));
            levels.extend((self.dies > 1).then_some(Level::Die));
        }
        let echo = subleaf & 0xff;
        let at = subleaf as usize;
        let Some(level) = levels.get(at) else { return [0, 0, echo, apic_id] };
        let next = levels.get(at + 1).copied().unwrap_or(Level::Socket);
        let kind = match level {
            Level::Thread => 1,
            Level::Core => 2,
            Level::Module => 3,
            Level::Die => 5,
            Level::Socket => 0,
        };
        [self.offset(next) & 0x1f, self.threads_of(next) & 0xffff, echo | kind << 8, apic_id]
    }

    /// Logical processors of a package as leaf 1 tells them in EBX: Intel's numbers of APICs that a package may have, others'
    /// processors. Nothing if there is one.
    #[must_use]
    pub fn logical(&self, intel: bool) -> Option<u32> {
        let threads = self.threads_of(Level::Socket);
        let told = if intel { 1u32.checked_shl(self.offset(Level::Socket)).unwrap_or(255) } else { threads };
        (threads > 1).then_some(told.min(255))
    }

    /// EAX of leaf 4 (also 0x8000001d) above the cache's own bits: APIC numbers that may share a cache of `level`, less one.
    #[must_use]
    pub const fn sharers(&self, level: Level) -> u32 {
        let bits = self.offset(level);
        ((1u32 << if bits > 12 { 12 } else { bits }) - 1) << 14
    }

    /// EAX of leaf 4 above that: numbers of cores that a package may have, less one.
    #[must_use]
    pub const fn core_numbers(&self) -> u32 {
        let bits = self.offset(Level::Socket) - self.offset(Level::Core);
        ((1u32 << if bits > 6 { 6 } else { bits }) - 1) << 26
    }

    /// ECX of leaf 0x80000008 (AMD APM volume 3): processors of a package less one, and the bits of an APIC's number below the
    /// package's.
    #[must_use]
    pub fn sizes(&self) -> u32 {
        let threads = self.threads_of(Level::Socket);
        if threads > 1 { (threads - 1).min(255) | self.offset(Level::Socket) << 12 } else { 0 }
    }

    /// Leaf 0x8000001e (AMD APM volume 3): the APIC's number, the core and its threads, the node.
    #[must_use]
    pub const fn node(&self, index: u32) -> [u32; 4] {
        let (id, place) = (self.apic_id(index), self.place(index));
        let node = id >> self.offset(Level::Die) & 0xff;
        [id, (self.threads - 1) << 8 | place.core & 0xff, (self.dies - 1) << 8 | node, 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_gaps_where_counts_are_no_powers_of_two() {
        let t = Topology { sockets: 2, dies: 1, modules: 1, cores: 3, threads: 2 };
        let ids: Vec<u32> = (0..t.total()).map(|i| t.apic_id(i)).collect();
        assert_eq!(ids, [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]);
        assert_eq!(Topology::flat(6).apic_id(5), 5);
        let deep = Topology { sockets: 2, dies: 3, modules: 2, cores: 3, threads: 1 };
        assert_eq!(deep.total(), 36);
        // Core 2 of module 1 of die 2 of package 1: 1 10 1 10.
        let last = deep.place(35);
        assert_eq!(last, Place { socket: 1, die: 2, module: 1, core: 2, thread: 0 });
        assert_eq!((deep.apic_id(35), deep.index(&last)), (0b11_0110, Some(35)));
        assert_eq!(deep.index(&Place { die: 3, ..last }), None);
        for i in 0..deep.total() {
            assert_eq!(deep.index(&deep.place(i)), Some(i));
        }
    }

    #[test]
    fn the_topology_leaves() {
        let t = Topology { sockets: 2, dies: 2, modules: 1, cores: 3, threads: 2 };
        assert_eq!(t.cpuid(0xb, 0, 9), [1, 2, 0x100, 9]);
        assert_eq!(t.cpuid(0xb, 1, 9), [4, 12, 0x201, 9]);
        assert_eq!(t.cpuid(0xb, 2, 9), [0, 0, 2, 9]);
        assert_eq!(t.cpuid(0x1f, 1, 9), [3, 6, 0x201, 9]);
        assert_eq!(t.cpuid(0x1f, 2, 9), [4, 12, 0x502, 9]);
        assert_eq!(t.cpuid(0x1f, 3, 9), [0, 0, 3, 9]);
        assert_eq!(Topology::flat(4).cpuid(0x1f, 0, 0), [0; 4]);
        assert_eq!(
            (t.logical(true), t.logical(false), Topology::flat(1).logical(true)),
            (Some(16), Some(12), None)
        );
        assert_eq!(
            (t.sharers(Level::Core) >> 14, t.sharers(Level::Die) >> 14, t.core_numbers() >> 26),
            (1, 7, 7)
        );
        assert_eq!(t.sizes(), 11 | 4 << 12);
        // The fourth core of the first package is the first of its second die.
        assert_eq!(t.node(6), [8, 1 << 8, 1 << 8 | 1, 0]);
    }
}
