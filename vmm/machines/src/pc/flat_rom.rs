//! The boot ROM's way into flat protected mode: asks the firmware for what the kernel's tables still lack, and starts the kernel.
//!
//! BIOS interrupts 12h (conventional memory) and 15h/E820h (ACPI Specification 6.5, 15.1); ACPI 5.2.5.1 (where the root pointer
//! is). The first part is 16-bit code of the ROM, the second stands in the head of the tables, as its address must be known.

use crate::bytes::put;
use crate::direct::{Flat, HEAD, INFO};

/// In the head of the tables: descriptor table register, descriptors, code.
const GDTR: usize = 0x20;
const GDT: usize = 0x28;
const CODE: usize = 0x40;
/// What a kernel may use until it has a stack of its own.
const STACK: u32 = 0x9000;

/// Code with 16-bit or 32-bit fields in between.
#[derive(Default)]
struct Code(Vec<u8>);

impl Code {
    fn add(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn word(&mut self, opcode: &[u8], word: usize) -> &mut Self {
        self.add(opcode).add(&(word as u16).to_le_bytes())
    }

    fn long(&mut self, opcode: &[u8], long: u32) -> &mut Self {
        self.add(opcode).add(&long.to_le_bytes())
    }
}

/// 16-bit code that goes on to the part in the tables' head, for the end of the boot ROM's.
pub(super) fn real_mode(flat: &Flat) -> Vec<u8> {
    let blanks = &flat.info.blanks;
    let mut c = Code::default();
    c.word(&[0xb8], (INFO.start >> 4) as usize); // mov ax, INFO >> 4
    c.add(&[0x8e, 0xc0]); // mov es, ax
    c.add(&[0xcd, 0x12]); // int 0x12
    c.add(&[0x66, 0x0f, 0xb7, 0xc0]); // movzx eax, ax
    c.word(&[0x26, 0x66, 0xa3], blanks.lower); // mov es:[lower], eax
    c.word(&[0xbf], blanks.map); // mov di, map
    c.add(&[0x66, 0x31, 0xdb]); // xor ebx, ebx
    c.add(&[0x31, 0xed]); // xor bp, bp
    // next:
    c.long(&[0x66, 0xb8], 0xe820); // mov eax, 0xe820
    c.add(&[0x66, 0xba]).add(b"PAMS"); // mov edx, 'SMAP'
    c.long(&[0x66, 0xb9], 20); // mov ecx, 20
    c.add(&[0xcd, 0x15]); // int 0x15
    c.add(&[0x72, 0x2f]); // jc done
    c.add(&[0x66, 0x3d]).add(b"PAMS"); // cmp eax, 'SMAP'
    c.add(&[0x75, 0x27]); // jne done
    c.long(&[0x26, 0x66, 0x81, 0x3d], 0x10_0000); // cmp dword es:[di], 1 MiB
    c.add(&[0x75, 0x0e]); // jne other
    c.add(&[0x26, 0x66, 0x8b, 0x45, 8]); // mov eax, es:[di + 8]
    c.add(&[0x66, 0xc1, 0xe8, 10]); // shr eax, 10
    c.word(&[0x26, 0x66, 0xa3], blanks.upper); // mov es:[upper], eax
    // other:
    c.add(&[0x45]); // inc bp
    c.add(&[0x83, 0xc7, 24]); // add di, 24
    c.word(&[0x81, 0xfd], 128); // cmp bp, 128
    c.add(&[0x73, 0x05]); // jae done
    c.add(&[0x66, 0x85, 0xdb]); // test ebx, ebx
    c.add(&[0x75, 0xbb]); // jnz next
    // done: the end of Multiboot 2's list; behind the map of the others nobody looks.
    c.long(&[0x26, 0x66, 0xc7, 0x45, 4], 8); // mov dword es:[di + 4], 8
    c.add(&[0x66, 0x0f, 0xb7, 0xc5]); // movzx eax, bp
    c.word(&[0x26, 0x66, 0xa3], blanks.count); // mov es:[count], eax
    c.add(&[0x66, 0x6b, 0xc0, 24]); // imul eax, eax, 24
    c.word(&[0x26, 0x66, 0x01, 0x06], blanks.length); // add es:[length], eax
    c.word(&[0x26, 0x66, 0x01, 0x06], blanks.total); // add es:[total], eax
    c.word(&[0x26, 0x66, 0x0f, 0x01, 0x16], GDTR); // lgdt es:[GDTR]
    c.add(&[0x0f, 0x20, 0xc0]); // mov eax, cr0
    c.add(&[0x0c, 1]); // or al, 1
    c.add(&[0x0f, 0x22, 0xc0]); // mov cr0, eax
    c.long(&[0x66, 0xea], INFO.start as u32 + CODE as u32); // jmp 8:CODE
    c.word(&[], 8);
    c.0
}

/// Fills in the head of the tables.
pub(super) fn fill_head(flat: &mut Flat) {
    let at = |offset: usize| INFO.start as u32 + offset as u32;
    let blanks = flat.info.blanks;
    let mut c = Code::default();
    c.add(&[0x66, 0xb8, 0x10, 0]); // mov ax, 0x10
    c.add(&[0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xe0, 0x8e, 0xe8, 0x8e, 0xd0]); // mov ds/es/fs/gs/ss, eax
    c.long(&[0xbc], STACK); // mov esp, STACK
    c.long(&[0xbe], 0xe_0000); // mov esi, 0xe0000
    // look:
    c.add(&[0x81, 0x3e]).add(b"RSD "); // cmp dword [esi], 'RSD '
    c.add(&[0x75, 0x09]); // jne on
    c.add(&[0x81, 0x7e, 4]).add(b"PTR "); // cmp dword [esi + 4], 'PTR '
    c.add(&[0x74, 0x0d]); // je found
    c.add(&[0x83, 0xc6, 16]); // on: add esi, 16
    c.long(&[0x81, 0xfe], 0x10_0000); // cmp esi, 1 MiB
    c.add(&[0x72, 0xe4]); // jb look
    c.add(&[0xeb, 0x1c]); // jmp go
    c.long(&[0x89, 0x35], at(blanks.rsdp)); // found: mov [rsdp], esi
    c.long(&[0xc7, 0x05], at(blanks.rsdp_tag)).long(&[], 14); // mov dword [tag], 14
    c.long(&[0xbf], at(blanks.rsdp_tag + 8)); // mov edi, tag + 8
    c.long(&[0xb9], 5); // mov ecx, 5
    c.add(&[0xf3, 0xa5]); // rep movsd
    c.long(&[0xb8], flat.magic); // go: mov eax, magic
    c.long(&[0xbb], flat.info.address()); // mov ebx, tables
    c.long(&[0xb9], flat.entry); // mov ecx, entry
    c.add(&[0xff, 0xe1]); // jmp ecx
    let head = &mut flat.info.bytes[..HEAD];
    put(head, GDTR, 23, 2);
    put(head, GDTR + 2, at(GDT).into(), 4);
    put(head, GDT + 8, 0x00cf_9b00_0000_ffff, 8);
    put(head, GDT + 16, 0x00cf_9300_0000_ffff, 8);
    head[CODE..CODE + c.0.len()].copy_from_slice(&c.0);
}
