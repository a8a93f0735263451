//! What Intel's gigabit cards have in common: registers, descriptors of what is sent, filters of what comes in.

pub(crate) mod filter;
pub(crate) mod offload;
pub(crate) mod values;
