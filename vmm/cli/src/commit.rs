//! HMP's `commit`: what drives keep above their images (with `snapshot=on`, or in an image of their own that has a backing file)
//! is written into these at once.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use block_formats::Image;
use block_graph::Node;
use block_jobs::commit_at_once;

use crate::backends::Backends;
use crate::blockjobs::{node_at, read_only, writable};
use crate::vm::RheaVm;

/// The images that read from others, by the names of their drives.
fn images(b: &Backends) -> Vec<(String, Arc<Node>)> {
    let mut all: Vec<(String, Arc<Node>)> =
        b.graph.temporary().map(|(id, node)| (id.to_owned(), node)).collect();
    for node in b.graph.tops() {
        let known = all.iter().any(|(_, other)| Arc::ptr_eq(other, &node));
        if !known && node.image().backing().is_some() {
            all.push((b.name_of(&node), node));
        }
    }
    all
}

/// Commits one drive, or all; nothing may be under way.
pub(crate) fn commit(vm: &RheaVm, device: &str) -> Result<usize> {
    let b = vm.backends.lock();
    if device != "all" {
        b.node_of(device)?;
    }
    let chosen: Vec<_> =
        images(&b).into_iter().filter(|(name, _)| device == "all" || name == device).collect();
    drop(b);
    if chosen.is_empty() && device != "all" {
        bail!("'commit' error for '{device}': it has no backing file");
    }
    for (name, node) in &chosen {
        one(vm, node).with_context(|| format!("'commit' error for '{name}'"))?;
    }
    Ok(chosen.len())
}

fn one(vm: &RheaVm, node: &Arc<Node>) -> Result<()> {
    let image: Arc<dyn Image> = node.clone();
    let mut b = vm.backends.lock();
    let Some(below) = image.backing() else { return Ok(()) };
    let name = node_at(&b, &*below)?.name().to_owned();
    let opened = writable(&mut b, &name)?;
    let base = b.graph.find(&name);
    drop((b, below));
    let done = base.and_then(|base| Ok(commit_at_once(&image, &base)?));
    if opened {
        read_only(vm, &name);
    }
    done
}
