//! Hosts without users, process groups and signals.

use std::fs::File;
use std::io;

use anyhow::{Result, bail};
use control::config::RunWith;

/// There is no background to go to.
pub(crate) enum Background {}

impl Background {
    pub(crate) fn ready(self) -> Result<()> {
        match self {}
    }
}

pub(crate) fn to_background() -> Result<Background> {
    bail!("-daemonize is for Unix hosts")
}

pub(crate) fn thread_id() -> u64 {
    0
}

pub(crate) fn open_unblocking(path: &str) -> io::Result<File> {
    File::open(path)
}

pub(crate) fn restrict(run: &RunWith) -> Result<()> {
    if run != &RunWith::default() {
        bail!("-run-with, -overcommit and -sandbox are for Unix hosts");
    }
    Ok(())
}

pub(crate) fn name_process(_: &str) {}
