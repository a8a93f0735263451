//! The vCPU threads: one each, bound for life, driven by a shared run state and a job queue a thread.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use accel::{Exit, Kicker, Vcpu, VcpuBinder, VcpuIo};
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
        let shared =
            Arc::new(Shared { control: Mutex::new(control), go: Condvar::new(), stood: Condvar::new() });
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
            if c.running && !c.halted[at] && !c.held[at] {
                break;
            }
            shared.go.wait(&mut c);
        }
        c.standing -= 1;
        drop(c);
        match v.run(io) {
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
                let error = accel::InternalError {
                    guest: accel::arch::GuestArch::X86_64,
                    reason: e.to_string(),
                    pc: 0,
                    bytes: Vec::new(),
                    registers: String::new(),
                    recoverable: false,
                    advice: "this is an error of the host or of Rhea; try another accelerator (-accel tcg)"
                        .into(),
                };
                shared.control.lock().halted[at] = true;
                on_exit(index, Exit::Fatal(Box::new(error)));
            }
        }
    }
}
