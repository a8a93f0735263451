//! The running machine as the control plane sees it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak, mpsc};
use std::time::Duration;

use accel::DebugConfig;
use accel::arch::{CpuState, GuestArch};
use block_formats::Snapshot;
use control::config::{Blockdev, Chardev, DeviceConfig, Netdev, ObjectConfig, OnWatchdog};
use control::gdb::{DebugStop, DebugTarget, StopListener};
use control::vm::{
    Announcement, BlockInfo, BlockStats, ChardevInfo, CpuInfo, CpuModelInfo, CpuSlot, Event, EventBus,
    InputEvent, IothreadInfo, KeyId, MachineInfo, MediumInfo, MemdevInfo, MemorySpace, MigrationInfo,
    MigrationLimits, OspmInfo, QomProperty, QomType, RunState, RxFilterInfo, SnapshotScope, Vm, VmError,
    VmInfo,
};
use guest_memory::PAGE_SIZE;
use machine::{Machine, snapshot};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use crate::backends::Backends;
use crate::chardevs::Chars;
use crate::failures::DiskNames;
use crate::launch::Launched;
use crate::media;
use crate::migration::{self, Migration};
use crate::rx_filter;
use crate::{balloon, blockcommands, commit, console, cpus, host, list, plug, qom, savevm};

type Answer<T> = Result<T, VmError>;

/// What the main loop is to do.
pub(crate) enum Request {
    /// Something from the machine.
    Machine(machine::MachineEvent),
    /// End the process, for this reason in the words of QMP.
    Quit(&'static str),
    /// End it as a failure.
    Fail(String),
    /// Stop the machine: a request of a disk has failed.
    IoError,
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
    pub(crate) backends: Arc<Mutex<Backends>>,
    /// What devices that come and go are made with.
    #[cfg_attr(not(unix), expect(dead_code, reason = "devices come and go on Unix hosts"))]
    pub(crate) hot: plug::hot::Shared,
    pub(crate) migration: Migration,
    /// Long work on disks.
    pub(crate) block_jobs: Arc<block_jobs::Jobs>,
    /// For threads of its own.
    me: Weak<RheaVm>,
    /// Held by what needs the machine to stand until it is done: nobody may let it run meanwhile.
    standing: Mutex<()>,
    /// A machine may come in, and has not yet.
    awaiting: Mutex<Option<Awaiting>>,
    /// Kernel, initial RAM disk and command line.
    pub(crate) boot: [String; 3],
    /// Name of the CPU model.
    pub(crate) cpu_model: String,
    pub(crate) cpus: Arc<cpus::Cpus>,
    watchdog: Mutex<OnWatchdog>,
    memdev: MemdevInfo,
    typist: console::Typist,
    /// Host threads of the vCPUs.
    threads: Vec<u64>,
    /// How often cards were made known to the network.
    announcing: AtomicU64,
}

/// What to do with a machine that comes in.
#[derive(Clone, Copy)]
struct Awaiting {
    /// Nothing listens yet (`-incoming defer`).
    deferred: bool,
    /// Let it run if it ran.
    start: bool,
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
    ) -> Arc<Self> {
        let arch = launched.machine.arch();
        let info = VmInfo {
            arch: arch.name().into(),
            machine: launched.board.name.into(),
            name: config.name.guest.clone(),
            uuid: config.uuid.unwrap_or_default(),
            fd_sets: config.fd_sets.clone(),
            accelerator: launched.accel.into(),
            kvm_present: Path::new("/dev/kvm").exists(),
            base_memory: launched.ram,
            plugged_memory: 0,
            big_endian: false,
            address_bytes: if arch == GuestArch::Riscv32 { 4 } else { 8 },
        };
        let awaiting = config
            .incoming
            .as_ref()
            .map(|uri| Awaiting { deferred: uri == "defer", start: !config.start_paused });
        let state = if awaiting.is_some() { RunState::Inmigrate } else { RunState::Prelaunch };
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        let machine = &launched.machine;
        let threads = (0..machine.vcpu_count())
            .map(|i| machine.on_vcpu_thread(i, host::thread_id).unwrap_or_default())
            .collect();
        let backend = &config.memory.backend;
        let ram = machine.ram_blocks().iter().max_by_key(|b| b.size()).map_or("ram", |b| b.name());
        let memdev = MemdevInfo {
            id: backend.id.clone().unwrap_or_else(|| ram.to_owned()),
            size: launched.ram,
            share: backend.share,
            prealloc: backend.prealloc,
            merge: launched.merge,
            dump: launched.dump,
        };
        let vm = Arc::new_cyclic(|me: &Weak<Self>| Self {
            block_jobs: {
                let me = me.clone();
                block_jobs::Jobs::new(move |(name, data)| {
                    if let Some(vm) = me.upgrade() {
                        vm.events.emit(&Event::new(name, data));
                    }
                })
            },
            machine: launched.machine.clone(),
            info,
            arch,
            backends: launched.backends.clone(),
            hot: launched.hot.clone(),
            migration: Migration::default(),
            me: me.clone(),
            standing: Mutex::default(),
            awaiting: Mutex::new(awaiting),
            boot: [text(&config.kernel), text(&config.initrd), text(&config.append)],
            cpu_model: launched.cpu_model.clone(),
            cpus: launched.cpus.clone(),
            watchdog: Mutex::new(config.action.watchdog),
            memdev,
            typist: console::Typist::new(&launched.machine),
            threads,
            state: Mutex::new(state),
            events: EventBus::new(),
            requests,
            snapshots: snapshot_folder(config),
            chars,
            quitting: AtomicBool::new(false),
            stop_listener: Mutex::default(),
            announcing: AtomicU64::new(0),
        });
        let heard = Arc::downgrade(&vm);
        let announce = move |event: &Event| {
            if let Some(vm) = heard.upgrade() {
                vm.events.emit(event);
            }
        };
        vm.backends.lock().nets.announcer.set(Arc::new(announce));
        let heard = Arc::downgrade(&vm);
        vm.backends.lock().failures.set(Arc::new(move |names, failure| {
            if let Some(vm) = heard.upgrade() {
                vm.failure(names, failure);
            }
        }));
        vm
    }

    pub(crate) fn info_ref(&self) -> &VmInfo {
        &self.info
    }

    /// Ids of the character back ends and the types of their objects.
    pub(crate) fn chardev_kinds(&self) -> Vec<(String, String)> {
        self.chars.info().into_iter().map(|c| (c.label, format!("chardev-{}", c.kind))).collect()
    }

    /// Ends jobs and exports, and puts what disks keep on stable storage. The machine stands.
    pub(crate) fn end_disks(&self) {
        self.block_jobs.end_all();
        let mut backends = self.backends.lock();
        backends.drain();
        backends.end();
    }

    fn announce_once(&self, how: &Announcement) {
        self.backends.lock().nets.announce(&how.interfaces);
        rx_filter::announce(&self.machine, &how.interfaces);
    }

    /// Holds the run state: nobody starts, saves or changes the machine meanwhile.
    pub(crate) fn standing(&self) -> parking_lot::MutexGuard<'_, ()> {
        self.standing.lock()
    }

    /// Announces an event.
    pub(crate) fn emit(&self, event: &Event) {
        self.events.emit(event);
    }

    /// The character back ends.
    #[cfg_attr(not(unix), expect(dead_code, reason = "devices come and go on Unix hosts"))]
    pub(crate) fn chars(&self) -> &Chars {
        &self.chars
    }

    /// Asks the main loop for something.
    pub(crate) fn request(&self, request: Request) {
        let _ = self.requests.send(request);
    }

    fn this(&self) -> Answer<Arc<Self>> {
        self.me.upgrade().ok_or_else(|| failed("the machine is going away"))
    }

    /// Begins to wait for a machine, if that is what this one is for and a way is known.
    pub(crate) fn await_machine(&self, uri: &str) -> Answer<()> {
        if uri == "defer" { Ok(()) } else { migration::listen(&self.this()?, uri) }
    }

    /// A machine has come in, which was in this state.
    pub(crate) fn arrived(&self, state: RunState) {
        let start = self.awaiting.lock().take().is_none_or(|a| a.start);
        if state == RunState::Running && start {
            self.set_state(RunState::Paused);
            if let Err(e) = self.cont() {
                tracing::error!("{e}");
            }
            return;
        }
        self.set_state(if state == RunState::Running { RunState::Paused } else { state });
    }

    /// Changes the run state without touching the machine.
    pub(crate) fn set_state(&self, state: RunState) {
        *self.state.lock() = state;
    }

    /// A vCPU met what the debugger asked for: everything stops, then the debugger is told. Of several that met something
    /// in one run the first stops the machine; by the time the others are heard of, it may be running again.
    pub(crate) fn debug_stop(&self, stop: DebugStop) {
        if self.machine.stop_run(stop.run) {
            self.set_state(RunState::Debug);
            self.events.emit(&Event::stop());
        }
        if let Some(listener) = &*self.stop_listener.lock() {
            listener(stop);
        }
    }

    /// The host has failed a request of a disk. Called on the request's thread, which the machine waits for when it stops.
    fn failure(&self, names: &DiskNames, failure: &block::Failure<'_>) {
        let data = json!({
            "device": names.drive, "node-name": names.edge.node().name(),
            "qom-path": format!("/machine/peripheral/{}", names.qdev),
            "operation": if failure.read { "read" } else { "write" }, "action": failure.action.name(),
            "nospace": failure.error.is_no_space(), "reason": failure.error.to_string(),
        });
        self.events.emit(&Event::new("BLOCK_IO_ERROR", data));
        if failure.action == block::ErrorAction::Stop {
            self.request(Request::IoError);
        }
    }

    /// Stops the machine since a request of a disk has failed.
    pub(crate) fn io_error(&self) {
        self.pause(RunState::IoError);
    }

    /// What a watchdog does.
    pub(crate) fn watchdog_action(&self) -> OnWatchdog {
        *self.watchdog.lock()
    }

    /// Stops the machine, since it is to stand then.
    pub(crate) fn pause(&self, state: RunState) {
        if self.machine.stop() {
            self.set_state(state);
            self.events.emit(&Event::stop());
        }
    }

    /// What keeps a machine that stands from being saved or sent: requests that are in no ring.
    pub(crate) fn savable(&self) -> Answer<()> {
        self.backends.lock().waiting().map_or(Ok(()), |why| Err(failed(why)))
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
    pub(crate) fn load_any(&self, name: &str) -> Answer<()> {
        if name.contains('/') {
            self.load_file(Path::new(name))
        } else {
            self.load_snapshot(name, &SnapshotScope::default())
        }
    }

    fn load_file(&self, path: &Path) -> Answer<()> {
        let _standing = self.standing.lock();
        let ran = self.machine.stop();
        let result = snapshot::load(&self.machine, path).map_err(failed);
        if ran {
            self.machine.start();
        }
        result
    }

    /// Saved machines in files.
    /// The machines in files of their own.
    fn files(&self) -> Vec<Snapshot> {
        let Ok(dir) = std::fs::read_dir(&self.snapshots) else { return Vec::new() };
        let mut all = Vec::new();
        for e in dir.flatten() {
            let name = e.file_name().to_string_lossy().into_owned();
            let (Some(tag), Ok(meta)) = (name.strip_suffix(".rhea"), e.metadata()) else { continue };
            let date = meta.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
            all.push(Snapshot {
                name: tag.into(),
                vm_state_size: meta.len(),
                date_sec: date.and_then(|d| u32::try_from(d.as_secs()).ok()).unwrap_or(u32::MAX),
                ..Snapshot::default()
            });
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

/// Where `savevm TAG` keeps the file of a machine without disks that could keep it: beside the user's other state, one folder a machine name.
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
        if let Some(a) = &mut *self.awaiting.lock() {
            a.start = false;
            return Ok(());
        }
        if self.machine.stop() {
            self.set_state(RunState::Paused);
            self.events.emit(&Event::stop());
        }
        Ok(())
    }

    fn cont(&self) -> Answer<()> {
        if matches!(self.status(), RunState::Shutdown | RunState::InternalError) {
            return Err(VmError::Failed("Resetting the Virtual Machine is required".into()));
        }
        if let Some(a) = &mut *self.awaiting.lock() {
            a.start = true;
            return Ok(());
        }
        match self.status() {
            RunState::FinishMigrate => return Err(failed("the machine is being migrated")),
            // It was given away; whoever takes it back must have its disks.
            RunState::Postmigrate => {
                self.backends.lock().graph.acquire().map_err(|e| failed(format!("{e:#}")))?;
            }
            _ => {}
        }
        let _standing = self.standing.lock();
        if self.machine.start() {
            self.set_state(RunState::Running);
            self.events.emit(&Event::resume());
        }
        Ok(())
    }

    fn reset(&self) -> Answer<()> {
        let _standing = self.standing.lock();
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

    fn set_watchdog_action(&self, action: OnWatchdog) -> Answer<()> {
        *self.watchdog.lock() = action;
        Ok(())
    }

    fn inject_nmi(&self, _cpu: u32) -> Answer<()> {
        match machines::cpus::inject_nmi(&self.machine, &self.cpus.present) {
            true => Ok(()),
            false => Err(VmError::Unsupported("inject-nmi".into())),
        }
    }

    fn quit(&self) {
        if !self.quitting.swap(true, Ordering::AcqRel) {
            let _ = self.requests.send(Request::Quit("host-qmp-quit"));
        }
    }

    fn cpus(&self) -> Vec<CpuInfo> {
        self.cpus.list(&self.threads, &self.backends.lock())
    }

    fn cpu_slots(&self) -> Answer<Vec<CpuSlot>> {
        self.cpus.slots(&self.backends.lock())
    }

    fn ospm_status(&self) -> Answer<Vec<OspmInfo>> {
        cpus::statuses(self)
    }

    fn machines(&self) -> Vec<MachineInfo> {
        let default = list::boards(self.arch).next().map(|b| b.name);
        // One for all accelerators: the translator's, since what only hardware has (`host`) is no model to a client.
        let accelerators = crate::accels::all();
        let of_arch = accelerators.iter().rev().filter(|a| a.guests().contains(&self.arch));
        let model = of_arch.flat_map(|a| a.cpu_models(self.arch)).next();
        let default_cpu = model.map_or_else(String::new, |(model, _)| qom::cpu_type(self.arch, &model));
        list::boards(self.arch)
            .map(|b| MachineInfo {
                name: b.name.into(),
                alias: None,
                description: b.help.into(),
                is_default: Some(b.name) == default,
                cpu_max: b.max_vcpus,
                cpu_hotplug: b.cpu_hotplug,
                default_cpu: (b.name != "none").then(|| default_cpu.clone()),
            })
            .collect()
    }

    fn cpu_models(&self) -> Vec<CpuModelInfo> {
        let mut known = std::collections::HashSet::new();
        crate::accels::all()
            .iter()
            .filter(|a| a.guests().contains(&self.arch))
            .flat_map(|a| a.cpu_models(self.arch))
            .filter(|(name, _)| known.insert(name.clone()))
            .map(|(name, _)| CpuModelInfo {
                type_name: qom::cpu_type(self.arch, &name),
                migration_safe: !matches!(name.as_str(), "host" | "max"),
                name,
            })
            .collect()
    }

    fn save_snapshot(&self, tag: &str, scope: &SnapshotScope, replace: bool) -> Answer<()> {
        let _standing = self.standing.lock();
        self.savable()?;
        if savevm::save(self, tag, scope, replace).map_err(|e| failed(format!("{e:#}")))? {
            return Ok(());
        }
        let path = self.file(tag)?;
        if !replace && path.exists() {
            return Err(failed(format!("Snapshot '{tag}' already exists")));
        }
        std::fs::create_dir_all(&self.snapshots)
            .map_err(|e| failed(format!("{}: {e}", self.snapshots.display())))?;
        snapshot::save(&self.machine, &path).map_err(failed)
    }

    fn load_snapshot(&self, tag: &str, scope: &SnapshotScope) -> Answer<()> {
        let standing = self.standing.lock();
        if savevm::load(self, tag, scope).map_err(|e| failed(format!("{e:#}")))? {
            return Ok(());
        }
        drop(standing);
        self.load_file(&self.file(tag)?)
    }

    fn delete_snapshot(&self, tag: &str, scope: &SnapshotScope) -> Answer<()> {
        if savevm::delete(self, tag, scope).map_err(|e| failed(format!("{e:#}")))? {
            return Ok(());
        }
        let path = self.file(tag)?;
        std::fs::remove_file(&path).map_err(|e| failed(format!("snapshot '{tag}': {e}")))
    }

    fn snapshots(&self) -> Answer<String> {
        savevm::table(self, || self.files()).map_err(|e| failed(format!("{e:#}")))
    }

    fn read_memory(&self, space: MemorySpace, address: u64, data: &mut [u8]) -> Answer<()> {
        self.each_page(space, address, data.len(), |gpa, at, len| {
            let (view, part) = (self.machine.memory().snapshot(), &mut data[at..at + len]);
            // Who names a physical address may mean a device, such as the text of a VGA.
            view.peek(gpa, part).is_ok() || space == MemorySpace::Physical && view.read(gpa, part).is_ok()
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
            "qtree" => Ok(self.machine.graph()),
            "jit" => Ok(self.machine.partition().stats()),
            "network" => Ok(self.backends.lock().nets.report()),
            "screen" => console::text(&self.machine),
            "usernet" => Ok(self.backends.lock().nets.usernet()),
            "qom-tree" => {
                let mut out = String::new();
                qom::tree(self, "/machine", 0, &mut out);
                Ok(out)
            }
            other => Err(VmError::Unsupported(format!("info {other}"))),
        }
    }

    fn qom_list(&self, path: &str) -> Answer<Vec<QomProperty>> {
        qom::list(self, path)
    }

    fn qom_get(&self, path: &str, property: &str) -> Answer<Value> {
        qom::get(self, path, property)
    }

    fn qom_set(&self, path: &str, property: &str, value: &Value) -> Answer<()> {
        // The one property that can be changed: whether a filter is on.
        if let (Some(id), "status") = (path.strip_prefix("/objects/"), property) {
            let on = match value.as_str() {
                Some("on") => true,
                Some("off") => false,
                _ => return Err(failed("status expects on or off")),
            };
            if self.backends.lock().filters.switch(id, on) {
                return Ok(());
            }
        }
        qom::set(self, path, property)
    }

    fn qom_types(&self) -> Vec<QomType> {
        qom::types(self.arch)
    }

    fn type_properties(&self, typename: &str) -> Answer<Vec<QomProperty>> {
        qom::properties(self.arch, typename)
    }

    fn device_add(&self, device: &DeviceConfig) -> Answer<()> {
        if cpus::is_cpu(&device.driver) { cpus::add(self, device) } else { plug::hot::add(self, device) }
    }

    fn device_del(&self, id: &str) -> Answer<()> {
        if cpus::remove(self, id)? { Ok(()) } else { plug::hot::remove(self, id) }
    }

    fn block_devices(&self) -> Vec<BlockInfo> {
        let mut all = self.backends.lock().block_devices();
        media::look(self, &mut all);
        all
    }

    fn block_stats(&self) -> Vec<BlockStats> {
        self.backends.lock().block_stats()
    }

    fn block_nodes(&self) -> Vec<MediumInfo> {
        self.backends.lock().graph.info()
    }

    fn blockdev_add(&self, node: &Blockdev) -> Answer<()> {
        self.backends.lock().graph.add(node).map_err(|e| failed(format!("{e:#}")))
    }

    fn blockdev_del(&self, name: &str) -> Answer<()> {
        self.backends.lock().graph.remove(name).map_err(failed)
    }

    fn block_command(&self, name: &str, arguments: &Map<String, Value>) -> Answer<Value> {
        blockcommands::run(&self.this()?, name, arguments).map_err(|e| failed(format!("{e:#}")))
    }

    fn commit(&self, device: &str) -> Answer<usize> {
        let _standing = self.standing.lock();
        let ran = self.machine.stop();
        self.backends.lock().drain();
        let done = commit::commit(self, device).map_err(|e| failed(format!("{e:#}")));
        if ran {
            self.machine.start();
        }
        done
    }

    fn iothreads(&self) -> Vec<IothreadInfo> {
        self.backends.lock().objects.iothreads()
    }

    fn memdevs(&self) -> Vec<MemdevInfo> {
        if self.memdev.size == 0 { Vec::new() } else { vec![self.memdev.clone()] }
    }

    fn balloon(&self) -> Answer<u64> {
        balloon::actual(&self.machine, self.info.base_memory)
    }

    fn set_balloon(&self, bytes: u64) -> Answer<()> {
        balloon::set(&self.machine, self.info.base_memory, bytes)
    }

    fn netdev_add(&self, netdev: &Netdev) -> Answer<()> {
        self.backends.lock().nets.add(netdev).map_err(|e| failed(format!("{e:#}")))
    }

    fn netdev_del(&self, id: &str) -> Answer<()> {
        match self.backends.lock().nets.remove(id) {
            Ok(true) => Ok(()),
            Ok(false) => Err(VmError::DeviceNotFound(id.into())),
            Err(e) => Err(failed(e)),
        }
    }

    fn rx_filters(&self) -> Vec<RxFilterInfo> {
        self.backends.lock().nets.watch_filters();
        rx_filter::all(&self.machine)
    }

    fn announce_self(&self, how: &Announcement) -> Answer<()> {
        // A later one takes the place of one that has not ended.
        let turn = self.announcing.fetch_add(1, Ordering::Relaxed) + 1;
        self.announce_once(how);
        let (me, how) = (self.me.clone(), how.clone());
        let rest = move || {
            for pause in (1..).map_while(|round| how.pause(round)) {
                std::thread::sleep(Duration::from_millis(pause));
                match me.upgrade() {
                    Some(vm) if vm.announcing.load(Ordering::Relaxed) == turn => vm.announce_once(&how),
                    _ => return,
                }
            }
        };
        std::thread::Builder::new().name("announce".into()).spawn(rest).map(drop).map_err(failed)
    }

    fn hostfwd_add(&self, netdev: Option<&str>, rule: &str) -> Answer<()> {
        self.backends.lock().nets.user(netdev).and_then(|net| Ok(net.add_forward(rule)?)).map_err(failed)
    }

    fn hostfwd_remove(&self, netdev: Option<&str>, listen: &str) -> Answer<bool> {
        self.backends.lock().nets.user(netdev).and_then(|net| Ok(net.remove_forward(listen)?)).map_err(failed)
    }

    fn set_link(&self, name: &str, up: bool) -> Answer<()> {
        let found = self.backends.lock().nets.set_link(name, up);
        if found { Ok(()) } else { Err(VmError::DeviceNotFound(name.into())) }
    }

    fn chardev_add(&self, chardev: &Chardev) -> Answer<Option<String>> {
        self.chars.devices().add(chardev)
    }

    fn chardev_remove(&self, id: &str) -> Answer<()> {
        self.chars.devices().remove(id)
    }

    fn object_add(&self, object: &ObjectConfig) -> Answer<()> {
        let mut b = self.backends.lock();
        b.add_object(object, &self.chars).map_err(|e| failed(format!("{e:#}")))?;
        b.objects_changed();
        Ok(())
    }

    fn object_del(&self, id: &str) -> Answer<()> {
        self.backends.lock().remove_object(id).map_err(failed)
    }

    fn send_keys(&self, keys: &[KeyId], hold_ms: u64) -> Answer<()> {
        self.typist.press(keys, hold_ms)
    }

    fn input(&self, events: &[InputEvent]) -> Answer<()> {
        console::input(&self.machine, events)
    }

    fn screendump(&self, file: &str, format: &str) -> Answer<()> {
        console::screendump(&self.machine, file, format)
    }

    fn migrate(&self, uri: &str) -> Answer<()> {
        self.savable()?;
        migration::start(&self.this()?, uri)
    }

    fn migrate_cancel(&self) -> Answer<()> {
        self.migration.cancel(self);
        Ok(())
    }

    fn migrate_incoming(&self, uri: &str) -> Answer<()> {
        let awaiting = *self.awaiting.lock();
        match awaiting {
            None => Err(failed("'-incoming' was not specified on the command line")),
            Some(a) if !a.deferred => Err(failed("The incoming migration has already been started")),
            Some(_) => {
                migration::listen(&self.this()?, uri)?;
                if let Some(a) = &mut *self.awaiting.lock() {
                    a.deferred = false;
                }
                Ok(())
            }
        }
    }

    fn migration(&self) -> MigrationInfo {
        self.migration.info()
    }

    fn migration_limits(&self) -> MigrationLimits {
        self.migration.limits()
    }

    fn set_migration_limits(&self, limits: MigrationLimits) {
        self.migration.set_limits(limits);
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

    fn run_number(&self) -> u64 {
        self.machine.run_number()
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
