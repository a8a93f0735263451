//! The state of parsing: the configuration so far, and what can only be decided when all options are known.

use super::apply::chars;
use super::group::Values;
use super::table::{OptionDef, Run};
use super::{Invocation, ListOf};
use crate::config::{ConfigError, Drive, MemoryBackend, MemoryBackendKind, ObjectConfig, Props, VmConfig};
use crate::value::parse_bool;

/// Why parsing of the arguments ends early.
#[derive(Debug)]
pub enum Stop {
    /// There is an answer already (`-help`).
    Answer(Box<Invocation>),
    /// Something is wrong.
    Error(ConfigError),
}

impl From<ConfigError> for Stop {
    fn from(e: ConfigError) -> Self {
        Self::Error(e)
    }
}

impl Stop {
    pub(crate) fn help(text: impl Into<String>) -> Self {
        Self::Answer(Box::new(Invocation::Help(text.into())))
    }
}

/// Collects options into a [`VmConfig`].
pub struct Builder {
    pub(crate) config: VmConfig,
    /// The first list asked for; answered after all options, since `-arch` or `-M` may follow.
    pub(crate) list: Option<ListOf>,
    /// `-M memory-backend=ID`.
    pub(crate) memory_backend: Option<String>,
    pub(crate) mem_path: Option<String>,
    pub(crate) mem_prealloc: bool,
    /// Accelerators came from `-M accel=`, from `-accel`, or from nowhere yet.
    pub(crate) accel_source: Option<&'static str>,
    /// Something was said about serial ports or monitors (even `none`), so there are no default ones.
    pub(crate) serial_given: bool,
    pub(crate) parallel_given: bool,
    pub(crate) monitor_given: bool,
    /// Something was said about the network.
    pub(crate) net_given: bool,
    /// Numbers for generated ids.
    pub(crate) compat_monitors: usize,
    pub(crate) generated_nets: usize,
}

impl Builder {
    /// Starts with an empty configuration for an architecture.
    pub fn new(arch: &str) -> Self {
        Self {
            config: VmConfig { arch: arch.to_owned(), ..VmConfig::default() },
            list: None,
            memory_backend: None,
            mem_path: None,
            mem_prealloc: false,
            accel_source: None,
            serial_given: false,
            parallel_given: false,
            monitor_given: false,
            net_given: false,
            compat_monitors: 0,
            generated_nets: 0,
        }
    }

    pub(crate) fn option(&mut self, option: &OptionDef, value: &str) -> Result<(), Stop> {
        match option.run {
            Run::Flag(f) => f(self),
            Run::Text(f) => f(self, value),
            Run::Group(group) => {
                let mut values = group.parse(value)?;
                self.group(group, &mut values)
            }
        }
    }

    /// Applies a group and makes sure that nothing of it was overlooked.
    pub(crate) fn group(&mut self, group: &super::group::Group, values: &mut Values) -> Result<(), Stop> {
        (group.apply)(self, values)?;
        match values.rest_in_order().first() {
            None => Ok(()),
            Some((key, _)) => {
                Err(ConfigError::Conflict(format!("{} key '{key}' does not apply here", group.name)).into())
            }
        }
    }

    pub(crate) fn bare_disk(&mut self, value: &[(&str, &str)]) -> Result<(), Stop> {
        let file = value.iter().find(|(k, _)| *k == "file").map(|(_, v)| (*v).to_owned());
        self.config.drives.push(Drive { file, index: Some(0), ..Drive::default() });
        Ok(())
    }

    pub(crate) fn ask(&mut self, list: ListOf) {
        self.list.get_or_insert(list);
    }

    /// Decides what depends on several options and checks the whole.
    pub fn finish(mut self) -> Result<VmConfig, ConfigError> {
        self.settle_memory()?;
        chars::defaults(&mut self);
        self.config.validate()?;
        Ok(self.config)
    }

    pub(crate) fn answer(mut self) -> Result<Invocation, ConfigError> {
        match self.list.take() {
            // A question is answered even if the rest would not make a machine.
            Some(what) => Ok(Invocation::List { what, config: Box::new(self.config) }),
            None => Ok(Invocation::Run(Box::new(self.finish()?))),
        }
    }

    /// Chooses the RAM back end from `-M memory-backend=`, `-mem-path` and `-mem-prealloc`.
    fn settle_memory(&mut self) -> Result<(), ConfigError> {
        let memory = &mut self.config.memory;
        if let Some(id) = self.memory_backend.take() {
            let objects = &mut self.config.objects;
            let is_memory = |o: &ObjectConfig| o.qom_type.starts_with("memory-backend-");
            let Some(at) = objects.iter().position(|o| o.id == id && is_memory(o)) else {
                let known = objects.iter().filter(|o| is_memory(o)).map(|o| o.id.as_str());
                return Err(ConfigError::unknown("machine: memory-backend", &id, known));
            };
            if self.mem_path.is_some() {
                return Err(ConfigError::Conflict(
                    "-mem-path and -M memory-backend= exclude each other".into(),
                ));
            }
            let object = objects.remove(at);
            let (backend, size) = memory_backend(&object)?;
            match memory.size {
                Some(m) if m != size => {
                    return Err(ConfigError::Conflict(format!(
                        "memory-backend '{id}' has {size} bytes, expected the machine's size of {m}"
                    )));
                }
                _ => memory.size = Some(size),
            }
            memory.backend = backend;
        } else if let Some(path) = self.mem_path.take() {
            memory.backend.kind =
                MemoryBackendKind::File { path, offset: 0, readonly: false, discard_data: false };
        }
        memory.backend.prealloc |= self.mem_prealloc;
        Ok(())
    }
}

/// A `memory-backend-*` object as the machine's RAM, and its size.
fn memory_backend(object: &ObjectConfig) -> Result<(MemoryBackend, u64), ConfigError> {
    let props: &Props = &object.props;
    let kind = match object.qom_type.as_str() {
        "memory-backend-memfd" => MemoryBackendKind::Memfd,
        "memory-backend-file" => MemoryBackendKind::File {
            path: props
                .text("mem-path")?
                .map(Into::into)
                .ok_or_else(|| ConfigError::missing("memory-backend-file", "mem-path"))?,
            offset: props.size("offset")?.unwrap_or(0),
            readonly: props.bool("readonly")?.unwrap_or(false),
            discard_data: props.bool("discard-data")?.unwrap_or(false),
        },
        _ => MemoryBackendKind::Anon,
    };
    // What would place the memory somewhere else than asked for is refused, not ignored.
    for (key, expected) in [("policy", "default"), ("pmem", "off"), ("discard-data", "off"), ("seal", "on")] {
        let value = props.text(key)?.unwrap_or(expected.into());
        let same = value == expected || parse_bool(&value).is_some_and(|v| Some(v) == parse_bool(expected));
        if !same {
            return Err(ConfigError::bad(key, &*value, format!("{expected}, others are not supported")));
        }
    }
    if let Some(nodes) = props.get("host-nodes") {
        return Err(ConfigError::bad("host-nodes", nodes.to_string(), "no nodes: they are not supported"));
    }
    let size = props.size("size")?.ok_or_else(|| ConfigError::missing(&object.qom_type, "size"))?;
    // A memfd is there to be shared, so that is its default.
    let share_default = kind == MemoryBackendKind::Memfd;
    let hugetlbsize = props.size("hugetlbsize")?;
    let backend = MemoryBackend {
        id: Some(object.id.clone()),
        share: props.bool("share")?.unwrap_or(share_default),
        prealloc: props.bool("prealloc")?.unwrap_or(false),
        hugetlb: props.bool("hugetlb")?.unwrap_or(false),
        hugetlbsize,
        merge: props.bool("merge")?,
        dump: props.bool("dump")?,
        kind,
    };
    Ok((backend, size))
}
