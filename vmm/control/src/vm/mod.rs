//! The control surface of a machine: what monitors and debuggers need, and nothing of how it is done.
//!
//! The machine implements [`Vm`]; QMP, HMP and the GDB stub only see this trait. Methods may be called from
//! any thread but a vCPU's, and return when the thing is done. What a machine cannot do keeps its default
//! body, which answers [`VmError::Unsupported`].

mod event;
mod info;
mod input;

pub(crate) use event::EVENT_NAMES;
pub use event::{Event, EventBus};
pub use info::{
    Announcement, BlockInfo, BlockStats, ChardevInfo, CpuInfo, CpuModelInfo, CpuPlace, CpuSlot,
    DirtyBitmapInfo, IothreadInfo, MachineInfo, MediumInfo, MemdevInfo, MemorySpace, MigrationInfo,
    MigrationLimits, OspmInfo, QomProperty, QomType, RunState, RxFilterInfo, RxState, SnapshotInfo,
    SnapshotScope, VmInfo,
};

pub use input::{InputEvent, KeyId};

use crate::config::{Blockdev, Chardev, DeviceConfig, Netdev, ObjectConfig, OnWatchdog};
use serde_json::Value;
use thiserror::Error;

/// Why the machine refuses a request.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VmError {
    /// No object has this id or path.
    #[error("Device '{0}' not found")]
    DeviceNotFound(String),
    /// The device it is about is not there, or the guest does not use it.
    #[error("{0}")]
    DeviceNotActive(String),
    /// This machine cannot do it at all.
    #[error("{0} is not supported by this machine")]
    Unsupported(String),
    /// It failed this time.
    #[error("{0}")]
    Failed(String),
}

type Answer<T> = Result<T, VmError>;

fn unsupported<T>(what: &str) -> Answer<T> {
    Err(VmError::Unsupported(what.to_owned()))
}

/// One machine.
pub trait Vm: Send + Sync {
    /// What does not change while it exists.
    fn info(&self) -> VmInfo;
    /// Where events are announced.
    fn events(&self) -> &EventBus;
    /// Present run state.
    fn status(&self) -> RunState;
    /// Stops all vCPUs and the virtual clock.
    fn stop(&self) -> Answer<()>;
    /// Starts them (again).
    fn cont(&self) -> Answer<()>;
    /// Resets the machine.
    fn reset(&self) -> Answer<()>;
    /// Presses the power button.
    fn powerdown(&self) -> Answer<()> {
        unsupported("system_powerdown")
    }
    /// Changes what a watchdog does that is not restarted in time.
    fn set_watchdog_action(&self, action: OnWatchdog) -> Answer<()> {
        let _ = action;
        unsupported("watchdog-set-action")
    }
    /// Asks the process to end; returns at once.
    fn quit(&self);
    /// All vCPUs that are there, in order of index.
    fn cpus(&self) -> Vec<CpuInfo>;
    /// Places for vCPUs on a machine where they come and go, the last first.
    fn cpu_slots(&self) -> Answer<Vec<CpuSlot>> {
        Err(VmError::Failed("machine does not support hot-plugging CPUs".into()))
    }
    /// What the guest has said of devices that were to come or go.
    fn ospm_status(&self) -> Answer<Vec<OspmInfo>> {
        Err(VmError::Failed("command is not supported, missing ACPI device".into()))
    }

    /// Boards of this architecture.
    fn machines(&self) -> Vec<MachineInfo> {
        Vec::new()
    }
    /// CPU models of this architecture.
    fn cpu_models(&self) -> Vec<CpuModelInfo> {
        Vec::new()
    }

    /// Children and properties of an object of the composition tree.
    fn qom_list(&self, path: &str) -> Answer<Vec<QomProperty>> {
        Err(VmError::DeviceNotFound(path.to_owned()))
    }
    /// Value of a property.
    fn qom_get(&self, path: &str, property: &str) -> Answer<Value> {
        let _ = property;
        Err(VmError::DeviceNotFound(path.to_owned()))
    }
    /// Types of objects.
    fn qom_types(&self) -> Vec<QomType> {
        Vec::new()
    }

    /// Plugs a device.
    fn device_add(&self, device: &DeviceConfig) -> Answer<()> {
        Err(VmError::Unsupported(format!("hot plug of '{}'", device.driver)))
    }
    /// Asks the guest to give a device up.
    fn device_del(&self, id: &str) -> Answer<()> {
        Err(VmError::Unsupported(format!("hot unplug of '{id}'")))
    }

    /// Saves the whole machine with its disks under a tag; `replace` takes the place of one that is there.
    fn save_snapshot(&self, tag: &str, scope: &SnapshotScope, replace: bool) -> Answer<()> {
        let _ = (tag, scope, replace);
        unsupported("savevm")
    }
    /// Loads a saved machine with its disks. On error nothing has changed, or the machine stands and says so.
    fn load_snapshot(&self, tag: &str, scope: &SnapshotScope) -> Answer<()> {
        let _ = (tag, scope);
        unsupported("loadvm")
    }
    /// Deletes a saved machine.
    fn delete_snapshot(&self, tag: &str, scope: &SnapshotScope) -> Answer<()> {
        let _ = (tag, scope);
        unsupported("delvm")
    }
    /// All saved machines, as `info snapshots` shows them.
    fn snapshots(&self) -> Answer<String> {
        Ok("There is no snapshot available.\n".into())
    }

    /// Sends a non-maskable interrupt.
    fn inject_nmi(&self, cpu: u32) -> Answer<()> {
        let _ = cpu;
        unsupported("inject-nmi")
    }
    /// Reads guest memory as a debugger does: no side effects on the guest's MMU.
    fn read_memory(&self, space: MemorySpace, address: u64, data: &mut [u8]) -> Answer<()>;
    /// Writes guest memory as a debugger does.
    fn write_memory(&self, space: MemorySpace, address: u64, data: &[u8]) -> Answer<()>;

    /// All registers of a vCPU, as text for humans.
    fn registers(&self, cpu: u32) -> Answer<String> {
        let _ = cpu;
        unsupported("info registers")
    }
    /// One register by name, for `$name` in expressions.
    fn register(&self, cpu: u32, name: &str) -> Answer<u64> {
        let _ = cpu;
        Err(VmError::Failed(format!("register '{name}' is not known")))
    }
    /// A report for humans on one subject: `mtree`, `qtree`, `irq`, `jit`, `network`, `pic`, `pci` ...
    /// `args` is what followed the subject.
    fn report(&self, subject: &str, args: &str) -> Answer<String> {
        let _ = args;
        Err(VmError::Unsupported(format!("info {subject}")))
    }
    /// Block devices.
    fn block_devices(&self) -> Vec<BlockInfo> {
        Vec::new()
    }
    /// Character back ends.
    fn chardevs(&self) -> Vec<ChardevInfo> {
        Vec::new()
    }
    /// Takes up to `size` of the oldest bytes out of a `ringbuf` chardev.
    fn ringbuf_read(&self, id: &str, size: usize) -> Answer<Vec<u8>> {
        let _ = size;
        Err(VmError::DeviceNotFound(id.to_owned()))
    }
    /// Writes into a `ringbuf` chardev as the guest would.
    fn ringbuf_write(&self, id: &str, data: &[u8]) -> Answer<()> {
        let _ = data;
        Err(VmError::DeviceNotFound(id.to_owned()))
    }
    /// Changes the log items (`-d`).
    fn set_log(&self, items: &[String]) -> Answer<()> {
        let _ = items;
        unsupported("log")
    }
    /// Sets a property of an object.
    fn qom_set(&self, path: &str, property: &str, value: &Value) -> Answer<()> {
        let _ = (property, value);
        Err(VmError::DeviceNotFound(path.to_owned()))
    }
    /// Properties of a type of objects (`device-list-properties`, `qom-list-properties`).
    fn type_properties(&self, typename: &str) -> Answer<Vec<QomProperty>> {
        Err(VmError::DeviceNotFound(typename.to_owned()))
    }

    /// What the block devices have done.
    fn block_stats(&self) -> Vec<BlockStats> {
        Vec::new()
    }
    /// Nodes of the block graph that have a name.
    fn block_nodes(&self) -> Vec<MediumInfo> {
        Vec::new()
    }
    /// Adds a node to the block graph.
    fn blockdev_add(&self, node: &Blockdev) -> Answer<()> {
        let _ = node;
        unsupported("blockdev-add")
    }
    /// Takes a node out of it that nobody uses.
    fn blockdev_del(&self, name: &str) -> Answer<()> {
        Err(VmError::Failed(format!("Failed to find node with node-name='{name}'")))
    }
    /// Does one of QMP's commands about disks, jobs and exports; the types of its arguments have been checked.
    fn block_command(&self, name: &str, arguments: &serde_json::Map<String, Value>) -> Answer<Value> {
        match name {
            "job-dismiss" => {
                let id = arguments.get("id").and_then(Value::as_str).unwrap_or_default();
                Err(VmError::Failed(format!("job '{id}' not found")))
            }
            "query-jobs" | "query-block-jobs" | "query-block-exports" => Ok(Value::Array(Vec::new())),
            _ => unsupported(name),
        }
    }
    /// Writes what is kept beside a disk (`snapshot=on`) into it; `all` for every such disk. How many there were.
    fn commit(&self, device: &str) -> Answer<usize> {
        Err(VmError::DeviceNotFound(device.to_owned()))
    }
    /// Threads that do disks' work.
    fn iothreads(&self) -> Vec<IothreadInfo> {
        Vec::new()
    }
    /// Back ends of guest RAM.
    fn memdevs(&self) -> Vec<MemdevInfo> {
        Vec::new()
    }
    /// Bytes of RAM that the balloon leaves to the guest.
    fn balloon(&self) -> Answer<u64> {
        Err(VmError::DeviceNotActive("No balloon device has been activated".into()))
    }
    /// Asks the guest to live with so many bytes of RAM.
    fn set_balloon(&self, bytes: u64) -> Answer<()> {
        let _ = bytes;
        self.balloon().map(drop)
    }

    /// Adds a network back end.
    fn netdev_add(&self, netdev: &Netdev) -> Answer<()> {
        let _ = netdev;
        unsupported("netdev_add")
    }
    /// Takes one away that nobody uses.
    fn netdev_del(&self, id: &str) -> Answer<()> {
        Err(VmError::DeviceNotFound(id.to_owned()))
    }
    /// The receive filters of network cards.
    fn rx_filters(&self) -> Vec<RxFilterInfo> {
        Vec::new()
    }
    /// Has cards make themselves known to the network; returns once that has begun.
    fn announce_self(&self, how: &Announcement) -> Answer<()> {
        let _ = how;
        Ok(())
    }
    /// Opens a port that leads into the guest by a user network, the first one if none is named.
    fn hostfwd_add(&self, netdev: Option<&str>, rule: &str) -> Answer<()> {
        let _ = (netdev, rule);
        Err(VmError::Failed("there is no user network".into()))
    }
    /// Closes one, given by the host's side of its rule; false if there is none such.
    fn hostfwd_remove(&self, netdev: Option<&str>, listen: &str) -> Answer<bool> {
        let _ = (netdev, listen);
        Err(VmError::Failed("there is no user network".into()))
    }
    /// Plugs the cable of a network card or back end in or out.
    fn set_link(&self, name: &str, up: bool) -> Answer<()> {
        let _ = up;
        Err(VmError::DeviceNotFound(name.to_owned()))
    }
    /// Adds a character back end; the name of its terminal if it made one.
    fn chardev_add(&self, chardev: &Chardev) -> Answer<Option<String>> {
        let _ = chardev;
        unsupported("chardev-add")
    }
    /// Takes one away that nobody uses.
    fn chardev_remove(&self, id: &str) -> Answer<()> {
        Err(VmError::Failed(format!("Chardev '{id}' not found")))
    }
    /// Adds an object.
    fn object_add(&self, object: &ObjectConfig) -> Answer<()> {
        let _ = object;
        unsupported("object-add")
    }
    /// Takes one away that nobody uses.
    fn object_del(&self, id: &str) -> Answer<()> {
        Err(VmError::Failed(format!("object '{id}' not found")))
    }
    /// Presses keys one after the other, and lets them up in reverse after so many milliseconds. Returns at once;
    /// what follows waits.
    fn send_keys(&self, keys: &[KeyId], hold_ms: u64) -> Answer<()> {
        let _ = (keys, hold_ms);
        Err(VmError::Failed("There is no keyboard".into()))
    }
    /// What a user does, at once.
    fn input(&self, events: &[InputEvent]) -> Answer<()> {
        let _ = events;
        Err(VmError::Failed("There is no keyboard or mouse".into()))
    }
    /// Saves the picture of a display, in the format of this name.
    fn screendump(&self, file: &str, format: &str) -> Answer<()> {
        let _ = (file, format);
        Err(VmError::Failed("There is no console to take a screendump from".into()))
    }

    /// Sends the machine to another Rhea; returns once it has begun.
    fn migrate(&self, uri: &str) -> Answer<()> {
        let _ = uri;
        unsupported("migrate")
    }
    /// Ends a migration that is under way.
    fn migrate_cancel(&self) -> Answer<()> {
        Ok(())
    }
    /// Receives a machine into this one, which was started for that.
    fn migrate_incoming(&self, uri: &str) -> Answer<()> {
        let _ = uri;
        Err(VmError::Failed("'-incoming' was not specified on the command line".into()))
    }
    /// How the present or last migration stands.
    fn migration(&self) -> MigrationInfo {
        MigrationInfo::default()
    }
    /// What migrations may cost.
    fn migration_limits(&self) -> MigrationLimits {
        MigrationLimits::default()
    }
    /// Changes what those that begin from now on may cost.
    fn set_migration_limits(&self, limits: MigrationLimits) {
        let _ = limits;
    }
}
