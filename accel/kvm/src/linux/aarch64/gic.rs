//! The GIC in the kernel, version 3 or 2.
//!
//! Documentation/virt/kvm/devices/arm-vgic-v3.rst and arm-vgic.rst; registers: Arm IHI 0069 and IHI 0048.

#![expect(unsafe_code, reason = "device attributes pass values by pointer")]

use accel::AccelError;
use accel::arch::irqchip::{Gic, GicRegister};
use kvm_bindings::{
    KVM_DEV_ARM_VGIC_CTRL_INIT, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_DEV_ARM_VGIC_GRP_CPU_REGS,
    KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_GRP_DIST_REGS,
    KVM_DEV_ARM_VGIC_GRP_NR_IRQS, KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, KVM_VGIC_V2_ADDR_TYPE_CPU,
    KVM_VGIC_V2_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_REDIST, kvm_create_device,
    kvm_device_attr, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
};
use kvm_ioctls::{DeviceFd, VmFd};

use super::super::{refused, slots::RING_PROPERTY};
use super::state::encoding;
use crate::NAME;

/// Frames of [`GicRegister`].
const DISTRIBUTOR: u8 = 0;
const REDISTRIBUTOR: u8 = 1;
const CPU_INTERFACE: u8 = 2;

/// Distance from a set register bank to its clear bank.
const CLEAR_BANK: u32 = 0x80;

/// Where the GIC is and what it has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Config {
    version: Option<u8>,
    distributor: u64,
    redistributor: u64,
    cpu_interface: u64,
    interrupts: u32,
}

fn property(key: &str, problem: String) -> AccelError {
    AccelError::Property { accel: NAME, key: key.to_owned(), problem }
}

impl Config {
    /// From `-accel kvm,gic-version=...`; the addresses are those of the virt board unless said otherwise.
    pub(super) fn from_properties(properties: &[(String, String)]) -> Result<Self, AccelError> {
        let mut c = Self {
            version: None,
            distributor: 0x0800_0000,
            redistributor: 0x080A_0000,
            cpu_interface: 0x0801_0000,
            interrupts: 288,
        };
        for (key, value) in properties {
            let number = || {
                let (digits, radix) = value.strip_prefix("0x").map_or((value.as_str(), 10), |h| (h, 16));
                u64::from_str_radix(digits, radix)
                    .map_err(|_| property(key, format!("'{value}' is not a number")))
            };
            match key.as_str() {
                "gic-version" => {
                    c.version = Some(match value.as_str() {
                        "2" => 2,
                        "3" => 3,
                        _ => return Err(property(key, format!("'{value}' is neither 2 nor 3"))),
                    });
                }
                "gic-distributor" => c.distributor = number()?,
                "gic-redistributor" => c.redistributor = number()?,
                "gic-cpu-interface" => c.cpu_interface = number()?,
                "gic-interrupts" => {
                    c.interrupts = u32::try_from(number()?)
                        .ok()
                        .filter(|n| (64..=1024).contains(n) && n.is_multiple_of(32))
                        .ok_or_else(|| {
                            property(key, "expected a multiple of 32 from 64 to 1024".to_owned())
                        })?;
                }
                RING_PROPERTY => {}
                _ => {
                    let known =
                        "gic-version, gic-distributor, gic-redistributor, gic-cpu-interface, gic-interrupts";
                    let problem = format!("does not exist, expected {known}, {RING_PROPERTY}");
                    return Err(property(key, problem));
                }
            }
        }
        Ok(c)
    }
}

/// The GIC of a partition.
pub(crate) struct Chips {
    config: Config,
    vcpus: u32,
    device: Option<(DeviceFd, u8)>,
}

fn set<T>(device: &DeviceFd, group: u32, attr: u64, value: &T) -> Result<(), AccelError> {
    let request =
        kvm_device_attr { group, attr, addr: std::ptr::from_ref(value) as u64, ..Default::default() };
    device.set_device_attr(&request).map_err(refused("setting a GIC attribute (KVM_SET_DEVICE_ATTR)"))
}

impl Chips {
    pub(super) fn new(config: Config, vcpus: u32) -> Self {
        Self { config, vcpus, device: None }
    }

    /// The GIC is all in the kernel.
    #[expect(clippy::unused_self, reason = "same shape on all hosts")]
    pub(crate) fn reports_level_ends(&self) -> bool {
        false
    }

    /// Creates the GIC. It wants the vCPUs to exist.
    pub(crate) fn finish(mut self, vm: &VmFd) -> Result<Self, AccelError> {
        let create = |version: u8| {
            let type_ = if version == 3 {
                kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3
            } else {
                kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2
            };
            vm.create_device(&mut kvm_create_device { type_, fd: 0, flags: 0 }).map(|d| (d, version))
        };
        let made = match self.config.version {
            Some(v) => create(v),
            None => create(3).or_else(|_| create(2)),
        };
        let (device, version) =
            made.map_err(refused("creating the interrupt controller (KVM_CREATE_DEVICE)"))?;
        let c = &self.config;
        let addresses = if version == 3 {
            [(KVM_VGIC_V3_ADDR_TYPE_DIST, c.distributor), (KVM_VGIC_V3_ADDR_TYPE_REDIST, c.redistributor)]
        } else {
            [(KVM_VGIC_V2_ADDR_TYPE_DIST, c.distributor), (KVM_VGIC_V2_ADDR_TYPE_CPU, c.cpu_interface)]
        };
        for (kind, address) in addresses {
            set(&device, KVM_DEV_ARM_VGIC_GRP_ADDR, u64::from(kind), &address)?;
        }
        set(&device, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, &c.interrupts)?;
        let init = kvm_device_attr {
            group: KVM_DEV_ARM_VGIC_GRP_CTRL,
            attr: u64::from(KVM_DEV_ARM_VGIC_CTRL_INIT),
            ..Default::default()
        };
        device.set_device_attr(&init).map_err(refused("initialising the GIC (KVM_SET_DEVICE_ATTR)"))?;
        self.device = Some((device, version));
        Ok(self)
    }

    fn device(&self) -> Result<(&DeviceFd, u8), AccelError> {
        self.device
            .as_ref()
            .map(|(d, v)| (d, *v))
            .ok_or_else(|| property("irqchip", "is not initialised".to_owned()))
    }

    /// All registers to save, in the order in which they are to be written back: configuration before what is
    /// pending, the controls that switch everything on last.
    fn registers(&self, version: u8) -> Vec<GicRegister> {
        let mut list = Vec::new();
        let mut add = |frame, vcpu, offset| list.push(GicRegister { frame, vcpu, offset, value: 0 });
        let n = self.config.interrupts;
        // Banks with a number of bits for each interrupt: groups, configuration, priorities, enable, active, pending.
        let banks = [(0x080u32, 1u32), (0xC00, 2), (0x400, 8), (0x100, 1), (0x300, 1), (0x200, 1)];
        if version == 3 {
            for vcpu in 0..self.vcpus {
                for (bank, bits) in banks {
                    (0..bits).for_each(|i| add(REDISTRIBUTOR, vcpu, 0x1_0000 + bank + 4 * i));
                }
                [0x14, 0x70, 0x74, 0x78, 0x7C, 0].into_iter().for_each(|r| add(REDISTRIBUTOR, vcpu, r));
            }
            for (bank, bits) in banks {
                (bits..n * bits / 32).for_each(|i| add(DISTRIBUTOR, 0, bank + 4 * i));
            }
            (32..n).flat_map(|i| [0x6000 + 8 * i, 0x6004 + 8 * i]).for_each(|r| add(DISTRIBUTOR, 0, r));
            add(DISTRIBUTOR, 0, 0);
            // SRE, PMR, BPR0, BPR1, AP0R0, AP1R0, CTLR, IGRPEN0, IGRPEN1.
            let interface = [(12, 5), (6, 0), (8, 3), (12, 3), (8, 4), (9, 0), (12, 4), (12, 6), (12, 7)];
            for vcpu in 0..self.vcpus {
                for (crm, op2) in interface {
                    let crn = if crm == 6 { 4 } else { 12 };
                    add(CPU_INTERFACE, vcpu, u32::from(encoding(3, 0, crn, crm, op2)));
                }
            }
        } else {
            for vcpu in 0..self.vcpus {
                for (bank, bits) in banks {
                    (0..bits).for_each(|i| add(DISTRIBUTOR, vcpu, bank + 4 * i));
                }
                (0..4).for_each(|i| add(DISTRIBUTOR, vcpu, 0xF20 + 4 * i));
            }
            for (bank, bits) in banks {
                (bits..n * bits / 32).for_each(|i| add(DISTRIBUTOR, 0, bank + 4 * i));
            }
            (8..n / 4).for_each(|i| add(DISTRIBUTOR, 0, 0x800 + 4 * i));
            add(DISTRIBUTOR, 0, 0);
            for vcpu in 0..self.vcpus {
                [0x04, 0x08, 0x1C, 0xD0, 0x00].into_iter().for_each(|r| add(CPU_INTERFACE, vcpu, r));
            }
        }
        list
    }

    fn address(version: u8, r: &GicRegister) -> (u32, u64) {
        // KVM numbers affinities 16 vCPUs to a cluster.
        let affinity = u64::from(r.vcpu & 0xF | (r.vcpu >> 4 & 0xFF) << 8 | (r.vcpu >> 12 & 0xFF) << 16);
        let banked = if version == 3 { affinity << 32 } else { u64::from(r.vcpu) << 32 };
        let group = match (r.frame, version) {
            (DISTRIBUTOR, _) => KVM_DEV_ARM_VGIC_GRP_DIST_REGS,
            (REDISTRIBUTOR, _) => KVM_DEV_ARM_VGIC_GRP_REDIST_REGS,
            (_, 3) => KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS,
            _ => KVM_DEV_ARM_VGIC_GRP_CPU_REGS,
        };
        (group, banked | u64::from(r.offset))
    }

    fn wide(version: u8, r: &GicRegister) -> bool {
        version == 3 && r.frame == CPU_INTERFACE
    }

    fn get(&self) -> Result<Gic, AccelError> {
        let (device, version) = self.device()?;
        let mut registers = self.registers(version);
        for r in &mut registers {
            let (group, attr) = Self::address(version, r);
            let mut value = 0u64;
            let mut request = kvm_device_attr {
                group,
                attr,
                addr: std::ptr::from_mut(&mut value) as u64,
                ..Default::default()
            };
            // SAFETY: the kernel writes 4 or 8 bytes, `value` has 8 and outlives the call.
            unsafe { device.get_device_attr(&mut request) }
                .map_err(refused("reading a GIC register (KVM_GET_DEVICE_ATTR)"))?;
            r.value = if Self::wide(version, r) { value } else { value & 0xFFFF_FFFF };
        }
        Ok(Gic { version, registers })
    }

    fn put(&self, gic: &Gic) -> Result<(), AccelError> {
        let (device, version) = self.device()?;
        for r in &gic.registers {
            let write = |r: &GicRegister, value: u64| {
                let (group, attr) = Self::address(version, r);
                if Self::wide(version, r) {
                    set(device, group, attr, &value)
                } else {
                    set(device, group, attr, &(value as u32))
                }
            };
            // Writing a set bank only sets: what is to be zero is cleared first.
            let bank = r.offset & 0xFFFF;
            if r.frame != CPU_INTERFACE && (matches!(bank, 0x100..0x180) || matches!(bank, 0x300..0x380)) {
                write(&GicRegister { offset: r.offset + CLEAR_BANK, ..*r }, !r.value)?;
            }
            write(r, r.value)?;
        }
        Ok(())
    }

    /// Nothing here is reached by a vCPU that another accelerator runs: none runs these guests.
    #[expect(clippy::unused_self, reason = "same shape on all hosts")]
    pub(crate) fn holds_address(&self, _gpa: u64) -> bool {
        false
    }

    /// There are no ports.
    #[expect(clippy::unused_self, reason = "same shape on all hosts")]
    pub(crate) fn holds_port(&self, _port: u16) -> bool {
        false
    }

    pub(crate) fn save(&self, _vm: &VmFd) -> Result<Vec<u8>, AccelError> {
        Ok(self.get()?.save())
    }

    pub(crate) fn restore(&self, _vm: &VmFd, state: &[u8]) -> Result<(), AccelError> {
        let new = Gic::restore(state).map_err(|e| property("irqchip state", e.to_string()))?;
        let before = self.get()?;
        let key = |g: &Gic| g.registers.iter().map(|r| (r.frame, r.vcpu, r.offset)).collect::<Vec<_>>();
        if new.version != before.version || key(&new) != key(&before) {
            return Err(property("irqchip state", "is of a machine with another GIC".to_owned()));
        }
        let done = self.put(&new);
        if done.is_err() {
            self.put(&before)?;
        }
        done
    }
}
