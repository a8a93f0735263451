//! What leads from whoever uses a node to that node.

use std::sync::Arc;
use std::time::Duration;

use block::{BlockError, BlockNode};
use block_formats::Image;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::delegate::{change, image, look};
use crate::node::Node;

/// How long one edge is waited for while others are held.
const PATIENCE: Duration = Duration::from_millis(20);

/// A reference to a node that can be led to another one. Its node's names are those it had when the edge was made.
pub struct Edge {
    user: String,
    format: &'static str,
    filename: String,
    to: RwLock<Arc<Node>>,
}

impl std::fmt::Debug for Edge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Edge({} -> {})", self.user, self.to.read_recursive().name())
    }
}

impl Edge {
    /// An edge from `user`, in words for people, to a node.
    pub fn new(user: impl Into<String>, to: &Arc<Node>) -> Arc<Self> {
        let edge = Arc::new(Edge {
            user: user.into(),
            format: to.format(),
            filename: to.filename().to_owned(),
            to: RwLock::new(to.clone()),
        });
        to.edges.lock().push(Arc::downgrade(&edge));
        edge
    }

    /// Whose it is.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Where it leads.
    pub fn node(&self) -> Arc<Node> {
        self.to.read_recursive().clone()
    }

    fn held(&self) -> RwLockReadGuard<'_, Arc<Node>> {
        self.to.read()
    }
}

impl BlockNode for Edge {
    look!(Edge::held);
    change!(Edge::held);

    fn children(&self) -> Vec<Arc<dyn BlockNode>> {
        vec![self.node()]
    }
}

impl Image for Edge {
    image!(Edge::held);

    fn format(&self) -> &'static str {
        self.format
    }

    fn filename(&self) -> &str {
        &self.filename
    }

    fn node_name(&self) -> Option<String> {
        Some(self.node().name().to_owned())
    }

    fn write_compressed(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        self.held().write_compressed(offset, data)
    }
}

/// All edges to some nodes, held for writing.
fn hold(edges: &[Arc<Edge>]) -> Vec<RwLockWriteGuard<'_, Arc<Node>>> {
    loop {
        let mut held = Vec::with_capacity(edges.len());
        for e in edges {
            // A request that holds one of them and waits for another gets its turn: nothing is held while waiting long.
            match e.to.try_write_for(PATIENCE) {
                Some(guard) => held.push(guard),
                None => break,
            }
        }
        if held.len() == edges.len() {
            return held;
        }
    }
}

fn edges_of(nodes: &[Arc<Node>]) -> Vec<Arc<Edge>> {
    let mut all: Vec<Arc<Edge>> = Vec::new();
    for e in nodes.iter().flat_map(|n| n.edges()) {
        if !all.iter().any(|a| Arc::ptr_eq(a, &e)) {
            all.push(e);
        }
    }
    all
}

/// Does something while no request is under way at any of the nodes, and none begins. `f` uses the nodes themselves, not
/// edges to them.
pub fn drained<R>(nodes: &[Arc<Node>], f: impl FnOnce() -> R) -> R {
    let edges = edges_of(nodes);
    let _held = hold(&edges);
    f()
}

/// A node and the one that takes its place.
pub type Pair = (Arc<Node>, Arc<Node>);

/// Does `f` while nothing is under way at some nodes, and then leads all edges from the first node to the second of each pair
/// that it returns, except those that `keep` says. If `f` fails, nothing has changed.
pub fn lead<E>(
    nodes: &[Arc<Node>],
    keep: impl Fn(&Arc<Edge>) -> bool,
    f: impl FnOnce() -> Result<Vec<Pair>, E>,
) -> Result<(), E> {
    let edges = edges_of(nodes);
    let mut held = hold(&edges);
    let pairs = f()?;
    for (edge, guard) in edges.iter().zip(&mut held) {
        if keep(edge) {
            continue;
        }
        if let Some((old, new)) = pairs.iter().find(|(old, _)| Arc::ptr_eq(old, guard)) {
            old.edges.lock().retain(|e| !std::ptr::eq(e.as_ptr(), Arc::as_ptr(edge)));
            new.edges.lock().push(Arc::downgrade(edge));
            **guard = new.clone();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bare;
    use block::MemoryNode;
    use std::io::{IoSlice, IoSliceMut};
    use std::sync::atomic::{AtomicBool, Ordering};

    fn node(name: &str) -> Arc<Node> {
        Node::new(name, Arc::new(Bare::new(Arc::new(MemoryNode::new(name, 4096)), "memory", name)))
    }

    #[test]
    fn edges_are_led_elsewhere_between_requests() {
        let (a, b) = (node("a"), node("b"));
        let edge = Edge::new("disk", &a);
        let kept = Edge::new("overlay", &a);
        let stop = AtomicBool::new(false);
        std::thread::scope(|s| {
            for t in 0..3 {
                let (edge, stop) = (&edge, &stop);
                s.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        edge.write(t * 512, &[IoSlice::new(&[1; 512])], false).unwrap();
                    }
                });
            }
            for _ in 0..20 {
                lead::<()>(
                    std::slice::from_ref(&a),
                    |e| e.user() == "overlay",
                    || Ok(vec![(a.clone(), b.clone())]),
                )
                .unwrap();
                assert_eq!((edge.node().name(), kept.node().name(), b.users().len()), ("b", "a", 1));
                lead::<()>(std::slice::from_ref(&b), |_| false, || Ok(vec![(b.clone(), a.clone())])).unwrap();
            }
            assert!(lead(std::slice::from_ref(&a), |_| false, || Err(1)).is_err());
            assert_eq!(edge.node().name(), "a");
            stop.store(true, Ordering::Relaxed);
        });
        drop(kept);
        assert_eq!(a.users(), ["disk"]);
        let mut data = [0; 1];
        edge.write(0, &[IoSlice::new(&[1])], false).unwrap();
        a.read(0, &mut [IoSliceMut::new(&mut data)]).unwrap();
        assert_eq!(data, [1]);
    }
}
