//! A small assembler for 32-bit flat x86 code, just large enough for the cases.
//!
//! Encodings: Intel SDM volume 2. Labels are numbers given out by [`Asm::label`]; jumps are short.

/// Code under construction, for one load address.
#[derive(Debug, Default)]
pub struct Asm {
    base: u32,
    code: Vec<u8>,
    labels: Vec<Option<usize>>,
    jumps: Vec<(usize, Label)>,
}

/// A place in the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label(usize);

/// A general register, by its number in encodings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reg {
    /// EAX.
    Eax = 0,
    /// ECX.
    Ecx = 1,
    /// EDX.
    Edx = 2,
    /// EBX.
    Ebx = 3,
    /// ESI.
    Esi = 6,
}

impl Asm {
    /// Code that will stand at `base`.
    #[must_use]
    pub fn new(base: u32) -> Self {
        Self { base, ..Self::default() }
    }

    /// Raw bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.code.extend_from_slice(bytes);
        self
    }

    fn abs(&mut self, op: &[u8], address: u32) -> &mut Self {
        self.bytes(op).bytes(&address.to_le_bytes())
    }

    /// Address of the next instruction.
    #[must_use]
    pub fn here(&self) -> u32 {
        self.base + self.code.len() as u32
    }

    /// A label without a place.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Gives a label its place: here.
    pub fn place(&mut self, label: Label) -> &mut Self {
        self.labels[label.0] = Some(self.code.len());
        self
    }

    fn jump(&mut self, op: u8, to: Label) -> &mut Self {
        self.bytes(&[op, 0]);
        self.jumps.push((self.code.len(), to));
        self
    }

    /// `mov reg, imm`.
    pub fn mov(&mut self, reg: Reg, value: u32) -> &mut Self {
        self.abs(&[0xB8 + reg as u8], value)
    }
    /// Stores 1, 2 or 4 bytes of EAX at an address.
    pub fn store(&mut self, size: u32, address: u32) -> &mut Self {
        match size {
            1 => self.abs(&[0xA2], address),
            2 => self.abs(&[0x66, 0xA3], address),
            _ => self.abs(&[0xA3], address),
        }
    }
    /// Loads 1, 2 or 4 bytes into EAX, which keeps its other bytes.
    pub fn load(&mut self, size: u32, address: u32) -> &mut Self {
        match size {
            1 => self.abs(&[0xA0], address),
            2 => self.abs(&[0x66, 0xA1], address),
            _ => self.abs(&[0xA1], address),
        }
    }
    /// `mov dword [address], imm`.
    pub fn store_imm(&mut self, address: u32, value: u32) -> &mut Self {
        self.abs(&[0xC7, 0x05], address).bytes(&value.to_le_bytes())
    }
    /// `add dword [address], 1`.
    pub fn increment(&mut self, address: u32) -> &mut Self {
        self.abs(&[0x83, 0x05], address).bytes(&[1])
    }
    /// `cmp eax, imm`.
    pub fn cmp(&mut self, value: u32) -> &mut Self {
        self.abs(&[0x3D], value)
    }
    /// `add eax, imm`.
    pub fn add(&mut self, value: u32) -> &mut Self {
        self.abs(&[0x05], value)
    }
    /// `jmp`.
    pub fn jmp(&mut self, to: Label) -> &mut Self {
        self.jump(0xEB, to)
    }
    /// `jne`.
    pub fn jne(&mut self, to: Label) -> &mut Self {
        self.jump(0x75, to)
    }
    /// Port output of 1, 2 or 4 bytes of EAX to DX.
    pub fn out(&mut self, size: u32) -> &mut Self {
        match size {
            1 => self.bytes(&[0xEE]),
            2 => self.bytes(&[0x66, 0xEF]),
            _ => self.bytes(&[0xEF]),
        }
    }
    /// Port input of 1, 2 or 4 bytes from DX into EAX.
    pub fn input(&mut self, size: u32) -> &mut Self {
        match size {
            1 => self.bytes(&[0xEC]),
            2 => self.bytes(&[0x66, 0xED]),
            _ => self.bytes(&[0xED]),
        }
    }
    /// `rep outsb`.
    pub fn rep_outsb(&mut self) -> &mut Self {
        self.bytes(&[0xF3, 0x6E])
    }
    /// `nop`.
    pub fn nop(&mut self) -> &mut Self {
        self.bytes(&[0x90])
    }
    /// `hlt`.
    pub fn hlt(&mut self) -> &mut Self {
        self.bytes(&[0xF4])
    }
    /// `cli`.
    pub fn cli(&mut self) -> &mut Self {
        self.bytes(&[0xFA])
    }
    /// `sti`.
    pub fn sti(&mut self) -> &mut Self {
        self.bytes(&[0xFB])
    }
    /// Returns from an interrupt handler without `iretd`, which not every KVM can emulate:
    /// `pop ecx; pop edx; popfd; jmp ecx`. NMIs stay masked.
    pub fn leave_handler(&mut self) -> &mut Self {
        self.bytes(&[0x59, 0x5A, 0x9D, 0xFF, 0xE1])
    }
    /// `ud2`.
    pub fn ud2(&mut self) -> &mut Self {
        self.bytes(&[0x0F, 0x0B])
    }

    /// The code; panics on a label without a place or out of reach, which is a mistake of the case.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        for (end, Label(label)) in self.jumps {
            let to = self.labels.get(label).copied().flatten();
            let distance = to.and_then(|t| i8::try_from(t as i64 - end as i64).ok());
            assert!(distance.is_some(), "label {label} has no place within reach");
            self.code[end - 1] = distance.unwrap_or_default() as u8;
        }
        self.code
    }
}

/// Address of the global descriptor table: null, flat code (8), flat data (16).
pub const GDT: u64 = 0x400;
/// The descriptors.
pub const GDT_ENTRIES: [u64; 3] = [0, 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF];
/// Address of the interrupt descriptor table of 256 entries.
pub const IDT: u64 = 0x800;

/// A 32-bit interrupt gate to `handler`.
#[must_use]
pub fn gate(handler: u32) -> u64 {
    let h = u64::from(handler);
    h & 0xFFFF | 8 << 16 | 0x8E00 << 32 | (h >> 16) << 48
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_reach_their_labels() {
        let mut a = Asm::new(0x1000);
        let top = a.label();
        let end = a.label();
        a.place(top).nop().jne(end).jmp(top).place(end).hlt();
        assert_eq!(a.here(), 0x1006);
        assert_eq!(a.finish(), [0x90, 0x75, 0x02, 0xEB, 0xFB, 0xF4]);
    }

    #[test]
    fn gates_follow_the_manual() {
        assert_eq!(gate(0x1234_5678), 0x1234_8E00_0008_5678);
    }
}
