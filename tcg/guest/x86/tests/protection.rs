//! Protected mode below 64 bits: task switches, call gates, virtual-8086 mode, on both back ends.
#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is all test")]

mod common;

use accel::{
    Exit,
    arch::x86_64::{Segment, State, access},
};
use common::{GDT, Rig};

const CODE: u64 = 0x1000;
const OTHER: u64 = 0x3000;
const HANDLERS: u64 = 0x4000;
const IDT: u64 = 0x21_0000;
const TSS: u64 = 0x22_0000;
const TSS2: u64 = 0x23_0000;
const TASK: u16 = 0x48;
const TASK2: u16 = 0x50;
const GATE: u16 = 0x60;

fn both(f: impl Fn(&mut Rig)) {
    for backend in ["interp", "jit"] {
        f(&mut Rig::new("max", backend));
    }
}

fn descriptor(base: u64, limit: u64, attributes: u64) -> u64 {
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | (attributes & 0xff) << 40
        | (limit >> 16 & 15) << 48
        | (attributes >> 8 & 15) << 52
        | (base >> 24 & 0xff) << 56
}

fn gate(selector: u16, offset: u64, kind: u64, count: u64) -> u64 {
    offset & 0xffff | u64::from(selector) << 16 | count << 32 | kind << 40 | (offset >> 16) << 48
}

fn put32(rig: &Rig, at: u64, v: u64) {
    rig.write(at, &(v as u32).to_le_bytes());
}

fn get32(rig: &Rig, at: u64) -> u64 {
    rig.get(at) & 0xffff_ffff
}

fn get16(rig: &Rig, at: u64) -> u64 {
    rig.get(at) & 0xffff
}

/// Flat 32-bit code at level 0 with a table of handlers that stop, and the task-state segment of the running task.
fn prot(rig: &Rig, code: &[u8]) -> State {
    rig.write(CODE, code);
    for v in 0..64 {
        let at = HANDLERS + 16 * v;
        rig.write(at, b"\xe6\xf4\xeb\xfe");
        rig.put(IDT + 8 * v, gate(8, at, 0x8e, 0));
    }
    rig.put(IDT + 8 * 0x21, gate(8, HANDLERS + 16 * 0x21, 0xee, 0));
    rig.write(TSS, &[0; 104]);
    put32(rig, TSS + 4, 0x8_0000);
    put32(rig, TSS + 8, 0x18);
    rig.write(TSS + 102, &[104, 0]);
    rig.put(GDT + u64::from(TASK), descriptor(TSS, 103, 0x8b));
    rig.put(GDT + u64::from(TASK2), descriptor(TSS2, 103, 0x89));
    rig.put(GDT + 0x58, descriptor(TSS2, 0x2b, 0x81));
    let mut s = rig.flat(CODE);
    s.gdt.limit = 0x7f;
    (s.idt.base, s.idt.limit) = (IDT, 0x1ff);
    for r in [&mut s.ds, &mut s.es, &mut s.fs, &mut s.gs, &mut s.ss] {
        r.selector = 0x18;
    }
    s.tr = Segment { selector: TASK, base: TSS, limit: 103, access: access::P | 0xb };
    s
}

/// A 32-bit task-state segment of a task at `OTHER`.
fn task(rig: &Rig) {
    rig.write(TSS2, &[0; 104]);
    for (at, v) in [(0x20, OTHER), (0x24, 2), (0x28, 0x1111), (0x38, 0x7000), (0x4c, 8)] {
        put32(rig, TSS2 + at, v);
    }
    for at in [0x48, 0x50, 0x54, 0x58, 0x5c] {
        put32(rig, TSS2 + at, 0x18);
    }
}

fn user(s: &mut State) {
    s.cs = Segment { selector: 0x3b, base: 0, limit: u32::MAX, access: 0xcfb };
    s.ss = Segment { selector: 0x33, base: 0, limit: u32::MAX, access: 0xcf3 };
}

fn stop(rig: &mut Rig) -> State {
    assert_eq!(rig.run(), Exit::Kicked);
    rig.state()
}

/// Runs to the stop and says which handler it was in.
fn handler(rig: &mut Rig, s: &State) -> (u64, State) {
    rig.set_state(s);
    let now = stop(rig);
    (now.rip.wrapping_sub(HANDLERS) / 16, now)
}

fn kind(rig: &Rig, selector: u16) -> u64 {
    rig.get(GDT + u64::from(selector)) >> 40 & 0xf
}

#[test]
fn jumps_switch_tasks_and_back() {
    both(|rig| {
        // jmp TASK2:0; out 0xf4,al; jmp $
        let mut s = prot(rig, b"\xea\0\0\0\0\x50\0\xe6\xf4\xeb\xfe");
        task(rig);
        // inc eax; jmp TASK:0
        rig.write(OTHER, b"\x40\xea\0\0\0\0\x48\0");
        s.rax = 0x77;
        s.rflags |= 1;
        rig.set_state(&s);
        let t = stop(rig);
        assert_eq!((t.rip, t.rax, t.tr.selector, t.rflags & 1), (CODE + 9, 0x77, TASK, 1));
        assert_eq!(t.cr0 & 8, 8, "TS");
        assert_eq!((t.ds.selector, t.ss.selector, t.cs.selector), (0x18, 0x18, 8));
        assert_eq!((kind(rig, TASK), kind(rig, TASK2)), (11, 9), "busy bits");
        assert_eq!((get32(rig, TSS2 + 0x28), get32(rig, TSS2 + 0x20)), (0x1112, OTHER + 8));
        assert_eq!((get32(rig, TSS + 0x20), get32(rig, TSS + 0x28)), (CODE + 7, 0x77));
        // To itself: busy.
        let s = prot(rig, b"\xea\0\0\0\0\x48\0");
        let (v, t) = handler(rig, &s);
        assert_eq!((v, get32(rig, t.rsp)), (13, u64::from(TASK)));
        // Too short.
        let s = prot(rig, b"\xea\0\0\0\0\x50\0");
        rig.put(GDT + u64::from(TASK2), descriptor(TSS2, 102, 0x89));
        let (v, t) = handler(rig, &s);
        assert_eq!((v, get32(rig, t.rsp), get32(rig, t.rsp + 4)), (10, u64::from(TASK2), CODE));
        // A stack segment that is none: the fault is the new task's.
        let s = prot(rig, b"\xea\0\0\0\0\x50\0");
        task(rig);
        put32(rig, TSS2 + 0x50, 8);
        rig.set_state(&s);
        assert_eq!(rig.run(), Exit::Reset, "nothing can be delivered without a stack");
        assert_eq!(rig.state().tr.selector, TASK2);
    });
}

#[test]
fn calls_nest_tasks_and_iret_returns() {
    both(|rig| {
        // call TASK2:0; out 0xf4,al; jmp $
        let s = prot(rig, b"\x9a\0\0\0\0\x50\0\xe6\xf4\xeb\xfe");
        task(rig);
        // out 0xf4,al; inc eax; iret; jmp $-4
        rig.write(OTHER, b"\xe6\xf4\x40\xcf\xeb\xfa");
        rig.set_state(&s);
        let t = stop(rig);
        assert_eq!((t.tr.selector, t.rflags & 0x4000, t.rip), (TASK2, 0x4000, OTHER + 2));
        assert_eq!((get16(rig, TSS2), kind(rig, TASK), kind(rig, TASK2)), (u64::from(TASK), 11, 11));
        let t = stop(rig);
        assert_eq!((t.tr.selector, t.rip, t.rflags & 0x4000), (TASK, CODE + 9, 0));
        assert_eq!((kind(rig, TASK), kind(rig, TASK2)), (11, 9));
        assert_eq!((get32(rig, TSS2 + 0x20), get32(rig, TSS2 + 0x24) & 0x4000), (OTHER + 4, 0));
        // An exception through a task gate: its error code is on the new stack.
        let mut s = prot(rig, b"\x8e\xd8");
        task(rig);
        rig.put(IDT + 8 * 13, gate(TASK2, 0, 0x85, 0));
        // pop ebx; out 0xf4,al
        rig.write(OTHER, b"\x5b\xe6\xf4");
        s.rax = 0xfff8;
        rig.set_state(&s);
        let t = stop(rig);
        assert_eq!((t.rbx, t.rsp, t.tr.selector), (0xfff8, 0x7000, TASK2));
        assert_eq!(get32(rig, TSS + 0x20), CODE);
    });
}

#[test]
fn tasks_of_16_bits() {
    both(|rig| {
        // jmp 0x58:0; out 0xf4,al
        let s = prot(rig, b"\xea\0\0\0\0\x58\0\xe6\xf4\xeb\xfe");
        rig.write(TSS2, &[0; 104]);
        for (at, v) in [(0xe, 0x3000_u16), (0x10, 2), (0x12, 0xffff), (0x1a, 0x7000), (0x24, 0x20)] {
            rig.write(TSS2 + at, &v.to_le_bytes());
        }
        for at in [0x22, 0x26, 0x28] {
            rig.write(TSS2 + at, &0x18_u16.to_le_bytes());
        }
        // inc ax; push ax; jmp TASK:0
        rig.write(OTHER, b"\x40\x50\xea\0\0\x48\0");
        rig.set_state(&s);
        let t = stop(rig);
        assert_eq!((t.rip, t.tr.selector), (CODE + 9, TASK));
        assert_eq!(
            (get16(rig, TSS2 + 0xe), get16(rig, TSS2 + 0x12), get16(rig, TSS2 + 0x1a)),
            (0x3007, 0, 0x6ffe)
        );
    });
}

#[test]
fn call_gates_change_level_and_copy_parameters() {
    both(|rig| {
        // push 0x11111111; push 0x22222222; call GATE:0; out 0xf4,al
        let code = b"\x68\x11\x11\x11\x11\x68\x22\x22\x22\x22\x9a\0\0\0\0\x60\0\xe6\xf4";
        let mut s = prot(rig, code);
        user(&mut s);
        rig.put(GDT + u64::from(GATE), gate(8, OTHER, 0xec, 2));
        // out 0xf4,al; retf 8
        rig.write(OTHER, b"\xe6\xf4\xca\x08\0");
        rig.set_state(&s);
        let t = stop(rig);
        assert_eq!((t.cs.selector, t.ss.selector, t.rsp), (8, 0x18, 0x8_0000 - 24));
        let words: Vec<u64> = (0..6).map(|n| get32(rig, t.rsp + 4 * n)).collect();
        assert_eq!(words, [CODE + 17, 0x3b, 0x2222_2222, 0x1111_1111, 0x9_0000 - 8, 0x33]);
        let t = stop(rig);
        assert_eq!(t.rip, HANDLERS + 16 * 13 + 2, "OUT at level 3");
        let words: Vec<u64> = (0..6).map(|n| get32(rig, t.rsp + 4 * n)).collect();
        assert_eq!((words[0], words[1], words[2], words[4], words[5]), (0, CODE + 17, 0x3b, 0x9_0000, 0x33));
        // Its level keeps the user out.
        rig.put(GDT + u64::from(GATE), gate(8, OTHER, 0x8c, 2));
        let (v, t) = handler(rig, &s);
        assert_eq!((v, get32(rig, t.rsp), get32(rig, t.rsp + 4)), (13, u64::from(GATE), CODE + 10));
        // Not present.
        rig.put(GDT + u64::from(GATE), gate(8, OTHER, 0x6c, 2));
        let (v, t) = handler(rig, &s);
        assert_eq!((v, get32(rig, t.rsp)), (11, u64::from(GATE)));
        // A gate of 16 bits copies words and pushes words.
        rig.put(GDT + u64::from(GATE), gate(8, 0xffff_0000 | OTHER, 0xe4, 1));
        rig.set_state(&s);
        let t = stop(rig);
        assert_eq!((t.rip, t.rsp), (OTHER + 2, 0x8_0000 - 10));
        assert_eq!(
            (get16(rig, t.rsp), get16(rig, t.rsp + 2), get16(rig, t.rsp + 4)),
            (CODE + 17, 0x3b, 0x2222)
        );
        // A jump through a gate to another level is refused.
        let mut s = prot(rig, b"\xea\0\0\0\0\x60\0");
        user(&mut s);
        rig.put(GDT + u64::from(GATE), gate(8, OTHER, 0xec, 0));
        let (v, t) = handler(rig, &s);
        assert_eq!((v, get32(rig, t.rsp)), (13, 8));
    });
}

/// Enters virtual-8086 mode at 0x300:0x100 with these flags.
fn vm86(rig: &Rig, code: &[u8], rflags: u64) -> State {
    // iretd
    let mut s = prot(rig, b"\xcf");
    rig.write(0x3100, code);
    s.rsp = 0x8_8000;
    let frame = [0x100, 0x300, rflags | 1 << 17 | 2, 0x1000, 0x400, 0x1111, 0x2222, 0x3333, 0x4444];
    for (n, v) in frame.into_iter().enumerate() {
        put32(rig, s.rsp + 4 * n as u64, v);
    }
    s
}

#[test]
fn virtual_8086_mode_comes_and_goes() {
    const IOPL3: u64 = 3 << 12;
    both(|rig| {
        // mov ax,ds; push ax; int 0x21; out 0xf4,al
        let s = vm86(rig, b"\x8c\xd8\x50\xcd\x21", IOPL3);
        let (v, t) = handler(rig, &s);
        assert_eq!((v, t.rax, t.rsp, t.cs.selector), (0x21, 0x2222, 0x8_0000 - 36, 8));
        let words: Vec<u64> = (0..9).map(|n| get32(rig, t.rsp + 4 * n)).collect();
        assert_eq!(words[..2], [0x105, 0x300]);
        assert_eq!(words[2] & (1 << 17 | IOPL3), 1 << 17 | IOPL3);
        assert_eq!(words[3..], [0xffe, 0x400, 0x1111, 0x2222, 0x3333, 0x4444]);
        assert_eq!(get16(rig, 0x4000 + 0xffe), 0x2222);
        assert_eq!((t.ds.selector, t.es.access & access::P, t.rflags & 1 << 17), (0, 0, 0));
        // With a lower IOPL what touches the interrupt flag faults.
        for code in [b"\xcd\x21".as_slice(), b"\xfa", b"\xfb", b"\x9c", b"\x9d", b"\xcf"] {
            let s = vm86(rig, code, 0);
            let (v, t) = handler(rig, &s);
            assert_eq!((v, get32(rig, t.rsp), get32(rig, t.rsp + 4)), (13, 0, 0x100), "{code:x?}");
        }
        // INT3 asks the gate alone; ports ask the bitmap whatever IOPL says.
        let s = vm86(rig, b"\xcc", 0);
        rig.put(IDT + 8 * 3, gate(8, HANDLERS + 48, 0xee, 0));
        let (v, t) = handler(rig, &s);
        assert_eq!((v, get32(rig, t.rsp)), (3, 0x101));
        let s = vm86(rig, b"\xe4\x10", IOPL3);
        assert_eq!(handler(rig, &s).0, 13);
        // Limits of 64 KiB, and instructions that exist in protected mode alone.
        let s = vm86(rig, b"\x66\x67\xa1\0\0\x01\0", IOPL3);
        let (v, t) = handler(rig, &s);
        assert_eq!((v, get32(rig, t.rsp)), (13, 0));
        let s = vm86(rig, b"\x0f\x00\xc8", IOPL3);
        assert_eq!(handler(rig, &s).0, 6, "STR");
        // And back by IRET: the handler returns behind the INT.
        let s = vm86(rig, b"\xcd\x21\x8c\xd0\xcd\x22", IOPL3);
        rig.write(HANDLERS + 16 * 0x21, b"\x41\xcf");
        rig.put(IDT + 8 * 0x22, gate(8, HANDLERS + 16 * 0x22, 0xee, 0));
        let (v, t) = handler(rig, &s);
        assert_eq!((v, t.rax & 0xffff, t.rcx & 0xffff), (0x22, 0x400, 1));
    });
}

#[test]
fn traps_and_breakpoints_of_string_operations_and_mov_ss() {
    both(|rig| {
        // rep movsb with a write breakpoint on the third byte
        let mut s = prot(rig, b"\xf3\xa4\x90");
        (s.rsi, s.rdi, s.rcx) = (0x10_0000, 0x11_0000, 8);
        (s.dr[0], s.dr7) = (0x11_0002, 0x400 | 1 | 1 << 16);
        let (v, t) = handler(rig, &s);
        assert_eq!((v, t.rcx, t.rdi, t.dr6 & 15, get32(rig, t.rsp)), (1, 5, 0x11_0003, 1, CODE));
        // popf (TF); mov ss,ax; nop; nop: the trap comes behind the NOP.
        let mut s = prot(rig, b"\x9d\x8e\xd0\x90\x90");
        s.rax = 0x18;
        s.rsp -= 4;
        put32(rig, s.rsp, 0x102);
        let (v, t) = handler(rig, &s);
        assert_eq!((v, get32(rig, t.rsp)), (1, CODE + 1 + 2 + 1));
    });
}

/// Descriptors and tables of random bits never stop the emulator, only the guest.
#[test]
fn hostile_tables_do_no_harm() {
    let mut seed = 0x1234_5678_9abc_def1_u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut rig = Rig::new("max", "interp");
    let codes: [&[u8]; 7] = [
        b"\xea\0\0\0\0\x50\0",
        b"\x9a\0\0\0\0\x60\0",
        b"\xcd\x21",
        b"\xcf",
        b"\xcb",
        b"\x8e\xd8\x8e\xd0",
        b"\x0f\x00\xd8",
    ];
    for n in 0..600 {
        let mut s = prot(&rig, codes[n % codes.len()]);
        // Where something stops: every handler, and zeroed memory runs into faults.
        task(&rig);
        for at in [GDT + 0x50, GDT + 0x60, IDT + 8 * 0x21] {
            let v = random();
            rig.put(at, v & random() | rig.get(at) & random());
        }
        for at in 0..26 {
            if random() & 7 == 0 {
                put32(&rig, TSS2 + 4 * at, random() & 0x3f_ffff);
            }
        }
        for at in 0..9 {
            put32(&rig, s.rsp + 4 * at, random() & random() & 0x23_ffff);
        }
        s.rax = random() & 0x7f;
        if n & 1 != 0 {
            user(&mut s);
        }
        s.rflags |= random() & 0x4000;
        rig.set_state(&s);
        for _ in 0..40 {
            rig.vcpu.set_debug(&accel::DebugConfig { single_step: true, ..Default::default() }).unwrap();
            if !matches!(rig.run(), Exit::Debug(_)) {
                break;
            }
        }
        rig.vcpu.set_debug(&accel::DebugConfig::default()).unwrap();
        rig.set_state(&rig.fresh.clone());
    }
}
