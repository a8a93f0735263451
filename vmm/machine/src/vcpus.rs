//! The vCPU threads: one each, bound for life, driven by a shared run state and a job queue a thread.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use accel::arch::GuestArch;
use accel::{Exit, InternalError, Kicker, Vcpu, VcpuBinder, VcpuIo};
use device::CpuPresence;
use parking_lot::{Condvar, Mutex};

use crate::MachineError;

type Job = Box<dyn FnOnce(&mut dyn Vcpu) + Send>;

/// What a vCPU thread tells the machine.
pub(crate) type ExitHandler = Arc<dyn Fn(u32, Exit) + Send + Sync>;

#[derive(Default)]
struct Control {
    running: bool,
    quit: bool,
    /// Threads that stand still.
    standing: usize,
    jobs: Vec<VecDeque<Job>>,
    /// vCPUs that are halted for good until a reset.
    halted: Vec<bool>,
    /// vCPUs that a debugger holds while others run.
    held: Vec<bool>,
}

struct Shared {
    arch: GuestArch,
    /// Which vCPUs are there; the others stand.
    present: CpuPresence,
    control: Mutex<Control>,
    /// Signalled to threads.
    go: Condvar,
    /// Signalled by threads.
    stood: Condvar,
}

/// All vCPU threads of a machine.
pub(crate) struct Vcpus {
    shared: Arc<Shared>,
    kickers: Vec<Arc<dyn Kicker>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Vcpus {
    /// Starts the threads; they stand still until [`Vcpus::run`].
    pub(crate) fn new(
        arch: GuestArch,
        present: CpuPresence,
        binders: Vec<Box<dyn VcpuBinder>>,
        io: &dyn Fn(u32) -> Arc<dyn VcpuIo>,
        on_exit: &ExitHandler,
    ) -> Result<Self, MachineError> {
        let n = binders.len();
        let control = Control {
            jobs: (0..n).map(|_| VecDeque::new()).collect(),
            halted: vec![false; n],
            held: vec![false; n],
            ..Control::default()
        };
        let shared = Arc::new(Shared {
            arch,
            present,
            control: Mutex::new(control),
            go: Condvar::new(),
            stood: Condvar::new(),
        });
        let kickers = binders.iter().map(|b| b.kicker()).collect();
        let all = Self { shared: shared.clone(), kickers, threads: Mutex::default() };
        for b in binders {
            let index = b.index();
            let (shared, io, on_exit) = (shared.clone(), io(index), on_exit.clone());
            let (bound, result) = mpsc::channel();
            let thread =
                std::thread::Builder::new().name(format!("vcpu{index}")).spawn(move || match b.bind() {
                    Ok(mut v) => {
                        let _ = bound.send(Ok(()));
                        drop(bound);
                        drive(index, v.as_mut(), &shared, &*io, &on_exit);
                    }
                    Err(e) => {
                        let _ = bound.send(Err(e));
                    }
                });
            let thread = thread.map_err(|source| MachineError::Host { what: "vcpu thread", source })?;
            all.threads.lock().push(thread);
            match result.recv() {
                Ok(Ok(())) => {}
                Ok(Err(source)) => return Err(MachineError::Vcpu { index, source }),
                Err(_) => return Err(MachineError::Board(format!("vcpu {index}: its thread died"))),
            }
        }
        Ok(all)
    }

    pub(crate) fn len(&self) -> usize {
        self.kickers.len()
    }

    /// Lets the guest run.
    pub(crate) fn run(&self) {
        self.shared.control.lock().running = true;
        self.shared.go.notify_all();
    }

    /// Asks all vCPUs to stop, without waiting: callable from a vCPU's own thread.
    pub(crate) fn ask_stop(&self) {
        self.shared.control.lock().running = false;
        self.kick();
    }

    fn kick(&self) {
        self.kickers.iter().for_each(|k| k.kick());
    }

    /// Stops all vCPUs and returns when they stand still. Not to be called from a vCPU's thread.
    pub(crate) fn stop(&self) {
        self.ask_stop();
        let mut c = self.shared.control.lock();
        while c.standing < self.kickers.len() {
            self.shared.stood.wait(&mut c);
        }
    }

    /// Holds these vCPUs back from the next [`Vcpus::run`] on, and no others.
    pub(crate) fn hold(&self, cpus: &[u32]) {
        let mut c = self.shared.control.lock();
        for (i, held) in c.held.iter_mut().enumerate() {
            *held = cpus.contains(&(i as u32));
        }
        drop(c);
        self.shared.go.notify_all();
    }

    /// vCPUs have come.
    pub(crate) fn look(&self) {
        // Under the lock: a thread that has just looked is waiting by now.
        let _control = self.shared.control.lock();
        self.shared.go.notify_all();
    }

    /// Forgets that vCPUs were halted for good.
    pub(crate) fn unhalt(&self) {
        self.shared.control.lock().halted.fill(false);
    }

    /// Runs `job` on a vCPU's thread, between two runs of the guest, and returns its result.
    pub(crate) fn on<R: Any + Send>(
        &self,
        index: u32,
        job: impl FnOnce(&mut dyn Vcpu) -> R + Send + 'static,
    ) -> Option<R> {
        let (tx, rx) = mpsc::channel();
        let boxed: Job = Box::new(move |v| {
            let _ = tx.send(job(v));
        });
        self.shared.control.lock().jobs.get_mut(index as usize)?.push_back(boxed);
        self.shared.go.notify_all();
        self.kickers.get(index as usize)?.kick();
        rx.recv().ok()
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        self.shared.control.lock().quit = true;
        self.shared.go.notify_all();
        self.kick();
        let me = std::thread::current().id();
        for t in self.threads.lock().drain(..) {
            if t.thread().id() != me {
                let _ = t.join();
            }
        }
    }
}

fn drive(index: u32, v: &mut dyn Vcpu, shared: &Shared, io: &dyn VcpuIo, on_exit: &ExitHandler) {
    let at = index as usize;
    loop {
        let mut c = shared.control.lock();
        c.standing += 1;
        shared.stood.notify_all();
        loop {
            if c.quit {
                return;
            }
            if let Some(job) = c.jobs[at].pop_front() {
                // Others may look at the control block while a job runs; the vCPU itself still stands still.
                drop(c);
                job(v);
                c = shared.control.lock();
                continue;
            }
            if c.running && !c.halted[at] && !c.held[at] && shared.present.has(index) {
                break;
            }
            shared.go.wait(&mut c);
        }
        c.standing -= 1;
        drop(c);
        // Elsewhere on the stack nothing is left half done: a panic inside generated code ends the process at once.
        let outcome = catch_unwind(AssertUnwindSafe(|| v.run(io)));
        let Ok(outcome) = outcome.map_err(|panic| {
            let mut c = shared.control.lock();
            (c.running, c.halted[at]) = (false, true);
            drop(c);
            on_exit(index, Exit::Fatal(Box::new(failure(shared.arch, &message(&*panic), DEFECT))));
        }) else {
            continue;
        };
        match outcome {
            Ok(Exit::Kicked) => {}
            Ok(Exit::Halted) => {
                shared.control.lock().halted[at] = true;
                on_exit(index, Exit::Halted);
            }
            Ok(exit) => {
                // The owner decides, and until it has this vCPU must not execute another instruction: a debugger
                // would find it past its breakpoint, and a guest that asked for a reset would go on.
                shared.control.lock().running = false;
                on_exit(index, exit);
            }
            Err(e) => {
                let error = failure(
                    shared.arch,
                    &e.to_string(),
                    "this is an error of the host or of Rhea; try another accelerator (-accel tcg)",
                );
                shared.control.lock().halted[at] = true;
                on_exit(index, Exit::Fatal(Box::new(error)));
            }
        }
    }
}

/// What to do about a panic.
const DEFECT: &str = "this is a defect in Rhea: please report it with the lines above";

/// What a panic says.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("a vCPU's thread has panicked: {}", text.unwrap_or("no message"))
}

/// An error that says nothing of the guest.
fn failure(guest: GuestArch, reason: &str, advice: &str) -> InternalError {
    InternalError {
        guest,
        reason: reason.to_owned(),
        pc: 0,
        bytes: Vec::new(),
        registers: String::new(),
        recoverable: false,
        advice: advice.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use accel::arch::CpuState;
    use accel::{DebugConfig, IoResult, VcpuError};

    use super::*;

    /// A vCPU that panics when it runs.
    struct Broken;

    impl Kicker for Broken {
        fn kick(&self) {}
    }

    impl VcpuBinder for Broken {
        fn index(&self) -> u32 {
            0
        }
        fn kicker(&self) -> Arc<dyn Kicker> {
            Arc::new(Broken)
        }
        fn bind(self: Box<Self>) -> Result<Box<dyn Vcpu>, VcpuError> {
            Ok(self)
        }
    }

    impl Vcpu for Broken {
        fn run(&mut self, _io: &dyn VcpuIo) -> Result<Exit, VcpuError> {
            panic!("on purpose");
        }
        fn state(&mut self) -> Result<CpuState, VcpuError> {
            Err(VcpuError::Unsupported("state"))
        }
        fn set_state(&mut self, _state: &CpuState) -> Result<(), VcpuError> {
            Ok(())
        }
        fn set_debug(&mut self, _debug: &DebugConfig) -> Result<(), VcpuError> {
            Ok(())
        }
        fn translate(&mut self, _gva: u64) -> Option<u64> {
            None
        }
    }

    impl VcpuIo for Broken {
        fn mmio_read(&self, _: u64, _: &mut [u8]) -> IoResult {
            IoResult::DecodeError
        }
        fn mmio_write(&self, _: u64, _: &[u8]) -> IoResult {
            IoResult::DecodeError
        }
        fn pio_read(&self, _: u16, _: &mut [u8]) -> IoResult {
            IoResult::DecodeError
        }
        fn pio_write(&self, _: u16, _: &[u8]) -> IoResult {
            IoResult::DecodeError
        }
        fn ack_irq(&self, _: u32) -> Option<u8> {
            None
        }
        fn eoi(&self, _: u8) {}
    }

    #[test]
    fn a_panic_is_told_and_ends_nothing_else() {
        let (tx, rx) = mpsc::channel();
        let tell: ExitHandler = Arc::new(move |cpu, exit| {
            let _ = tx.send((cpu, exit));
        });
        let arch = GuestArch::Riscv64;
        let vcpus =
            Vcpus::new(arch, CpuPresence::default(), vec![Box::new(Broken)], &|_| Arc::new(Broken), &tell)
                .unwrap();
        vcpus.run();
        let (cpu, Exit::Fatal(error)) = rx.recv().unwrap() else { panic!("another exit") };
        assert_eq!((cpu, error.reason.as_str()), (0, "a vCPU's thread has panicked: on purpose"));
        assert_eq!(error.guest, GuestArch::Riscv64);
        // The thread stands, answers, and does not run the vCPU again.
        vcpus.stop();
        assert_eq!(vcpus.on(0, |_| 7), Some(7));
        vcpus.run();
        vcpus.stop();
        assert!(rx.try_recv().is_err());
    }
}
