//! QMP's commands about disks that change the graph, as the control plane hands them on.

use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use block::BlockNode;
use block_graph::drained;
use serde_json::{Map, Value, json};

use crate::blockjobs::{self, Arguments, needed, number, text};
use crate::media;
use crate::savevm;
use crate::transaction;
use crate::vm::RheaVm;

/// Does one command.
pub(crate) fn run(vm: &Arc<RheaVm>, name: &str, a: &Arguments) -> Result<Value> {
    match name {
        "blockdev-mirror" => blockjobs::mirror(vm, a, false)?,
        "drive-mirror" => blockjobs::mirror(vm, a, true)?,
        "blockdev-backup" => blockjobs::backup(vm, a, false)?,
        "drive-backup" => blockjobs::backup(vm, a, true)?,
        "block-stream" => blockjobs::stream(vm, a)?,
        "block-commit" => blockjobs::commit(vm, a)?,
        "blockdev-create" => blockjobs::create(vm, a)?,
        "x-blockdev-amend" => blockjobs::amend(vm, a)?,
        "change-backing-file" => blockjobs::change_backing(vm, a)?,
        "transaction" => transaction::transaction(vm, a)?,
        "block_resize" => resize(vm, a)?,
        _ if media::NAMES.contains(&name) => return media::run(vm, name, a),
        "blockdev-reopen" => reopen(vm, a)?,
        "nbd-server-start" => vm.backends.lock().exports.start(a)?,
        "nbd-server-stop" => {
            let mut b = vm.backends.lock();
            let b = &mut *b;
            for id in b.exports.stop(&mut b.graph)? {
                deleted(vm, &id);
            }
        }
        "nbd-server-add" => {
            // The older form of block-export-add, where the name is the export's id as well.
            let mut a = a.clone();
            let device = needed(&a, "device")?.to_owned();
            a.remove("device");
            let id = text(&a, "name").unwrap_or(&device).to_owned();
            a.insert("id".into(), id.into());
            a.insert("type".into(), "nbd".into());
            a.insert("node-name".into(), device.clone().into());
            a.entry("name").or_insert(device.into());
            if let Some(bitmap) = a.remove("bitmap") {
                a.insert("bitmaps".into(), json!([bitmap]));
            }
            export(vm, &a)?;
        }
        "nbd-server-remove" => unexport(vm, needed(a, "name")?, text(a, "mode"))?,
        "block-export-add" => export(vm, a)?,
        "block-export-del" => unexport(vm, needed(a, "id")?, text(a, "mode"))?,
        "query-block-exports" => return Ok(vm.backends.lock().exports.query()),
        "blockdev-snapshot-delete-internal-sync" => return savevm::delete_internal(vm, a),
        _ if name.starts_with("block-dirty-bitmap-") || name.starts_with("blockdev-snapshot") => {
            transaction::alone(vm, name, a)?;
        }
        _ => return blockjobs::job_command(vm, name, a),
    }
    Ok(json!({}))
}

fn deleted(vm: &RheaVm, id: &str) {
    let event = control::vm::Event::new("BLOCK_EXPORT_DELETED", json!({ "id": id }));
    control::vm::Vm::events(vm).emit(&event);
}

fn export(vm: &RheaVm, a: &Arguments) -> Result<()> {
    let mut b = vm.backends.lock();
    let node = b.node_of(needed(a, "node-name")?)?;
    needed(a, "id")?;
    let b = &mut *b;
    b.exports.add(&mut b.graph, &node, a)
}

fn unexport(vm: &RheaVm, id: &str, mode: Option<&str>) -> Result<()> {
    let hard = match mode {
        None | Some("safe") => false,
        Some("hard") => true,
        Some(other) => bail!("argument 'mode': '{other}', expected safe or hard"),
    };
    {
        let mut b = vm.backends.lock();
        let b = &mut *b;
        b.exports.remove(&mut b.graph, id, hard)?;
    }
    deleted(vm, id);
    Ok(())
}

fn resize(vm: &RheaVm, a: &Arguments) -> Result<()> {
    let b = vm.backends.lock();
    let name = text(a, "device")
        .or(text(a, "node-name"))
        .ok_or_else(|| anyhow!("argument 'node-name' is missing"))?;
    let node = b.node_of(name)?;
    let size = number(a, "size").ok_or_else(|| anyhow!("argument 'size' is missing"))?;
    if node.info().read_only {
        bail!("node '{}' is read-only", node.name());
    }
    if let Some(busy) = node.dirty_bitmaps().iter().find(|b| b.busy()) {
        bail!("Bitmap '{}' is currently in use by another operation and cannot be used", busy.name());
    }
    let size = size.next_multiple_of(block::SECTOR);
    b.resizing(|| {
        drained(std::slice::from_ref(&node), || {
            node.resize(size)?;
            node.dirty_bitmaps().iter().for_each(|b| b.resize(size));
            Ok::<(), block::BlockError>(())
        })
    })?;
    media::resized(&vm.machine);
    Ok(())
}

fn reopen(vm: &RheaVm, a: &Arguments) -> Result<()> {
    let Some(Value::Array(list)) = a.get("options") else { bail!("argument 'options' expects a list") };
    let mut b = vm.backends.lock();
    for item in list {
        let Value::Object(item) = item else { bail!("argument 'options' expects a list of objects") };
        let name = needed(item, "node-name")?;
        let changes: Map<String, Value> =
            item.iter().filter(|(k, _)| *k != "node-name").map(|(k, v)| (k.clone(), v.clone())).collect();
        b.graph.reopen(name, &changes)?;
    }
    Ok(())
}
