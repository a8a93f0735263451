//! Interrupt wires: levels, not numbers.
//!
//! An [`IrqWire`] ends in one sink and may be driven by several [`IrqLine`]s; its level is their OR, as on an
//! open-collector line. The sink is told of changes only, in order.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

/// The end of a wire: an interrupt controller's pin, a CPU's, a kernel interrupt.
pub trait LineSink: Send + Sync {
    /// The level changed. Called with the wire locked: must not drive the same wire.
    fn set_level(&self, level: bool);
}

impl<F: Fn(bool) + Send + Sync> LineSink for F {
    fn set_level(&self, level: bool) {
        self(level);
    }
}

struct Wire {
    label: String,
    /// Number of sources that drive the wire high.
    high: Mutex<u32>,
    sinks: Vec<Arc<dyn LineSink>>,
}

/// A wire to connect sources to.
#[derive(Clone)]
pub struct IrqWire(Arc<Wire>);

impl IrqWire {
    /// A wire that ends in `sinks` (all of them follow it).
    pub fn new(label: impl Into<String>, sinks: Vec<Arc<dyn LineSink>>) -> Self {
        IrqWire(Arc::new(Wire { label: label.into(), high: Mutex::new(0), sinks }))
    }

    /// A new source on this wire, at first low.
    pub fn source(&self) -> IrqLine {
        IrqLine(End::One(Arc::new(Source { wire: self.0.clone(), level: Mutex::new(false) })))
    }

    /// The level of the wire.
    pub fn level(&self) -> bool {
        *self.0.high.lock() != 0
    }

    /// What the wire is called.
    pub fn label(&self) -> &str {
        &self.0.label
    }
}

struct Source {
    wire: Arc<Wire>,
    level: Mutex<bool>,
}

/// What a pin leads to.
#[derive(Clone, Default)]
enum End {
    #[default]
    Nowhere,
    One(Arc<Source>),
    /// Several wires, which all follow the pin.
    Many(Arc<[IrqLine]>),
}

impl Source {
    fn set(&self, level: bool, tell: bool) {
        // Held throughout, so that the wire sees this source's changes in order.
        let mut own = self.level.lock();
        if std::mem::replace(&mut *own, level) == level {
            return;
        }
        let mut high = self.wire.high.lock();
        let before = *high != 0;
        *high = if level { *high + 1 } else { high.saturating_sub(1) };
        let after = *high != 0;
        if tell && before != after {
            self.wire.sinks.iter().for_each(|sink| sink.set_level(after));
        }
    }
}

/// A device's output pin. Clones are the same pin.
#[derive(Clone, Default)]
pub struct IrqLine(End);

impl IrqLine {
    /// A pin that leads nowhere.
    pub fn unconnected() -> Self {
        IrqLine(End::Nowhere)
    }

    /// One pin on several wires.
    pub fn join(mut lines: Vec<IrqLine>) -> Self {
        if lines.len() > 1 { IrqLine(End::Many(lines.into())) } else { lines.pop().unwrap_or_default() }
    }

    /// A pin with a wire and a sink of its own.
    pub fn new(label: impl Into<String>, sink: Arc<dyn LineSink>) -> Self {
        IrqWire::new(label, vec![sink]).source()
    }

    /// Drives the pin.
    pub fn set(&self, level: bool) {
        match &self.0 {
            End::Nowhere => {}
            End::One(source) => source.set(level, true),
            End::Many(lines) => lines.iter().for_each(|line| line.set(level)),
        }
    }

    /// Drives the pin high, then low: an edge.
    pub fn pulse(&self) {
        self.set(true);
        self.set(false);
    }

    /// Sets the level after a restore: the far end restores its own view of the wire and sees no edge.
    pub fn import(&self, level: bool) {
        match &self.0 {
            End::Nowhere => {}
            End::One(source) => source.set(level, false),
            End::Many(lines) => lines.iter().for_each(|line| line.import(level)),
        }
    }

    /// The level this pin drives (not that of a shared wire).
    pub fn level(&self) -> bool {
        match &self.0 {
            End::Nowhere => false,
            End::One(source) => *source.level.lock(),
            End::Many(lines) => lines.first().is_some_and(IrqLine::level),
        }
    }

    /// Whether the pin leads anywhere.
    pub fn is_connected(&self) -> bool {
        !matches!(self.0, End::Nowhere)
    }

    /// What the wire is called.
    pub fn label(&self) -> &str {
        match &self.0 {
            End::Nowhere => "unconnected",
            End::One(source) => &source.wire.label,
            End::Many(lines) => lines.first().map_or("unconnected", IrqLine::label),
        }
    }
}

impl fmt::Debug for IrqLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IrqLine({}={})", self.label(), u8::from(self.level()))
    }
}

/// A message-signalled interrupt: a write of `data` to `address` by bus master `requester`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct MsiMessage {
    /// Guest physical address of the doorbell.
    pub address: u64,
    /// Value written.
    pub data: u32,
    /// Who writes: a PCI requester id (bus, device, function), 0 if not PCI.
    pub requester: u32,
}

/// Takes message-signalled interrupts.
pub trait MsiSink: Send + Sync {
    /// Delivers a message.
    fn signal(&self, message: MsiMessage);
}

impl<F: Fn(MsiMessage) + Send + Sync> MsiSink for F {
    fn signal(&self, message: MsiMessage) {
        self(message);
    }
}

/// Where a device sends its messages.
#[derive(Clone)]
pub struct MsiTarget(Arc<dyn MsiSink>);

impl MsiTarget {
    /// A target that ends in `sink`.
    pub fn new(sink: Arc<dyn MsiSink>) -> Self {
        MsiTarget(sink)
    }

    /// Sends a message.
    pub fn signal(&self, message: MsiMessage) {
        self.0.signal(message);
    }
}

impl fmt::Debug for MsiTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MsiTarget")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_wires_are_ored_and_only_changes_are_told() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let sink = log.clone();
        let wire = IrqWire::new("shared", vec![Arc::new(move |level| sink.lock().push(level))]);
        let (a, b) = (wire.source(), wire.source());
        a.set(true);
        a.set(true);
        b.set(true);
        a.set(false);
        assert!(wire.level() && !a.level() && b.level());
        b.set(false);
        b.set(false);
        a.pulse();
        b.import(true);
        assert!(wire.level());
        assert_eq!(*log.lock(), [true, false, true, false]);
        b.set(false);
        assert_eq!(log.lock().len(), 5);
        IrqLine::unconnected().set(true);

        let both = IrqLine::join(vec![wire.source(), a.clone()]);
        both.set(true);
        assert!(wire.level() && a.level() && both.level());
        both.set(false);
        assert!(!wire.level());
        assert!(!IrqLine::join(vec![]).is_connected());
    }
}
