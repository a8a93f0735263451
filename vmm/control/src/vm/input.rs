//! What a user does at keyboard and mouse.

/// A key, by name or number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyId {
    /// QMP's name (`ret`, `kp_1`, `ctrl_r`).
    Name(String),
    /// Its code in scan code set 1, with bit 7 for the prefix 0xe0.
    Number(u32),
}

impl std::fmt::Display for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Number(number) => write!(f, "{number:#x}"),
        }
    }
}

/// One thing that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputEvent {
    /// A key goes down or up.
    Key {
        /// Which.
        key: KeyId,
        /// Down.
        down: bool,
    },
    /// A button of the mouse goes down or up, or the wheel turns by a step when it goes down.
    Button {
        /// `left`, `middle`, `right`, `side`, `extra`, `wheel-up`, `wheel-down`.
        button: String,
        /// Down.
        down: bool,
    },
    /// The mouse moves: to the right, towards the user.
    Move {
        /// To the right.
        dx: i32,
        /// Towards the user.
        dy: i32,
    },
}
