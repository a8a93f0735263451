//! Timers and real-time clocks, one file a chip.

mod aclint;
mod goldfish_rtc;
mod hpet;
mod i8254;
mod mc146818;

pub use aclint::AclintConfig;
pub use goldfish_rtc::GoldfishRtcConfig;
pub use hpet::HpetConfig;
pub use i8254::{I8254Config, I8254CounterState, I8254State};
pub use mc146818::{CmosRtcConfig, Mc146818, Mc146818Config};

use device::DeviceKind;

/// All kinds of device in this crate.
pub const KINDS: &[DeviceKind] = &[
    DeviceKind::of::<AclintConfig>(),
    DeviceKind::of::<GoldfishRtcConfig>(),
    DeviceKind::of::<HpetConfig>(),
    DeviceKind::of::<I8254Config>(),
    DeviceKind::of::<Mc146818Config>(),
];
