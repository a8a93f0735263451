//! `throttle`: requests wait so that limits in bytes and requests per second are kept. Nodes of one group share them.
//!
//! A limit is a leaking bucket: a request fills it by its size, it leaks at the average rate, and a request waits as long as
//! the bucket holds more than a burst may. Bursts may be limited themselves, by a second bucket that leaks at the maximum
//! rate (QEMU's manual, "throttling").

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use block::{BlockError, BlockNode, NodeInfo};
use parking_lot::Mutex;
use serde_json::{Map, Value};

use crate::driver::{Children, scalars, wrong};
use crate::pass::{named, pass, total, total_mut};

/// Longest that one request waits.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Rates beyond this are none.
const MAX_RATE: u64 = 1_000_000_000_000_000;

/// One limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// Units per second on average; 0 is no limit.
    pub average: u64,
    /// Units per second in bursts; 0 is a tenth of a second's worth at once.
    pub max: u64,
    /// Seconds that a burst may last.
    pub length: u64,
}

/// All limits: `bps` and `iops`, each for all requests, for reads and for writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// In the order of [`NAMES`].
    pub limits: [Limit; 6],
    /// Bytes that count as one request; 0 counts each as one.
    pub iops_size: u64,
}

/// Names of the limits, as in the properties of `throttle-group` without its `x-`.
const NAMES: [&str; 6] = ["bps-total", "bps-read", "bps-write", "iops-total", "iops-read", "iops-write"];

impl Limits {
    /// From properties such as `bps-total`, `bps-total-max`, `bps-total-max-length` and `iops-size`.
    pub fn parse(map: &Map<String, Value>) -> Result<Self, BlockError> {
        let mut out = Limits::default();
        let options = scalars(map);
        for (key, text) in options.iter() {
            let name = key.strip_prefix("x-").unwrap_or(key);
            let value = block_formats::parse_size(text).filter(|v| *v <= MAX_RATE);
            let Some(value) = value else {
                return Err(wrong("throttle", format!("{key}={text}: expected a number up to {MAX_RATE}")));
            };
            if matches!(name, "iops-size") {
                out.iops_size = value;
                continue;
            }
            let (base, part) = match name.strip_suffix("-max-length") {
                Some(base) => (base, 2),
                None => name.strip_suffix("-max").map_or((name, 0), |base| (base, 1)),
            };
            let Some(at) = NAMES.iter().position(|n| *n == base) else {
                let known = NAMES.join(", ");
                return Err(wrong(
                    "throttle",
                    format!(
                        "unknown limit '{key}'; there are: {known}, each with -max and -max-length, and iops-size"
                    ),
                ));
            };
            match part {
                0 => out.limits[at].average = value,
                1 => out.limits[at].max = value,
                _ => out.limits[at].length = value,
            }
        }
        for (name, l) in NAMES.iter().zip(&mut out.limits) {
            if l.length == 0 {
                l.length = 1;
            }
            if l.max != 0 && (l.max < l.average || l.average == 0) {
                return Err(wrong(
                    "throttle",
                    format!("{name}-max={}: expected at least {name}, which is {}", l.max, l.average),
                ));
            }
        }
        for base in [0, 3] {
            let [all, read, write] = [0, 1, 2].map(|i| out.limits[base + i].average);
            if all != 0 && (read != 0 || write != 0) {
                let name = NAMES[base];
                return Err(wrong("throttle", format!("{name} and its -read and -write do not go together")));
            }
        }
        Ok(out)
    }

    /// The same limits as properties of the object.
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (name, l) in NAMES.iter().zip(&self.limits) {
            map.insert((*name).into(), l.average.into());
            map.insert(format!("{name}-max"), l.max.into());
            map.insert(format!("{name}-max-length"), l.length.max(1).into());
        }
        map.insert("iops-size".into(), self.iops_size.into());
        Value::Object(map)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// What is in it, and in that of bursts.
    level: f64,
    burst: f64,
}

#[derive(Debug)]
struct State {
    limits: Limits,
    buckets: [Bucket; 6],
    last: Instant,
}

/// Limits that several nodes share.
#[derive(Debug)]
pub struct ThrottleGroup {
    name: String,
    state: Mutex<State>,
}

impl ThrottleGroup {
    /// A group.
    pub fn new(name: impl Into<String>, limits: Limits) -> Arc<Self> {
        let state = State { limits, buckets: Default::default(), last: Instant::now() };
        Arc::new(ThrottleGroup { name: name.into(), state: Mutex::new(state) })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Present limits.
    pub fn limits(&self) -> Limits {
        self.state.lock().limits
    }

    /// Other limits from now on.
    pub fn set(&self, limits: Limits) {
        let mut state = self.state.lock();
        *state = State { limits, buckets: Default::default(), last: Instant::now() };
    }

    /// Counts a request; how long it has to wait.
    fn count(&self, write: bool, bytes: u64) -> Duration {
        let mut state = self.state.lock();
        let passed = state.last.elapsed().as_secs_f64();
        state.last = Instant::now();
        let State { limits, buckets, .. } = &mut *state;
        let requests = match limits.iops_size {
            0 => 1.0,
            size => (bytes as f64 / size as f64).max(1.0),
        };
        let mut wait: f64 = 0.0;
        for (i, (l, b)) in limits.limits.iter().zip(buckets).enumerate() {
            if l.average == 0 {
                continue;
            }
            let (average, max) = (l.average as f64, l.max as f64);
            b.level = (b.level - average * passed).max(0.0);
            b.burst = (b.burst - max * passed).max(0.0);
            if !matches!((i % 3, write), (0, _) | (1, false) | (2, true)) {
                continue;
            }
            let room = if l.max == 0 { average / 10.0 } else { max * l.length.max(1) as f64 };
            wait = wait.max((b.level - room) / average);
            if l.length > 1 && l.max != 0 {
                wait = wait.max((b.burst - max / 10.0) / max);
            }
            let units = if i < 3 { bytes as f64 } else { requests };
            b.level += units;
            b.burst += units;
        }
        Duration::try_from_secs_f64(wait).unwrap_or_default().min(MAX_WAIT)
    }
}

/// A node that waits.
#[derive(Debug)]
pub struct Throttle {
    child: Arc<dyn BlockNode>,
    group: Arc<ThrottleGroup>,
}

impl Throttle {
    /// Over `child`.
    pub fn new(child: Arc<dyn BlockNode>, group: Arc<ThrottleGroup>) -> Self {
        Throttle { child, group }
    }

    /// Its group.
    pub fn group(&self) -> &Arc<ThrottleGroup> {
        &self.group
    }

    fn wait(&self, write: bool, bytes: u64) {
        let time = self.group.count(write, bytes);
        if !time.is_zero() {
            std::thread::sleep(time);
        }
    }
}

pub(crate) fn make(
    children: &mut dyn Children,
    map: &Map<String, Value>,
) -> Result<Arc<dyn BlockNode>, BlockError> {
    let id = scalars(map).text("throttle-group").map(str::to_owned);
    let id = id.ok_or_else(|| wrong("throttle", "needs 'throttle-group'"))?;
    let group = children.group(&id)?;
    Ok(Arc::new(Throttle::new(children.child(map, "file")?, group)))
}

impl BlockNode for Throttle {
    pass!(child: size flush status resize allocated_size grows children);

    fn info(&self) -> NodeInfo {
        named("throttle", &*self.child)
    }

    fn read(&self, offset: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<(), BlockError> {
        self.wait(false, total_mut(bufs));
        self.child.read(offset, bufs)
    }

    fn write(&self, offset: u64, bufs: &[IoSlice<'_>], fua: bool) -> Result<(), BlockError> {
        self.wait(true, total(bufs));
        self.child.write(offset, bufs, fua)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.wait(true, 0);
        self.child.discard(offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), BlockError> {
        self.wait(true, len);
        self.child.write_zeroes(offset, len, unmap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(text: &str) -> Result<Limits, BlockError> {
        Limits::parse(serde_json::from_str::<Value>(text).unwrap().as_object().unwrap())
    }

    #[test]
    fn rates_are_kept() {
        let l = limits(r#"{"x-iops-total":100,"bps-write":1000000}"#).unwrap();
        assert_eq!((l.limits[3].average, l.limits[2].average), (100, 1_000_000));
        let group = ThrottleGroup::new("g", l);
        let waits: Vec<Duration> = (0..31).map(|_| group.count(false, 4096)).collect();
        // Ten at once, then each a hundredth of a second later.
        assert!(waits[..11].iter().all(|w| w.is_zero()), "{waits:?}");
        let last = waits[30].as_secs_f64();
        assert!((0.15..=0.21).contains(&last), "{last}");
        let group =
            ThrottleGroup::new("g", limits(r#"{"bps-write":1000000,"bps-write-max":2000000}"#).unwrap());
        assert!(group.count(true, 3_000_000).is_zero());
        let wait = group.count(true, 1).as_secs_f64();
        assert!((0.9..=1.0).contains(&wait), "{wait}");
        assert!(group.count(false, 100_000_000).is_zero(), "reads have no limit");
    }

    #[test]
    fn wrong_limits_are_named() {
        for (text, words) in [
            (r#"{"bps-totl":1}"#, "bps-totl"),
            (r#"{"bps-total":1,"bps-read":1}"#, "bps-total"),
            (r#"{"iops-read":10,"iops-read-max":5}"#, "iops-read-max=5"),
            (r#"{"iops-read":"many"}"#, "many"),
        ] {
            let e = limits(text).unwrap_err().to_string();
            assert!(e.contains(words), "{e}");
        }
        let l = limits(r#"{"iops-size":4096,"iops-total":7}"#).unwrap();
        assert_eq!(limits(&l.to_value().to_string()).unwrap().limits[3].average, 7);
    }
}
