//! Interrupts on the microvm board: wherever its controllers are, the guest sees the same machine.

#![cfg(target_os = "linux")]

mod common;

use std::time::Duration;

use accel::IrqchipMode;
use accel_conformance::x86::{Asm, Reg, gate};
use machine::snapshot;

use common::{EXIT, answer, exit_code, machine_with, pvh};

const LOAD: u32 = 0x10_0000;
const IDT: u32 = 0x8000;
const IDT_POINTER: u32 = 0x7ff0;
const LAPIC: u32 = 0xfee0_0000;
const IOAPIC: u32 = 0xfec0_0000;
/// Counts interrupts, or processors.
const COUNT: u32 = 0x3000;

const MODES: [IrqchipMode; 3] = [IrqchipMode::Kernel, IrqchipMode::Split, IrqchipMode::User];

fn port(a: &mut Asm, port: u32, value: u32) {
    a.mov(Reg::Edx, port).mov(Reg::Eax, value).out(1);
}

/// Points vector `n` at `handler` and loads the table.
fn vector(a: &mut Asm, n: u32, handler: u32) {
    let gate = gate(handler);
    a.store_imm(IDT + 8 * n, gate as u32).store_imm(IDT + 8 * n + 4, (gate >> 32) as u32);
    a.store_imm(IDT_POINTER, (IDT << 16) | 0x7ff).store_imm(IDT_POINTER + 4, IDT >> 16);
    // lidt [IDT_POINTER]; mov esp, 0x7000
    a.bytes(&[0x0f, 0x01, 0x1d]).bytes(&IDT_POINTER.to_le_bytes());
    a.bytes(&[0xbc]).bytes(&0x7000u32.to_le_bytes());
}

/// Sleeps until the handler has counted once, then answers `value`.
fn wait(a: &mut Asm, value: u32) {
    let (top, end) = (a.label(), a.label());
    a.sti().place(top).hlt().load(4, COUNT).cmp(1).jne(top).cli();
    a.mov(Reg::Edx, EXIT.into()).mov(Reg::Eax, value).out(1).place(end).hlt().jmp(end);
}

/// A guest that sets up what it likes, then waits for its handler; `end` ends the interrupt.
fn guest(end: impl Fn(&mut Asm), vector_number: u32, set_up: impl Fn(&mut Asm)) -> Vec<u8> {
    let mut a = Asm::new(LOAD);
    let begin = a.label();
    a.jmp(begin);
    let handler = a.here();
    a.increment(COUNT);
    a.bytes(&[0x50, 0x52]); // push eax; push edx
    end(&mut a);
    a.bytes(&[0x5a, 0x58]); // pop edx; pop eax
    a.leave_handler();
    a.place(begin).cli().store_imm(COUNT, 0);
    vector(&mut a, vector_number, handler);
    set_up(&mut a);
    wait(&mut a, 0x2a);
    a.finish()
}

fn check(name: &str, code: &[u8]) {
    for irqchip in MODES {
        let Some((machine, events, _file)) = machine_with(&pvh(code), irqchip, "", |_| {}) else { return };
        machine.start();
        assert_eq!(answer(&events), exit_code(0x2a), "{name}, {irqchip:?}");
        machine.stop();
    }
}

/// The 8254 at about 1 kHz.
fn start_pit(a: &mut Asm) {
    port(a, 0x43, 0x34);
    port(a, 0x40, 0xa9);
    port(a, 0x40, 0x04);
}

fn end_at_lapic(a: &mut Asm) {
    a.store_imm(LAPIC + 0xb0, 0);
}

#[test]
fn the_timer_comes_through_the_8259s() {
    let code = guest(
        |a| port(a, 0x20, 0x20),
        0x20,
        |a| {
            for (at, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xfe)] {
                port(a, at, value);
            }
            start_pit(a);
        },
    );
    check("8254 through the 8259s", &code);
}

#[test]
fn the_timer_comes_through_the_io_apic() {
    let code = guest(end_at_lapic, 0x41, |a| {
        port(a, 0x21, 0xff);
        a.store_imm(LAPIC + 0xf0, 0x1ff);
        // Redirection entry of pin 0: vector 0x41, edge, to the first local APIC.
        a.store_imm(IOAPIC, 0x11).store_imm(IOAPIC + 0x10, 0);
        a.store_imm(IOAPIC, 0x10).store_imm(IOAPIC + 0x10, 0x41);
        start_pit(a);
    });
    check("8254 through the I/O APIC", &code);
}

#[test]
fn a_local_apic_has_a_timer() {
    let code = guest(end_at_lapic, 0x42, |a| {
        port(a, 0x21, 0xff);
        a.store_imm(LAPIC + 0xf0, 0x1ff).store_imm(LAPIC + 0x3e0, 0xb);
        a.store_imm(LAPIC + 0x320, 0x42).store_imm(LAPIC + 0x380, 2_000_000);
    });
    check("timer of the local APIC", &code);
}

/// The local APIC as MSRs: an interrupt to itself.
#[test]
fn a_local_apic_is_reached_by_msrs() {
    let wrmsr = |a: &mut Asm, msr: u32, value: u32| {
        a.mov(Reg::Ecx, msr).mov(Reg::Eax, value).mov(Reg::Edx, 0).bytes(&[0x0f, 0x30]);
    };
    let code = guest(
        |a| {
            a.bytes(&[0x51]); // push ecx
            wrmsr(a, 0x80b, 0);
            a.bytes(&[0x59]); // pop ecx
        },
        0x45,
        |a| {
            port(a, 0x21, 0xff);
            wrmsr(a, 0x1b, 0xfee0_0d00);
            wrmsr(a, 0x80f, 0x1ff);
            wrmsr(a, 0x83f, 0x45);
        },
    );
    check("x2APIC", &code);
}

/// A level-triggered pin comes again after the end of the interrupt, until its device is quiet.
#[test]
fn the_serial_port_comes_through_a_level_triggered_pin() {
    let code = guest(
        |a| {
            // Interrupt identification quiets the transmitter's interrupt.
            a.mov(Reg::Edx, 0x3fa).input(1);
            end_at_lapic(a);
        },
        0x44,
        |a| {
            port(a, 0x21, 0xff);
            a.store_imm(LAPIC + 0xf0, 0x1ff);
            a.store_imm(IOAPIC, 0x19).store_imm(IOAPIC + 0x10, 0);
            a.store_imm(IOAPIC, 0x18).store_imm(IOAPIC + 0x10, 0x8044);
            // OUT2 connects the interrupt on a PC; transmitter empty is what is asked for.
            port(a, 0x3fc, 8);
            port(a, 0x3f9, 2);
        },
    );
    check("serial port, level-triggered", &code);
}

/// Puts code for real mode at 0x2000 and starts all other processors there.
fn start_others(a: &mut Asm, code: &[u8]) {
    let mut code = code.to_vec();
    code.resize(code.len().next_multiple_of(4), 0x90);
    for (i, word) in code.as_chunks::<4>().0.iter().enumerate() {
        a.store_imm(0x2000 + 4 * i as u32, u32::from_le_bytes(*word));
    }
    a.store_imm(LAPIC + 0xf0, 0x1ff);
    for command in [0xc_4500, 0xc_4602, 0xc_4602] {
        a.store_imm(LAPIC + 0x300, command);
    }
}

/// INIT and start-up messages bring the other processors up; each counts in real mode.
#[test]
fn four_processors_come_up() {
    let mut a = Asm::new(LOAD);
    let (top, end) = (a.label(), a.label());
    a.cli().store_imm(COUNT, 0);
    // lock inc word [COUNT]; cli; hlt; jmp to the hlt
    start_others(&mut a, &[0xf0, 0xff, 0x06, 0x00, 0x30, 0xfa, 0xf4, 0xeb, 0xfd]);
    a.place(top).load(4, COUNT).cmp(3).jne(top);
    a.mov(Reg::Edx, EXIT.into()).out(1).place(end).hlt().jmp(end);
    let code = a.finish();
    for irqchip in MODES {
        let change = |c: &mut machines::BoardConfig| c.vcpus = 4;
        let Some((machine, events, _file)) = machine_with(&pvh(&code), irqchip, "", change) else { return };
        machine.start();
        assert_eq!(answer(&events), exit_code(3), "{irqchip:?}");
        // It runs on from its reset, and may be done before this returns.
        machine.reset().unwrap();
        assert_eq!(answer(&events), exit_code(3), "{irqchip:?}, after a reset");
        machine.stop();
    }
}

/// Four processors saved while they run go on in another machine, where they were.
#[test]
fn four_processors_are_saved_and_go_on() {
    const STARTED: u32 = 0x3004;
    const GO: u32 = 0x3008;
    const AFTER: u32 = 0x300c;
    let mut a = Asm::new(LOAD);
    let (top, again, end) = (a.label(), a.label(), a.label());
    a.cli();
    for cell in [COUNT, STARTED, GO, AFTER] {
        a.store_imm(cell, 0);
    }
    // lock inc word [COUNT]; wait: cmp byte [GO], 0; je wait; lock inc word [AFTER]; cli; hlt; jmp to the hlt
    let mut code = vec![0xf0, 0xff, 0x06, 0x00, 0x30, 0x80, 0x3e, 0x08, 0x30, 0x00, 0x74, 0xf9];
    code.extend([0xf0, 0xff, 0x06, 0x0c, 0x30, 0xfa, 0xf4, 0xeb, 0xfd]);
    start_others(&mut a, &code);
    a.place(top).load(4, COUNT).cmp(3).jne(top).store_imm(STARTED, 1);
    a.place(again).load(4, AFTER).cmp(3).jne(again);
    a.mov(Reg::Edx, EXIT.into()).out(1).place(end).hlt().jmp(end);
    let kernel = pvh(&a.finish());
    let change = |c: &mut machines::BoardConfig| c.vcpus = 4;
    for irqchip in MODES {
        let Some((first, _events, _file)) = machine_with(&kernel, irqchip, "", change) else { return };
        first.start();
        let mut started = [0];
        for _ in 0..20_000 {
            std::thread::sleep(Duration::from_millis(1));
            assert!(first.memory().read(STARTED.into(), &mut started).is_ok());
            if started == [1] {
                break;
            }
        }
        assert_eq!(started, [1], "{irqchip:?}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("snapshot");
        snapshot::save(&first, &path).unwrap();
        drop(first);

        let Some((second, events, _file)) = machine_with(&kernel, irqchip, "", change) else { return };
        snapshot::load(&second, &path).unwrap();
        assert!(second.memory().write(GO.into(), &[1]).is_ok());
        second.start();
        assert_eq!(answer(&events), exit_code(3), "{irqchip:?}");
        second.stop();
    }
}
