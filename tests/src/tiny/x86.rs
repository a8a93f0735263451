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
