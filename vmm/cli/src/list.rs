//! What there is: for `help` as the value of an option.

use std::fmt::Write;

use accel::arch::GuestArch;
use anyhow::{Result, bail};
use control::{ListOf, VmConfig, nearest};
use machines::{BOARDS, BoardKind};

/// Guest architectures for which there is a board.
pub(crate) fn archs() -> Vec<&'static str> {
    GuestArch::ALL.iter().filter(|a| boards(**a).next().is_some()).map(|a| a.name()).collect()
}

/// Boards of an architecture.
pub(crate) fn boards(arch: GuestArch) -> impl Iterator<Item = &'static BoardKind> {
    BOARDS.iter().filter(move |b| b.archs.contains(&arch))
}

/// The board the configuration names, or the default one.
pub(crate) fn board(config: &VmConfig, arch: GuestArch) -> Result<&'static BoardKind> {
    named_board(config.machine.name.as_deref(), arch)
}

fn named_board(name: Option<&str>, arch: GuestArch) -> Result<&'static BoardKind> {
    let all: Vec<&str> = boards(arch).map(|b| b.name).collect();
    let Some(name) = name else {
        return boards(arch).next().ok_or_else(|| anyhow::anyhow!("there is no board for {arch}"));
    };
    match boards(arch).find(|b| b.name == name) {
        Some(b) => Ok(b),
        None => {
            let hint = nearest(name, all.iter().copied())
                .map_or(String::new(), |n| format!("; did you mean '{n}'?"));
            bail!("unknown machine '{name}'{hint} There are for {arch}: {}", all.join(", "))
        }
    }
}

/// The architecture of a configuration.
pub(crate) fn arch(config: &VmConfig) -> Result<GuestArch> {
    config.arch.parse().map_err(anyhow::Error::msg)
}

/// Text for one list.
pub(crate) fn show(what: &ListOf, config: &VmConfig) -> Result<String> {
    let arch = arch(config)?;
    let mut t = String::new();
    match what {
        ListOf::Machines => {
            t.push_str("Supported machines are:\n");
            for (i, b) in boards(arch).enumerate() {
                let default = if i == 0 { " (default)" } else { "" };
                writeln!(t, "{:<20} {}{default}", b.name, b.help)?;
            }
        }
        ListOf::MachineProps(name) => {
            let b = named_board(Some(name), arch)?;
            writeln!(t, "{} options:", b.name)?;
            for (k, help) in b.properties {
                writeln!(t, "  {k:<20} {help}")?;
            }
        }
        ListOf::Cpus => {
            t.push_str("Available CPUs:\n");
            for a in crate::accels::all().iter().filter(|a| a.guests().contains(&arch)) {
                for (model, help) in a.cpu_models(arch) {
                    writeln!(t, "  {model:<20} {help} ({})", a.name())?;
                }
            }
        }
        ListOf::Devices => {
            for d in crate::devices::all() {
                writeln!(t, "name \"{}\", desc \"{}\"", d.kind, d.help)?;
            }
        }
        ListOf::DeviceProps(name) => {
            let all = crate::devices::all();
            let Some(d) = all.iter().find(|d| d.kind == name) else {
                let hint = nearest(name, all.iter().map(|d| d.kind));
                let hint = hint.map_or(String::new(), |n| format!("; did you mean '{n}'?"));
                bail!("unknown device '{name}'{hint} ('-device help' lists all)");
            };
            writeln!(t, "{} options:", d.kind)?;
            for p in (d.properties)() {
                writeln!(t, "  {p}")?;
            }
        }
        ListOf::Accels => {
            t.push_str("Accelerators supported in this build:\n");
            crate::accels::NAMES.iter().try_for_each(|n| writeln!(t, "{n}"))?;
        }
        ListOf::NicModels => {
            t.push_str("Available NIC models:\nvirtio-net-device\n");
        }
    }
    Ok(t)
}
