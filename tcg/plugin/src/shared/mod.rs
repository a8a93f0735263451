//! Plugins in shared objects. Where the host has none, each is refused.

#[cfg(unix)]
mod object;
#[cfg(unix)]
mod table;

use crate::options::Wanted;
use crate::{Host, Plugin, PluginError};

/// Loads a shared object and starts the plugin in it.
#[cfg(unix)]
pub(crate) fn load(w: &Wanted, host: &Host) -> Result<Box<dyn Plugin>, PluginError> {
    table::start(w, host)
}

/// There are no shared objects that could be loaded.
#[cfg(not(unix))]
pub(crate) fn load(w: &Wanted, _: &Host) -> Result<Box<dyn Plugin>, PluginError> {
    let problem = "shared objects cannot be loaded on this host".to_owned();
    Err(PluginError::Load { file: w.file.clone(), problem })
}
