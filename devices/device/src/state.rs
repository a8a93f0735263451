//! Saved device state: numbered fields in protocol-buffer style.
//!
//! A device keeps its saved form in a private struct made by [`state!`](crate::state), apart from its runtime
//! struct. Rules, as for protocol buffers: a number is never reused; fields of unknown numbers are ignored; a
//! missing field keeps its default, which therefore has to mean "as before the field existed". Integers are
//! varints and checked against their type; sequences and nested structs are length-delimited.
//!
//! A [`StateBlob`] wraps the fields with the device's kind, a version and a checksum, so truncated or damaged
//! data is refused as a whole.

use std::fmt;

/// Why a saved state was refused. Displays as `path/field: expected ...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateError {
    path: String,
    what: String,
}

impl StateError {
    /// Field `field` is not what was expected.
    pub fn new(field: impl Into<String>, what: impl Into<String>) -> Self {
        StateError { path: field.into(), what: what.into() }
    }

    /// The same error seen from one level up.
    #[must_use]
    pub fn within(mut self, outer: &str) -> Self {
        self.path = if self.path.is_empty() { outer.to_owned() } else { format!("{outer}/{}", self.path) };
        self
    }

    /// Checks that `value` of field `field` is at most `max`.
    pub fn at_most<T: PartialOrd + fmt::Display>(field: &str, value: T, max: T) -> Result<T, StateError> {
        if value <= max {
            Ok(value)
        } else {
            Err(Self::new(field, format!("expected at most {max}, found {value}")))
        }
    }
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.what)
    }
}

impl std::error::Error for StateError {}

/// Appends a varint.
fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes a varint off the front.
fn take_varint(data: &mut &[u8]) -> Result<u64, StateError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = data.split_first().ok_or_else(truncated)?;
        *data = rest;
        if shift == 63 && byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(StateError::new("", "expected an integer of at most 64 bits"))
}

fn take_bytes<'a>(data: &mut &'a [u8]) -> Result<&'a [u8], StateError> {
    let len = take_varint(data)?;
    let len = usize::try_from(len).map_err(|_| truncated())?;
    let (bytes, rest) = data.split_at_checked(len).ok_or_else(truncated)?;
    *data = rest;
    Ok(bytes)
}

fn truncated() -> StateError {
    StateError::new("", "expected more data")
}

/// A value that can be a field. Wire type 0 is a varint, 2 is length-delimited.
pub trait Item: Sized {
    /// Wire type.
    const WIRE: u8;

    /// Appends the value.
    fn put(&self, out: &mut Vec<u8>);

    /// Takes a value off the front.
    fn take(data: &mut &[u8]) -> Result<Self, StateError>;

    /// Appends key and value; an absent option appends nothing.
    fn put_field(&self, number: u32, out: &mut Vec<u8>) {
        put_varint(u64::from(number) << 3 | u64::from(Self::WIRE), out);
        self.put(out);
    }
}

macro_rules! unsigned {
    ($($t:ty),*) => {$(
        impl Item for $t {
            const WIRE: u8 = 0;
            fn put(&self, out: &mut Vec<u8>) {
                put_varint(u64::from(*self), out);
            }
            fn take(data: &mut &[u8]) -> Result<Self, StateError> {
                let value = take_varint(data)?;
                value.try_into().map_err(|_| {
                    StateError::new("", format!(concat!("expected a ", stringify!($t), ", found {}"), value))
                })
            }
        }
    )*};
}
unsigned!(u8, u16, u32, u64);

macro_rules! signed {
    ($($t:ty),*) => {$(
        impl Item for $t {
            const WIRE: u8 = 0;
            fn put(&self, out: &mut Vec<u8>) {
                let value = i64::from(*self);
                put_varint((value << 1 ^ value >> 63) as u64, out);
            }
            fn take(data: &mut &[u8]) -> Result<Self, StateError> {
                let raw = take_varint(data)?;
                let value = (raw >> 1) as i64 ^ -((raw & 1) as i64);
                value.try_into().map_err(|_| {
                    StateError::new("", format!(concat!("expected an ", stringify!($t), ", found {}"), value))
                })
            }
        }
    )*};
}
signed!(i8, i16, i32, i64);

impl Item for bool {
    const WIRE: u8 = 0;
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn take(data: &mut &[u8]) -> Result<Self, StateError> {
        match take_varint(data)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(StateError::new("", format!("expected 0 or 1, found {other}"))),
        }
    }
}

impl Item for String {
    const WIRE: u8 = 2;
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(self.len() as u64, out);
        out.extend_from_slice(self.as_bytes());
    }
    fn take(data: &mut &[u8]) -> Result<Self, StateError> {
        let bytes = take_bytes(data)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| StateError::new("", "expected text in UTF-8"))
    }
}

/// Raw bytes: denser than a `Vec<u8>`, whose elements are varints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Item for Bytes {
    const WIRE: u8 = 2;
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(self.0.len() as u64, out);
        out.extend_from_slice(&self.0);
    }
    fn take(data: &mut &[u8]) -> Result<Self, StateError> {
        Ok(Bytes(take_bytes(data)?.to_vec()))
    }
}

impl<T: Item> Item for Vec<T> {
    const WIRE: u8 = 2;
    fn put(&self, out: &mut Vec<u8>) {
        let mut inner = Vec::new();
        self.iter().for_each(|item| item.put(&mut inner));
        put_varint(inner.len() as u64, out);
        out.extend_from_slice(&inner);
    }
    fn take(data: &mut &[u8]) -> Result<Self, StateError> {
        let mut inner = take_bytes(data)?;
        let mut items = Vec::new();
        while !inner.is_empty() {
            items.push(T::take(&mut inner).map_err(|e| e.within(&format!("[{}]", items.len())))?);
        }
        Ok(items)
    }
}

impl<T: Item, const N: usize> Item for [T; N] {
    const WIRE: u8 = 2;
    fn put(&self, out: &mut Vec<u8>) {
        let mut inner = Vec::new();
        self.iter().for_each(|item| item.put(&mut inner));
        put_varint(inner.len() as u64, out);
        out.extend_from_slice(&inner);
    }
    fn take(data: &mut &[u8]) -> Result<Self, StateError> {
        let items = Vec::<T>::take(data)?;
        let found = items.len();
        items.try_into().map_err(|_| StateError::new("", format!("expected {N} elements, found {found}")))
    }
}

impl<T: Item> Item for Option<T> {
    const WIRE: u8 = T::WIRE;
    /// Only meaningful in a field, where absence can be told; in a sequence use a struct.
    fn put(&self, out: &mut Vec<u8>) {
        if let Some(item) = self {
            item.put(out);
        }
    }
    fn take(data: &mut &[u8]) -> Result<Self, StateError> {
        T::take(data).map(Some)
    }
    fn put_field(&self, number: u32, out: &mut Vec<u8>) {
        if let Some(item) = self {
            item.put_field(number, out);
        }
    }
}

/// A struct of numbered fields. Implemented by [`state!`](crate::state).
pub trait State: Default {
    /// Appends all fields.
    fn put_fields(&self, out: &mut Vec<u8>);

    /// Sets the field `number` from the front of `data`; `Ok(false)` if there is no such field.
    fn take_field(&mut self, number: u32, wire: u8, data: &mut &[u8]) -> Result<bool, StateError>;

    /// Decodes the fields in `data`, all of it.
    fn from_fields(mut data: &[u8]) -> Result<Self, StateError> {
        let mut state = Self::default();
        while !data.is_empty() {
            let key = take_varint(&mut data)?;
            let (number, wire) = (u32::try_from(key >> 3).unwrap_or(u32::MAX), (key & 7) as u8);
            if !state.take_field(number, wire, &mut data)? {
                match wire {
                    0 => take_varint(&mut data).map(drop)?,
                    2 => take_bytes(&mut data).map(drop)?,
                    _ => return Err(StateError::new("", format!("expected wire type 0 or 2, found {wire}"))),
                }
            }
        }
        Ok(state)
    }
}

#[doc(hidden)]
pub fn take_as<T: Item>(name: &str, wire: u8, data: &mut &[u8]) -> Result<T, StateError> {
    if wire != T::WIRE {
        return Err(StateError::new(name, format!("expected wire type {}, found {wire}", T::WIRE)));
    }
    T::take(data).map_err(|e| e.within(name))
}

#[doc(hidden)]
pub fn put_struct<S: State>(state: &S, out: &mut Vec<u8>) {
    let mut inner = Vec::new();
    state.put_fields(&mut inner);
    put_varint(inner.len() as u64, out);
    out.extend_from_slice(&inner);
}

#[doc(hidden)]
pub fn take_struct<S: State>(data: &mut &[u8]) -> Result<S, StateError> {
    S::from_fields(take_bytes(data)?)
}

/// Declares a struct of saved state with numbered fields.
///
/// ```
/// device::state! {
///     /// State of a UART, version 1.
///     struct V1 { 1 => divisor: u16, 2 => rx_fifo: Vec<u8>, 3 => deadline: Option<u64> }
/// }
/// let state = V1 { divisor: 3, rx_fifo: vec![1, 2], deadline: None };
/// let blob = device::StateBlob::new("uart", 1, &state);
/// assert_eq!(blob.decode::<V1>("uart", 1).unwrap(), state);
/// ```
#[macro_export]
macro_rules! state {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($number:literal => $field:ident : $type:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq)]
        $vis struct $name { $(#[doc = concat!("Field ", $number, ".")] $vis $field: $type),* }

        impl $crate::State for $name {
            fn put_fields(&self, out: &mut Vec<u8>) {
                $($crate::Item::put_field(&self.$field, $number, out);)*
                let _ = out;
            }

            fn take_field(
                &mut self,
                number: u32,
                wire: u8,
                data: &mut &[u8],
            ) -> Result<bool, $crate::StateError> {
                match number {
                    $($number => self.$field = $crate::__private::take_as(stringify!($field), wire, data)?,)*
                    _ => {
                        let _ = (wire, data);
                        return Ok(false);
                    }
                }
                Ok(true)
            }
        }

        impl $crate::Item for $name {
            const WIRE: u8 = 2;
            fn put(&self, out: &mut Vec<u8>) {
                $crate::__private::put_struct(self, out);
            }
            fn take(data: &mut &[u8]) -> Result<Self, $crate::StateError> {
                $crate::__private::take_struct(data)
            }
        }
    };
}

const MAGIC: [u8; 4] = *b"RhS1";

/// One device's saved state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateBlob {
    kind: String,
    version: u32,
    fields: Vec<u8>,
}

impl StateBlob {
    /// Wraps a state.
    pub fn new(kind: &str, version: u32, state: &impl State) -> Self {
        let mut fields = Vec::new();
        state.put_fields(&mut fields);
        StateBlob { kind: kind.to_owned(), version, fields }
    }

    /// The state of a device that has none.
    pub fn none(kind: &str) -> Self {
        StateBlob { kind: kind.to_owned(), version: 0, fields: Vec::new() }
    }

    /// Checks that this is [`StateBlob::none`] of `kind`.
    pub fn expect_none(&self, kind: &str) -> Result<(), StateError> {
        self.check(kind, 0)?;
        if self.fields.is_empty() { Ok(()) } else { Err(StateError::new("", "expected no state")) }
    }

    /// The kind of device.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The version the device wrote.
    pub fn version(&self) -> u32 {
        self.version
    }

    fn check(&self, kind: &str, newest: u32) -> Result<(), StateError> {
        if self.kind != kind {
            return Err(StateError::new(
                "",
                format!("expected the state of a {kind}, found a {}", self.kind),
            ));
        }
        StateError::at_most("version", self.version, newest).map(drop)
    }

    /// Unwraps the state of a `kind`, written by version `newest` or older.
    pub fn decode<S: State>(&self, kind: &str, newest: u32) -> Result<S, StateError> {
        self.check(kind, newest)?;
        S::from_fields(&self.fields)
    }

    /// The blob as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        self.kind.put(&mut out);
        self.version.put(&mut out);
        put_varint(self.fields.len() as u64, &mut out);
        out.extend_from_slice(&self.fields);
        let sum = crc32fast::hash(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads back what [`StateBlob::to_bytes`] wrote.
    pub fn from_bytes(data: &[u8]) -> Result<Self, StateError> {
        let (body, sum) = data.split_last_chunk::<4>().ok_or_else(truncated)?;
        if crc32fast::hash(body) != u32::from_le_bytes(*sum) {
            return Err(StateError::new("", "expected a matching checksum"));
        }
        let Some(mut body) = body.strip_prefix(&MAGIC) else {
            return Err(StateError::new("", "expected a saved state"));
        };
        let kind = String::take(&mut body)?;
        let version = u32::take(&mut body)?;
        let fields = take_bytes(&mut body)?.to_vec();
        if body.is_empty() {
            Ok(StateBlob { kind, version, fields })
        } else {
            Err(StateError::new("", "expected the end of the data"))
        }
    }

    /// Flips one bit of the fields: for tests of restore paths behind the checksum.
    pub(crate) fn damage(&mut self, bit: usize) {
        if let Some(len) = self.fields.len().checked_sub(1) {
            self.fields[bit / 8 % (len + 1)] ^= 1 << (bit % 8);
        }
    }

    pub(crate) fn truncate(&mut self, len: usize) {
        self.fields.truncate(len);
    }

    pub(crate) fn len(&self) -> usize {
        self.fields.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::state! { struct Inner { 1 => a: u8, 2 => b: i32 } }
    crate::state! {
        struct Old { 1 => small: u16, 7 => list: Vec<u64> }
    }
    crate::state! {
        struct New {
            1 => small: u8, 7 => list: Vec<u64>, 8 => fixed: [u8; 3], 9 => inner: Inner,
            10 => many: Vec<Inner>, 11 => when: Option<u64>, 12 => raw: Bytes, 13 => name: String,
            14 => flag: bool, 15 => signed: i64,
        }
    }

    fn sample() -> New {
        New {
            small: 200,
            list: vec![0, 1, u64::MAX],
            fixed: [1, 2, 255],
            inner: Inner { a: 3, b: -4 },
            many: vec![Inner { a: 1, b: i32::MIN }, Inner::default()],
            when: Some(u64::MAX),
            raw: Bytes(vec![0, 255]),
            name: "größe".into(),
            flag: true,
            signed: i64::MIN,
        }
    }

    #[test]
    fn round_trips() {
        let blob = StateBlob::new("x", 2, &sample());
        let back = StateBlob::from_bytes(&blob.to_bytes()).unwrap();
        assert_eq!(back, blob);
        assert_eq!(back.decode::<New>("x", 2).unwrap(), sample());
        assert!(blob.decode::<New>("y", 2).unwrap_err().to_string().contains("expected the state of a y"));
        assert!(blob.decode::<New>("x", 1).unwrap_err().to_string().contains("expected at most 1"));
    }

    #[test]
    fn fields_may_come_and_go() {
        let old = StateBlob::new("x", 1, &Old { small: 7, list: vec![9] });
        let new = old.decode::<New>("x", 2).unwrap();
        assert_eq!(new, New { small: 7, list: vec![9], ..New::default() });
        let seen = StateBlob::new("x", 1, &sample()).decode::<Old>("x", 1).unwrap();
        assert_eq!(seen, Old { small: 200, list: vec![0, 1, u64::MAX] });
    }

    #[test]
    fn errors_name_the_field() {
        let text =
            |old: Old| StateBlob::new("x", 1, &old).decode::<New>("x", 1).unwrap_err().within("machine/tty0");
        let error = text(Old { small: 256, list: vec![] });
        assert_eq!(error.to_string(), "machine/tty0/small: expected a u8, found 256");
    }

    #[test]
    fn damage_is_refused_or_harmless() {
        let blob = StateBlob::new("x", 1, &sample());
        let bytes = blob.to_bytes();
        for len in 0..bytes.len() {
            assert!(StateBlob::from_bytes(&bytes[..len]).is_err());
        }
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(StateBlob::from_bytes(&bad).is_err());
        }
        for bit in 0..blob.len() * 8 {
            let mut bad = blob.clone();
            bad.damage(bit);
            let _ = bad.decode::<New>("x", 1);
        }
    }
}
