//! The cases.

mod debug;
mod fields;
mod io;
mod irq;
mod kernel;
mod memory;
mod run;

use accel::arch::GuestArch;

use crate::Case;

/// All of them, simple ones first.
pub(crate) const ALL: &[Case] = &[
    Case { name: "mmio", run: io::mmio },
    Case { name: "pio", run: io::pio },
    Case { name: "unknown register", run: io::unknown_msr },
    Case { name: "halt", run: irq::halt },
    Case { name: "irq", run: irq::irq },
    Case { name: "msi", run: irq::msi },
    Case { name: "nmi", run: irq::nmi },
    Case { name: "pin of a controller", run: kernel::pin },
    Case { name: "end of interrupt", run: kernel::end_of_interrupt },
    Case { name: "irqfd", run: kernel::events::irqfd },
    Case { name: "ioeventfd", run: kernel::events::ioeventfd },
    Case { name: "clock", run: kernel::clock },
    Case { name: "dirty log", run: memory::dirty_log },
    Case { name: "read-only memory", run: memory::read_only },
    Case { name: "crooked memory that moves", run: memory::crooked },
    Case { name: "remove memory", run: memory::remove },
    Case { name: "replace memory", run: memory::replace },
    Case { name: "breakpoint", run: debug::breakpoint },
    Case { name: "single step", run: debug::step },
    Case { name: "watchpoint", run: debug::watch },
    Case { name: "reset", run: run::reset },
    Case { name: "kick", run: run::kick },
    Case { name: "state round trip", run: run::round_trip },
    Case { name: "every register", run: fields::every },
    Case { name: "state errors", run: run::state_errors },
    Case { name: "start-up of all vCPUs", run: run::smp },
];

fn is_x86(guest: GuestArch) -> bool {
    guest == GuestArch::X86_64
}
