//! RISC-V guests, 32 and 64 bit.
//!
//! Follows "The RISC-V Instruction Set Manual", volume I (unprivileged) and volume II (privileged). The width is a
//! value ([`Cpu::xlen`]), extensions are a set ([`cpu::Ext`]). Instructions are decoded by tables in
//! `insn32.decode` and `insn16.decode`, translated by `translate/` (one file a chapter), and everything rare goes
//! through `helpers.rs`. The vector extension is `insn_v.decode`, `translate/rvv.rs` and `vector/`.

pub mod cpu;
pub mod csr;
mod decode;
mod disas;
pub mod exceptions;
pub mod guest;
mod helpers;
pub mod interrupts;
pub mod mmu;
pub mod mode;
mod monitor;
pub mod pmp;
pub mod snapshot;
pub mod state;
mod translate;
pub mod triggers;
mod user;
mod vector;

pub use cpu::Cpu;
pub use guest::Riscv;
pub use state::Hart;
