//! `info`: what an image says of itself.

use std::fmt::Write;
use std::sync::Arc;

use block::BlockNode;
use block_formats::{Image, chain, resolve};
use serde_json::{Map, Value, json};

use crate::Outcome;
use crate::args::{Args, Opt, o};
use crate::open::{self, FORMAT, IMAGE_OPTS, OBJECT, OUTPUT, SHARE};
use crate::snapshot;
use crate::text::{self, say};

const OPTIONS: &[Opt] =
    &[FORMAT, IMAGE_OPTS, SHARE, OUTPUT, OBJECT, o('b', "backing-chain", "", "Show the backing files too")];

/// Runs the command.
pub(crate) fn run(args: &[String]) -> Outcome {
    let args = Args::parse(args, OPTIONS, "FILE")?;
    let json = args.json()?;
    let mut options = open::options(&args, true)?;
    options.repairing = true;
    // A backing file that is missing is no reason to say nothing.
    options.no_io = true;
    options.no_backing = !args.has("backing-chain");
    let image = open::image(&args, args.one("FILE")?, &options)?;
    let images = if args.has("backing-chain") { chain::images(&image) } else { vec![image] };
    if json {
        let mut all = Vec::new();
        for image in &images {
            all.push(as_json(image)?);
        }
        let value = if args.has("backing-chain") { Value::Array(all) } else { all.remove(0) };
        say(&text::json(&value));
    } else {
        let texts: Vec<String> = images.iter().map(as_text).collect::<Result<_, _>>()?;
        say(&texts.join("\n"));
    }
    Ok(0)
}

/// Length of a file in whole sectors, as QEMU counts it.
fn length(node: &dyn BlockNode) -> u64 {
    node.size().next_multiple_of(512)
}

/// The protocol that a node is, and its name.
fn protocol(node: &dyn BlockNode) -> (String, String) {
    let name = node.info().name;
    match name.split_once(':') {
        Some(("file", path)) => ("file".into(), path.into()),
        Some((scheme, _)) => (scheme.split('+').next().unwrap_or_default().into(), name),
        None => ("file".into(), name),
    }
}

fn as_json(image: &Arc<dyn Image>) -> Result<Value, crate::ToolError> {
    let d = image.details();
    let mut out = Map::new();
    let child = |(role, node): (String, Arc<dyn BlockNode>)| {
        let (protocol, name) = protocol(&*node);
        let mut info = json!({
            "children": [], "virtual-size": length(&*node), "filename": name, "format": protocol,
            "dirty-flag": false,
        });
        if protocol == "file" {
            info["format-specific"] = json!({ "type": "file", "data": {} });
        }
        if let (Some(size), Value::Object(map)) = (node.allocated_size(), &mut info) {
            map.insert("actual-size".into(), json!(size));
        }
        json!({ "name": role, "info": info })
    };
    out.insert("children".into(), Value::Array(image.files().into_iter().map(child).collect()));
    out.insert("virtual-size".into(), json!(image.size()));
    out.insert("filename".into(), json!(image.filename()));
    out.insert("format".into(), json!(image.format()));
    out.insert("dirty-flag".into(), json!(d.dirty));
    if let Some(size) = image.allocated_size() {
        out.insert("actual-size".into(), json!(size));
    }
    if let Some(size) = d.cluster_size {
        out.insert("cluster-size".into(), json!(size));
    }
    if d.compressed {
        out.insert("compressed".into(), json!(true));
    }
    if d.encrypted {
        out.insert("encrypted".into(), json!(true));
    }
    if let Some(b) = image.backing_name() {
        out.insert("backing-filename".into(), json!(b.file));
        out.insert("full-backing-filename".into(), json!(resolve(image.filename(), &b.file)));
        if let Some(f) = b.format {
            out.insert("backing-filename-format".into(), json!(f));
        }
    }
    let snapshots = image.snapshots();
    if !snapshots.is_empty() {
        out.insert("snapshots".into(), Value::Array(snapshots.iter().map(snapshot::as_json).collect()));
    }
    if !d.specific.is_empty() {
        let data: Map<String, Value> = d.specific.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        out.insert("format-specific".into(), json!({ "type": image.format(), "data": data }));
    }
    Ok(Value::Object(out))
}

fn as_text(image: &Arc<dyn Image>) -> Result<String, crate::ToolError> {
    let d = image.details();
    let size = image.size();
    let mut out = String::new();
    let on_disk = |node: &dyn BlockNode| node.allocated_size().map_or("unavailable".into(), text::size);
    let _ = writeln!(out, "image: {}\nfile format: {}", image.filename(), image.format());
    let _ = writeln!(out, "virtual size: {} ({size} bytes)", text::size(size));
    let _ = writeln!(out, "disk size: {}", on_disk(&**image));
    if d.encrypted {
        out += "encrypted: yes\n";
    }
    if let Some(size) = d.cluster_size {
        let _ = writeln!(out, "cluster_size: {size}");
    }
    if d.compressed {
        out += "compressed: yes\n";
    }
    if d.dirty {
        out += "cleanly shut down: no\n";
    }
    if let Some(b) = image.backing_name() {
        let full = resolve(image.filename(), &b.file);
        let actual = if full == b.file { String::new() } else { format!(" (actual path: {full})") };
        let _ = writeln!(out, "backing file: {}{actual}", b.file);
        if let Some(f) = b.format {
            let _ = writeln!(out, "backing file format: {f}");
        }
    }
    let snapshots = image.snapshots();
    if !snapshots.is_empty() {
        out += &format!("Snapshot list:\n{}", snapshot::snapshot_table(&snapshots));
    }
    if !d.specific.is_empty() {
        out += "Format specific information:\n";
        for (name, value) in &d.specific {
            shown(&mut out, &name.replace('-', " "), value, 4);
        }
    }
    for (role, node) in image.files() {
        let (protocol, name) = protocol(&*node);
        let _ = writeln!(out, "Child node '/{role}':\n    filename: {name}\n    protocol type: {protocol}");
        let _ = writeln!(out, "    file length: {} ({} bytes)", text::size(length(&*node)), length(&*node));
        let _ = writeln!(out, "    disk size: {}", on_disk(&*node));
    }
    Ok(out)
}

/// A value with what is in it, indented.
pub(crate) fn shown(out: &mut String, name: &str, value: &Value, indent: usize) {
    match value {
        Value::Array(list) => {
            let _ = writeln!(out, "{:indent$}{name}:", "");
            for (i, v) in list.iter().enumerate() {
                shown(out, &format!("[{i}]"), v, indent + 4);
            }
        }
        Value::Object(map) => {
            let _ = writeln!(out, "{:indent$}{name}:", "");
            for (k, v) in map {
                shown(out, &k.replace('-', " "), v, indent + 4);
            }
        }
        Value::String(text) => {
            let _ = writeln!(out, "{:indent$}{name}: {text}", "");
        }
        other => {
            let _ = writeln!(out, "{:indent$}{name}: {other}", "");
        }
    }
}
