//! What a device declares about itself before it exists: regions, pins, backends, properties.

use std::borrow::Cow;
use std::fmt;

use guest_memory::AccessRule;

use crate::Device;
use crate::wires::Wires;

/// One range of registers. The board decides whether it lies in memory or port space, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegionSpec {
    /// Name, unique in the device.
    pub name: Cow<'static, str>,
    /// Size in bytes.
    pub size: u64,
    /// Access widths.
    pub rule: AccessRule,
    /// Memory of the device (see [`DeviceConfig::rams`]) that reads come from directly, until the device has them come to
    /// its registers by [`guest_memory::Transaction::set_direct`] of the region, which the machine names `DEVICE.REGION`.
    pub over: Option<Cow<'static, str>>,
    /// vCPUs in their secure mode alone reach the registers; everybody else reads the memory.
    pub secure: bool,
}

impl RegionSpec {
    /// A region of `size` bytes.
    pub fn new(name: impl Into<Cow<'static, str>>, size: u64, rule: AccessRule) -> Self {
        RegionSpec { name: name.into(), size, rule, over: None, secure: false }
    }

    /// Reads come from the device's memory `ram`.
    #[must_use]
    pub fn over(mut self, ram: impl Into<Cow<'static, str>>) -> Self {
        self.over = Some(ram.into());
        self
    }

    /// The registers are for vCPUs in their secure mode.
    #[must_use]
    pub fn secure(mut self) -> Self {
        self.secure = true;
        self
    }
}

/// Memory a device holds that the guest reaches directly (a frame buffer, a flash chip). It is saved with the
/// machine's RAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RamSpec {
    /// Name, unique in the device.
    pub name: Cow<'static, str>,
    /// Size in bytes, a multiple of [`guest_memory::PAGE_SIZE`].
    pub size: u64,
}

impl RamSpec {
    /// Memory of `size` bytes.
    pub fn new(name: impl Into<Cow<'static, str>>, size: u64) -> Self {
        RamSpec { name: name.into(), size }
    }
}

/// A pin, or a row of them under one name. Pins are numbered through in the order of the specs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinSpec {
    /// Name, unique among the device's inputs or outputs.
    pub name: Cow<'static, str>,
    /// How many pins.
    pub count: usize,
}

impl PinSpec {
    /// A single pin.
    pub fn one(name: impl Into<Cow<'static, str>>) -> Self {
        Self::row(name, 1)
    }

    /// `count` pins.
    pub fn row(name: impl Into<Cow<'static, str>>, count: usize) -> Self {
        PinSpec { name: name.into(), count }
    }

    /// Number of pin `index` of the row `name` among all `specs`.
    pub fn number(specs: &[PinSpec], name: &str, index: usize) -> Option<usize> {
        let at = specs.iter().position(|s| s.name == name)?;
        let before: usize = specs[..at].iter().map(|s| s.count).sum();
        (index < specs[at].count).then_some(before + index)
    }
}

/// A user-visible setting of a device, for `-device KIND,help`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// Name; `-` and `_` are the same.
    pub name: &'static str,
    /// What kind of value it takes.
    pub ty: &'static str,
    /// The default, as it would be written.
    pub default: String,
    /// What it does.
    pub help: &'static str,
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=<{}>", self.name, self.ty)?;
        write!(f, " - {}", self.help.trim())?;
        if self.default.is_empty() { Ok(()) } else { write!(f, " (default: {})", self.default) }
    }
}

/// Why a property was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PropertyError {
    /// The device has no such property.
    #[error("no property '{name}'; there are: {known}")]
    Unknown {
        /// The name given.
        name: String,
        /// The names that exist, separated by commas.
        known: String,
    },
    /// The value does not fit.
    #[error("property '{name}': expected {expected}, found '{value}'")]
    Value {
        /// Name of the property.
        name: &'static str,
        /// What would fit.
        expected: &'static str,
        /// What was given.
        value: String,
    },
}

/// A type that properties may have.
pub trait PropertyValue: Sized {
    /// What the value is called in help and errors.
    const TYPE: &'static str;
    /// Reads the value as a user writes it.
    fn parse(text: &str) -> Option<Self>;
    /// Writes the value as a user would.
    fn show(&self) -> String;
}

/// Decimal or `0x` hexadecimal, with an optional binary suffix K, M, G or T.
fn parse_number(text: &str) -> Option<u64> {
    let (digits, shift) = match text.char_indices().last()? {
        (_, _) if text.starts_with("0x") || text.starts_with("0X") => (text, 0),
        (at, 'k' | 'K') => (&text[..at], 10),
        (at, 'm' | 'M') => (&text[..at], 20),
        (at, 'g' | 'G') => (&text[..at], 30),
        (at, 't' | 'T') => (&text[..at], 40),
        _ => (text, 0),
    };
    let value = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    value.ok()?.checked_mul(1 << shift)
}

macro_rules! numbers {
    ($($t:ident $name:literal),*) => {$(
        impl PropertyValue for $t {
            const TYPE: &'static str = $name;
            fn parse(text: &str) -> Option<Self> {
                parse_number(text)?.try_into().ok()
            }
            fn show(&self) -> String {
                self.to_string()
            }
        }
    )*};
}
numbers!(u8 "8-bit number", u16 "16-bit number", u32 "32-bit number", u64 "number");

impl PropertyValue for bool {
    const TYPE: &'static str = "on/off";
    fn parse(text: &str) -> Option<Self> {
        match text {
            "on" | "yes" | "true" | "y" => Some(true),
            "off" | "no" | "false" | "n" => Some(false),
            _ => None,
        }
    }
    fn show(&self) -> String {
        if *self { "on" } else { "off" }.to_owned()
    }
}

impl PropertyValue for String {
    const TYPE: &'static str = "text";
    fn parse(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
    fn show(&self) -> String {
        self.clone()
    }
}

impl<T: PropertyValue> PropertyValue for Option<T> {
    const TYPE: &'static str = T::TYPE;
    fn parse(text: &str) -> Option<Self> {
        T::parse(text).map(Some)
    }
    fn show(&self) -> String {
        self.as_ref().map_or_else(String::new, T::show)
    }
}

/// The user-visible settings of a config struct. Implemented by [`device_config!`](crate::device_config).
pub trait Properties: Default {
    /// All properties, with their defaults.
    fn properties() -> Vec<Property>;

    /// Sets one property from text.
    fn set(&mut self, name: &str, value: &str) -> Result<(), PropertyError>;
}

/// Declares a device's config struct: its documentation is the user's help, its fields are the properties.
///
/// ```
/// device::device_config! {
///     /// A thing.
///     #[derive(Clone, Debug)]
///     pub struct ThingConfig {
///         /// How fast it is, in Hz.
///         pub speed: u32 = 100,
///     }
/// }
/// use device::Properties;
/// let mut config = ThingConfig::default();
/// config.set("speed", "0x20").unwrap();
/// assert_eq!(config.speed, 32);
/// assert!(config.set("sped", "1").is_err());
/// ```
#[macro_export]
macro_rules! device_config {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $($(#[doc = $help:literal])+ pub $field:ident : $type:ty = $default:expr),* $(,)?
        }
    ) => {
        $(#[$meta])*
        $vis struct $name { $($(#[doc = $help])+ pub $field: $type),* }

        impl Default for $name {
            fn default() -> Self {
                $name { $($field: $default),* }
            }
        }

        impl $crate::Properties for $name {
            fn properties() -> Vec<$crate::Property> {
                let defaults = Self::default();
                let _ = &defaults;
                vec![$($crate::Property {
                    name: stringify!($field),
                    ty: <$type as $crate::PropertyValue>::TYPE,
                    default: $crate::PropertyValue::show(&defaults.$field),
                    help: concat!($($help),+),
                }),*]
            }

            fn set(&mut self, name: &str, value: &str) -> Result<(), $crate::PropertyError> {
                let wanted = name.replace('-', "_");
                $(if wanted == stringify!($field) {
                    self.$field = $crate::PropertyValue::parse(value).ok_or_else(|| {
                        $crate::PropertyError::Value {
                            name: stringify!($field),
                            expected: <$type as $crate::PropertyValue>::TYPE,
                            value: value.to_owned(),
                        }
                    })?;
                    return Ok(());
                })*
                let _ = (&wanted, value);
                let known: Vec<&str> = vec![$(stringify!($field)),*];
                Err($crate::PropertyError::Unknown { name: name.to_owned(), known: known.join(", ") })
            }
        }
    };
}

/// Why a device could not be made from its config.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// The device cannot work without this wire or backend.
    #[error("{path}: needs {what}")]
    Missing {
        /// Path of the device in its machine.
        path: String,
        /// What is missing.
        what: String,
    },
    /// A property's value is not possible.
    #[error("{path}: property '{name}': {why}")]
    Property {
        /// Path of the device in its machine.
        path: String,
        /// Name of the property.
        name: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The host refused something.
    #[error("{path}: {why}")]
    Host {
        /// Path of the device in its machine.
        path: String,
        /// The reason.
        why: String,
    },
}

/// A kind of device: what it has, and how it is made.
pub trait DeviceConfig: Properties + Clone + fmt::Debug + Send + 'static {
    /// The kind's name on the command line and in saved states.
    const KIND: &'static str;

    /// One line of help.
    const HELP: &'static str;

    /// The device's regions, in the order of [`Device::read`]'s `region`.
    fn regions(&self) -> Vec<RegionSpec>;

    /// Input pins, in the order of [`Device::line_in`]'s `pin`.
    fn inputs(&self) -> Vec<PinSpec> {
        Vec::new()
    }

    /// Output pins.
    fn outputs(&self) -> Vec<PinSpec> {
        Vec::new()
    }

    /// Names of the character backends, in the order of [`Device::char_receiver`]'s `slot`.
    fn chardevs(&self) -> Vec<&'static str> {
        Vec::new()
    }

    /// Names of the disks it takes.
    fn disks(&self) -> Vec<&'static str> {
        Vec::new()
    }

    /// Names of the network endpoints it takes.
    fn nics(&self) -> Vec<&'static str> {
        Vec::new()
    }

    /// Memory it holds that the guest reaches directly.
    fn rams(&self) -> Vec<RamSpec> {
        Vec::new()
    }

    /// Makes the device, in the state after power-on.
    fn build(self, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError>;
}

/// A [`DeviceConfig`] whose type is not known.
pub trait AnyConfig: fmt::Debug + Send {
    /// See [`DeviceConfig::KIND`].
    fn kind(&self) -> &'static str;
    /// See [`DeviceConfig::regions`].
    fn regions(&self) -> Vec<RegionSpec>;
    /// See [`DeviceConfig::inputs`].
    fn inputs(&self) -> Vec<PinSpec>;
    /// See [`DeviceConfig::outputs`].
    fn outputs(&self) -> Vec<PinSpec>;
    /// See [`DeviceConfig::chardevs`].
    fn chardevs(&self) -> Vec<&'static str>;
    /// See [`DeviceConfig::disks`].
    fn disks(&self) -> Vec<&'static str>;
    /// See [`DeviceConfig::nics`].
    fn nics(&self) -> Vec<&'static str>;
    /// See [`DeviceConfig::rams`].
    fn rams(&self) -> Vec<RamSpec>;
    /// See [`Properties::set`].
    fn set(&mut self, name: &str, value: &str) -> Result<(), PropertyError>;
    /// See [`DeviceConfig::build`].
    fn build(self: Box<Self>, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError>;
    /// A copy.
    fn boxed_clone(&self) -> Box<dyn AnyConfig>;
}

impl<C: DeviceConfig> AnyConfig for C {
    fn kind(&self) -> &'static str {
        C::KIND
    }
    fn regions(&self) -> Vec<RegionSpec> {
        DeviceConfig::regions(self)
    }
    fn inputs(&self) -> Vec<PinSpec> {
        DeviceConfig::inputs(self)
    }
    fn outputs(&self) -> Vec<PinSpec> {
        DeviceConfig::outputs(self)
    }
    fn chardevs(&self) -> Vec<&'static str> {
        DeviceConfig::chardevs(self)
    }
    fn disks(&self) -> Vec<&'static str> {
        DeviceConfig::disks(self)
    }
    fn nics(&self) -> Vec<&'static str> {
        DeviceConfig::nics(self)
    }
    fn rams(&self) -> Vec<RamSpec> {
        DeviceConfig::rams(self)
    }
    fn set(&mut self, name: &str, value: &str) -> Result<(), PropertyError> {
        Properties::set(self, name, value)
    }
    fn build(self: Box<Self>, wires: &mut Wires) -> Result<Box<dyn Device>, BuildError> {
        DeviceConfig::build(*self, wires)
    }
    fn boxed_clone(&self) -> Box<dyn AnyConfig> {
        Box::new(self.clone())
    }
}

impl Clone for Box<dyn AnyConfig> {
    fn clone(&self) -> Self {
        self.boxed_clone()
    }
}

/// An entry of the table of devices.
#[derive(Clone, Copy)]
pub struct DeviceKind {
    /// See [`DeviceConfig::KIND`].
    pub kind: &'static str,
    /// See [`DeviceConfig::HELP`].
    pub help: &'static str,
    /// See [`Properties::properties`].
    pub properties: fn() -> Vec<Property>,
    /// A config with all defaults.
    pub config: fn() -> Box<dyn AnyConfig>,
}

impl DeviceKind {
    /// The entry for a config type.
    pub const fn of<C: DeviceConfig>() -> Self {
        DeviceKind {
            kind: C::KIND,
            help: C::HELP,
            properties: C::properties,
            config: || Box::new(C::default()),
        }
    }
}

impl fmt::Debug for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceKind").field("kind", &self.kind).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::device_config! {
        /// A test.
        #[derive(Clone, Debug)]
        struct Sample {
            /// First line
            /// and second.
            pub size_limit: u32 = 64,
            /// Switch.
            pub fast: bool = true,
            /// Perhaps.
            pub name: Option<String> = None,
        }
    }

    #[test]
    fn properties_parse_and_explain() {
        let mut sample = Sample::default();
        sample.set("size-limit", "4K").unwrap();
        sample.set("fast", "off").unwrap();
        sample.set("name", "x").unwrap();
        assert_eq!((sample.size_limit, sample.fast, sample.name.as_deref()), (4096, false, Some("x")));
        let text = sample.set("size-limit", "8G").unwrap_err().to_string();
        assert_eq!(text, "property 'size_limit': expected 32-bit number, found '8G'");
        let text = sample.set("sise", "8").unwrap_err().to_string();
        assert_eq!(text, "no property 'sise'; there are: size_limit, fast, name");
        let help = Sample::properties()[0].to_string();
        assert_eq!(help, "size_limit=<32-bit number> - First line and second. (default: 64)");
    }

    #[test]
    fn numbers_with_suffixes() {
        assert_eq!(parse_number("0x1k"), None);
        assert_eq!(parse_number("0x10"), Some(16));
        assert_eq!(parse_number("3M"), Some(3 << 20));
        assert_eq!(parse_number("99999999999T"), None);
        assert_eq!(parse_number(""), None);
        assert_eq!(parse_number("-1"), None);
    }

    #[test]
    fn pins_are_numbered_through() {
        let pins = [PinSpec::one("a"), PinSpec::row("b", 3), PinSpec::one("c")];
        assert_eq!(PinSpec::number(&pins, "b", 2), Some(3));
        assert_eq!(PinSpec::number(&pins, "c", 0), Some(4));
        assert_eq!(PinSpec::number(&pins, "b", 3), None);
    }
}
