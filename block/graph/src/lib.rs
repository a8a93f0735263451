//! The block graph at run time. A [`Node`] has a name and hooks that see every change to it; whoever stands on a node holds
//! an [`Edge`], which can be led to another node while requests wait. Everything that changes the graph while a machine
//! runs is made of these: snapshots, jobs, exports.
//!
//! A request holds its edge for reading until it is done, so that holding all edges to a node for writing means that nothing
//! is under way there ([`drained`]).

mod bare;
mod bitmap;
mod delegate;
mod edge;
mod hook;
mod node;
mod renewable;
mod write_through;

pub use bare::Bare;
pub use bitmap::DirtyBitmap;
pub use edge::{Edge, Pair, drained, lead};
pub use hook::{Change, Hook};
pub use node::{DetectZeroes, Node};
pub use renewable::Renewable;
pub use write_through::WriteThrough;
