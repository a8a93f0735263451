//! The translator's engine: the translation cache, the softmmu and the loop that runs units, as an accelerator for
//! any [`Guest`].
//!
//! - `vcpu`: the loop; `translate`: guest code to units; `code`: the cache, links, invalidation;
//! - `tlb`, `memory`: the softmmu, tagged by address space, and accesses off its fast path;
//! - `backend`, `interp`, `runtime`, `env`: where generated code and Rust meet;
//! - `breakpoints`: where programs stop; `direct`, `user`: programs without a kernel, whose memory is the host's;
//! - `hot`: a second look at hot code, in the background;
//! - `guarded`: units that look whether their code has changed;
//! - `kept`: units that outlive a process; `plugins`: what plugins asked for, as IR;
//! - `shared`: what other threads reach of a vCPU; `engine`, `accelerator`: the accelerator contract.
//!
//! Invariants: a vCPU's thread alone touches its environment; nothing unwinds through generated code; translations
//! belong to physical memory and the key, cached lookups to the address space.

#![cfg_attr(
    not(all(target_os = "linux", target_arch = "x86_64")),
    expect(dead_code, reason = "what programs need of the cache has no user on a host without user mode")
)]

mod accelerator;
mod backend;
mod breakpoints;
mod code;
mod cx;
pub mod direct;
mod engine;
mod env;
mod guarded;
mod guest;
pub mod hot;
mod interp;
mod jumps;
pub mod kept;
mod memory;
mod origins;
mod plugins;
mod profile;
mod runs;
mod runtime;
mod shared;
mod stats;
mod tlb;
mod translate;
pub mod user;
mod vcpu;

pub use accelerator::Tcg;
pub use cx::Cx;
pub use guest::{
    Access, BusFault, CodeReader, ExitAction, Guest, Helper, Key, Limits, Mapping, Trap, helper,
};
pub use memory::Wide;
