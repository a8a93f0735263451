//! What a terminal sends for the keys of its user (ECMA-48, and xterm's control sequences), and the keys of a PC that are meant.

use input::Key;

/// What the user wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// These keys together.
    Keys(Vec<&'static str>),
    /// Another console, by its number from 0.
    Console(usize),
}

/// Names after `ESC [`, by the number before `~`.
const NUMBERED: [(&str, &str); 18] = [
    ("1", "home"),
    ("2", "insert"),
    ("3", "delete"),
    ("4", "end"),
    ("5", "pgup"),
    ("6", "pgdn"),
    ("11", "f1"),
    ("12", "f2"),
    ("13", "f3"),
    ("14", "f4"),
    ("15", "f5"),
    ("17", "f6"),
    ("18", "f7"),
    ("19", "f8"),
    ("20", "f9"),
    ("21", "f10"),
    ("23", "f11"),
    ("24", "f12"),
];

/// Names after `ESC [` or `ESC O`, by their letter.
const LETTERED: [(u8, &str); 10] = [
    (b'A', "up"),
    (b'B', "down"),
    (b'C', "right"),
    (b'D', "left"),
    (b'H', "home"),
    (b'F', "end"),
    (b'P', "f1"),
    (b'Q', "f2"),
    (b'R', "f3"),
    (b'S', "f4"),
];

fn character(byte: u8) -> Option<Vec<&'static str>> {
    let names = |c: char| Key::typing(c).map(|keys| keys.iter().map(|key| key.name).collect());
    match byte {
        0x1b => Some(vec!["esc"]),
        0x08 | 0x7f => Some(vec!["backspace"]),
        b'\r' | b'\n' => Some(vec!["ret"]),
        b'\t' => Some(vec!["tab"]),
        // Control and a letter.
        1..=0x1a => names(char::from(byte | 0x60)).map(|keys: Vec<_>| [&["ctrl"], &keys[..]].concat()),
        0x20..=0x7e => names(byte.into()),
        _ => None,
    }
}

/// The key of a control sequence, and the sequence's length.
fn sequence(bytes: &[u8]) -> Option<(Option<&'static str>, usize)> {
    let (first, rest) = bytes.split_first()?;
    if *first == b'O' {
        let letter = rest.first()?;
        return Some((lettered(*letter), 2));
    }
    let end = rest.iter().position(|byte| (0x40..=0x7e).contains(byte)).filter(|_| *first == b'[')?;
    let key = if rest[end] == b'~' {
        let number = std::str::from_utf8(&rest[..end]).ok().and_then(|text| text.split(';').next());
        NUMBERED.iter().find(|(n, _)| Some(*n) == number).map(|(_, name)| *name)
    } else {
        lettered(rest[end])
    };
    Some((key, end + 2))
}

fn lettered(letter: u8) -> Option<&'static str> {
    LETTERED.iter().find(|(l, _)| *l == letter).map(|(_, name)| *name)
}

/// What the first of some bytes mean that came together, and how many these are. Alt and a letter come as Escape and the letter; an
/// Escape with nothing behind it is the key.
pub(super) fn next(bytes: &[u8]) -> (Typed, usize) {
    let Some((byte, rest)) = bytes.split_first() else { return (Typed::Keys(Vec::new()), 0) };
    let (keys, length) = match rest.first() {
        Some(digit @ b'1'..=b'9') if *byte == 0x1b => return (Typed::Console(usize::from(digit - b'1')), 2),
        Some(other) if *byte == 0x1b => match sequence(rest) {
            Some((key, length)) => (key.map(|key| vec![key]), 1 + length),
            None => (character(*other).map(|keys| [&["alt"], &keys[..]].concat()), 2),
        },
        _ => (character(*byte), 1),
    };
    (Typed::Keys(keys.unwrap_or_default()), length.min(bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(mut bytes: &[u8]) -> Vec<String> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let (typed, length) = next(bytes);
            all.push(match typed {
                Typed::Keys(keys) => keys.join("-"),
                Typed::Console(n) => format!("console {n}"),
            });
            bytes = &bytes[length..];
        }
        all
    }

    #[test]
    fn bytes_are_keys() {
        assert_eq!(keys(b"aB\r\x7f\x03"), ["a", "shift-b", "ret", "backspace", "ctrl-c"]);
        assert_eq!(keys(b"\x1b[A\x1bOP\x1b[24~\x1b[3;5~\x1b[1;2C"), ["up", "f1", "f12", "delete", "right"]);
        assert_eq!(keys(b"\x1b"), ["esc"]);
        assert_eq!(keys(b"\x1bx\x1b\x1b"), ["alt-x", "alt-esc"]);
        assert_eq!(keys(b"x\x1b2y"), ["x", "console 1", "y"]);
        // What no key types, and sequences that nobody knows.
        assert!(keys(b"\xc3\xa9\x1b[99~\x1b[Z\x00").iter().all(String::is_empty));
        assert_eq!(next(b""), (Typed::Keys(Vec::new()), 0));
    }

    #[test]
    fn any_bytes_end() {
        let mut x = 3u32;
        let bytes: Vec<u8> = (0..20_000)
            .map(|_| {
                x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if x & 0x300 == 0 { 0x1b } else { (x >> 24) as u8 }
            })
            .collect();
        assert!(keys(&bytes).len() > 1000);
    }
}
