//! Background jobs as QMP shows them. Rhea runs them to their end within the command, so a job is either
//! concluded or gone; clients that follow the events see all its states pass by.

use crate::vm::{Event, EventBus};
use parking_lot::Mutex;
use serde_json::{Value, json};

/// Most concluded jobs kept; the oldest goes when a client never dismisses.
const MAX_JOBS: usize = 64;

#[derive(Clone, Debug)]
struct Job {
    id: String,
    kind: &'static str,
    error: Option<String>,
}

/// Concluded jobs of one machine.
#[derive(Debug, Default)]
pub struct Jobs {
    list: Mutex<Vec<Job>>,
}

impl Jobs {
    /// Runs `work` as a job; fails only when the id is taken.
    pub(crate) fn run(
        &self,
        events: &EventBus,
        id: &str,
        kind: &'static str,
        work: impl FnOnce() -> Result<(), String>,
    ) -> Result<(), String> {
        if self.list.lock().iter().any(|j| j.id == id) {
            return Err(format!("job id '{id}' is in use"));
        }
        let announce =
            |status: &str| events.emit(&Event::new("JOB_STATUS_CHANGE", json!({"id": id, "status": status})));
        announce("created");
        announce("running");
        let error = work().err();
        announce(if error.is_some() { "aborting" } else { "waiting" });
        if error.is_none() {
            announce("pending");
        }
        let mut list = self.list.lock();
        if list.len() == MAX_JOBS {
            list.remove(0);
        }
        list.push(Job { id: id.to_owned(), kind, error });
        drop(list);
        announce("concluded");
        Ok(())
    }

    /// `query-jobs`.
    pub(crate) fn query(&self) -> Value {
        let one = |j: &Job| {
            let mut v = json!({
                "id": j.id, "type": j.kind, "status": "concluded", "current-progress": 1, "total-progress": 1,
            });
            if let Some(e) = &j.error {
                v["error"] = e.clone().into();
            }
            v
        };
        self.list.lock().iter().map(one).collect()
    }

    /// `job-dismiss`; false when there is no such job.
    pub(crate) fn dismiss(&self, events: &EventBus, id: &str) -> bool {
        let mut list = self.list.lock();
        let before = list.len();
        list.retain(|j| j.id != id);
        let found = list.len() != before;
        drop(list);
        if found {
            events.emit(&Event::new("JOB_STATUS_CHANGE", json!({"id": id, "status": "null"})));
        }
        found
    }
}
