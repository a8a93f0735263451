//! Paging of every kind with its rights and error codes, on both back ends.
#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is all test")]

mod common;

use accel::{
    Exit,
    arch::x86_64::{Segment, State},
};
use common::{Rig, TABLES};

const CODE: u64 = 0x1000;
const HANDLERS: u64 = 0x4000;
const IDT: u64 = 0x21_0000;
const TSS: u64 = 0x22_0000;
const DATA: u64 = 0x10_0000;
/// Tables of the test's own.
const OWN: u64 = 0x31_0000;

const P: u64 = 1;
const W: u64 = 2;
const U: u64 = 4;
const PS: u64 = 0x80;
const G: u64 = 0x100;
const NX: u64 = 1 << 63;
const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_PGE: u64 = 1 << 7;
const CR4_LA57: u64 = 1 << 12;
const CR4_PCIDE: u64 = 1 << 17;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;
const EFER_NXE: u64 = 1 << 11;

fn both(f: impl Fn(&mut Rig)) {
    for backend in ["interp", "jit", "hot"] {
        f(&mut Rig::new("max", backend));
    }
}

fn put32(rig: &Rig, at: u64, v: u64) {
    rig.write(at, &(v as u32).to_le_bytes());
}

fn stop(rig: &mut Rig) -> State {
    assert_eq!(rig.run(), Exit::Kicked);
    rig.state()
}

/// What an attempt comes to: nothing, or a page fault with its error code and address.
type Attempt = Option<(u64, u64)>;

fn attempt(rig: &mut Rig, s: &State, wide: bool) -> Attempt {
    // Where jumps lead: out 0xf4,al; jmp $
    rig.write(DATA + 0x800, b"\xe6\xf4\xeb\xfe");
    rig.set_state(s);
    let t = stop(rig);
    if t.rip >= HANDLERS && t.rip < HANDLERS + 0x400 {
        let v = (t.rip - HANDLERS) / 16;
        assert_eq!(v, 14, "{t:?}");
        let mask = if wide { u64::MAX } else { 0xffff_ffff };
        return Some((rig.get(t.rsp) & mask, t.cr2));
    }
    None
}

/// mov ecx,[ebx] or mov [ebx],ecx, or jmp ebx; then out 0xf4.
const READ: &[u8] = b"\x8b\x0b\xe6\xf4\xeb\xfe";
const WRITE: &[u8] = b"\x89\x0b\xe6\xf4\xeb\xfe";
const JUMP: &[u8] = b"\xff\xe3";

/// Level 0, 32-bit, paging on with the tables at `OWN`, whose first 4 MiB are this memory (for PAE: in pieces of 2 MiB).
fn paged32(rig: &Rig, pae: bool) -> State {
    for v in 0..64 {
        let at = HANDLERS + 16 * v;
        rig.write(at, b"\xe6\xf4\xeb\xfe");
        rig.put(IDT + 8 * v, at & 0xffff | 8 << 16 | 0x8e << 40 | (at >> 16) << 48);
    }
    rig.write(OWN, &[0; 0x5000]);
    let mut s = rig.flat(CODE);
    (s.idt.base, s.idt.limit) = (IDT, 0x1ff);
    rig.write(TSS, &[0; 104]);
    put32(rig, TSS + 4, 0x8_0000);
    put32(rig, TSS + 8, 0x18);
    rig.write(TSS + 102, &[104, 0]);
    s.tr = Segment { selector: 0x40, base: TSS, limit: 103, access: 0x8b };
    s.cr3 = OWN;
    s.cr0 |= CR0_PG;
    if pae {
        s.cr4 |= CR4_PAE;
        rig.put(OWN, (OWN + 0x1000) | P);
        rig.put(OWN + 0x1000, P | W | PS);
        rig.put(OWN + 0x1008, 0x20_0000 | P | W | PS);
        rig.put(OWN + 0x1010, (OWN + 0x2000) | P | W | U);
    } else {
        s.cr4 |= CR4_PSE;
        put32(rig, OWN, P | W | PS);
        put32(rig, OWN + 4, (OWN + 0x2000) | P | W | U);
    }
    s
}

#[test]
fn paging_of_32_bits() {
    both(|rig| {
        let mut s = paged32(rig, false);
        let entry = OWN + 0x2000;
        s.rbx = 0x40_0800;
        let go = |rig: &mut Rig, s: &State, code: &[u8], pte: u64| {
            rig.write(CODE, code);
            put32(rig, entry, pte);
            attempt(rig, s, false)
        };
        assert_eq!(go(rig, &s, READ, 0), Some((0, 0x40_0800)));
        assert_eq!(go(rig, &s, WRITE, 0), Some((2, 0x40_0800)));
        assert_eq!(go(rig, &s, READ, DATA | P), None);
        assert_eq!(rig.get(entry) & 0x60, 0x20, "accessed, not dirty");
        assert_eq!(go(rig, &s, WRITE, DATA | P), None, "write protection is off");
        assert_eq!(rig.get(entry) & 0x60, 0x60);
        s.cr0 |= CR0_WP;
        assert_eq!(go(rig, &s, WRITE, DATA | P), Some((3, 0x40_0800)));
        assert_eq!(go(rig, &s, JUMP, 0), Some((0, 0x40_0800)), "no fetch bit without NX or SMEP");
        assert_eq!(go(rig, &s, JUMP, DATA | P), None);
        // A 4 MiB page above 4 GiB by PSE-36: bits 13 to 20.
        put32(rig, OWN + 8, P | W | PS | 1 << 13);
        rig.write(CODE, READ);
        s.rbx = 0x80_0000;
        assert_eq!(attempt(rig, &s, false), None);
        assert_eq!(rig.state().rcx & 0xffff_ffff, 0, "nothing is there");
        put32(rig, OWN + 8, P | W | PS | 1 << 21);
        assert_eq!(attempt(rig, &s, false), Some((9, 0x80_0000)), "reserved bit");
        // Without PSE that is a table.
        s.cr4 &= !CR4_PSE;
        put32(rig, OWN, (OWN + 0x3000) | P | W);
        for n in 0..1024 {
            put32(rig, OWN + 0x3000 + 4 * n, n << 12 | P | W);
        }
        put32(rig, OWN + 8, (OWN + 0x2000) | P | W | PS);
        put32(rig, entry, DATA | P);
        s.rbx = 0x80_0800;
        assert_eq!(attempt(rig, &s, false), None);
    });
}

#[test]
fn users_and_supervisors() {
    both(|rig| {
        let mut s = paged32(rig, false);
        put32(rig, OWN, P | W | U | PS);
        let entry = OWN + 0x2000;
        s.cs = Segment { selector: 0x3b, base: 0, limit: u32::MAX, access: 0xcfb };
        s.ss = Segment { selector: 0x33, base: 0, limit: u32::MAX, access: 0xcf3 };
        // Ports for the stop.
        s.rflags |= 3 << 12;
        s.rbx = 0x40_0800;
        for (code, pte, want) in [
            (READ, DATA | P | W, Some(5)),
            (WRITE, DATA | P | W, Some(7)),
            (WRITE, DATA | P | U, Some(7)),
            (READ, 0, Some(4)),
            (READ, DATA | P | U, None),
            (WRITE, DATA | P | U | W, None),
            (JUMP, DATA | P, Some(5)),
            (JUMP, DATA | P | U, None),
        ] {
            rig.write(CODE, code);
            put32(rig, entry, pte);
            assert_eq!(attempt(rig, &s, false), want.map(|e| (e, 0x40_0800)), "{code:x?} {pte:x}");
        }
    });
}

#[test]
fn physical_address_extension() {
    both(|rig| {
        let mut s = paged32(rig, true);
        let entry = OWN + 0x2000;
        s.rbx = 0x40_0800;
        for (nxe, code, pte, want) in [
            (false, READ, 0, Some(0)),
            (false, READ, DATA | P, None),
            (false, READ, DATA | P | NX, Some(9)),
            (true, READ, DATA | P | NX, None),
            (true, JUMP, DATA | P | NX, Some(0x11)),
            (true, JUMP, DATA | P, None),
            (true, READ, DATA | P | 1 << 52, Some(9)),
            (true, WRITE, DATA | P | 1 << 45, Some(0xb)),
        ] {
            s.efer = if nxe { EFER_NXE } else { 0 };
            rig.write(CODE, code);
            rig.put(entry, pte);
            assert_eq!(attempt(rig, &s, false), want.map(|e| (e, 0x40_0800)), "{code:x?} {pte:x}");
        }
        // A directory pointer that is not there, and one with reserved bits, which MOV CR3 refuses.
        s.rbx = 0x4000_0000;
        rig.write(CODE, READ);
        assert_eq!(attempt(rig, &s, false), Some((0, 0x4000_0000)));
        rig.put(OWN + 8, P | W);
        // mov eax,cr3; mov cr3,eax
        rig.write(CODE, b"\x0f\x20\xd8\x0f\x22\xd8");
        s.cr3 = OWN;
        rig.put(OWN + 8, 0);
        rig.set_state(&s);
        rig.put(OWN + 8, P | W);
        let t = stop(rig);
        assert_eq!((t.rip, rig.get(t.rsp) & 0xffff_ffff), (HANDLERS + 16 * 13 + 2, 0));
        // The pointers are registers: a change in memory is seen when CR3 is loaded.
        rig.put(OWN + 8, 0);
        rig.set_state(&s);
        rig.put(OWN + 8, (OWN + 0x3000) | P);
        rig.put(OWN + 0x3000, DATA & !0x1f_ffff | P | W | PS);
        rig.put(0x0, 0x55);
        rig.write(CODE, b"\x0f\x20\xd8\x0f\x22\xd8\x8b\x0b\xe6\xf4");
        let t = stop(rig);
        assert_eq!(t.rcx, 0x55);
    });
}

/// 64-bit mode with the handlers' table; code, stack and tables are supervisor pages, and all of it is once more at 4 MiB
/// for users.
fn long(rig: &Rig, code: &[u8]) -> State {
    rig.write(CODE, code);
    let mut s = rig.long(CODE);
    for v in 0..64 {
        let at = HANDLERS + 16 * v;
        rig.write(at, b"\xe6\xf4\xeb\xfe");
        rig.put(IDT + 16 * v, at & 0xffff | 0x10 << 16 | 0x8e << 40 | (at & 0xffff_0000) << 32);
        rig.put(IDT + 16 * v + 8, 0);
    }
    (s.idt.base, s.idt.limit) = (IDT, 1023);
    rig.put(TABLES + 0x2000, P | W | PS);
    rig.put(TABLES + 0x2008, 0x20_0000 | P | W | PS);
    rig.put(TABLES + 0x2010, P | W | U | PS);
    s.cr0 |= CR0_WP;
    s
}

#[test]
fn supervisors_and_user_pages() {
    both(|rig| {
        let user = 0x40_0000 + DATA + 0x800;
        for (cr4, code, want) in [
            (0, JUMP, None),
            (CR4_SMEP, JUMP, Some(0x11)),
            (CR4_SMEP, READ, None),
            (CR4_SMAP, JUMP, None),
            (CR4_SMAP, READ, Some(1)),
            (CR4_SMAP, WRITE, Some(3)),
            // stac; mov ecx,[rbx]; out
            (CR4_SMAP, b"\x0f\x01\xcb\x8b\x0b\xe6\xf4", None),
            // stac; clac; mov
            (CR4_SMAP, b"\x0f\x01\xcb\x0f\x01\xca\x8b\x0b", Some(1)),
        ] {
            let mut s = long(rig, code);
            s.cr4 |= cr4;
            s.rbx = user;
            assert_eq!(attempt(rig, &s, true), want.map(|e| (e, user)), "{cr4:x} {code:x?}");
        }
        // Tables that the processor reads by itself: AC does not help. stac; mov ds,ax with the GDT in a user page.
        let mut s = long(rig, b"\x0f\x01\xcb\x8e\xd8\xe6\xf4");
        s.cr4 |= CR4_SMAP;
        s.rax = 0x18;
        s.gdt.base = 0x40_0800;
        rig.set_state(&s);
        // The handler's code segment is in that table, too.
        assert_eq!(rig.run(), Exit::Reset);
        assert_eq!(rig.state().cr2, 0x40_0800 + 0x10);
    });
}

#[test]
fn large_pages_and_reserved_bits() {
    both(|rig| {
        let mut s = long(rig, READ);
        s.efer |= EFER_NXE;
        s.rbx = 0x4010_0800;
        for (pdpte, want) in [
            (P | W | PS, None),
            (P | W | PS | 1 << 13, Some(9)),
            (P | W | PS | 1 << 29, Some(9)),
            (P | W | PS | 1 << 51, Some(9)),
            (0, Some(0)),
        ] {
            rig.put(TABLES + 0x1008, pdpte);
            assert_eq!(attempt(rig, &s, true), want.map(|e| (e, 0x4010_0800)), "{pdpte:x}");
        }
        // PS in the fourth level.
        s.rbx = 1 << 39;
        rig.put(TABLES + 8, P | W | PS);
        assert_eq!(attempt(rig, &s, true), Some((9, 1 << 39)));
        rig.put(TABLES + 8, 0);
    });
}

#[test]
fn five_levels() {
    both(|rig| {
        let mut s = long(rig, b"\x48\x8b\x0b\xe6\xf4\xeb\xfe");
        rig.write(OWN, &[0; 0x1000]);
        rig.put(OWN, TABLES | P | W);
        rig.put(OWN + 8 * 16, TABLES | P | W);
        rig.put(OWN + 8 * 511, TABLES | P | W);
        rig.put(0x10_1800, 0x77);
        s.cr3 = OWN;
        s.cr4 |= CR4_LA57;
        for base in [0, 1 << 52, 511 << 48 | 0xfe << 56] {
            s.rbx = base | 0x10_1800;
            assert_eq!(attempt(rig, &s, true), None, "{base:x}");
            assert_eq!(rig.state().rcx, 0x77);
        }
        s.rbx = 1 << 53 | 1 << 52;
        assert_eq!(attempt(rig, &s, true), Some((0, s.rbx)));
        // Beyond 57 bits, and beyond 48 without the fifth level: not canonical.
        s.rbx = 1 << 57;
        rig.set_state(&s);
        assert_eq!(stop(rig).rip, HANDLERS + 16 * 13 + 2);
        let mut s = long(rig, READ);
        s.rbx = 1 << 52;
        rig.set_state(&s);
        assert_eq!(stop(rig).rip, HANDLERS + 16 * 13 + 2);
        // The number of levels stays while long mode is on: mov cr4,rax
        let mut s = long(rig, b"\x0f\x22\xe0");
        s.rax = s.cr4 | CR4_LA57;
        rig.set_state(&s);
        assert_eq!(stop(rig).rip, HANDLERS + 16 * 13 + 2);
    });
}

#[test]
fn flushes_reach_what_they_should() {
    both(|rig| {
        // Page 0x60_0000 by a table of its own. The code reads it, runs `flush`, and reads it again.
        let entry = OWN + 0x2000;
        let flushes: [(&[u8], u64, u64); 7] = [
            // invlpg [rbx]
            (b"\x0f\x01\x3b", 0, G),
            // mov rax,cr3; mov cr3,rax: not for global pages, which have to stay only by good will.
            (b"\x0f\x20\xd8\x0f\x22\xd8", 0, 0),
            // mov rax,cr4; xor al,0x80; mov cr4,rax
            (b"\x0f\x20\xe0\x34\x80\x0f\x22\xe0", CR4_PGE, G),
            // The same loads of CR3 with process-context identifiers.
            (b"\x0f\x20\xd8\x0f\x22\xd8", CR4_PCIDE, 0),
            // xor eax,eax; invpcid rax,[rsi]: one address.
            (b"\x31\xc0\x66\x0f\x38\x82\x06", CR4_PCIDE, 0),
            // mov eax,1; invpcid: one identifier
            (b"\xb8\x01\0\0\0\x66\x0f\x38\x82\x06", CR4_PCIDE, 0),
            // mov eax,2; invpcid: all
            (b"\xb8\x02\0\0\0\x66\x0f\x38\x82\x06", CR4_PCIDE | CR4_PGE, G),
        ];
        for (flush, cr4, g) in flushes {
            // mov rcx,[rbx]; mov [rdi],rdx (the entry)
            let mut code = b"\x48\x8b\x0b\x48\x89\x17".to_vec();
            code.extend(flush);
            // mov rbp,[rbx]; out
            code.extend(b"\x48\x8b\x2b\xe6\xf4\xeb\xfe");
            let mut s = long(rig, &code);
            s.cr4 |= cr4 | CR4_PGE;
            rig.put(TABLES + 0x2018, entry | P | W);
            rig.put(entry, DATA | P | W | g);
            rig.put(DATA, 1);
            rig.put(DATA + 0x1000, 2);
            (s.rbx, s.rdi, s.rdx, s.rsi) = (0x60_0000, entry, (DATA + 0x1000) | P | W | g, 0x9_8000);
            rig.put(0x9_8000, 0);
            rig.put(0x9_8008, 0x60_0000);
            rig.set_state(&s);
            let t = stop(rig);
            assert_eq!((t.rcx, t.rbp), (1, 2), "{flush:x?}");
        }
        // Identifiers keep what belongs to them: another space under identifier 1, back without a flush.
        // mov rcx,[rbx]; mov cr3,rax (1); mov rdx,[rbx]; mov cr3,rsi (0, keep); mov rbp,[rbx]; out
        let code = b"\x48\x8b\x0b\x0f\x22\xd8\x48\x8b\x13\x0f\x22\xde\x48\x8b\x2b\xe6\xf4\xeb\xfe";
        let mut s = long(rig, code);
        s.cr4 |= CR4_PCIDE;
        rig.put(entry, DATA | P | W);
        // The other space: the same upper tables, but for the directory.
        rig.write(OWN, &rig.read(TABLES, 4096));
        rig.put(OWN, (OWN + 0x1000) | P | W);
        rig.put(OWN + 0x1000, (OWN + 0x3000) | P | W);
        rig.write(OWN + 0x3000, &rig.read(TABLES + 0x2000, 4096));
        rig.put(OWN + 0x3018, (OWN + 0x4000) | P | W);
        rig.put(OWN + 0x4000, (DATA + 0x1000) | P | W);
        (s.rbx, s.rax, s.rsi) = (0x60_0000, OWN | 1, TABLES | 1 << 63);
        rig.set_state(&s);
        let t = stop(rig);
        assert_eq!((t.rcx, t.rdx, t.rbp, t.cr3), (1, 2, 1, TABLES));
    });
}

/// Reads a page, changes one word of the tables, loads CR3 and reads the page again: the second read sees the change.
#[test]
fn loads_of_cr3_see_changed_tables() {
    /// mov ecx,[ebx]; mov [edi],edx; mov eax,cr3; mov cr3,eax; mov ebp,[ebx]; out
    const CODE32: &[u8] = b"\x8b\x0b\x89\x17\x0f\x20\xd8\x0f\x22\xd8\x8b\x2b\xe6\xf4\xeb\xfe";
    const CODE64: &[u8] = b"\x48\x8b\x0b\x48\x89\x17\x0f\x20\xd8\x0f\x22\xd8\x48\x8b\x2b\xe6\xf4\xeb\xfe";
    let (other, directory, pointers) = (OWN + 0x3000, OWN + 0x4000, OWN + 0x5000);
    both(|rig| {
        let check = |rig: &mut Rig, s: &State, at: u64, value: u64| {
            rig.put(DATA, 1);
            rig.put(DATA + 0x1000, 2);
            let (s, old) = (State { rdi: at, rdx: value, ..s.clone() }, rig.get(at));
            rig.set_state(&s);
            let t = stop(rig);
            rig.put(at, old);
            assert_eq!((t.rcx & 0xffff_ffff, t.rbp & 0xffff_ffff), (1, 2), "word at {at:#x}");
        };
        for at in [OWN + 0x2000, OWN + 4] {
            let mut s = paged32(rig, false);
            rig.write(CODE, CODE32);
            put32(rig, OWN + 0x2000, DATA | P | W);
            put32(rig, other, (DATA + 0x1000) | P | W);
            s.rbx = 0x40_0000;
            let value = if at == OWN + 4 { other } else { DATA + 0x1000 };
            check(rig, &s, at, value | P | W);
        }
        for (at, value) in [(OWN + 0x2000, DATA + 0x1000), (OWN + 0x1010, other), (OWN, directory)] {
            let mut s = paged32(rig, true);
            rig.write(CODE, CODE32);
            rig.put(OWN + 0x2000, DATA | P | W);
            rig.put(other, (DATA + 0x1000) | P | W);
            rig.write(directory, &rig.read(OWN + 0x1000, 4096));
            rig.put(directory + 0x10, other | P | W);
            s.rbx = 0x40_0000;
            check(rig, &s, at, value | P | if at == OWN { 0 } else { W });
        }
        let places = [
            (OWN + 0x2000, DATA + 0x1000),
            (TABLES + 0x2018, other),
            (TABLES + 0x1000, directory),
            (TABLES, pointers),
        ];
        for (at, value) in places {
            let mut s = long(rig, CODE64);
            rig.put(TABLES + 0x2018, (OWN + 0x2000) | P | W);
            rig.put(OWN + 0x2000, DATA | P | W);
            rig.put(other, (DATA + 0x1000) | P | W);
            rig.write(directory, &rig.read(TABLES + 0x2000, 4096));
            rig.put(directory + 0x18, other | P | W);
            rig.write(pointers, &rig.read(TABLES + 0x1000, 4096));
            rig.put(pointers, directory | P | W);
            s.rbx = 0x60_0000;
            check(rig, &s, at, value | P | W);
        }
    });
}

#[test]
fn loads_of_cr3_drop_what_was_stale_before() {
    both(|rig| {
        let entry = OWN + 0x2000;
        // Two walks by different rights with a change between: mov rcx,[rbx]; mov [rdi],rdx; stac; mov rsi,[rbx]; clac; then
        // mov rax,cr3; mov cr3,rax; mov rbp,[rbx]; out
        let code = b"\x48\x8b\x0b\x48\x89\x17\x0f\x01\xcb\x48\x8b\x33\x0f\x01\xca\x0f\x20\xd8\x0f\x22\xd8\x48\x8b\x2b\xe6\xf4\xeb\xfe";
        let mut s = long(rig, code);
        s.cr4 |= CR4_SMAP;
        rig.put(TABLES + 0x2018, entry | P | W);
        rig.put(entry, DATA | P | W);
        rig.put(DATA, 1);
        rig.put(DATA + 0x1000, 2);
        (s.rbx, s.rdi, s.rdx) = (0x60_0000, entry, (DATA + 0x1000) | P | W);
        rig.set_state(&s);
        let t = stop(rig);
        assert_eq!((t.rcx, t.rsi, t.rbp), (1, 2, 2));
        // Bits that are taken away are set again: mov [rbx],rcx; mov [rdi],rdx; mov rax,cr3; mov cr3,rax; mov [rbx],rcx; out
        let code = b"\x48\x89\x0b\x48\x89\x17\x0f\x20\xd8\x0f\x22\xd8\x48\x89\x0b\xe6\xf4\xeb\xfe";
        rig.write(CODE, code);
        s.rdx = DATA | P | W;
        rig.put(entry, s.rdx);
        rig.set_state(&s);
        stop(rig);
        assert_eq!(rig.get(entry) & 0xfff, P | W | 0x60);
    });
}

#[test]
fn protection_keys() {
    both(|rig| {
        let entry = OWN + 0x2000;
        // xor ecx,ecx; xor edx,edx; wrpkru; xor eax,eax; rdpkru; then the access at rbx.
        let set = b"\x31\xc9\x31\xd2\x0f\x01\xef\x31\xc0\x0f\x01\xee";
        // mov esi,[rbx]; out / mov [rbx],esi; out
        let (read, write) = (b"\x8b\x33\xe6\xf4\xeb\xfe".as_slice(), b"\x89\x33\xe6\xf4\xeb\xfe".as_slice());
        for (pkru, code, pte, want) in [
            (0, read, U, None),
            (1 << 6, read, U, Some(0x21)),
            (1 << 6, write, U, Some(0x23)),
            (2 << 6, read, U, None),
            (2 << 6, write, U, Some(0x23)),
            (3 << 4, write, U, None),
            // Supervisor pages have no key.
            (3 << 6, write, 0, None),
        ] {
            let mut s = long(rig, &[set, code].concat());
            s.cr4 |= 1 << 22;
            rig.put(TABLES + 0x2018, entry | P | W | U);
            rig.put(entry, DATA | P | W | pte | 3 << 59);
            (s.rax, s.rbx) = (pkru, 0x60_0000);
            assert_eq!(attempt(rig, &s, true), want.map(|e| (e, 0x60_0000)), "{pkru:x} {code:x?}");
            let t = rig.state();
            assert_eq!((t.rax, u64::from(t.fpu.pkru)), (pkru, pkru));
        }
        // Without CR4.PKE the instructions do not exist.
        let s = long(rig, set);
        rig.set_state(&s);
        assert_eq!(stop(rig).rip, HANDLERS + 16 * 6 + 2);
    });
}

/// Tables of random bits, some of which lead back to themselves or to nowhere, stop the guest at most.
#[test]
fn hostile_tables_do_no_harm() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut rig = Rig::new("max", "interp");
    for n in 0..400_u64 {
        let mut s = match n % 3 {
            0 => paged32(&rig, false),
            1 => paged32(&rig, true),
            _ => long(&rig, READ),
        };
        rig.write(CODE, [READ, WRITE, JUMP][(n / 3 % 3) as usize]);
        if n & 1 != 0 {
            s.efer |= EFER_NXE;
        }
        let table = if n % 3 == 2 { TABLES } else { OWN };
        for _ in 0..6 {
            // An entry of any level, of random bits or one that leads to a table.
            let at = table + (random() & 3) * 0x1000 + (random() & 3) * 8;
            let to = table + (random() & 3) * 0x1000;
            let bits = random() & random() & 0x1ff | P;
            rig.put(at, if random() & 1 == 0 { to | bits } else { random() & random() });
        }
        s.rbx = random() & 0x7fff_ffff_ffff >> (random() & 31);
        if n % 3 != 2 {
            s.rbx &= 0xffff_ffff;
        }
        rig.set_state(&s);
        rig.vcpu.set_debug(&accel::DebugConfig { single_step: true, ..Default::default() }).unwrap();
        for _ in 0..12 {
            if !matches!(rig.run(), Exit::Debug(_)) {
                break;
            }
        }
        rig.vcpu.set_debug(&accel::DebugConfig::default()).unwrap();
        // The next round begins with sound tables.
        let rig = &mut rig;
        rig.set_state(&rig.fresh.clone());
        rig.write(TABLES, &[0; 0x3000]);
        rig.put(TABLES, (TABLES + 0x1000) | 7);
        rig.put(TABLES + 0x1000, (TABLES + 0x2000) | 7);
        for n in 0..512 {
            rig.put(TABLES + 0x2000 + 8 * n, n << 21 | 0xe7);
        }
    }
}
