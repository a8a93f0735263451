//! The chips on their benches.

use device::SystemRequest;
use device::test_bench::{Bench, check};
use pci::Pci;
use pci::test_bench::PciBench;

use crate::{
    AcpiPmConfig, I440fxConfig, Ich9LpcConfig, Ich9SmbusConfig, MchConfig, PciHotplug, PciHotplugConfig,
    Piix3Config, Piix4PmConfig, SmiFeatures,
};

#[test]
fn all_pass_the_common_tests() {
    check(Pci::new(I440fxConfig::default()));
    check(Pci::new(MchConfig::default()));
    check(Pci::new(Piix3Config::default()));
    check(Pci::new(Piix4PmConfig::default()));
    check(Pci::new(Ich9LpcConfig { smm: true, ..Ich9LpcConfig::default() }));
    check(Pci::new(Ich9SmbusConfig::default()));
    check(AcpiPmConfig::default());
    check(PciHotplugConfig::default());
}

#[test]
fn slots_say_what_has_come_and_what_is_asked_back() {
    let b = Bench::new(PciHotplugConfig::default());
    let with = |f: fn(&mut PciHotplug)| {
        b.cell().with(|d| f(d.as_any().unwrap().downcast_mut().unwrap()));
    };
    with(|c| c.plugged(5));
    assert!(!b.line("gpe"), "an edge");
    assert_eq!((b.read(0, 0x10, 4), b.read(0, 0, 4), b.read(0, 0, 4)), (0, 1 << 5, 0));
    with(|c| c.ask(7));
    b.write(0, 0x10, 4, 1);
    assert_eq!((b.read(0, 0x10, 4), b.read(0, 4, 4)), (1, 0), "another bus");
    b.write(0, 0x10, 4, 0);
    assert_eq!((b.read(0, 4, 4), b.read(0, 4, 4)), (1 << 7, 1 << 7));
    assert_eq!(b.read(0, 0xc, 4), 0xffff_ffff, "nothing is there that would have to stay");
    b.write(0, 8, 4, 0);
    b.write(0, 8, 4, 1 << 7 | 1 << 9);
    assert_eq!((b.read(0, 4, 4), b.read(0, 8, 4)), (0, 0));
}

#[test]
fn wires_go_where_their_registers_say() {
    let b = PciBench::new(Piix3Config::default());
    b.input("pirq", 2, true);
    assert!(!b.levels().contains(&true));
    b.config_write(0x60, 4, 0x800b_0a0a);
    assert!(b.line_at("irq", 11));
    b.config_write(0x62, 1, 10);
    assert!(b.line_at("irq", 10) && !b.line_at("irq", 11));
    b.input("pirq", 0, true);
    b.input("pirq", 2, false);
    assert!(b.line_at("irq", 10), "shared");
    b.config_write(0x60, 1, 2);
    assert!(!b.levels().contains(&true), "interrupt 2 is the cascade");

    let b = PciBench::new(Ich9LpcConfig::default());
    b.input("pirq", 4, true);
    b.config_write(0x68, 1, 5);
    assert!(b.line_at("gsi", 4) && b.line_at("irq", 5));
}

/// Region of the power management block, and of the SMI command port, on the bench.
fn power(b: &Bench, pm: usize, apm: usize, enable: u64) {
    assert_eq!(b.read(pm, 0, 2) & 0x100, 0);
    b.input("power_button", 0, true);
    b.input("power_button", 0, false);
    b.write(pm, 2, 2, 0x100);
    assert!(!b.line("sci"), "ACPI is off");
    b.write(apm, 0, 1, enable);
    assert!(b.line("sci"));
    assert_eq!(b.read(pm, 4, 2), 1);
    assert_eq!(b.read(pm, 0, 4), 0x0100_0100);
    b.write(pm, 0, 2, 0x100);
    assert!(!b.line("sci"));
    // The timer: 3579545 Hz, its status at every half turn of 24 bits.
    b.write(pm, 2, 2, 1);
    let before = b.read(pm, 8, 4);
    b.advance(1_000_000_000);
    assert_eq!(b.read(pm, 8, 4) - before, 3_579_545);
    b.advance(1_500_000_000);
    assert!(b.line("sci"));
    b.write(pm, 0, 2, 1);
    assert!(!b.line("sci"));
    b.write(pm, 4, 2, 1 << 13);
    assert_eq!(b.take_requests(), [SystemRequest::Shutdown { code: None }]);
}

#[test]
fn the_power_button_the_timer_and_soft_off() {
    let b = PciBench::new(Piix4PmConfig::default());
    power(&b, 1, 3, 0xf1);
    let b = PciBench::new(Ich9LpcConfig::default());
    power(&b, 1, 2, 2);
}

#[test]
fn a_block_of_its_own_is_the_systems_from_the_start() {
    let b = Bench::new(AcpiPmConfig::default());
    assert_eq!(b.read(0, 4, 2), 1);
    b.write(0, 2, 2, 0x100);
    b.input("power_button", 0, true);
    assert!(b.line("sci"));
    b.write(0, 0, 2, 0x100);
    assert!(!b.line("sci"));
    b.write(0, 4, 2, 0);
    assert_eq!(b.read(0, 4, 2), 1, "there is no legacy mode");
    b.write(0, 4, 2, 1 << 13);
    assert_eq!(b.take_requests(), [SystemRequest::Shutdown { code: None }]);
}

#[test]
fn events_of_the_board_interrupt() {
    let b = PciBench::new(Piix4PmConfig::default());
    b.write(3, 0, 1, 0xf1);
    b.input("gpe", 1, true);
    assert_eq!(b.read(2, 0, 2), 2);
    b.write(2, 2, 2, 2);
    assert!(b.line("sci"));
    b.write(2, 0, 1, 2);
    assert!(!b.line("sci"));
    assert!(!b.line("smi"));
}

#[test]
fn memory_for_system_management_locks() {
    let b = PciBench::new(I440fxConfig::default());
    b.config_write(0x72, 1, 0x4a);
    assert_eq!(b.config_read(0x72, 1), 0x4a);
    b.config_write(0x72, 1, 0x1a);
    b.config_write(0x72, 1, 0x4a);
    assert_eq!(b.config_read(0x72, 1), 0x1a);
    b.config_write(0x59, 4, 0xffff_ffff);
    assert_eq!(b.config_read(0x59, 4), 0x3333_3330);
}

#[test]
fn system_management_interrupts_can_be_locked_and_broadcast() {
    let features = SmiFeatures::default();
    let b = PciBench::new(Ich9LpcConfig { smm: true, features: features.clone(), noreboot: false });
    let (pm, apm) = (1, 2);
    b.take_edges();
    b.write(apm, 0, 1, 0x55);
    assert_eq!(b.take_edges(), [], "not enabled");
    b.write(pm, 0x30, 4, 0x21);
    b.write(apm, 0, 1, 0x55);
    let names = |b: &Bench| -> Vec<String> {
        b.take_edges().into_iter().filter(|e| e.level).map(|e| e.name).collect()
    };
    assert_eq!(names(&b), ["smi"]);
    assert!(!features.negotiate(2) && features.negotiate(1));
    b.write(apm, 0, 1, 0x55);
    assert_eq!(names(&b), ["smi", "smi_others"]);
    b.config_write(0xa0, 2, 0x10);
    b.write(pm, 0x30, 4, 0);
    assert_eq!(b.read(pm, 0x30, 4), 1, "the global enable stays");
    b.config_write(0xa0, 2, 0);
    assert_eq!(b.config_read(0xa0, 2) & 0x10, 0x10, "and so does the lock");
}

#[test]
fn memory_for_system_management_at_the_top_says_its_size_and_locks() {
    let b = PciBench::new(MchConfig { low_ram: 64 << 20, ..MchConfig::default() });
    b.config_write(0x50, 2, 0xffff);
    assert_eq!(b.config_read(0x50, 2), 16);
    b.config_write(0x9d, 2, 0x3f0a);
    assert_eq!(b.config_read(0x9d, 2), 0x3f0a);
    b.config_write(0x9d, 1, 0x1a);
    b.config_write(0x9d, 2, 0x3802);
    assert_eq!(b.config_read(0x9d, 2), 0x3f1a);
}

/// The watchdog of the ICH9 in ticks of 0.6 seconds, its registers at 0x60 of the power management block.
#[test]
fn the_watchdog_resets_when_it_runs_out_twice() {
    const TICK: u64 = 600_000_000;
    const PM: usize = 1;
    const RCBA: usize = 3;
    let b = PciBench::new(Ich9LpcConfig::default());
    b.write(PM, 0x72, 2, 10);
    b.write(PM, 0x60, 2, 1);
    b.advance(4 * TICK);
    assert_eq!(b.read(PM, 0x60, 2), 6);
    b.write(PM, 0x60, 2, 1);
    b.advance(19 * TICK);
    assert_eq!((b.read(PM, 0x64, 2), b.take_requests()), (8, vec![]));
    b.advance(TICK);
    assert_eq!((b.read(PM, 0x66, 2), b.take_requests()), (6, vec![SystemRequest::Watchdog]));
    b.advance(50 * TICK);
    assert_eq!(b.take_requests(), [], "it stands");
    b.write(PM, 0x64, 2, 8);
    b.write(PM, 0x66, 2, 6);
    assert_eq!((b.read(PM, 0x64, 2), b.read(PM, 0x66, 2)), (0, 0));
    // Halted.
    b.write(PM, 0x60, 2, 1);
    b.write(PM, 0x68, 2, 1 << 11);
    b.advance(50 * TICK);
    assert_eq!((b.read(PM, 0x64, 2), b.take_requests()), (0, vec![]));
    // Not to reset, by the strap; it interrupts instead if that is enabled, and then only.
    let config = Ich9LpcConfig { smm: true, noreboot: true, ..Ich9LpcConfig::default() };
    let b = PciBench::new(config.clone());
    assert_eq!(b.read(RCBA, 0x3410, 4), 0x20);
    b.write(PM, 0x60, 2, 1);
    b.take_edges();
    b.advance(10 * TICK);
    assert_eq!((b.read(PM, 0x66, 2), b.take_requests(), b.take_edges()), (6, vec![], vec![]));
    b.write(PM, 0x30, 4, 0x2001);
    // The lock keeps the enable.
    b.write(PM, 0x68, 2, 1 << 12);
    b.write(PM, 0x30, 4, 1);
    assert_eq!(b.read(PM, 0x30, 4), 0x2001);
    b.advance(4 * TICK);
    assert!(b.take_edges().iter().any(|e| e.name == "smi" && e.level));
    // What was wanted of software is in the status as well.
    b.write(PM, 0x62, 1, 0x55);
    assert_eq!((b.read(PM, 0x62, 1), b.read(PM, 0x64, 2) & 2), (0x55, 2));
    b.write(RCBA, 0x3410, 4, 0);
    b.advance(50 * TICK);
    assert_eq!(b.take_requests(), [SystemRequest::Watchdog]);
    check(Pci::new(config));
}
