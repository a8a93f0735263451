//! JSON as QMP reads it: a stream of objects, strings in single or double quotes, bounded in size and depth.
//!
//! [`Splitter`] finds where a message ends without building it; [`parse`] then reads it. After something that
//! cannot be a message the splitter skips to the end of the line and goes on, so one bad message costs one
//! error. A byte 0xFF resets it, as QMP's specification asks for ("3.3 Client issues: forcing the JSON parser
//! into known-good state").

use serde_json::{Map, Number, Value};

/// Longest message in bytes.
pub(crate) const MAX_MESSAGE: usize = 8 << 20;
/// Deepest nesting.
const MAX_DEPTH: usize = 128;

/// What the splitter found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// The bytes of one balanced message.
    Message(Vec<u8>),
    /// Something else, with what is wrong.
    Garbage(&'static str),
}

/// Cuts a byte stream into messages.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    buffer: Vec<u8>,
    /// Open brackets.
    stack: Vec<u8>,
    /// Inside a string: its quote.
    quote: Option<u8>,
    escaped: bool,
    skipping: bool,
}

impl Splitter {
    /// Takes one byte.
    pub(crate) fn push(&mut self, byte: u8) -> Option<Piece> {
        if byte == 0xff {
            let lost = !self.buffer.is_empty();
            *self = Self::default();
            return lost.then_some(Piece::Garbage("message was cut short"));
        }
        if self.skipping {
            self.skipping = byte != b'\n';
            return None;
        }
        if self.buffer.len() >= MAX_MESSAGE {
            return self.fail("message is too long", byte);
        }
        if let Some(quote) = self.quote {
            self.buffer.push(byte);
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                _ if byte == quote => self.quote = None,
                // A raw line end can't be in a string: the client forgot the quote.
                b'\n' => return self.fail("string has no end", byte),
                _ => {}
            }
            return None;
        }
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' if self.stack.is_empty() => return None,
            b'{' | b'[' => {
                if self.stack.len() == MAX_DEPTH {
                    return self.fail("message is nested too deeply", byte);
                }
                self.stack.push(byte + 2);
            }
            b'}' | b']' if self.stack.pop() != Some(byte) => return self.fail("bracket does not fit", byte),
            b'"' | b'\'' => self.quote = Some(byte),
            _ => {}
        }
        if self.buffer.is_empty() && self.stack.is_empty() {
            return self.fail("expected a JSON object", byte);
        }
        self.buffer.push(byte);
        if self.stack.is_empty() {
            return Some(Piece::Message(std::mem::take(&mut self.buffer)));
        }
        None
    }

    fn fail(&mut self, why: &'static str, byte: u8) -> Option<Piece> {
        *self = Self { skipping: byte != b'\n', ..Self::default() };
        Some(Piece::Garbage(why))
    }
}

/// Reads one message.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "not UTF-8 text".to_owned())?;
    let mut p = Parser { text, at: 0 };
    let value = p.value(0)?;
    p.blanks();
    if p.at == text.len() { Ok(value) } else { p.expected("the end") }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
    }

    fn expected<T>(&self, what: &str) -> Result<T, String> {
        match self.rest().chars().next() {
            Some(c) => Err(format!("expected {what} at byte {}, found {c:?}", self.at)),
            None => Err(format!("expected {what} at byte {}, found the end", self.at)),
        }
    }

    fn eat(&mut self, c: char) -> bool {
        self.blanks();
        let hit = self.rest().starts_with(c);
        if hit {
            self.at += c.len_utf8();
        }
        hit
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        if depth > MAX_DEPTH {
            return Err("message is nested too deeply".into());
        }
        self.blanks();
        match self.rest().chars().next() {
            Some('{') => self.object(depth),
            Some('[') => self.array(depth),
            Some('"' | '\'') => Ok(Value::String(self.string()?)),
            Some('-' | '0'..='9') => self.number(),
            Some('a'..='z') => self.word(),
            _ => self.expected("a value"),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, String> {
        self.eat('{');
        let mut map = Map::new();
        if self.eat('}') {
            return Ok(Value::Object(map));
        }
        loop {
            self.blanks();
            if !self.rest().starts_with(['"', '\'']) {
                return self.expected("a key in quotes");
            }
            let key = self.string()?;
            if !self.eat(':') {
                return self.expected("':'");
            }
            let value = self.value(depth + 1)?;
            if map.contains_key(&key) {
                return Err(format!("key '{key}' is there twice"));
            }
            map.insert(key, value);
            if self.eat('}') {
                return Ok(Value::Object(map));
            }
            if !self.eat(',') {
                return self.expected("',' or '}'");
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, String> {
        self.eat('[');
        let mut list = Vec::new();
        if self.eat(']') {
            return Ok(Value::Array(list));
        }
        loop {
            list.push(self.value(depth + 1)?);
            if self.eat(']') {
                return Ok(Value::Array(list));
            }
            if !self.eat(',') {
                return self.expected("',' or ']'");
            }
        }
    }

    fn string(&mut self) -> Result<String, String> {
        let mut chars = self.rest().char_indices();
        let Some((_, quote)) = chars.next() else { return self.expected("a string") };
        let mut out = String::new();
        while let Some((i, c)) = chars.next() {
            match c {
                _ if c == quote => {
                    self.at += i + 1;
                    return Ok(out);
                }
                '\\' => {
                    let escape = chars.next().map(|(_, c)| c);
                    out.push(match escape {
                        Some(c @ ('"' | '\'' | '\\' | '/')) => c,
                        Some('b') => '\u{8}',
                        Some('f') => '\u{c}',
                        Some('n') => '\n',
                        Some('r') => '\r',
                        Some('t') => '\t',
                        Some('u') => {
                            let (c, used) = unicode(chars.as_str()).ok_or("bad \\u escape in a string")?;
                            // The escapes are ASCII, so bytes and characters are the same here.
                            chars.nth(used - 1);
                            c
                        }
                        _ => return Err("bad escape in a string".into()),
                    });
                }
                '\0'..='\x1f' => return Err("control character in a string".into()),
                _ => out.push(c),
            }
        }
        Err("string has no end".into())
    }

    fn number(&mut self) -> Result<Value, String> {
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_ascii_digit() && !"+-.eE".contains(c)).unwrap_or(rest.len());
        // serde_json knows the grammar of numbers; Number has no other parser.
        let number: Result<Number, _> = serde_json::from_str(&rest[..end]);
        match number {
            Ok(n) => {
                self.at += end;
                Ok(Value::Number(n))
            }
            Err(_) => self.expected("a number"),
        }
    }

    fn word(&mut self) -> Result<Value, String> {
        for (word, value) in
            [("true", Value::Bool(true)), ("false", Value::Bool(false)), ("null", Value::Null)]
        {
            if self.rest().starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        self.expected("a value")
    }
}

/// The character of `XXXX` or of the pair `XXXX\uXXXX`, and how many bytes it took.
fn unicode(text: &str) -> Option<(char, usize)> {
    let unit = |s: &str| {
        s.get(..4)
            .filter(|h| h.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|h| u32::from_str_radix(h, 16).ok())
    };
    let high = unit(text)?;
    if !(0xd800..0xdc00).contains(&high) {
        return char::from_u32(high).map(|c| (c, 4));
    }
    let low = unit(text.get(4..)?.strip_prefix("\\u")?)?;
    let low = (0xdc00..0xe000).contains(&low).then_some(low)?;
    char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)).map(|c| (c, 10))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn split(bytes: &[u8]) -> Vec<Piece> {
        let mut s = Splitter::default();
        bytes.iter().filter_map(|b| s.push(*b)).collect()
    }

    fn message(text: &str) -> Piece {
        Piece::Message(text.as_bytes().to_vec())
    }

    #[test]
    fn streams() {
        assert_eq!(split(b"{}{'a':['}']}\r\n [1]"), [message("{}"), message("{'a':['}']}"), message("[1]")]);
        assert_eq!(split(br#"{"a":"\"}"}"#), [message(r#"{"a":"\"}"}"#)]);
        assert_eq!(split(b"hello {}\n{}"), [Piece::Garbage("expected a JSON object"), message("{}")]);
        assert_eq!(split(b"{]\n{}"), [Piece::Garbage("bracket does not fit"), message("{}")]);
        assert_eq!(split(b"{'a\n{}"), [Piece::Garbage("string has no end"), message("{}")]);
        assert_eq!(split(b"{ 'a\xff{}"), [Piece::Garbage("message was cut short"), message("{}")]);
        assert_eq!(split(b"\xff{}"), [message("{}")]);
        assert_eq!(split("[".repeat(200).as_bytes()), [Piece::Garbage("message is nested too deeply")]);
        let mut long = vec![b'{'];
        long.resize(MAX_MESSAGE + 10, b' ');
        long.extend(b"\n{}");
        assert_eq!(split(&long), [Piece::Garbage("message is too long"), message("{}")]);
    }

    #[test]
    fn values() {
        for (text, want) in [
            (
                "{'a': \"b\", 'c': [1, -2, 3.5, 1e3, true, false, null]}",
                json!({"a":"b","c":[1,-2,3.5,1e3,true,false,null]}),
            ),
            (r#"["\u00e9\ud83d\ude00\n\/\'"]"#, json!(["é😀\n/'"])),
            ("[18446744073709551615, -9223372036854775808]", json!([u64::MAX, i64::MIN])),
            ("[]", json!([])),
        ] {
            assert_eq!(parse(text.as_bytes()), Ok(want), "{text}");
        }
        for bad in [
            "",
            "{",
            "{a:1}",
            "{'a' 1}",
            "{'a':1,}",
            "{'a':1,'a':2}",
            "[1 2]",
            "[01]",
            "[+1]",
            "[1.]",
            "['\\x']",
            "['\\ud800']",
            "['\\u12g4']",
            "['\n']",
            "[nul]",
            "{}x",
            "[--1]",
            "['",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(parse(b"[\xfe]").is_err());
    }
}
