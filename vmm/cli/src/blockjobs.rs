//! Block jobs of a running machine: QMP's commands into the work of `block_jobs`, and the graph led to what they have made.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use block::BlockNode;
use block_formats::{BackingName, Image};
use block_graph::{DirtyBitmap, Edge, Node, drained, lead};
use block_jobs::{Backup, BitmapMode, Commit, End, JobOptions, Mirror, OnError, Stop, Stream, Sync};
use serde_json::{Map, Value, json};

use crate::backends::Backends;
use crate::nodes::Place;
use crate::vm::RheaVm;

pub(crate) type Arguments = Map<String, Value>;

pub(crate) fn text<'a>(a: &'a Arguments, key: &str) -> Option<&'a str> {
    a.get(key).and_then(Value::as_str)
}

pub(crate) fn needed<'a>(a: &'a Arguments, key: &str) -> Result<&'a str> {
    text(a, key).ok_or_else(|| anyhow!("argument '{key}' is missing"))
}

pub(crate) fn flag(a: &Arguments, key: &str) -> Option<bool> {
    a.get(key).and_then(Value::as_bool)
}

pub(crate) fn number(a: &Arguments, key: &str) -> Option<u64> {
    a.get(key).and_then(Value::as_u64)
}

/// One of several words.
pub(crate) fn choice<T: Copy>(a: &Arguments, key: &str, words: &[(&str, T)]) -> Result<Option<T>> {
    let Some(word) = text(a, key) else { return Ok(None) };
    match words.iter().find(|(w, _)| *w == word) {
        Some((_, value)) => Ok(Some(*value)),
        None => {
            let words: Vec<&str> = words.iter().map(|(w, _)| *w).collect();
            bail!("argument '{key}': '{word}', expected one of {}", words.join(", "))
        }
    }
}

fn job_options(a: &Arguments, kind: &'static str, device: &str) -> Result<JobOptions> {
    let on = |key: &str| choice(a, key, &OnError::NAMES);
    let both = on("on-error")?.unwrap_or_default();
    let mut o = JobOptions::new(text(a, "job-id").unwrap_or(device), kind, Some(device.to_owned()));
    if o.id.is_empty() {
        bail!("An explicit job ID is required for this node");
    }
    o.speed = number(a, "speed").unwrap_or(0);
    o.auto_finalize = flag(a, "auto-finalize").unwrap_or(true);
    o.auto_dismiss = flag(a, "auto-dismiss").unwrap_or(true);
    o.on_source_error = on("on-source-error")?.unwrap_or(both);
    o.on_target_error = on("on-target-error")?.unwrap_or(both);
    Ok(o)
}

/// A target that a job writes, with what keeps others from it.
struct Target {
    node: Arc<Node>,
    edge: Arc<Edge>,
    /// The job has made its node.
    ours: bool,
    /// It is new and has nothing below.
    zero: bool,
}

/// What a command names as its target: a node, or a file that is made for it.
fn target(b: &mut Backends, a: &Arguments, source: &Arc<Node>, sync: Sync, by_file: bool) -> Result<Target> {
    let name = needed(a, "target")?;
    let user = format!("the job of '{}'", text(a, "device").unwrap_or_default());
    if !by_file {
        let node = b.graph.find(name)?;
        if Arc::ptr_eq(&node, source) {
            bail!("Source and target cannot be the same");
        }
        let edge = b.graph.edge(name, &user, true)?;
        if node.info().read_only {
            bail!("node '{name}' is read-only");
        }
        let zero = flag(a, "target-is-zero").unwrap_or(false);
        return same_size(source, Target { node, edge, ours: false, zero });
    }
    let existing = matches!(choice(a, "mode", &[("absolute-paths", false), ("existing", true)])?, Some(true));
    let format = text(a, "format").map_or_else(|| source.format().to_owned(), str::to_owned);
    let format = if block_formats::find(&format).is_ok() { format } else { "raw".to_owned() };
    let below = source.image().backing().filter(|_| sync == Sync::Top);
    if !existing {
        let mut options = block_formats::Options::default();
        if let Some(below) = &below {
            let name = b.graph.backing_name(&**below);
            options.set("backing_file", name.file);
            options.set("backing_fmt", name.format.unwrap_or_default());
        } else if sync == Sync::None && block_formats::find(&format)?.can_back() {
            // What is not moved is read from the disk in use.
        }
        block_formats::create(&format, Path::new(name), None, Some(source.size()), &options)
            .with_context(|| format!("target '{name}'"))?;
    }
    let backing = if existing || below.is_some() { None } else { Some(Value::Null) };
    let node = b.graph.open_image(name, &format, text(a, "node-name"), false, backing)?;
    let edge = b.graph.edge(node.name(), &user, true)?;
    same_size(source, Target { node, edge, ours: true, zero: !existing && below.is_none() })
}

fn same_size(source: &Node, t: Target) -> Result<Target> {
    if t.node.size() != source.size() {
        bail!(
            "target '{}' has {} bytes, expected the source's {}",
            t.node.filename(),
            t.node.size(),
            source.size()
        );
    }
    Ok(t)
}

/// What a job does with its target in the end.
fn give_up(vm: &RheaVm, target: &Arc<Node>, edge: Arc<Edge>, ours: bool) {
    drop(edge);
    let mut b = vm.backends.lock();
    if ours {
        b.graph.let_go(target.name());
    }
    b.graph.collect();
}

/// `blockdev-mirror` and `drive-mirror`.
pub(crate) fn mirror(vm: &Arc<RheaVm>, a: &Arguments, by_file: bool) -> Result<()> {
    let mut b = vm.backends.lock();
    let device = needed(a, "device")?;
    let source = b.node_of(device)?;
    let sync = choice(a, "sync", &Sync::NAMES)?.ok_or_else(|| anyhow!("argument 'sync' is missing"))?;
    for key in ["replaces"] {
        if a.contains_key(key) {
            bail!("argument '{key}' is not supported");
        }
    }
    let granularity = number(a, "granularity").filter(|g| *g != 0).unwrap_or(64 << 10);
    if !granularity.is_power_of_two() || !(512..=64 << 20).contains(&granularity) {
        bail!("argument 'granularity': {granularity}, expected a power of two from 512 to 64M");
    }
    let write_blocking =
        choice(a, "copy-mode", &[("background", false), ("write-blocking", true)])?.unwrap_or(false);
    let only = match (text(a, "bitmap"), sync) {
        (Some(name), Sync::Incremental) => {
            let bitmap =
                source.dirty_bitmap(name).ok_or_else(|| anyhow!("Bitmap '{name}' could not be found"))?;
            Some(bitmap.ranges(0..bitmap.size()))
        }
        (None, Sync::Incremental) => bail!("sync=incremental needs 'bitmap'"),
        (Some(_), _) => bail!("argument 'bitmap' goes with sync=incremental only"),
        (None, _) => None,
    };
    let options = job_options(a, "mirror", device)?;
    let t = target(&mut b, a, &source, sync, by_file)?;
    let work = Mirror {
        source: source.clone(),
        target: t.node.clone(),
        sync,
        granularity,
        write_blocking,
        target_is_zero: t.zero,
        depth: 1,
        only,
    };
    drop(b);
    follow(vm, options, work, t, None)
}

/// Runs a mirror that takes over when it is told to complete. `base` is reopened for reading only if it does not.
fn follow(
    vm: &Arc<RheaVm>,
    options: JobOptions,
    work: Mirror,
    t: Target,
    base: Option<String>,
) -> Result<()> {
    let (source, target) = (work.source.clone(), work.target.clone());
    let (in_work, in_end) = (vm.clone(), vm.clone());
    let run = move |job: &Arc<block_jobs::Job>| {
        work.run(job, |end, last| match end {
            End::Leave => drained(std::slice::from_ref(&source), last),
            End::Pivot => {
                let mut b = in_work.backends.lock();
                lead(
                    std::slice::from_ref(&source),
                    |_| false,
                    || {
                        last()?;
                        Ok::<_, block::BlockError>(vec![(source.clone(), target.clone())])
                    },
                )?;
                b.graph.inherit(&source, &target);
                Ok(())
            }
        })
    };
    let Target { node, edge, ours, .. } = t;
    let jobs = vm.block_jobs.clone();
    jobs.start(options, run, move |_| {
        let used = node.edges().len() > 1;
        give_up(&in_end, &node, edge, ours);
        if let Some(base) = base.filter(|_| !used) {
            read_only(&in_end, &base);
        }
        Ok(())
    })?;
    Ok(())
}

/// Opens a node for reading only again.
pub(crate) fn read_only(vm: &RheaVm, name: &str) {
    let changes = Map::from_iter([("read-only".to_owned(), Value::Bool(true))]);
    if let Err(e) = vm.backends.lock().graph.reopen(name, &changes) {
        tracing::warn!("{e:#}");
    }
}

/// Opens a node for writing; whether it was not before.
pub(crate) fn writable(b: &mut Backends, name: &str) -> Result<bool> {
    if !b.graph.find(name)?.info().read_only {
        return Ok(false);
    }
    let changes = Map::from_iter([("read-only".to_owned(), Value::Bool(false))]);
    b.graph.reopen(name, &changes)?;
    Ok(true)
}

/// A backup whose target is ready.
pub(crate) struct Prepared {
    pub(crate) backup: Backup,
    pub(crate) source: Arc<Node>,
    options: JobOptions,
    node: Arc<Node>,
    edge: Arc<Edge>,
    ours: bool,
}

/// Prepares `blockdev-backup` and `drive-backup`.
pub(crate) fn prepare_backup(b: &mut Backends, a: &Arguments, by_file: bool) -> Result<Prepared> {
    let device = needed(a, "device")?;
    let source = b.node_of(device)?;
    let sync = choice(a, "sync", &Sync::NAMES)?.ok_or_else(|| anyhow!("argument 'sync' is missing"))?;
    let mode = choice(a, "bitmap-mode", &BitmapMode::NAMES)?.unwrap_or_default();
    let bitmap = match (text(a, "bitmap"), sync) {
        (Some(name), Sync::Incremental) => {
            Some(source.dirty_bitmap(name).ok_or_else(|| anyhow!("Bitmap '{name}' could not be found"))?)
        }
        (None, Sync::Incremental) => bail!("sync={} needs 'bitmap'", text(a, "sync").unwrap_or_default()),
        (Some(_), _) => bail!("argument 'bitmap' goes with sync=incremental and sync=bitmap only"),
        (None, _) => None,
    };
    let break_snapshot =
        choice(a, "on-cbw-error", &[("break-guest-write", false), ("break-snapshot", true)])?
            .unwrap_or(false);
    let options = job_options(a, "backup", device)?;
    let compress = flag(a, "compress").unwrap_or(false);
    let t = target(b, a, &source, sync, by_file)?;
    if compress && !block_formats::find(t.node.format()).is_ok_and(|f| f.compresses) {
        bail!("format {} of the target cannot store compressed data", t.node.format());
    }
    if let Some(bitmap) = &bitmap
        && !bitmap.take()
    {
        bail!("Bitmap '{}' is currently in use by another operation and cannot be used", bitmap.name());
    }
    let how = bitmap.map(|b| (b, mode));
    let backup = Backup::new(source.clone(), t.node.clone(), sync, compress, break_snapshot, how)?;
    Ok(Prepared { backup, source, options, node: t.node, edge: t.edge, ours: t.ours })
}

/// Starts a backup that has begun.
pub(crate) fn start_backup(vm: &Arc<RheaVm>, p: Prepared) -> Result<()> {
    let Prepared { mut backup, options, node, edge, ours, .. } = p;
    let in_end = vm.clone();
    let work = move |job: &Arc<block_jobs::Job>| backup.run(job);
    vm.block_jobs.start(options, work, move |_| {
        give_up(&in_end, &node, edge, ours);
        Ok(())
    })?;
    Ok(())
}

/// `blockdev-backup` and `drive-backup`.
pub(crate) fn backup(vm: &Arc<RheaVm>, a: &Arguments, by_file: bool) -> Result<()> {
    let mut p = prepare_backup(&mut vm.backends.lock(), a, by_file)?;
    let begun = drained(std::slice::from_ref(&p.source.clone()), || p.backup.begin());
    if let Err(e) = begun {
        p.backup.abort();
        return Err(e.into());
    }
    start_backup(vm, p)
}

/// An image of a chain by the names that a command gives, or the other one.
fn place(b: &Backends, top: &Arc<Node>, a: &Arguments, key: &str) -> Result<Option<Place>> {
    let (node_key, file) = (format!("{key}-node"), text(a, key));
    let node = text(a, &node_key);
    if node.is_some() && file.is_some() {
        bail!("'{node_key}' and '{key}' cannot be specified at the same time");
    }
    let Some(name) = node.or(file) else { return Ok(None) };
    match b.graph.in_chain(top, node, file) {
        Some(p) => Ok(Some(p)),
        None => bail!("'{name}' is not in the backing chain of '{}'", top.name()),
    }
}

/// The last image of a chain.
fn bottom(top: &Arc<Node>) -> Place {
    let mut place = Place { depth: 0, image: top.clone() };
    while let Some(below) = place.image.backing() {
        place = Place { depth: place.depth + 1, image: below };
    }
    place
}

pub(crate) fn node_at(b: &Backends, image: &dyn Image) -> Result<Arc<Node>> {
    let name = image.node_name();
    let name = name.ok_or_else(|| anyhow!("{}: this image of the chain has no node", image.filename()))?;
    b.graph.find(&name)
}

/// `block-stream`.
pub(crate) fn stream(vm: &Arc<RheaVm>, a: &Arguments) -> Result<()> {
    let b = vm.backends.lock();
    let device = needed(a, "device")?;
    let top = b.node_of(device)?;
    if a.contains_key("bottom") {
        bail!("argument 'bottom' is not supported");
    }
    let base = place(&b, &top, a, "base")?;
    if base.as_ref().is_some_and(|p| p.depth == 0) {
        bail!("Can't stream '{device}' onto itself");
    }
    if top.image().backing().is_none() && base.is_none() {
        tracing::debug!("{device}: nothing below it to stream");
    }
    let depth = base.as_ref().map_or_else(|| bottom(&top).depth + 1, |p| p.depth);
    let below = match &base {
        Some(p) => {
            let mut name = b.graph.backing_name(&*p.image);
            if let Some(file) = text(a, "backing-file") {
                name = BackingName { file: file.to_owned(), format: name.format };
            }
            Some((node_at(&b, &*p.image)?, name))
        }
        None if text(a, "backing-file").is_some() => {
            bail!("backing file specified, but streaming the entire chain")
        }
        None => None,
    };
    let options = job_options(a, "stream", device)?;
    drop(b);
    let (in_end, to) = (vm.clone(), top.clone());
    let work = Stream { top, depth };
    let run = move |job: &Arc<block_jobs::Job>| work.run(job);
    vm.block_jobs.start(options, run, move |good| {
        if !good || to.image().backing().is_none() {
            return Ok(());
        }
        let mut b = in_end.backends.lock();
        let (node, name) = below.as_ref().map_or((None, None), |(n, name)| (Some(n), Some(name)));
        b.graph.set_backing(&**to.image(), node, name).map_err(as_block)
    })?;
    Ok(())
}

fn as_block(e: anyhow::Error) -> block::BlockError {
    block::BlockError::Io(std::io::Error::other(format!("{e:#}")))
}

/// `block-commit`.
pub(crate) fn commit(vm: &Arc<RheaVm>, a: &Arguments) -> Result<()> {
    let mut b = vm.backends.lock();
    let device = needed(a, "device")?;
    let active = b.node_of(device)?;
    let top = place(&b, &active, a, "top")?.unwrap_or(Place { depth: 0, image: active.clone() });
    let base = place(&b, &active, a, "base")?.unwrap_or_else(|| bottom(&active));
    if base.depth <= top.depth {
        bail!("'{}' is not below '{}' in the chain", base.image.filename(), top.image.filename());
    }
    let name = node_at(&b, &*base.image)?.name().to_owned();
    let options = job_options(a, "commit", device)?;
    let depth = base.depth - top.depth;
    let opened = writable(&mut b, &name)?;
    let base_node = b.graph.find(&name)?;
    if top.depth == 0 {
        if base_node.size() < active.size() {
            base_node.resize(active.size())?;
        }
        let edge = b.graph.edge(&name, &format!("the job of '{device}'"), true)?;
        let work = Mirror {
            source: active.clone(),
            target: base_node.clone(),
            sync: Sync::Top,
            granularity: 64 << 10,
            write_blocking: false,
            target_is_zero: false,
            depth,
            only: None,
        };
        drop(b);
        let t = Target { node: base_node, edge, ours: false, zero: false };
        return follow(vm, options, work, t, opened.then_some(name));
    }
    let mut overlay: Arc<dyn Image> = active.clone();
    for _ in 1..top.depth {
        overlay = overlay.backing().ok_or_else(|| anyhow!("the chain has changed"))?;
    }
    let overlay = node_at(&b, &*overlay)?.name().to_owned();
    let mut backing = b.graph.backing_name(&*base.image);
    if let Some(file) = text(a, "backing-file") {
        backing.file = file.to_owned();
    }
    drop(b);
    let in_end = vm.clone();
    let work = Commit { top: top.image, base: base_node.clone(), depth };
    let run = move |job: &Arc<block_jobs::Job>| -> Result<(), Stop> { work.run(job) };
    vm.block_jobs.start(options, run, move |good| {
        let done = if good { relink(&in_end, &overlay, &base_node, &backing) } else { Ok(()) };
        if opened {
            read_only(&in_end, &name);
        }
        done.map_err(as_block)
    })?;
    Ok(())
}

/// Has an image read from the base, what was between having been moved there.
fn relink(vm: &RheaVm, overlay: &str, base: &Arc<Node>, name: &BackingName) -> Result<()> {
    let mut b = vm.backends.lock();
    let opened = writable(&mut b, overlay)?;
    let node = b.graph.find(overlay)?;
    let done = b.graph.set_backing(&**node.image(), Some(base), Some(name));
    drop((node, b));
    if opened {
        read_only(vm, overlay);
    }
    done
}

/// `change-backing-file`.
pub(crate) fn change_backing(vm: &RheaVm, a: &Arguments) -> Result<()> {
    let b = vm.backends.lock();
    let top = b.node_of(needed(a, "device")?)?;
    let found = b.graph.in_chain(&top, Some(needed(a, "image-node-name")?), None);
    let image = found.ok_or_else(|| anyhow!("image node is not in the chain"))?.image;
    let format = image.backing_name().and_then(|n| n.format);
    let name = BackingName { file: needed(a, "backing-file")?.to_owned(), format };
    Ok(image.set_backing(Some(&name))?)
}

/// `blockdev-create`: an image in a file, as a job of its own.
pub(crate) fn create(vm: &Arc<RheaVm>, a: &Arguments) -> Result<()> {
    let Some(Value::Object(options)) = a.get("options") else {
        bail!("argument 'options' expects an object")
    };
    let driver = needed(options, "driver")?.to_owned();
    let size = match options.get("size") {
        Some(Value::Number(n)) => n.as_u64(),
        Some(Value::String(s)) => block_formats::parse_size(s),
        _ => None,
    };
    let size = size.ok_or_else(|| anyhow!("argument 'size' is missing"))?;
    let mut given = block_formats::Options::default();
    for (key, value) in options {
        match (key.as_str(), value) {
            ("driver" | "file" | "filename" | "size", _) => {}
            (_, Value::String(s)) => given.set(&as_option(key), s),
            (_, Value::Bool(on)) => given.set(&as_option(key), if *on { "on" } else { "off" }),
            (_, Value::Number(n)) => given.set(&as_option(key), n),
            _ => bail!("argument '{key}' is not supported here"),
        }
    }
    let node = match (driver.as_str(), options.get("file")) {
        ("file", _) => None,
        (_, Some(Value::String(name))) => Some(vm.backends.lock().graph.find(name)?),
        _ => bail!("argument 'file' expects the name of a node"),
    };
    let path = match &node {
        Some(node) => node.filename().to_owned(),
        None => needed(options, "filename")?.to_owned(),
    };
    let mut o = JobOptions::new(needed(a, "job-id")?, "create", None);
    o.auto_dismiss = false;
    let work = move |job: &Arc<block_jobs::Job>| -> Result<(), Stop> {
        job.expect(1);
        let format = if driver == "file" { "raw" } else { &driver };
        let Some(node) = node else {
            block_formats::create(format, Path::new(&path), None, Some(size), &given)?;
            return job.advance(1);
        };
        // The file is a node already, whose lock would be in the way.
        drained(std::slice::from_ref(&node), || {
            node.relock(false)?;
            let done = block_formats::create(format, Path::new(&path), None, Some(size), &given);
            node.relock(true)?;
            done
        })?;
        job.advance(1)
    };
    vm.block_jobs.start(o, work, |_| Ok(()))?;
    Ok(())
}

/// `x-blockdev-amend`: options of an image that is in use.
pub(crate) fn amend(vm: &Arc<RheaVm>, a: &Arguments) -> Result<()> {
    let Some(Value::Object(options)) = a.get("options") else {
        bail!("argument 'options' expects an object")
    };
    let driver = needed(options, "driver")?;
    let mut given = block_formats::Options::default();
    for (key, value) in options.iter().filter(|(k, _)| *k != "driver") {
        match value {
            Value::Object(parts) => {
                parts.iter().try_for_each(|(k, v)| amended(&mut given, &format!("{key}.{k}"), v))?;
            }
            // LUKS has QAPI's names.
            _ if driver == "luks" => amended(&mut given, key, value)?,
            _ => amended(&mut given, &as_option(key), value)?,
        }
    }
    // Which kind of encryption it is, is the image's.
    given.take("encrypt.format");
    given.force = flag(a, "force").unwrap_or(false);
    let name = needed(a, "node-name")?;
    let node = {
        let b = vm.backends.lock();
        given.set_secrets(&b.graph.secrets);
        b.graph.find(name)?
    };
    if node.format() != driver {
        bail!("node '{name}' is {}, and options.driver says {driver}", node.format());
    }
    if node.info().read_only {
        bail!("node '{name}' is read-only");
    }
    let mut o = JobOptions::new(needed(a, "job-id")?, "amend", None);
    o.auto_dismiss = false;
    let work = move |job: &Arc<block_jobs::Job>| -> Result<(), Stop> {
        job.expect(1);
        drained(std::slice::from_ref(&node), || node.amend(&given))?;
        job.advance(1)
    };
    vm.block_jobs.start(o, work, |_| Ok(()))?;
    Ok(())
}

fn amended(given: &mut block_formats::Options, key: &str, value: &Value) -> Result<()> {
    match value {
        Value::String(s) => given.set(key, s),
        Value::Bool(on) => given.set(key, if *on { "on" } else { "off" }),
        Value::Number(n) => given.set(key, n),
        _ => bail!("argument '{key}' is not supported here"),
    }
    Ok(())
}

/// QAPI's names of options of formats as those of `create`.
fn as_option(key: &str) -> String {
    match key {
        "version" => "compat".into(),
        "backing-file" => "backing_file".into(),
        other => other.replace('-', "_"),
    }
}

/// `query-jobs` and what can be done to jobs.
pub(crate) fn job_command(vm: &RheaVm, name: &str, a: &Arguments) -> Result<Value> {
    let jobs = &vm.block_jobs;
    let id = text(a, "id").or(text(a, "device")).unwrap_or_default();
    let done = match name {
        "job-pause" | "block-job-pause" => jobs.pause(id),
        "job-resume" | "block-job-resume" => jobs.resume(id),
        // Unlike block-job-cancel, job-cancel ends a job whatever its state.
        "job-cancel" => jobs.cancel(id, true),
        "block-job-cancel" => jobs.cancel(id, flag(a, "force").unwrap_or(false)),
        "job-complete" | "block-job-complete" => jobs.complete(id),
        "job-finalize" | "block-job-finalize" => jobs.finalize(id),
        "job-dismiss" | "block-job-dismiss" => jobs.dismiss(id),
        "block-job-set-speed" => jobs.set_speed(id, number(a, "speed").unwrap_or(0)),
        "query-jobs" => return Ok(jobs.query().into()),
        "query-block-jobs" => return Ok(jobs.query_block().into()),
        other => bail!("{other} is not supported by this machine"),
    };
    done.map(|()| json!({})).map_err(Into::into)
}

/// The bitmap that a command is about.
pub(crate) fn bitmap(b: &Backends, a: &Arguments) -> Result<(Arc<Node>, Arc<DirtyBitmap>)> {
    let node = b.node_of(needed(a, "node")?)?;
    let name = needed(a, "name")?;
    let found = node.dirty_bitmap(name);
    let found = found.ok_or_else(|| anyhow!("Dirty bitmap '{name}' not found"))?;
    if found.busy() {
        bail!("Bitmap '{name}' is currently in use by another operation and cannot be used");
    }
    Ok((node, found))
}
