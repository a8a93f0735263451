//! Hosts that tell nothing.

use super::HostError;

pub(crate) fn watch<T>(_socket: &T, _v6: bool) {}

pub(crate) fn fragments<T>(_socket: &T, _v6: bool, _allowed: bool) {}

pub(crate) fn next<T>(_socket: &T) -> Option<HostError> {
    None
}

pub(crate) fn at_mark<T>(_socket: &T) -> bool {
    false
}
