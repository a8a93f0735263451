//! `info SUBJECT`, and the commands that look into the composition tree.

use super::{Answer, Context, backends, failed};
use crate::qmp::PROTOCOL_VERSION;
use crate::value::parse_number;
use crate::vm::RunState;

struct Subject {
    name: &'static str,
    help: &'static str,
    run: fn(&Context<'_>, &str) -> Answer,
}

macro_rules! subjects {
    ($($name:literal $help:literal $run:expr;)*) => {
        static SUBJECTS: &[Subject] = &[$(Subject { name: $name, help: $help, run: $run }),*];
    };
}

subjects! {
    "balloon" "RAM that the balloon leaves" |c, _| backends::info_balloon(c);
    "block" "block devices" |c, _| Ok(block(c));
    "blockstats" "what block devices have done" |c, _| backends::info_blockstats(c);
    "chardev" "character back ends" |c, _| {
        let line = |d: &crate::vm::ChardevInfo| format!("{}: filename={}\n", d.label, d.filename);
        Ok(c.control.vm.chardevs().iter().map(line).collect())
    };
    "cpus" "vCPUs" |c, _| {
        let line = |v: &crate::vm::CpuInfo| {
            let mark = if v.index == c.cpu { '*' } else { ' ' };
            let pc = v.pc.map(|pc| format!(" pc={pc:#018x}")).unwrap_or_default();
            let halted = if v.halted { " (halted)" } else { "" };
            format!("{mark} CPU #{}: thread_id={}{pc}{halted}\n", v.index, v.thread_id)
        };
        Ok(c.control.vm.cpus().iter().map(line).collect())
    };
    "iothreads" "threads that do disks' work" |c, _| backends::info_iothreads(c);
    "irq" "interrupt counts" |c, a| c.control.vm.report("irq", a);
    "jit" "the translator" |c, a| c.control.vm.report("jit", a);
    "kvm" "whether KVM is used" |c, _| {
        let enabled = c.control.vm.info().accelerator == "kvm";
        Ok(format!("kvm support: {}\n", if enabled { "enabled" } else { "disabled" }))
    };
    "accel" "the accelerator in use" |c, _| Ok(format!("{}\n", c.control.vm.info().accelerator));
    "mem" "virtual memory mappings of the guest" |c, a| c.control.vm.report("mem", a);
    "tlb" "page-table entries of the guest" |c, a| c.control.vm.report("tlb", a);
    "memdev" "back ends of guest RAM" |c, _| backends::info_memdev(c);
    "migrate" "how a migration stands" |c, _| backends::info_migrate(c);
    "mtree" "the tree of memory regions; -f for the flat view" |c, a| c.control.vm.report("mtree", a);
    "name" "name of the guest" |c, _| Ok(c.control.vm.info().name.map(|n| n + "\n").unwrap_or_default());
    "network" "network cards and back ends" |c, a| c.control.vm.report("network", a);
    "pci" "PCI functions" |c, a| c.control.vm.report("pci", a);
    "pic" "state of the interrupt controllers" |c, a| c.control.vm.report("pic", a);
    "qtree" "the tree of devices" |c, a| c.control.vm.report("qtree", a);
    "qom-tree" "the composition tree" |c, a| c.control.vm.report("qom-tree", a);
    "registers" "registers of the chosen vCPU; -a for all vCPUs" registers;
    "roms" "what was loaded into memory before the start" |c, a| c.control.vm.report("roms", a);
    "screen" "the text on a display that shows text" |c, a| c.control.vm.report("screen", a);
    "snapshots" "saved machines" |c, _| snapshots(c);
    "status" "run state" |c, _| {
        let status = c.control.vm.status();
        let detail = match status {
            RunState::Running | RunState::Paused => String::new(),
            other => format!(" ({})", other.name()),
        };
        Ok(format!("VM status: {}{detail}\n", if status.is_running() { "running" } else { "paused" }))
    };
    "usernet" "connections of user networking" |c, a| c.control.vm.report("usernet", a);
    "uuid" "machine UUID" |c, _| Ok(format!("{}\n", c.control.vm.info().uuid));
    "version" "version of this program" |_, _| {
        let (major, minor, micro) = PROTOCOL_VERSION;
        Ok(format!("Rhea {} (monitor protocols of {major}.{minor}.{micro})\n", env!("CARGO_PKG_VERSION")))
    };
}

/// `info` without a subject.
pub(super) fn subjects() -> String {
    SUBJECTS.iter().map(|s| format!("info {} -- {}\n", s.name, s.help)).collect()
}

/// Names of all subjects, for completion.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    SUBJECTS.iter().map(|s| s.name)
}

pub(super) fn run(c: &Context<'_>) -> Answer {
    if c.args.is_empty() {
        return Ok(subjects());
    }
    let (name, args) = c.args.split_once(char::is_whitespace).unwrap_or((c.args, ""));
    match SUBJECTS.iter().find(|s| s.name == name) {
        Some(s) => (s.run)(c, args.trim()).map(|mut text| {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text
        }),
        None => {
            let hint = crate::suggest::nearest(name, names());
            let hint = hint.map_or_else(|| "see 'info'".into(), |n| format!("did you mean '{n}'?"));
            failed(format!("info subject '{}' is not known; {hint}", name.escape_debug()))
        }
    }
}

fn registers(c: &Context<'_>, args: &str) -> Answer {
    match args {
        "" => c.control.vm.registers(c.cpu),
        "-a" => {
            let mut out = String::new();
            for v in c.control.vm.cpus() {
                out.push_str(&format!("\nCPU#{}\n{}", v.index, c.control.vm.registers(v.index)?));
            }
            Ok(out)
        }
        _ => failed(format!("expected -a or nothing, got '{}'", args.escape_debug())),
    }
}

fn block(c: &Context<'_>) -> String {
    let mut out = String::new();
    for b in c.control.vm.block_devices() {
        match &b.inserted {
            None => out.push_str(&format!("{}: [not inserted]\n", b.device)),
            Some(m) => {
                let node = m.node_name.as_deref().map(|n| format!(" ({n})")).unwrap_or_default();
                let ro = if m.readonly { ", read-only" } else { "" };
                out.push_str(&format!("{}{node}: {} ({}{ro})\n", b.device, m.file, m.format));
            }
        }
        if let Some(qdev) = &b.qdev {
            out.push_str(&format!("    Attached to:      {qdev}\n"));
        }
    }
    out
}

fn snapshots(c: &Context<'_>) -> Answer {
    c.control.vm.snapshots()
}

pub(super) fn qom_list(c: &Context<'_>) -> Answer {
    let path = if c.args.is_empty() { "/" } else { c.args };
    let line = |p: &crate::vm::QomProperty| format!("{} ({})\n", p.name, p.kind);
    Ok(c.control.vm.qom_list(path)?.iter().map(line).collect())
}

pub(super) fn qom_get(c: &Context<'_>) -> Answer {
    match c.args.split_once(char::is_whitespace) {
        Some((path, property)) => Ok(format!("{:#}\n", c.control.vm.qom_get(path, property.trim())?)),
        None => failed("expected two arguments: path property"),
    }
}

pub(super) fn qom_set(c: &Context<'_>) -> Answer {
    let mut words = c.args.splitn(3, char::is_whitespace);
    match (words.next(), words.next(), words.next()) {
        (Some(path), Some(property), Some(value)) => {
            // What is no JSON is a text.
            let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
            super::done(c.control.vm.qom_set(path, property, &value))
        }
        _ => failed("expected three arguments: path property value"),
    }
}

pub(super) fn ringbuf_read(c: &Context<'_>) -> Answer {
    let Some((device, size)) = c.args.split_once(char::is_whitespace) else {
        return failed("expected two arguments: device size");
    };
    let Some(size) = parse_number(size.trim()) else { return failed("size expects a number") };
    let data = c.control.vm.ringbuf_read(device, usize::try_from(size).unwrap_or(usize::MAX))?;
    // Control characters would act on the terminal.
    let text: String =
        String::from_utf8_lossy(&data)
            .chars()
            .map(|ch| {
                if ch.is_control() && ch != '\n' {
                    format!("\\x{:02x}", u32::from(ch))
                } else {
                    ch.to_string()
                }
            })
            .collect();
    Ok(text + "\n")
}

pub(super) fn ringbuf_write(c: &Context<'_>) -> Answer {
    match c.args.split_once(char::is_whitespace) {
        Some((device, text)) => super::done(c.control.vm.ringbuf_write(device, text.as_bytes())),
        None => failed("expected two arguments: device text"),
    }
}
