//! Guests of a few instructions, assembled here, for testing and measuring what surrounds a guest.

mod riscv;
mod x86;

pub use riscv::{RISCV_STORE, riscv_cold, riscv_count, riscv_power_off, riscv_program, riscv_store};
pub use x86::{DEBUG_EXIT_PORT, DEBUG_EXIT_VALUE, Loader, X86, x86_pvh, x86_told};
