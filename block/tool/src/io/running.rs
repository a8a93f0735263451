//! Requests that breakpoints have stopped, and those that wait for them.
//!
//! An asynchronous request has a thread. It is waited for, so that what is printed comes in order, unless it or another one
//! stands at a breakpoint.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use block_filters::Breakpoints;
use block_formats::Image;

use super::requests;
use crate::error::{ToolError, usage};
use crate::text::say;

/// How often is looked whether something has changed.
const NAP: Duration = Duration::from_millis(1);
/// How long a request may take while another one stands, before it is taken to wait for that.
const PATIENCE: Duration = Duration::from_millis(200);

/// What is under way at an image.
#[derive(Default)]
pub(super) struct Running {
    points: Vec<Arc<Breakpoints>>,
    threads: Vec<JoinHandle<bool>>,
}

impl Running {
    /// For an image whose nodes have these breakpoints.
    pub(super) fn new(points: Vec<Arc<Breakpoints>>) -> Self {
        Running { points, threads: Vec::new() }
    }

    fn stopped(&self) -> usize {
        self.points.iter().map(|p| p.stopped()).sum()
    }

    /// Waits for a moment in which nothing that can go on is under way.
    fn settle(&self, before: usize) {
        let until = Instant::now() + PATIENCE;
        while self.threads.iter().any(|t| !t.is_finished()) {
            let stands = self.stopped();
            if stands > before || stands != 0 && Instant::now() >= until {
                break;
            }
            std::thread::sleep(NAP);
        }
    }

    /// Waits for everything; false if something failed.
    fn finish(&mut self) -> bool {
        let ended: Vec<bool> = self.threads.drain(..).map(|t| t.join().unwrap_or(false)).collect();
        ended.into_iter().all(|good| good)
    }

    /// Lets everything go on, and waits for it.
    pub(super) fn end(&mut self) {
        self.points.iter().for_each(|p| p.clear());
        self.finish();
    }

    /// Starts a request; false if it failed at once.
    pub(super) fn start(
        &mut self,
        image: &Arc<dyn Image>,
        command: &str,
        rest: &[String],
    ) -> Result<bool, ToolError> {
        if self.points.is_empty() {
            return requests::command_on(image, command, rest);
        }
        let before = self.stopped();
        let (image, command, rest) = (image.clone(), command.to_owned(), rest.to_vec());
        self.threads.push(std::thread::spawn(move || match requests::command_on(&image, &command, &rest) {
            Ok(good) => good,
            Err(e) => {
                say(&format!("{command} failed: {e}\n"));
                false
            }
        }));
        self.settle(before);
        Ok(true)
    }

    /// Does one of the commands about what is under way; nothing if it is none.
    pub(super) fn command(&mut self, command: &str, rest: &[String]) -> Result<Option<bool>, ToolError> {
        let tag = |rest: &[String]| match rest {
            [tag] => Ok(tag.clone()),
            _ => usage("expected TAG"),
        };
        Ok(Some(match command {
            "aio_flush" => self.finish(),
            "break" => {
                let [event, tag] = rest else { return usage("expected EVENT and TAG") };
                let Some(points) = self.points.first() else {
                    say("Could not set a breakpoint: Operation not supported\n");
                    return Ok(Some(false));
                };
                points.set(event, tag)?;
                true
            }
            "remove_break" => {
                let tag = tag(rest)?;
                let found = self.points.iter().filter(|p| p.remove(&tag)).count() != 0;
                if !found {
                    say(&format!("Could not remove breakpoint {tag}: {}\n", self.why()));
                }
                self.settle(0);
                found
            }
            "resume" => {
                let tag = tag(rest)?;
                let found = self.points.iter().any(|p| p.resume(&tag));
                if !found {
                    say(&format!("Could not resume request: {}\n", self.why()));
                }
                self.settle(self.stopped());
                found
            }
            "wait_break" => {
                let tag = tag(rest)?;
                if self.points.is_empty() {
                    return usage("the image has no breakpoints: blkdebug is not below it");
                }
                while !self.points.iter().any(|p| p.is_stopped(&tag)) {
                    if self.threads.iter().all(JoinHandle::is_finished) {
                        return usage(format!("{tag}: nothing is under way that could stop there"));
                    }
                    std::thread::sleep(NAP);
                }
                true
            }
            _ => return Ok(None),
        }))
    }

    /// Why there is no breakpoint or request of a tag.
    fn why(&self) -> &'static str {
        if self.points.is_empty() { "Operation not supported" } else { "No such file or directory" }
    }
}
