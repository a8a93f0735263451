//! x87 and MMX helpers (SDM volume 1, chapters 8 and 9).

use crate::{debug, helpers::helpers};

helpers! {
    base debug::FIRST + debug::COUNT;
}
