//! A hub in this process: what one port sends, all others get.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex};

use crate::{Endpoint, MAX_FRAME, NetError, NetReceiver, ReceiverSlot};

/// Frames a port holds for a NIC that has no room, before it drops.
const DEPTH: usize = 512;

/// Where frames wait for a NIC.
#[derive(Default)]
struct Queue {
    frames: VecDeque<Vec<u8>>,
    /// Set by `accept_input`: the NIC is to be asked again.
    retry: bool,
    closed: bool,
}

struct Port {
    queue: Mutex<Queue>,
    wake: Condvar,
    receiver: ReceiverSlot,
}

impl Port {
    fn push(&self, frame: Vec<u8>) -> bool {
        let mut queue = self.queue.lock();
        if queue.frames.len() >= DEPTH {
            return false;
        }
        queue.frames.push_back(frame);
        self.wake.notify_one();
        true
    }

    fn deliver(&self) {
        let mut queue = self.queue.lock();
        while !queue.closed {
            let Some(frame) = queue.frames.pop_front() else {
                self.wake.wait(&mut queue);
                continue;
            };
            queue.retry = false;
            drop(queue);
            let taken = self.receiver.offer(&frame);
            queue = self.queue.lock();
            if !taken {
                queue.frames.push_front(frame);
                while !queue.retry && !queue.closed {
                    self.wake.wait(&mut queue);
                }
            }
        }
    }

    fn retry(&self) {
        self.queue.lock().retry = true;
        self.wake.notify_one();
    }
}

/// Joins ports.
#[derive(Clone, Default)]
pub struct Hub(Arc<Mutex<Vec<Weak<Port>>>>);

impl Hub {
    /// A hub without ports.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a port, which is there until dropped. It has a thread that feeds its NIC.
    pub fn port(&self) -> Result<Arc<HubPort>, NetError> {
        let port = Arc::new(Port {
            queue: Mutex::default(),
            wake: Condvar::new(),
            receiver: ReceiverSlot::default(),
        });
        let fed = port.clone();
        std::thread::Builder::new()
            .name("net-hub".into())
            .spawn(move || fed.deliver())
            .map_err(|e| NetError::host("thread of a hub port", e))?;
        let mut ports = self.0.lock();
        ports.retain(|p| p.strong_count() > 0);
        ports.push(Arc::downgrade(&port));
        Ok(Arc::new(HubPort { hub: self.clone(), port }))
    }
}

/// One port of a hub.
pub struct HubPort {
    hub: Hub,
    port: Arc<Port>,
}

impl Endpoint for HubPort {
    fn send(&self, frame: &[&[u8]]) -> bool {
        let frame = frame.concat();
        if frame.len() > MAX_FRAME {
            return false;
        }
        let others: Vec<_> = self.hub.0.lock().iter().filter_map(Weak::upgrade).collect();
        let mut all = true;
        for port in others.iter().filter(|p| !Arc::ptr_eq(p, &self.port)) {
            all &= port.push(frame.clone());
        }
        all
    }

    fn set_receiver(&self, receiver: Option<Box<dyn NetReceiver>>) {
        self.port.receiver.set(receiver);
        self.port.retry();
    }

    fn accept_input(&self) {
        self.port.retry();
    }
}

impl Drop for HubPort {
    fn drop(&mut self) {
        self.port.queue.lock().closed = true;
        self.port.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::testing::Sink;

    #[test]
    fn everybody_else_gets_it() {
        let hub = Hub::new();
        let ports: Vec<_> = (0..3).map(|_| hub.port().unwrap()).collect();
        let sinks: Vec<_> = ports
            .iter()
            .map(|port| {
                let (sink, open, frames) = Sink::new();
                port.set_receiver(Some(sink));
                (open, frames)
            })
            .collect();
        assert!(ports[0].send(&[b"head", b"", b"tail"]));
        assert_eq!(sinks[1].1.recv().unwrap(), b"headtail");
        assert_eq!(sinks[2].1.recv().unwrap(), b"headtail");
        assert!(sinks[0].1.try_recv().is_err());
        assert!(!ports[0].send(&[&[0; MAX_FRAME + 1]]));
    }

    #[test]
    fn a_full_nic_holds_frames_up_to_a_bound() {
        let hub = Hub::new();
        let (a, b) = (hub.port().unwrap(), hub.port().unwrap());
        let (sink, open, frames) = Sink::new();
        open.store(false, Ordering::SeqCst);
        b.set_receiver(Some(sink));
        let sent = (0..2 * DEPTH as u32).filter(|i| a.send(&[&i.to_le_bytes()])).count();
        assert!((DEPTH..DEPTH + 2).contains(&sent), "{sent}");
        open.store(true, Ordering::SeqCst);
        b.accept_input();
        for i in 0..DEPTH as u32 {
            assert_eq!(frames.recv().unwrap(), i.to_le_bytes());
        }
    }
}
