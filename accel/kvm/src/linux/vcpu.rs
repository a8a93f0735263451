//! A vCPU on its thread: the run loop.
//!
//! One turn of the loop: take back pokes, look at kicks, let the architecture deliver interrupts and signals,
//! enter `KVM_RUN`, carry out the exit. An I/O exit leaves an instruction half done in KVM; it is finished
//! before `run` returns, so that the state read afterwards is that of an instruction boundary.

use std::marker::PhantomData;
use std::sync::Arc;

use accel::arch::CpuState;
use accel::{AccelError, DebugConfig, DebugEvent, Exit, IoResult, Kicker, Vcpu, VcpuError, VcpuIo};
use guest_memory::AddressSpace;
use kvm_bindings::{
    KVM_EXIT_DEBUG, KVM_EXIT_DIRTY_RING_FULL, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR,
    KVM_EXIT_IO, KVM_EXIT_MEMORY_FAULT, KVM_EXIT_MMIO, KVM_EXIT_SHUTDOWN, KVM_EXIT_SYSTEM_EVENT,
    KVM_EXIT_UNKNOWN,
};
use kvm_ioctls::VcpuFd;
use parking_lot::RwLock;

use super::fatal::Cause;
use super::kick::Shared;
use super::slots::Slots;
use super::{host, run_page, vcpu_refused};

/// A vCPU of the KVM accelerator, bound to its thread.
pub(crate) struct KvmVcpu {
    index: u32,
    fd: VcpuFd,
    shared: Arc<Shared>,
    gate: Arc<RwLock<()>>,
    memory: Arc<AddressSpace>,
    arch: host::VcpuArch,
    slots: Arc<Slots>,
    run_size: usize,
    /// KVM has an instruction to finish.
    io_pending: bool,
    /// Not `Send`: the run page and the signals belong to this thread.
    bound: PhantomData<*const ()>,
}

/// What one `KVM_RUN` came to.
enum Turn {
    Again,
    Interrupted,
    Leave(Exit),
}

impl KvmVcpu {
    #[expect(clippy::too_many_arguments, reason = "called once, by the binder, with what it holds")]
    pub(crate) fn new(
        index: u32,
        fd: VcpuFd,
        shared: Arc<Shared>,
        gate: Arc<RwLock<()>>,
        memory: Arc<AddressSpace>,
        arch: host::VcpuArch,
        slots: Arc<Slots>,
        run_size: usize,
    ) -> Self {
        Self { index, fd, shared, gate, memory, arch, slots, run_size, io_pending: false, bound: PhantomData }
    }

    fn turn(&mut self, io: &dyn VcpuIo) -> Result<Turn, VcpuError> {
        let outcome = {
            let _open = self.gate.read();
            self.shared.enter();
            let outcome = self.fd.run().map(drop);
            self.shared.leave();
            outcome
        };
        self.arch.after_run(self.index, &mut self.fd, io);
        match outcome {
            Ok(()) => {}
            Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => {
                self.io_pending = false;
                return Ok(Turn::Interrupted);
            }
            Err(e) => {
                return Err(VcpuError::Host { operation: "running the guest (KVM_RUN)", source: e.into() });
            }
        }
        self.io_pending = false;
        self.carry_out(io)
    }

    fn carry_out(&mut self, io: &dyn VcpuIo) -> Result<Turn, VcpuError> {
        let index = self.index;
        let run = self.fd.get_kvm_run();
        let cause = match run.exit_reason {
            KVM_EXIT_MMIO => {
                self.io_pending = true;
                let exit = run_page::mmio(run);
                let result = if exit.write {
                    io.mmio_write(exit.gpa, exit.data)
                } else {
                    io.mmio_read(exit.gpa, exit.data)
                };
                if result != IoResult::Ok {
                    self.arch.bus_error(&self.fd)?;
                }
                return Ok(Turn::Again);
            }
            KVM_EXIT_IO => {
                self.io_pending = true;
                let Some(exit) = run_page::port(run, self.run_size) else {
                    return self
                        .fatal(Cause::other("KVM reports a malformed port access".into(), "report a bug"));
                };
                for part in exit.data.chunks_exact_mut(exit.size) {
                    // Ports have no way to signal an error; a failed read has the bus default in `part`.
                    let _ =
                        if exit.write { io.pio_write(exit.port, part) } else { io.pio_read(exit.port, part) };
                }
                return Ok(Turn::Again);
            }
            KVM_EXIT_DIRTY_RING_FULL => {
                self.slots.drain_rings().map_err(|e| match e {
                    AccelError::Host { operation, source } => VcpuError::Host { operation, source },
                    other => VcpuError::Host {
                        operation: "collecting dirty rings",
                        source: std::io::Error::other(other),
                    },
                })?;
                return Ok(Turn::Again);
            }
            KVM_EXIT_INTR => return Ok(Turn::Again),
            KVM_EXIT_DEBUG => {
                let exit = run_page::debug(run);
                return Ok(self
                    .arch
                    .debug_exit(&self.fd, &exit)?
                    .map_or(Turn::Again, |e| Turn::Leave(Exit::Debug(e))));
            }
            KVM_EXIT_SHUTDOWN => return Ok(Turn::Leave(Exit::Reset)),
            KVM_EXIT_SYSTEM_EVENT => match run_page::system_event(run) {
                1 => return Ok(Turn::Leave(Exit::Shutdown)),
                2 => return Ok(Turn::Leave(Exit::Reset)),
                3 => Cause::other("the guest reports that it crashed".into(), "look at the guest's console"),
                n => Cause::other(
                    format!("KVM reports system event {n}"),
                    "this version of Rhea does not know it",
                ),
            },
            KVM_EXIT_FAIL_ENTRY => {
                let (reason, cpu) = run_page::fail_entry(run);
                let text = format!("host CPU {cpu} refuses the guest's state, hardware reason {reason:#x}");
                Cause::other(
                    text,
                    "the registers set for this vCPU contradict one another, or the host lacks a mode",
                )
            }
            KVM_EXIT_INTERNAL_ERROR => {
                let (suberror, data) = run_page::internal(run);
                // A KVM that emulates the guest's kernel does not know the instruction of a planted breakpoint.
                if let Some(pc) = self.arch.planted_breakpoint(&self.fd) {
                    return Ok(Turn::Leave(Exit::Debug(DebugEvent::Breakpoint { pc })));
                }
                Cause::internal(suberror, &data)
            }
            KVM_EXIT_MEMORY_FAULT => {
                let (gpa, size) = run_page::memory_fault(run);
                let text = format!("KVM cannot reach the memory behind {gpa:#x} ({size:#x} bytes)");
                Cause::other(text, "the host has taken back memory of the guest")
            }
            KVM_EXIT_UNKNOWN => {
                let reason = run_page::hardware_reason(run);
                Cause::other(format!("unknown exit, hardware reason {reason:#x}"), "update the host kernel")
            }
            reason => match self.arch.exit(&self.shared, index, &mut self.fd, reason, io)? {
                host::Handled::Again => return Ok(Turn::Again),
                host::Handled::Unfinished => {
                    self.io_pending = true;
                    return Ok(Turn::Again);
                }
                host::Handled::Unknown => Cause::other(
                    format!("KVM exit {reason} is not known"),
                    "the host kernel is newer than Rhea",
                ),
            },
        };
        self.fatal(cause)
    }

    fn fatal(&mut self, cause: Cause) -> Result<Turn, VcpuError> {
        // The state itself may be what is broken: then the report goes without it.
        let state = self.arch.state(&self.fd, &self.shared).ok();
        let fd = &self.fd;
        Ok(Turn::Leave(
            cause.exit(state.as_ref(), &self.memory, |gva| host::translate(fd, &self.memory, gva)),
        ))
    }

    /// Lets KVM finish the instruction whose I/O was carried out, without executing another one. Returns an
    /// exit if that brings one.
    fn finish_io(&mut self, io: &dyn VcpuIo) -> Result<Option<Exit>, VcpuError> {
        while self.io_pending {
            self.fd.set_kvm_immediate_exit(1);
            let turn = self.turn(io);
            self.fd.set_kvm_immediate_exit(0);
            match turn? {
                // A wide or crossing access comes in several parts.
                Turn::Again => {}
                Turn::Interrupted => break,
                Turn::Leave(exit) => return Ok(Some(exit)),
            }
        }
        Ok(None)
    }
}

impl Vcpu for KvmVcpu {
    fn run(&mut self, io: &dyn VcpuIo) -> Result<Exit, VcpuError> {
        loop {
            self.shared.clear_pokes();
            if self.shared.take_kick() {
                if let Some(exit) = self.finish_io(io)? {
                    self.shared.kick();
                    return Ok(exit);
                }
                self.arch.stopping(&self.fd);
                return Ok(Exit::Kicked);
            }
            match self.arch.before_run(&self.shared, self.index, &mut self.fd, io)? {
                host::Before::Run => {}
                host::Before::Sleep => {
                    self.shared.sleep();
                    continue;
                }
                host::Before::Leave(exit) => return Ok(exit),
            }
            if let Turn::Leave(exit) = self.turn(io)? {
                return Ok(exit);
            }
        }
    }

    fn state(&mut self) -> Result<CpuState, VcpuError> {
        self.arch.state(&self.fd, &self.shared)
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), VcpuError> {
        // A half-done access belongs to the state that goes away.
        self.io_pending = false;
        let before = self.arch.state(&self.fd, &self.shared)?;
        let done = self.arch.set_state(&mut self.fd, &self.shared, state);
        if done.is_err() {
            // What held a moment ago can be set again.
            self.arch.set_state(&mut self.fd, &self.shared, &before)?;
        }
        done
    }

    fn set_registers(&mut self, before: &CpuState, after: &CpuState) -> Result<(), VcpuError> {
        self.arch.take_registers(&mut self.fd, &self.shared, before, after)
    }

    fn set_debug(&mut self, debug: &DebugConfig) -> Result<(), VcpuError> {
        self.arch.set_debug(&self.fd, &self.memory, debug)
    }

    fn translate(&mut self, gva: u64) -> Option<u64> {
        host::translate(&self.fd, &self.memory, gva)
    }
}

impl Drop for KvmVcpu {
    fn drop(&mut self) {
        self.arch.remove_breakpoints(&self.memory);
        self.shared.unbind();
    }
}

/// Kept for uniform messages of both architectures.
pub(crate) fn get<T>(what: &'static str, result: Result<T, kvm_ioctls::Error>) -> Result<T, VcpuError> {
    result.map_err(vcpu_refused(what))
}
