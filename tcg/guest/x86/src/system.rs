//! System instructions.

use crate::{control, helpers::helpers};

helpers! {
    base control::FIRST + control::COUNT;
}
