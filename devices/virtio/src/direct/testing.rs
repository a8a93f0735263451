//! A back end for tests: what comes on ring 1 it gives back on ring 0.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use vhost::{Backend, Error, Event, Plan, Table, feature};
use vhost_user::{DeviceRing, Memory, Region};

/// Two rings and who wakes whom.
struct Pair {
    rings: [DeviceRing; 2],
    kicks: [Event; 2],
    calls: [Event; 2],
}

/// The back end.
#[derive(Default)]
pub(crate) struct Loop {
    pub(crate) features: Mutex<Option<u64>>,
    /// The features that it was started with last.
    pub(crate) used: Mutex<u64>,
    /// How often it was told of other memory.
    pub(crate) tables: AtomicU32,
    /// It does not say where the rings stand.
    pub(crate) silent: AtomicBool,
    /// It says this.
    pub(crate) lies: Mutex<Option<u16>>,
    /// It refuses.
    pub(crate) refuses: AtomicBool,
    end: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<Pair>>>,
}

impl Loop {
    pub(crate) fn new(features: u64) -> Arc<Self> {
        Arc::new(Loop { features: Mutex::new(Some(features)), ..Loop::default() })
    }

    pub(crate) fn serves(&self) -> bool {
        self.thread.lock().is_some()
    }
}

impl Pair {
    /// Carries what there is.
    fn work(&mut self) {
        for kick in &self.kicks {
            kick.take();
        }
        let [to, from] = &mut self.rings;
        let memory = from.memory().clone();
        while let Ok(Some(chain)) = from.pop() {
            let mut data = Vec::new();
            for s in &chain.segments {
                let mut piece = vec![0; s.length as usize];
                memory.read(s.guest, &mut piece).unwrap();
                data.extend(piece);
            }
            from.push(chain.id, 0).unwrap();
            let Ok(Some(room)) = to.pop() else { continue };
            let s = room.segments[0];
            let n = data.len().min(s.length as usize);
            memory.write(s.guest, &data[..n]).unwrap();
            to.push(room.id, n as u32).unwrap();
        }
        for (ring, call) in self.rings.iter_mut().zip(&self.calls) {
            if ring.wants_call().unwrap_or(false) {
                call.signal();
            }
            let _ = ring.set_awake(true);
        }
    }
}

impl Backend for Loop {
    fn features(&self) -> Option<u64> {
        *self.features.lock()
    }

    fn maps_files(&self) -> bool {
        false
    }

    fn start(&self, plan: &Plan<'_>) -> Result<(), Error> {
        if self.refuses.load(Ordering::SeqCst) {
            return Err(Error::Gone);
        }
        *self.used.lock() = plan.features;
        let mut memory = Memory::default();
        for p in plan.memory.pieces() {
            let region = Region { guest: p.guest, size: p.size, user: p.host(), offset: p.offset };
            memory.add_block(region, p.block.clone());
        }
        let (memory, event_idx) = (Arc::new(memory), plan.features & feature::EVENT_IDX != 0);
        let ring = |i: usize| {
            let r = &plan.rings[i];
            let address = r.address(plan.memory, r.index.into())?;
            Ok::<_, Error>(DeviceRing::new(memory.clone(), &address, (r.size, r.base), event_idx)?)
        };
        let copy = |e: &Event| e.try_clone().unwrap();
        let mut pair = Pair {
            rings: [ring(0)?, ring(1)?],
            kicks: [0, 1].map(|i| copy(plan.rings[i].kick)),
            calls: [0, 1].map(|i| copy(plan.rings[i].call)),
        };
        self.end.store(false, Ordering::SeqCst);
        let end = self.end.clone();
        *self.thread.lock() = Some(std::thread::spawn(move || {
            while !end.load(Ordering::SeqCst) {
                pair.work();
                std::thread::sleep(Duration::from_millis(1));
            }
            pair
        }));
        Ok(())
    }

    fn set_memory(&self, _memory: &Table) -> Result<(), Error> {
        self.tables.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn stop(&self) -> Option<Vec<u16>> {
        self.end.store(true, Ordering::SeqCst);
        let pair = self.thread.lock().take()?.join().unwrap();
        if self.silent.load(Ordering::SeqCst) {
            return None;
        }
        let lie = *self.lies.lock();
        Some(pair.rings.iter().map(|r| lie.unwrap_or(r.base())).collect())
    }
}
