//! All plugins of a partition: how the engine calls them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use thiserror::Error;

use crate::{Access, Accesses, Counters, Requested, Unit, options::Wanted, shared, shipped};

/// A plugin. Calls come from the threads of all vCPUs at once.
pub trait Plugin: Send + Sync {
    /// A unit is being translated.
    fn translated(&self, unit: &mut Unit<'_>);
    /// An instruction for which [`Request::Call`](crate::Request::Call) was made starts.
    fn executed(&self, _vcpu: u32, _id: u32, _data: u64) {}
    /// An access for which [`Request::Access`](crate::Request::Access) was made has been done.
    fn accessed(&self, _vcpu: u32, _id: u32, _data: u64, _access: &Access) {}
    /// A vCPU (in user mode a thread) begins.
    fn vcpu_started(&self, _vcpu: u32) {}
    /// A vCPU has ended.
    fn vcpu_stopped(&self, _vcpu: u32) {}
    /// This is a child process, with the caller as its only thread.
    fn forked(&self) {}
    /// The guest has ended, and no vCPU runs.
    fn finished(&self) {}
}

/// Why a plugin could not be loaded.
#[derive(Debug, Error)]
pub enum PluginError {
    /// No plugin is named.
    #[error("plugin: expected [file=]NAME[,key=value...] with the name of a shared object, or one of {names}", names = shipped::NAMES)]
    NoFile,
    /// The shared object cannot be loaded.
    #[error("plugin {file}: {problem}")]
    Load {
        /// As given.
        file: String,
        /// What the host said.
        problem: String,
    },
    /// An argument is wrong.
    #[error("plugin {plugin}: {problem}")]
    Argument {
        /// Its name.
        plugin: String,
        /// What is wrong.
        problem: String,
    },
    /// There are too many.
    #[error("plugins: expected at most {0}")]
    TooMany(usize),
}

/// Where plugins print.
pub type Output = Arc<dyn Fn(&str) + Send + Sync>;

/// What a plugin is told of the guest it is loaded for.
#[derive(Clone)]
pub struct Host {
    /// Guest architecture, such as `riscv64`.
    pub arch: String,
    /// A whole machine, not a program.
    pub system: bool,
    /// Where it prints.
    pub output: Output,
    /// Counters that requests add to.
    pub counters: Arc<Counters>,
}

impl Host {
    /// Prints text, which brings its own line ends.
    pub fn print(&self, text: &str) {
        (self.output)(text);
    }
}

/// Most plugins of a partition.
const MOST: usize = 16;

/// The plugins of a partition.
pub struct Plugins {
    list: Vec<Box<dyn Plugin>>,
    host: Host,
    finished: AtomicBool,
}

impl std::fmt::Debug for Plugins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugins").field("number", &self.list.len()).finish_non_exhaustive()
    }
}

impl Plugins {
    /// Loads plugins, as `-plugin` names them; `None` if there are none.
    ///
    /// # Errors
    /// One cannot be loaded, or does not take its arguments.
    pub fn load(
        wanted: &[String],
        arch: &str,
        system: bool,
        output: Output,
    ) -> Result<Option<Arc<Self>>, PluginError> {
        if wanted.is_empty() {
            return Ok(None);
        }
        if wanted.len() > MOST {
            return Err(PluginError::TooMany(MOST));
        }
        let host = Host { arch: arch.to_owned(), system, output, counters: Arc::default() };
        let load = |text: &String| {
            let w = Wanted::parse(text)?;
            match shipped::make(&w, &host) {
                Some(made) => made,
                None => shared::load(&w, &host),
            }
        };
        let list = wanted.iter().map(load).collect::<Result<_, _>>()?;
        Ok(Some(Arc::new(Self { list, host, finished: AtomicBool::new(false) })))
    }

    /// Those of a list, for tests and programs that bring their own.
    #[must_use]
    pub fn of(list: Vec<Box<dyn Plugin>>, host: Host) -> Arc<Self> {
        Arc::new(Self { list, host, finished: AtomicBool::new(false) })
    }

    /// The counters.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.host.counters
    }

    /// Shows a unit to all plugins; what they ask for.
    #[must_use]
    pub fn translated(&self, mut unit: Unit<'_>) -> Vec<Requested> {
        for (i, p) in self.list.iter().enumerate() {
            unit.turn(i as u8);
            p.translated(&mut unit);
        }
        unit.requests()
    }

    /// An instruction starts.
    pub fn executed(&self, plugin: u8, vcpu: u32, id: u32, data: u64) {
        if let Some(p) = self.list.get(plugin as usize) {
            p.executed(vcpu, id, data);
        }
    }

    /// An access has been done.
    pub fn accessed(&self, plugin: u8, vcpu: u32, which: Accesses, (id, data): (u32, u64), access: &Access) {
        if which.wants(access)
            && let Some(p) = self.list.get(plugin as usize)
        {
            p.accessed(vcpu, id, data, access);
        }
    }

    /// A vCPU begins.
    pub fn vcpu_started(&self, vcpu: u32) {
        self.list.iter().for_each(|p| p.vcpu_started(vcpu));
    }

    /// A vCPU has ended.
    pub fn vcpu_stopped(&self, vcpu: u32) {
        self.list.iter().for_each(|p| p.vcpu_stopped(vcpu));
    }

    /// This is a child process now.
    pub fn forked(&self) {
        self.host.counters.restart();
        self.list.iter().for_each(|p| p.forked());
    }

    /// The guest has ended; the second time nothing happens.
    pub fn finished(&self) {
        if !self.finished.swap(true, Ordering::SeqCst) {
            self.list.iter().for_each(|p| p.finished());
        }
    }
}
