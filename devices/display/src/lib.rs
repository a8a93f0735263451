//! Graphics cards, one folder a card, and pictures of what they show.

mod picture;
mod vga;

pub use picture::{PictureError, PictureFormat, write_picture};
pub use vga::{Vga, VgaConfig};

use device::DeviceKind;

/// All kinds of device in this crate.
pub const KINDS: &[DeviceKind] = &[DeviceKind::of::<VgaConfig>()];
