//! A sample function with everything, alone on its bench and on buses of a small machine.

use std::sync::Arc;

use ::device::test_bench::{Bench, RAM_BASE, check};
use ::device::{
    Access, AccessRule, BuildError, Clock, ClockSource, Device, DeviceCell, DeviceConfig, Dma, IrqLine,
    MsiMessage, MsiTarget, RamSpec, RegionSpec, ResetKind, Spaces, StateBlob, StateError, TimerQueue, Wires,
    WiresBuilder, device_config, le_fill, le_value,
};
use guest_memory::{AddressSpace, RamBlock, Region, Unassigned};
use parking_lot::Mutex;

use crate::config_space::{ConfigSpace, cap, command, reg};
use crate::test_bench::PciBench;
use crate::*;

device_config! {
    /// A function for tests.
    #[derive(Clone, Debug)]
    pub struct SampleConfig {
        /// Messages by table.
        pub msix: u16 = 0,
        /// Messages by capability.
        pub msi: bool = true,
    }
}

impl PciConfig for SampleConfig {
    const KIND: &'static str = "sample";
    const HELP: &'static str = "a function for tests";

    fn spec(&self, _express: bool) -> FunctionSpec {
        let mut spec = FunctionSpec::new(0x1234, 0x5678, class::OTHER)
            .bar(0, 256, BarKind::Memory(AccessRule::UP_TO_4))
            .bar(1, 32, BarKind::Ports(AccessRule::UP_TO_4))
            .bar(2, 8192, BarKind::Ram64("frame"))
            .power()
            .rom(Some(Arc::from(&[0x55u8, 0xaa, 1][..])))
            .express(Express::Endpoint);
        if self.msi {
            spec = spec.msi(4, true);
        }
        if self.msix > 0 {
            spec = spec.msix_bar(self.msix, 4);
        }
        spec
    }

    fn fixed_regions(&self) -> Vec<RegionSpec> {
        vec![RegionSpec::new("block", 16, AccessRule::UP_TO_4)]
    }

    fn rams(&self) -> Vec<RamSpec> {
        vec![RamSpec::new("frame", 8192)]
    }

    fn prepare(&self, space: &mut ConfigSpace) {
        space.allow(0xf0, &[0xc0, 0xff]);
    }

    fn build(self, function: Function, wires: &mut Wires) -> Result<Box<dyn PciDevice>, BuildError> {
        Ok(Box::new(Sample { function, dma: wires.dma()?, value: 0 }))
    }
}

/// Writing 0: value, 4: interrupt level, 8: message, 12: address whose word becomes the value.
struct Sample {
    function: Function,
    dma: Dma,
    value: u32,
}

::device::state! { struct V1 { 1 => value: u32 } }

impl Sample {
    fn place(&mut self) {
        let base = self.function.config_u16(0xf0);
        self.function.place(0, (base != 0).then_some(Place::Ports(base)));
    }
}

impl Device for Sample {
    fn read(&mut self, region: usize, offset: u64, data: &mut [u8]) -> Access {
        le_fill(data, if offset == 0 { self.value.into() } else { region as u64 });
        Access::Ok
    }

    fn write(&mut self, _region: usize, offset: u64, data: &[u8]) -> Access {
        let value = le_value(data) as u32;
        match offset {
            0 => self.value = value,
            4 => self.function.interrupt(value & 1 != 0),
            8 => drop(self.function.message(value as u16)),
            12 => {
                let mut word = [0; 4];
                if self.dma.read(value.into(), &mut word).is_err() {
                    return Access::Fault;
                }
                self.value = u32::from_le_bytes(word);
            }
            _ => return Access::NoRegister,
        }
        Access::Ok
    }

    fn reset(&mut self, _kind: ResetKind) {
        self.value = 0;
    }

    fn save(&self) -> StateBlob {
        StateBlob::new("sample", 1, &V1 { value: self.value })
    }

    fn restore(&mut self, state: &StateBlob) -> Result<(), StateError> {
        let state: V1 = state.decode("sample", 1)?;
        self.value = state.value;
        self.place();
        Ok(())
    }
}

impl PciDevice for Sample {
    fn config_written(&mut self, at: usize, len: usize) {
        if crate::config_space::touches(at, len, 0xf0, 2) {
            self.place();
        }
    }
}

#[test]
fn passes_the_common_tests() {
    check(Pci::new(SampleConfig::default()));
    check(Pci { express: true, ..Pci::new(SampleConfig { msix: 65, msi: false }) });
    check(Pci::new(RootPortConfig::default()));
    check(PciHostConfig::default());
}

#[test]
fn registers_are_sized_and_capabilities_listed() {
    let b = PciBench::express(SampleConfig { msix: 3, msi: true });
    assert_eq!(b.config_read(0, 4), 0x5678_1234);
    for (i, mask) in [(0, 0xffff_ff00), (1, 0xffff_ffe1), (2, 0xffff_e00c), (3, 0xffff_ffff), (5, 0)] {
        b.config_write(reg::BAR + 4 * i, 4, 0xffff_ffff);
        assert_eq!(b.config_read(reg::BAR + 4 * i, 4), mask, "BAR {i}");
    }
    b.config_write(reg::ROM, 4, 0xffff_ffff);
    assert_eq!(b.config_read(reg::ROM, 4), 0xffff_f801);
    for id in [cap::MSI, cap::MSIX, cap::POWER, cap::EXPRESS] {
        assert!(b.capability(id).is_some(), "{id}");
    }
    let old = PciBench::new(SampleConfig::default());
    assert_eq!(old.capability(cap::EXPRESS), None);
    b.config_write(reg::COMMAND, 2, 0xffff);
    assert_eq!(b.config_read(reg::COMMAND, 2), 0x547);
}

#[test]
fn one_interrupt_is_a_pin_or_a_message() {
    let b = PciBench::new(SampleConfig::default());
    b.enable();
    b.bar_write(0, 4, 4, 1);
    assert!(b.line(INTX));
    assert_eq!(b.config_read(reg::STATUS, 2) & 8, 8);
    b.config_write(reg::COMMAND, 2, (command::MASTER | command::INTX_DISABLE).into());
    assert!(!b.line(INTX));
    b.enable();
    assert!(b.line(INTX));
    b.bar_write(0, 4, 4, 0);
    b.enable_messages(0xfee0_0000, 0x40);
    b.take_messages();
    b.bar_write(0, 4, 4, 1);
    assert!(!b.line(INTX));
    b.bar_write(0, 8, 4, 2);
    let sent = |data| MsiMessage { address: 0xfee0_0000, data, requester: 0 };
    assert_eq!(b.take_messages(), [sent(0x40), sent(0x42)]);
    // Masked: kept, shown as pending, sent later.
    let at = b.capability(cap::MSI).unwrap();
    b.config_write(at + 16, 4, 0xf);
    b.bar_write(0, 8, 4, 1);
    assert_eq!((b.take_messages(), b.config_read(at + 20, 4)), (vec![], 2));
    b.config_write(at + 16, 4, 0);
    assert_eq!((b.take_messages(), b.config_read(at + 20, 4)), (vec![sent(0x41)], 0));
    b.config_write(reg::COMMAND, 2, 0);
    b.bar_write(0, 8, 4, 1);
    assert_eq!(b.take_messages(), [], "no master, no message");
}

#[test]
fn a_table_masks_and_keeps_messages() {
    let b = PciBench::new(SampleConfig { msix: 3, msi: false });
    b.enable();
    b.bar_write(0, 8, 4, 1);
    assert_eq!(b.take_messages(), []);
    b.enable_messages(0x1_0000_0000, 7);
    b.bar_write(0, 8, 4, 1);
    b.bar_write(0, 8, 4, 99);
    assert_eq!(b.take_messages(), [MsiMessage { address: 0x1_0000_0000, data: 8, requester: 0 }]);
    b.bar_write(4, 16 * 2 + 12, 4, 1);
    b.bar_write(0, 8, 4, 2);
    assert_eq!((b.take_messages(), b.bar_read(4, 2048, 8)), (vec![], 4));
    b.bar_write(4, 16 * 2 + 12, 4, 0);
    assert_eq!((b.take_messages().len(), b.bar_read(4, 2048, 8)), (1, 0));
}

#[test]
fn memory_is_shut_until_the_guest_opens_it() {
    let b = PciBench::new(SampleConfig::default());
    b.ram().write(0, &[1, 2, 3, 4]).unwrap();
    let region = b.region(0);
    assert_eq!(b.try_write(region, 12, 4, RAM_BASE), Access::Fault);
    b.enable();
    b.bar_write(0, 12, 4, RAM_BASE);
    assert_eq!(b.bar_read(0, 0, 4), 0x0403_0201);
}

/// Devices in the order built, on address spaces.
struct Small {
    spaces: Spaces,
    cells: Vec<Arc<DeviceCell>>,
    timers: TimerQueue,
    messages: Arc<Mutex<Vec<MsiMessage>>>,
}

impl Small {
    fn new() -> Self {
        let memory = AddressSpace::memory(Unassigned::Ones);
        let ram = RamBlock::anonymous("ram", 1 << 20).unwrap();
        memory.add(Region::ram("ram", ram)).unwrap();
        memory.add(Region::container(MEMORY_CONTAINER, 1 << 64).priority(-1)).unwrap();
        let spaces = Spaces { memory, ports: Some(AddressSpace::ports()) };
        let timers = TimerQueue::new(Clock::new(ClockSource::Counted));
        Small { spaces, cells: Vec::new(), timers, messages: Arc::default() }
    }

    fn add(&mut self, config: impl DeviceConfig) -> usize {
        let sent = self.messages.clone();
        let mut wires = WiresBuilder::new(format!("machine/d{}", self.cells.len()), &self.timers)
            .dma(Dma::new(self.spaces.memory.clone()))
            .msi(MsiTarget::new(Arc::new(move |m| sent.lock().push(m))))
            .line(INTX, 0, IrqLine::unconnected())
            .spaces(self.spaces.clone());
        for spec in config.rams() {
            wires = wires.ram(spec.name.as_ref(), RamBlock::anonymous("x", spec.size).unwrap());
        }
        self.cells.push(DeviceCell::build(Box::new(config), wires.build()).unwrap());
        self.cells.len() - 1
    }

    fn read(&self, gpa: u64) -> u32 {
        let mut data = [0; 4];
        self.spaces.memory.read(gpa, &mut data);
        u32::from_le_bytes(data)
    }

    fn port(&self, port: u64) -> u32 {
        let mut data = [0; 4];
        self.spaces.ports.as_ref().unwrap().read(port, &mut data);
        u32::from_le_bytes(data)
    }
}

fn write(f: &Fabric, bus: u8, devfn: u8, at: u64, size: usize, value: u32) {
    f.config_write(bus, devfn, at, &value.to_le_bytes()[..size]);
}

fn read(f: &Fabric, bus: u8, devfn: u8, at: u64) -> u32 {
    let mut data = [0; 4];
    f.config_read(bus, devfn, at, &mut data);
    u32::from_le_bytes(data)
}

#[test]
fn registers_appear_where_the_guest_puts_them() {
    let (mut m, f) = (Small::new(), Fabric::new("pci.0", false));
    m.add(PciHostConfig { fabric: f.clone() });
    let at = Attachment::new(&f, BusId::ROOT, 3);
    let sample = m.add(Pci::new(SampleConfig::default()).at(at.clone()));
    assert_eq!((read(&f, 0, 3 << 3, 0), read(&f, 0, 4 << 3, 0), read(&f, 1, 0, 0)), (0x5678_1234, !0, !0));
    write(&f, 0, 0x18, 0x10, 4, 0xe000_0000);
    write(&f, 0, 0x18, 0x14, 4, 0xc000);
    write(&f, 0, 0x18, 0x18, 4, 0xe001_0000);
    assert_eq!(m.read(0xe000_0004), !0);
    write(&f, 0, 0x18, 4, 2, 7);
    assert_eq!((m.read(0xe000_0004), m.port(0xc004), m.read(0xe001_0000)), (0, 1, 0));
    m.spaces.memory.write(0xe001_0000, &[5]);
    assert_eq!(m.read(0xe001_0000), 5, "memory behind a register");
    write(&f, 0, 0x18, 0x10, 4, 0x8_0000);
    assert_eq!((m.read(0x8_0004), m.read(0xe000_0004)), (0, !0), "RAM hides what lies below it");
    write(&f, 0, 0x18, 0x30, 4, 0xe100_0001);
    assert_eq!(m.read(0xe100_0000), 0x01_aa55);
    write(&f, 0, 0x18, 0xf0, 2, 0x6ff);
    assert_eq!(m.port(0x6c4), 8, "a region the device has placed");
    m.cells[sample].reset(ResetKind::Cold);
    assert_eq!((m.read(0xe001_0000), m.port(0x6c4), m.port(0xc004)), (!0, !0, !0));
    // Configuration mechanism 1.
    let ports = m.spaces.ports.clone().unwrap();
    let host = m.cells[0].clone();
    ports.add(Region::io("address", 4, host.region(0)).at(0xcf8)).unwrap();
    ports.add(Region::io("data", 4, host.region(1)).at(0xcfc)).unwrap();
    ports.write(0xcf8, &0x8000_1808u32.to_le_bytes());
    assert_eq!(m.port(0xcfc), 0xff00_0000);
    let mut word = [0; 2];
    ports.read(0xcfe, &mut word);
    assert_eq!(word, [0, 0xff]);
    at.detach();
    assert_eq!(m.port(0xcfc), !0);
}

#[test]
fn bridges_route_and_clip() {
    let (mut m, f) = (Small::new(), Fabric::new("pcie.0", true));
    m.add(PcieHostConfig { fabric: f.clone(), buses: 256 });
    let port = f.add_bus("rp", true, BusId::ROOT, 2 << 3).unwrap();
    let inner = f.add_bus("br", false, port, 0).unwrap();
    assert_eq!((f.bus("br"), f.parent(inner)), (Some(inner), Some((port, 0))));
    m.add(Pci::new(RootPortConfig::default()).at(Attachment::new(&f, BusId::ROOT, 2)));
    m.add(Pci::new(ToPciConfig::default()).at(Attachment::new(&f, port, 0)));
    let sample = m.add(Pci::new(SampleConfig::default()).at(Attachment::new(&f, inner, 5)));
    assert_eq!(f.route_pin(inner, 5 << 3, 1), (2, 1));
    // Bus numbers: 1 behind the port, 2 behind the bridge.
    write(&f, 0, 0x10, 0x18, 4, 0x0002_0100);
    write(&f, 1, 0, 0x18, 4, 0x0002_0201);
    assert_eq!((read(&f, 1, 0, 0), read(&f, 2, 5 << 3, 0)), (0x000e_1b36, 0x5678_1234));
    assert_eq!(read(&f, 3, 0, 0), !0);
    write(&f, 2, 5 << 3, 0x10, 4, 0xe010_0000);
    write(&f, 2, 5 << 3, 4, 2, 7);
    assert_eq!(m.read(0xe010_0004), !0, "no window is open");
    for bus in [(0, 0x10), (1, 0)] {
        write(&f, bus.0, bus.1, 0x20, 4, 0xe010_e010);
        write(&f, bus.0, bus.1, 4, 2, 3);
    }
    assert_eq!(m.read(0xe010_0004), 0);
    let io = m.cells[sample].region(1);
    assert_eq!(io.write(12, &[0; 4]), Access::Ok, "what is behind a bridge reaches memory, master or not");
    write(&f, 2, 5 << 3, 0x44, 4, 0xfee0_0000);
    write(&f, 2, 5 << 3, 0x42, 2, 1);
    assert_eq!(io.write(8, &[0; 4]), Access::Ok);
    assert_eq!(m.messages.lock().pop().unwrap().requester, 2 << 8 | 5 << 3);
    write(&f, 0, 0x10, 0x20, 4, 0xf000_f000);
    assert_eq!(m.read(0xe010_0004), !0, "the window has moved away");
    // The same through memory.
    let mut word = [0; 4];
    m.cells[0].region(0).read(2 << 20 | 5 << 15, &mut word);
    assert_eq!(u32::from_le_bytes(word), 0x5678_1234);
    let saved = m.cells[sample].save();
    m.cells[sample].reset(ResetKind::Cold);
    write(&f, 0, 0x10, 0x20, 4, 0xe010_e010);
    assert_eq!(m.read(0xe010_0004), !0);
    m.cells[sample].restore(&saved).unwrap();
    assert_eq!(m.read(0xe010_0004), 0);
}

/// Where a capability stands in the configuration space of a function on bus 0.
fn capability(f: &Fabric, devfn: u8, id: u8) -> u64 {
    let mut at = u64::from(read(f, 0, devfn, 0x34) & 0xff);
    while read(f, 0, devfn, at) & 0xff != u32::from(id) {
        at = u64::from(read(f, 0, devfn, at) >> 8 & 0xff);
    }
    at
}

#[test]
fn a_slot_tells_of_devices_that_come_and_go() {
    let (mut m, f) = (Small::new(), Fabric::new("pcie.0", true));
    m.add(PcieHostConfig { fabric: f.clone(), buses: 256 });
    let behind = f.add_bus("rp", true, BusId::ROOT, 2 << 3).unwrap();
    let port = m.add(Pci::new(RootPortConfig::default()).at(Attachment::new(&f, BusId::ROOT, 2)));
    write(&f, 0, 0x10, 0x18, 4, 0x0001_0100);
    let (slot, msi) = (capability(&f, 0x10, cap::EXPRESS), capability(&f, 0x10, cap::MSI));
    let (control, status, link) = (slot + 0x18, slot + 0x1a, slot + 0x12);
    assert_eq!(read(&f, 0, 0x10, control - 4) & 0x7f, 0x7b, "button, power, indicators, surprise, hot plug");
    assert_eq!((read(&f, 0, 0x10, status) & 0x1ff, read(&f, 0, 0x10, link) >> 13 & 1), (0, 0));
    // Messages, and interrupts on presence, button and link.
    write(&f, 0, 0x10, 4, 2, 4);
    write(&f, 0, 0x10, msi + 4, 4, 0xfee0_0000);
    write(&f, 0, 0x10, msi + 2, 2, 1);
    write(&f, 0, 0x10, control, 2, 0x1029 | 3 << 6 | 3 << 8 | 1 << 10);
    assert_eq!(read(&f, 0, 0x10, status) & 0x1ff, 0x10, "the command is completed");
    write(&f, 0, 0x10, status, 2, 0x10);
    assert!(m.messages.lock().is_empty());
    let with = |m: &Small, g: fn(&mut Port)| {
        m.cells[port].with(|d| g(d.as_any().unwrap().downcast_mut().unwrap()));
    };
    let at = Attachment { removable: true, ..Attachment::new(&f, behind, 0) };
    let sample = m.add(Pci::new(SampleConfig::default()).at(at));
    with(&m, Port::plugged);
    assert_eq!(m.messages.lock().len(), 1);
    assert_eq!((read(&f, 0, 0x10, status) & 0x1ff, read(&f, 0, 0x10, link) >> 13 & 1), (0x148, 1));
    write(&f, 0, 0x10, status, 2, 0x108);
    // The guest turns it on and is asked to give it back.
    write(&f, 0, 0x10, control, 2, 0x1029 | 3 << 6 | 1 << 8);
    with(&m, Port::ask);
    assert_eq!((m.messages.lock().len(), read(&f, 0, 0x10, status) & 0x1ff), (2, 0x51));
    write(&f, 0, 0x10, status, 2, 0x11);
    let saved = m.cells[port].save();
    assert_eq!(read(&f, 1, 0, 0), 0x5678_1234);
    write(&f, 0, 0x10, control, 2, 0x1029 | 3 << 6 | 1 << 8 | 1 << 10);
    assert_eq!(read(&f, 1, 0, 0), 0x5678_1234, "the indicator is still on");
    write(&f, 0, 0x10, control, 2, 0x1029 | 3 << 6 | 3 << 8 | 1 << 10);
    assert_eq!((read(&f, 1, 0, 0), read(&f, 0, 0x10, status) & 0x1ff), (!0, 0x118));
    assert_eq!((f.take_ejected(), f.take_ejected()), (vec![(behind, 0)], vec![]));
    m.cells[sample].retire();
    m.cells[port].restore(&saved).unwrap();
    assert_eq!(m.cells[port].save().to_bytes(), saved.to_bytes());
}

#[test]
fn what_cannot_be_is_refused_in_one_line() {
    let bad = FunctionSpec::new(1, 2, 3).bar(0, 100, BarKind::Memory(AccessRule::ANY));
    assert!(bad.problem().unwrap().contains("BAR 0"));
    let bad = FunctionSpec::new(1, 2, 3).bar(5, 64, BarKind::Memory64(AccessRule::ANY));
    assert!(bad.problem().unwrap().contains("upper half"));
    assert_eq!(FunctionSpec::new(1, 2, 3).msix_bar(2048, 1).problem(), None);
    let _ = Bench::new(Pci::new(ToPciConfig::default()));
}
