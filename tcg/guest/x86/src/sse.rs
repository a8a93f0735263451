//! Helpers of vector instructions: what the IR cannot say (SDM volume 1, chapters 10 to 14).

use crate::{fpu, helpers::helpers};

helpers! {
    base fpu::FIRST + fpu::COUNT;
}
