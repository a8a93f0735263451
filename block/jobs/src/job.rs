//! Jobs as such: their states, what a user may do to them, and what they tell (QEMU's manual, "QMP: Background jobs").

use std::sync::Arc;
use std::time::{Duration, Instant};

use block::BlockError;
use parking_lot::{Condvar, Mutex};
use serde_json::{Value, json};

/// Most jobs there are at a time.
const MAX_JOBS: usize = 256;
/// Pause before a request that failed is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// States of a job, by their names in QMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Made.
    Created,
    /// Working.
    Running,
    /// Held.
    Paused,
    /// Has caught up, and follows.
    Ready,
    /// Held while it was ready.
    Standby,
    /// Done, waits for others.
    Waiting,
    /// Done, waits to be finalized.
    Pending,
    /// Failing.
    Aborting,
    /// At its end; waits to be dismissed.
    Concluded,
    /// Gone.
    Null,
}

impl Status {
    /// QMP's name.
    pub fn name(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Ready => "ready",
            Status::Standby => "standby",
            Status::Waiting => "waiting",
            Status::Pending => "pending",
            Status::Aborting => "aborting",
            Status::Concluded => "concluded",
            Status::Null => "null",
        }
    }
}

/// What an error of a request does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// Ends the job.
    #[default]
    Report,
    /// Is passed over; what it was about is tried again at the end where that can be.
    Ignore,
    /// Holds the job until it is resumed.
    Stop,
    /// Holds it if the host has no room, else ends it.
    Enospc,
}

impl OnError {
    /// Names in QMP.
    pub const NAMES: [(&'static str, Self); 5] = [
        ("report", Self::Report),
        ("ignore", Self::Ignore),
        ("stop", Self::Stop),
        ("enospc", Self::Enospc),
        ("auto", Self::Report),
    ];
}

/// Why a job ends before its work is done.
#[derive(Debug)]
pub enum Stop {
    /// Somebody asked.
    Cancelled,
    /// It failed.
    Failed(BlockError),
}

impl From<BlockError> for Stop {
    fn from(e: BlockError) -> Self {
        Stop::Failed(e)
    }
}

/// Why a user's wish for a job cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// There is no such job.
    #[error("Job '{0}' not found")]
    NotFound(String),
    /// The id is in use.
    #[error("Job ID '{0}' already in use")]
    InUse(String),
    /// Not now.
    #[error("Job '{id}' in state '{state}' cannot accept command verb '{verb}'")]
    NotNow {
        /// The job.
        id: String,
        /// Its state.
        state: &'static str,
        /// What was asked for.
        verb: &'static str,
    },
    /// Too many.
    #[error("there are {MAX_JOBS} jobs already")]
    TooMany,
}

/// How a job is to run.
#[derive(Clone, Debug)]
pub struct JobOptions {
    /// Its name.
    pub id: String,
    /// What it does: `mirror`, `backup`, `stream`, `commit`, `create`.
    pub kind: &'static str,
    /// The device or node it works on; `None` if it is no block job.
    pub device: Option<String>,
    /// Bytes per second; 0 is no limit.
    pub speed: u64,
    /// Ends without being told to.
    pub auto_finalize: bool,
    /// Goes without being told to.
    pub auto_dismiss: bool,
    /// What errors of reads do.
    pub on_source_error: OnError,
    /// What errors of writes do.
    pub on_target_error: OnError,
}

impl JobOptions {
    /// A job that ends and goes by itself.
    pub fn new(id: impl Into<String>, kind: &'static str, device: Option<String>) -> Self {
        JobOptions {
            id: id.into(),
            kind,
            device,
            speed: 0,
            auto_finalize: true,
            auto_dismiss: true,
            on_source_error: OnError::Report,
            on_target_error: OnError::Report,
        }
    }
}

/// What a job tells: a name and data, as in QMP.
pub type Event = (&'static str, Value);

type Listener = Arc<dyn Fn(Event) + Send + std::marker::Sync>;

#[derive(Debug)]
struct State {
    status: Status,
    /// Asked to hold, or held by an error.
    paused: bool,
    io_error: Option<&'static str>,
    cancelled: bool,
    forced: bool,
    completing: bool,
    finalized: bool,
    done: u64,
    total: u64,
    speed: u64,
    /// When the next bytes may go.
    next: Instant,
    error: Option<String>,
}

/// One job.
pub struct Job {
    options: JobOptions,
    state: Mutex<State>,
    changed: Condvar,
    listener: Listener,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Job({}, {:?})", self.options.id, self.state.lock().status)
    }
}

impl Job {
    /// Its name.
    pub fn id(&self) -> &str {
        &self.options.id
    }

    /// How it was to run.
    pub fn options(&self) -> &JobOptions {
        &self.options
    }

    /// Present state.
    pub fn status(&self) -> Status {
        self.state.lock().status
    }

    fn emit(&self, name: &'static str, data: Value) {
        (self.listener)((name, data));
    }

    fn set(&self, state: &mut State, status: Status) {
        state.status = status;
        self.emit("JOB_STATUS_CHANGE", json!({"id": self.options.id, "status": status.name()}));
        self.changed.notify_all();
    }

    /// Data of the events of block jobs.
    fn described(&self, state: &State) -> Value {
        json!({
            "type": self.options.kind, "device": self.options.id, "len": state.total, "offset": state.done,
            "speed": state.speed,
        })
    }

    fn is_block_job(&self) -> bool {
        self.options.device.is_some()
    }

    /// To be called between two pieces of work: holds where the user wants that, and says when to stop.
    pub fn check(&self) -> Result<(), Stop> {
        let mut state = self.state.lock();
        loop {
            if state.cancelled && (state.forced || state.status != Status::Ready) {
                return Err(Stop::Cancelled);
            }
            if !state.paused {
                return Ok(());
            }
            let before = state.status;
            self.set(&mut state, if before == Status::Ready { Status::Standby } else { Status::Paused });
            while state.paused && !state.cancelled {
                self.changed.wait(&mut state);
            }
            self.set(&mut state, before);
        }
    }

    /// Counts work as done, and waits as the speed wants it.
    pub fn advance(&self, bytes: u64) -> Result<(), Stop> {
        let mut state = self.state.lock();
        state.done += bytes;
        state.total = state.total.max(state.done);
        let now = Instant::now();
        if state.speed != 0 {
            let time = Duration::from_secs_f64((bytes as f64 / state.speed as f64).min(3600.0));
            state.next = state.next.max(now) + time;
            while state.speed != 0 && Instant::now() < state.next && !state.cancelled && !state.paused {
                let until = state.next;
                self.changed.wait_until(&mut state, until);
            }
        }
        drop(state);
        self.check()
    }

    /// Says how much there is to do, in bytes.
    pub fn expect(&self, total: u64) {
        let mut state = self.state.lock();
        state.total = total;
    }

    /// Adds to what there is to do.
    pub fn expect_more(&self, bytes: u64) {
        self.state.lock().total += bytes;
    }

    /// Says that it has caught up.
    pub fn ready(&self) {
        let mut state = self.state.lock();
        if state.status == Status::Running {
            self.set(&mut state, Status::Ready);
            let data = self.described(&state);
            self.emit("BLOCK_JOB_READY", data);
        }
    }

    /// Waits for a time, or until the user wants something: true if it is to complete or, being ready, to end.
    pub fn idle(&self, time: Duration) -> Result<bool, Stop> {
        {
            let mut state = self.state.lock();
            if !state.completing && !state.cancelled && !state.paused {
                self.changed.wait_for(&mut state, time);
            }
            if state.completing || state.cancelled && !state.forced && state.status == Status::Ready {
                return Ok(true);
            }
        }
        self.check()?;
        Ok(false)
    }

    /// Whether it was told to complete, not to end.
    pub fn completing(&self) -> bool {
        self.state.lock().completing
    }

    /// Deals with an error of a request. `Ok(true)`: it is to be tried again. `Ok(false)`: it is to be passed over.
    pub fn failed(&self, error: BlockError, source: bool) -> Result<bool, Stop> {
        let on = if source { self.options.on_source_error } else { self.options.on_target_error };
        let stop = match on {
            OnError::Stop => true,
            OnError::Enospc => error.is_no_space(),
            OnError::Report | OnError::Ignore => false,
        };
        let action = match on {
            _ if stop => "stop",
            OnError::Ignore => "ignore",
            _ => "report",
        };
        let operation = if source { "read" } else { "write" };
        self.emit(
            "BLOCK_JOB_ERROR",
            json!({"device": self.options.id, "operation": operation, "action": action}),
        );
        if stop {
            let mut state = self.state.lock();
            state.paused = true;
            state.io_error = Some(if error.is_no_space() { "nospace" } else { "failed" });
            drop(state);
            self.check()?;
            return Ok(true);
        }
        if on == OnError::Ignore {
            std::thread::sleep(RETRY);
            self.check()?;
            return Ok(false);
        }
        Err(Stop::Failed(error))
    }

    /// Waits to be finalized, if the user wants to do that.
    fn pending(&self) -> Result<(), Stop> {
        let mut state = self.state.lock();
        self.set(&mut state, Status::Waiting);
        self.set(&mut state, Status::Pending);
        if self.options.auto_finalize {
            return Ok(());
        }
        if self.is_block_job() {
            let data = json!({"type": self.options.kind, "id": self.options.id});
            self.emit("BLOCK_JOB_PENDING", data);
        }
        while !state.finalized && !state.cancelled {
            self.changed.wait(&mut state);
        }
        if state.finalized { Ok(()) } else { Err(Stop::Cancelled) }
    }

    fn conclude(&self, outcome: Result<(), Stop>) {
        let mut state = self.state.lock();
        let cancelled = matches!(outcome, Err(Stop::Cancelled));
        if let Err(Stop::Failed(e)) = &outcome {
            state.error = Some(e.to_string().replace(['\n', '\r'], " "));
        }
        if outcome.is_err() {
            if cancelled {
                state.error.get_or_insert_with(|| "Operation canceled".into());
            }
            self.set(&mut state, Status::Aborting);
        }
        if self.is_block_job() {
            let mut data = self.described(&state);
            if cancelled {
                self.emit("BLOCK_JOB_CANCELLED", data);
            } else {
                if let Some(e) = &state.error {
                    data["error"] = e.clone().into();
                }
                self.emit("BLOCK_JOB_COMPLETED", data);
            }
        }
        self.set(&mut state, Status::Concluded);
    }

    fn run(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Job>) -> Result<(), Stop>,
        finish: impl FnOnce(bool) -> Result<(), BlockError>,
    ) {
        {
            let mut state = self.state.lock();
            self.set(&mut state, Status::Running);
        }
        // A panic is a failure of the job, not of the machine.
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(self)));
        let worked = caught.unwrap_or_else(|_| {
            Err(Stop::Failed(BlockError::Io(std::io::Error::other("the job met an internal error"))))
        });
        let worked = worked.and_then(|()| self.pending());
        let finished = finish(worked.is_ok());
        self.conclude(worked.and_then(|()| finished.map_err(Stop::Failed)));
    }

    fn query(&self) -> Value {
        let state = self.state.lock();
        let mut v = json!({
            "id": self.options.id, "type": self.options.kind, "status": state.status.name(),
            "current-progress": state.done, "total-progress": state.total,
        });
        if let Some(e) = &state.error {
            v["error"] = e.clone().into();
        }
        v
    }

    fn query_block(&self) -> Value {
        let state = self.state.lock();
        let mut v = self.described(&state);
        let more = json!({
            "paused": state.paused, "busy": matches!(state.status, Status::Running), "ready": state.status == Status::Ready,
            "io-status": state.io_error.unwrap_or("ok"), "status": state.status.name(),
            "auto-finalize": self.options.auto_finalize, "auto-dismiss": self.options.auto_dismiss,
        });
        if let (Value::Object(v), Value::Object(more)) = (&mut v, more) {
            v.extend(more);
        }
        if let Some(e) = &state.error {
            v["error"] = e.clone().into();
        }
        v
    }
}

/// All jobs of a machine.
pub struct Jobs {
    list: Mutex<Vec<Arc<Job>>>,
    gone: Condvar,
    listener: Listener,
}

impl std::fmt::Debug for Jobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.list.lock().iter()).finish()
    }
}

impl Jobs {
    /// No jobs yet; what they tell goes to `listener`.
    pub fn new(listener: impl Fn(Event) + Send + std::marker::Sync + 'static) -> Arc<Self> {
        Arc::new(Jobs { list: Mutex::default(), gone: Condvar::new(), listener: Arc::new(listener) })
    }

    /// Starts a job. When its work is done, and the user has it finalized, `finish` is called with true; it is called with
    /// false if the work fails or is cancelled.
    pub fn start(
        self: &Arc<Self>,
        options: JobOptions,
        work: impl FnOnce(&Arc<Job>) -> Result<(), Stop> + Send + 'static,
        finish: impl FnOnce(bool) -> Result<(), BlockError> + Send + 'static,
    ) -> Result<Arc<Job>, JobError> {
        let mut list = self.list.lock();
        if list.iter().any(|j| j.id() == options.id) {
            return Err(JobError::InUse(options.id));
        }
        if list.len() >= MAX_JOBS {
            return Err(JobError::TooMany);
        }
        let now = Instant::now();
        let job = Arc::new(Job {
            state: Mutex::new(State {
                status: Status::Created,
                paused: false,
                io_error: None,
                cancelled: false,
                forced: false,
                completing: false,
                finalized: false,
                done: 0,
                total: 0,
                speed: options.speed,
                next: now,
                error: None,
            }),
            changed: Condvar::new(),
            listener: self.listener.clone(),
            options,
        });
        list.push(job.clone());
        drop(list);
        {
            let mut state = job.state.lock();
            job.set(&mut state, Status::Created);
        }
        let (jobs, running) = (self.clone(), job.clone());
        let spawned = std::thread::Builder::new().name("block-job".into()).spawn(move || {
            running.run(work, finish);
            if running.options.auto_dismiss {
                jobs.remove(&running);
            }
        });
        if let Err(e) = spawned {
            job.conclude(Err(Stop::Failed(BlockError::Io(e))));
        }
        Ok(job)
    }

    fn remove(&self, job: &Arc<Job>) {
        {
            let mut state = job.state.lock();
            job.set(&mut state, Status::Null);
        }
        self.list.lock().retain(|j| !Arc::ptr_eq(j, job));
        self.gone.notify_all();
    }

    /// The job of a name.
    pub fn find(&self, id: &str) -> Result<Arc<Job>, JobError> {
        let list = self.list.lock();
        list.iter().find(|j| j.id() == id).cloned().ok_or_else(|| JobError::NotFound(id.into()))
    }

    fn with(
        &self,
        id: &str,
        verb: &'static str,
        allowed: &[Status],
        f: impl FnOnce(&Arc<Job>, &mut State),
    ) -> Result<(), JobError> {
        let job = self.find(id)?;
        let mut state = job.state.lock();
        if !allowed.contains(&state.status) {
            return Err(JobError::NotNow { id: id.into(), state: state.status.name(), verb });
        }
        f(&job, &mut state);
        job.changed.notify_all();
        Ok(())
    }

    /// Holds a job.
    pub fn pause(&self, id: &str) -> Result<(), JobError> {
        use Status::{Created, Paused, Ready, Running, Standby};
        self.with(id, "pause", &[Created, Running, Ready, Paused, Standby], |_, s| s.paused = true)
    }

    /// Lets it go on.
    pub fn resume(&self, id: &str) -> Result<(), JobError> {
        use Status::{Created, Paused, Ready, Running, Standby};
        self.with(id, "resume", &[Created, Running, Ready, Paused, Standby], |_, s| {
            s.paused = false;
            s.io_error = None;
        })
    }

    /// Other speed from now on.
    pub fn set_speed(&self, id: &str, speed: u64) -> Result<(), JobError> {
        use Status::{Created, Paused, Ready, Running, Standby};
        self.with(id, "set-speed", &[Created, Running, Ready, Paused, Standby], |_, s| {
            s.speed = speed;
            s.next = Instant::now();
        })
    }

    /// Has a ready job complete.
    pub fn complete(&self, id: &str) -> Result<(), JobError> {
        self.with(id, "complete", &[Status::Ready], |_, s| s.completing = true)
    }

    /// Ends a job. One that is ready ends with its target whole, unless `force`.
    pub fn cancel(&self, id: &str, force: bool) -> Result<(), JobError> {
        use Status::{Created, Paused, Pending, Ready, Running, Standby, Waiting};
        let live = [Created, Running, Paused, Ready, Standby, Waiting, Pending];
        self.with(id, "cancel", &live, |_, s| {
            s.cancelled = true;
            s.forced |= force;
            s.paused = false;
        })
    }

    /// Has a pending job end.
    pub fn finalize(&self, id: &str) -> Result<(), JobError> {
        self.with(id, "finalize", &[Status::Pending], |_, s| s.finalized = true)
    }

    /// Lets a concluded job go.
    pub fn dismiss(&self, id: &str) -> Result<(), JobError> {
        let job = self.find(id)?;
        let status = job.status();
        if status != Status::Concluded {
            return Err(JobError::NotNow { id: id.into(), state: status.name(), verb: "dismiss" });
        }
        self.remove(&job);
        Ok(())
    }

    /// Cancels all jobs and waits for their ends.
    pub fn end_all(&self) {
        let all = self.list.lock().clone();
        for job in &all {
            let _ = self.cancel(job.id(), true);
        }
        for job in all {
            let mut state = job.state.lock();
            while !matches!(state.status, Status::Concluded | Status::Null) {
                job.changed.wait(&mut state);
            }
        }
    }

    /// `query-jobs`.
    pub fn query(&self) -> Vec<Value> {
        self.list.lock().iter().map(|j| j.query()).collect()
    }

    /// `query-block-jobs`.
    pub fn query_block(&self) -> Vec<Value> {
        self.list.lock().iter().filter(|j| j.is_block_job()).map(|j| j.query_block()).collect()
    }

    /// Waits for a job to come to one of some states; for tests.
    pub fn wait_for(&self, id: &str, wanted: &[Status], time: Duration) -> Option<Status> {
        let until = Instant::now() + time;
        let Ok(job) = self.find(id) else { return Some(Status::Null) };
        let mut state = job.state.lock();
        while !wanted.contains(&state.status) {
            if job.changed.wait_until(&mut state, until).timed_out() {
                return None;
            }
        }
        Some(state.status)
    }
}
