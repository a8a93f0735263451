//! The keys of a PC keyboard by QEMU's names, and what each sends in the three scan code sets (IBM PS/2 Hardware
//! Interface Technical Reference, "Keyboards", and Microsoft's "Keyboard Scan Code Specification" for the newer ones).

/// One key. Codes above 0xff have the prefix 0xe0; set 3 has no prefixes, and 0 where the key does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Name, as in `sendkey` and `send-key`.
    pub name: &'static str,
    set1: u16,
    set2: u16,
    set3: u8,
}

const EXTENDED: u8 = 0xe0;
const BREAK: u8 = 0xf0;

macro_rules! keys {
    ($($name:literal $set1:literal $set2:literal $set3:literal,)*) => {
        /// All keys.
        pub const KEYS: &[Key] = &[$(Key { name: $name, set1: $set1, set2: $set2, set3: $set3 },)*];
    };
}

keys! {
    "esc" 0x01 0x76 0x08,
    "1" 0x02 0x16 0x16,
    "2" 0x03 0x1e 0x1e,
    "3" 0x04 0x26 0x26,
    "4" 0x05 0x25 0x25,
    "5" 0x06 0x2e 0x2e,
    "6" 0x07 0x36 0x36,
    "7" 0x08 0x3d 0x3d,
    "8" 0x09 0x3e 0x3e,
    "9" 0x0a 0x46 0x46,
    "0" 0x0b 0x45 0x45,
    "minus" 0x0c 0x4e 0x4e,
    "equal" 0x0d 0x55 0x55,
    "backspace" 0x0e 0x66 0x66,
    "tab" 0x0f 0x0d 0x0d,
    "q" 0x10 0x15 0x15,
    "w" 0x11 0x1d 0x1d,
    "e" 0x12 0x24 0x24,
    "r" 0x13 0x2d 0x2d,
    "t" 0x14 0x2c 0x2c,
    "y" 0x15 0x35 0x35,
    "u" 0x16 0x3c 0x3c,
    "i" 0x17 0x43 0x43,
    "o" 0x18 0x44 0x44,
    "p" 0x19 0x4d 0x4d,
    "bracket_left" 0x1a 0x54 0x54,
    "bracket_right" 0x1b 0x5b 0x5b,
    "ret" 0x1c 0x5a 0x5a,
    "ctrl" 0x1d 0x14 0x11,
    "a" 0x1e 0x1c 0x1c,
    "s" 0x1f 0x1b 0x1b,
    "d" 0x20 0x23 0x23,
    "f" 0x21 0x2b 0x2b,
    "g" 0x22 0x34 0x34,
    "h" 0x23 0x33 0x33,
    "j" 0x24 0x3b 0x3b,
    "k" 0x25 0x42 0x42,
    "l" 0x26 0x4b 0x4b,
    "semicolon" 0x27 0x4c 0x4c,
    "apostrophe" 0x28 0x52 0x52,
    "grave_accent" 0x29 0x0e 0x0e,
    "shift" 0x2a 0x12 0x12,
    "backslash" 0x2b 0x5d 0x5c,
    "z" 0x2c 0x1a 0x1a,
    "x" 0x2d 0x22 0x22,
    "c" 0x2e 0x21 0x21,
    "v" 0x2f 0x2a 0x2a,
    "b" 0x30 0x32 0x32,
    "n" 0x31 0x31 0x31,
    "m" 0x32 0x3a 0x3a,
    "comma" 0x33 0x41 0x41,
    "dot" 0x34 0x49 0x49,
    "slash" 0x35 0x4a 0x4a,
    "shift_r" 0x36 0x59 0x59,
    "kp_multiply" 0x37 0x7c 0x7e,
    "alt" 0x38 0x11 0x19,
    "spc" 0x39 0x29 0x29,
    "caps_lock" 0x3a 0x58 0x14,
    "f1" 0x3b 0x05 0x07,
    "f2" 0x3c 0x06 0x0f,
    "f3" 0x3d 0x04 0x17,
    "f4" 0x3e 0x0c 0x1f,
    "f5" 0x3f 0x03 0x27,
    "f6" 0x40 0x0b 0x2f,
    "f7" 0x41 0x83 0x37,
    "f8" 0x42 0x0a 0x3f,
    "f9" 0x43 0x01 0x47,
    "f10" 0x44 0x09 0x4f,
    "num_lock" 0x45 0x77 0x76,
    "scroll_lock" 0x46 0x7e 0x5f,
    "kp_7" 0x47 0x6c 0x6c,
    "kp_8" 0x48 0x75 0x75,
    "kp_9" 0x49 0x7d 0x7d,
    "kp_subtract" 0x4a 0x7b 0x84,
    "kp_4" 0x4b 0x6b 0x6b,
    "kp_5" 0x4c 0x73 0x73,
    "kp_6" 0x4d 0x74 0x74,
    "kp_add" 0x4e 0x79 0x7c,
    "kp_1" 0x4f 0x69 0x69,
    "kp_2" 0x50 0x72 0x72,
    "kp_3" 0x51 0x7a 0x7a,
    "kp_0" 0x52 0x70 0x70,
    "kp_decimal" 0x53 0x71 0x71,
    "sysrq" 0x54 0x84 0x57,
    "less" 0x56 0x61 0x13,
    "f11" 0x57 0x78 0x56,
    "f12" 0x58 0x07 0x5e,
    "kp_equals" 0x59 0x0f 0x00,
    "katakanahiragana" 0x70 0x13 0x87,
    "ro" 0x73 0x51 0x51,
    "henkan" 0x79 0x64 0x86,
    "muhenkan" 0x7b 0x67 0x85,
    "yen" 0x7d 0x6a 0x5d,
    "kp_comma" 0x7e 0x6d 0x7b,
    "audioprev" 0xe010 0xe015 0x94,
    "audionext" 0xe019 0xe04d 0x93,
    "kp_enter" 0xe01c 0xe05a 0x79,
    "ctrl_r" 0xe01d 0xe014 0x58,
    "audiomute" 0xe020 0xe023 0x9c,
    "calculator" 0xe021 0xe02b 0xa3,
    "audioplay" 0xe022 0xe034 0x91,
    "audiostop" 0xe024 0xe03b 0x98,
    "volumedown" 0xe02e 0xe021 0x9d,
    "volumeup" 0xe030 0xe032 0x95,
    "ac_home" 0xe032 0xe03a 0x9a,
    "kp_divide" 0xe035 0xe04a 0x77,
    "alt_r" 0xe038 0xe011 0x39,
    "home" 0xe047 0xe06c 0x6e,
    "up" 0xe048 0xe075 0x63,
    "pgup" 0xe049 0xe07d 0x6f,
    "left" 0xe04b 0xe06b 0x61,
    "right" 0xe04d 0xe074 0x6a,
    "end" 0xe04f 0xe069 0x65,
    "down" 0xe050 0xe072 0x60,
    "pgdn" 0xe051 0xe07a 0x6d,
    "insert" 0xe052 0xe070 0x67,
    "delete" 0xe053 0xe071 0x64,
    "meta_l" 0xe05b 0xe01f 0x8b,
    "meta_r" 0xe05c 0xe027 0x8c,
    "compose" 0xe05d 0xe02f 0x8d,
    "power" 0xe05e 0xe037 0x00,
    "sleep" 0xe05f 0xe03f 0x00,
    "wake" 0xe063 0xe05e 0x00,
    "find" 0xe065 0xe010 0x00,
    "ac_bookmarks" 0xe066 0xe018 0x00,
    "ac_refresh" 0xe067 0xe020 0x00,
    "stop" 0xe068 0xe028 0x0a,
    "ac_forward" 0xe069 0xe030 0x00,
    "ac_back" 0xe06a 0xe038 0x00,
    "computer" 0xe06b 0xe040 0x00,
    "mail" 0xe06c 0xe048 0x00,
    "mediaselect" 0xe06d 0xe050 0x00,
    "print" 0xe037 0xe07c 0x57,
    "pause" 0xe046 0xe07e 0x62,
}

/// Other names for some keys, those that QEMU also takes.
const ALIASES: &[(&str, &str)] = &[
    ("asterisk", "kp_multiply"),
    ("ctrl_l", "ctrl"),
    ("shift_l", "shift"),
    ("alt_l", "alt"),
    ("menu", "compose"),
    ("altgr", "alt_r"),
    ("enter", "ret"),
    ("space", "spc"),
];

impl Key {
    /// The key of a name.
    pub fn named(name: &str) -> Option<&'static Key> {
        let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, name)| name);
        KEYS.iter().find(|key| key.name == name)
    }

    /// The key of a number: its code in set 1, with bit 7 for the prefix.
    pub fn numbered(number: u32) -> Option<&'static Key> {
        let number = if number & 0x80 != 0 { 0xe000 | number & 0x7f } else { number };
        KEYS.iter().find(|key| u32::from(key.set1) == number)
    }

    /// The keys that type a character on a US keyboard, in the order to be pressed.
    pub fn typing(character: char) -> Option<Vec<&'static Key>> {
        const PLAIN: &str = "-=[];'`\\,./ \n\t";
        const PLAIN_NAMES: [&str; 14] = [
            "minus",
            "equal",
            "bracket_left",
            "bracket_right",
            "semicolon",
            "apostrophe",
            "grave_accent",
            "backslash",
            "comma",
            "dot",
            "slash",
            "spc",
            "ret",
            "tab",
        ];
        const SHIFTED: &str = "_+{}:\"~|<>?!@#$%^&*()";
        const UNSHIFTED: &str = "-=[];'`\\,./1234567890";
        let (base, shift) = match SHIFTED.chars().position(|c| c == character) {
            Some(at) => (UNSHIFTED.chars().nth(at)?, true),
            None => (character.to_ascii_lowercase(), character.is_ascii_uppercase()),
        };
        let name = match PLAIN.chars().position(|c| c == base) {
            Some(at) => PLAIN_NAMES[at].to_owned(),
            None => base.to_string(),
        };
        let key = Key::named(&name)?;
        if shift { Some(vec![Key::named("shift")?, key]) } else { Some(vec![key]) }
    }

    /// What the keyboard sends when the key goes down or up, in scan code set 1, 2 or 3.
    pub(crate) fn codes(&self, set: u8, down: bool) -> Vec<u8> {
        match (set, self.name) {
            (1, "pause") if down => vec![0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5],
            (2, "pause") if down => vec![0xe1, 0x14, 0x77, 0xe1, BREAK, 0x14, BREAK, 0x77],
            (1 | 2, "pause") => Vec::new(),
            (1, "print") if down => vec![0xe0, 0x2a, 0xe0, 0x37],
            (1, "print") => vec![0xe0, 0xb7, 0xe0, 0xaa],
            (2, "print") if down => vec![0xe0, 0x12, 0xe0, 0x7c],
            (2, "print") => vec![0xe0, BREAK, 0x7c, 0xe0, BREAK, 0x12],
            (3, _) if self.set3 == 0 => Vec::new(),
            (3, _) if down => vec![self.set3],
            (3, _) => vec![BREAK, self.set3],
            (1, _) => {
                let code = self.set1 as u8 | if down { 0 } else { 0x80 };
                Self::prefixed(self.set1, &[code])
            }
            _ if down => Self::prefixed(self.set2, &[self.set2 as u8]),
            _ => Self::prefixed(self.set2, &[BREAK, self.set2 as u8]),
        }
    }

    fn prefixed(code: u16, bytes: &[u8]) -> Vec<u8> {
        let prefix = (code > 0xff).then_some(EXTENDED);
        prefix.into_iter().chain(bytes.iter().copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_by_name_number_and_character() {
        assert_eq!(Key::named("ctrl_r").unwrap().codes(2, false), [0xe0, 0xf0, 0x14]);
        assert_eq!(Key::named("menu").unwrap().name, "compose");
        assert_eq!(Key::numbered(0x9d).unwrap().name, "ctrl_r");
        assert_eq!(Key::numbered(0x1e).unwrap().name, "a");
        let names = |c| Key::typing(c).map(|keys| keys.iter().map(|k| k.name).collect::<Vec<_>>());
        assert_eq!(names('A'), Some(vec!["shift", "a"]));
        assert_eq!(names('/'), Some(vec!["slash"]));
        assert_eq!(names('*'), Some(vec!["shift", "8"]));
        assert_eq!(names('7'), Some(vec!["7"]));
        assert_eq!(names('ß'), None);
        for c in (' '..='~').chain(['\n', '\t']) {
            assert!(Key::typing(c).is_some(), "{c:?}");
        }
    }

    #[test]
    fn no_two_keys_share_a_code() {
        for (i, a) in KEYS.iter().enumerate() {
            for b in &KEYS[i + 1..] {
                assert!(a.name != b.name && a.set1 != b.set1 && a.set2 != b.set2, "{a:?} {b:?}");
            }
        }
    }
}
