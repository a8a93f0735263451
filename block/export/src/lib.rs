//! Giving disks to others. [`Export`] is a disk as others see it; [`NbdServer`] serves such by NBD, and on Linux
//! `VhostExport` as the rings of a virtio device and `FuseExport` as a file.
//!
//! Clients are not trusted: what they send is checked before memory is taken for it, one connection has a bounded number of
//! requests and bytes in flight, and a client that breaks the protocol loses its connection, nothing else.

mod export;
#[cfg(target_os = "linux")]
mod fuse;
mod nbd;
#[cfg(target_os = "linux")]
mod vhost;

pub use export::{Bitmap, Export, Piece, image_pieces, node_pieces};
#[cfg(target_os = "linux")]
pub use fuse::{FuseExport, FuseOptions};
pub use nbd::{NbdServer, ServerOptions};
#[cfg(target_os = "linux")]
pub use vhost::{VhostExport, VhostOptions, VhostSocket};
