//! Files of web servers as read-only disks: HTTP/1.1 (RFC 9110, RFC 9112) with byte ranges, over TLS too.
//!
//! Only what a disk needs is spoken: `HEAD` for the size, `GET` with a range for data, over connections that are kept. A
//! server is not trusted: headers are bounded, and an answer that is not exactly the range asked for is an error.

mod connection;
mod node;
mod tls;
mod url;

pub use node::{HttpNode, HttpOptions};
pub use url::Url;
