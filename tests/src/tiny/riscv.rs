//! RISC-V guests for the `virt` board.
//!
//! Sources: "The RISC-V Instruction Set Manual, Volume I" (encodings, chapters RV32I, RV64I, M and C); the `virt`
//! board's test finisher (0x5555 at 0x10_0000 powers off).

/// Where the `virt` board's RAM begins and its firmware is put.
const RISCV_RAM: u64 = 0x8000_0000;

/// Where some of them store something.
pub const RISCV_STORE: u64 = RISCV_RAM + 0x10_0000;

/// RISC-V code under construction.
#[derive(Default)]
struct Riscv {
    code: Vec<u8>,
}

impl Riscv {
    fn word(&mut self, word: u32) {
        self.code.extend_from_slice(&word.to_le_bytes());
    }

    fn half(&mut self, half: u16) {
        self.code.extend_from_slice(&half.to_le_bytes());
    }

    fn lui(&mut self, rd: u32, upper: u32) {
        self.word((upper << 12) | (rd << 7) | 0x37);
    }

    fn immediate(&mut self, funct3: u32, rd: u32, rs1: u32, immediate: u32) {
        self.word(((immediate & 0xfff) << 20) | (rs1 << 15) | (funct3 << 12) | (rd << 7) | 0x13);
    }

    fn register(&mut self, funct7: u32, funct3: u32, rd: u32, rs1: u32, rs2: u32) {
        self.word((funct7 << 25) | (rs2 << 20) | (rs1 << 15) | (funct3 << 12) | (rd << 7) | 0x33);
    }

    fn load(&mut self, funct3: u32, rd: u32, rs1: u32, offset: u32) {
        self.word(((offset & 0xfff) << 20) | (rs1 << 15) | (funct3 << 12) | (rd << 7) | 0x03);
    }

    fn store(&mut self, funct3: u32, rs2: u32, rs1: u32, offset: u32) {
        let (high, low) = ((offset >> 5) & 0x7f, offset & 0x1f);
        self.word((high << 25) | (rs2 << 20) | (rs1 << 15) | (funct3 << 12) | (low << 7) | 0x23);
    }

    /// A branch over the 4-byte instruction that follows it: of a register compared with itself, so that it is known
    /// whether it is taken.
    fn branch_over(&mut self, taken: bool, register: u32) {
        let funct3 = if taken { 0 } else { 1 };
        self.word((register << 20) | (register << 15) | (funct3 << 12) | (8 << 7) | 0x63);
    }

    /// Ends the run through the test finisher.
    fn power_off(&mut self) {
        self.lui(5, 0x100);
        self.lui(6, 5);
        self.immediate(0, 6, 6, 0x555);
        self.store(2, 6, 5, 0);
        self.word(0x0000_006f); // j .
    }
}

/// A riscv64 firmware that powers off at once.
pub fn riscv_power_off() -> Vec<u8> {
    let mut guest = Riscv::default();
    guest.power_off();
    guest.code
}

/// A riscv64 firmware that stores 42 at [`RISCV_STORE`] and powers off.
pub fn riscv_store() -> Vec<u8> {
    let mut guest = Riscv::default();
    guest.lui(10, (RISCV_STORE >> 12) as u32);
    // The upper half is sign-extended: addresses of RAM here have bit 31 set.
    guest.immediate(1, 10, 10, 32);
    guest.immediate(5, 10, 10, 32);
    guest.immediate(0, 11, 0, 42);
    guest.store(2, 11, 10, 0);
    guest.power_off();
    guest.code
}

/// A riscv64 firmware that counts for ever, in register a1 and at [`RISCV_STORE`].
pub fn riscv_count() -> Vec<u8> {
    let mut guest = Riscv::default();
    guest.lui(10, (RISCV_STORE >> 12) as u32);
    guest.immediate(1, 10, 10, 32);
    guest.immediate(5, 10, 10, 32);
    guest.immediate(0, 11, 11, 1);
    guest.store(3, 11, 10, 0);
    guest.word(0xff9f_f06f); // j two instructions back
    guest.code
}

/// A riscv64 firmware that runs about `size` bytes of code once and powers off: arithmetic, loads and stores with a
/// branch after every five instructions or so, one in three of them taken, and much of it in compressed form, as
/// compiled code has it.
pub fn riscv_cold(size: usize) -> Vec<u8> {
    let mut guest = Riscv::default();
    let mut seed: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut random = move |below: u32| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 33) as u32 % below
    };
    // x10 = data, 64 MiB above the code; the random code leaves it alone.
    guest.immediate(0, 10, 0, (RISCV_RAM >> 24) as u32 + 4);
    guest.immediate(1, 10, 10, 24);
    while guest.code.len() < size {
        let mut any = || 11 + random(21);
        let (rd, rs1, rs2) = (any(), any(), any());
        match random(20) {
            0..=3 => {
                guest.branch_over(random(3) == 0, rs1);
                guest.register(0, 0, rd, rs1, rs2);
            }
            4..=6 => guest.load([0, 1, 2, 3, 4, 5, 6][random(7) as usize], rd, 10, random(255) * 8),
            7 | 8 => guest.store(random(4), rs2, 10, random(255) * 8),
            9 | 10 => guest.register([0, 0, 0x20][random(3) as usize], 0, rd, rs1, rs2),
            11 => guest.register(random(2), [2, 3, 4, 6, 7][random(5) as usize] & 4, rd, rs1, rs2),
            12 => guest.immediate([4, 6, 7][random(3) as usize], rd, rs1, random(4096)),
            13 => guest.lui(rd, random(1 << 20)),
            14 | 15 => guest.half(((random(31) + 1) << 2) as u16 | (rd << 7) as u16 | 1), // c.addi
            16 => guest.half((random(32) << 2) as u16 | (rd << 7) as u16 | 0x4001),       // c.li
            17 | 18 => guest.half((rs2 << 2) as u16 | (rd << 7) as u16 | 0x8002),         // c.mv
            _ => guest.half((rs2 << 2) as u16 | (rd << 7) as u16 | 0x9002),               // c.add
        }
    }
    guest.power_off();
    guest.code
}

/// The smallest Linux program, of eight instructions: writes its first argument's first bytes and ends with 7.
pub fn riscv_program() -> Vec<u8> {
    // ld a1, 8(sp); li a0, 1; li a2, 5; li a7, 64; ecall; li a0, 7; li a7, 93; ecall
    let code: [u32; 8] = [
        0x0081_3583,
        0x0010_0513,
        0x0050_0613,
        0x0400_0893,
        0x0000_0073,
        0x0070_0513,
        0x05d0_0893,
        0x0000_0073,
    ];
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    elf.extend([2, 0, 243, 0, 1, 0, 0, 0]);
    elf.extend((0x10000u64 + 120).to_le_bytes());
    elf.extend(64u64.to_le_bytes());
    elf.extend([0; 12]);
    elf.extend([64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    let size = 120 + 4 * code.len() as u64;
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for v in [0, 0x10000, 0x10000, size, size, 4096] {
        elf.extend(u64::to_le_bytes(v));
    }
    elf.extend(code.iter().flat_map(|w| w.to_le_bytes()));
    elf
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_off_is_what_an_assembler_makes_of_it() {
        let words: Vec<u32> = riscv_power_off()
            .chunks_exact(4)
            .map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            .collect();
        // lui t0,0x100; lui t1,0x5; addi t1,t1,0x555; sw t1,0(t0); j .
        assert_eq!(words, [0x0010_02b7, 0x0000_5337, 0x5553_0313, 0x0062_a023, 0x0000_006f]);
    }

    #[test]
    fn cold_code_is_the_same_each_time_and_of_the_size_asked() {
        let code = riscv_cold(10_000);
        assert_eq!(code, riscv_cold(10_000));
        assert!((10_000..10_100).contains(&code.len()));
    }
}
