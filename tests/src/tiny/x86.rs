//! x86 guests for `microvm`, started by PVH in flat 32-bit protected mode.
//!
//! Sources: Intel SDM volume 2 (encodings), volume 3 (descriptors, gates); "x86/HVM direct boot ABI" (PVH) with ELF note 18
//! for the 32-bit entry; Intel 8259A and 8254 data sheets (initialisation, mode 2); `isa-debug-exit`, which ends the run
//! with the byte written to its port.

/// Where `microvm`'s tiny guests tell the emulator to end.
pub const DEBUG_EXIT_PORT: u16 = 0xf4;

/// What they write there; the exit code `value << 1 | 1` is then not that of an error.
pub const DEBUG_EXIT_VALUE: u8 = 0x2a;

/// What a tiny x86 guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum X86 {
    /// Writes [`DEBUG_EXIT_VALUE`] to [`DEBUG_EXIT_PORT`].
    Exit,
    /// Prints `READY` on the first serial port and halts for good.
    ReadyThenHalt,
    /// Prints `TICK a` to `TICK z`, one every 16 interrupts of the timer (128 ms), then ends as [`X86::Exit`] does. What it
    /// counts with is spread over general and vector registers, memory, descriptor tables, the interrupt controller
    /// and the timer; when a register has lost its value it prints `BAD` and halts.
    Ticks,
    /// The same with a handler that ends with `iretd`, which a KVM that emulates guest kernels does not know.
    TicksIret,
}

/// What starts a kernel that says what it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loader {
    /// Multiboot 1, a flat file that says where it goes.
    Multiboot1,
    /// Multiboot 2, a 64-bit ELF file.
    Multiboot2,
    /// PVH, a 64-bit ELF file.
    Pvh,
}

/// Where the code is loaded and entered.
const BASE: u32 = 0x10_0000;

/// Where [`X86::Ticks`] has its descriptor tables and data: far above the code, in RAM of 4 MiB and more.
const DATA: u32 = 0x20_0000;
const IDT: u32 = DATA + 0x100;
const COUNT: u32 = DATA + 0x400;
const PATTERN: u32 = DATA + 0x410;
const SCRATCH: u32 = DATA + 0x420;
const POINTER: u32 = DATA + 0x430;
const STACK: u32 = DATA + 0x1_0000;

/// What [`X86::Ticks`] keeps in EBP throughout.
const KEPT: u32 = 0x5eed_cafe;

/// 32-bit x86 code under construction, at [`BASE`].
#[derive(Default)]
struct Code {
    bytes: Vec<u8>,
}

impl Code {
    fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn word(&mut self, opcode: &[u8], word: u32) {
        self.raw(opcode);
        self.raw(&word.to_le_bytes());
    }

    fn here(&self) -> u32 {
        BASE + self.bytes.len() as u32
    }

    /// `mov dword [address], value`.
    fn store(&mut self, address: u32, value: u32) {
        self.word(&[0xc7, 0x05], address);
        self.raw(&value.to_le_bytes());
    }

    /// `mov al, value; out port, al`.
    fn out_low(&mut self, port: u8, value: u8) {
        self.raw(&[0xb0, value, 0xe6, port]);
    }

    /// `mov dx, port`.
    fn port(&mut self, port: u16) {
        self.raw(&[0x66, 0xba]);
        self.raw(&port.to_le_bytes());
    }

    /// Prints `text` on the first serial port.
    fn print(&mut self, text: &[u8]) {
        self.port(0x3f8);
        for byte in text {
            self.raw(&[0xb0, *byte, 0xee]); // mov al, byte; out dx, al
        }
    }

    /// A conditional or unconditional short jump whose end is not known yet; its place, for [`Code::land`].
    fn jump(&mut self, opcode: u8) -> usize {
        self.raw(&[opcode, 0]);
        self.bytes.len()
    }

    /// The jump from `from` lands here.
    fn land(&mut self, from: usize) {
        self.bytes[from - 1] = (self.bytes.len() - from) as u8;
    }

    /// A near jump (`jmp`, `jcc` by `opcode`) back to `address`.
    fn back(&mut self, opcode: &[u8], address: u32) {
        let next = self.here() + opcode.len() as u32 + 4;
        self.word(opcode, address.wrapping_sub(next));
    }

    fn halt(&mut self) {
        self.raw(&[0xfa, 0xf4, 0xeb, 0xfd]); // cli; hlt; jmp to the hlt
    }

    fn exit(&mut self) {
        self.port(DEBUG_EXIT_PORT);
        self.raw(&[0xb0, DEBUG_EXIT_VALUE, 0xee]); // mov al, value; out dx, al
    }
}

/// Descriptor tables, interrupt controllers and timer of [`X86::Ticks`].
fn prepare(code: &mut Code) {
    code.word(&[0xbc], STACK); // mov esp, STACK
    for (entry, [low, high]) in [[0, 0], [0xffff, 0x00cf_9b00], [0xffff, 0x00cf_9300]].into_iter().enumerate()
    {
        code.store(DATA + entry as u32 * 8, low);
        code.store(DATA + entry as u32 * 8 + 4, high);
    }
    for (limit, base, load) in [(23, DATA, 0x15), (0x107, IDT, 0x1d)] {
        code.store(POINTER, limit | base << 16);
        code.store(POINTER + 4, base >> 16);
        code.word(&[0x0f, 0x01, load], POINTER); // lgdt, lidt
    }
    let next = code.here() + 7;
    code.word(&[0xea], next); // jmp 8:next
    code.raw(&[8, 0]);
    code.raw(&[0xb8, 0x10, 0, 0, 0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0]); // mov eax, 16; mov ds, es, ss
    code.raw(&[0x0f, 0x20, 0xe0, 0x0d, 0, 2, 0, 0, 0x0f, 0x22, 0xe0]); // CR4.OSFXSR
    // Interrupts 0x20 and up, only the timer's let through; every 9545 periods of 1.193182 MHz, 8 ms.
    for value in [0x11, 0x20, 4, 1, 0xfe] {
        code.out_low(if value == 0x11 { 0x20 } else { 0x21 }, value);
    }
    code.out_low(0x43, 0x34);
    code.out_low(0x40, 0x49);
    code.out_low(0x40, 0x25);
}

/// The guest of [`X86::Ticks`].
fn ticks(code: &mut Code, iret: bool) {
    // The handler comes first, so that its address is known: count, end the interrupt, return.
    let over = code.jump(0xeb);
    let handler = code.here();
    code.raw(&[0x50]); // push eax
    code.word(&[0xff, 0x05], COUNT); // inc dword [COUNT]
    code.out_low(0x20, 0x20);
    code.raw(&[0x58]); // pop eax
    if iret {
        code.raw(&[0xcf]); // iretd
    } else {
        // All that is needed is on the stack, should the next interrupt come in between.
        code.raw(&[0xff, 0x74, 0x24, 8, 0x9d, 0xca, 4, 0]); // push dword [esp + 8]; popfd; retf 4
    }
    code.land(over);
    prepare(code);
    code.store(IDT + 0x20 * 8, 8 << 16 | handler & 0xffff);
    code.store(IDT + 0x20 * 8 + 4, handler & 0xffff_0000 | 0x8e00);
    for word in 0..4 {
        code.store(PATTERN + word * 4, KEPT ^ word);
    }
    code.store(COUNT, 0);
    code.word(&[0xf3, 0x0f, 0x6f, 0x1d], PATTERN); // movdqu xmm3, [PATTERN]
    code.word(&[0xbd], KEPT); // mov ebp, KEPT
    code.raw(&[0x31, 0xff, 0xfb]); // xor edi, edi; sti
    let again = code.here();
    code.raw(&[0xf4]); // hlt
    code.word(&[0xa1], COUNT);
    code.raw(&[0xc1, 0xe8, 4, 0x39, 0xf8]); // shr eax, 4; cmp eax, edi
    code.back(&[0x0f, 0x84], again); // je
    code.raw(&[0x47]); // inc edi
    code.print(b"TICK ");
    code.raw(&[0x8d, 0x47, b'a' - 1, 0xee]); // lea eax, [edi + 'a' - 1]; out dx, al
    code.print(b"\r\n");
    code.word(&[0xf3, 0x0f, 0x7f, 0x1d], SCRATCH); // movdqu [SCRATCH], xmm3
    let mut wrong = Vec::new();
    for word in 0..4 {
        code.word(&[0xa1], SCRATCH + word * 4);
        code.word(&[0x35], word); // xor eax, word
        code.raw(&[0x39, 0xe8]); // cmp eax, ebp
        wrong.push(code.jump(0x75)); // jne
    }
    code.word(&[0x81, 0xfd], KEPT); // cmp ebp, KEPT
    wrong.push(code.jump(0x75));
    code.raw(&[0x83, 0xff, 26]); // cmp edi, 26
    code.back(&[0x0f, 0x85], again); // jne
    code.exit();
    code.halt();
    for jump in wrong {
        code.land(jump);
    }
    code.print(b"BAD\r\n");
}

/// An ELF file that a PVH loader starts in 32-bit protected mode.
pub fn x86_pvh(what: X86) -> Vec<u8> {
    let mut code = Code::default();
    code.raw(&[0xfa]); // cli
    match what {
        X86::Exit => code.exit(),
        X86::ReadyThenHalt => code.print(b"READY\r\n"),
        X86::Ticks => ticks(&mut code, false),
        X86::TicksIret => ticks(&mut code, true),
    }
    code.halt();
    elf(&code.bytes)
}

/// A kernel that checks the tables it was given, prints command line, words of its first module (not with PVH, which has none)
/// and contents of that, each on a line, and ends with [`DEBUG_EXIT_VALUE`]; it prints `BAD` if something is wrong.
pub fn x86_told(loader: Loader) -> Vec<u8> {
    let mut code = Code::default();
    match loader {
        Loader::Multiboot1 => {
            let (magic, flags) = (0x1bad_b002u32, 0x1_0003u32);
            let sum = 0u32.wrapping_sub(magic).wrapping_sub(flags);
            // Header, load start, no ends, a page cleared behind it; the code follows.
            for word in [magic, flags, sum, BASE, BASE, 0, BASE + 0x2000, BASE + 32] {
                code.word(&[], word);
            }
        }
        Loader::Multiboot2 => {
            let (magic, len) = (0xe852_50d6u32, 40u32);
            // Wanted: command line, modules. Then the entry, and the end.
            for word in [magic, 0, len, 0u32.wrapping_sub(magic).wrapping_sub(len)] {
                code.word(&[], word);
            }
            for word in [1 << 16 | 3, 12, BASE + 40, 0, 0, 8] {
                code.word(&[], word);
            }
        }
        Loader::Pvh => {}
    }
    code.word(&[0xbc], STACK); // mov esp, STACK
    let over = code.jump(0xeb);
    let bad = code.here();
    code.print(b"BAD\r\n");
    code.halt();
    code.land(over);
    match loader {
        Loader::Multiboot1 => told_by_multiboot1(&mut code, bad),
        Loader::Multiboot2 => told_by_multiboot2(&mut code, bad),
        Loader::Pvh => told_by_pvh(&mut code, bad),
    }
    code.exit();
    code.halt();
    match loader {
        Loader::Multiboot1 => code.bytes,
        Loader::Multiboot2 => elf_without_note(&code.bytes),
        Loader::Pvh => elf(&code.bytes),
    }
}

/// Prints the text that ESI leads to, and ends the line.
fn print_text(code: &mut Code) {
    code.port(0x3f8);
    code.raw(&[0xac, 0x84, 0xc0, 0x74, 3, 0xee, 0xeb, 0xf8]); // lodsb; test al, al; jz +3; out dx, al; jmp to the lodsb
    code.print(b"\r\n");
}

fn told_by_multiboot1(code: &mut Code, bad: u32) {
    code.word(&[0x3d], 0x2bad_b002); // cmp eax, magic
    code.back(&[0x0f, 0x85], bad); // jne
    for (field, least) in [(4, 0x200), (8, 0x1000)] {
        code.word(&[0x81, 0x7b, field], least); // cmp dword [ebx + field], least: KiB of memory below and from 1 MiB on
        code.back(&[0x0f, 0x82], bad); // jb
    }
    code.raw(&[0x83, 0x7b, 44, 48]); // cmp dword [ebx + 44], 48: two entries of the memory map
    code.back(&[0x0f, 0x82], bad); // jb
    code.raw(&[0x8b, 0x4b, 48, 0x83, 0x39, 20]); // mov ecx, [ebx + 48]; cmp dword [ecx], 20
    code.back(&[0x0f, 0x85], bad); // jne
    code.raw(&[0x83, 0x79, 20, 1]); // cmp dword [ecx + 20], 1: RAM
    code.back(&[0x0f, 0x85], bad); // jne
    code.raw(&[0x8b, 0x73, 16]); // mov esi, [ebx + 16]
    print_text(code);
    code.raw(&[0x8b, 0x4b, 24, 0x8b, 0x71, 8]); // mov ecx, [ebx + 24]; mov esi, [ecx + 8]
    print_text(code);
    code.raw(&[0x8b, 0x31]); // mov esi, [ecx]
    print_text(code);
}

fn told_by_multiboot2(code: &mut Code, bad: u32) {
    code.word(&[0x3d], 0x36d7_6289); // cmp eax, magic
    code.back(&[0x0f, 0x85], bad); // jne
    code.raw(&[0x8b, 0x3b, 0x01, 0xdf, 0x83, 0xc3, 8]); // mov edi, [ebx]; add edi, ebx; add ebx, 8
    let next = code.here();
    code.raw(&[0x83, 0x3b, 1]); // cmp dword [ebx], 1: command line
    let other = code.jump(0x75);
    code.raw(&[0x8d, 0x73, 8]); // lea esi, [ebx + 8]
    print_text(code);
    code.land(other);
    code.raw(&[0x83, 0x3b, 3]); // cmp dword [ebx], 3: module
    let other = code.jump(0x75);
    code.raw(&[0x8d, 0x73, 16]); // lea esi, [ebx + 16]
    print_text(code);
    code.raw(&[0x8b, 0x73, 8]); // mov esi, [ebx + 8]
    print_text(code);
    code.land(other);
    code.raw(&[0x83, 0x3b, 6]); // cmp dword [ebx], 6: memory map
    let other = code.jump(0x75);
    code.raw(&[0x83, 0x7b, 4, 64]); // cmp dword [ebx + 4], 64: two entries
    code.back(&[0x0f, 0x82], bad); // jb
    code.raw(&[0x83, 0x7b, 8, 24]); // cmp dword [ebx + 8], 24: their size
    code.back(&[0x0f, 0x85], bad); // jne
    code.raw(&[0x83, 0x7b, 32, 1]); // cmp dword [ebx + 32], 1: RAM
    code.back(&[0x0f, 0x85], bad); // jne
    code.land(other);
    code.raw(&[0x83, 0x3b, 14]); // cmp dword [ebx], 14: ACPI's root pointer
    let other = code.jump(0x75);
    code.word(&[0x81, 0x7b, 8], u32::from_le_bytes(*b"RSD ")); // cmp dword [ebx + 8], 'RSD '
    code.back(&[0x0f, 0x85], bad); // jne
    code.print(b"ACPI ");
    code.land(other);
    // mov eax, [ebx + 4]; add eax, 7; and eax, -8; mov ecx, [ebx]; add ebx, eax; test ecx, ecx
    code.raw(&[0x8b, 0x43, 4, 0x83, 0xc0, 7, 0x83, 0xe0, 0xf8, 0x8b, 0x0b, 0x01, 0xc3, 0x85, 0xc9]);
    code.back(&[0x0f, 0x85], next); // jne: no end yet
    code.raw(&[0x39, 0xfb]); // cmp ebx, edi: the end of the whole
    code.back(&[0x0f, 0x85], bad); // jne
}

fn told_by_pvh(code: &mut Code, bad: u32) {
    code.word(&[0x81, 0x3b], 0x336e_c578); // cmp dword [ebx], magic
    code.back(&[0x0f, 0x85], bad); // jne
    code.raw(&[0x83, 0x7b, 48, 2]); // cmp dword [ebx + 48], 2: entries of the memory map
    code.back(&[0x0f, 0x82], bad); // jb
    code.raw(&[0x8b, 0x4b, 40, 0x83, 0x79, 16, 1]); // mov ecx, [ebx + 40]; cmp dword [ecx + 16], 1: RAM
    code.back(&[0x0f, 0x85], bad); // jne
    code.raw(&[0x8b, 0x4b, 32]); // mov ecx, [ebx + 32]
    code.word(&[0x81, 0x39], u32::from_le_bytes(*b"RSD ")); // cmp dword [ecx], 'RSD '
    code.back(&[0x0f, 0x85], bad); // jne
    code.raw(&[0x8b, 0x73, 24]); // mov esi, [ebx + 24]
    print_text(code);
    code.raw(&[0x8b, 0x4b, 16, 0x8b, 0x31]); // mov ecx, [ebx + 16]; mov esi, [ecx]
    print_text(code);
}

/// `code` as an executable for x86-64 that a Multiboot loader starts.
fn elf_without_note(code: &[u8]) -> Vec<u8> {
    let mut file = elf(code);
    file[56] = 1; // one program header
    file
}

/// `code` as an executable for x86-64 with the note that names its entry.
fn elf(code: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [4u32, 4, 18] {
        note.extend(word.to_le_bytes()); // name size, value size, XEN_ELFNOTE_PHYS32_ENTRY
    }
    note.extend(b"Xen\0");
    note.extend(BASE.to_le_bytes());

    let (code_at, note_at) = (0x1000u64, 0x200u64);
    let mut file = vec![0u8; 0x1000];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[0x7f, b'E', b'L', b'F', 2, 1, 1]);
    put(16, &2u16.to_le_bytes()); // executable
    put(18, &62u16.to_le_bytes()); // x86-64
    put(20, &1u32.to_le_bytes());
    put(24, &u64::from(BASE).to_le_bytes());
    put(32, &64u64.to_le_bytes()); // program headers right after this one
    put(52, &64u16.to_le_bytes());
    put(54, &56u16.to_le_bytes());
    put(56, &2u16.to_le_bytes());
    let mut segment = |index: usize, kind: u32, flags: u32, at: u64, address: u64, size: u64| {
        let base = 64 + index * 56;
        put(base, &kind.to_le_bytes());
        put(base + 4, &flags.to_le_bytes());
        for (field, value) in [at, address, address, size, size, 4].into_iter().enumerate() {
            put(base + 8 + field * 8, &value.to_le_bytes());
        }
    };
    segment(0, 1, 5, code_at, BASE.into(), code.len() as u64);
    segment(1, 4, 4, note_at, 0, note.len() as u64);
    put(note_at as usize, &note);
    file.extend(code);
    file
}
