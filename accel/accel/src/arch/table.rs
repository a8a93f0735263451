//! One table per architecture: [`cpu_state!`] turns a list of numbered fields into the struct and everything
//! that has to be done with every field of it (save, restore, compare, inspect, access by name).
//!
//! Saved form, all little endian: a struct is `count: u16` and then `count` times `number: u16, length: u32,
//! bytes`, in ascending order of the numbers. A number is never reused for another meaning. Integers and
//! fixed arrays are their bytes; a `Vec` is `count: u32` and its elements; an `Option` is one byte 0 or 1
//! and, for 1, the value.
//!
//! Invariants: decoding reads only inside the bytes given, allocates no more than a constant factor of
//! them, and either yields the whole state or an error with the dotted path of the first bad field.

use std::fmt::Write;

/// Most elements a variable-length field may have.
const MAX_ELEMENTS: usize = 1 << 20;

/// A saved state that cannot be read back, or a field that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cpu state field '{path}': {problem}")]
pub struct StateError {
    /// Dotted path of the field, such as `x86_64.cs.limit`.
    pub path: String,
    /// What is wrong with it.
    pub problem: String,
}

impl StateError {
    /// An error at `path`.
    pub fn new(path: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { path: path.into(), problem: problem.into() }
    }
}

/// One field that differs between two states; values are hexadecimal, empty where the field is absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Dotted path of the field.
    pub path: String,
    /// Value in the state asked.
    pub left: String,
    /// Value in the other one.
    pub right: String,
}

/// The bytes of a saved state that have not been decoded yet.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `n` bytes, or an error that names `path`.
    pub fn take(&mut self, n: usize, path: &str) -> Result<&'a [u8], StateError> {
        let Some((head, rest)) = self.rest.split_at_checked(n) else {
            return Err(StateError::new(
                path,
                format!("needs {n} bytes, the saved state has {} left", self.rest.len()),
            ));
        };
        self.rest = rest;
        Ok(head)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self, path: &str) -> Result<[u8; N], StateError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, path)?);
        Ok(out)
    }

    /// Number of bytes left.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Fails if anything is left.
    pub fn end(&self, path: &str) -> Result<(), StateError> {
        match self.rest.len() {
            0 => Ok(()),
            n => Err(StateError::new(path, format!("has {n} bytes too many"))),
        }
    }
}

/// What a leaf looks like to a visitor: its path and its value as little-endian bytes.
pub type Visit<'v> = dyn FnMut(&str, &[u8]) + 'v;

/// A value that can be part of a CPU state.
pub trait Field {
    /// The value a fresh state has: zero, empty or absent.
    fn empty() -> Self
    where
        Self: Sized;
    /// Appends the saved form.
    fn put(&self, out: &mut Vec<u8>);
    /// Reads the saved form; `path` is the field's own. On error the value is unspecified.
    fn take(&mut self, from: &mut Reader<'_>, path: &mut String) -> Result<(), StateError>;
    /// Calls `visit` for each leaf.
    fn walk(&self, path: &mut String, visit: &mut Visit<'_>);
    /// The field at `path` below this one; the empty path is the field itself.
    fn find(&self, path: &str) -> Option<&dyn Field>;
    /// As [`find`](Self::find), to change it.
    fn find_mut(&mut self, path: &str) -> Option<&mut dyn Field>;
    /// What this is called as an element of a list in texts and comparisons, if its place in the list says
    /// nothing: the number of a model-specific register.
    fn label(&self) -> Option<String> {
        None
    }
}

/// Runs `f` with `.name` appended to `path`.
pub fn below<R>(path: &mut String, name: &str, f: impl FnOnce(&mut String) -> R) -> R {
    let len = path.len();
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
    let r = f(path);
    path.truncate(len);
    r
}

fn below_index<R>(path: &mut String, index: usize, f: impl FnOnce(&mut String) -> R) -> R {
    below(path, &index.to_string(), f)
}

/// Splits `a.b.c` into `a` and `b.c`.
#[must_use]
pub fn split_path(path: &str) -> (&str, &str) {
    path.split_once('.').unwrap_or((path, ""))
}

macro_rules! integer_field {
    ($($t:ty)*) => {$(
        impl Field for $t {
            fn empty() -> Self {
                0
            }
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn take(&mut self, from: &mut Reader<'_>, path: &mut String) -> Result<(), StateError> {
                *self = Self::from_le_bytes(from.array(path)?);
                Ok(())
            }
            fn walk(&self, path: &mut String, visit: &mut Visit<'_>) {
                visit(path, &self.to_le_bytes());
            }
            fn find(&self, path: &str) -> Option<&dyn Field> {
                path.is_empty().then_some(self as &dyn Field)
            }
            fn find_mut(&mut self, path: &str) -> Option<&mut dyn Field> {
                path.is_empty().then_some(self as &mut dyn Field)
            }
        }
    )*};
}
integer_field!(u8 u16 u32 u64 u128);

impl Field for bool {
    fn empty() -> Self {
        false
    }
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn take(&mut self, from: &mut Reader<'_>, path: &mut String) -> Result<(), StateError> {
        *self = match from.array::<1>(path)? {
            [0] => false,
            [1] => true,
            [n] => return Err(StateError::new(path.clone(), format!("is {n}, expected 0 or 1"))),
        };
        Ok(())
    }
    fn walk(&self, path: &mut String, visit: &mut Visit<'_>) {
        visit(path, &[u8::from(*self)]);
    }
    fn find(&self, path: &str) -> Option<&dyn Field> {
        path.is_empty().then_some(self as &dyn Field)
    }
    fn find_mut(&mut self, path: &str) -> Option<&mut dyn Field> {
        path.is_empty().then_some(self as &mut dyn Field)
    }
}

impl<T: Field + 'static, const N: usize> Field for [T; N] {
    fn empty() -> Self {
        std::array::from_fn(|_| T::empty())
    }
    fn put(&self, out: &mut Vec<u8>) {
        self.iter().for_each(|v| v.put(out));
    }
    fn take(&mut self, from: &mut Reader<'_>, path: &mut String) -> Result<(), StateError> {
        self.iter_mut().enumerate().try_for_each(|(i, v)| below_index(path, i, |p| v.take(from, p)))
    }
    fn walk(&self, path: &mut String, visit: &mut Visit<'_>) {
        for (i, v) in self.iter().enumerate() {
            below_index(path, i, |p| v.walk(p, visit));
        }
    }
    fn find(&self, path: &str) -> Option<&dyn Field> {
        if path.is_empty() {
            return Some(self);
        }
        let (head, rest) = split_path(path);
        self.get(head.parse::<usize>().ok()?)?.find(rest)
    }
    fn find_mut(&mut self, path: &str) -> Option<&mut dyn Field> {
        if path.is_empty() {
            return Some(self);
        }
        let (head, rest) = split_path(path);
        self.get_mut(head.parse::<usize>().ok()?)?.find_mut(rest)
    }
}

/// An element of a list that is known by a number: the number in hexadecimal, then the value.
fn walk_element(v: &dyn Field, index: usize, path: &mut String, visit: &mut Visit<'_>) {
    let Some(label) = v.label() else { return below_index(path, index, |p| v.walk(p, visit)) };
    below(path, &label, |p| {
        let name = p.clone();
        v.walk(&mut String::new(), &mut |leaf, bytes| {
            if leaf == "value" {
                visit(&name, bytes);
            }
        });
    });
}

impl<T: Field + 'static> Field for Vec<T> {
    fn empty() -> Self {
        Self::new()
    }
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        self.iter().for_each(|v| v.put(out));
    }
    fn take(&mut self, from: &mut Reader<'_>, path: &mut String) -> Result<(), StateError> {
        let n = u32::from_le_bytes(from.array(path)?) as usize;
        // Each element takes at least one byte, so the bytes that are there bound the allocation.
        if n > MAX_ELEMENTS || n > from.remaining() {
            return Err(StateError::new(path.clone(), format!("claims {n} elements, which do not fit")));
        }
        self.clear();
        for i in 0..n {
            let mut v = T::empty();
            below_index(path, i, |p| v.take(from, p))?;
            self.push(v);
        }
        Ok(())
    }
    fn walk(&self, path: &mut String, visit: &mut Visit<'_>) {
        for (i, v) in self.iter().enumerate() {
            walk_element(v, i, path, visit);
        }
    }
    fn find(&self, path: &str) -> Option<&dyn Field> {
        if path.is_empty() {
            return Some(self);
        }
        let (head, rest) = split_path(path);
        self.get(head.parse::<usize>().ok()?)?.find(rest)
    }
    fn find_mut(&mut self, path: &str) -> Option<&mut dyn Field> {
        if path.is_empty() {
            return Some(self);
        }
        let (head, rest) = split_path(path);
        self.get_mut(head.parse::<usize>().ok()?)?.find_mut(rest)
    }
}

impl<T: Field + 'static> Field for Option<T> {
    fn empty() -> Self {
        None
    }
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(v) = self {
            v.put(out);
        }
    }
    fn take(&mut self, from: &mut Reader<'_>, path: &mut String) -> Result<(), StateError> {
        let mut there = false;
        there.take(from, path)?;
        *self = None;
        if there {
            let mut v = T::empty();
            v.take(from, path)?;
            *self = Some(v);
        }
        Ok(())
    }
    fn walk(&self, path: &mut String, visit: &mut Visit<'_>) {
        if let Some(v) = self {
            v.walk(path, visit);
        }
    }
    fn find(&self, path: &str) -> Option<&dyn Field> {
        if path.is_empty() { Some(self) } else { self.as_ref()?.find(path) }
    }
    fn find_mut(&mut self, path: &str) -> Option<&mut dyn Field> {
        if path.is_empty() { Some(self) } else { self.as_mut()?.find_mut(path) }
    }
}

impl Field for (u64, u64) {
    fn empty() -> Self {
        (0, 0)
    }
    fn put(&self, out: &mut Vec<u8>) {
        [self.0, self.1].put(out);
    }
    fn take(&mut self, from: &mut Reader<'_>, path: &mut String) -> Result<(), StateError> {
        let mut both = [0u64; 2];
        both.take(from, path)?;
        *self = (both[0], both[1]);
        Ok(())
    }
    fn walk(&self, path: &mut String, visit: &mut Visit<'_>) {
        [self.0, self.1].walk(path, visit);
    }
    fn find(&self, path: &str) -> Option<&dyn Field> {
        match path {
            "" => Some(self),
            "0" => Some(&self.0),
            "1" => Some(&self.1),
            _ => None,
        }
    }
    fn find_mut(&mut self, path: &str) -> Option<&mut dyn Field> {
        match path {
            "" => Some(self),
            "0" => Some(&mut self.0),
            "1" => Some(&mut self.1),
            _ => None,
        }
    }
}

/// A vector register of up to 512 bits, little endian. One leaf, unlike an array of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vector(pub [u8; 64]);

impl Default for Vector {
    fn default() -> Self {
        Self([0; 64])
    }
}

impl Field for Vector {
    fn empty() -> Self {
        Self::default()
    }
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
    fn take(&mut self, from: &mut Reader<'_>, path: &mut String) -> Result<(), StateError> {
        self.0 = from.array(path)?;
        Ok(())
    }
    fn walk(&self, path: &mut String, visit: &mut Visit<'_>) {
        visit(path, &self.0);
    }
    fn find(&self, path: &str) -> Option<&dyn Field> {
        path.is_empty().then_some(self as &dyn Field)
    }
    fn find_mut(&mut self, path: &str) -> Option<&mut dyn Field> {
        path.is_empty().then_some(self as &mut dyn Field)
    }
}

/// Little-endian bytes as a hexadecimal number of at least 16 digits or the value's own width.
fn hex(bytes: &[u8]) -> String {
    let mut n = bytes.len();
    while n > 8 && bytes[n - 1] == 0 {
        n -= 1;
    }
    bytes[..n].iter().rev().fold(String::new(), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

/// The leaves of `a` and `b` that differ.
#[must_use]
pub fn compare(a: &dyn Field, b: &dyn Field) -> Vec<Difference> {
    let leaves = |f: &dyn Field| {
        let mut v = Vec::new();
        f.walk(&mut String::new(), &mut |path, bytes| v.push((path.to_owned(), bytes.to_vec())));
        v
    };
    let (left, right) = (leaves(a), leaves(b));
    let others: std::collections::HashMap<_, _> = right.iter().map(|(p, v)| (p.as_str(), v)).collect();
    let mine: std::collections::HashSet<_> = left.iter().map(|(p, _)| p.as_str()).collect();
    let mut out = Vec::new();
    for (path, value) in &left {
        let other = others.get(path.as_str());
        if other.is_none_or(|o| *o != value) {
            out.push(Difference {
                path: path.clone(),
                left: hex(value),
                right: other.map(|o| hex(o)).unwrap_or_default(),
            });
        }
    }
    for (path, value) in right.iter().filter(|(p, _)| !mine.contains(p.as_str())) {
        out.push(Difference { path: path.clone(), left: String::new(), right: hex(value) });
    }
    out
}

/// Readable text: `name=value`, several to a line. Elements of tables that are zero are left out.
#[must_use]
pub fn inspect(state: &dyn Field) -> String {
    let (mut text, mut line) = (String::new(), String::new());
    state.walk(&mut String::new(), &mut |path, bytes| {
        let numbered = |part: &str| part.parse::<u32>().is_ok() || part.starts_with("0x");
        let in_table = path.split('.').any(numbered);
        let zero = bytes.iter().all(|&b| b == 0);
        if in_table && zero && !path.starts_with("x.") {
            return;
        }
        let item = format!("{}={}", path.replacen('.', "", usize::from(path.starts_with("x."))), hex(bytes));
        if !line.is_empty() && line.len() + 1 + item.len() > 100 {
            text.push_str(&line);
            text.push('\n');
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&item);
    });
    if !line.is_empty() {
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// Declares a struct of numbered fields and implements [`Field`], `Default` and the methods `save`,
/// `restore`, `compare` and `inspect` for it. See the module's head for the saved form.
macro_rules! cpu_state {
    (
        $(#[$meta:meta])*
        pub struct $name:ident $(labelled by $label:ident)? {
            $( $(#[$fmeta:meta])* $number:literal => pub $field:ident: $type:ty, )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $( $(#[$fmeta])* pub $field: $type, )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: <$type as $crate::arch::table::Field>::empty(), )* }
            }
        }

        const _: () = {
            // Ascending numbers make duplicates impossible and the saved form unique.
            let numbers: &[u16] = &[$( $number ),*];
            let mut i = 1;
            while i < numbers.len() {
                assert!(numbers[i - 1] < numbers[i], "field numbers must ascend");
                i += 1;
            }
        };

        impl $crate::arch::table::Field for $name {
            fn empty() -> Self {
                Self::default()
            }

            fn put(&self, out: &mut Vec<u8>) {
                let count = [$( $number as u16 ),*].len() as u16;
                out.extend_from_slice(&count.to_le_bytes());
                $(
                    out.extend_from_slice(&($number as u16).to_le_bytes());
                    let at = out.len();
                    out.extend_from_slice(&[0; 4]);
                    self.$field.put(out);
                    let len = (out.len() - at - 4) as u32;
                    out[at..at + 4].copy_from_slice(&len.to_le_bytes());
                )*
            }

            fn take(
                &mut self,
                from: &mut $crate::arch::table::Reader<'_>,
                path: &mut String,
            ) -> Result<(), $crate::arch::table::StateError> {
                use $crate::arch::table::{Reader, StateError, below};
                let count = u16::from_le_bytes(from.array(path)?);
                let mut seen = Vec::new();
                for _ in 0..count {
                    let number = u16::from_le_bytes(from.array(path)?);
                    let len = u32::from_le_bytes(from.array(path)?) as usize;
                    if seen.last().is_some_and(|&last| last >= number) {
                        return Err(StateError::new(
                            path.clone(),
                            format!("holds field {number} out of order"),
                        ));
                    }
                    seen.push(number);
                    match number {
                        $( $number => below(path, stringify!($field), |p| {
                            let mut inner = Reader::new(from.take(len, p)?);
                            $crate::arch::table::Field::take(&mut self.$field, &mut inner, p)?;
                            inner.end(p)
                        })?, )*
                        _ => return Err(StateError::new(
                            path.clone(),
                            format!("holds field {number}, which this version does not know"),
                        )),
                    }
                }
                $( if !seen.contains(&$number) {
                    return Err(below(path, stringify!($field), |p| {
                        StateError::new(p.clone(), "is missing from the saved state")
                    }));
                } )*
                Ok(())
            }

            fn walk(&self, path: &mut String, visit: &mut $crate::arch::table::Visit<'_>) {
                $( $crate::arch::table::below(path, stringify!($field), |p| self.$field.walk(p, visit)); )*
            }

            fn find(&self, path: &str) -> Option<&dyn $crate::arch::table::Field> {
                let (head, rest) = $crate::arch::table::split_path(path);
                match head {
                    "" => Some(self),
                    $( stringify!($field) => self.$field.find(rest), )*
                    _ => None,
                }
            }

            fn find_mut(&mut self, path: &str) -> Option<&mut dyn $crate::arch::table::Field> {
                let (head, rest) = $crate::arch::table::split_path(path);
                match head {
                    "" => Some(self),
                    $( stringify!($field) => self.$field.find_mut(rest), )*
                    _ => None,
                }
            }
            $(
                fn label(&self) -> Option<String> {
                    Some(format!("{:#x}", self.$label))
                }
            )?
        }

        impl $name {
            /// The saved form.
            #[must_use]
            pub fn save(&self) -> Vec<u8> {
                let mut out = Vec::new();
                $crate::arch::table::Field::put(self, &mut out);
                out
            }

            /// Reads the saved form back: all of it, or an error with the path of the first bad field.
            pub fn restore(bytes: &[u8]) -> Result<Self, $crate::arch::table::StateError> {
                let mut from = $crate::arch::table::Reader::new(bytes);
                let mut state = Self::default();
                $crate::arch::table::Field::take(&mut state, &mut from, &mut String::new())?;
                from.end("")?;
                Ok(state)
            }

            /// The fields in which `self` and `other` differ.
            #[must_use]
            pub fn compare(&self, other: &Self) -> Vec<$crate::arch::table::Difference> {
                $crate::arch::table::compare(self, other)
            }

            /// Readable text of the whole state, several lines.
            #[must_use]
            pub fn inspect(&self) -> String {
                $crate::arch::table::inspect(self)
            }
        }
    };
}

/// Declares an enumeration of numbered values that can be a field.
macro_rules! cpu_enum {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $( $(#[$vmeta:meta])* $variant:ident = $value:literal, )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub enum $name {
            $( $(#[$vmeta])* $variant = $value, )*
        }

        impl $crate::arch::table::Field for $name {
            fn empty() -> Self {
                Self::default()
            }
            fn put(&self, out: &mut Vec<u8>) {
                out.push(*self as u8);
            }
            fn take(
                &mut self,
                from: &mut $crate::arch::table::Reader<'_>,
                path: &mut String,
            ) -> Result<(), $crate::arch::table::StateError> {
                *self = match from.array::<1>(path)? {
                    $( [$value] => Self::$variant, )*
                    [n] => return Err($crate::arch::table::StateError::new(
                        path.clone(),
                        format!("is {n}, expected one of{}", concat!($( " ", stringify!($value) ),*)),
                    )),
                };
                Ok(())
            }
            fn walk(&self, path: &mut String, visit: &mut $crate::arch::table::Visit<'_>) {
                visit(path, &[*self as u8]);
            }
            fn find(&self, path: &str) -> Option<&dyn $crate::arch::table::Field> {
                path.is_empty().then_some(self as _)
            }
            fn find_mut(&mut self, path: &str) -> Option<&mut dyn $crate::arch::table::Field> {
                path.is_empty().then_some(self as _)
            }
        }
    };
}

pub(crate) use {cpu_enum, cpu_state};
