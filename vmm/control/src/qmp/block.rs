//! Disks: what `query-block` and its relatives say, and nodes that come and go.

use super::QmpError;
use super::commands::{Answer, Arguments, done, text};
use crate::monitor::Control;
use crate::options::fragment;
use crate::vm::{BlockInfo, BlockStats, DirtyBitmapInfo, MediumInfo, SnapshotInfo};
use serde_json::{Map, Value, json};

/// A medium with all that clients take for granted.
fn medium(m: &MediumInfo) -> Value {
    let mut v = json!({
        "file": m.file, "drv": m.format, "ro": m.readonly, "encrypted": m.encrypted, "backing_file_depth": 0,
        "detect_zeroes": if m.detect_zeroes.is_empty() { "off" } else { &m.detect_zeroes }, "write_threshold": 0, "active": true,
        "bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0,
        "cache": {"writeback": true, "direct": m.direct, "no-flush": m.no_flush},
        "image": {"filename": m.file, "format": m.format, "virtual-size": m.virtual_size},
    });
    if let Some(node) = &m.node_name {
        v["node-name"] = node.clone().into();
    }
    if !m.snapshots.is_empty() {
        v["image"]["snapshots"] = m.snapshots.iter().map(SnapshotInfo::to_json).collect();
    }
    if !m.dirty_bitmaps.is_empty() {
        v["dirty-bitmaps"] = m.dirty_bitmaps.iter().map(bitmap).collect();
    }
    v
}

fn device(b: &BlockInfo) -> Value {
    let mut v = json!({
        "device": b.device, "type": "unknown", "removable": b.removable, "locked": b.locked,
    });
    if let Some(qdev) = &b.qdev {
        v["qdev"] = qdev.clone().into();
    }
    if let Some(open) = b.tray_open {
        v["tray_open"] = open.into();
    }
    if let Some(m) = &b.inserted {
        v["io-status"] = if b.io_status.is_empty() { "ok" } else { &b.io_status }.into();
        v["inserted"] = medium(m);
    }
    v
}

fn stats(s: &BlockStats) -> Value {
    let mut v = json!({
        "node-name": s.node_name,
        "stats": {
            "rd_operations": s.reads.0, "rd_bytes": s.reads.1, "wr_operations": s.writes.0, "wr_bytes": s.writes.1,
            "unmap_operations": 0, "unmap_bytes": 0, "zone_append_operations": 0, "zone_append_bytes": 0,
            "flush_operations": s.flushes, "rd_total_time_ns": 0, "wr_total_time_ns": 0, "unmap_total_time_ns": 0,
            "zone_append_total_time_ns": 0, "flush_total_time_ns": 0, "wr_highest_offset": 0, "rd_merged": 0,
            "wr_merged": 0, "unmap_merged": 0, "zone_append_merged": 0, "failed_rd_operations": s.errors,
            "failed_wr_operations": 0, "failed_unmap_operations": 0, "failed_zone_append_operations": 0,
            "failed_flush_operations": 0, "invalid_rd_operations": 0, "invalid_wr_operations": 0,
            "invalid_unmap_operations": 0, "invalid_zone_append_operations": 0, "invalid_flush_operations": 0,
            "account_invalid": true, "account_failed": true, "timed_stats": [],
        },
    });
    if !s.device.is_empty() {
        v["device"] = s.device.clone().into();
    }
    if let Some(qdev) = &s.qdev {
        v["qdev"] = qdev.clone().into();
    }
    v
}

pub(super) fn query_block(c: &Control, _: &Arguments) -> Answer {
    Ok(c.vm.block_devices().iter().map(device).collect())
}

pub(super) fn query_stats(c: &Control, _: &Arguments) -> Answer {
    Ok(c.vm.block_stats().iter().map(stats).collect())
}

fn bitmap(b: &DirtyBitmapInfo) -> Value {
    json!({
        "name": b.name, "count": b.count, "granularity": b.granularity, "recording": b.recording, "busy": b.busy,
        "persistent": b.persistent,
    })
}

pub(super) fn query_nodes(c: &Control, _: &Arguments) -> Answer {
    Ok(c.vm.block_nodes().iter().map(medium).collect())
}

pub(super) fn query_iothreads(c: &Control, _: &Arguments) -> Answer {
    let one = |t: crate::vm::IothreadInfo| {
        json!({
            "id": t.id, "thread-id": t.thread_id, "poll-max-ns": 0, "poll-grow": 0, "poll-shrink": 0,
            "aio-max-batch": 0,
        })
    };
    Ok(c.vm.iothreads().into_iter().map(one).collect())
}

pub(super) fn add(c: &Control, a: &Arguments) -> Answer {
    let items: Map<String, Value> = a.clone();
    let config = fragment("blockdev", items).map_err(|e| QmpError::Generic(e.to_string()))?;
    config.blockdevs.iter().try_for_each(|node| c.vm.blockdev_add(node))?;
    done(())
}

pub(super) fn del(c: &Control, a: &Arguments) -> Answer {
    done(c.vm.blockdev_del(text(a, "node-name"))?)
}
