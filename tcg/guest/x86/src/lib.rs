//! x86 guests, from real mode to 64-bit mode.
//!
//! Follows the "Intel 64 and IA-32 Architectures Software Developer's Manual" (SDM); where AMD's processors differ and
//! software can see it, the file says so. Instructions are decoded by iced-x86, translated by `translate/` (one file a
//! chapter or family), and everything rare goes through helpers, which stand with their subject:
//!
//! - `state`, `mode`, `flags`: registers, the key of a unit;
//! - `segment`, `far`, `exceptions`, `interrupts`: protection, control transfers between segments, delivery;
//! - `control`, `msr`, `system`, `debug`, `cpuid`: system registers and instructions;
//! - `svm`: secure virtual machines, with nested paging;
//! - `smm`: system management mode; `kvm`: the paravirtual clock; `mmu`: paging; `strings`, `wide`, `port`: string operations, wide arithmetic, ports;
//! - `user`: programs, without a kernel's tables;
//! - `fpu`, `sse`, `avx512`: x87 and what vector instructions cannot say in IR.

mod avx512;
mod control;
pub mod cpu;
mod cpuid;
mod debug;
mod disas;
pub mod exceptions;
mod far;
pub mod flags;
mod fpu;
pub mod guest;
mod helpers;
mod interrupts;
mod kvm;
mod mmu;
pub mod mode;
mod msr;
mod port;
pub mod segment;
mod smm;
pub mod snapshot;
mod sse;
mod stack;
pub mod state;
mod strings;
mod svm;
mod system;
mod task;
mod text;
mod translate;
mod user;
mod wide;
mod x87;
mod xsave;

pub use cpu::Model;
pub use guest::X86;
pub use state::Cpu;
