//! Ports.

use crate::{helpers::helpers, system};

helpers! {
    base system::FIRST + system::COUNT;
}
