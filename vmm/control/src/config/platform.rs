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
    /// Sockets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sockets: Option<u32>,
    /// Cores in a socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cores: Option<u32>,
    /// Threads in a core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// vCPUs there can ever be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maxcpus: Option<u32>,
}

/// A complete topology: `sockets * cores * threads == maxcpus >= cpus >= 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// vCPUs present at start.
    pub cpus: u32,
    /// Sockets.
    pub sockets: u32,
    /// Cores in a socket.
    pub cores: u32,
    /// Threads in a core.
    pub threads: u32,
    /// vCPUs there can ever be.
    pub maxcpus: u32,
}

impl SmpConfig {
    /// Completes the topology: what is missing is computed from what is there, cores first, then sockets.
    pub fn resolve(&self) -> Result<Topology, ConfigError> {
        for (key, v) in [
            ("cpus", self.cpus),
            ("sockets", self.sockets),
            ("cores", self.cores),
            ("threads", self.threads),
            ("maxcpus", self.maxcpus),
        ] {
            if v == Some(0) {
                return Err(ConfigError::bad(key, "0", "a number of at least 1"));
            }
        }
        let limit = self.maxcpus.or(self.cpus);
        let product = |a: u32, b: u32| a.checked_mul(b).ok_or_else(|| too_many(a, b));
        // How often `unit` fits into the wanted number; at least once, the check below finds the rest.
        let fill = |unit: u32| limit.map_or(1, |n| (n / unit).max(1));
        let (sockets, cores, threads);
        match (self.sockets, self.cores) {
            (s, None) => {
                sockets = s.unwrap_or(1);
                threads = self.threads.unwrap_or(1);
                cores = fill(product(sockets, threads)?);
            }
            (None, Some(c)) => {
                cores = c;
                threads = self.threads.unwrap_or(1);
                sockets = fill(product(cores, threads)?);
            }
            (Some(s), Some(c)) => {
                (sockets, cores) = (s, c);
                threads = match self.threads {
                    Some(t) => t,
                    None => fill(product(s, c)?),
                };
            }
        }
        let total = product(product(sockets, cores)?, threads)?;
        let maxcpus = limit.unwrap_or(total);
        let cpus = self.cpus.unwrap_or(maxcpus);
        if total != maxcpus {
            return Err(ConfigError::Conflict(format!(
                "smp: sockets ({sockets}) * cores ({cores}) * threads ({threads}) is {total}, expected maxcpus ({maxcpus})"
            )));
        }
        if cpus > maxcpus {
            return Err(ConfigError::Conflict(format!(
                "smp: cpus ({cpus}) expected to be at most maxcpus ({maxcpus})"
            )));
        }
        Ok(Topology { cpus, sockets, cores, threads, maxcpus })
    }
}

fn too_many(a: u32, b: u32) -> ConfigError {
    ConfigError::Conflict(format!("smp: {a} * {b} is more vCPUs than can be counted"))
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
            let t = given.resolve().unwrap();
            assert_eq!((t.cpus, t.sockets, t.cores, t.threads, t.maxcpus), want, "{given:?}");
        }
    }

    #[test]
    fn impossible_topologies_are_refused() {
        for (given, part) in [
            (smp(5, 2, 0, 0, 0), "sockets (2) * cores (2) * threads (1) is 4, expected maxcpus (5)"),
            (smp(4, 0, 0, 0, 2), "cpus (4) expected to be at most maxcpus (2)"),
            (SmpConfig { cores: Some(0), ..Default::default() }, "'cores' expects"),
            (smp(0, u32::MAX, u32::MAX, 0, 0), "more vCPUs than can be counted"),
        ] {
            let e = given.resolve().unwrap_err().to_string();
            assert!(e.contains(part), "{e}");
        }
    }
}
