//! String operations with REP.

use crate::{helpers::helpers, port};

helpers! {
    base port::FIRST + port::COUNT;
}
