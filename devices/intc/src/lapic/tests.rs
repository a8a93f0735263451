use std::sync::mpsc::{Receiver, Sender, channel};

use device::test_bench::{Bench, check};

use super::*;

fn bench(cpus: u32) -> (Bench, Arc<ApicBus>) {
    let b = Bench::new(LapicsConfig { cpus, ..LapicsConfig::default() });
    let bus = b.cell().with(|d| d.as_any().unwrap().downcast_mut::<Lapics>().unwrap().bus());
    (0..cpus).for_each(|cpu| write(&bus, cpu, 0xf0, 0x1ff));
    (b, bus)
}

fn read(bus: &ApicBus, cpu: u32, offset: u64) -> u32 {
    let mut data = [0; 4];
    assert_eq!(bus.mmio_read(cpu, offset, &mut data), Access::Ok, "{offset:#x}");
    u32::from_le_bytes(data)
}

fn write(bus: &ApicBus, cpu: u32, offset: u64, value: u32) {
    assert_eq!(bus.mmio_write(cpu, offset, &value.to_le_bytes()), Access::Ok, "{offset:#x}");
}

fn msi(bus: &ApicBus, address: u64, data: u32) {
    bus.signal(MsiMessage { address, data, requester: 0 });
}

#[test]
fn priorities_nest() {
    let (b, bus) = bench(1);
    assert_eq!((read(&bus, 0, 0x30), read(&bus, 0, 0x20)), (0x5_0014, 0));
    msi(&bus, 0xfee0_0000, 0x41);
    assert!(b.line_at("intr", 0));
    assert_eq!(bus.acknowledge(0), Some(0x41));
    assert!(!b.line_at("intr", 0));
    msi(&bus, 0xfee0_0000, 0x45);
    assert!(!b.line_at("intr", 0), "same class");
    msi(&bus, 0xfee0_0000, 0x52);
    assert_eq!(bus.acknowledge(0), Some(0x52));
    assert_eq!(read(&bus, 0, 0xa0), 0x50);
    write(&bus, 0, 0xb0, 0);
    assert_eq!(bus.acknowledge(0), None);
    write(&bus, 0, 0xb0, 0);
    bus.set_cr8(0, 4);
    assert_eq!((bus.acknowledge(0), read(&bus, 0, 0x80)), (None, 0x40));
    bus.set_cr8(0, 3);
    assert_eq!(bus.acknowledge(0), Some(0x45));
}

#[test]
fn level_interrupts_report_their_end() {
    let (_b, bus) = bench(1);
    let (send, ends) = channel();
    bus.on_eoi(Box::new(move |vector| send.send(vector).unwrap()));
    msi(&bus, 0xfee0_0000, 0xc060);
    msi(&bus, 0xfee0_0000, 0x0061);
    assert_eq!(bus.acknowledge(0), Some(0x61));
    write(&bus, 0, 0xb0, 0);
    assert_eq!(bus.acknowledge(0), Some(0x60));
    assert!(ends.try_recv().is_err());
    write(&bus, 0, 0xb0, 0);
    assert_eq!(ends.try_recv(), Ok(0x60));
}

#[test]
fn destinations() {
    let (b, bus) = bench(4);
    let who = || (0..4).filter(|&cpu| bus.acknowledge(cpu).is_some()).collect::<Vec<_>>();
    (0..4).for_each(|cpu| write(&bus, cpu, 0xd0, 1 << (24 + cpu)));
    msi(&bus, 0xfee0_2000, 0x40);
    assert_eq!(who(), [2]);
    msi(&bus, 0xfeef_f000, 0x50);
    assert_eq!(who(), [0, 1, 2, 3]);
    msi(&bus, 0xfee0_9004, 0x60);
    assert_eq!(who(), [0, 3], "logical, flat");
    msi(&bus, 0xfee0_f004, 0x170);
    assert_eq!(who(), [1], "lowest priority: 0, 2, 3 serve more");
    (0..4).for_each(|cpu| write(&bus, cpu, 0xe0, 0));
    (0..4).for_each(|cpu| write(&bus, cpu, 0xd0, (cpu / 2) << 28 | 1 << (24 + cpu % 2)));
    msi(&bus, 0xfee1_2004, 0x80);
    assert_eq!(who(), [3], "logical, cluster 1");
    write(&bus, 0, 0x310, 1 << 24);
    write(&bus, 0, 0x300, 0x90);
    assert_eq!(who(), [1]);
    write(&bus, 1, 0x300, 0xc_00a0);
    assert_eq!(who(), [0, 2, 3], "all but self");
    write(&bus, 1, 0x300, 0x4_00b0);
    assert_eq!(who(), [1]);
    b.take_edges();
    write(&bus, 0, 0x300, 0xc_0400);
    assert_eq!(b.take_edges().iter().filter(|e| e.name == "nmi" && e.level).count(), 3);
    write(&bus, 0, 0x300, 0x0005);
    write(&bus, 0, 0x280, 0);
    assert_eq!(read(&bus, 0, 0x280), 0x20, "send illegal vector");
}

struct Ipis(Sender<(u32, Option<u8>)>);

impl IpiSink for Ipis {
    fn init(&self, cpu: u32) {
        self.0.send((cpu, None)).unwrap();
    }
    fn startup(&self, cpu: u32, vector: u8) {
        self.0.send((cpu, Some(vector))).unwrap();
    }
}

#[test]
fn starts_another_cpu() {
    let (_b, bus) = bench(2);
    let (send, ipis): (_, Receiver<_>) = channel();
    bus.on_ipi(Box::new(Ipis(send)));
    write(&bus, 0, 0x310, 1 << 24);
    write(&bus, 0, 0x300, 0xc500);
    write(&bus, 0, 0x300, 0x8500);
    write(&bus, 0, 0x300, 0x0608);
    assert_eq!(ipis.try_iter().collect::<Vec<_>>(), [(1, None), (1, Some(8))]);
    assert_eq!(read(&bus, 1, 0xf0), 0xff, "INIT switched it off");
}

#[test]
fn x2apic_by_msr() {
    let (_b, bus) = bench(20);
    assert_eq!(bus.msr_read(1, 0x802), Err(MsrError));
    assert_eq!(bus.msr_read(0, 0x1b), Ok(0xfee0_0900));
    for cpu in 0..20 {
        let base = bus.msr_read(cpu, 0x1b).unwrap();
        bus.msr_write(cpu, 0x1b, base | 0xc00).unwrap();
        assert_eq!(bus.msr_write(cpu, 0x1b, base), Err(MsrError), "no way back but through off");
    }
    assert_eq!((bus.msr_read(18, 0x802), bus.msr_read(18, 0x80d)), (Ok(18), Ok(0x1_0004)));
    let mut data = [0; 4];
    assert_eq!(bus.mmio_read(0, 0x30, &mut data), Access::NoRegister);
    bus.msr_write(0, 0x830, 18 << 32 | 0x40).unwrap();
    assert_eq!(bus.acknowledge(18), Some(0x40));
    bus.msr_write(0, 0x830, 0x1_0003 << 32 | 0x850).unwrap();
    assert_eq!([15, 16, 17, 18].map(|cpu| bus.acknowledge(cpu)), [None, Some(0x50), Some(0x50), None]);
    bus.msr_write(3, 0x83f, 0x61).unwrap();
    assert_eq!(bus.acknowledge(3), Some(0x61));
    bus.msr_write(3, 0x80b, 0).unwrap();
    for (msr, value) in [(0x80b, 1), (0x80e, 0), (0x831, 0), (0x83f, 0x100), (0x808, 1 << 32), (0x8ff, 0)] {
        assert_eq!(bus.msr_write(3, msr, value), Err(MsrError), "{msr:#x}");
    }
}

#[test]
fn timer_modes() {
    let (b, bus) = bench(1);
    write(&bus, 0, 0x3e0, 0b1011);
    write(&bus, 0, 0x320, 0x40);
    write(&bus, 0, 0x380, 1000);
    b.advance(400);
    assert_eq!(read(&bus, 0, 0x390), 600);
    b.advance(599);
    assert_eq!(bus.acknowledge(0), None);
    b.advance(1);
    assert_eq!((bus.acknowledge(0), read(&bus, 0, 0x390)), (Some(0x40), 0));
    write(&bus, 0, 0xb0, 0);
    write(&bus, 0, 0x3e0, 0b0000);
    write(&bus, 0, 0x320, 0x2_0041);
    write(&bus, 0, 0x380, 500);
    let mut count = 0;
    for _ in 0..10 {
        b.advance(1000);
        count += usize::from(bus.acknowledge(0).is_some());
        write(&bus, 0, 0xb0, 0);
    }
    assert_eq!(count, 10);
    write(&bus, 0, 0x320, 0x4_0042);
    assert_eq!(b.next_deadline(), None);
    bus.set_tsc_offset(0, 5000);
    let now = b.now();
    bus.msr_write(0, 0x6e0, now + 5000 + 10).unwrap();
    assert_eq!(b.next_deadline(), Some(now + 10));
    b.advance(10);
    assert_eq!((bus.acknowledge(0), bus.msr_read(0, 0x6e0)), (Some(0x42), Ok(0)));
    write(&bus, 0, 0xb0, 0);
    bus.msr_write(0, 0x6e0, 1).unwrap();
    b.advance(0);
    assert_eq!(bus.acknowledge(0), Some(0x42), "a deadline in the past fires at once");
}

#[test]
fn the_8259_comes_through_lint0() {
    let (b, bus) = bench(2);
    write(&bus, 0, 0x350, 0x1_0700);
    b.input("extint", 0, true);
    assert!(!b.line_at("intr", 0), "masked");
    write(&bus, 0, 0x350, 0x700);
    assert_eq!((b.line_at("intr", 0), b.line_at("intr", 1)), (true, false));
    assert_eq!((bus.acknowledge(0), bus.accepts_extint(0)), (None, true));
    b.input("extint", 0, false);
    assert!(!b.line_at("intr", 0));
    write(&bus, 0, 0x360, 0x400);
    b.take_edges();
    bus.lint1();
    assert_eq!(b.take_edges().len(), 2, "an NMI pulse to CPU 0");
}

#[test]
fn numbers_need_not_be_those_of_the_vcpus() {
    let config = LapicsConfig { cpus: 3, ids: vec![0, 1, 4], ..LapicsConfig::default() };
    let b = Bench::new(config.clone());
    let bus = b.cell().with(|d| d.as_any().unwrap().downcast_mut::<Lapics>().unwrap().bus());
    (0..3).for_each(|cpu| write(&bus, cpu, 0xf0, 0x1ff));
    assert_eq!(read(&bus, 2, 0x20), 4 << 24);
    msi(&bus, 0xfee0_4000, 0x40);
    msi(&bus, 0xfee0_2000, 0x41);
    assert_eq!([0, 1, 2].map(|cpu| bus.acknowledge(cpu)), [None, None, Some(0x40)]);
    // To itself, and one that comes anew.
    write(&bus, 2, 0x300, 1 << 18 | 0x50);
    assert_eq!([0, 1, 2].map(|cpu| bus.acknowledge(cpu)), [None, None, Some(0x50)]);
    write(&bus, 0, 0x310, 4 << 24);
    write(&bus, 0, 0x300, 0x60);
    assert!(b.line_at("intr", 2));
    bus.reset_cpu(2);
    assert!(!b.line_at("intr", 2));
    assert_eq!((read(&bus, 2, 0x20), read(&bus, 2, 0xf0)), (4 << 24, 0xff));
    check(config);
}

#[test]
fn passes_the_common_tests() {
    check(LapicsConfig { cpus: 2, ..LapicsConfig::default() });
}
