//! The first instructions.
#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is all test")]

mod common;

use common::Rig;

#[test]
fn a_loop_runs_in_64_bit_mode() {
    for backend in ["interp", "jit"] {
        let mut rig = Rig::new("max", backend);
        // mov ecx,100; xor eax,eax; l: add eax,ecx; dec ecx; jne l; push rax; pop rbx; call +0; pop rdx; out 0xf4,al; jmp $
        rig.write(
            0x1000,
            b"\xb9\x64\0\0\0\x31\xc0\x01\xc8\xff\xc9\x75\xfa\x50\x5b\xe8\0\0\0\0\x5a\xe6\xf4\xeb\xfe",
        );
        let s = rig.long(0x1000);
        rig.set_state(&s);
        rig.run();
        let s = rig.state();
        assert_eq!((s.rax, s.rbx, s.rcx, s.rdx, s.rsp), (5050, 5050, 0, 0x1014, 0x9_0000), "{backend}");
        assert_eq!(s.rflags, 0x46, "{backend}");
    }
}

#[test]
fn code_that_changes_itself_thousands_of_times() {
    let mut rig = Rig::new("max", "jit");
    // l: mov [imm],cl; mov al,imm; movzx eax,al; add edx,eax; dec ecx; jne l; out 0xf4,al; jmp $
    rig.write(0x1000, b"\x88\x0d\x01\0\0\0\xb0\0\x0f\xb6\xc0\x01\xc2\xff\xc9\x75\xef\xe6\xf4\xeb\xfe");
    let mut s = rig.long(0x1000);
    let sum: u64 = (1..=1500).map(|n| n & 0xff).sum();
    // What the first runs dropped is forgotten when the next one begins.
    for _ in 0..3 {
        (s.rcx, s.rdx) = (1500, 0);
        rig.set_state(&s);
        rig.run();
        assert_eq!(rig.state().rdx, sum);
    }
}
