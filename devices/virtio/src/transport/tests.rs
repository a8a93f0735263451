//! Tests of virtio-mmio's registers and state machine, with the entropy device behind it.

use ::device::test_bench::{Bench, RAM_BASE, check};
use ::device::{Access, Properties};

use super::mmio::{EmptySlot, Mmio};
use crate::device::feature;
use crate::rng::{RngConfig, RngSource};
use crate::test_driver::{Driver, Piece};

fn config() -> Mmio<RngConfig> {
    Mmio::new(
        RngConfig::default(),
        RngSource::new(|data| {
            data.fill(0x5a);
            true
        }),
    )
}

#[test]
fn identifies_itself() {
    let bench = Bench::new(config());
    let driver = Driver::new(&bench);
    assert_eq!((driver.reg(0x8), driver.reg(0xc)), (4, 0x554d_4551));
    let rings = feature::VERSION_1 | feature::EVENT_IDX | feature::INDIRECT_DESC | feature::RING_RESET;
    assert_eq!(driver.offered(), rings);
    driver.set(0xac, 0);
    assert_eq!((driver.reg(0xb0), driver.reg(0xb4), driver.reg(0xb8), driver.reg(0xbc)), (!0, !0, !0, !0));
    assert_eq!(bench.try_read(0, 0x2, 2).0, Access::BadSize);
    assert_eq!(bench.try_read(0, 0x1c, 4).0, Access::NoRegister);
    assert_eq!(bench.try_write(0, 0x0, 4, 1), Access::ReadOnly);
    assert_eq!(bench.read(0, 0x1fc, 1), 0, "config space beyond the device's reads 0");
    driver.set(0x30, 7);
    assert_eq!(driver.reg(0x34), 0, "no such queue");
}

#[test]
fn negotiation_is_strict() {
    let bench = Bench::new(config());
    let mut driver = Driver::new(&bench);
    assert!(!driver.negotiate(1 << 5), "a feature that is not offered");
    let mut driver = Driver::new(&bench);
    assert!(driver.negotiate(feature::EVENT_IDX));
    driver.set(0x24, 0);
    driver.set(0x20, 0xffff);
    assert_eq!(driver.reg(0x70), 11, "too late to change");
    driver.driver_ok();
    let driver = Driver::new(&bench);
    driver.set(0x70, 3 | 4);
    assert_eq!(driver.reg(0x70), 3, "no DRIVER_OK without FEATURES_OK");
    driver.set(0x24, 1);
    driver.set(0x20, 0);
    driver.set(0x70, 3 | 8);
    assert_eq!(driver.reg(0x70), 3, "no legacy driver");
}

#[test]
fn a_bad_ring_needs_a_reset() {
    for (reg, value) in [(0x38, 3), (0x38, 16), (0x38, 0), (0x80, 8), (0x94, 1), (0xa0, 2)] {
        let bench = Bench::new(config());
        let mut driver = Driver::new(&bench);
        driver.negotiate(0);
        driver.queue(0, 8);
        driver.set(0x44, 0);
        driver.set(reg, value);
        driver.set(0x44, 1);
        assert!(driver.needs_reset() && driver.reg(0x44) == 0, "{reg:#x}={value}");
        assert!(!bench.line("irq"), "no interrupt before DRIVER_OK");
        driver.set(0x70, 15);
        driver.set(0x50, 0);
        assert!(driver.needs_reset());
        let twin = Bench::new(config());
        twin.cell().restore(&bench.cell().save()).unwrap();
        assert_eq!(twin.read(0, 0x70, 4), 79);
        bench.write(0, 0x70, 4, 0);
        assert!(!driver.needs_reset() && !bench.line("irq"));
    }
}

#[test]
fn interrupts_and_queue_reset() {
    let bench = Bench::new(config());
    let mut driver = Driver::start(&bench, feature::RING_RESET, &[8]);
    let (data, len) = driver.ask(0, &[Piece::In(100)]);
    assert_eq!((data, len), (vec![0x5a; 100], 100));
    assert_eq!(driver.used_flags(0), 0, "notifications are wanted again");
    assert!(bench.line("irq"));
    assert_eq!(driver.take_interrupt(), 1);
    assert_eq!(driver.take_interrupt(), 0);
    driver.set_avail_flags(0, 1);
    driver.ask(0, &[Piece::In(1)]);
    assert!(!bench.line("irq"), "the driver did not want an interrupt");
    driver.set_avail_flags(0, 0);
    driver.set(0xc0, 1);
    assert_eq!((driver.reg(0xc0), driver.reg(0x44)), (0, 0));
    driver.kick(0);
    driver.queue(0, 4);
    assert_eq!(driver.ask(0, &[Piece::In(3), Piece::In(4)]).1, 7);
    assert_eq!(driver.take_interrupt(), 1);
}

#[test]
fn event_index() {
    let bench = Bench::new(config());
    let mut driver = Driver::start(&bench, feature::EVENT_IDX, &[8]);
    driver.set_used_event(0, 2);
    for i in 0..4u16 {
        driver.ask(0, &[Piece::In(1)]);
        assert_eq!(driver.avail_event(0), i + 1, "told of the next buffer");
        assert_eq!(driver.take_interrupt(), u32::from(i == 2));
    }
    // Several at once that pass the event.
    driver.set_used_event(0, 5);
    for _ in 0..3 {
        driver.add(0, &[Piece::In(1)]);
    }
    driver.kick(0);
    assert_eq!((driver.used_idx(0), driver.take_interrupt()), (7, 1));
}

#[test]
fn indices_wrap() {
    let bench = Bench::new(config());
    let mut driver = Driver::start(&bench, feature::EVENT_IDX, &[4]);
    for i in 0..70_000u32 {
        driver.add(0, &[Piece::In(1)]);
        driver.kick(0);
        assert_eq!(driver.poll(0), Some(((i % 4) as u16, 1)));
    }
}

#[test]
fn indirect_chains() {
    let bench = Bench::new(config());
    let mut driver = Driver::start(&bench, feature::INDIRECT_DESC, &[4]);
    let pieces: Vec<_> = (1..=20).map(Piece::In).collect();
    let token = driver.add_indirect(0, &pieces);
    driver.kick(0);
    assert_eq!(driver.wait(0), (token.head, 210));
    assert_eq!(driver.written(&token), [0x5a; 210]);
}

#[test]
fn broken_chains_need_a_reset() {
    type Spoil = fn(&Driver<'_>);
    let cases: &[(&str, Spoil)] = &[
        ("buffer outside RAM", |d| d.write_ram(RAM_BASE, &0x10u64.to_le_bytes())),
        ("buffer that wraps", |d| d.write_ram(RAM_BASE, &(!0u64 - 8).to_le_bytes())),
        ("loop", |d| d.write_ram(RAM_BASE + 12, &[3, 0, 0, 0])),
        ("next beyond the table", |d| d.write_ram(RAM_BASE + 12, &[3, 0, 99, 0])),
        ("head beyond the table", |d| d.write_ram(RAM_BASE + 0x1004, &[9, 0])),
        ("index too far ahead", |d| d.write_ram(RAM_BASE + 0x1002, &[9, 0])),
        ("indirect table of odd length", |d| d.write_ram(RAM_BASE + 8, &[17, 0, 0, 0, 4, 0])),
        ("readable after writable", |d| {
            d.write_ram(RAM_BASE + 12, &[3, 0, 1, 0]);
            d.write_ram(RAM_BASE + 16, &d.read_ram(RAM_BASE, 12));
        }),
    ];
    for (name, spoil) in cases {
        let bench = Bench::new(config());
        let mut driver = Driver::start(&bench, 0, &[8]);
        driver.add(0, &[Piece::In(64)]);
        spoil(&driver);
        driver.kick(0);
        assert!(driver.needs_reset(), "{name}");
        assert_eq!(driver.used_idx(0), 0, "{name}");
        assert_eq!(driver.take_interrupt(), 2, "{name}");
        let mut driver = Driver::start(&bench, 0, &[8]);
        assert_eq!(driver.ask(0, &[Piece::In(64)]).1, 64, "{name}: works after a reset");
    }
}

#[test]
fn empty_slots_and_properties() {
    let bench = Bench::new(EmptySlot::default());
    assert_eq!((bench.read(0, 0, 4), bench.read(0, 8, 4)), (0x7472_6976, 0));
    check(EmptySlot::default());
    let mut config = config();
    config.set("max-bytes", "1k").unwrap();
    config.set("event_idx", "off").unwrap();
    assert_eq!((config.config.max_bytes, config.options.event_idx), (Some(1024), false));
    let text = config.set("nonsense", "1").unwrap_err().to_string();
    assert!(
        text.ends_with("max_bytes, period, indirect_desc, event_idx, packed, queue_reset, iommu_platform"),
        "{text}"
    );
}

#[test]
fn queues_filled_before_driver_ok_are_served() {
    let bench = Bench::new(config());
    let mut driver = Driver::new(&bench);
    assert!(driver.negotiate(0));
    driver.queue(0, 8);
    driver.add(0, &[Piece::In(5)]);
    driver.kick(0);
    assert_eq!((driver.poll(0), bench.line("irq")), (None, false));
    driver.driver_ok();
    assert_eq!((driver.poll(0), bench.line("irq")), (Some((0, 5)), true));
}
