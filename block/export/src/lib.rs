//! Giving disks to others over the network. [`Export`] is a disk as others see it; [`NbdServer`] serves such by NBD.
//!
//! Clients are not trusted: what they send is checked before memory is taken for it, one connection has a bounded number of
//! requests and bytes in flight, and a client that breaks the protocol loses its connection, nothing else.

mod export;
mod nbd;

pub use export::{Bitmap, Export, Piece, image_pieces, node_pieces};
pub use nbd::{NbdServer, ServerOptions};
