//! The running machine as the control plane sees it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use accel::arch::{CpuState, GuestArch};
use accel::{DebugConfig, DebugEvent};
use control::gdb::{DebugTarget, StopListener};
use control::vm::{
    ChardevInfo, CpuInfo, CpuModelInfo, Event, EventBus, MachineInfo, MemorySpace, RunState, SnapshotInfo,
    Vm, VmError, VmInfo,
};
use guest_memory::PAGE_SIZE;
use machine::{Machine, snapshot};
use parking_lot::Mutex;

use crate::chardevs::Chars;
use crate::launch::Launched;
use crate::list;

type Answer<T> = Result<T, VmError>;

/// What the main loop is to do.
pub(crate) enum Request {
    /// Something from the machine.
    Machine(machine::MachineEvent),
    /// End the process, for this reason in the words of QMP.
    Quit(&'static str),
}

/// A machine under control.
pub(crate) struct RheaVm {
    pub(crate) machine: Arc<Machine>,
    info: VmInfo,
    arch: GuestArch,
    state: Mutex<RunState>,
    events: EventBus,
    requests: mpsc::Sender<Request>,
    /// Folder of named snapshots.
    snapshots: PathBuf,
    chars: Arc<Chars>,
    quitting: AtomicBool,
    /// Who is told when a vCPU met what the debugger asked for.
    stop_listener: Mutex<Option<StopListener>>,
}

fn failed(e: impl std::fmt::Display) -> VmError {
    VmError::Failed(e.to_string())
}

impl RheaVm {
    pub(crate) fn new(
        launched: &Launched,
        config: &control::VmConfig,
        requests: mpsc::Sender<Request>,
        chars: Arc<Chars>,
    ) -> Self {
        let arch = launched.machine.arch();
        let info = VmInfo {
            arch: arch.name().into(),
            machine: launched.board.name.into(),
            name: config.name.guest.clone(),
            uuid: config.uuid.unwrap_or_default(),
            accelerator: launched.accel.into(),
            kvm_present: Path::new("/dev/kvm").exists(),
            base_memory: launched.ram,
            plugged_memory: 0,
            big_endian: false,
            address_bytes: if arch == GuestArch::Riscv32 { 4 } else { 8 },
        };
        Self {
            machine: launched.machine.clone(),
            info,
            arch,
            state: Mutex::new(RunState::Prelaunch),
            events: EventBus::new(),
            requests,
            snapshots: snapshot_folder(config),
            chars,
            quitting: AtomicBool::new(false),
            stop_listener: Mutex::default(),
        }
    }

    /// Changes the run state without touching the machine.
    pub(crate) fn set_state(&self, state: RunState) {
        *self.state.lock() = state;
    }

    /// A vCPU met what the debugger asked for: everything stops, then the debugger is told.
    pub(crate) fn debug_stop(&self, cpu: u32, event: DebugEvent) {
        self.machine.stop();
        self.set_state(RunState::Debug);
        if let Some(listener) = &*self.stop_listener.lock() {
            listener(cpu, event);
        }
        self.events.emit(&Event::stop());
    }

    fn file(&self, tag: &str) -> Answer<PathBuf> {
        if tag.is_empty() || tag.contains('/') || tag.starts_with('.') {
            return Err(VmError::Failed(format!(
                "snapshot '{tag}': expected a name without '/' that does not start with '.'"
            )));
        }
        Ok(self.snapshots.join(format!("{tag}.rhea")))
    }

    /// Loads a snapshot by tag, or a file by its path.
    pub(crate) fn load(&self, name: &str) -> Answer<()> {
        let path = if name.contains('/') { PathBuf::from(name) } else { self.file(name)? };
        let ran = self.machine.stop();
        let result = snapshot::load(&self.machine, &path).map_err(failed);
        if ran {
            self.machine.start();
        }
        result
    }
}

/// Where `savevm TAG` keeps its files: beside the user's other state, one folder a machine name.
fn snapshot_folder(config: &control::VmConfig) -> PathBuf {
    let base = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|h| Path::new(&h).join(".local/state")));
    let name = config.name.guest.as_deref().unwrap_or("default").replace('/', "_");
    base.unwrap_or_else(std::env::temp_dir).join("rhea/snapshots").join(name)
}

impl Vm for RheaVm {
    fn info(&self) -> VmInfo {
        self.info.clone()
    }

    fn events(&self) -> &EventBus {
        &self.events
    }

    fn status(&self) -> RunState {
        *self.state.lock()
    }

    fn stop(&self) -> Answer<()> {
        if self.machine.stop() {
            self.set_state(RunState::Paused);
            self.events.emit(&Event::stop());
        }
        Ok(())
    }

    fn cont(&self) -> Answer<()> {
        if matches!(self.status(), RunState::Shutdown | RunState::InternalError) {
            return Err(VmError::Failed("resetting the virtual machine is required".into()));
        }
        if self.machine.start() {
            self.set_state(RunState::Running);
            self.events.emit(&Event::resume());
        }
        Ok(())
    }

    fn reset(&self) -> Answer<()> {
        self.machine.reset().map_err(failed)?;
        if matches!(self.status(), RunState::Shutdown | RunState::InternalError) {
            self.set_state(RunState::Paused);
        }
        self.events.emit(&Event::reset(false));
        Ok(())
    }

    fn powerdown(&self) -> Answer<()> {
        if !self.machine.press_power_button() {
            return Err(VmError::Unsupported("system_powerdown".into()));
        }
        self.events.emit(&Event::powerdown());
        Ok(())
    }

    fn quit(&self) {
        if !self.quitting.swap(true, Ordering::AcqRel) {
            let _ = self.requests.send(Request::Quit("host-qmp-quit"));
        }
    }

    fn cpus(&self) -> Vec<CpuInfo> {
        (0..self.machine.vcpu_count())
            .map(|index| CpuInfo {
                index,
                qom_path: format!("/machine/cpu[{index}]"),
                qom_type: format!("{}-cpu", self.arch),
                thread_id: u64::from(std::process::id()),
                halted: false,
                pc: None,
                socket: 0,
                core: index,
                thread: 0,
            })
            .collect()
    }

    fn machines(&self) -> Vec<MachineInfo> {
        let default = list::boards(self.arch).next().map(|b| b.name);
        list::boards(self.arch)
            .map(|b| MachineInfo {
                name: b.name.into(),
                alias: None,
                description: b.help.into(),
                is_default: Some(b.name) == default,
                cpu_max: b.max_vcpus,
                default_cpu: None,
            })
            .collect()
    }

    fn cpu_models(&self) -> Vec<CpuModelInfo> {
        crate::accels::all()
            .iter()
            .filter(|a| a.guests().contains(&self.arch))
            .flat_map(|a| a.cpu_models(self.arch))
            .map(|(name, _)| CpuModelInfo {
                type_name: format!("{name}-{}-cpu", self.arch),
                name,
                migration_safe: true,
            })
            .collect()
    }

    fn save_snapshot(&self, tag: &str) -> Answer<()> {
        let path = self.file(tag)?;
        std::fs::create_dir_all(&self.snapshots)
            .map_err(|e| failed(format!("{}: {e}", self.snapshots.display())))?;
        snapshot::save(&self.machine, &path).map_err(failed)
    }

    fn load_snapshot(&self, tag: &str) -> Answer<()> {
        self.load(tag)
    }

    fn delete_snapshot(&self, tag: &str) -> Answer<()> {
        let path = self.file(tag)?;
        std::fs::remove_file(&path).map_err(|e| failed(format!("snapshot '{tag}': {e}")))
    }

    fn snapshots(&self) -> Answer<Vec<SnapshotInfo>> {
        let Ok(dir) = std::fs::read_dir(&self.snapshots) else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        for e in dir.flatten() {
            let name = e.file_name().to_string_lossy().into_owned();
            let (Some(tag), Ok(meta)) = (name.strip_suffix(".rhea"), e.metadata()) else { continue };
            let date = meta.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
            all.push(SnapshotInfo {
                id: tag.into(),
                tag: tag.into(),
                size: meta.len(),
                date: date.map_or(0, |d| d.as_secs() as i64),
                clock: 0,
            });
        }
        all.sort_by(|a, b| a.tag.cmp(&b.tag));
        Ok(all)
    }

    fn read_memory(&self, space: MemorySpace, address: u64, data: &mut [u8]) -> Answer<()> {
        self.each_page(space, address, data.len(), |gpa, at, len| {
            self.machine.memory().snapshot().peek(gpa, &mut data[at..at + len]).is_ok()
        })
    }

    fn write_memory(&self, space: MemorySpace, address: u64, data: &[u8]) -> Answer<()> {
        self.each_page(space, address, data.len(), |gpa, at, len| {
            self.machine.memory().snapshot().poke(gpa, &data[at..at + len]).is_ok()
        })
    }

    fn registers(&self, cpu: u32) -> Answer<String> {
        self.machine.cpu_state(cpu).map(|s| s.inspect()).map_err(failed)
    }

    fn register(&self, cpu: u32, name: &str) -> Answer<u64> {
        let state = self.machine.cpu_state(cpu).map_err(failed)?;
        let bytes =
            state.get(name).ok_or_else(|| VmError::Failed(format!("register '{name}' is not known")))?;
        let mut v = [0; 8];
        let n = bytes.len().min(8);
        v[..n].copy_from_slice(&bytes[..n]);
        Ok(u64::from_le_bytes(v))
    }

    fn report(&self, subject: &str, _args: &str) -> Answer<String> {
        match subject {
            "mtree" => Ok(format!("{}\n", self.machine.memory())),
            "qtree" => Ok(self.machine.graph().to_owned()),
            "jit" => Ok(self.machine.partition().stats()),
            other => Err(VmError::Unsupported(format!("info {other}"))),
        }
    }

    fn chardevs(&self) -> Vec<ChardevInfo> {
        self.chars.info()
    }

    fn ringbuf_read(&self, id: &str, size: usize) -> Answer<Vec<u8>> {
        self.chars.devices().ringbuf_read(id, size)
    }

    fn ringbuf_write(&self, id: &str, data: &[u8]) -> Answer<()> {
        self.chars.devices().ringbuf_write(id, data)
    }
}

impl DebugTarget for RheaVm {
    fn vm(&self) -> &dyn Vm {
        self
    }

    fn arch(&self) -> GuestArch {
        self.arch
    }

    fn cpu_state(&self, cpu: u32) -> Answer<CpuState> {
        self.machine.cpu_state(cpu).map_err(failed)
    }

    fn set_cpu_state(&self, cpu: u32, state: CpuState) -> Answer<()> {
        self.machine.set_cpu_state(cpu, state).map_err(failed)
    }

    fn set_debug(&self, cpu: u32, debug: DebugConfig) -> Answer<()> {
        self.machine.set_debug(cpu, debug).map_err(failed)
    }

    fn hold(&self, cpus: &[u32]) {
        self.machine.hold(cpus);
    }

    fn set_stop_listener(&self, listener: Option<StopListener>) {
        *self.stop_listener.lock() = listener;
    }
}

impl RheaVm {
    /// Cuts a range into pages and resolves each; `f` gets the physical address, the offset in the range and the length.
    fn each_page(
        &self,
        space: MemorySpace,
        address: u64,
        len: usize,
        mut f: impl FnMut(u64, usize, usize) -> bool,
    ) -> Answer<()> {
        let mut at = 0;
        while at < len {
            let va = address.wrapping_add(at as u64);
            let n = ((PAGE_SIZE - va % PAGE_SIZE) as usize).min(len - at);
            let gpa = match space {
                MemorySpace::Physical => Some(va),
                MemorySpace::Virtual(cpu) => self.machine.translate(cpu, va),
            };
            if !gpa.is_some_and(|gpa| f(gpa, at, n)) {
                return Err(VmError::Failed(format!("cannot access memory at address {va:#x}")));
            }
            at += n;
        }
        Ok(())
    }
}
