//! Instructions that few hosts have: lines of memory (MOVDIRI, MOVDIR64B, CLZERO), SSE4A, SERIALIZE, XSAVES; and the registers that
//! go with features of the models.

#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is all test")]

mod common;

use accel::arch::x86_64::State;
use common::Rig;

const CODE: u64 = 0x1000;
const DATA: u64 = 0x5_0000;

fn both(cpu: &str, f: impl Fn(&mut Rig)) {
    for backend in ["interp", "jit"] {
        f(&mut Rig::new(cpu, backend));
    }
}

/// 64-bit code that stops behind itself, with RDI at the data.
fn long(rig: &Rig, code: &[u8]) -> State {
    rig.write(CODE, &[code, b"\xe6\xf4\xeb\xfe"].concat());
    let mut s = rig.long(CODE);
    s.rdi = DATA;
    s.cr4 |= 1 << 18;
    s.fpu.xcr0 = 7;
    s
}

/// Where it stopped: behind the code, or, without a table of handlers, at what faults.
fn run(rig: &mut Rig, s: &State) -> State {
    rig.set_state(s);
    rig.run();
    rig.state()
}

#[test]
fn lines_are_copied_and_cleared() {
    both("max", |rig| {
        let line: Vec<u8> = (0..64).map(|n| n * 3 + 1).collect();
        rig.write(DATA + 3, &line);
        // movdir64b rbx,[rdi+3]
        let code = b"\x66\x0f\x38\xf8\x5f\x03";
        let mut s = long(rig, code);
        s.rbx = DATA + 0x1000;
        assert_eq!(run(rig, &s).rip, CODE + 8);
        assert_eq!(rig.read(DATA + 0x1000, 64), line);
        s.rbx = DATA + 0x1020;
        assert_eq!(run(rig, &s).rip, CODE, "the destination is aligned");
        // movdiri [rdi+0x100],rcx; movdiri [rdi+0x108],ecx; serialize; clzero
        let mut s =
            long(rig, b"\x48\x0f\x38\xf9\x8f\0\x01\0\0\x0f\x38\xf9\x8f\x08\x01\0\0\x0f\x01\xe8\x0f\x01\xfc");
        (s.rcx, s.rax) = (0x1122_3344_5566_7788, DATA + 0x103f);
        assert_eq!(run(rig, &s).rip, CODE + 9 + 8 + 3 + 3 + 2);
        assert_eq!((rig.get(DATA + 0x100), rig.get(DATA + 0x108)), (0x1122_3344_5566_7788, 0x5566_7788));
        assert!(rig.read(DATA + 0x1000, 64).iter().all(|b| *b == 0));
    });
    // They exist where the model says so.
    both("qemu64", |rig| {
        for code in
            [b"\x66\x0f\x38\xf8\x5f\x03".as_slice(), b"\x0f\x01\xe8", b"\x0f\x01\xfc", b"\x0f\xc7\x2f"]
        {
            let mut s = long(rig, code);
            s.cr4 &= !(1 << 18);
            s.fpu.xcr0 = 1;
            assert_eq!(run(rig, &s).rip, CODE, "{code:x?}");
        }
    });
}

#[test]
fn fields_of_bits_move() {
    both("max", |rig| {
        // extrq xmm1,12,20; insertq xmm2,xmm3,8,4; extrq xmm4,xmm5; insertq xmm6,xmm7; movntsd [rdi],xmm6; movntss [rdi+8],xmm2
        let code = b"\x66\x0f\x78\xc1\x0c\x14\xf2\x0f\x78\xd3\x08\x04\x66\x0f\x79\xe5\xf2\x0f\x79\xf7\
            \xf2\x0f\x2b\x37\xf3\x0f\x2b\x57\x08";
        let mut s = long(rig, code);
        let mut set = |n: usize, low: u64, high: u64| {
            s.fpu.zmm[n].0[..8].copy_from_slice(&low.to_le_bytes());
            s.fpu.zmm[n].0[8..16].copy_from_slice(&high.to_le_bytes());
        };
        set(1, 0x1234_5678_9abc_def0, 7);
        set(2, u64::MAX, 7);
        set(3, 0x1_00ab, 7);
        // Four bits from bit 8 on; sixteen bits to bit 16.
        set(4, 0xfe5f, 0);
        set(5, 0x0804, 0);
        set(6, 0, 0);
        set(7, 0xdead_beef, 0x1010);
        let t = run(rig, &s);
        assert_eq!(t.rip, CODE + code.len() as u64 + 2);
        let low = |n: usize| u64::from_le_bytes(t.fpu.zmm[n].0[..8].try_into().unwrap());
        let wanted = [0x1234_5678_9abc_def0 >> 20 & 0xfff, 0xffff_ffff_ffff_fabf, 0xe, 0xbeef_0000];
        assert_eq!([low(1), low(2), low(4), low(6)], wanted);
        assert_eq!(t.fpu.zmm[2].0[8], 7, "the upper half stays");
        assert_eq!((rig.get(DATA), rig.get(DATA + 8) & 0xffff_ffff), (0xbeef_0000, 0xffff_fabf));
    });
}

#[test]
fn the_systems_xsave_is_the_compacted_one() {
    both("max", |rig| {
        // xsaves [rdi]; pxor xmm1,xmm1; xrstors [rdi]
        let mut s = long(rig, b"\x0f\xc7\x2f\x66\x0f\xef\xc9\x0f\xc7\x1f");
        s.rax = 7;
        s.fpu.zmm[1].0[..32].copy_from_slice(&[0x5a; 32]);
        rig.write(DATA, &[0; 1024]);
        let t = run(rig, &s);
        assert_eq!((t.rip, &t.fpu.zmm[1].0[..32]), (CODE + 12, &[0x5a; 32][..]));
        assert_eq!((rig.get(DATA + 512) & 6, rig.get(DATA + 520)), (6, 1 << 63 | 7));
        // Of the standard form XRSTORS takes nothing.
        rig.put(DATA + 520, 0);
        let mut s = long(rig, b"\x0f\xc7\x1f");
        s.rax = 7;
        assert_eq!(run(rig, &s).rip, CODE);
        // IA32_XSS has no bits: mov ecx,0xda0; rdmsr; mov al,0x10; wrmsr
        let s = long(rig, b"\xb9\xa0\x0d\0\0\x0f\x32\xb0\x10\x0f\x30");
        let t = run(rig, &s);
        assert_eq!((t.rip, t.rax, t.rdx), (CODE + 9, 0x10, 0));
    });
}

#[test]
fn the_counters_adjustment_follows_it() {
    both("max", |rig| {
        // mov ecx,0x10; mov eax,5000; xor edx,edx; wrmsr; mov ecx,0x3b; rdmsr, while the clock stands at zero
        let code = b"\xb9\x10\0\0\0\xb8\x88\x13\0\0\x31\xd2\x0f\x30\xb9\x3b\0\0\0\x0f\x32";
        let s = long(rig, code);
        let t = run(rig, &s);
        assert_eq!((t.rip, t.rax), (CODE + code.len() as u64 + 2, 5000));
        // xor eax,eax; xor edx,edx; wrmsr; rdtsc
        let mut s = long(rig, b"\x31\xc0\x31\xd2\x0f\x30\x0f\x31");
        s.rcx = 0x3b;
        let mut before = t;
        (before.rip, before.rcx) = (s.rip, s.rcx);
        let t = run(rig, &before);
        assert_eq!((t.rip, t.rax), (CODE + 10, 0));
    });
}
