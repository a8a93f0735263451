//! The character back ends of a configuration: serial ports and monitors.

use std::sync::Arc;

use anyhow::{Context, Result};
use control::VmConfig;
use control::chardev::{Chardevs, Keys, PortKind};
use control::config::MonitorMode;
use control::gdb::GdbServer;
use control::monitor::{self, Control, Monitor};
use control::vm::ChardevInfo;
use control::{gdb, hmp, qmp};
use device::CharBackend;

use crate::netdevs::claimed;
use crate::vm::RheaVm;

/// All of them, open.
pub(crate) struct Chars(Chardevs);

impl Chars {
    /// Opens all that the configuration names. `keys` are what the terminal's escape keys do.
    pub(crate) fn open(config: &VmConfig, keys: &Keys) -> Result<Self> {
        let taken: Vec<String> = claimed(config).collect();
        let mut ours = config.clone();
        ours.chardevs.retain(|c| !taken.contains(&c.id));
        Ok(Self(Chardevs::open(&ours, keys)?))
    }

    /// Back ends of the board's serial ports.
    pub(crate) fn serials(&self, config: &VmConfig) -> Result<Vec<Option<Arc<dyn CharBackend>>>> {
        let one = |id: &Option<String>| id.as_ref().map(|id| self.connect(id, PortKind::Device)).transpose();
        config.serials.iter().map(one).collect()
    }

    /// A back end for one front end.
    pub(crate) fn connect(&self, id: &str, kind: PortKind) -> Result<Arc<dyn CharBackend>> {
        self.0.connect(id, kind).with_context(|| format!("chardev '{id}'"))
    }

    /// Starts the monitors; they live as long as what is returned.
    pub(crate) fn monitors(&self, config: &VmConfig, control: &Arc<Control>) -> Result<Vec<Monitor>> {
        let mut all = Vec::new();
        for m in &config.monitors {
            let chardev = self.connect(&m.chardev, PortKind::Monitor)?;
            let session: Box<dyn monitor::Session> = match m.mode {
                MonitorMode::Control => Box::new(qmp::Session::new(control.clone(), m.pretty)),
                MonitorMode::Readline => Box::new(hmp::Session::new(control.clone())),
            };
            all.push(monitor::serve(chardev, session, control).context("monitor thread")?);
        }
        Ok(all)
    }

    /// Starts the GDB server, if one is wanted; it lives as long as what is returned.
    pub(crate) fn gdb(
        &self,
        config: &VmConfig,
        vm: Arc<RheaVm>,
        control: &Arc<Control>,
    ) -> Result<Option<GdbServer>> {
        let Some(gdb) = &config.gdb else { return Ok(None) };
        let chardev = self.connect(&gdb.chardev, PortKind::Device)?;
        gdb::serve(chardev, vm, control.clone()).map(Some).context("gdb thread")
    }

    /// For `query-chardev`.
    pub(crate) fn info(&self) -> Vec<ChardevInfo> {
        self.0.info()
    }

    /// The ring buffers' contents.
    pub(crate) fn devices(&self) -> &Chardevs {
        &self.0
    }
}
