//! The composition tree as programs ask for it: paths, types, properties. It is made for each question from what the machine
//! consists of; nothing is kept.

use accel::arch::GuestArch;
use control::config::ChardevKind;
use control::options::OBJECT_TYPES;
use control::vm::{QomProperty, QomType, VmError};
use serde_json::{Value, json};

use crate::list;
use crate::plug::drivers;
use crate::vm::RheaVm;

type Answer<T> = Result<T, VmError>;

/// One object: its type, its properties with their values, its children.
struct Object {
    kind: String,
    properties: Vec<(&'static str, &'static str, Value)>,
    children: Vec<(String, String)>,
}

impl Object {
    fn new(kind: impl Into<String>) -> Self {
        Self { kind: kind.into(), properties: Vec::new(), children: Vec::new() }
    }

    fn with(mut self, name: &'static str, kind: &'static str, value: Value) -> Self {
        self.properties.push((name, kind, value));
        self
    }

    fn child(mut self, name: impl Into<String>, kind: impl Into<String>) -> Self {
        self.children.push((name.into(), kind.into()));
        self
    }
}

/// Name of the type of a CPU.
pub(crate) fn cpu_type(arch: GuestArch, model: &str) -> String {
    format!("{model}-{}", cpu_base(arch))
}

fn cpu_base(arch: GuestArch) -> &'static str {
    match arch {
        GuestArch::Riscv32 | GuestArch::Riscv64 => "riscv-cpu",
        GuestArch::X86_64 => "x86_64-cpu",
        GuestArch::I386 => "i386-cpu",
        GuestArch::Aarch64 => "arm-cpu",
        _ => "guest-cpu",
    }
}

fn find(vm: &RheaVm, path: &str) -> Option<Object> {
    let info = vm.info_ref();
    let machine = format!("{}-machine", info.machine);
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let backends = vm.backends.lock();
    let container = || Object::new("container");
    let plugged = |named: bool| backends.peripherals.iter().filter(move |p| p.named == named);
    Some(match parts[..] {
        [] => container()
            .child("machine", &machine)
            .child("objects", "container")
            .child("chardevs", "container"),
        ["machine"] => Object::new(&machine)
            .with("kernel", "string", json!(vm.boot[0]))
            .with("initrd", "string", json!(vm.boot[1]))
            .with("append", "string", json!(vm.boot[2]))
            .child("peripheral", "container")
            .child("peripheral-anon", "container")
            .child("unattached", "container"),
        ["machine", "peripheral"] => plugged(true).fold(container(), |o, p| o.child(&p.name, &p.kind)),
        ["machine", "peripheral", name] => Object::new(&plugged(true).find(|p| p.name == name)?.kind),
        ["machine", "peripheral-anon"] => {
            plugged(false).enumerate().fold(container(), |o, (i, p)| o.child(format!("device[{i}]"), &p.kind))
        }
        ["machine", "peripheral-anon", name] => {
            let found = plugged(false).enumerate().find(|(i, _)| format!("device[{i}]") == name)?;
            Object::new(&found.1.kind)
        }
        ["machine", "unattached"] => {
            let mut o = container();
            for i in (0..vm.machine.vcpu_count()).filter(|i| vm.cpus.is_of_start(*i)) {
                o = o.child(format!("cpu[{i}]"), cpu_type(vm.machine.arch(), &vm.cpu_model));
            }
            let own = |name: &str| !backends.peripherals.iter().any(|p| p.name == name);
            let devices = vm.machine.devices();
            devices.iter().filter(|(name, _)| own(name)).fold(o, |o, (name, cell)| o.child(name, cell.kind()))
        }
        ["machine", "unattached", name] => {
            if let Some(index) = name.strip_prefix("cpu[").and_then(|n| n.strip_suffix(']')) {
                let index: u32 =
                    index.parse().ok().filter(|i| *i < vm.machine.vcpu_count() && vm.cpus.is_of_start(*i))?;
                Object::new(cpu_type(vm.machine.arch(), &vm.cpu_model))
                    .with("core-id", "int", json!(index))
                    .with("realized", "bool", json!(true))
            } else {
                let devices = vm.machine.devices();
                let (_, cell) = devices.iter().find(|(n, _)| n == name)?;
                Object::new(cell.kind())
            }
        }
        ["objects"] => backends.all_objects().fold(container(), |o, x| o.child(&x.id, &x.qom_type)),
        ["objects", id] => Object::new(&backends.all_objects().find(|o| o.id == id)?.qom_type),
        ["chardevs"] => vm.chardev_kinds().into_iter().fold(container(), |o, (id, kind)| o.child(id, kind)),
        ["chardevs", id] => Object::new(vm.chardev_kinds().into_iter().find(|(i, _)| i == id)?.1),
        _ => return None,
    })
}

fn missing(path: &str) -> VmError {
    VmError::DeviceNotFound(path.to_owned())
}

/// Children and properties of the object at `path`.
pub(crate) fn list(vm: &RheaVm, path: &str) -> Answer<Vec<QomProperty>> {
    let o = find(vm, path).ok_or_else(|| missing(path))?;
    let entry =
        |name: &str, kind: String| QomProperty { name: name.to_owned(), kind, ..QomProperty::default() };
    let mut all = vec![entry("type", "string".into())];
    all.extend(o.properties.iter().map(|(name, kind, _)| entry(name, (*kind).to_owned())));
    all.extend(o.children.iter().map(|(name, kind)| entry(name, format!("child<{kind}>"))));
    Ok(all)
}

/// Value of a property.
pub(crate) fn get(vm: &RheaVm, path: &str, property: &str) -> Answer<Value> {
    let o = find(vm, path).ok_or_else(|| missing(path))?;
    if property == "type" {
        return Ok(o.kind.into());
    }
    if let Some((name, _)) = o.children.iter().find(|(name, _)| name == property) {
        return Ok(format!("{}/{name}", path.trim_end_matches('/')).into());
    }
    let found = o.properties.into_iter().find(|(name, ..)| *name == property);
    let text = || VmError::Failed(format!("Property '{}.{property}' not found", o.kind));
    found.map(|(_, _, value)| value).ok_or_else(text)
}

/// Why a property cannot be set: none can.
pub(crate) fn set(vm: &RheaVm, path: &str, property: &str) -> Answer<()> {
    get(vm, path, property)?;
    Err(VmError::Failed(format!("Property '{property}' of '{path}' cannot be set while the machine runs")))
}

/// The tree as text.
pub(crate) fn tree(vm: &RheaVm, path: &str, depth: usize, out: &mut String) {
    let Some(o) = find(vm, path) else { return };
    let name = path.rsplit('/').next().unwrap_or_default();
    out.push_str(&format!("{}/{name} ({})\n", "  ".repeat(depth), o.kind));
    for (child, _) in &o.children {
        tree(vm, &format!("{}/{child}", path.trim_end_matches('/')), depth + 1, out);
    }
}

/// All types.
pub(crate) fn types(arch: GuestArch) -> Vec<QomType> {
    let mut all = Vec::new();
    let mut add = |name: &str, parent: &str, is_abstract: bool| {
        if !all.iter().any(|t: &QomType| t.name == name) {
            let parent = (!parent.is_empty()).then(|| parent.to_owned());
            all.push(QomType { name: name.to_owned(), parent, is_abstract });
        }
    };
    for (name, parent) in [
        ("object", ""),
        ("device", "object"),
        ("machine", "object"),
        ("accel", "object"),
        ("chardev", "object"),
        ("memory-backend", "object"),
        ("rng-backend", "object"),
        ("sys-bus-device", "device"),
        ("isa-device", "device"),
        ("pci-device", "device"),
        ("virtio-device", "device"),
        ("virtio-serial-port", "device"),
        ("ide-device", "device"),
        ("scsi-device", "device"),
        ("floppy-drive", "device"),
        ("cpu", "device"),
        (cpu_base(arch), "cpu"),
    ] {
        add(name, parent, true);
    }
    add("container", "object", false);
    for d in drivers() {
        let parent = match d.bus {
            "ISA" => "isa-device",
            "virtio-bus" => "virtio-device",
            "PCI" => "pci-device",
            "IDE" => "ide-device",
            "SCSI" => "scsi-device",
            "floppy-bus" => "floppy-drive",
            _ => "virtio-serial-port",
        };
        add(d.name, parent, false);
    }
    for k in crate::devices::all() {
        add(k.kind, "sys-bus-device", false);
    }
    for b in list::boards(arch) {
        add(&format!("{}-machine", b.name), "machine", false);
    }
    for name in crate::accels::NAMES {
        add(&format!("{name}-accel"), "accel", false);
    }
    for name in ChardevKind::NAMES {
        add(&format!("chardev-{name}"), "chardev", false);
    }
    for name in OBJECT_TYPES {
        let parent = match name {
            n if n.starts_with("memory-backend-") => "memory-backend",
            n if n.starts_with("rng-") => "rng-backend",
            _ => "object",
        };
        add(name, parent, false);
    }
    for a in crate::accels::all().iter().filter(|a| a.guests().contains(&arch)) {
        for (model, _) in a.cpu_models(arch) {
            add(&cpu_type(arch, &model), cpu_base(arch), false);
        }
    }
    all
}

/// Properties of a type.
pub(crate) fn properties(arch: GuestArch, typename: &str) -> Answer<Vec<QomProperty>> {
    let property = |name: &str, kind: &str, help: &str| QomProperty {
        name: name.to_owned(),
        kind: kind.to_owned(),
        description: Some(help.to_owned()),
        default: None,
    };
    if let Some(b) = list::boards(arch).find(|b| typename.strip_suffix("-machine") == Some(b.name)) {
        let common = [
            ("kernel", "Linux kernel image file"),
            ("initrd", "Linux initial ramdisk file"),
            ("append", "Linux kernel command line"),
            ("dtb", "Linux kernel device tree file"),
            ("firmware", "Firmware image"),
            ("memory-backend", "Set RAM backend"),
        ];
        let all = common.iter().chain(b.properties);
        return Ok(all.map(|(name, help)| property(name, "string", help)).collect());
    }
    if let Ok(props) = list::device_properties(typename) {
        return Ok(props);
    }
    if let Some(keys) = control::options::object_keys(typename) {
        return Ok(keys.into_iter().map(|(name, kind)| property(name, kind, "")).collect());
    }
    if types(arch).iter().any(|t| t.name == typename) {
        return Ok(Vec::new());
    }
    Err(missing(typename))
}
