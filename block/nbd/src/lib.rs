//! Network block devices (the NBD project's `doc/proto.md`): constants of the wire, streams over TCP and Unix sockets with
//! and without TLS, names of exports, and the client as a node that formats stand on.
//!
//! The other end is not trusted: no length it sends makes us take memory without bound, a reply that fits no request ends
//! the connection, and what is wrong is said in one line with the export's name. The server is in `block_export`, which
//! uses the same wire and streams.

mod address;
mod authz;
mod client;
mod handshake;
pub mod proto;
mod socket;
mod stream;
mod subject;
mod tls;

pub use address::{Address, NbdOptions, TlsRole};
pub use authz::{AUTHZ_KINDS, Authz};
pub use client::NbdNode;
pub use handshake::{ExportInfo, hand_over, list};
pub use socket::{Listener, Socket};
pub use stream::{Reader, Writer, channel, start_tls};
pub use tls::{TlsClient, TlsServer};
