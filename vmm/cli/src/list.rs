//! What there is: for `help` as the value of an option.

use std::fmt::Write;

use accel::arch::GuestArch;
use anyhow::{Result, bail};
use control::vm::QomProperty;
use control::{ListOf, VmConfig, nearest};
use device::Property;
use machines::{BOARDS, BoardKind};
use serde_json::Value;

use crate::none::NONE;
use crate::plug::{PCI, PCI_EXTRA, drivers};

/// Guest architectures for which there is a board.
pub(crate) fn archs() -> Vec<&'static str> {
    let has_board = |a: &&GuestArch| BOARDS.iter().any(|b| b.archs.contains(a));
    GuestArch::ALL.iter().filter(has_board).map(|a| a.name()).collect()
}

/// Boards of an architecture, the default one first.
pub(crate) fn boards(arch: GuestArch) -> impl Iterator<Item = &'static BoardKind> {
    BOARDS.iter().chain(std::iter::once(&NONE)).filter(move |b| b.archs.contains(&arch))
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
                let head = format!("{k}=<string>");
                writeln!(t, "  {head:<22} - {help}")?;
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
            let all = crate::devices::all();
            let drivers = drivers();
            let there = |c: &&str| drivers.iter().any(|d| d.category == *c);
            let categories =
                ["Controller/Bridge/Hub", "Storage", "Network", "Input", "Display", "Sound", "Misc"];
            for category in categories.into_iter().filter(|c| there(c) || *c == "Misc") {
                writeln!(t, "{}{category} devices:", if t.is_empty() { "" } else { "\n" })?;
                for d in drivers.iter().filter(|d| d.category == category) {
                    write!(t, "name \"{}\", bus {}", d.name, d.bus)?;
                    match all.iter().find(|k| k.kind == d.name) {
                        Some(k) => writeln!(t, ", desc \"{}\"", k.help)?,
                        None => writeln!(t)?,
                    }
                }
            }
        }
        ListOf::DeviceProps(name) => {
            let props = device_properties(name)?;
            writeln!(t, "{name} options:")?;
            for p in props {
                let head = format!("{}=<{}>", p.name, p.kind);
                let mut line = format!("  {head:<22}");
                if let Some(d) = &p.description {
                    write!(line, " - {d}")?;
                }
                if let Some(d) = &p.default {
                    let d = d.as_str().map_or_else(|| spell(d), str::to_owned);
                    write!(line, " (default: {d})")?;
                }
                writeln!(t, "{}", line.trim_end())?;
            }
        }
        ListOf::Accels => {
            t.push_str("Accelerators supported in this build:\n");
            crate::accels::NAMES.iter().try_for_each(|n| writeln!(t, "{n}"))?;
        }
        ListOf::NicModels => {
            let cards = drivers().into_iter().filter(|d| d.category == "Network");
            t.push_str("Available NIC models:\n");
            cards.for_each(|d| t.push_str(&format!("{}\n", d.name)));
        }
    }
    Ok(t)
}

/// A value as the command line writes it.
fn spell(value: &Value) -> String {
    match value {
        Value::Bool(true) => "on".into(),
        Value::Bool(false) => "off".into(),
        other => other.to_string(),
    }
}

/// A device's property with its type and default in the words of QMP.
fn property(p: &Property) -> QomProperty {
    let kind = match p.ty {
        "8-bit number" => "uint8",
        "16-bit number" => "uint16",
        "32-bit number" => "uint32",
        "number" => "uint64",
        "on/off" => "bool",
        _ => "str",
    };
    let default = match kind {
        "bool" => Some(Value::Bool(p.default == "on")),
        "str" => Some(Value::String(p.default.clone())),
        _ => p.default.parse::<u64>().ok().map(Value::from),
    };
    QomProperty {
        name: p.name.replace('_', "-"),
        kind: kind.into(),
        description: Some(p.help.trim().trim_end_matches('.').to_owned()),
        default: default.filter(|_| !p.default.is_empty()),
    }
}

/// Properties of a kind of device, those that name back ends first.
pub(crate) fn device_properties(name: &str) -> Result<Vec<QomProperty>> {
    let all = crate::devices::all();
    let drivers = drivers();
    let driver = drivers.iter().find(|d| d.name == name);
    let kind = all.iter().find(|d| d.kind == name);
    if driver.is_none() && kind.is_none() {
        let hint = nearest(name, all.iter().map(|d| d.kind).chain(drivers.iter().map(|d| d.name)));
        let hint = hint.map_or(String::new(), |n| format!("; did you mean '{n}'?"));
        bail!("unknown device '{name}'{hint} ('-device help' lists all)");
    }
    let pci = if driver.is_some_and(|d| d.bus == PCI) { PCI_EXTRA } else { &[] };
    let extra =
        driver.map(|d| d.extra).unwrap_or_default().iter().chain(pci).map(|(name, kind, help)| QomProperty {
            name: (*name).into(),
            kind: (*kind).into(),
            description: Some((*help).into()),
            default: None,
        });
    let own = kind.map(|k| (k.properties)()).unwrap_or_default();
    let mut props: Vec<QomProperty> = extra.chain(own.iter().map(property)).collect();
    props.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(props)
}
