//! Wide arithmetic.

use crate::{helpers::helpers, strings};

helpers! {
    base strings::FIRST + strings::COUNT;
}
