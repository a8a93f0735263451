//! What a helper or a hook of the guest crate sees of its vCPU.

use std::sync::atomic::Ordering;

use accel::{LogItems, LogSink};
use tcg_ir::{Exceptions, MemOp, RmwOp};

use crate::{
    Guest, Trap,
    memory::{self, Wide},
    origins::Word,
    plugins, runs,
    vcpu::Core,
};

/// A vCPU while guest-crate code runs on its behalf.
pub struct Cx<'a, G: Guest> {
    /// The guest's state.
    pub state: &'a mut G::State,
    pub(crate) core: &'a mut Core,
    pub(crate) guest: &'a G,
}

impl<'a, G: Guest> Cx<'a, G> {
    /// The guest object.
    #[must_use]
    pub fn guest(&self) -> &'a G {
        self.guest
    }

    /// Index of the vCPU.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.core.index
    }

    /// Levels of the interrupt inputs, one bit a line.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.core.shared.lines()
    }

    /// Imports the levels of the interrupt inputs with saved state, unless it is state that another accelerator gives back: the
    /// machine may have moved a wire meanwhile.
    pub fn set_lines(&mut self, lines: u64) {
        if !self.core.keeps_lines {
            self.core.shared.set_lines(lines);
        }
    }

    /// The machine's clock in nanoseconds.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.core.clock.now_ns()
    }

    /// Frequency of the guest-visible time base.
    #[must_use]
    pub fn timebase_hz(&self) -> u64 {
        self.core.timebase_hz
    }

    /// Asks for the vCPU to look at its interrupts again at `deadline_ns`, or takes that back.
    pub fn arm_timer(&mut self, deadline_ns: Option<u64>) {
        match deadline_ns {
            Some(ns) => self.core.timer.arm(ns),
            None => self.core.timer.cancel(),
        }
    }

    /// Leaves the unit after the running helper (`Effects::EXITS`): the key, the translation or the pending interrupts
    /// may have changed.
    pub fn leave_unit(&mut self) {
        self.core.leave = true;
    }

    /// Has the next unit left before its first instruction, so that [`Guest::interrupt`] is asked: interrupts that
    /// wait may have been enabled.
    pub fn look_soon(&mut self) {
        self.core.header().exit_request.store(1, Ordering::SeqCst);
    }

    /// The local APICs, if the machine has them (x86).
    #[must_use]
    pub fn local_apics(&self) -> Option<&dyn accel::LocalApics> {
        self.core.io().local_apics()
    }

    /// True if something asks the vCPU to look around: a helper that would run for long stops and leaves.
    #[must_use]
    pub fn exit_requested(&self) -> bool {
        self.core.header().exit_request.load(Ordering::Relaxed) != 0
    }

    /// Port input of 1, 2 or 4 bytes.
    #[must_use]
    pub fn pio_read(&mut self, port: u16, bytes: usize) -> u32 {
        let mut data = [0xff; 4];
        let n = bytes.clamp(1, 4);
        // Nothing there reads as what the bus floats to, which the bus has filled in.
        let _ = self.core.io().pio_read(port, &mut data[..n]);
        let raw = u32::from_le_bytes(data);
        if n == 4 { raw } else { raw & ((1 << (8 * n)) - 1) }
    }

    /// Port output of 1, 2 or 4 bytes.
    pub fn pio_write(&mut self, port: u16, bytes: usize, value: u32) {
        let _ = self.core.io().pio_write(port, &value.to_le_bytes()[..bytes.clamp(1, 4)]);
        self.core.follow_map();
    }

    /// Sticky floating-point exceptions.
    #[must_use]
    pub fn exceptions(&self) -> Exceptions {
        Exceptions::from_bits_truncate(self.core.header().fpexc)
    }

    /// Replaces the sticky floating-point exceptions.
    pub fn set_exceptions(&mut self, e: Exceptions) {
        self.core.header_mut().fpexc = e.bits();
    }

    /// Drops cached translations: those of every address space whose tag `space` accepts, of all pages or of the page at
    /// `gva`. The tag `u64::MAX` stands for what all address spaces share ([`Mapping::global`](crate::Mapping::global)).
    pub fn flush_tlb(&mut self, gva: Option<u64>, space: impl Fn(u64) -> bool) {
        self.core.flush_tlb(gva, space);
    }

    /// Makes the address space named `tag` the current one. Translations cached under other tags are kept.
    pub fn set_space(&mut self, tag: u64) {
        self.core.set_space(tag);
    }

    /// Makes the address space named `tag` the current one as if all its translations but those that all spaces share were
    /// dropped before. Those stay that a walk from `root` would find again, as far as walks say what they read
    /// ([`Cx::walk_begins`]).
    pub fn reload_space(&mut self, tag: u64, root: u64) {
        self.core.reload_space(tag, root, G::SET_BY_WALKS);
    }

    /// A walk says that it begins, in the tables that `root` names, and will say what it reads of them. Besides those words
    /// and [`Guest::SET_BY_WALKS`] it may depend on nothing whose change does not drop all translations.
    pub fn walk_begins(&mut self, root: u64) {
        self.core.walked.begin(root);
    }

    /// The walk went by a word of 4 or 8 bytes, with the bits that it set itself. The last one is the leaf.
    pub fn walked(&mut self, gpa: u64, bytes: usize, value: u64) {
        self.core.walked.push(Word { gpa, bytes: bytes as u8, value });
    }

    /// Enters or leaves the mode in which the vCPU sees secure regions of memory (x86's system management mode). Drops all
    /// cached translations if that changes.
    pub fn set_secure(&mut self, on: bool) {
        self.core.set_secure(on);
    }

    /// Reads guest physical memory (page tables). `None` if it is not RAM.
    #[must_use]
    pub fn phys_read(&self, gpa: u64, bytes: usize) -> Option<u64> {
        self.core.phys_read(gpa, bytes)
    }

    /// Compares and swaps 4 or 8 bytes of guest physical memory. `None` if it is not RAM; else whether it was `old`.
    #[must_use]
    pub fn phys_cas(&mut self, gpa: u64, bytes: usize, old: u64, new: u64) -> Option<bool> {
        self.core.phys_cas(gpa, bytes, old, new)
    }

    /// Loads as an instruction would.
    pub fn load(&mut self, gva: u64, m: MemOp) -> Result<u64, Trap> {
        let value = memory::load(self, gva, m)?;
        self.tell(gva, m.bytes(), (true, false), Some(plugins::cut(value, m)));
        Ok(value)
    }

    /// Stores as an instruction would.
    pub fn store(&mut self, gva: u64, m: MemOp, value: u64) -> Result<(), Trap> {
        memory::store(self, gva, m, value)?;
        self.tell(gva, m.bytes(), (false, true), Some(plugins::cut(value, m)));
        Ok(())
    }

    /// Loads 16 to 64 bytes.
    pub fn load_wide(&mut self, gva: u64, m: MemOp) -> Result<Wide, Trap> {
        let value = memory::load_wide(self, gva, m)?;
        self.tell(gva, m.bytes(), (true, false), None);
        Ok(value)
    }

    /// Stores 16 to 64 bytes.
    pub fn store_wide(&mut self, gva: u64, m: MemOp, value: &Wide) -> Result<(), Trap> {
        memory::store_wide(self, gva, m, value)?;
        self.tell(gva, m.bytes(), (false, true), None);
        Ok(())
    }

    /// Loads bytes, not as one access; plain memory at the speed of host memory.
    pub fn load_run(&mut self, gva: u64, mmu: usize, out: &mut [u8]) -> Result<(), Trap> {
        self.core.check_watch(gva, out.len() as u64, false);
        runs::read_run(self, gva, mmu, out)?;
        self.tell(gva, out.len(), (true, false), None);
        Ok(())
    }

    /// Stores bytes, not as one access; plain memory at the speed of host memory.
    pub fn store_run(&mut self, gva: u64, mmu: usize, data: &[u8]) -> Result<(), Trap> {
        self.core.check_watch(gva, data.len() as u64, true);
        runs::write_run(self, gva, mmu, data)?;
        self.tell(gva, data.len(), (false, true), None);
        Ok(())
    }

    /// Atomic read-modify-write; the old value.
    pub fn rmw(&mut self, gva: u64, m: MemOp, op: RmwOp, value: u64) -> Result<u64, Trap> {
        let old = memory::rmw(self, gva, m, op, value)?;
        self.tell(gva, m.bytes(), (true, true), Some(plugins::cut(old, m)));
        Ok(old)
    }

    /// Atomic compare and swap; the old value.
    pub fn cas(&mut self, gva: u64, m: MemOp, expected: u64, new: u64) -> Result<u64, Trap> {
        let old = memory::cas(self, gva, m, expected, new)?;
        self.tell(gva, m.bytes(), (true, true), Some(plugins::cut(old, m)));
        Ok(old)
    }

    /// Atomic compare and swap of 16 bytes at an address that is a multiple of 16; the old value.
    pub fn cas_wide(&mut self, gva: u64, m: MemOp, expected: u128, new: u128) -> Result<u128, Trap> {
        let old = memory::cas_wide(self, gva, m, expected, new)?;
        self.tell(gva, 16, (true, true), None);
        Ok(old)
    }

    /// Copies forward up to `len` bytes, as far as both pages reach, at the speed of host memory; how many there were, at
    /// least one. `None` if a place is not plain memory: then accesses go one by one. No byte may be one that has been
    /// written before.
    pub fn copy_run(&mut self, from: u64, to: u64, mmu: usize, len: usize) -> Result<Option<usize>, Trap> {
        let done = runs::copy_run(self, from, to, mmu, len)?;
        if let Some(n) = done {
            self.tell(from, n, (true, false), None);
            self.tell(to, n, (false, true), None);
        }
        Ok(done)
    }

    /// Fills up to `len` bytes with repetitions of `pattern`, in the same way.
    pub fn fill_run(&mut self, to: u64, mmu: usize, pattern: u64, len: usize) -> Result<Option<usize>, Trap> {
        let done = runs::fill_run(self, to, mmu, pattern, len)?;
        if let Some(n) = done {
            self.tell(to, n, (false, true), None);
        }
        Ok(done)
    }

    /// Checks that a store of `len` bytes at `gva` would succeed, without doing it.
    pub fn probe(&mut self, gva: u64, len: u64, access: crate::Access, mmu: usize) -> Result<(), Trap> {
        memory::probe(self, gva, len, access, mmu)
    }

    /// Takes the interrupt that an x86-style controller has pending.
    #[must_use]
    pub fn ack_irq(&mut self) -> Option<u8> {
        self.core.ack_irq()
    }

    /// The log, if any of `items` is wanted.
    #[must_use]
    pub fn log(&self, items: LogItems) -> Option<&LogSink> {
        self.core.log.wants(items).then_some(&self.core.log)
    }
}
