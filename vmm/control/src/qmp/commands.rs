//! QMP's commands: one table with the arguments of each and what it does.

use super::{QmpError, backends, base64, block, input, migrate, schema, version};
use crate::config::OnWatchdog;
use crate::config::{ChardevKind, DeviceConfig, FdInSet, Props};
use crate::hmp;
use crate::monitor::Control;
use crate::options;
use crate::suggest::nearest;
use crate::vm::{CpuInfo, CpuPlace, CpuSlot, EVENT_NAMES, MemorySpace, OspmInfo, QomProperty, SnapshotScope};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;

pub(super) type Arguments = Map<String, Value>;
pub(super) type Answer = Result<Value, QmpError>;

/// Types of arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Text,
    Number,
    Bool,
    List,
    Any,
    /// Whatever other arguments there are.
    Rest,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Argument {
    pub(super) name: &'static str,
    pub(super) kind: Type,
    pub(super) required: bool,
}

/// One command.
pub(super) struct Command {
    pub(super) name: &'static str,
    pub(super) arguments: &'static [Argument],
    pub(super) run: fn(&Control, &Arguments) -> Answer,
}

impl Command {
    /// Refuses arguments that are unknown, missing or of the wrong type.
    pub(super) fn check(&self, given: &Arguments) -> Result<(), QmpError> {
        let open = self.arguments.iter().any(|a| a.kind == Type::Rest);
        for (name, value) in given {
            let Some(argument) = self.arguments.iter().find(|a| a.name == name) else {
                if open {
                    continue;
                }
                let near = nearest(name, self.arguments.iter().map(|a| a.name));
                let hint = near.map(|n| format!("; did you mean '{n}'?")).unwrap_or_default();
                return Err(QmpError::Generic(format!("argument '{name}' is not known{hint}")));
            };
            let (fits, expected) = match argument.kind {
                Type::Text => (value.is_string(), "a string"),
                Type::Number => (value.as_u64().is_some(), "a number of at least 0"),
                Type::Bool => (value.is_boolean(), "true or false"),
                Type::List => (value.is_array(), "a list"),
                Type::Any | Type::Rest => (true, ""),
            };
            if !fits {
                return Err(QmpError::Generic(format!("argument '{name}' expects {expected}")));
            }
        }
        match self.arguments.iter().find(|a| a.required && !given.contains_key(a.name)) {
            Some(a) => Err(QmpError::Generic(format!("argument '{}' is missing", a.name))),
            None => Ok(()),
        }
    }
}

/// Looks a command up.
pub(super) fn find(name: &str) -> Result<&'static Command, QmpError> {
    COMMANDS.iter().find(|c| c.name == name).ok_or_else(|| {
        let hint = nearest(name, COMMANDS.iter().map(|c| c.name))
            .map(|n| format!("; did you mean '{n}'?"))
            .unwrap_or_default();
        QmpError::CommandNotFound(format!("command '{name}' is not known{hint}"))
    })
}

macro_rules! commands {
    ($($name:literal ($($arg:literal $need:tt $kind:ident),*) $run:expr;)*) => {
        pub(super) static COMMANDS: &[Command] = &[$(
            Command {
                name: $name,
                arguments: &[$(Argument { name: $arg, kind: Type::$kind, required: commands!(@ $need) }),*],
                run: $run,
            },
        )*];
    };
    (@ !) => { true };
    (@ ?) => { false };
}

/// Commands that the machine does itself, by name.
macro_rules! forward {
    ($name:literal) => {
        |c: &Control, a: &Arguments| Ok(c.vm.block_command($name, a)?)
    };
}

// `!` marks an argument that is required, `?` one that is not.
commands! {
    "query-status" () |c, _| {
        let status = c.vm.status();
        Ok(json!({"running": status.is_running(), "status": status.name()}))
    };
    "stop" () |c, _| done(c.vm.stop()?);
    "cont" () |c, _| done(c.vm.cont()?);
    "system_reset" () |c, _| done(c.vm.reset()?);
    "system_powerdown" () |c, _| done(c.vm.powerdown()?);
    // The session quits after the answer has been sent.
    "quit" () |_, _| done(());
    "query-version" () |_, _| Ok(version());
    "query-commands" () |_, _| {
        let names = COMMANDS.iter().map(|c| c.name).chain(["qmp_capabilities"]);
        Ok(names.map(|n| json!({ "name": n })).collect())
    };
    "query-events" () |_, _| Ok(EVENT_NAMES.iter().map(|n| json!({ "name": n })).collect());
    "query-name" () |c, _| Ok(c.vm.info().name.map_or_else(|| json!({}), |n| json!({ "name": n })));
    "query-uuid" () |c, _| Ok(json!({"UUID": c.vm.info().uuid.to_string()}));
    "query-target" () |c, _| Ok(json!({"arch": c.vm.info().arch}));
    "query-kvm" () |c, _| {
        let info = c.vm.info();
        Ok(json!({"enabled": info.accelerator == "kvm", "present": info.kvm_present}))
    };
    "query-memory-size-summary" () |c, _| {
        let info = c.vm.info();
        Ok(json!({"base-memory": info.base_memory, "plugged-memory": info.plugged_memory}))
    };
    "query-cpus-fast" () |c, _| {
        let arch = c.vm.info().arch;
        Ok(c.vm.cpus().iter().map(|cpu| describe_cpu(cpu, &arch)).collect())
    };
    "query-machines" () query_machines;
    "query-cpu-definitions" () |c, _| {
        Ok(c.vm.cpu_models().into_iter().map(|m| json!({
            "name": m.name, "typename": m.type_name, "static": false, "migration-safe": m.migration_safe,
            "unavailable-features": [], "deprecated": false,
        })).collect())
    };
    "query-chardev" () |c, _| {
        Ok(c.vm.chardevs().into_iter().map(|d| json!({
            "label": d.label, "filename": d.filename, "frontend-open": d.frontend_open,
        })).collect())
    };
    "query-chardev-backends" () |_, _| Ok(ChardevKind::NAMES.iter().map(|n| json!({ "name": n })).collect());
    "query-block" () block::query_block;
    "query-blockstats" ("query-nodes" ? Bool) block::query_stats;
    "query-named-block-nodes" ("flat" ? Bool) block::query_nodes;
    "query-iothreads" () block::query_iothreads;
    "blockdev-add" ("driver" ! Text, "node-name" ! Text, "" ? Rest) block::add;
    "blockdev-del" ("node-name" ! Text) block::del;
    "query-block-jobs" () forward!("query-block-jobs");
    "query-block-exports" () forward!("query-block-exports");
    "job-pause" ("id" ! Text) forward!("job-pause");
    "job-resume" ("id" ! Text) forward!("job-resume");
    "job-cancel" ("id" ! Text) forward!("job-cancel");
    "job-complete" ("id" ! Text) forward!("job-complete");
    "job-finalize" ("id" ! Text) forward!("job-finalize");
    "block-job-pause" ("device" ! Text) forward!("block-job-pause");
    "block-job-resume" ("device" ! Text) forward!("block-job-resume");
    "block-job-complete" ("device" ! Text) forward!("block-job-complete");
    "block-job-finalize" ("id" ! Text) forward!("block-job-finalize");
    "block-job-dismiss" ("id" ! Text) forward!("block-job-dismiss");
    "block-job-cancel" ("device" ! Text, "force" ? Bool) forward!("block-job-cancel");
    "block-job-set-speed" ("device" ! Text, "speed" ! Number) forward!("block-job-set-speed");
    "blockdev-mirror" (
        "job-id" ? Text, "device" ! Text, "target" ! Text, "sync" ! Text, "speed" ? Number, "granularity" ? Number,
        "buf-size" ? Number, "on-source-error" ? Text, "on-target-error" ? Text, "filter-node-name" ? Text,
        "copy-mode" ? Text, "auto-finalize" ? Bool, "auto-dismiss" ? Bool, "target-is-zero" ? Bool,
        "bitmap" ? Text, "replaces" ? Text
    ) forward!("blockdev-mirror");
    "drive-mirror" (
        "job-id" ? Text, "device" ! Text, "target" ! Text, "format" ? Text, "node-name" ? Text, "mode" ? Text,
        "sync" ! Text, "speed" ? Number, "granularity" ? Number, "buf-size" ? Number, "on-source-error" ? Text,
        "on-target-error" ? Text, "unmap" ? Bool, "copy-mode" ? Text, "auto-finalize" ? Bool,
        "auto-dismiss" ? Bool, "bitmap" ? Text, "replaces" ? Text
    ) forward!("drive-mirror");
    "blockdev-backup" (
        "job-id" ? Text, "device" ! Text, "target" ! Text, "sync" ! Text, "speed" ? Number, "bitmap" ? Text,
        "bitmap-mode" ? Text, "compress" ? Bool, "on-source-error" ? Text, "on-target-error" ? Text,
        "on-cbw-error" ? Text, "filter-node-name" ? Text, "auto-finalize" ? Bool, "auto-dismiss" ? Bool
    ) forward!("blockdev-backup");
    "drive-backup" (
        "job-id" ? Text, "device" ! Text, "target" ! Text, "format" ? Text, "mode" ? Text, "sync" ! Text,
        "speed" ? Number, "bitmap" ? Text, "bitmap-mode" ? Text, "compress" ? Bool, "on-source-error" ? Text,
        "on-target-error" ? Text, "on-cbw-error" ? Text, "auto-finalize" ? Bool, "auto-dismiss" ? Bool
    ) forward!("drive-backup");
    "block-stream" (
        "job-id" ? Text, "device" ! Text, "base" ? Text, "base-node" ? Text, "backing-file" ? Text,
        "bottom" ? Text, "speed" ? Number, "on-error" ? Text, "filter-node-name" ? Text, "auto-finalize" ? Bool,
        "auto-dismiss" ? Bool
    ) forward!("block-stream");
    "block-commit" (
        "job-id" ? Text, "device" ! Text, "base" ? Text, "base-node" ? Text, "top" ? Text, "top-node" ? Text,
        "backing-file" ? Text, "speed" ? Number, "on-error" ? Text, "filter-node-name" ? Text,
        "auto-finalize" ? Bool, "auto-dismiss" ? Bool
    ) forward!("block-commit");
    "blockdev-create" ("job-id" ! Text, "options" ! Any) forward!("blockdev-create");
    "x-blockdev-amend" ("job-id" ! Text, "node-name" ! Text, "options" ! Any, "force" ? Bool) forward!("x-blockdev-amend");
    "blockdev-reopen" ("options" ! List) forward!("blockdev-reopen");
    "blockdev-snapshot-internal-sync" ("device" ! Text, "name" ! Text) forward!("blockdev-snapshot-internal-sync");
    "blockdev-snapshot-delete-internal-sync" (
        "device" ! Text, "id" ? Text, "name" ? Text
    ) forward!("blockdev-snapshot-delete-internal-sync");
    "blockdev-snapshot" ("node" ! Text, "overlay" ! Text) forward!("blockdev-snapshot");
    "blockdev-snapshot-sync" (
        "device" ? Text, "node-name" ? Text, "snapshot-file" ! Text, "snapshot-node-name" ? Text, "format" ? Text,
        "mode" ? Text
    ) forward!("blockdev-snapshot-sync");
    "change-backing-file" (
        "device" ! Text, "image-node-name" ! Text, "backing-file" ! Text
    ) forward!("change-backing-file");
    "block_resize" ("device" ? Text, "node-name" ? Text, "size" ! Number) forward!("block_resize");
    "eject" ("device" ? Text, "id" ? Text, "force" ? Bool) forward!("eject");
    "blockdev-open-tray" ("device" ? Text, "id" ? Text, "force" ? Bool) forward!("blockdev-open-tray");
    "blockdev-close-tray" ("device" ? Text, "id" ? Text) forward!("blockdev-close-tray");
    "blockdev-remove-medium" ("id" ! Text) forward!("blockdev-remove-medium");
    "blockdev-insert-medium" ("id" ! Text, "node-name" ! Text) forward!("blockdev-insert-medium");
    "blockdev-change-medium" (
        "device" ? Text, "id" ? Text, "filename" ! Text, "format" ? Text, "force" ? Bool,
        "read-only-mode" ? Text
    ) forward!("blockdev-change-medium");
    "transaction" ("actions" ! List, "properties" ? Any) forward!("transaction");
    "block-dirty-bitmap-add" (
        "node" ! Text, "name" ! Text, "granularity" ? Number, "persistent" ? Bool, "disabled" ? Bool
    ) forward!("block-dirty-bitmap-add");
    "block-dirty-bitmap-remove" ("node" ! Text, "name" ! Text) forward!("block-dirty-bitmap-remove");
    "block-dirty-bitmap-clear" ("node" ! Text, "name" ! Text) forward!("block-dirty-bitmap-clear");
    "block-dirty-bitmap-enable" ("node" ! Text, "name" ! Text) forward!("block-dirty-bitmap-enable");
    "block-dirty-bitmap-disable" ("node" ! Text, "name" ! Text) forward!("block-dirty-bitmap-disable");
    "block-dirty-bitmap-merge" (
        "node" ! Text, "target" ! Text, "bitmaps" ! List
    ) forward!("block-dirty-bitmap-merge");
    "nbd-server-start" (
        "addr" ! Any, "tls-creds" ? Text, "tls-authz" ? Text, "max-connections" ? Number,
        "handshake-max-seconds" ? Number
    ) forward!("nbd-server-start");
    "nbd-server-add" (
        "device" ! Text, "name" ? Text, "description" ? Text, "writable" ? Bool, "bitmap" ? Text
    ) forward!("nbd-server-add");
    "nbd-server-remove" ("name" ! Text, "mode" ? Text) forward!("nbd-server-remove");
    "nbd-server-stop" () forward!("nbd-server-stop");
    "block-export-add" (
        "type" ! Text, "id" ! Text, "node-name" ! Text, "writable" ? Bool, "writethrough" ? Bool, "name" ? Text,
        "description" ? Text, "bitmaps" ? List, "allocation-depth" ? Bool, "mountpoint" ? Text, "growable" ? Bool,
        "allow-other" ? Text, "addr" ? Any, "logical-block-size" ? Number, "num-queues" ? Number,
        "iothread" ? Any, "fixed-iothread" ? Bool
    ) forward!("block-export-add");
    "block-export-del" ("id" ! Text, "mode" ? Text) forward!("block-export-del");
    "query-memdev" () |c, _| Ok(c.vm.memdevs().into_iter().map(|m| json!({
        "id": m.id, "size": m.size, "merge": m.merge, "dump": m.dump, "prealloc": m.prealloc, "share": m.share,
        "reserve": true, "host-nodes": [], "policy": "default",
    })).collect());
    "query-memory-devices" () |_, _| Ok(json!([]));
    "query-hotpluggable-cpus" () |c, _| {
        let slot = |s: &CpuSlot| {
            let mut v = json!({"props": describe_place(&s.place), "vcpus-count": 1, "type": s.kind});
            if let Some(path) = &s.qom_path {
                v["qom-path"] = json!(path);
            }
            v
        };
        Ok(c.vm.cpu_slots()?.iter().map(slot).collect())
    };
    "query-acpi-ospm-status" () |c, _| Ok(c.vm.ospm_status()?.iter().map(OspmInfo::to_json).collect());
    "query-current-machine" () |_, _| Ok(json!({"wakeup-suspend-support": false}));
    "query-pci" () |_, _| Ok(json!([]));
    "query-fdsets" () query_fdsets;
    "getfd" ("fdname" ! Text) |c, a| c.handed.name(text(a, "fdname")).map_err(QmpError::Generic).and_then(done);
    "closefd" ("fdname" ! Text) |c, a| {
        c.handed.take(text(a, "fdname")).map(drop).map_err(QmpError::Generic).and_then(done)
    };
    "query-mice" () |_, _| Ok(json!([]));
    "query-vnc" () |_, _| Ok(json!({"enabled": false}));
    "query-tpm-models" () |_, _| Ok(json!([]));
    "query-tpm-types" () |_, _| Ok(json!([]));
    "query-stats-schemas" ("provider" ? Text) |_, _| Ok(json!([]));
    "query-qmp-schema" () |_, _| Ok(schema::schema());
    "query-command-line-options" ("option" ? Text) |_, a| {
        let option = a.get("option").and_then(Value::as_str);
        let name = option.unwrap_or_default();
        options::describe(option).ok_or_else(|| QmpError::Generic(format!("invalid option name: {name}")))
    };
    "query-balloon" () |c, _| Ok(json!({"actual": c.vm.balloon()?}));
    "balloon" ("value" ! Number) |c, a| {
        done(c.vm.set_balloon(a.get("value").and_then(Value::as_u64).unwrap_or(0))?)
    };
    "netdev_add" ("type" ! Text, "id" ! Text, "" ? Rest) backends::netdev_add;
    "netdev_del" ("id" ! Text) |c, a| done(c.vm.netdev_del(text(a, "id"))?);
    "announce-self" ("initial" ! Number, "max" ! Number, "rounds" ! Number, "step" ! Number, "interfaces" ? List,
        "id" ? Text) backends::announce_self;
    "query-rx-filter" ("name" ? Text) backends::query_rx_filter;
    "set_link" ("name" ! Text, "up" ! Bool) backends::set_link;
    "chardev-add" ("id" ! Text, "backend" ! Any) backends::chardev_add;
    "chardev-remove" ("id" ! Text) |c, a| done(c.vm.chardev_remove(text(a, "id"))?);
    "object-add" ("qom-type" ! Text, "id" ! Text, "" ? Rest) backends::object_add;
    "object-del" ("id" ! Text) |c, a| done(c.vm.object_del(text(a, "id"))?);
    "screendump" ("filename" ! Text, "device" ? Text, "head" ? Number, "format" ? Text) input::screendump;
    "send-key" ("keys" ! List, "hold-time" ? Number) input::send_key;
    "input-send-event" ("device" ? Text, "head" ? Number, "events" ! List) input::send_event;
    "migrate" ("uri" ? Text, "channels" ? List, "detach" ? Bool, "resume" ? Bool) migrate::migrate;
    "migrate_cancel" () |c, _| done(c.vm.migrate_cancel()?);
    "migrate-incoming" ("uri" ? Text, "channels" ? List, "exit-on-error" ? Bool) migrate::incoming;
    "query-migrate" () migrate::query;
    "query-migrate-capabilities" () migrate::query_capabilities;
    "migrate-set-capabilities" ("capabilities" ! List) migrate::set_capabilities;
    "query-migrate-parameters" () migrate::query_parameters;
    "migrate-set-parameters" ("max-bandwidth" ? Number, "downtime-limit" ? Number) migrate::set_parameters;
    "qom-list" ("path" ! Text) |c, a| {
        Ok(c.vm.qom_list(text(a, "path"))?.into_iter().map(property).collect())
    };
    "qom-get" ("path" ! Text, "property" ! Text) |c, a| Ok(c.vm.qom_get(text(a, "path"), text(a, "property"))?);
    "qom-set" ("path" ! Text, "property" ! Text, "value" ! Any) |c, a| {
        let value = a.get("value").unwrap_or(&Value::Null);
        done(c.vm.qom_set(text(a, "path"), text(a, "property"), value)?)
    };
    "qom-list-types" ("implements" ? Text, "abstract" ? Any) qom_list_types;
    "qom-list-properties" ("typename" ! Text) list_properties;
    "device-list-properties" ("typename" ! Text) list_properties;
    "human-monitor-command" ("command-line" ! Text, "cpu-index" ? Number) |c, a| {
        // A machine of nothing has a monitor as well.
        let cpu = if a.contains_key("cpu-index") { cpu_index(c, a)? } else { 0 };
        Ok(hmp::run(c, cpu, text(a, "command-line")).into())
    };
    "memsave" ("val" ! Number, "size" ! Number, "filename" ! Text, "cpu-index" ? Number) |c, a| {
        let cpu = cpu_index(c, a)?;
        save_memory(c, MemorySpace::Virtual(cpu), a)
    };
    "pmemsave" ("val" ! Number, "size" ! Number, "filename" ! Text) |c, a| save_memory(c, MemorySpace::Physical, a);
    "watchdog-set-action" ("action" ! Text) |c, a| {
        let name = text(a, "action");
        let action = OnWatchdog::named(name).ok_or_else(|| {
            QmpError::Generic(format!("Parameter 'action' does not accept value '{name}'"))
        })?;
        done(c.vm.set_watchdog_action(action)?)
    };
    "inject-nmi" () |c, _| done(c.vm.inject_nmi(0)?);
    "device_add" ("driver" ! Text, "id" ? Text, "bus" ? Text, "" ? Rest) device_add;
    "device_del" ("id" ! Text) |c, a| done(c.vm.device_del(text(a, "id"))?);
    "snapshot-save" ("job-id" ! Text, "tag" ! Text, "vmstate" ? Text, "devices" ? List) |c, a| {
        let (tag, scope) = (text(a, "tag"), snapshot_scope(a)?);
        job(c, a, "snapshot-save", || c.vm.save_snapshot(tag, &scope, false))
    };
    "snapshot-load" ("job-id" ! Text, "tag" ! Text, "vmstate" ? Text, "devices" ? List) |c, a| {
        let (tag, scope) = (text(a, "tag"), snapshot_scope(a)?);
        job(c, a, "snapshot-load", || c.vm.load_snapshot(tag, &scope))
    };
    "snapshot-delete" ("job-id" ! Text, "tag" ! Text, "devices" ? List) |c, a| {
        let (tag, scope) = (text(a, "tag"), snapshot_scope(a)?);
        job(c, a, "snapshot-delete", || c.vm.delete_snapshot(tag, &scope))
    };
    "query-jobs" () |c, a| {
        let mut all = c.jobs.query();
        if let (Value::Array(all), Value::Array(more)) = (&mut all, c.vm.block_command("query-jobs", a)?) {
            all.extend(more);
        }
        Ok(all)
    };
    "job-dismiss" ("id" ! Text) |c, a| {
        let id = text(a, "id");
        if c.jobs.dismiss(c.vm.events(), id) { done(()) } else { Ok(c.vm.block_command("job-dismiss", a)?) }
    };
    "ringbuf-read" ("device" ! Text, "size" ! Number, "format" ? Text) ringbuf_read;
    "ringbuf-write" ("device" ! Text, "data" ! Text, "format" ? Text) |c, a| {
        let data = text(a, "data");
        let data = match a.get("format").and_then(Value::as_str) {
            None | Some("utf8") => data.as_bytes().to_vec(),
            Some("base64") => base64::decode(data).ok_or_else(|| QmpError::Generic("'data' is not base64".into()))?,
            Some(other) => return Err(bad_format(other)),
        };
        done(c.vm.ringbuf_write(text(a, "device"), &data)?)
    };
}

fn property(p: QomProperty) -> Value {
    let mut v = json!({"name": p.name, "type": p.kind});
    if let Some(d) = p.description {
        v["description"] = d.into();
    }
    if let Some(d) = p.default {
        v["default-value"] = d;
    }
    v
}

fn list_properties(c: &Control, a: &Arguments) -> Answer {
    Ok(c.vm.type_properties(text(a, "typename"))?.into_iter().map(property).collect())
}

pub(super) fn done((): ()) -> Answer {
    Ok(json!({}))
}

/// A text whose presence and type [`Command::check`] has seen to.
pub(super) fn text<'a>(a: &'a Arguments, name: &str) -> &'a str {
    a.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn cpu_index(c: &Control, a: &Arguments) -> Result<u32, QmpError> {
    let index = a.get("cpu-index").and_then(Value::as_u64).unwrap_or(0);
    match u32::try_from(index) {
        Ok(i) if c.vm.cpus().iter().any(|cpu| cpu.index == i) => Ok(i),
        _ => {
            let most = c.vm.cpus().last().map_or(0, |cpu| cpu.index + 1);
            Err(QmpError::Generic(format!("'cpu-index' expects a vCPU below {most}, got {index}")))
        }
    }
}

fn describe_cpu(cpu: &CpuInfo, arch: &str) -> Value {
    json!({
        "cpu-index": cpu.index, "qom-path": cpu.qom_path, "thread-id": cpu.thread_id, "target": arch,
        "props": describe_place(&cpu.place),
    })
}

fn describe_place(p: &CpuPlace) -> Value {
    let mut v = json!({"socket-id": p.socket, "core-id": p.core, "thread-id": p.thread});
    for (name, number) in [("die-id", p.die), ("module-id", p.module)] {
        if let Some(number) = number {
            v[name] = json!(number);
        }
    }
    v
}

fn query_fdsets(c: &Control, _: &Arguments) -> Answer {
    let all = c.vm.info().fd_sets;
    let numbers: BTreeSet<u32> = all.iter().map(|f| f.set).collect();
    let member = |f: &FdInSet| match &f.opaque {
        Some(opaque) => json!({"fd": f.fd, "opaque": opaque}),
        None => json!({"fd": f.fd}),
    };
    let set = |number: u32| {
        let fds: Vec<Value> = all.iter().filter(|f| f.set == number).map(member).collect();
        json!({"fdset-id": number, "fds": fds})
    };
    Ok(numbers.into_iter().map(set).collect())
}

fn query_machines(c: &Control, _: &Arguments) -> Answer {
    let one = |m: crate::vm::MachineInfo| {
        let mut v = json!({
            "name": m.name, "cpu-max": m.cpu_max, "hotpluggable-cpus": m.cpu_hotplug, "numa-mem-supported": false,
            "deprecated": false, "acpi": false, "default-ram-id": "ram",
        });
        if m.is_default {
            v["is-default"] = true.into();
        }
        for (key, value) in [("alias", m.alias), ("default-cpu-type", m.default_cpu)] {
            if let Some(value) = value {
                v[key] = value.into();
            }
        }
        v
    };
    Ok(c.vm.machines().into_iter().map(one).collect())
}

fn qom_list_types(c: &Control, a: &Arguments) -> Answer {
    let types = c.vm.qom_types();
    let implements = a.get("implements").and_then(Value::as_str);
    let with_abstract = a.get("abstract").and_then(Value::as_bool).unwrap_or(false);
    let descends = |name: &str, wanted: &str| {
        let mut name = Some(name);
        // As many steps as there are types: a loop in the parents must not hang a monitor.
        for _ in 0..=types.len() {
            match name {
                Some(n) if n == wanted => return true,
                Some(n) => name = types.iter().find(|t| t.name == n).and_then(|t| t.parent.as_deref()),
                None => return false,
            }
        }
        false
    };
    let fits = |t: &&crate::vm::QomType| {
        (with_abstract || !t.is_abstract) && implements.is_none_or(|wanted| descends(&t.name, wanted))
    };
    Ok(types
        .iter()
        .filter(fits)
        .map(|t| match &t.parent {
            Some(parent) => json!({"name": t.name, "parent": parent}),
            None => json!({"name": t.name}),
        })
        .collect())
}

fn device_add(c: &Control, a: &Arguments) -> Answer {
    let own = ["driver", "id", "bus"];
    let optional = |name: &str| a.get(name).and_then(Value::as_str).map(str::to_owned);
    let device = DeviceConfig {
        driver: text(a, "driver").to_owned(),
        id: optional("id"),
        bus: optional("bus"),
        props: a
            .iter()
            .filter(|(k, _)| !own.contains(&k.as_str()))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect::<Props>(),
    };
    done(c.vm.device_add(&device)?)
}

fn job(
    c: &Control,
    a: &Arguments,
    kind: &'static str,
    work: impl FnOnce() -> Result<(), crate::vm::VmError>,
) -> Answer {
    let work = || work().map_err(|e| e.to_string());
    done(c.jobs.run(c.vm.events(), text(a, "job-id"), kind, work).map_err(QmpError::Generic)?)
}

/// Which disks a snapshot is of.
fn snapshot_scope(a: &Arguments) -> Result<SnapshotScope, QmpError> {
    let word = |v: &Value| v.as_str().map(str::to_owned);
    let names = |list: &Vec<Value>| list.iter().map(word).collect::<Option<Vec<_>>>();
    let devices = match a.get("devices").and_then(Value::as_array) {
        None => None,
        Some(list) => Some(names(list).ok_or_else(|| {
            QmpError::Generic("argument 'devices' expects a list of names of nodes".into())
        })?),
    };
    Ok(SnapshotScope { devices, vmstate: a.get("vmstate").and_then(word) })
}

/// `memsave` and `pmemsave`: guest memory into a file, piece by piece.
fn save_memory(c: &Control, space: MemorySpace, a: &Arguments) -> Answer {
    let number = |name: &str| a.get(name).and_then(Value::as_u64).unwrap_or(0);
    let path = text(a, "filename");
    let failed = |e: std::io::Error| QmpError::Generic(format!("cannot write '{path}': {e}"));
    let (mut address, mut left) = (number("val"), number("size"));
    let mut buffer = vec![0; 64 << 10];
    let mut file = None;
    loop {
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        c.vm.read_memory(space, address, &mut buffer[..n])?;
        // The file is made once the first piece could be read: a wrong address leaves nothing behind.
        let file = match &mut file {
            Some(f) => f,
            None => file.insert(File::create(path).map_err(failed)?),
        };
        file.write_all(&buffer[..n]).map_err(failed)?;
        left -= n as u64;
        if left == 0 {
            return done(());
        }
        address = address.wrapping_add(n as u64);
    }
}

fn bad_format(format: &str) -> QmpError {
    QmpError::Generic(format!("'format' expects utf8 or base64, got '{format}'"))
}

fn ringbuf_read(c: &Control, a: &Arguments) -> Answer {
    let size = a.get("size").and_then(Value::as_u64).unwrap_or(0);
    let format = a.get("format").and_then(Value::as_str).unwrap_or("utf8");
    if !["utf8", "base64"].contains(&format) {
        return Err(bad_format(format));
    }
    let data = c.vm.ringbuf_read(text(a, "device"), usize::try_from(size).unwrap_or(usize::MAX))?;
    Ok(if format == "utf8" { String::from_utf8_lossy(&data).into() } else { base64::encode(&data).into() })
}
