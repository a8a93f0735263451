//! Random region trees against an oracle that looks at every byte address on its own.

use std::sync::{Arc, Mutex};

use guest_memory::{
    Access, AddressSpace, FlatRange, FlatView, IoHandler, ListenerError, RamBlock, RangeKind, Region,
    RegionId, Unassigned, ViewChange, ViewListener,
};

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

struct Nop;

impl IoHandler for Nop {
    fn read(&self, _: u64, _: &mut [u8]) -> Access {
        Access::NoRegister
    }
    fn write(&self, _: u64, _: &[u8]) -> Access {
        Access::NoRegister
    }
}

#[derive(Clone)]
enum Kind {
    Container,
    /// From an offset in the block.
    Ram(Arc<RamBlock>, u64),
    /// Whether reads come from the block.
    RomDevice(Arc<RamBlock>, Arc<dyn IoHandler>, bool),
    Io(Arc<dyn IoHandler>),
    Alias(usize, u64),
}

struct Node {
    id: RegionId,
    kind: Kind,
    size: u64,
    offset: u64,
    priority: i32,
    placed: u64,
    enabled: bool,
    read_only: bool,
    parent: Option<usize>,
    live: bool,
}

struct Model(Vec<Node>);

impl Model {
    fn resolve(&self, node: usize, at: i128, read_only: bool) -> Option<(Kind, u64, bool)> {
        let n = &self.0[node];
        if !n.live || !n.enabled || at < 0 || at >= i128::from(n.size) {
            return None;
        }
        let read_only = read_only || n.read_only;
        if let Kind::Alias(of, offset) = n.kind {
            return self.resolve(of, at + i128::from(offset), read_only);
        }
        let mut children: Vec<_> =
            (0..self.0.len()).filter(|&c| self.0[c].live && self.0[c].parent == Some(node)).collect();
        children.sort_by_key(|&c| (-self.0[c].priority, std::cmp::Reverse(self.0[c].placed)));
        children
            .into_iter()
            .find_map(|c| self.resolve(c, at - i128::from(self.0[c].offset), read_only))
            .or_else(|| match &n.kind {
                Kind::Container => None,
                leaf => Some((leaf.clone(), at as u64, read_only)),
            })
    }

    fn check(&self, view: &FlatView, step: usize) {
        for pair in view.ranges().windows(2) {
            assert!(pair[0].last < pair[1].start, "step {step}: {view}");
        }
        for gpa in 0..SPACE {
            let got = view.translate(gpa);
            let want = self.resolve(0, i128::from(gpa), false);
            match (&want, got) {
                (None, None) => {}
                (
                    Some((Kind::RomDevice(a, x, true), offset, _)),
                    Some((FlatRange { kind: RangeKind::RomDevice(b, y), read_only, .. }, at)),
                ) => {
                    let same = Arc::ptr_eq(a, b) && Arc::ptr_eq(x, y) && *offset == at && !read_only;
                    assert!(same, "step {step} {gpa:#x}\n{view}");
                }
                (
                    Some((Kind::Ram(a, skip), offset, ro)),
                    Some((FlatRange { kind: RangeKind::Ram(b), read_only, .. }, at)),
                ) => {
                    assert!(
                        Arc::ptr_eq(a, b) && (*skip + *offset, *ro) == (at, *read_only),
                        "step {step} {gpa:#x}\n{view}"
                    );
                }
                (
                    Some((Kind::Io(a) | Kind::RomDevice(_, a, false), offset, _)),
                    Some((FlatRange { kind: RangeKind::Io(b), .. }, at)),
                ) => {
                    assert!(Arc::ptr_eq(a, b) && *offset == at, "step {step} {gpa:#x}\n{view}");
                }
                (want, got) => panic!("step {step} {gpa:#x}: {} {got:?}\n{view}", want.is_some()),
            }
        }
    }
}

const SPACE: u64 = 160;

/// Rebuilds the view from the differences alone.
#[derive(Default)]
struct Follower(Mutex<Vec<FlatRange>>);

impl ViewListener for Follower {
    fn changed(&self, change: &ViewChange) -> Result<(), ListenerError> {
        let mut ranges = self.0.lock().expect("no other thread");
        for gone in &change.removed {
            let at = ranges.iter().position(|r| r.same(gone)).ok_or("removed what was not there")?;
            ranges.remove(at);
        }
        ranges.extend(change.added.iter().cloned());
        ranges.sort_by_key(|r| r.start);
        assert!(ranges.len() == change.new.ranges().len());
        assert!(ranges.iter().zip(change.new.ranges()).all(|(a, b)| a.same(b)));
        Ok(())
    }
}

#[test]
fn random_trees_match_the_oracle() {
    let mut rng = Rng(0x9e37_79b9_7f4a_7c15);
    for _ in 0..60 {
        let space = AddressSpace::new("fuzz", u128::from(SPACE), Unassigned::Fault);
        let follower = Arc::new(Follower::default());
        space.add_listener(follower).unwrap();
        let root = space.update().root();
        let root = Node {
            id: root,
            kind: Kind::Container,
            size: SPACE,
            offset: 0,
            priority: 0,
            placed: 0,
            enabled: true,
            read_only: false,
            parent: None,
            live: true,
        };
        let mut model = Model(vec![root]);
        for step in 0..60 {
            let mut tx = space.update();
            let pick = rng.below(model.0.len() as u64) as usize;
            let target = &model.0[pick];
            match rng.below(10) {
                0..5 => {
                    let size = 1 + rng.below(60);
                    let name = format!("r{}", model.0.len());
                    let (kind, region) = match rng.below(7) {
                        0 => (Kind::Container, Region::container(name, u128::from(size))),
                        1 | 2 => {
                            let block = RamBlock::anonymous(&name, size).unwrap();
                            (Kind::Ram(block.clone(), 0), Region::ram(name, block))
                        }
                        4 => {
                            let skip = rng.below(40);
                            let block = RamBlock::anonymous(&name, size + skip).unwrap();
                            (Kind::Ram(block.clone(), skip), Region::ram_slice(name, block, skip, size))
                        }
                        5 => {
                            let block = RamBlock::anonymous(&name, size).unwrap();
                            let io: Arc<dyn IoHandler> = Arc::new(Nop);
                            (
                                Kind::RomDevice(block.clone(), io.clone(), true),
                                Region::rom_device(name, block, io),
                            )
                        }
                        3 => {
                            let io: Arc<dyn IoHandler> = Arc::new(Nop);
                            (Kind::Io(io.clone()), Region::io(name, size, io))
                        }
                        _ => {
                            let of = rng.below(model.0.len() as u64) as usize;
                            let offset = rng.below(30);
                            let region = Region::alias(name, model.0[of].id, offset, u128::from(size));
                            (Kind::Alias(of, offset), region)
                        }
                    };
                    let (offset, priority) = (rng.below(120), rng.below(3) as i32 - 1);
                    let read_only = rng.below(6) == 0;
                    let region = region.at(offset).priority(priority);
                    let region = if read_only { region.read_only() } else { region };
                    let node = |id, parent| Node {
                        id,
                        kind,
                        size,
                        offset,
                        priority,
                        placed: step as u64 + 1,
                        enabled: true,
                        read_only,
                        parent,
                        live: true,
                    };
                    if rng.below(8) == 0 {
                        if let Ok(id) = tx.create(region) {
                            model.0.push(node(id, None));
                        }
                    } else if let Ok(id) = tx.add(target.id, region) {
                        model.0.push(node(id, Some(pick)));
                    }
                }
                5 => {
                    let enabled = rng.below(2) == 0;
                    if pick != 0 && tx.set_enabled(target.id, enabled).is_ok() {
                        model.0[pick].enabled = enabled;
                    }
                }
                6 => {
                    let read_only = rng.below(2) == 0;
                    if tx.set_read_only(target.id, read_only).is_ok() {
                        model.0[pick].read_only = read_only;
                    }
                }
                7 => {
                    let offset = rng.below(120);
                    if pick != 0 && tx.set_offset(target.id, offset).is_ok() {
                        model.0[pick].offset = offset;
                        if model.0[pick].parent.is_some() {
                            model.0[pick].placed = step as u64 + 1;
                        }
                    }
                }
                8 => {
                    let to = rng.below(30);
                    if tx.set_direct(target.id, to < 15).is_ok() {
                        let Kind::RomDevice(_, _, direct) = &mut model.0[pick].kind else { panic!("no ROM") };
                        *direct = to < 15;
                    }
                    let target = &model.0[pick];
                    if tx.set_alias_offset(target.id, to).is_ok() {
                        let Kind::Alias(_, offset) = &mut model.0[pick].kind else { panic!("not an alias") };
                        *offset = to;
                    }
                }
                _ => {
                    if pick != 0 && tx.remove(target.id).is_ok() {
                        let mut gone = vec![pick];
                        while let Some(g) = gone.pop() {
                            model.0[g].live = false;
                            gone.extend((0..model.0.len()).filter(|&c| model.0[c].parent == Some(g)));
                        }
                    }
                }
            }
            if rng.below(10) == 0 {
                let before = space.snapshot().to_string();
                let root = tx.root();
                let _ = tx.add(root, Region::io("dropped", 100, Arc::new(Nop)).priority(9));
                drop(tx);
                assert_eq!(space.snapshot().to_string(), before, "a dropped transaction changes nothing");
                // The step itself was dropped with it: put the model out of its misery.
                break;
            }
            tx.commit().unwrap();
            model.check(&space.snapshot(), step);
        }
    }
}
