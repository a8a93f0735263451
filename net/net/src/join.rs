//! Two endpoints joined back to back: what one receives the other sends. This is how a back end gets onto a hub.

use std::sync::{Arc, Weak};

use crate::{Endpoint, NetReceiver};

/// The joint; the endpoints part when it is dropped.
pub struct Join(Arc<dyn Endpoint>, Arc<dyn Endpoint>);

struct Passer {
    to: Weak<dyn Endpoint>,
    /// Bytes of virtio-net header on either side. No offloads are asked for, so all of them are zero.
    headers: (usize, usize),
}

impl NetReceiver for Passer {
    fn can_receive(&mut self) -> bool {
        true
    }

    fn receive(&mut self, frame: &[u8]) {
        if let (Some(to), Some(frame)) = (self.to.upgrade(), frame.get(self.headers.0..)) {
            to.send(&[&[0; 12][..self.headers.1.min(12)], frame]);
        }
    }
}

impl Join {
    /// Joins two endpoints that have no receiver yet.
    pub fn new(a: Arc<dyn Endpoint>, b: Arc<dyn Endpoint>) -> Self {
        for end in [&a, &b] {
            let header = end.vnet_header();
            if header != 0 {
                end.set_offload(header, 0);
            }
        }
        let passer = |from: &Arc<dyn Endpoint>, to: &Arc<dyn Endpoint>| {
            let headers = (from.vnet_header(), to.vnet_header());
            from.set_receiver(Some(Box::new(Passer { to: Arc::downgrade(to), headers })));
        };
        passer(&a, &b);
        passer(&b, &a);
        Join(a, b)
    }
}

impl Drop for Join {
    fn drop(&mut self) {
        self.0.set_receiver(None);
        self.1.set_receiver(None);
    }
}

/// Nothing can be plugged into a joint: it is an endpoint so that it can be kept among them.
impl Endpoint for Join {
    fn send(&self, _frame: &[&[u8]]) -> bool {
        false
    }
    fn set_receiver(&self, _receiver: Option<Box<dyn NetReceiver>>) {}
    fn is_up(&self) -> bool {
        false
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::{Dgram, Hub, testing::Sink};

    #[test]
    fn a_back_end_on_a_hub() {
        let hub = Hub::new();
        let (near, far) = Dgram::pair().unwrap();
        let join = Join::new(Arc::new(near), hub.port().unwrap());
        let port = hub.port().unwrap();
        let (sink, _, there) = Sink::new();
        far.set_receiver(Some(sink));
        let (sink, _, here) = Sink::new();
        port.set_receiver(Some(sink));
        assert!(port.send(&[b"outward"]));
        assert_eq!(there.recv().unwrap(), b"outward");
        assert!(far.send(&[b"inward"]));
        assert_eq!(here.recv().unwrap(), b"inward");
        drop(join);
        assert!(!far.send(&[b"nobody"]));
    }
}
