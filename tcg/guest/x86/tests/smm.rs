//! System management mode and the A20 gate: short guests on both back ends.
#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is all test")]

mod common;

use accel::{Exit, VcpuSignal};
use common::Rig;
use guest_memory::{RamBlock, Region};

const CODE: u64 = 0x1000;
const DONE: u64 = 0x500;
const A20M: u32 = 1;

fn both(cpu: &str, f: impl Fn(&mut Rig)) {
    for backend in ["interp", "jit"] {
        f(&mut Rig::new(cpu, backend));
    }
}

/// cmp byte [DONE],0; je back; out 0xf4,al; jmp $
const WAITS: &[u8] = b"\x80\x3d\x00\x05\0\0\0\x74\xf7\xe6\xf4\xeb\xfe";

#[test]
fn an_smi_runs_the_handler_and_smram_moves() {
    // Where each map keeps SMBASE, RAX, and the revision.
    for (cpu, smbase, rax, revision) in
        [("max", 0x3_ff00_u32, 0x3_fff8, 0x2_0064), ("pentium3", 0x3_fef8, 0x3_ffd0, 0x2_0000)]
    {
        both(cpu, |rig| {
            let smram = RamBlock::anonymous("smram", 0x2_0000).unwrap();
            rig.space.add(Region::ram("smram", smram.clone()).at(0xa_0000).priority(1).secure()).unwrap();
            // mov dword [smbase],0xa0000; inc dword [rax of the map]; mov byte [DONE],1; rsm
            let mut code = b"\x67\x66\xc7\x05".to_vec();
            code.extend(smbase.to_le_bytes());
            code.extend(b"\0\0\x0a\0\x67\x66\xff\x05");
            code.extend((rax as u32).to_le_bytes());
            code.extend(b"\xc6\x06\x00\x05\x01\x0f\xaa");
            rig.write(0x3_8000, &code);
            rig.write(DONE, &[0]);
            rig.write(CODE, WAITS);
            let mut s = rig.flat(CODE);
            s.cr4 = 0;
            s.rax = 0x1234_5678;
            s.rflags |= 0x400;
            rig.set_state(&s);
            rig.lines().signal(0, VcpuSignal::Smi);
            assert_eq!(rig.run(), Exit::Kicked);
            let t = rig.state();
            assert_eq!((t.rax, t.rip, t.cs, t.cr0, t.ss), (0x1234_5679, CODE + 11, s.cs, s.cr0, s.ss));
            assert_eq!(t.rflags & 0x400, 0x400);
            assert!(!t.events.smm && !t.events.nmi_masked);
            assert_eq!(rig.get(0x3_fefc) & 0xffff_ffff, revision);
            // Now in memory that only the mode sees: mov al,[0xa8000] (itself); out 0xf4,al; rsm
            smram.write(0x8000, b"\x67\xa0\x00\x80\x0a\x00\xe6\xf4\x0f\xaa").unwrap();
            rig.write(0xa_8000, &[0xee; 16]);
            rig.write(CODE, b"\xa0\x00\x80\x0a\x00\xe6\xf4\xeb\xfe");
            s.rip = CODE;
            s.msrs = t.msrs;
            rig.set_state(&s);
            rig.lines().signal(0, VcpuSignal::Smi);
            assert_eq!(rig.run(), Exit::Kicked);
            let t = rig.state();
            assert!(t.events.smm && t.events.nmi_masked);
            assert_eq!((t.rax & 0xff, t.cs.base, t.rip), (0x67, 0xa_0000, 0x8008));
            assert_eq!(rig.run(), Exit::Kicked);
            let t = rig.state();
            assert_eq!((t.rax & 0xff, t.rip, t.events.smm), (0xee, CODE + 7, false));
            // A state saved in the mode goes on in it.
            rig.set_state(&s);
            rig.lines().signal(0, VcpuSignal::Smi);
            rig.run();
            let inside = rig.state();
            rig.set_state(&rig.fresh.clone());
            rig.set_state(&inside);
            assert_eq!(rig.run(), Exit::Kicked);
            assert_eq!(rig.state().rax & 0xff, 0xee);
        });
    }
}

#[test]
fn smis_end_hlt_and_rsm_goes_back_to_it() {
    both("max", |rig| {
        // The handler counts; sti; hlt; out 0xf4,al. Vector 0x20 is never asked for: the interrupt comes after the second SMI.
        rig.write(0x3_8000, b"\xfe\x06\x00\x05\x80\x3e\x00\x05\x02\x75\x02\xe6\xf4\x0f\xaa");
        rig.write(DONE, &[0]);
        rig.write(CODE, b"\xf4\xe6\xf4\xeb\xfe");
        let s = rig.flat(CODE);
        rig.set_state(&s);
        rig.lines().signal(0, VcpuSignal::Smi);
        rig.lines().signal(0, VcpuSignal::Smi);
        // Both signals became one SMI: the guest is back in HLT with interrupts off.
        assert_eq!(rig.run(), Exit::Halted);
        assert_eq!(rig.read(DONE, 1), [1]);
        assert_eq!(rig.state().rip, CODE + 1);
        rig.lines().signal(0, VcpuSignal::Smi);
        assert_eq!(rig.run(), Exit::Kicked);
        let t = rig.state();
        assert!(t.events.smm);
        assert_eq!(rig.read(DONE, 1), [2]);
        // RSM outside of the mode does not exist, and INIT waits for the end of the mode.
        rig.lines().signal(0, VcpuSignal::Init);
        rig.write(0xf_fff0, &[0xff; 16]);
        let _ = rig.step();
        assert_eq!(rig.state().linear_pc(), 0xffff_fff0);
    });
}

#[test]
fn a_closed_gate_masks_address_line_20() {
    both("max", |rig| {
        // mov byte [0x100800],al; out 0x92,al; mov byte [0x300800],al; out 0xf4,al; jmp $
        rig.write(CODE, b"\xa2\x00\x08\x10\x00\xe6\x92\xa2\x00\x08\x30\x00\xe6\xf4\xeb\xfe");
        let mut s = rig.flat(CODE);
        s.rax = 0x77;
        for closed in [false, true, false] {
            for at in [0x800, 0x10_0800, 0x20_0800, 0x30_0800] {
                rig.write(at, &[0]);
            }
            rig.set_state(&s);
            rig.lines().set_line(0, A20M, closed);
            rig.run();
            let seen = [0x800, 0x10_0800, 0x20_0800, 0x30_0800].map(|at| rig.read(at, 1)[0] == 0x77);
            let wanted = if closed { [true, false, true, false] } else { [false, true, false, true] };
            assert_eq!(seen, wanted);
            assert_eq!(rig.state().events.a20_masked, closed);
            s.events.a20_masked = closed;
        }
    });
}
