//! Cables that can be pulled: an endpoint whose link goes up and down (`set_link`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use net::{Endpoint, NetReceiver};
use parking_lot::Mutex;

type Shared = Arc<Mutex<Box<dyn NetReceiver>>>;

/// An endpoint with a switch.
pub(crate) struct Cable {
    inner: Arc<dyn Endpoint>,
    up: Arc<AtomicBool>,
    card: Mutex<Option<Shared>>,
}

impl Cable {
    /// A cable that is plugged in.
    pub(crate) fn new(inner: Arc<dyn Endpoint>) -> Arc<Self> {
        Arc::new(Self { inner, up: Arc::new(AtomicBool::new(true)), card: Mutex::default() })
    }

    /// Plugs it in or out, and lets the card know.
    pub(crate) fn set(&self, up: bool) {
        if self.up.swap(up, Ordering::AcqRel) != up {
            let card = self.card.lock().clone();
            if let Some(card) = card {
                card.lock().link(up);
            }
        }
    }
}

impl Endpoint for Cable {
    fn send(&self, frame: &[&[u8]]) -> bool {
        self.up.load(Ordering::Acquire) && self.inner.send(frame)
    }

    fn set_receiver(&self, receiver: Option<Box<dyn NetReceiver>>) {
        let card: Option<Shared> = receiver.map(|r| Arc::new(Mutex::new(r)));
        *self.card.lock() = card.clone();
        let up = self.up.clone();
        self.inner.set_receiver(card.map(|card| Box::new(Gate { card, up }) as Box<dyn NetReceiver>));
    }

    fn accept_input(&self) {
        self.inner.accept_input();
    }

    fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire) && self.inner.is_up()
    }

    fn vnet_header(&self) -> usize {
        self.inner.vnet_header()
    }

    fn set_offload(&self, header: usize, guest_features: u64) -> bool {
        self.inner.set_offload(header, guest_features)
    }
}

/// The card as the back end sees it.
struct Gate {
    card: Shared,
    up: Arc<AtomicBool>,
}

impl NetReceiver for Gate {
    fn can_receive(&mut self) -> bool {
        // What comes while the cable is out is lost, not kept.
        !self.up.load(Ordering::Acquire) || self.card.lock().can_receive()
    }

    fn receive(&mut self, frame: &[u8]) {
        if self.up.load(Ordering::Acquire) {
            self.card.lock().receive(frame);
        }
    }

    fn link(&mut self, up: bool) {
        if self.up.load(Ordering::Acquire) {
            self.card.lock().link(up);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};
    use std::time::Duration;

    use net::{Hub, Join};

    use super::*;

    struct Card(Sender<Vec<u8>>);

    impl NetReceiver for Card {
        fn can_receive(&mut self) -> bool {
            true
        }

        fn receive(&mut self, frame: &[u8]) {
            let _ = self.0.send(frame.to_vec());
        }

        fn link(&mut self, up: bool) {
            let _ = self.0.send(vec![u8::from(up)]);
        }
    }

    #[test]
    fn a_pulled_cable_carries_nothing() {
        let left = Hub::default();
        let right = Hub::default();
        let (a, b): (Arc<dyn Endpoint>, Arc<dyn Endpoint>) = (left.port().unwrap(), right.port().unwrap());
        let _joined = Join::new(a, b);
        let cable = Cable::new(left.port().unwrap());
        let far = right.port().unwrap();
        let (tx, rx) = channel();
        cable.set_receiver(Some(Box::new(Card(tx))));
        let wait = Duration::from_secs(20);
        far.send(&[&[7; 60]]);
        assert_eq!(rx.recv_timeout(wait).unwrap(), [7; 60], "through both hubs");
        cable.set(false);
        assert_eq!(rx.recv_timeout(wait).unwrap(), [0]);
        assert!(!cable.send(&[&[1; 60]]));
        far.send(&[&[8; 60]]);
        cable.set(true);
        assert_eq!(rx.recv_timeout(wait).unwrap(), [1]);
    }
}
