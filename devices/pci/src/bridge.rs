//! Bridges and ports: functions with a bus behind them. What they pass on is the fabric's business; here are their
//! identities and, for ports, their slots.
//!
//! PCI to PCI Bridge Architecture Specification 1.2; PCI Express Base Specification 3.0, 7.8.

use device::{Access, BuildError, Device, ResetKind, StateBlob, StateError, Wires, device_config};

use crate::device::{PciConfig, PciDevice};
use crate::function::Function;
use crate::port::Port;
use crate::spec::{Express, FunctionSpec, INTEL, REDHAT, class};

/// A bridge has no registers beyond its configuration space.
struct Bridge(&'static str);

impl Device for Bridge {
    fn read(&mut self, _region: usize, _offset: u64, _data: &mut [u8]) -> Access {
        Access::NoRegister
    }

    fn write(&mut self, _region: usize, _offset: u64, _data: &[u8]) -> Access {
        Access::NoRegister
    }

    fn reset(&mut self, _kind: ResetKind) {}

    fn save(&self) -> StateBlob {
        StateBlob::none(self.0)
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        state.expect_none(self.0)
    }
}

impl PciDevice for Bridge {}

fn bridge(vendor: u16, device: u16) -> FunctionSpec {
    let mut spec = FunctionSpec::new(vendor, device, class::PCI_BRIDGE).pin(0);
    spec.bridge = true;
    spec
}

macro_rules! bridges {
    ($($(#[$meta:meta])* $name:ident, $kind:literal, $help:literal, { $($fields:tt)* }, |$self:ident| $spec:expr;)*) => {$(
        device_config! {
            $(#[$meta])*
            #[derive(Clone, Debug, PartialEq, Eq)]
            pub struct $name { $($fields)* }
        }

        impl PciConfig for $name {
            const KIND: &'static str = $kind;
            const HELP: &'static str = $help;

            fn spec(&self, _express: bool) -> FunctionSpec {
                let $self = self;
                $spec
            }

            fn build(self, function: Function, _wires: &mut Wires) -> Result<Box<dyn PciDevice>, BuildError> {
                Ok(match function.spec().hotplug {
                    true => Box::new(Port::new(Self::KIND, function)),
                    false => Box::new(Bridge(Self::KIND)),
                })
            }
        }
    )*};
}

bridges! {
    /// A bridge to one more conventional bus.
    PciBridgeConfig, "pci-bridge", "bridge to a conventional PCI bus", {
        /// Number of the chassis.
        pub chassis_nr: u8 = 1,
    }, |_c| bridge(REDHAT, 1);
    /// A root port: a PCI Express slot.
    RootPortConfig, "pcie-root-port", "PCI Express root port", {
        /// Number of the chassis.
        pub chassis: u8 = 0,
        /// Number of the slot.
        pub slot: u16 = 0,
        /// Port number.
        pub port: u8 = 0,
        /// What is behind it can come and go while the machine runs.
        pub hotplug: bool = true,
    }, |c| bridge(REDHAT, 0x000c).pin(1).msi(1, false).power().express(Express::RootPort(c.slot)).hotplug(c.hotplug);
    /// Intel's root port.
    Ioh3420Config, "ioh3420", "Intel IOH device 3420, PCI Express root port", {
        /// Number of the chassis.
        pub chassis: u8 = 0,
        /// Number of the slot.
        pub slot: u16 = 0,
        /// Port number.
        pub port: u8 = 0,
        /// What is behind it can come and go while the machine runs.
        pub hotplug: bool = true,
    }, |c| bridge(INTEL, 0x3420).revision(2).pin(1).msi(2, true).power().express(Express::RootPort(c.slot)).hotplug(c.hotplug);
    /// Upstream port of a switch.
    UpstreamConfig, "x3130-upstream", "TI X3130 upstream port of a PCI Express switch", {
        /// Port number.
        pub port: u8 = 0,
    }, |_c| bridge(0x104c, 0x8232).revision(2).power().express(Express::Upstream);
    /// Downstream port of a switch.
    DownstreamConfig, "xio3130-downstream", "TI XIO3130 downstream port of a PCI Express switch", {
        /// Number of the chassis.
        pub chassis: u8 = 0,
        /// Number of the slot.
        pub slot: u16 = 0,
        /// Port number.
        pub port: u8 = 0,
        /// What is behind it can come and go while the machine runs.
        pub hotplug: bool = true,
    }, |c| bridge(0x104c, 0x8233).revision(1).msi(1, false).power().express(Express::Downstream(c.slot)).hotplug(c.hotplug);
    /// A bridge from PCI Express to a conventional bus.
    ToPciConfig, "pcie-pci-bridge", "PCI Express to PCI bridge", {
    }, |_c| bridge(REDHAT, 0x000e).msi(1, false).power().express(Express::ToPci);
}
