//! -M, -cpu, -smp, -m, -accel, -icount and relatives.

use super::super::ListOf;
use super::super::build::{Builder, Stop};
use super::super::group::{Group, Key, Kind, Values, number, size, switch, text, word};
use super::{Done, Family};
use crate::config::{AccelConfig, ConfigError, CpuConfig, IcountConfig, SmpConfig};
use crate::value::parse_bool;
use serde_json::Value;

pub(crate) static MACHINE: Group = Group {
    name: "machine",
    implied: Some("type"),
    keys: &[
        text("type"),
        text("accel"),
        text("kernel"),
        text("initrd"),
        text("append"),
        text("dtb"),
        text("firmware"),
        text("memory-backend"),
        text("smp.cpus"),
        text("smp.drawers"),
        text("smp.books"),
        text("smp.sockets"),
        text("smp.dies"),
        text("smp.clusters"),
        text("smp.modules"),
        text("smp.cores"),
        text("smp.threads"),
        text("smp.maxcpus"),
        Key { name: "memory.size", kind: Kind::Size(1 << 20) },
        Key { name: "memory.max-size", kind: Kind::Size(1 << 20) },
        number("memory.slots"),
    ],
    open: true,
    json: false,
    apply: machine,
};

fn machine(b: &mut Builder, v: &mut Values) -> Done {
    let name = v.text("type")?;
    match (name.as_deref(), v.help()) {
        (Some("help" | "?"), _) | (None, true) => {
            b.ask(ListOf::Machines);
            return Ok(());
        }
        (Some(name), true) => {
            b.ask(ListOf::MachineProps(name.to_owned()));
            v.rest();
            return Ok(());
        }
        _ => {}
    }
    if let Some(name) = name {
        b.config.machine.name = Some(name);
    }
    if let Some(list) = v.text("accel")? {
        accel_source(b, "-M accel=")?;
        b.config.accels.clear();
        for name in list.split(':') {
            ACCELS.keys(name)?;
            b.config.accels.push(AccelConfig { name: name.to_owned(), ..Default::default() });
        }
    }
    for (key, place) in [
        ("kernel", &mut b.config.kernel),
        ("initrd", &mut b.config.initrd),
        ("append", &mut b.config.append),
        ("dtb", &mut b.config.dtb),
        ("firmware", &mut b.config.bios),
        ("memory-backend", &mut b.memory_backend),
    ] {
        if let Some(t) = v.text(key)? {
            *place = Some(t);
        }
    }
    let smp = &mut b.config.smp;
    for (key, place) in [
        ("smp.cpus", &mut smp.cpus),
        ("smp.drawers", &mut smp.drawers),
        ("smp.books", &mut smp.books),
        ("smp.sockets", &mut smp.sockets),
        ("smp.dies", &mut smp.dies),
        ("smp.clusters", &mut smp.clusters),
        ("smp.modules", &mut smp.modules),
        ("smp.cores", &mut smp.cores),
        ("smp.threads", &mut smp.threads),
        ("smp.maxcpus", &mut smp.maxcpus),
    ] {
        if let Some(n) = v.small(key)? {
            *place = Some(n);
        }
    }
    let memory = &mut b.config.memory;
    memory.size = v.size("memory.size")?.or(memory.size);
    memory.maxmem = v.size("memory.max-size")?.or(memory.maxmem);
    memory.slots = v.number("memory.slots")?.or(memory.slots);
    for (key, value) in v.rest_in_order() {
        b.config.machine.properties.insert(key, value);
    }
    Ok(())
}

/// `-no-acpi`.
pub(crate) fn no_acpi(b: &mut Builder) -> Done {
    b.config.machine.properties.insert("acpi", "off");
    Ok(())
}

/// `-cpu MODEL[,+feature][,-feature][,property=value]`.
pub(crate) fn cpu(b: &mut Builder, argument: &str) -> Done {
    let mut items = argument.split(',');
    let model = items.next().unwrap_or_default();
    if model == "help" || model == "?" {
        b.ask(ListOf::Cpus);
        return Ok(());
    }
    if model.is_empty() {
        return Err(ConfigError::missing("cpu", "model").into());
    }
    let mut cpu = CpuConfig { model: model.to_owned(), ..Default::default() };
    for item in items {
        let (key, value): (&str, Value) = if let Some(key) = item.strip_prefix('+') {
            (key, true.into())
        } else if let Some(key) = item.strip_prefix('-') {
            (key, false.into())
        } else if let Some((key, value)) = item.split_once('=') {
            (key, parse_bool(value).map_or_else(|| value.into(), Into::into))
        } else {
            (item, true.into())
        };
        if key == "help" {
            b.ask(ListOf::Cpus);
        } else if key.is_empty() {
            return Err(ConfigError::Syntax(format!(
                "expected +feature, -feature or property=value, got '{item}'"
            ))
            .into());
        } else {
            cpu.features.insert(key, value);
        }
    }
    b.config.cpu = Some(cpu);
    Ok(())
}

pub(crate) static SMP: Group = Group {
    name: "smp-opts",
    implied: Some("cpus"),
    keys: &[
        number("cpus"),
        number("drawers"),
        number("books"),
        number("sockets"),
        number("dies"),
        number("clusters"),
        number("modules"),
        number("cores"),
        number("threads"),
        number("maxcpus"),
    ],
    open: false,
    json: false,
    apply: smp,
};

fn smp(b: &mut Builder, v: &mut Values) -> Done {
    let old = &b.config.smp;
    let new = SmpConfig {
        cpus: v.small("cpus")?.or(old.cpus),
        drawers: v.small("drawers")?.or(old.drawers),
        books: v.small("books")?.or(old.books),
        sockets: v.small("sockets")?.or(old.sockets),
        dies: v.small("dies")?.or(old.dies),
        clusters: v.small("clusters")?.or(old.clusters),
        modules: v.small("modules")?.or(old.modules),
        cores: v.small("cores")?.or(old.cores),
        threads: v.small("threads")?.or(old.threads),
        maxcpus: v.small("maxcpus")?.or(old.maxcpus),
    };
    new.check()?;
    b.config.smp = new;
    Ok(())
}

pub(crate) static MEMORY: Group = Group {
    name: "memory",
    implied: Some("size"),
    keys: &[
        // A bare number is mebibytes, for the size and the maximum alike.
        Key { name: "size", kind: Kind::Size(1 << 20) },
        number("slots"),
        Key { name: "maxmem", kind: Kind::Size(1 << 20) },
    ],
    open: false,
    json: false,
    apply: memory,
};

fn memory(b: &mut Builder, v: &mut Values) -> Done {
    let m = &mut b.config.memory;
    m.size = v.size("size")?.or(m.size);
    m.slots = v.number("slots")?.or(m.slots);
    m.maxmem = v.size("maxmem")?.or(m.maxmem);
    m.validate()?;
    Ok(())
}

pub(crate) static ACCELS: Family = Family {
    what: "accelerator",
    members: &[
        ("auto", &[]),
        (
            "tcg",
            &[
                word("thread", &["multi", "single"]),
                word("backend", &["jit", "interp"]),
                // Names separated by colons; the translator reads them.
                text("passes"),
                // A bare number is mebibytes.
                Key { name: "tb-size", kind: Kind::Size(1 << 20) },
                switch("split-wx"),
                switch("one-insn-per-tb"),
                word("hot", &["on", "off", "now"]),
                switch("perfmap"),
                switch("jitdump"),
            ],
        ),
        (
            "kvm",
            &[
                word("kernel-irqchip", &["on", "off", "split"]),
                size("kvm-shadow-mem"),
                number("dirty-ring-size"),
                switch("takeover"),
                text("device"),
            ],
        ),
        ("hvf", &[]),
        ("whpx", &[word("kernel-irqchip", &["on", "off"])]),
    ],
};

pub(crate) static ACCEL: Group = Group {
    name: "accel",
    implied: Some("accel"),
    keys: &[text("accel"), switch("split-wx"), switch("one-insn-per-tb")],
    open: true,
    json: false,
    apply: accel,
};

fn accel(b: &mut Builder, v: &mut Values) -> Done {
    let name = v.needed("accel")?;
    if name == "help" || name == "?" {
        b.ask(ListOf::Accels);
        return Ok(());
    }
    // KVM with the translator behind it, which also runs the whole guest where there is no KVM.
    let (name, behind) = if name == "kvm:tcg" { ("kvm".to_owned(), Some("tcg")) } else { (name, None) };
    ACCELS.answer_help(&name, v)?;
    ACCELS.check(&name, v)?;
    accel_source(b, "-accel")?;
    b.config.accels.push(AccelConfig { name, properties: v.rest() });
    let behind = behind.map(|name| AccelConfig { name: name.to_owned(), ..Default::default() });
    b.config.accels.extend(behind);
    Ok(())
}

/// `-enable-kvm`.
pub(crate) fn enable_kvm(b: &mut Builder) -> Done {
    accel_source(b, "-accel")?;
    b.config.accels.push(AccelConfig { name: "kvm".into(), ..Default::default() });
    Ok(())
}

/// `-plugin`; the translator reads the argument.
pub(crate) fn plugin(b: &mut Builder, argument: &str) -> Done {
    b.config.plugins.push(argument.to_owned());
    Ok(())
}

fn accel_source(b: &mut Builder, source: &'static str) -> Result<(), ConfigError> {
    match b.accel_source {
        Some(other) if other != source => {
            Err(ConfigError::Conflict(format!("{source} and {other} exclude each other")))
        }
        _ => {
            b.accel_source = Some(source);
            Ok(())
        }
    }
}

pub(crate) static ICOUNT: Group = Group {
    name: "icount",
    implied: Some("shift"),
    keys: &[text("shift"), switch("align"), switch("sleep")],
    open: false,
    json: false,
    apply: icount,
};

fn icount(b: &mut Builder, v: &mut Values) -> Done {
    let shift = match v.text("shift")?.as_deref() {
        None | Some("auto") => None,
        Some(s) => match s.parse::<u8>() {
            Ok(n) if n <= 10 => Some(n),
            _ => return Err(ConfigError::bad("shift", s, "auto or a number from 0 to 10").into()),
        },
    };
    let align = v.bool("align")?.unwrap_or(false);
    let sleep = v.bool("sleep")?.unwrap_or(true);
    if align && (shift.is_none() || !sleep) {
        return Err(
            ConfigError::Conflict("align=on needs sleep=on and a shift that is a number".into()).into()
        );
    }
    b.config.icount = Some(IcountConfig { shift, align, sleep });
    Ok(())
}

/// `-arch`, which only Rhea has: the argument of `qemu-system-ARCH`'s own name.
pub(crate) fn arch(b: &mut Builder, argument: &str) -> Done {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if argument.is_empty() || !argument.chars().all(fits) {
        return Err(Stop::Error(ConfigError::bad(
            "arch",
            argument,
            "an architecture such as riscv64 or x86_64",
        )));
    }
    b.config.arch = argument.to_owned();
    Ok(())
}
