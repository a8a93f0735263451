//! The platform: board, CPU, topology, memory, accelerators.

use super::{ConfigError, Props, is_false};
use crate::value::format_size;
use serde::{Deserialize, Serialize};

/// The board.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct MachineConfig {
    /// Board name; `None` is the architecture's default.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Board properties; the board's own table decides what is allowed.
    #[serde(skip_serializing_if = "Props::is_empty")]
    pub properties: Props,
}

/// The CPU model of all vCPUs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CpuConfig {
    /// Model name: `rv64`, `host`, `max` ...
    pub model: String,
    /// Features and properties: `+x` and `x=on` are `true`, `-x` and `x=off` are `false`.
    #[serde(default, skip_serializing_if = "Props::is_empty")]
    pub features: Props,
}

/// vCPU counts as given; [`SmpConfig::resolve`] fills the holes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct SmpConfig {
    /// vCPUs present at start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Drawers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drawers: Option<u32>,
    /// Books in a drawer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub books: Option<u32>,
    /// Sockets in a book.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sockets: Option<u32>,
    /// Dies in a socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dies: Option<u32>,
    /// Clusters in a die.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clusters: Option<u32>,
    /// Modules in a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modules: Option<u32>,
    /// Cores in a module.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cores: Option<u32>,
    /// Threads in a core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// vCPUs there can ever be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maxcpus: Option<u32>,
}

/// A complete topology: `sockets * dies * modules * cores * threads == maxcpus >= cpus >= 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// vCPUs present at start.
    pub cpus: u32,
    /// Sockets.
    pub sockets: u32,
    /// Dies in a socket.
    pub dies: u32,
    /// Modules in a die.
    pub modules: u32,
    /// Cores in a module.
    pub cores: u32,
    /// Threads in a core.
    pub threads: u32,
    /// vCPUs there can ever be.
    pub maxcpus: u32,
}

fn invalid(why: impl std::fmt::Display) -> ConfigError {
    ConfigError::Conflict(format!("Invalid CPU topology: {why}"))
}

impl SmpConfig {
    /// Refuses what no machine takes.
    pub fn check(&self) -> Result<(), ConfigError> {
        let levels = [self.drawers, self.books, self.sockets, self.dies, self.clusters, self.modules];
        let all = levels.into_iter().chain([self.cores, self.threads, self.cpus, self.maxcpus]);
        match all.flatten().find(|n| *n == 0) {
            Some(_) => Err(invalid("CPU topology parameters must be greater than zero")),
            None => Ok(()),
        }
    }

    /// Completes the topology of a machine that has these levels beside sockets, cores and threads: what is missing is
    /// computed from what is there, cores first, then sockets.
    pub fn resolve(&self, levels: &[&str]) -> Result<Topology, ConfigError> {
        self.check()?;
        for (name, count) in [
            ("modules", self.modules),
            ("clusters", self.clusters),
            ("dies", self.dies),
            ("books", self.books),
            ("drawers", self.drawers),
        ] {
            if !levels.contains(&name) && count.is_some_and(|n| n > 1) {
                let why = "not supported by this machine's CPU topology";
                return Err(ConfigError::Conflict(format!("{name} > 1 {why}")));
            }
        }
        let (dies, modules) = (self.dies.unwrap_or(1), self.modules.unwrap_or(1));
        let product = |counts: &[u32]| {
            let all = counts.iter().try_fold(1u32, |all, n| all.checked_mul(*n));
            all.ok_or_else(|| invalid("there are more vCPUs than can be counted"))
        };
        let limit = self.maxcpus.or(self.cpus);
        // How often a unit fits into the wanted number.
        let fill = |unit: u32| limit.map_or(1, |n| n / unit);
        let (sockets, cores, threads);
        match (self.sockets, self.cores) {
            (s, None) => {
                sockets = s.unwrap_or(1);
                threads = self.threads.unwrap_or(1);
                cores = fill(product(&[sockets, dies, modules, threads])?);
            }
            (None, Some(c)) => {
                cores = c;
                threads = self.threads.unwrap_or(1);
                sockets = fill(product(&[dies, modules, cores, threads])?);
            }
            (Some(s), Some(c)) => {
                (sockets, cores) = (s, c);
                threads = match self.threads {
                    Some(t) => t,
                    None => fill(product(&[s, dies, modules, c])?),
                };
            }
        }
        let total = product(&[sockets, dies, modules, cores, threads])?;
        let maxcpus = limit.unwrap_or(total);
        let cpus = self.cpus.unwrap_or(maxcpus);
        let hierarchy = || {
            let level = |name, n: u32| {
                if levels.contains(&name) { format!(" * {name} ({n})") } else { String::new() }
            };
            let (dies, modules) = (level("dies", dies), level("modules", modules));
            format!("sockets ({sockets}){dies}{modules} * cores ({cores}) * threads ({threads})")
        };
        if total != maxcpus {
            let what = hierarchy();
            let why = "product of the hierarchy must match maxcpus";
            return Err(invalid(format!("{why}: {what} != maxcpus ({maxcpus})")));
        }
        if cpus > maxcpus {
            let what = hierarchy();
            let why = "maxcpus must be equal to or greater than smp";
            return Err(invalid(format!("{why}: {what} == maxcpus ({maxcpus}) < smp_cpus ({cpus})")));
        }
        Ok(Topology { cpus, sockets, dies, modules, cores, threads, maxcpus })
    }
}

/// Guest RAM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct MemoryConfig {
    /// Bytes at start; `None` is the board's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Slots for hot-plugged memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<u64>,
    /// Bytes with all of it plugged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maxmem: Option<u64>,
    /// Where the RAM comes from.
    pub backend: MemoryBackend,
}

impl MemoryConfig {
    /// Sizes that do not fit each other are refused.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.size == Some(0) {
            return Err(ConfigError::bad("size", "0", "a size above zero"));
        }
        if let (Some(size), Some(max)) = (self.size, self.maxmem)
            && max < size
        {
            let (max, size) = (format_size(max), format_size(size));
            return Err(ConfigError::Conflict(format!(
                "memory: maxmem ({max}) expected to be at least size ({size})"
            )));
        }
        if self.slots.is_some() && self.maxmem.is_none() {
            return Err(ConfigError::missing("memory slots", "maxmem"));
        }
        Ok(())
    }
}

/// The host side of guest RAM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct MemoryBackend {
    /// Id of the object it was made by, when it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Kind of mapping.
    pub kind: MemoryBackendKind,
    /// Mapped shared, so that other processes see the guest's writes.
    #[serde(skip_serializing_if = "is_false")]
    pub share: bool,
    /// Touch all pages before start.
    #[serde(skip_serializing_if = "is_false")]
    pub prealloc: bool,
    /// Back with huge pages.
    #[serde(skip_serializing_if = "is_false")]
    pub hugetlb: bool,
    /// Size of a huge page in bytes; `None` is the host's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hugetlbsize: Option<u64>,
    /// Let the host merge equal pages; `None` is the default of the board.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merge: Option<bool>,
    /// Include in core dumps; `None` is the default of the board.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dump: Option<bool>,
}

/// Kinds of memory mappings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "type", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum MemoryBackendKind {
    /// Anonymous memory.
    #[default]
    Anon,
    /// An anonymous file that can be passed to other processes.
    Memfd,
    /// A file, or a file made in a folder (e.g. on hugetlbfs).
    File {
        /// File or folder.
        path: String,
        /// Offset into the file in bytes.
        #[serde(default)]
        offset: u64,
        /// Open read-only.
        #[serde(default)]
        readonly: bool,
        /// Drop the contents at exit instead of writing them back.
        #[serde(default)]
        discard_data: bool,
    },
}

/// One accelerator to try.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct AccelConfig {
    /// `kvm`, `tcg`, `hvf`, `whpx`, `auto`.
    pub name: String,
    /// Its properties, e.g. `thread`, `tb-size`, `kernel-irqchip`.
    #[serde(default, skip_serializing_if = "Props::is_empty")]
    pub properties: Props,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn smp(cpus: u32, sockets: u32, cores: u32, threads: u32, maxcpus: u32) -> SmpConfig {
        let o = |n| (n != 0).then_some(n);
        SmpConfig {
            cpus: o(cpus),
            sockets: o(sockets),
            cores: o(cores),
            threads: o(threads),
            maxcpus: o(maxcpus),
            ..SmpConfig::default()
        }
    }

    #[test]
    fn topology_is_completed() {
        for (given, want) in [
            (smp(0, 0, 0, 0, 0), (1, 1, 1, 1, 1)),
            (smp(4, 0, 0, 0, 0), (4, 1, 4, 1, 4)),
            (smp(4, 2, 0, 0, 0), (4, 2, 2, 1, 4)),
            (smp(8, 0, 2, 2, 0), (8, 2, 2, 2, 8)),
            (smp(8, 2, 2, 0, 0), (8, 2, 2, 2, 8)),
            (smp(0, 2, 2, 2, 0), (8, 2, 2, 2, 8)),
            (smp(2, 0, 0, 0, 6), (2, 1, 6, 1, 6)),
            (smp(0, 0, 0, 2, 0), (2, 1, 1, 2, 2)),
        ] {
            let t = given.resolve(&[]).unwrap();
            assert_eq!((t.cpus, t.sockets, t.cores, t.threads, t.maxcpus), want, "{given:?}");
        }
        let deep = SmpConfig { dies: Some(2), modules: Some(1), ..smp(6, 0, 0, 0, 24) };
        let t = deep.resolve(&["dies", "modules"]).unwrap();
        assert_eq!((t.sockets, t.dies, t.modules, t.cores, t.threads, t.cpus), (1, 2, 1, 12, 1, 6));
    }

    #[test]
    fn impossible_topologies_are_refused() {
        for (given, part) in [
            (smp(5, 2, 0, 0, 0), "sockets (2) * dies (1) * cores (2) * threads (1) != maxcpus (5)"),
            (smp(4, 0, 8, 0, 0), "sockets (0) * dies (1) * cores (8) * threads (1) != maxcpus (4)"),
            (smp(4, 0, 0, 0, 2), "cores (2) * threads (1) == maxcpus (2) < smp_cpus (4)"),
            (SmpConfig { cores: Some(0), ..Default::default() }, "must be greater than zero"),
            (
                SmpConfig { clusters: Some(2), ..Default::default() },
                "clusters > 1 not supported by this machine",
            ),
            (smp(0, u32::MAX, u32::MAX, 0, 0), "more vCPUs than can be counted"),
        ] {
            let e = given.resolve(&["dies"]).unwrap_err().to_string();
            assert!(e.contains(part), "{e}");
        }
    }
}
