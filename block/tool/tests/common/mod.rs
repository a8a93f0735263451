//! What the tests of the tool have in common.

use std::path::PathBuf;

/// The example binary, which cargo builds beside the tests.
pub(crate) fn tool() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.join("examples").join("img")
}
