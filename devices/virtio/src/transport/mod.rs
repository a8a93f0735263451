//! Transports: how a driver finds a device, negotiates with it and tells it where the rings are.
//!
//! [`core`](self) of them all is [`Core`]: status, features and queue registers (virtio 1.2, 2.1, 2.2, 3.1 and
//! 4.1.4.3, which virtio-mmio's registers mirror). A transport decodes its registers into calls of it and
//! supplies the [`Notifier`].

mod core;
mod legacy;
pub(crate) mod mmio;
pub(crate) mod pci;

pub use core::RingOptions;
pub(crate) use core::{Area, Core, TIMER, forward_to_core, set_first};

#[cfg(test)]
mod pci_tests;
#[cfg(test)]
mod tests;
