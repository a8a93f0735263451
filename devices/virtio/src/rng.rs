//! Entropy device (virtio 1.2, 5.4): random bytes from the host.
//!
//! `max_bytes` in each `period` may be limited, so that a guest cannot keep a host thread busy drawing entropy.
//! A request gets at most [`MAX_REQUEST`] bytes; the specification lets a device give less than was asked for.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use ::device::{BuildError, Clock, StateBlob, StateError, Timer, Wires, device_config};

use crate::device::{Progress, VirtioConfig, VirtioDevice};
use crate::queue::{QueueState, Virtqueue};

const DEVICE_TYPE: u32 = 4;
const QUEUE_SIZE: u16 = 8;
/// Most bytes given to one request.
const MAX_REQUEST: u64 = 64 << 10;
const KIND: &str = "virtio-rng";

device_config! {
    /// Entropy device.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct RngConfig {
        /// Most bytes given in one period; no limit by default.
        pub max_bytes: Option<u64> = None,
        /// Length of a period in milliseconds.
        pub period: u32 = 65536,
    }
}

/// Fills its argument; false if there is nothing to be had.
type Fill = dyn Fn(&mut [u8]) -> bool + Send + Sync;

/// Where random bytes come from.
#[derive(Clone)]
pub struct RngSource(Arc<Fill>);

impl RngSource {
    /// A source that fills buffers by calling `fill`, which returns false if it has nothing to give.
    pub fn new(fill: impl Fn(&mut [u8]) -> bool + Send + Sync + 'static) -> Self {
        RngSource(Arc::new(fill))
    }
}

impl Default for RngSource {
    /// The host's random number generator.
    fn default() -> Self {
        RngSource::new(|data| getrandom::fill(data).is_ok())
    }
}

impl fmt::Debug for RngSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RngSource")
    }
}

impl VirtioConfig for RngConfig {
    type Backend = RngSource;
    const MMIO_KIND: &'static str = "virtio-rng-device";
    const PCI_KIND: &'static str = "virtio-rng-pci";
    const TYPE: u16 = 4;
    const HELP: &'static str = "virtio entropy source (mmio)";

    fn make(self, source: RngSource, wires: &mut Wires) -> Result<Box<dyn VirtioDevice>, BuildError> {
        if self.max_bytes == Some(0) || self.period == 0 {
            return Err(wires.bad_property("max_bytes", "expected a limit and a period above 0"));
        }
        Ok(Box::new(Rng {
            source,
            quota: self.max_bytes,
            refill: wires.timer(0),
            clock: wires.clock(),
            config: self,
            queue: None,
            paused: false,
        }))
    }
}

struct Rng {
    config: RngConfig,
    source: RngSource,
    /// Bytes left in this period, if they are limited.
    quota: Option<u64>,
    /// End of the period; armed while the quota is not whole.
    refill: Timer,
    clock: Clock,
    queue: Option<Arc<Virtqueue>>,
    paused: bool,
}

::device::state! {
    /// State of the entropy device, version 1.
    struct V1 { 1 => quota: Option<u64>, 2 => deadline: Option<u64> }
}

impl Rng {
    fn serve(&mut self) -> Progress {
        let Some(queue) = self.queue.clone().filter(|_| !self.paused) else { return Progress::Done };
        if self.quota == Some(0) {
            return Progress::Done;
        }
        queue.drain(|mut chain| {
            let mut left = chain.writable().min(MAX_REQUEST).min(self.quota.unwrap_or(u64::MAX));
            if let Some(quota) = &mut self.quota {
                *quota -= left;
                if self.refill.deadline().is_none() {
                    self.refill
                        .arm(self.clock.now().saturating_add(u64::from(self.config.period) * 1_000_000));
                }
            }
            let mut data = [0; 256];
            while left > 0 {
                let part = &mut data[..left.min(256) as usize];
                if !(self.source.0)(part) {
                    tracing::warn!("the host has no random numbers to give");
                    break;
                }
                left -= chain.write(part) as u64;
            }
            queue.push(chain);
            self.quota != Some(0)
        })
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, _features: u64) {}

    fn start_queue(&mut self, _index: usize, queue: Arc<Virtqueue>) {
        self.queue = Some(queue);
    }

    fn stop_queue(&mut self, _index: usize) -> QueueState {
        self.queue.take().map(|q| q.state()).unwrap_or_default()
    }

    fn notify(&mut self, _index: usize) -> Progress {
        self.serve()
    }

    fn reset(&mut self) {
        self.quota = self.config.max_bytes;
        self.refill.cancel();
    }

    fn save(&self) -> StateBlob {
        StateBlob::new(KIND, 1, &V1 { quota: self.quota, deadline: self.refill.deadline() })
    }

    fn restore(&mut self, state: &StateBlob, _features: u64) -> Result<(), StateError> {
        let state: V1 = state.decode(KIND, 1)?;
        self.quota = self.config.max_bytes.map(|max| state.quota.unwrap_or(max).min(max));
        self.refill.set(state.deadline);
        Ok(())
    }

    fn quiesce(&mut self) {
        self.paused = true;
    }

    fn resume(&mut self) {
        self.paused = false;
    }

    fn timer(&mut self, _id: usize) {
        self.quota = self.config.max_bytes;
        // The ring is small: what is left after some rounds waits for the next notification or period.
        if self.serve() == Progress::More {
            self.refill.arm(self.clock.now());
        }
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use ::device::test_bench::{Bench, check};

    use super::*;
    use crate::Mmio;
    use crate::test_driver::{Driver, Piece, hostile_rings};

    fn config(max_bytes: Option<u64>) -> Mmio<RngConfig> {
        Mmio::new(RngConfig { max_bytes, period: 10 }, RngSource::default())
    }

    #[test]
    fn gives_random_bytes() {
        let bench = Bench::new(config(None));
        let mut driver = Driver::start(&bench, 0, &[8]);
        let (first, len) = driver.ask(0, &[Piece::In(300), Piece::In(212)]);
        assert_eq!(len, 512);
        assert_ne!(first, driver.ask(0, &[Piece::In(512)]).0);
        assert!(first.iter().any(|&b| b != first[0]));
        assert_eq!(driver.ask(0, &[Piece::In(0x2_0000)]).1, 0x1_0000, "one request is bounded");
        assert_eq!(bench.next_deadline(), None);
    }

    #[test]
    fn the_rate_is_limited_and_the_limit_survives() {
        let bench = Bench::new(config(Some(100)));
        let mut driver = Driver::start(&bench, 0, &[8]);
        assert_eq!(driver.ask(0, &[Piece::In(80)]).1, 80);
        assert_eq!(driver.ask(0, &[Piece::In(80)]).1, 20);
        driver.add(0, &[Piece::In(80)]);
        driver.kick(0);
        assert_eq!(driver.poll(0), None);

        let saved = bench.cell().save();
        let twin = Bench::at(config(Some(100)), bench.now());
        twin.cell().restore(&saved).unwrap();
        let mut moved = driver.moved(&twin);
        for (bench, driver) in [(&bench, &mut driver), (&twin, &mut moved)] {
            bench.advance(9_999_999);
            assert_eq!(driver.poll(0), None);
            bench.advance(1);
            assert_eq!(driver.poll(0).unwrap().1, 80);
            assert!(bench.line("irq"));
        }
    }

    #[test]
    fn passes_the_common_tests() {
        check(config(None));
        check(config(Some(10)));
    }

    #[test]
    fn fuzz_hostile_rings() {
        hostile_rings(&config(Some(1000)), 1, || config(Some(1000)), |_| ());
    }
}
