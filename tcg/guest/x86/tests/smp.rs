//! Several vCPUs: start-up messages, and what they do together.
#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is all test")]

mod common;

use std::sync::Arc;

use accel::{
    Accelerator, CpuModel, Exit, IoResult, IrqchipMode, Kicker, LogSink, PartitionConfig, VcpuIo, VcpuSignal,
    arch::{CpuState, GuestArch},
};
use common::{RAM_SIZE, TestClock};
use guest_memory::{AddressSpace, RamBlock, Region, Unassigned};
use tcg_engine::Tcg;
use tcg_guest_x86::X86;

const VCPUS: u32 = 4;
const ROUNDS: u64 = 10_000;

/// A write to any port stops the vCPU.
struct Ports(Arc<dyn Kicker>);

impl VcpuIo for Ports {
    fn mmio_read(&self, _: u64, data: &mut [u8]) -> IoResult {
        data.fill(0xff);
        IoResult::Ok
    }
    fn mmio_write(&self, _: u64, _: &[u8]) -> IoResult {
        IoResult::Ok
    }
    fn pio_read(&self, _: u16, data: &mut [u8]) -> IoResult {
        data.fill(0xff);
        IoResult::Ok
    }
    fn pio_write(&self, _: u16, _: &[u8]) -> IoResult {
        self.0.kick();
        IoResult::Ok
    }
    fn ack_irq(&self, _: u32) -> Option<u8> {
        None
    }
    fn eoi(&self, _: u8) {}
}

#[test]
fn application_processors_start_and_count_together() {
    for backend in ["interp", "jit", "hot"] {
        let space = AddressSpace::memory(Unassigned::Ones);
        space.add(Region::ram("ram", RamBlock::anonymous("ram", RAM_SIZE).unwrap())).unwrap();
        // mov cx,ROUNDS; lock inc word [0x500]; pause; dec cx; jnz back; out 0xf4,al; hlt
        let code = b"\xb9\x10\x27\xf0\xff\x06\x00\x05\xf3\x90\x49\x75\xf6\xe6\xf4\xf4";
        let _ = space.write(0x2_0000, code);
        let config = PartitionConfig {
            guest: GuestArch::X86_64,
            vcpus: VCPUS,
            topology: accel::arch::x86_topology::Topology::flat(VCPUS),
            cpu: CpuModel { name: "max".to_owned(), features: Vec::new() },
            irqchip: IrqchipMode::User,
            memory: Arc::new(AddressSpace::clone(&space)),
            ports: None,
            clock: Arc::new(TestClock::default()),
            timebase_hz: 0,
            properties: common::properties(backend),
            log: LogSink::none(),
        };
        let partition = Tcg::<X86>::new().create(config).unwrap();
        let lines = partition.lines();
        let threads: Vec<_> = partition
            .take_vcpus()
            .into_iter()
            .filter(|b| b.index() != 0)
            .map(|binder| {
                std::thread::spawn(move || {
                    let io = Ports(binder.kicker());
                    let mut vcpu = binder.bind().unwrap();
                    assert_eq!(vcpu.run(&io).unwrap(), Exit::Kicked);
                    vcpu.state().unwrap()
                })
            })
            .collect();
        for cpu in 1..VCPUS {
            lines.signal(cpu, VcpuSignal::Init);
            lines.signal(cpu, VcpuSignal::Sipi(0x20));
            // The second one, which software sends as well, finds it running.
            lines.signal(cpu, VcpuSignal::Sipi(0x30));
        }
        for t in threads {
            let CpuState::X86_64(s) = t.join().unwrap() else { panic!("another architecture") };
            assert_eq!((s.cs.selector, s.cs.base, s.rip, s.rcx & 0xffff), (0x2000, 0x2_0000, 15, 0));
            assert_eq!(s.apic_base & 0x100, 0, "not the bootstrap processor");
        }
        let mut count = [0; 2];
        let _ = space.read(0x500, &mut count);
        assert_eq!(u64::from(u16::from_le_bytes(count)), ROUNDS * u64::from(VCPUS - 1));
    }
}
