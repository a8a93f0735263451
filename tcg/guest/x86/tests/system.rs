//! Modes, protection, exceptions and interrupts: short guests on both back ends.
#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is all test")]

mod common;

use accel::{
    Exit,
    arch::x86_64::{Segment, State, access},
};
use common::{GDT, Rig, TABLES};

const CODE: u64 = 0x1000;
const HANDLERS: u64 = 0x4000;
const IDT: u64 = 0x21_0000;
const TSS: u64 = 0x22_0000;

fn both(f: impl Fn(&mut Rig)) {
    for backend in ["interp", "jit", "hot"] {
        f(&mut Rig::new("max", backend));
    }
}

/// A 64-bit gate.
fn gate64(rig: &Rig, vector: u64, offset: u64, kind: u64, ist: u64) {
    let low = offset & 0xffff | 0x10 << 16 | ist << 32 | kind << 40 | (offset & 0xffff_0000) << 32;
    rig.put(IDT + 16 * vector, low);
    rig.put(IDT + 16 * vector + 8, offset >> 32);
}

/// 64-bit mode with an interrupt table whose handlers stop (out 0xf4), and a task-state segment with stacks.
fn long(rig: &Rig, code: &[u8]) -> State {
    rig.write(CODE, code);
    let mut s = rig.long(CODE);
    for v in 0..64 {
        let at = HANDLERS + 16 * v;
        rig.write(at, b"\xe6\xf4\xeb\xfe");
        gate64(rig, v, at, 0x8e, 0);
    }
    gate64(rig, 0x30, HANDLERS + 16 * 0x30, 0xee, 0);
    s.idt.base = IDT;
    s.idt.limit = 1023;
    rig.put(TSS + 4, 0x8_0000);
    rig.put(TSS + 0x24, 0x7_0000);
    // No port bitmap.
    rig.write(TSS + 102, &[104, 0]);
    s.tr = Segment { selector: 0x40, base: TSS, limit: 103, access: access::P | 0xb };
    s
}

/// Runs to the stop and says which handler it was in.
fn handler(rig: &mut Rig, s: &State) -> (u64, State) {
    rig.set_state(s);
    assert_eq!(rig.run(), Exit::Kicked);
    let now = rig.state();
    ((now.rip - HANDLERS) / 16, now)
}

fn stack(rig: &Rig, s: &State, n: u64) -> u64 {
    rig.get(s.rsp + 8 * n)
}

#[test]
fn faults_in_64_bit_mode_push_what_they_should() {
    both(|rig| {
        // ud2
        let s = long(rig, b"\x0f\x0b");
        let (v, t) = handler(rig, &s);
        assert_eq!((v, stack(rig, &t, 0), stack(rig, &t, 1), stack(rig, &t, 3)), (6, CODE, 0x10, 0x9_0000));
        assert_eq!(stack(rig, &t, 2) & 0x1_0000, 0x1_0000, "RF is set in the image");
        // mov [rax],ecx with RAX outside of the tables: page fault, write, not present.
        let mut s = long(rig, b"\x89\x08");
        s.rax = 1 << 38;
        let (v, t) = handler(rig, &s);
        assert_eq!((v, stack(rig, &t, 0), stack(rig, &t, 1), t.cr2), (14, 2, CODE, 1 << 38));
        // A non-canonical address.
        s.rax = 1 << 50;
        let (v, t) = handler(rig, &s);
        assert_eq!((v, stack(rig, &t, 0)), (13, 0));
        // div cl with CL = 0
        let mut s = long(rig, b"\xf6\xf1");
        s.rcx = 0;
        assert_eq!(handler(rig, &s).0, 0);
        // mov ss, 0xfff8: beyond the table, the selector is the error code.
        let mut s = long(rig, b"\x8e\xd0");
        s.rax = 0xfff8;
        let (v, t) = handler(rig, &s);
        assert_eq!((v, stack(rig, &t, 0)), (13, 0xfff8));
    });
}

#[test]
fn a_fault_in_the_middle_leaves_registers_and_flags() {
    both(|rig| {
        // stc; sbb eax,eax; push rcx; add [rdx],eax (faults)
        let mut s = long(rig, b"\xf9\x19\xc0\x51\x01\x02");
        s.rdx = 1 << 38;
        s.rcx = 7;
        let (v, t) = handler(rig, &s);
        assert_eq!((v, t.rax, rig.get(0x9_0000 - 8)), (14, 0xffff_ffff, 7));
        assert_eq!(stack(rig, &t, 4), 0x9_0000 - 8);
        assert_eq!(stack(rig, &t, 3) & 0x8d5, 0x95, "flags of the SBB");
    });
}

#[test]
fn interrupts_change_level_and_come_back() {
    both(|rig| {
        // int 0x30 from level 3; the handler returns with iretq; then out 0xf4 faults to 13 (no bitmap).
        let mut s = long(rig, b"\xcd\x30\xe6\xf4");
        rig.write(HANDLERS + 16 * 0x30, b"\x48\x89\xe3\x48\xcf");
        s.cs = Segment { selector: 0x2b, base: 0, limit: u32::MAX, access: 0xafb };
        s.ss = Segment { selector: 0x33, base: 0, limit: u32::MAX, access: 0xcf3 };
        let (v, t) = handler(rig, &s);
        assert_eq!((v, t.rbx), (13, 0x8_0000 - 40));
        assert_eq!((stack(rig, &t, 1), stack(rig, &t, 2), stack(rig, &t, 5)), (CODE + 2, 0x2b, 0x33));
        assert_eq!(t.cs.selector, 0x10);
        assert_eq!(t.ss.selector, 0);
        // The gate of vector 3 is the kernel's: INT3 from level 3 is #GP with its index.
        let mut s = long(rig, b"\xcc");
        s.cs = Segment { selector: 0x2b, base: 0, limit: u32::MAX, access: 0xafb };
        s.ss = Segment { selector: 0x33, base: 0, limit: u32::MAX, access: 0xcf3 };
        let (v, t) = handler(rig, &s);
        assert_eq!((v, stack(rig, &t, 0), stack(rig, &t, 1)), (13, 3 * 8 + 2, CODE));
    });
}

#[test]
fn interrupt_stacks_and_double_faults() {
    both(|rig| {
        // A page fault whose stack faults, too: the double fault has a stack of its own.
        let mut s = long(rig, b"\x8b\x00");
        gate64(rig, 8, HANDLERS + 16 * 8, 0x8e, 1);
        s.rax = 1 << 38;
        s.rsp = 1 << 39;
        let (v, t) = handler(rig, &s);
        assert_eq!((v, t.rsp, stack(rig, &t, 0), stack(rig, &t, 4)), (8, 0x7_0000 - 48, 0, 1 << 39));
        // Without that stack: a triple fault, which is a reset.
        gate64(rig, 8, HANDLERS + 16 * 8, 0x8e, 0);
        rig.set_state(&s);
        assert_eq!(rig.run(), Exit::Reset);
    });
}

#[test]
fn external_interrupts_wait_for_sti_and_its_shadow() {
    both(|rig| {
        // cli; sti; mov eax,1; mov eax,2; jmp $
        let s = long(rig, b"\xfa\xfb\xb8\x01\0\0\0\xb8\x02\0\0\0\xeb\xfe");
        rig.set_state(&s);
        rig.lines().set_line(0, 0, true);
        assert_eq!(rig.run(), Exit::Kicked);
        let t = rig.state();
        assert_eq!((t.rip - HANDLERS) / 16, 0x20);
        assert_eq!((t.rax, stack(rig, &t, 0)), (1, CODE + 7), "one instruction behind STI is shielded");
        assert_eq!(t.rflags & 0x200, 0);
        // hlt wakes up.
        let s = long(rig, b"\xfb\xf4\xb8\x02\0\0\0\xeb\xfe");
        rig.set_state(&s);
        rig.lines().set_line(0, 0, true);
        assert_eq!(rig.run(), Exit::Kicked);
        let t = rig.state();
        assert_eq!(((t.rip - HANDLERS) / 16, stack(rig, &t, 0)), (0x20, CODE + 2));
    });
}

#[test]
fn syscall_and_sysret() {
    both(|rig| {
        let mut s = long(rig, b"\x0f\x05\xe6\xf4");
        s.efer |= 1;
        let kernel = 0x6000;
        // cmp rcx,..; sysretq
        rig.write(kernel, b"\x48\x89\xca\x48\x0f\x07");
        s.msrs.retain(|m| !(0xc000_0081..=0xc000_0084).contains(&m.index));
        for (index, value) in
            [(0xc000_0081, 0x10 << 32 | 0x1b << 48), (0xc000_0082, kernel), (0xc000_0084, 0x200)]
        {
            s.msrs.push(accel::arch::x86_64::Msr { index, value });
        }
        s.cs = Segment { selector: 0x2b, base: 0, limit: u32::MAX, access: 0xafb };
        s.ss = Segment { selector: 0x33, base: 0, limit: u32::MAX, access: 0xcf3 };
        s.rflags |= 0x200;
        let (v, t) = handler(rig, &s);
        assert_eq!((v, t.rdx, t.r11 & 0x200), (13, CODE + 2, 0x200));
        assert_eq!((stack(rig, &t, 1), stack(rig, &t, 2), stack(rig, &t, 5)), (CODE + 2, 0x2b, 0x23));
    });
}

#[test]
fn real_mode_from_the_reset_state() {
    both(|rig| {
        let mut s = rig.fresh.clone();
        s.cs = Segment { selector: 0x100, base: 0x1000, ..s.cs };
        s.rip = 0;
        s.ss.selector = 0x800;
        s.ss.base = 0x8000;
        s.rsp = 0x100;
        // mov ax,0x200; mov ds,ax; mov word [0xffff-1],0x1234; call 0x200:0; out 0xf4,al
        rig.write(
            0x1000,
            b"\xb8\x00\x02\x8e\xd8\xc7\x06\xfe\xff\x34\x12\x9a\x00\x00\x00\x02\xe6\xf4\xeb\xfe",
        );
        // mov bx,cs; int 5; retf
        rig.write(0x2000, b"\x8c\xcb\xcd\x05\xcb");
        rig.write(5 * 4, &[0x10, 0, 0, 0x03]);
        // inc cx; iret
        rig.write(0x3010, b"\x41\xcf");
        s.rcx = 0xffff;
        rig.set_state(&s);
        assert_eq!(rig.run(), Exit::Kicked);
        let t = rig.state();
        assert_eq!((t.rbx & 0xffff, t.rcx & 0xffff, t.rsp & 0xffff), (0x200, 0, 0x100));
        assert_eq!((t.ds.base, t.cs.base, t.rip), (0x2000, 0x1000, 0x12));
        assert_eq!(rig.get(0x2000 + 0xfffe) & 0xffff, 0x1234);
        // A word at offset 0xffff is outside of the segment: interrupt 13.
        rig.write(13 * 4, &[0, 0, 0, 0x04]);
        rig.write(0x4000, b"\xe6\xf4\xeb\xfe");
        rig.write(0x1000, b"\xa1\xff\xff");
        let mut s = s.clone();
        s.ds.base = 0;
        rig.set_state(&s);
        assert_eq!(rig.run(), Exit::Kicked);
        assert_eq!(rig.state().cs.base, 0x4000);
    });
}

#[test]
fn from_real_mode_to_long_mode() {
    both(|rig| {
        let mut s = rig.fresh.clone();
        s.cs = Segment { selector: 0, base: 0, ..s.cs };
        s.rip = 0x1000;
        s.rsp = 0x8000;
        // lgdt [0x900]; mov eax,cr0; or al,1; mov cr0,eax; jmp 8:0x1020
        rig.write(0x900, &[63, 0]);
        rig.write(0x902, &(GDT as u32).to_le_bytes());
        rig.write(0x1000, b"\x0f\x01\x16\x00\x09\x0f\x20\xc0\x0c\x01\x0f\x22\xc0\xea\x20\x10\x08\x00");
        // mov eax,0x18; mov ds,eax; mov ss,eax; mov eax,cr4; or eax,0x20; mov cr4,eax; mov eax,TABLES; mov cr3,eax;
        // mov ecx,0xc0000080; rdmsr; or eax,0x100; wrmsr; mov eax,cr0; or eax,0x80000000; mov cr0,eax; jmp 0x10:0x1080
        let mut code = b"\xb8\x18\0\0\0\x8e\xd8\x8e\xd0\x0f\x20\xe0\x83\xc8\x20\x0f\x22\xe0\xb8".to_vec();
        code.extend((TABLES as u32).to_le_bytes());
        code.extend(b"\x0f\x22\xd8\xb9\x80\0\0\xc0\x0f\x32\x0d\0\x01\0\0\x0f\x30\x0f\x20\xc0\x0d\0\0\0\x80\x0f\x22\xc0\xea\x80\x10\0\0\x10\0");
        rig.write(0x1020, &code);
        // mov rax,0x1122334455667788; push rax; pop r9; out 0xf4,al
        rig.write(0x1080, b"\x48\xb8\x88\x77\x66\x55\x44\x33\x22\x11\x50\x41\x59\xe6\xf4\xeb\xfe");
        rig.set_state(&s);
        assert_eq!(rig.run(), Exit::Kicked);
        let t = rig.state();
        assert_eq!((t.r9, t.efer, t.cs.selector), (0x1122_3344_5566_7788, 0x500, 0x10));
        assert_eq!(t.cs.access & access::L, access::L);
    });
}

#[test]
fn string_operations_cross_pages_and_restart() {
    both(|rig| {
        // rep movsb over several pages, then rep stosq, then repne scasb
        let mut s = long(rig, b"\xf3\xa4\xf3\x48\xab\xe6\xf4\xeb\xfe");
        let data: Vec<u8> = (0..9000_u32).map(|n| (n * 7) as u8).collect();
        rig.write(0x10_0123, &data);
        (s.rsi, s.rdi, s.rcx) = (0x10_0123, 0x11_0456, 9000);
        rig.set_state(&s);
        rig.run();
        assert_eq!(rig.read(0x11_0456, 9000), data);
        let t = rig.state();
        assert_eq!((t.rsi, t.rdi, t.rcx), (0x10_0123 + 9000, 0x11_0456 + 9000, 0));
        // Overlapping by one byte: a fill.
        let mut s = long(rig, b"\xf3\xa4\xe6\xf4\xeb\xfe");
        rig.write(0x10_0000, b"x");
        (s.rsi, s.rdi, s.rcx) = (0x10_0000, 0x10_0001, 5000);
        rig.set_state(&s);
        rig.run();
        assert_eq!(rig.read(0x10_0000, 5001), vec![b'x'; 5001]);
        // A fault in the middle: registers say how far it came.
        let mut s = long(rig, b"\xf3\xaa");
        (s.rdi, s.rcx, s.rax) = (0x3fff_f000, 8192, 0x55);
        let (v, t) = handler(rig, &s);
        assert_eq!((v, t.rdi, t.rcx, t.cr2), (14, 0x4000_0000, 4096, 0x4000_0000));
    });
}

#[test]
fn segments_have_bases_and_limits() {
    both(|rig| {
        // mov eax,[0x10]; mov es:[0x20],eax; out 0xf4,al
        rig.write(CODE, b"\xa1\x10\0\0\0\x26\xa3\x20\0\0\0\xe6\xf4\xeb\xfe");
        let mut s = rig.flat(CODE);
        s.ds.base = 0x5000;
        s.es = Segment { base: 0x6000, limit: 0x23, access: 0x493, ..s.es };
        rig.put(0x5010, 0xabcd);
        rig.set_state(&s);
        rig.run();
        assert_eq!(rig.get(0x6020) & 0xffff_ffff, 0xabcd);
        // One byte less, and it faults; the 32-bit gate leads to the stop.
        s.es.limit = 0x22;
        rig.put(IDT + 13 * 8, (HANDLERS & 0xffff) | 8 << 16 | 0x8e << 40);
        rig.write(HANDLERS, b"\xe6\xf4\xeb\xfe");
        s.idt.base = IDT;
        s.idt.limit = 0x7ff;
        rig.set_state(&s);
        rig.run();
        let t = rig.state();
        assert_eq!(t.rip, HANDLERS + 2);
        assert_eq!((rig.get(t.rsp) & 0xffff_ffff, rig.get(t.rsp) >> 32), (0, CODE + 5));
    });
}

#[test]
fn code_that_changes_itself() {
    both(|rig| {
        // mov byte [rip+1],7; mov al,1 (becomes 7); out 0xf4,al: in one unit, and again when it is cached.
        let s = long(rig, b"\xc6\x05\x01\0\0\0\x07\xb0\x01\xe6\xf4\xeb\xfe");
        for _ in 0..2 {
            rig.set_state(&s);
            rig.run();
            assert_eq!(rig.state().rax & 0xff, 7);
        }
    });
}

#[test]
fn single_steps_and_breakpoints() {
    both(|rig| {
        // popfq (sets TF); nop; nop
        let mut s = long(rig, b"\x9d\x90\x90");
        s.rsp -= 8;
        rig.put(s.rsp, 0x102);
        let (v, t) = handler(rig, &s);
        assert_eq!((v, stack(rig, &t, 0), t.dr6 & 0x4000), (1, CODE + 2, 0x4000));
        // A write breakpoint traps behind the instruction.
        let mut s = long(rig, b"\x90\x89\x08\x90");
        s.rax = 0x10_0000;
        s.dr[0] = 0x10_0002;
        s.dr7 = 0x400 | 1 | 1 << 16;
        let (v, t) = handler(rig, &s);
        assert_eq!((v, stack(rig, &t, 0), t.dr6 & 15), (1, CODE + 3, 1));
        // An instruction breakpoint is a fault.
        s.dr[0] = CODE + 1;
        s.dr7 = 0x400 | 1;
        let (v, t) = handler(rig, &s);
        assert_eq!((v, stack(rig, &t, 0), t.dr6 & 15), (1, CODE + 1, 1));
    });
}

#[test]
fn what_another_accelerator_has_begun_to_deliver_is_delivered() {
    both(|rig| {
        // nop: it must not be reached first. A page fault of level 3's, side effects done, then the same with them to come.
        for pending in [false, true] {
            let mut s = long(rig, b"\x90\xe6\xf4");
            s.events.exception = Some(14);
            s.events.error_code = Some(6);
            (s.cr2, s.events.exception_pending) = (if pending { 0 } else { 0x1234 }, pending);
            s.events.payload = pending.then_some(0x1234);
            rig.set_state(&s);
            let waits = rig.state();
            assert_eq!(
                (waits.events.exception, waits.events.error_code, waits.cr2),
                (Some(14), Some(6), 0x1234)
            );
            assert_eq!(waits.rip, CODE);
            let (v, t) = handler(rig, &s);
            assert_eq!((v, stack(rig, &t, 0), stack(rig, &t, 1), t.cr2), (14, 6, CODE, 0x1234));
        }
        // An interrupt that its controller has handed out comes although interrupts are off; an NMI although masked.
        let mut s = long(rig, b"\x90\xe6\xf4");
        s.events.interrupt = Some(0x31);
        assert_eq!(handler(rig, &s).0, 0x31);
        let mut s = long(rig, b"\x90\xe6\xf4");
        (s.events.nmi_injected, s.events.nmi_masked) = (true, true);
        let (v, t) = handler(rig, &s);
        assert_eq!((v, t.events.nmi_masked, t.events.nmi_injected), (2, true, false));
    });
}

#[test]
fn an_nmi_holds_back_others_until_iret() {
    both(|rig| {
        // cli; jmp $
        let s = long(rig, b"\xfa\xeb\xfe");
        // out 0xf4,al; inc ebx; iretq
        rig.write(HANDLERS + 32, b"\xe6\xf4\xff\xc3\x48\xcf");
        rig.set_state(&s);
        rig.lines().signal(0, accel::VcpuSignal::Nmi);
        assert_eq!(rig.run(), Exit::Kicked);
        let first = rig.state();
        assert_eq!((first.rip, first.events.nmi_masked), (HANDLERS + 34, true));
        rig.lines().signal(0, accel::VcpuSignal::Nmi);
        assert_eq!(rig.run(), Exit::Kicked);
        let second = rig.state();
        assert_eq!((second.rip, second.rsp), (HANDLERS + 34, first.rsp), "not inside the first");
        assert_eq!(second.rbx, first.rbx + 1);
    });
}

#[test]
fn calls_of_16_bit_code_at_the_bottom_of_memory() {
    both(|rig| {
        // call +1; hlt; out 0xf4, al
        rig.write(CODE, b"\xe8\x01\x00\xf4\xe6\xf4");
        let mut s = State::reset();
        (s.cs.selector, s.cs.base, s.rip) = (0, 0, CODE);
        (s.ss.base, s.rsp) = (0, 0x8000);
        rig.set_state(&s);
        assert_eq!(rig.run(), Exit::Kicked);
        let t = rig.state();
        assert_eq!((t.rip, t.rsp, rig.get(0x7ffe) & 0xffff), (CODE + 6, 0x7ffe, CODE + 3));
    });
}
