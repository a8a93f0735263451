//! Random operands against independent implementations.
mod apfloat;
mod operands;
#[cfg(target_arch = "x86_64")]
mod sse;
#[cfg(target_arch = "x86_64")]
mod x87;
