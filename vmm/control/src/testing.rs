//! A machine that only pretends, for the tests of monitors and debugger.

use crate::vm::*;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) struct FakeVm {
    pub(crate) events: EventBus,
    pub(crate) state: Mutex<RunState>,
    pub(crate) calls: Mutex<Vec<String>>,
    pub(crate) memory: Mutex<Vec<u8>>,
    /// How often it was let run.
    pub(crate) runs: AtomicU64,
}

impl Default for FakeVm {
    fn default() -> Self {
        let memory = Mutex::new((0..=255).collect());
        Self {
            events: EventBus::new(),
            state: Mutex::new(RunState::Running),
            calls: Mutex::default(),
            memory,
            runs: AtomicU64::new(0),
        }
    }
}

impl FakeVm {
    pub(crate) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock())
    }

    fn called(&self, what: impl Into<String>) {
        self.calls.lock().push(what.into());
    }

    fn set(&self, state: RunState, event: Event) -> Result<(), VmError> {
        *self.state.lock() = state;
        self.events.emit(&event);
        Ok(())
    }
}

impl Vm for FakeVm {
    fn info(&self) -> VmInfo {
        VmInfo {
            arch: "riscv64".into(),
            machine: "virt".into(),
            name: Some("fake".into()),
            accelerator: "tcg".into(),
            base_memory: 1 << 30,
            address_bytes: 8,
            ..VmInfo::default()
        }
    }

    fn events(&self) -> &EventBus {
        &self.events
    }

    fn status(&self) -> RunState {
        *self.state.lock()
    }

    fn stop(&self) -> Result<(), VmError> {
        self.set(RunState::Paused, Event::stop())
    }

    fn cont(&self) -> Result<(), VmError> {
        self.runs.fetch_add(1, Ordering::AcqRel);
        self.set(RunState::Running, Event::resume())
    }

    fn reset(&self) -> Result<(), VmError> {
        self.events.emit(&Event::reset(false));
        Ok(())
    }

    fn powerdown(&self) -> Result<(), VmError> {
        self.events.emit(&Event::powerdown());
        Ok(())
    }

    fn quit(&self) {
        self.called("quit");
        self.events.emit(&Event::shutdown("host-qmp-quit"));
    }

    fn cpus(&self) -> Vec<CpuInfo> {
        (0..2)
            .map(|i| CpuInfo {
                index: i,
                qom_path: format!("/machine/cpu[{i}]"),
                thread_id: 100 + u64::from(i),
                halted: i == 1,
                pc: Some(0x8000_0000),
                place: crate::vm::CpuPlace { core: i, ..Default::default() },
                ..CpuInfo::default()
            })
            .collect()
    }

    fn machines(&self) -> Vec<MachineInfo> {
        vec![MachineInfo { name: "virt".into(), is_default: true, cpu_max: 512, ..MachineInfo::default() }]
    }

    fn qom_list(&self, path: &str) -> Result<Vec<QomProperty>, VmError> {
        match path {
            "/" => Ok(vec![QomProperty {
                name: "machine".into(),
                kind: "child<virt>".into(),
                ..QomProperty::default()
            }]),
            _ => Err(VmError::DeviceNotFound(path.into())),
        }
    }

    fn qom_get(&self, path: &str, property: &str) -> Result<Value, VmError> {
        Ok(json!({ path: property }))
    }

    fn qom_types(&self) -> Vec<QomType> {
        let t = |n: &str, p: &str, a| QomType {
            name: n.into(),
            parent: (!p.is_empty()).then(|| p.into()),
            is_abstract: a,
        };
        vec![
            t("object", "", true),
            t("device", "object", true),
            t("serial", "device", false),
            t("loop", "loop", false),
        ]
    }

    fn save_snapshot(&self, tag: &str, scope: &SnapshotScope, replace: bool) -> Result<(), VmError> {
        let devices = scope.devices.as_ref().map_or("all".to_owned(), |d| d.join(" "));
        let vmstate = scope.vmstate.as_deref().unwrap_or("first");
        self.called(format!("save {tag} of {devices}, state in {vmstate}, replace {replace}"));
        Ok(())
    }

    fn load_snapshot(&self, tag: &str, _: &SnapshotScope) -> Result<(), VmError> {
        Err(VmError::Failed(format!("snapshot '{tag}' not found")))
    }

    fn inject_nmi(&self, cpu: u32) -> Result<(), VmError> {
        self.called(format!("nmi {cpu}"));
        Ok(())
    }

    fn read_memory(&self, _: MemorySpace, address: u64, data: &mut [u8]) -> Result<(), VmError> {
        let memory = self.memory.lock();
        let at = usize::try_from(address).unwrap_or(usize::MAX);
        match memory.get(at..at.saturating_add(data.len())) {
            Some(found) => data.copy_from_slice(found),
            None => return Err(VmError::Failed(format!("no memory at {address:#x}"))),
        }
        Ok(())
    }

    fn write_memory(&self, _: MemorySpace, address: u64, data: &[u8]) -> Result<(), VmError> {
        let mut memory = self.memory.lock();
        let at = usize::try_from(address).unwrap_or(usize::MAX);
        match memory.get_mut(at..at.saturating_add(data.len())) {
            Some(found) => found.copy_from_slice(data),
            None => return Err(VmError::Failed(format!("no memory at {address:#x}"))),
        }
        Ok(())
    }

    fn registers(&self, cpu: u32) -> Result<String, VmError> {
        Ok(format!("pc of {cpu}\n"))
    }

    fn register(&self, cpu: u32, name: &str) -> Result<u64, VmError> {
        match name {
            "pc" => Ok(16 + u64::from(cpu)),
            _ => Err(VmError::Failed(format!("register '{name}' is not known"))),
        }
    }

    fn report(&self, subject: &str, args: &str) -> Result<String, VmError> {
        match subject {
            "mtree" => Ok(format!("tree {args}")),
            _ => Err(VmError::Unsupported(format!("info {subject}"))),
        }
    }

    fn send_keys(&self, keys: &[KeyId], hold_ms: u64) -> Result<(), VmError> {
        let keys: Vec<String> = keys.iter().map(KeyId::to_string).collect();
        self.called(format!("keys {} {hold_ms}", keys.join(" ")));
        Ok(())
    }

    fn input(&self, events: &[InputEvent]) -> Result<(), VmError> {
        self.called(format!("input {events:?}"));
        Ok(())
    }

    fn screendump(&self, file: &str, format: &str) -> Result<(), VmError> {
        self.called(format!("screendump {file} {format}"));
        Ok(())
    }

    fn chardevs(&self) -> Vec<ChardevInfo> {
        vec![ChardevInfo {
            label: "serial0".into(),
            kind: "null",
            filename: "null".into(),
            frontend_open: true,
        }]
    }

    fn ringbuf_read(&self, id: &str, size: usize) -> Result<Vec<u8>, VmError> {
        match id {
            "ring" => Ok(b"ring\x1b"[..size.min(5)].to_vec()),
            _ => Err(VmError::DeviceNotFound(id.into())),
        }
    }

    fn ringbuf_write(&self, id: &str, data: &[u8]) -> Result<(), VmError> {
        self.called(format!("ringbuf {id} {data:?}"));
        Ok(())
    }
}
