//! A tiny hypervisor: guests with and without nested paging, intercepts, injected events, virtual interrupts (AMD APM volume 2,
//! chapter 15), on interpreter and JIT.
//!
//! Layout: the host's code at 0x1000, its page tables as the rig has them, the host save area, the control block, the permission
//! maps; the guest's code at 0x8000 in its own terms. With nested paging guest physical 0 is host physical 0x10_0000.

#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is all test")]

mod common;

use accel::{Exit, arch::x86_64::State};
use common::Rig;

const CODE: u64 = 0x1000;
const HSAVE: u64 = 0x4_0000;
const VMCB: u64 = 0x4_1000;
const IOPM: u64 = 0x4_4000;
const MSRPM: u64 = 0x4_8000;
/// Tables of nested paging.
const NPT: u64 = 0x5_0000;
/// Where the guest's physical memory lies with nested paging.
const GUEST: u64 = 0x10_0000;
/// The guest's code, in its own terms.
const START: u64 = 0x8000;

const EXIT_CODE: u64 = VMCB + 0x70;
const INFO1: u64 = VMCB + 0x78;
const INFO2: u64 = VMCB + 0x80;

/// Bits of the intercept words by the exit's number.
fn intercept(rig: &Rig, n: u64) {
    let at = VMCB + n / 64 * 8;
    rig.put(at, rig.get(at) | 1 << (n % 64));
}

/// A host that runs the guest in RAX's block once and stops. The guest is in real mode, flat 16 bits, without nested paging.
fn host(backend: &str, guest: &[u8], nested: bool) -> Rig {
    let mut rig = Rig::new("max", backend);
    // mov ecx,0xc0000080; rdmsr; or eax,0x1000; wrmsr; mov ecx,0xc0010117; mov eax,HSAVE; xor edx,edx; wrmsr; mov eax,VMCB;
    // clgi; vmload; vmrun; vmsave; stgi; out 0xf4,al; jmp $
    let mut code = b"\xb9\x80\0\0\xc0\x0f\x32\x0d\0\x10\0\0\x0f\x30\xb9\x17\x01\x01\xc0\xb8".to_vec();
    code.extend((HSAVE as u32).to_le_bytes());
    code.extend(b"\x31\xd2\x0f\x30\xb8");
    code.extend((VMCB as u32).to_le_bytes());
    code.extend(b"\x0f\x01\xdd\x0f\x01\xda\x0f\x01\xd8\x0f\x01\xdb\x0f\x01\xdc\xe6\xf4\xeb\xfe");
    rig.write(CODE, &code);
    for n in 0..0x5000 / 8 {
        rig.put(VMCB + 8 * n, 0);
    }
    // VMRUN has to be intercepted; ASID 1.
    intercept(&rig, 0x80);
    rig.put(VMCB + 0x58, 1);
    rig.put(VMCB + 0x40, IOPM);
    rig.put(VMCB + 0x48, MSRPM);
    let segment = |rig: &Rig, at: u64, selector: u64, access: u64| {
        rig.put(VMCB + 0x400 + at, selector | access << 16 | 0xffff << 32);
        rig.put(VMCB + 0x408 + at, selector << 4);
    };
    for at in [0, 0x20, 0x30, 0x40, 0x50] {
        segment(&rig, at, 0, 0x93);
    }
    segment(&rig, 0x10, 0, 0x9b);
    segment(&rig, 0x90, 0, 0x8b);
    segment(&rig, 0x70, 0, 0x82);
    for (at, v) in [
        (0x80, 0x3ff << 32),
        (0xd0, 0x1000),
        (0x158, 0x10),
        (0x160, 0x400),
        (0x168, 0xffff_0ff0),
        (0x170, 2),
        (0x178, START),
        (0x1d8, 0x7000),
    ] {
        rig.put(VMCB + 0x400 + at, v);
    }
    let base = if nested { GUEST } else { 0 };
    rig.write(base + START, guest);
    if nested {
        rig.put(VMCB + 0x90, 1);
        rig.put(VMCB + 0xb0, NPT);
        for n in 0..0x4000 / 8 {
            rig.put(NPT + 8 * n, 0);
        }
        rig.put(NPT, NPT + 0x1007);
        rig.put(NPT + 0x1000, NPT + 0x2007);
        rig.put(NPT + 0x2000, NPT + 0x3007);
        // 1 MiB of the guest, but for the page at 0x20000; that at 0x21000 is read-only.
        for n in (0..256).filter(|n| *n != 0x20) {
            let rights = if n == 0x21 { 5 } else { 7 };
            rig.put(NPT + 0x3000 + 8 * n, GUEST + (n << 12) + rights);
        }
    }
    let s = rig.long(CODE);
    rig.set_state(&s);
    rig
}

/// Runs to the host's end.
fn run(rig: &mut Rig) -> State {
    let exit = rig.run();
    assert!(matches!(exit, Exit::Kicked), "{exit:?}");
    let s = rig.state();
    assert!(s.pc() > CODE && s.pc() < CODE + 0x100, "{:#x} is the host's", s.pc());
    s
}

trait Pc {
    fn pc(&self) -> u64;
}

impl Pc for State {
    fn pc(&self) -> u64 {
        self.rip
    }
}

/// Runs the guest once more.
fn again(rig: &mut Rig) -> State {
    let mut s = rig.state();
    s.rip = CODE;
    rig.set_state(&s);
    run(rig)
}

/// Exit code, its two words, and the guest's instruction pointer.
fn result(rig: &Rig) -> (u64, u64, u64, u64) {
    (rig.get(EXIT_CODE), rig.get(INFO1), rig.get(INFO2), rig.get(VMCB + 0x578))
}

fn each(guest: &[u8], nested: bool, check: impl Fn(&str, Rig)) {
    for backend in ["interp", "jit"] {
        check(backend, host(backend, guest, nested));
    }
}

#[test]
fn a_guest_runs_until_it_calls() {
    for nested in [false, true] {
        // mov ax,0x1234; mov [0x9000],ax; mov bx,ax; vmmcall
        each(b"\xb8\x34\x12\xa3\x00\x90\x89\xc3\x0f\x01\xd9", nested, |backend, mut rig| {
            intercept(&rig, 0x81);
            let s = run(&mut rig);
            assert_eq!(result(&rig), (0x81, 0, 0, START + 8), "{backend}");
            assert_eq!(rig.get(VMCB + 0xc8), START + 11, "{backend}: the next instruction");
            assert_eq!((rig.get(VMCB + 0x5f8), s.rbx & 0xffff), (0x1234, 0x1234), "{backend}");
            let base = if nested { GUEST } else { 0 };
            assert_eq!(rig.get(base + 0x9000) & 0xffff, 0x1234, "{backend}");
            assert_eq!((s.rax & 0xffff_ffff, s.rsp), (VMCB, 0x9_0000), "{backend}: the host's registers");
        });
    }
}

#[test]
fn instructions_are_intercepted() {
    // Code, exit, EXITINFO1.
    let cases: [(&[u8], u64, u64); 12] = [
        (b"\x0f\xa2", 0x72, 0),
        (b"\x0f\x31", 0x6e, 0),
        (b"\xf4", 0x78, 0),
        (b"\xcd\x80", 0x75, 0x80),
        (b"\x9c", 0x70, 0),
        (b"\x9d", 0x71, 0),
        (b"\x0f\x20\xc3", 0x00, 1 << 63 | 3),
        (b"\x0f\x22\xc0", 0x10, 1 << 63),
        (b"\x0f\x23\xf8", 0x37, 0),
        (b"\x0f\x01\x1e\x00\x90", 0x6a, 0),
        (b"\x0f\x01\x3e\x34\x12", 0x79, 0x1234),
        (b"\x0f\x09", 0x89, 0),
    ];
    for (code, exit, info) in cases {
        each(code, true, |backend, mut rig| {
            intercept(&rig, exit);
            run(&mut rig);
            assert_eq!(result(&rig), (exit, info, 0, START), "{backend}: {code:02x?}");
            assert_eq!(rig.get(VMCB + 0xc8), START + code.len() as u64, "{backend}: {code:02x?}");
        });
    }
}

#[test]
fn ports_and_registers_follow_their_maps() {
    // in al,0x20; in ax,0x40; vmmcall
    each(b"\xe4\x20\xe5\x40\x0f\x01\xd9", true, |backend, mut rig| {
        intercept(&rig, 0x7b);
        intercept(&rig, 0x81);
        // Of port 0x41 alone.
        rig.put(IOPM + 8, 1 << 1);
        run(&mut rig);
        assert_eq!(result(&rig), (0x7b, 0x40 << 16 | 1 << 7 | 2 << 4 | 1, START + 4, START + 2), "{backend}");
        rig.put(IOPM + 8, 0);
        again(&mut rig);
        assert_eq!(result(&rig).0, 0x81, "{backend}");
    });
    // mov ecx,0xc0000081; rdmsr; wrmsr; vmmcall
    each(b"\x66\xb9\x81\0\0\xc0\x0f\x32\x0f\x30\x0f\x01\xd9", true, |backend, mut rig| {
        intercept(&rig, 0x7c);
        intercept(&rig, 0x81);
        // Writes alone.
        rig.put(MSRPM + 0x800 + 0x20, 1 << 3);
        run(&mut rig);
        assert_eq!(result(&rig), (0x7c, 1, 0, START + 8), "{backend}");
        rig.put(MSRPM + 0x800 + 0x20, 0);
        rig.put(VMCB + 0x578, START);
        again(&mut rig);
        assert_eq!(result(&rig).0, 0x81, "{backend}");
    });
}

#[test]
fn nested_faults_say_what_was_done() {
    // mov ax,0x2000; mov ds,ax; mov al,[0]; vmmcall, and a store to the read-only page
    each(b"\xb8\x00\x20\x8e\xd8\xa0\0\0\xa2\0\x10\x0f\x01\xd9", true, |backend, mut rig| {
        intercept(&rig, 0x81);
        run(&mut rig);
        assert_eq!(result(&rig), (0x400, 1 << 32 | 4, 0x2_0000, START + 5), "{backend}");
        assert_eq!(rig.read(VMCB + 0xd0, 4), [15, 0xa0, 0, 0], "{backend}: the instruction's bytes");
        // The host maps it, and the guest goes on.
        rig.put(NPT + 0x3000 + 8 * 0x20, GUEST + 0x2_0007);
        again(&mut rig);
        assert_eq!(result(&rig), (0x400, 1 << 32 | 7, 0x2_1000, START + 8), "{backend}");
    });
}

/// A guest in long mode with page tables of its own, at 0x30000 of its memory.
fn long_guest(rig: &Rig) {
    for (at, v) in [(0, 0x3_1007), (0x1000, 0x3_2007), (0x2000, 0x87)] {
        rig.put(GUEST + 0x3_0000 + at, v);
    }
    for (at, v) in [(0xd0, 0x1d00), (0x148, 0x20), (0x150, 0x3_0000), (0x158, 0x8000_0011)] {
        rig.put(VMCB + 0x400 + at, v);
    }
    rig.put(VMCB + 0x410, 8 | 0xa9b << 16 | 0xffff_ffff << 32);
    rig.put(VMCB + 0x418, 0);
}

#[test]
fn two_levels_of_tables_work_together() {
    // mov eax,[0x20000]; vmmcall
    let code = b"\x8b\x04\x25\0\0\x02\0\x0f\x01\xd9";
    each(code, true, |backend, mut rig| {
        long_guest(&rig);
        intercept(&rig, 0x81);
        run(&mut rig);
        assert_eq!(result(&rig), (0x400, 1 << 32 | 4, 0x2_0000, START), "{backend}");
        rig.put(NPT + 0x3000 + 8 * 0x20, GUEST + 0x2_0007);
        rig.put(GUEST + 0x2_0000, 0x5566_7788);
        again(&mut rig);
        assert_eq!((result(&rig).0, rig.get(VMCB + 0x5f8)), (0x81, 0x5566_7788), "{backend}");
        // A table of the guest is not there: the fault is one of the walk.
        rig.put(VMCB + 0x578, START);
        rig.put(VMCB + 0x58, 1 | 1 << 32);
        rig.put(NPT + 0x3000 + 8 * 0x31, 0);
        again(&mut rig);
        assert_eq!(result(&rig), (0x400, 1 << 33 | 6, 0x3_1000, START), "{backend}");
    });
}

#[test]
fn exceptions_are_intercepted_or_delivered() {
    // ud2
    each(b"\x0f\x0b", true, |backend, mut rig| {
        intercept(&rig, 0x46);
        run(&mut rig);
        assert_eq!(result(&rig), (0x46, 0, 0, START), "{backend}");
        // Without the intercept the guest's own handler runs, at 0x8100: vmmcall
        rig.put(VMCB + 8, 0);
        intercept(&rig, 0x81);
        rig.put(GUEST + 6 * 4, 0x8100);
        rig.write(GUEST + 0x8100, b"\x0f\x01\xd9");
        again(&mut rig);
        assert_eq!(result(&rig), (0x81, 0, 0, 0x8100), "{backend}");
        assert_eq!(rig.get(GUEST + 0x6ffa) & 0xffff, START, "{backend}: where it returns to");
    });
    // A triple fault: no table at all.
    each(b"\x0f\x0b", true, |backend, mut rig| {
        intercept(&rig, 0x7f);
        rig.put(VMCB + 0x480, 0);
        run(&mut rig);
        assert_eq!(result(&rig).0, 0x7f, "{backend}");
    });
}

#[test]
fn events_are_injected() {
    each(b"\xf4", true, |backend, mut rig| {
        intercept(&rig, 0x81);
        // Vector 0x30, whose handler calls.
        rig.put(GUEST + 0x30 * 4, 0x8200);
        rig.write(GUEST + 0x8200, b"\x0f\x01\xd9");
        rig.put(VMCB + 0xa8, 1 << 31 | 0x30);
        run(&mut rig);
        assert_eq!(result(&rig), (0x81, 0, 0, 0x8200), "{backend}");
        assert_eq!(rig.get(VMCB + 0xa8), 0, "{backend}: it is taken");
    });
    // The guest's stack is not mapped: the event is reported as under way.
    each(b"\xf4", true, |backend, mut rig| {
        rig.put(VMCB + 0xa8, 1 << 31 | 3 << 8 | 6);
        rig.put(VMCB + 0x420, 0x2000 | 0x93 << 16 | 0xffff << 32);
        rig.put(VMCB + 0x428, 0x2_0000);
        rig.put(VMCB + 0x5d8, 0x800);
        run(&mut rig);
        assert_eq!((result(&rig).0, result(&rig).2), (0x400, 0x2_07fe), "{backend}");
        assert_eq!(rig.get(VMCB + 0x88), 1 << 31 | 3 << 8 | 6, "{backend}");
    });
}

#[test]
fn virtual_interrupts_wait_for_the_guest() {
    // sti; nop; nop; hlt
    each(b"\xfb\x90\x90\xf4", true, |backend, mut rig| {
        intercept(&rig, 0x81);
        rig.put(GUEST + 0x40 * 4, 0x8300);
        rig.write(GUEST + 0x8300, b"\x0f\x01\xd9");
        // Pending, priority 15, vector 0x40.
        rig.put(VMCB + 0x60, 1 << 8 | 15 << 16 | 0x40 << 32);
        run(&mut rig);
        assert_eq!(result(&rig), (0x81, 0, 0, 0x8300), "{backend}");
        assert_eq!(rig.get(VMCB + 0x60) & 1 << 8, 0, "{backend}: it is not pending any more");
        // With the intercept the host is told instead, behind the instruction that STI shields.
        rig.put(VMCB + 0x60, 1 << 8 | 15 << 16 | 0x40 << 32);
        rig.put(VMCB + 0x578, START);
        rig.put(VMCB + 0x570, 2);
        intercept(&rig, 0x64);
        again(&mut rig);
        assert_eq!((result(&rig).0, result(&rig).3), (0x64, START + 2), "{backend}");
    });
}

#[test]
fn interrupts_of_the_machine_go_to_the_host() {
    // jmp $
    each(b"\xeb\xfe", true, |backend, mut rig| {
        intercept(&rig, 0x60);
        // Interrupts of the host decide, and it has them enabled while the guest has not.
        rig.put(VMCB + 0x60, 1 << 24);
        let mut s = rig.state();
        s.rflags |= 0x200;
        s.idt.limit = 0xfff;
        s.idt.base = 0x6_0000;
        // A gate for the interrupt that comes behind STGI: out 0xf4,al; jmp $
        rig.put(0x6_0000 + 16 * 0x20, 0x10 << 16 | 0x8e00 << 32 | 0x1080);
        rig.put(0x6_0000 + 16 * 0x20 + 8, 0);
        rig.write(0x1080, b"\xe6\xf4\xeb\xfe");
        // The host begins with CLGI done: the interrupt comes in the guest.
        rig.put(VMCB + 0x570, 2);
        rig.set_state(&s);
        // Skip what stands before CLGI by executing it once without a line.
        for _ in 0..10 {
            rig.step();
        }
        rig.lines().set_line(0, 0, true);
        rig.vcpu.set_debug(&accel::DebugConfig::default()).unwrap();
        let exit = rig.run();
        assert!(matches!(exit, Exit::Kicked), "{exit:?}");
        assert_eq!((result(&rig).0, result(&rig).3), (0x60, START), "{backend}");
        let s = rig.state();
        assert!((0x1080..0x1090).contains(&s.rip), "{backend}: {:#x} is the handler", s.rip);
    });
}

#[test]
fn what_cannot_be_run_is_refused() {
    each(b"\xf4", true, |backend, mut rig| {
        // ASID 0.
        rig.put(VMCB + 0x58, 0);
        run(&mut rig);
        assert_eq!(result(&rig).0, u64::MAX, "{backend}");
        // Without EFER.SVME the instructions do not exist.
        let mut s = rig.state();
        (s.efer, s.rip) = (s.efer & !0x1000, 0x2000);
        s.idt.limit = 0;
        rig.write(0x2000, b"\x0f\x01\xdc");
        rig.set_state(&s);
        assert!(!matches!(rig.run(), Exit::Kicked), "{backend}");
    });
}

/// A guest is saved while it runs, and goes on.
#[test]
fn a_running_guest_is_saved() {
    // mov ax,1; inc ax; inc ax; vmmcall
    each(b"\xb8\x01\x00\x40\x40\x0f\x01\xd9", true, |backend, mut rig| {
        intercept(&rig, 0x81);
        // The guest's second instruction is the next one.
        while rig.state().rip != START + 3 {
            rig.step();
        }
        let s = rig.state();
        rig.vcpu.set_debug(&accel::DebugConfig::default()).unwrap();
        let fresh = rig.fresh.clone();
        rig.set_state(&fresh);
        rig.set_state(&s);
        run(&mut rig);
        assert_eq!((result(&rig).0, rig.get(VMCB + 0x5f8)), (0x81, 3), "{backend}");
    });
}
