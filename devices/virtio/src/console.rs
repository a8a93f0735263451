//! Console and serial ports (virtio 1.2, 5.3).
//!
//! Port 0 is a console; with more than one port there is a control queue and each port has a name. Output goes
//! to the backend as far as it takes it; the rest stays in the driver's buffer until the backend has room. Input
//! waits in a small buffer here, and behind it in the backend.

mod port;

use std::any::Any;
use std::sync::Arc;

use ::device::{
    BuildError, CharEvent, CharReceiver, Clock, StateBlob, StateError, Timer, Wires, device_config,
};

use self::port::{INPUT, Port, SavedPort, pending};
use crate::device::{Notifier, Progress, VirtioConfig, VirtioDevice, config_bytes};
use crate::queue::{QueueState, Virtqueue};

const DEVICE_TYPE: u32 = 3;
const KIND: &str = "virtio-serial";
const QUEUE_SIZE: u16 = 128;
/// Offset of `emerg_wr` in the config space.
const EMERGENCY: u64 = 8;
/// Names of the backends.
const SLOTS: [&str; 31] = [
    "chardev", "port1", "port2", "port3", "port4", "port5", "port6", "port7", "port8", "port9", "port10",
    "port11", "port12", "port13", "port14", "port15", "port16", "port17", "port18", "port19", "port20",
    "port21", "port22", "port23", "port24", "port25", "port26", "port27", "port28", "port29", "port30",
];

mod feature {
    pub(super) const SIZE: u64 = 1 << 0;
    pub(super) const MULTIPORT: u64 = 1 << 1;
    pub(super) const EMERG_WRITE: u64 = 1 << 2;
}

/// Events of control messages.
mod event {
    pub(super) const DEVICE_READY: u16 = 0;
    pub(super) const DEVICE_ADD: u16 = 1;
    pub(super) const PORT_READY: u16 = 3;
    pub(super) const CONSOLE_PORT: u16 = 4;
    pub(super) const RESIZE: u16 = 5;
    pub(super) const PORT_OPEN: u16 = 6;
    pub(super) const PORT_NAME: u16 = 7;
}

device_config! {
    /// Console and serial ports.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct ConsoleConfig {
        /// Number of ports; the first is a console.
        pub ports: u32 = 1,
        /// Names of the ports after the first, separated by commas; an empty one for a port without.
        pub names: String = String::new(),
        /// Width of the console in characters, 0 if unknown.
        pub cols: u16 = 0,
        /// Height of the console in characters, 0 if unknown.
        pub rows: u16 = 0,
    }
}

impl VirtioConfig for ConsoleConfig {
    type Backend = ();
    const MMIO_KIND: &'static str = "virtio-serial-device";
    const PCI_KIND: &'static str = "virtio-serial-pci";
    const TYPE: u16 = 3;
    const PCI_CLASS: u32 = 0x07_80_00;
    const HELP: &'static str = "virtio console and serial ports (mmio)";

    fn chardevs(&self) -> Vec<&'static str> {
        SLOTS[..SLOTS.len().min(self.ports as usize)].to_vec()
    }

    fn make(self, _backend: (), wires: &mut Wires) -> Result<Box<dyn VirtioDevice>, BuildError> {
        if !(1..=SLOTS.len() as u32).contains(&self.ports) {
            return Err(wires.bad_property("ports", "expected 1 to 31"));
        }
        let names: Vec<&str> =
            if self.names.is_empty() { Vec::new() } else { self.names.split(',').collect() };
        if names.len() >= self.ports as usize || names.iter().any(|n| n.len() > 63) {
            return Err(
                wires.bad_property("names", "expected a name of at most 63 bytes for each further port")
            );
        }
        let ports = (0..self.ports as usize)
            .map(|i| {
                let name = i.checked_sub(1).and_then(|i| names.get(i)).unwrap_or(&"");
                Port::new(wires.chardev(SLOTS[i]), name)
            })
            .collect();
        Ok(Box::new(Console {
            size: (self.cols, self.rows),
            ports,
            to_driver: None,
            from_driver: None,
            features: 0,
            active: false,
            paused: false,
            driver_ready: false,
            slot: 0,
            notifier: None,
            again: wires.timer(0),
            clock: wires.clock(),
            config: self,
        }))
    }
}

/// A console with its ports.
pub struct Console {
    config: ConsoleConfig,
    ports: Vec<Port>,
    /// Control messages to the driver.
    to_driver: Option<Arc<Virtqueue>>,
    /// Control messages from the driver.
    from_driver: Option<Arc<Virtqueue>>,
    features: u64,
    active: bool,
    paused: bool,
    /// The driver has asked for the ports.
    driver_ready: bool,
    /// Columns and rows.
    size: (u16, u16),
    /// The character slot being called.
    slot: usize,
    notifier: Option<Arc<dyn Notifier>>,
    /// Goes on with output after others had their turn.
    again: Timer,
    clock: Clock,
}

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Input(usize),
    Output(usize),
    ToDriver,
    FromDriver,
}

fn role(index: usize) -> Role {
    match index {
        2 => Role::ToDriver,
        3 => Role::FromDriver,
        _ => {
            let port = if index < 2 { 0 } else { index / 2 - 1 };
            if index.is_multiple_of(2) { Role::Input(port) } else { Role::Output(port) }
        }
    }
}

impl Console {
    /// The console has a new size in characters.
    pub fn resize(&mut self, cols: u16, rows: u16) {
        self.size = (cols, rows);
        if !self.active || self.features & feature::SIZE == 0 {
            return;
        }
        if self.multiport() {
            self.tell(0, pending::RESIZE);
        } else if let Some(notifier) = &self.notifier {
            notifier.config_changed();
        }
    }

    fn multiport(&self) -> bool {
        self.features & feature::MULTIPORT != 0
    }

    fn queue(&mut self, index: usize) -> Option<&mut Option<Arc<Virtqueue>>> {
        match role(index) {
            Role::Input(port) => self.ports.get_mut(port).map(|p| &mut p.rx),
            Role::Output(port) => self.ports.get_mut(port).map(|p| &mut p.tx),
            Role::ToDriver => Some(&mut self.to_driver),
            Role::FromDriver => Some(&mut self.from_driver),
        }
    }

    /// Notes that the driver is to be told something of a port, and tells it if there is room.
    fn tell(&mut self, port: usize, what: u8) {
        if self.driver_ready {
            self.ports[port].pending |= what;
            self.send_control();
        }
    }

    /// Sends pending control messages as far as there are buffers.
    fn send_control(&mut self) {
        let Some(queue) = self.to_driver.clone().filter(|_| !self.paused) else { return };
        let mut sent = false;
        while let Some((port, bit, message)) = self.next_control() {
            let Some(mut chain) = queue.pop() else {
                if queue.enable_notification() {
                    continue;
                }
                break;
            };
            chain.write(&message);
            queue.push(chain);
            self.ports[port].pending &= !bit;
            sent = true;
        }
        if sent {
            queue.signal();
        }
    }

    /// The next pending message: its port, its bit and its bytes.
    fn next_control(&mut self) -> Option<(usize, u8, Vec<u8>)> {
        let index = self.ports.iter().position(|p| p.pending != 0)?;
        let (cols, rows) = self.size;
        let port = &mut self.ports[index];
        let bit = 1 << port.pending.trailing_zeros();
        let (event, value, tail) = match bit {
            pending::ADD => (event::DEVICE_ADD, 1, Vec::new()),
            pending::CONSOLE => (event::CONSOLE_PORT, 1, Vec::new()),
            pending::RESIZE => (event::RESIZE, 0, [cols.to_le_bytes(), rows.to_le_bytes()].concat()),
            pending::NAME => (event::PORT_NAME, 1, port.name.as_bytes().to_vec()),
            _ => {
                port.told_open = port.backend.is_open();
                (event::PORT_OPEN, u16::from(port.told_open), Vec::new())
            }
        };
        let mut message = (index as u32).to_le_bytes().to_vec();
        message.extend(event.to_le_bytes());
        message.extend(value.to_le_bytes());
        message.extend(tail);
        Some((index, bit, message))
    }

    /// A control message from the driver.
    fn control(&mut self, message: [u8; 8]) {
        let [a, b, c, d, e0, e1, v0, v1] = message;
        let port = u32::from_le_bytes([a, b, c, d]) as usize;
        let (event, value) = (u16::from_le_bytes([e0, e1]), u16::from_le_bytes([v0, v1]));
        if event == event::DEVICE_READY {
            self.driver_ready = value != 0;
            for port in &mut self.ports {
                port.pending = if self.driver_ready { pending::ADD } else { 0 };
            }
        }
        let Some(state) = self.ports.get_mut(port) else { return };
        match event {
            event::PORT_READY if value != 0 && self.driver_ready => {
                state.pending |= if port == 0 { pending::CONSOLE } else { 0 };
                state.pending |= if state.name.is_empty() { 0 } else { pending::NAME };
                state.pending |= if state.backend.is_open() { pending::OPEN } else { 0 };
                if port == 0 && self.features & feature::SIZE != 0 && self.size != (0, 0) {
                    state.pending |= pending::RESIZE;
                }
            }
            event::PORT_OPEN => {
                state.guest_open = value != 0;
                self.input(port);
            }
            _ => {}
        }
    }

    /// Passes waiting input to the driver.
    fn input(&mut self, port: usize) {
        let held = self.paused || self.multiport() && !self.ports[port].guest_open;
        if !held {
            self.ports[port].deliver();
        }
    }

    /// Sends a port's output; what is left when its turn is over goes on from a timer.
    fn output(&mut self, port: usize) {
        if !self.paused && self.ports[port].transmit() == Progress::More {
            self.again.arm(self.clock.now());
        }
    }
}

impl CharReceiver for Console {
    fn can_receive(&mut self) -> usize {
        let port = &mut self.ports[self.slot];
        let room = if self.paused { 0 } else { INPUT.saturating_sub(port.input.len()) };
        port.blocked |= room == 0;
        room
    }

    fn receive(&mut self, data: &[u8]) {
        let slot = self.slot;
        let port = &mut self.ports[slot];
        let room = INPUT.saturating_sub(port.input.len());
        port.input.extend(&data[..data.len().min(room)]);
        self.input(slot);
    }

    fn event(&mut self, event: CharEvent) {
        match event {
            CharEvent::Writable => self.output(self.slot),
            CharEvent::Opened | CharEvent::Closed if self.multiport() => self.tell(self.slot, pending::OPEN),
            _ => {}
        }
    }
}

::device::state! {
    /// State of the console, version 1.
    struct V1 {
        1 => ports: Vec<SavedPort>, 2 => driver_ready: bool, 3 => cols: u16, 4 => rows: u16, 5 => again: Option<u64>,
    }
}

impl VirtioDevice for Console {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn features(&self) -> u64 {
        let ports = if self.ports.len() > 1 { feature::MULTIPORT } else { 0 };
        feature::SIZE | feature::EMERG_WRITE | ports
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let pairs = if self.ports.len() > 1 { self.ports.len() + 1 } else { 1 };
        vec![QUEUE_SIZE; 2 * pairs]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut space = [0; 12];
        space[..2].copy_from_slice(&self.size.0.to_le_bytes());
        space[2..4].copy_from_slice(&self.size.1.to_le_bytes());
        space[4..8].copy_from_slice(&(self.ports.len() as u32).to_le_bytes());
        config_bytes(&space, offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (EMERGENCY, Some(&byte)) = (offset, data.first()) {
            // The last words of a guest: nobody waits for a slow backend.
            self.ports[0].backend.write(&[byte]);
        }
    }

    fn attach(&mut self, notifier: Arc<dyn Notifier>) {
        self.notifier = Some(notifier);
    }

    fn activate(&mut self, features: u64) {
        self.features = features;
        self.active = true;
    }

    fn start_queue(&mut self, index: usize, queue: Arc<Virtqueue>) {
        if let Some(slot) = self.queue(index) {
            *slot = Some(queue);
        }
    }

    fn stop_queue(&mut self, index: usize) -> QueueState {
        if let Role::Output(port) = role(index)
            && let Some(port) = self.ports.get_mut(port)
        {
            port.stop_output();
        }
        let queue = self.queue(index).and_then(Option::take);
        queue.map(|q| q.state()).unwrap_or_default()
    }

    fn notify(&mut self, index: usize) -> Progress {
        if self.paused {
            return Progress::Done;
        }
        match role(index) {
            Role::Input(port) if port < self.ports.len() => self.input(port),
            Role::Output(port) if port < self.ports.len() => self.output(port),
            Role::ToDriver => self.send_control(),
            Role::FromDriver => {
                let Some(queue) = self.from_driver.clone() else { return Progress::Done };
                let progress = queue.drain(|mut chain| {
                    if let Some(message) = chain.read_array() {
                        self.control(message);
                    }
                    queue.push(chain);
                    true
                });
                self.send_control();
                return progress;
            }
            _ => {}
        }
        Progress::Done
    }

    fn reset(&mut self) {
        self.features = 0;
        self.active = false;
        self.driver_ready = false;
        self.size = (self.config.cols, self.config.rows);
        self.again.cancel();
        self.ports.iter_mut().for_each(Port::reset);
    }

    fn save(&self) -> StateBlob {
        let state = V1 {
            ports: self.ports.iter().map(Port::save).collect(),
            driver_ready: self.driver_ready,
            cols: self.size.0,
            rows: self.size.1,
            again: self.again.deadline(),
        };
        StateBlob::new(KIND, 1, &state)
    }

    fn restore(&mut self, state: &StateBlob, _features: u64) -> Result<(), StateError> {
        let state: V1 = state.decode(KIND, 1)?;
        if state.ports.len() != self.ports.len() {
            let (has, found) = (self.ports.len(), state.ports.len());
            return Err(StateError::new("ports", format!("expected {has}, found {found}")));
        }
        for (index, port) in state.ports.iter().enumerate() {
            port.check().map_err(|e| e.within(&format!("ports/[{index}]")))?;
        }
        for (port, saved) in self.ports.iter_mut().zip(&state.ports) {
            port.stop_output();
            port.restore(saved);
        }
        self.active = false;
        self.driver_ready = state.driver_ready;
        self.size = (state.cols, state.rows);
        self.again.set(state.again);
        Ok(())
    }

    fn quiesce(&mut self) {
        self.paused = true;
    }

    fn resume(&mut self) {
        self.paused = false;
        for index in 0..self.ports.len() {
            let port = &self.ports[index];
            if self.multiport() && port.told_open != port.backend.is_open() {
                self.tell(index, pending::OPEN);
            }
            self.ports[index].unblock();
        }
    }

    fn timer(&mut self, _id: usize) {
        for port in 0..self.ports.len() {
            self.output(port);
        }
    }

    fn char_receiver(&mut self, slot: usize) -> Option<&mut dyn CharReceiver> {
        self.slot = slot;
        (slot < self.ports.len()).then_some(self)
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

#[cfg(test)]
mod tests;
