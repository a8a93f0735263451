//! Migration of the running machine: its thread, its state, the handing over of disks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use control::transport::{self, Close, Link, Listener, TransportError, Uri};
use control::vm::{Event, MigrationInfo, MigrationLimits, RunState, Vm, VmError};
use machine::snapshot::migrate::{Limits, Progress, receive, send};
use parking_lot::Mutex;

use crate::vm::{Request, RheaVm};

type Answer<T> = Result<T, VmError>;

/// The present or last migration.
#[derive(Default)]
struct State {
    status: Option<&'static str>,
    incoming: bool,
    began: Option<Instant>,
    took: Option<Duration>,
    error: Option<String>,
    progress: Arc<Progress>,
    close: Option<Close>,
}

/// Migration of one machine.
#[derive(Default)]
pub(crate) struct Migration {
    state: Mutex<State>,
    limits: Mutex<MigrationLimits>,
}

impl Migration {
    /// For `query-migrate`.
    pub(crate) fn info(&self) -> MigrationInfo {
        let s = self.state.lock();
        let get = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
        let time = s.took.or(s.began.map(|b| b.elapsed())).unwrap_or_default();
        MigrationInfo {
            status: s.status,
            total_ms: time.as_millis() as u64,
            downtime_ms: get(&s.progress.downtime_ms),
            error: s.error.clone(),
            transferred: get(&s.progress.sent),
            total: get(&s.progress.total),
            remaining: get(&s.progress.remaining),
            pages: get(&s.progress.pages),
            rounds: get(&s.progress.rounds),
            incoming: s.incoming,
        }
    }

    /// Whether the machine is on its way, here or from here.
    pub(crate) fn is_active(&self) -> bool {
        matches!(self.state.lock().status, Some("setup" | "active" | "cancelling"))
    }

    /// What migrations may cost.
    pub(crate) fn limits(&self) -> MigrationLimits {
        *self.limits.lock()
    }

    /// Changes what those that begin from now on may cost.
    pub(crate) fn set_limits(&self, limits: MigrationLimits) {
        *self.limits.lock() = limits;
    }

    /// Ends the one under way.
    pub(crate) fn cancel(&self, vm: &RheaVm) {
        let mut s = self.state.lock();
        if s.incoming || !matches!(s.status, Some("setup" | "active")) {
            return;
        }
        s.status = Some("cancelling");
        s.progress.cancel.store(true, Ordering::Release);
        let close = s.close.clone();
        drop(s);
        vm.events().emit(&Event::migration("cancelling"));
        if let Some(close) = close {
            close();
        }
    }

    fn begin(&self, incoming: bool) -> Answer<Arc<Progress>> {
        let mut s = self.state.lock();
        if matches!(s.status, Some("setup" | "active" | "cancelling")) {
            return Err(VmError::Failed("There's a migration process in progress".into()));
        }
        let progress = Arc::new(Progress::default());
        *s = State {
            status: Some("setup"),
            incoming,
            began: Some(Instant::now()),
            progress: progress.clone(),
            ..State::default()
        };
        Ok(progress)
    }

    fn set(&self, vm: &RheaVm, status: &'static str, error: Option<String>) {
        let mut s = self.state.lock();
        // A migration that is being cancelled is not active again.
        if s.status == Some("cancelling") && status == "active" {
            return;
        }
        s.status = Some(status);
        s.error = error;
        if !matches!(status, "setup" | "active") {
            s.took = s.began.map(|b| b.elapsed());
            s.close = None;
        }
        drop(s);
        vm.events().emit(&Event::migration(status));
    }

    fn closes(&self, close: Close) {
        let mut s = self.state.lock();
        if s.progress.cancel.load(Ordering::Acquire) {
            drop(s);
            close();
            return;
        }
        s.close = Some(close);
    }
}

fn failed(e: impl std::fmt::Display) -> VmError {
    VmError::Failed(e.to_string())
}

/// Begins to send the machine.
pub(crate) fn start(vm: &Arc<RheaVm>, uri: &str) -> Answer<()> {
    let uri = Uri::parse(uri).map_err(failed)?;
    match vm.status() {
        RunState::Inmigrate => return Err(failed("Guest is waiting for an incoming migration")),
        RunState::Postmigrate => {
            return Err(failed("the machine has been migrated already; 'cont' takes it back"));
        }
        _ => {}
    }
    {
        let backends = vm.backends.lock();
        if let Some(why) = backends.graph.bound().or_else(|| backends.exports.bound()) {
            return Err(failed(why));
        }
    }
    let (uri, held) = uri.hold().map_err(failed)?;
    let progress = vm.migration.begin(false)?;
    vm.events().emit(&Event::migration("setup"));
    let limits = vm.migration.limits();
    let limits =
        Limits { bandwidth: limits.max_bandwidth, downtime: Duration::from_millis(limits.downtime_ms) };
    let thread = vm.clone();
    let started = std::thread::Builder::new().name("migration".into()).spawn(move || {
        outgoing(&thread, &uri, limits, &progress);
        drop(held);
    });
    started.map(drop).map_err(failed)
}

/// How the machine was when it was stopped for the last part.
struct Stopped {
    state: RunState,
    ran: bool,
}

fn outgoing(vm: &Arc<RheaVm>, uri: &Uri, limits: Limits, progress: &Progress) {
    let mut stopped = None;
    let result = transport::dial(uri).map_err(|e| e.to_string()).and_then(|mut link| {
        vm.migration.closes(link.closer());
        vm.migration.set(vm, "active", None);
        let stop = || {
            let state = vm.status();
            let ran = vm.machine.stop();
            stopped = Some(Stopped { state, ran });
            vm.set_state(RunState::FinishMigrate);
            if ran {
                vm.events().emit(&Event::stop());
            }
            let mut backends = vm.backends.lock();
            backends.drain();
            let released = backends.graph.release();
            released.map_err(|e| machine::MachineError::Board(format!("disks: {e:#}")))?;
            Ok(state.name().to_owned())
        };
        match send(&vm.machine, link.output(), limits, progress, stop) {
            Ok(_) => link.sent().map_err(|e| e.to_string()),
            // What the other end has to say is the better reason.
            Err(e) if progress.cancel.load(Ordering::Acquire) => Err(e.to_string()),
            Err(e) => Err(link.complaint().map_or_else(|| e.to_string(), |c| c.to_string())),
        }
    });
    match result {
        Ok(()) => {
            vm.set_state(RunState::Postmigrate);
            vm.migration.set(vm, "completed", None);
        }
        Err(error) => {
            let error = take_back(vm, stopped, error);
            if progress.cancel.load(Ordering::Acquire) {
                vm.migration.set(vm, "cancelled", None);
            } else {
                tracing::warn!("migration to {uri} failed: {error}");
                vm.migration.set(vm, "failed", Some(error));
            }
        }
    }
}

/// The guest goes on here. If the disks are somebody else's by now it cannot.
fn take_back(vm: &Arc<RheaVm>, stopped: Option<Stopped>, error: String) -> String {
    let Some(stopped) = stopped else { return error };
    if let Err(e) = vm.backends.lock().graph.acquire() {
        vm.set_state(RunState::Postmigrate);
        return format!("{error}; the guest does not go on, its disks are in use elsewhere: {e:#}");
    }
    vm.set_state(stopped.state);
    if stopped.ran && vm.machine.start() {
        vm.events().emit(&Event::resume());
    }
    error
}

/// Waits for a machine to come in.
pub(crate) fn listen(vm: &Arc<RheaVm>, uri: &str) -> Answer<()> {
    let uri = Uri::parse(uri).map_err(failed)?;
    let listener = transport::listen(&uri).map_err(failed)?;
    let progress = vm.migration.begin(true)?;
    vm.events().emit(&Event::migration("setup"));
    let thread = vm.clone();
    let started = std::thread::Builder::new()
        .name("migration".into())
        .spawn(move || incoming(&thread, listener, &progress));
    started.map(drop).map_err(failed)
}

fn incoming(vm: &Arc<RheaVm>, listener: Listener, progress: &Progress) {
    let result = listener.accept().map_err(|e| e.to_string()).and_then(|link| take_over(vm, link, progress));
    match result {
        Ok(state) => {
            vm.migration.set(vm, "completed", None);
            vm.arrived(state);
        }
        Err(error) => {
            vm.migration.set(vm, "failed", Some(error.clone()));
            vm.request(Request::Fail(format!("incoming migration: {error}")));
        }
    }
}

/// Receives the machine and answers; the run state that it had.
fn take_over(vm: &Arc<RheaVm>, mut link: Link, progress: &Progress) -> Result<RunState, String> {
    vm.migration.set(vm, "active", None);
    let result = receive(&vm.machine, &mut link.input, progress).map_err(|e| e.to_string());
    let result = result.and_then(|(state, _)| {
        let state =
            serde_json::from_value(state.into()).map_err(|_| "state: is not a run state".to_owned())?;
        vm.backends.lock().graph.acquire().map_err(|e| format!("disks: {e:#}"))?;
        Ok(state)
    });
    let told = match &result {
        Ok(_) => link.received(Ok(())),
        Err(e) => link.received(Err(e)),
    };
    match (result, told) {
        (Ok(state), Ok(())) => Ok(state),
        // The other end does not know that it is rid of its guest, so it keeps it.
        (Ok(_), Err(e)) => Err(lost(&e)),
        (Err(e), _) => Err(e),
    }
}

fn lost(e: &TransportError) -> String {
    format!("the other end has gone: {e}")
}
