//! The command line in QEMU's option syntax.
//!
//! One table ([`table::OPTIONS`]) names each option, its argument, its help and what it does. Options with
//! `key=value` arguments belong to a group ([`group::Group`]) whose keys are a table as well, so the same
//! code serves the command line, INI files (`-readconfig`) and JSON arguments, and every unknown name can be
//! answered with the nearest known one. Syntax follows the "Invocation" chapter of QEMU's system manual.

mod apply;
mod build;
mod group;
mod help;
mod ini;
mod keyval;
mod table;
#[cfg(test)]
mod tests;

pub use apply::log::{LOG_ITEMS, LogItem};
pub use build::{Builder, Stop};

use crate::config::{ConfigError, VmConfig};
use serde_json::{Map, Value, json};
use thiserror::Error;

/// What the arguments ask for.
#[derive(Clone, Debug, PartialEq)]
pub enum Invocation {
    /// Run this machine.
    Run(Box<VmConfig>),
    /// Print this text and succeed.
    Help(String),
    /// Print the version and succeed.
    Version,
    /// Print what is there of something that this crate does not know.
    List {
        /// Of what.
        what: ListOf,
        /// The configuration up to that point: the architecture and the board matter.
        config: Box<VmConfig>,
    },
}

/// Things that can be listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListOf {
    /// Boards of the architecture (`-M help`).
    Machines,
    /// Properties of one board (`-M NAME,help`).
    MachineProps(String),
    /// CPU models (`-cpu help`).
    Cpus,
    /// Devices (`-device help`).
    Devices,
    /// Properties of one device (`-device NAME,help`).
    DeviceProps(String),
    /// Accelerators (`-accel help`).
    Accels,
    /// Models of network cards (`-nic model=help`).
    NicModels,
}

/// A command line that is refused: one line that names the option and what was expected.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UsageError {
    /// The option is not known or lacks its argument.
    #[error("{0}")]
    Option(ConfigError),
    /// The argument of an option is not right.
    #[error("-{option} {argument}: {source}")]
    Argument {
        /// Option without dashes.
        option: String,
        /// Its argument, shortened when it is long.
        argument: String,
        /// What is wrong.
        source: Box<ConfigError>,
    },
    /// All options are fine alone; together they are not.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Parses the arguments (without the program's name). `default_arch` is used when none is given.
pub fn parse<S: AsRef<str>>(args: &[S], default_arch: &str) -> Result<Invocation, UsageError> {
    let mut builder = Builder::new(default_arch);
    let mut args = args.iter().map(AsRef::as_ref);
    while let Some(arg) = args.next() {
        let stop = if let Some(name) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')) {
            let option = table::find(name).ok_or_else(|| unknown_option(arg, name))?;
            let value = if option.takes_argument() {
                Some(args.next().ok_or_else(|| {
                    UsageError::Option(ConfigError::missing(format!("option '{arg}'"), option.argument))
                })?)
            } else {
                None
            };
            builder.option(option, value.unwrap_or_default()).map_err(|stop| (option.name, value, stop))
        } else {
            // A bare argument is the first disk, as in QEMU.
            let value = [("file", arg)];
            builder.bare_disk(&value).map_err(|stop| ("hda", Some(arg), stop))
        };
        match stop {
            Ok(()) => {}
            Err((_, _, Stop::Answer(invocation))) => return Ok(*invocation),
            Err((option, value, Stop::Error(source))) => {
                let argument = shorten(value.unwrap_or_default());
                return Err(UsageError::Argument {
                    option: option.to_owned(),
                    argument,
                    source: Box::new(source),
                });
            }
        }
    }
    Ok(builder.answer()?)
}

/// What one group of keys adds to an empty configuration: arguments of a QMP command such as `netdev_add`. `section` is
/// the group's name as in an INI file.
pub(crate) fn fragment(section: &str, items: Map<String, Value>) -> Result<VmConfig, ConfigError> {
    let group = section_group(section)?;
    let mut values = group.check(items.into_iter().collect())?;
    apply_alone(group, &mut values)
}

/// The same from text as on the command line.
pub(crate) fn fragment_text(section: &str, argument: &str) -> Result<VmConfig, ConfigError> {
    let group = section_group(section)?;
    let mut values = group.parse(argument)?;
    apply_alone(group, &mut values)
}

fn section_group(section: &str) -> Result<&'static group::Group, ConfigError> {
    let found = table::groups().find(|g| g.name == section);
    found.ok_or_else(|| ConfigError::unknown("section", section, table::groups().map(|g| g.name)))
}

fn apply_alone(group: &'static group::Group, values: &mut group::Values) -> Result<VmConfig, ConfigError> {
    let mut builder = Builder::new("");
    match builder.group(group, values) {
        Ok(()) => Ok(builder.config),
        Err(Stop::Error(e)) => Err(e),
        Err(Stop::Answer(_)) => {
            Err(ConfigError::Syntax(format!("help on {} is for the command line", group.name)))
        }
    }
}

/// Types of `-object`.
pub const OBJECT_TYPES: [&str; 18] = [
    "memory-backend-ram",
    "memory-backend-memfd",
    "memory-backend-file",
    "rng-random",
    "rng-builtin",
    "iothread",
    "filter-dump",
    "filter-buffer",
    "filter-mirror",
    "filter-redirector",
    "filter-rewriter",
    "filter-replay",
    "filter-impair",
    "throttle-group",
    "tls-creds-x509",
    "authz-simple",
    "authz-list",
    "authz-list-file",
];

/// Keys of one of these types, with their types in the words of QMP.
pub fn object_keys(qom_type: &str) -> Option<Vec<(&'static str, &'static str)>> {
    let keys = apply::device::OBJECTS.keys(qom_type).ok()?;
    Some(keys.iter().map(|k| (k.name, k.type_name())).collect())
}

/// All groups with their keys, as `query-command-line-options` tells them; `None` if there is no group of that name.
pub(crate) fn describe(only: Option<&str>) -> Option<Value> {
    let key = |k: &group::Key| {
        let kind = match k.kind {
            group::Kind::Bool => "boolean",
            group::Kind::Number => "number",
            _ => k.type_name(),
        };
        json!({"name": k.name, "type": kind})
    };
    let one = |g: &group::Group| {
        let keys: Vec<Value> = g.keys.iter().map(key).collect();
        json!({"option": g.name, "parameters": keys})
    };
    let all: Vec<Value> = table::groups().filter(|g| only.is_none_or(|o| o == g.name)).map(one).collect();
    (only.is_none() || !all.is_empty()).then_some(Value::Array(all))
}

fn unknown_option(arg: &str, name: &str) -> UsageError {
    UsageError::Option(match crate::suggest::nearest(name, table::names()) {
        Some(near) => ConfigError::Unknown {
            what: "option".into(),
            name: shorten(arg),
            hint: format!("; did you mean '-{near}'?"),
        },
        None => {
            ConfigError::Unknown { what: "option".into(), name: shorten(arg), hint: "; see --help".into() }
        }
    })
}

/// An argument for a message of one line: control characters escaped, cut after 120 characters.
fn shorten(text: &str) -> String {
    let clean: String = text
        .chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .take(121)
        .collect();
    if clean.chars().count() > 120 { clean.chars().take(117).chain("...".chars()).collect() } else { clean }
}
