//! Registers (82574L datasheet, chapter 10): offsets, and what they are after a reset.

use crate::intel::values::Values;

/// Offsets.
pub(super) mod reg {
    pub(in super::super) const CTRL: u32 = 0x0000;
    pub(in super::super) const STATUS: u32 = 0x0008;
    pub(in super::super) const EECD: u32 = 0x0010;
    pub(in super::super) const EERD: u32 = 0x0014;
    pub(in super::super) const CTRL_EXT: u32 = 0x0018;
    pub(in super::super) const MDIC: u32 = 0x0020;
    pub(super) const VET: u32 = 0x0038;
    pub(in super::super) const ICR: u32 = 0x00c0;
    pub(in super::super) const ITR: u32 = 0x00c4;
    pub(in super::super) const ICS: u32 = 0x00c8;
    pub(in super::super) const IMS: u32 = 0x00d0;
    pub(in super::super) const IMC: u32 = 0x00d8;
    pub(in super::super) const EIAC: u32 = 0x00dc;
    pub(in super::super) const IAM: u32 = 0x00e0;
    pub(in super::super) const IVAR: u32 = 0x00e4;
    /// One for each vector.
    pub(in super::super) const EITR: u32 = 0x00e8;
    pub(in super::super) const RCTL: u32 = 0x0100;
    pub(in super::super) const TCTL: u32 = 0x0400;
    pub(super) const TIPG: u32 = 0x0410;
    pub(super) const PBA: u32 = 0x1000;
    pub(super) const EEMNGCTL: u32 = 0x1010;
    pub(in super::super) const EEWR: u32 = 0x102c;
    pub(in super::super) const PSRCTL: u32 = 0x2170;
    /// First ring of those that receive, and of those that send; the second is [`QUEUE`] further.
    pub(in super::super) const RX: u32 = 0x2800;
    pub(in super::super) const TX: u32 = 0x3800;
    pub(in super::super) const QUEUE: u32 = 0x100;
    /// In a ring: its place, length, head and tail.
    pub(in super::super) const LENGTH: u32 = 0x08;
    pub(in super::super) const HEAD: u32 = 0x10;
    pub(in super::super) const TAIL: u32 = 0x18;
    pub(in super::super) const STATISTICS: u32 = 0x4000;
    pub(in super::super) const MISSED: u32 = 0x4010;
    pub(in super::super) const RECEIVED: u32 = 0x4074;
    pub(in super::super) const TRANSMITTED: u32 = 0x4080;
    pub(in super::super) const RECEIVED_OCTETS: u32 = 0x4088;
    pub(in super::super) const TRANSMITTED_OCTETS: u32 = 0x4090;
    pub(in super::super) const TOTAL_RECEIVED: u32 = 0x40d0;
    pub(in super::super) const TOTAL_TRANSMITTED: u32 = 0x40d4;
    pub(in super::super) const STATISTICS_END: u32 = 0x4130;
    pub(in super::super) const RXCSUM: u32 = 0x5000;
    pub(in super::super) const RFCTL: u32 = 0x5008;
    pub(in super::super) const MRQC: u32 = 0x5818;
    pub(in super::super) const SWSM: u32 = 0x5b50;
    pub(in super::super) const RETA: u32 = 0x5c00;
    pub(in super::super) const RSSRK: u32 = 0x5c80;
    pub(in super::super) const SYSTIM: u32 = 0xb600;
    pub(in super::super) const TIMINCA: u32 = 0xb608;
}

/// Interrupt causes (10.2.4.1).
pub(super) mod cause {
    pub(in super::super) const TRANSMITTED: u32 = 1 << 0;
    pub(in super::super) const TRANSMIT_EMPTY: u32 = 1 << 1;
    pub(in super::super) const LINK: u32 = 1 << 2;
    pub(in super::super) const RECEIVE_LOW: u32 = 1 << 4;
    pub(in super::super) const RECEIVED: u32 = 1 << 7;
    pub(in super::super) const MDIO: u32 = 1 << 9;
    /// Of the first queue; the second has the next bit.
    pub(in super::super) const RECEIVE_QUEUE: u32 = 1 << 20;
    pub(in super::super) const TRANSMIT_QUEUE: u32 = 1 << 22;
    pub(in super::super) const OTHER: u32 = 1 << 24;
    /// Causes that are also [`OTHER`]: link, overrun, PHY, small packets, acknowledgements, management.
    pub(in super::super) const OTHERS: u32 = LINK | 1 << 6 | MDIO | 7 << 16;
    /// Causes that messages are sent for.
    pub(in super::super) const VECTORS: u32 = 0x1f << 20;
    /// Not a cause: one of them is not masked.
    pub(in super::super) const ASSERTED: u32 = 1 << 31;
}

/// Device control: no new requests of the bus, reset, reset of the PHY.
pub(super) const CTRL_MASTER_DISABLE: u32 = 1 << 2;
pub(super) const CTRL_RESET: u32 = 1 << 26;
pub(super) const CTRL_PHY_RESET: u32 = 1 << 31;
/// Device status: full duplex, 1000 Mb/s as set and as found, requests of the bus are made; and link up.
const STATUS: u32 = 1 | 2 << 6 | 2 << 8 | STATUS_MASTER;
pub(super) const STATUS_MASTER: u32 = 1 << 19;
pub(super) const STATUS_LINK: u32 = 1 << 1;

/// The values after a reset.
pub(super) fn fresh(link: bool) -> Values {
    let mut r = Values::default();
    for (at, value) in [
        // Full duplex, set link up, 1000 Mb/s, wake in all states.
        (reg::CTRL, 1 | 1 << 6 | 2 << 8 | 1 << 20),
        (reg::STATUS, STATUS | if link { STATUS_LINK } else { 0 }),
        (reg::VET, 0x8100),
        (reg::TIPG, 0x0060_2006),
        // 20 KiB for either direction.
        (reg::PBA, 0x0014_0014),
        // The configuration was loaded, for both ports.
        (reg::EEMNGCTL, 3 << 18 | 1 << 31),
        (reg::TCTL, 1 << 3),
        (reg::PSRCTL, 2 | 4 << 8 | 4 << 16),
    ] {
        r.set(at, value);
    }
    r
}

/// The register that an old name stands for (10.2, "alias").
pub(super) fn canonical(at: u32) -> u32 {
    match at {
        0x0040..0x00c0 => at - 0x40 + 0x5400,
        0x0108 => reg::RX + 0x20,
        0x0110..0x0130 => at - 0x110 + reg::RX,
        0x0200..0x0400 => at - 0x200 + 0x5200,
        0x0420..0x0440 => at - 0x420 + reg::TX,
        0x0600..0x0800 => at - 0x600 + 0x5600,
        _ => at,
    }
}
