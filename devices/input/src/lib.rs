//! Keyboards and pointing devices: what a user does ([`Key`], [`Motion`]), the PS/2 devices that say it on their
//! wires, and the controller these hang on.

mod i8042;
mod keyboard;
mod keys;
mod mouse;

pub use i8042::{I8042, I8042Config};
pub use keys::{KEYS, Key};
pub use mouse::{Button, Motion};

use device::DeviceKind;

/// All kinds of device in this crate.
pub const KINDS: &[DeviceKind] = &[DeviceKind::of::<I8042Config>()];
