//! Reads decodetree text into the [`Model`].
//!
//! One definition a line; `\` at the end of a line continues it, `#` starts a comment. Groups are opened and
//! closed by a brace on a line of its own. The syntax is that of QEMU's decodetree document
//! (docs/devel/decodetree.rst); argument types after a colon are Rust's integer types and `bool`.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::model::{
    ArgSet, FieldDef, File, Format, Model, Node, Pattern, Place, Segment, Shape, Value, low_bits,
};

/// Rust types an argument may have.
const TYPES: [&str; 9] = ["bool", "i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64"];

/// Reads one file into `model`. Argument sets are shared with the files read before; fields and formats are not.
pub(crate) fn parse(
    model: &mut Model,
    path: &str,
    function: &str,
    width: u32,
    text: &str,
) -> Result<(), Error> {
    let mut parser = Parser {
        file: model.files.len(),
        path,
        width,
        line: 0,
        fields: BTreeMap::new(),
        formats: BTreeMap::new(),
        model,
        open: vec![Group { brace: ' ', line: 0, members: Vec::new() }],
    };
    for (line, text) in joined_lines(text) {
        parser.line = line;
        parser.definition(&text)?;
    }
    let root = parser.finish()?;
    model.files.push(File { path: path.to_owned(), function: function.to_owned(), width, root });
    Ok(())
}

/// Lines without comments, continuations joined, each with the number of its first line.
fn joined_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut continued = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or("").trim();
        let (line, continues) = match line.strip_suffix('\\') {
            Some(start) => (start.trim_end(), true),
            None => (line, false),
        };
        match lines.last_mut() {
            Some((_, whole)) if continued => {
                whole.push(' ');
                whole.push_str(line);
            }
            _ => lines.push((index + 1, line.to_owned())),
        }
        continued = continues;
    }
    lines.retain(|(_, line)| !line.trim().is_empty());
    lines
}

struct Group {
    brace: char,
    line: usize,
    members: Vec<Node>,
}

struct Parser<'a> {
    file: usize,
    path: &'a str,
    width: u32,
    line: usize,
    fields: BTreeMap<String, FieldDef>,
    formats: BTreeMap<String, Format>,
    model: &'a mut Model,
    /// Groups that are open, the file itself first.
    open: Vec<Group>,
}

impl Parser<'_> {
    fn err<T>(&self, message: impl Into<String>) -> Result<T, Error> {
        Err(Error::new(self.path, self.line, message))
    }

    fn place(&self) -> Place {
        Place { file: self.file, line: self.line }
    }

    fn definition(&mut self, text: &str) -> Result<(), Error> {
        let mut tokens = text.split_whitespace();
        let Some(head) = tokens.next() else { return Ok(()) };
        let rest: Vec<&str> = tokens.collect();
        match head.chars().next() {
            Some('%') => self.field_def(&head[1..], &rest),
            Some('&') => self.args_def(&head[1..], &rest),
            Some('@') => self.format_def(&head[1..], &rest),
            Some('{' | '[' | '}' | ']') => {
                if head.len() != 1 || !rest.is_empty() {
                    return self.err("a brace of a group stands on a line of its own");
                }
                self.brace(head.as_bytes()[0] as char)
            }
            _ => self.pattern_def(head, &rest),
        }
    }

    fn brace(&mut self, brace: char) -> Result<(), Error> {
        if matches!(brace, '{' | '[') {
            self.open.push(Group { brace, line: self.line, members: Vec::new() });
            return Ok(());
        }
        let wanted = if brace == '}' { '{' } else { '[' };
        let group = match self.open.pop() {
            Some(group) if group.brace == wanted => group,
            Some(group) if group.brace == ' ' => return self.err(format!("`{brace}` closes no group")),
            Some(group) => {
                return self.err(format!(
                    "`{brace}` closes the group opened with `{}` in line {}",
                    group.brace, group.line
                ));
            }
            None => return self.err(format!("`{brace}` closes no group")),
        };
        if group.members.is_empty() {
            return self.err(format!("the group opened in line {} has no patterns", group.line));
        }
        let node = if wanted == '{' { Node::Ordered(group.members) } else { Node::Disjoint(group.members) };
        self.push(node);
        Ok(())
    }

    fn push(&mut self, node: Node) {
        if let Some(group) = self.open.last_mut() {
            group.members.push(node);
        }
    }

    fn finish(mut self) -> Result<Node, Error> {
        let group = self.open.pop();
        match group {
            Some(Group { brace: ' ', members, .. }) => {
                for (sigil, name, line, used) in self
                    .fields
                    .iter()
                    .map(|(n, f)| ('%', n, f.place.line, f.used))
                    .chain(self.formats.iter().map(|(n, f)| ('@', n, f.place.line, f.used)))
                {
                    if !used {
                        let what = if sigil == '%' { "field" } else { "format" };
                        return Err(Error::new(
                            self.path,
                            line,
                            format!("{what} `{sigil}{name}` is not used"),
                        ));
                    }
                }
                if members.is_empty() {
                    return Err(Error::new(self.path, 0, "no patterns"));
                }
                Ok(Node::Disjoint(members))
            }
            Some(Group { brace, line, .. }) => {
                Err(Error::new(self.path, line, format!("the group opened with `{brace}` is not closed")))
            }
            None => Err(Error::new(self.path, 0, "no patterns")),
        }
    }

    fn ident(&self, what: &str, name: &str) -> Result<String, Error> {
        let mut chars = name.chars();
        let good = chars.next().is_some_and(|c| c.is_ascii_alphabetic())
            && chars.all(|c| c.is_ascii_alphanumeric() || c == '_');
        if good { Ok(name.to_owned()) } else { self.err(format!("`{name}` is not a name of {what}")) }
    }

    /// `5`, `s5`: a width and whether it is signed.
    fn width_of(&self, text: &str) -> Result<(u32, bool), Error> {
        let (digits, signed) = match text.strip_prefix('s') {
            Some(digits) => (digits, true),
            None => (text, false),
        };
        match digits.parse::<u32>() {
            Ok(len) if (1..=64).contains(&len) => Ok((len, signed)),
            _ => self
                .err(format!("`{text}` is not a width: expected a number from 1 to 64, after `s` if signed")),
        }
    }

    fn field_def(&mut self, name: &str, rest: &[&str]) -> Result<(), Error> {
        let name = self.ident("a field", name)?;
        let mut segments = Vec::new();
        let mut function = None;
        for token in rest {
            if let Some(f) = token.strip_prefix("!function=") {
                if function.is_some() {
                    return self.err(format!("field `%{name}` has two functions"));
                }
                function = Some(self.ident("a function", f)?);
                continue;
            }
            let Some((from, len)) = token.split_once(':') else {
                return self
                    .err(format!("`{token}` in field `%{name}`: expected position:width or name:width"));
            };
            let (len, signed) = self.width_of(len)?;
            if let Ok(pos) = from.parse::<u32>() {
                if u64::from(pos) + u64::from(len) > u64::from(self.width) {
                    return self
                        .err(format!("`{token}` in field `%{name}` is outside the {} bit word", self.width));
                }
                segments.push(Segment::Bits { pos, len, signed });
            } else {
                segments.push(Segment::Named { name: self.ident("a field", from)?, len, signed });
            }
        }
        if segments.is_empty() && function.is_none() {
            return self.err(format!("field `%{name}` has no bits and no function"));
        }
        let mut seen = 0;
        for s in &segments {
            if let Segment::Bits { pos, len, .. } = s {
                let mask = low_bits(*len) << pos;
                if seen & mask != 0 {
                    return self.err(format!("field `%{name}` uses a bit twice"));
                }
                seen |= mask;
            }
        }
        if segments.iter().map(Segment::len).sum::<u32>() > 64 {
            return self.err(format!("field `%{name}` is wider than 64 bits"));
        }
        let def = FieldDef { place: self.place(), value: Value::Field { segments, function }, used: false };
        match self.fields.insert(name.clone(), def) {
            Some(old) => self.err(format!("field `%{name}` is already defined in line {}", old.place.line)),
            None => Ok(()),
        }
    }

    fn args_def(&mut self, name: &str, rest: &[&str]) -> Result<(), Error> {
        let name = self.ident("an argument set", name)?;
        let mut args: Vec<(String, String)> = Vec::new();
        let mut is_extern = false;
        for token in rest {
            if *token == "!extern" {
                is_extern = true;
                continue;
            }
            let (arg, ty) = token.split_once(':').unwrap_or((token, "i32"));
            let arg = self.ident("an argument", arg)?;
            if !TYPES.contains(&ty) {
                return self.err(format!(
                    "`{ty}` is not a type of an argument: expected one of {}",
                    TYPES.join(" ")
                ));
            }
            if args.iter().any(|(a, _)| *a == arg) {
                return self.err(format!("argument `{arg}` appears twice in `&{name}`"));
            }
            args.push((arg, ty.to_owned()));
        }
        match self.model.args.get_mut(&name) {
            Some(old) if is_extern && old.place.file != self.file => {
                old.used = true;
                if old.args == args {
                    return Ok(());
                }
                self.err(format!("`&{name}` differs from its definition in another file"))
            }
            Some(old) => {
                let line = old.place.line;
                self.err(format!("argument set `&{name}` is already defined in line {line}"))
            }
            None if is_extern => {
                self.err(format!("`&{name}` is !extern, but no file before this one defines it"))
            }
            None => {
                let place = self.place();
                self.model.args.insert(name, ArgSet { place, args, used: false });
                Ok(())
            }
        }
    }

    fn format_def(&mut self, name: &str, rest: &[&str]) -> Result<(), Error> {
        let name = self.ident("a format", name)?;
        let (shape, format) = self.shape(&format!("format `@{name}`"), rest)?;
        if format.is_some() {
            return self.err(format!("format `@{name}` refers to another format"));
        }
        let format = Format { place: self.place(), shape, used: false };
        match self.formats.insert(name.clone(), format) {
            Some(old) => self.err(format!("format `@{name}` is already defined in line {}", old.place.line)),
            None => Ok(()),
        }
    }

    /// The elements of a format or a pattern, and the format it refers to.
    fn shape(&mut self, what: &str, tokens: &[&str]) -> Result<(Shape, Option<String>), Error> {
        let mut shape = Shape::default();
        let mut format = None;
        let mut width = 0;
        for token in tokens {
            if let Some(name) = token.strip_prefix('&') {
                if shape.args.is_some() {
                    return self.err(format!("{what} has two argument sets"));
                }
                let Some(set) = self.model.args.get_mut(name) else {
                    return self.err(format!("{what}: unknown argument set `&{name}`"));
                };
                set.used = true;
                shape.args = Some(name.to_owned());
            } else if let Some(name) = token.strip_prefix('@') {
                if format.replace(name.to_owned()).is_some() {
                    return self.err(format!("{what} has two formats"));
                }
            } else if let Some(name) = token.strip_prefix('%') {
                let value = self.field(what, name)?;
                self.add_value(what, &mut shape, name, value)?;
            } else if let Some((arg, value)) = token.split_once('=') {
                let arg = self.ident("an argument", arg)?;
                let value = match value.strip_prefix('%') {
                    Some(name) => self.field(what, name)?,
                    None => Value::Const(self.number(value)?),
                };
                self.add_value(what, &mut shape, &arg, value)?;
            } else if token.chars().all(|c| matches!(c, '0' | '1' | '.' | '-')) {
                for c in token.chars() {
                    shape.fixed_bits = shape.fixed_bits << 1 | u64::from(c == '1');
                    shape.fixed_mask = shape.fixed_mask << 1 | u64::from(matches!(c, '0' | '1'));
                    shape.ignored_mask = shape.ignored_mask << 1 | u64::from(c == '-');
                    for value in shape.values.values_mut() {
                        shift(value, 1);
                    }
                    width += 1;
                }
            } else if let Some((arg, len)) = token.split_once(':') {
                let arg = self.ident("an argument", arg)?;
                let (len, signed) = self.width_of(len)?;
                shape.fixed_bits = shape.fixed_bits.checked_shl(len).unwrap_or(0);
                shape.fixed_mask = shape.fixed_mask.checked_shl(len).unwrap_or(0);
                shape.ignored_mask = shape.ignored_mask.checked_shl(len).unwrap_or(0);
                for value in shape.values.values_mut() {
                    shift(value, len);
                }
                width += len;
                let segments = vec![Segment::Bits { pos: INLINE, len, signed }];
                self.add_value(what, &mut shape, &arg, Value::Field { segments, function: None })?;
            } else {
                return self.err(format!("`{token}` in {what} is not understood"));
            }
            if width > self.width {
                return self.err(format!("{what} is wider than {} bits", self.width));
            }
        }
        if width != self.width && !(width == 0 && format.is_some()) {
            return self.err(format!("{what} has {width} bits, expected {}", self.width));
        }
        // Fields written in place were counted from the right end so far.
        for value in shape.values.values_mut() {
            if let Value::Field { segments, .. } = value {
                for segment in segments {
                    if let Segment::Bits { pos, .. } = segment {
                        *pos %= INLINE;
                    }
                }
            }
        }
        Ok((shape, format))
    }

    fn number(&self, text: &str) -> Result<i64, Error> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let value = match digits.strip_prefix("0x") {
            Some(hex) => i64::from_str_radix(hex, 16),
            None => digits.parse(),
        };
        match value {
            Ok(value) => Ok(if negative { -value } else { value }),
            Err(_) => self.err(format!("`{text}` is not a number")),
        }
    }

    fn field(&mut self, what: &str, name: &str) -> Result<Value, Error> {
        match self.fields.get_mut(name) {
            Some(def) => {
                def.used = true;
                Ok(def.value.clone())
            }
            None => self.err(format!("{what}: unknown field `%{name}`")),
        }
    }

    fn add_value(&self, what: &str, shape: &mut Shape, name: &str, value: Value) -> Result<(), Error> {
        match shape.values.insert(name.to_owned(), value) {
            Some(_) => self.err(format!("{what} gives argument `{name}` twice")),
            None => Ok(()),
        }
    }

    fn pattern_def(&mut self, name: &str, rest: &[&str]) -> Result<(), Error> {
        let name = self.ident("a pattern", name)?;
        let what = format!("pattern `{name}`");
        let (mut shape, format) = self.shape(&what, rest)?;
        if let Some(format) = format {
            let Some(def) = self.formats.get_mut(&format) else {
                return self.err(format!("{what}: unknown format `@{format}`"));
            };
            def.used = true;
            let base = def.shape.clone();
            if base.fixed_mask & shape.fixed_mask != 0 {
                return self.err(format!(
                    "{what} and its format `@{format}` both fix bits {:#x}",
                    base.fixed_mask & shape.fixed_mask
                ));
            }
            shape.fixed_bits |= base.fixed_bits;
            shape.fixed_mask |= base.fixed_mask;
            shape.ignored_mask |= base.ignored_mask & !shape.fixed_mask;
            for (arg, value) in base.values {
                self.add_value(&what, &mut shape, &arg, value)?;
            }
            shape.args = shape.args.or(base.args);
        }
        let fields = shape.field_mask();
        if fields & shape.fixed_mask != 0 {
            return self
                .err(format!("{what}: fields use bits {:#x} that are fixed", fields & shape.fixed_mask));
        }
        let missing = low_bits(self.width) & !(fields | shape.fixed_mask | shape.ignored_mask);
        if missing != 0 {
            return self.err(format!("{what} leaves bits {missing:#x} unspecified"));
        }
        let order = self.order(&what, &shape.values)?;
        let args = self.pattern_args(&what, &name, &shape)?;
        let pattern = Pattern {
            place: self.place(),
            name,
            bits: shape.fixed_bits,
            mask: shape.fixed_mask,
            values: shape.values,
            order,
            args,
        };
        self.push(Node::Pattern(pattern));
        Ok(())
    }

    /// An order in which each value comes after the values it is made of.
    fn order(&self, what: &str, values: &BTreeMap<String, Value>) -> Result<Vec<String>, Error> {
        let mut order: Vec<String> = Vec::new();
        while order.len() < values.len() {
            let before = order.len();
            for (name, value) in values {
                if order.contains(name) {
                    continue;
                }
                let mut ready = true;
                if let Value::Field { segments, .. } = value {
                    for segment in segments {
                        if let Segment::Named { name: other, .. } = segment {
                            if !values.contains_key(other) {
                                return self.err(format!("{what}: field `{name}` refers to `{other}`, which the pattern does not have"));
                            }
                            ready &= order.contains(other);
                        }
                    }
                }
                if ready {
                    order.push(name.clone());
                }
            }
            if order.len() == before {
                return self.err(format!("{what}: fields refer to each other in a circle"));
            }
        }
        Ok(order)
    }

    /// The argument set of a pattern: the one it names, one with the same names, or a new one of its own.
    fn pattern_args(&mut self, what: &str, pattern: &str, shape: &Shape) -> Result<String, Error> {
        if let Some(name) = &shape.args {
            let Some(set) = self.model.args.get(name) else {
                return self.err(format!("{what}: unknown argument set `&{name}`"));
            };
            if let Some((arg, _)) = set.args.iter().find(|(a, _)| !shape.values.contains_key(a)) {
                return self.err(format!("{what} gives no value for argument `{arg}` of `&{name}`"));
            }
            // A field that only feeds a named field of another is not an argument.
            let feeds = |n: &str| {
                shape.values.values().any(|v| {
                    matches!(v, Value::Field { segments, .. } if segments.iter().any(|s| matches!(s, Segment::Named { name, .. } if name == n)))
                })
            };
            for arg in shape.values.keys() {
                if !set.args.iter().any(|(a, _)| a == arg) && !feeds(arg) {
                    return self.err(format!("{what}: `{arg}` is not an argument of `&{name}`"));
                }
            }
            return Ok(name.clone());
        }
        let same = |set: &ArgSet| {
            set.args.len() == shape.values.len() && set.args.iter().all(|(a, _)| shape.values.contains_key(a))
        };
        if let Some((name, set)) = self.model.args.iter_mut().find(|(_, set)| same(set)) {
            set.used = true;
            return Ok(name.clone());
        }
        let args = shape.values.keys().map(|a| (a.clone(), "i32".to_owned())).collect();
        let stem = if shape.values.is_empty() { "empty".to_owned() } else { format!("{pattern}_own") };
        let mut name = stem.clone();
        while self.model.args.contains_key(&name) {
            name.push('x');
        }
        let place = self.place();
        self.model.args.insert(name.clone(), ArgSet { place, args, used: true });
        Ok(name)
    }
}

/// Marks a position that is still counted from the right end of what was read.
const INLINE: u32 = 1 << 16;

/// Moves the fields that were written in place `by` bits up; fields from `%name` have absolute positions.
fn shift(value: &mut Value, by: u32) {
    if let Value::Field { segments, .. } = value {
        for segment in segments {
            if let Segment::Bits { pos, .. } = segment
                && *pos >= INLINE
            {
                *pos += by;
            }
        }
    }
}
