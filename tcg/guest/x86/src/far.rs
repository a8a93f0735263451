//! Far transfers: JMP, CALL, RET, IRET, gates (SDM volume 3, 5.8).

use crate::{exceptions, helpers::helpers};

helpers! {
    base exceptions::FIRST + exceptions::COUNT;
}
