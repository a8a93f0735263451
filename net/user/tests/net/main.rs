//! The network as a guest sees it.
#![expect(clippy::unwrap_used, reason = "a panic in a test is the report")]

mod abuse;
mod errors;
mod guest;
mod large;
mod leases;
mod many;
mod raw;
mod segments;
mod services;
mod smb;
mod tcp;

use net_user::{Options, UserConfig};

/// The configuration that options make.
fn config(options: &[(&str, &str)]) -> UserConfig {
    let mut all = Options::default();
    options.iter().for_each(|(key, value)| all.set(key, value).unwrap());
    all.finish().unwrap()
}
