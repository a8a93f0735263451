//! SMBIOS tables (DMTF DSP0134 2.8): who made the machine, its processors and memory. Firmware of the PC boards takes them from
//! fw_cfg, patches the address, and puts them into the BIOS area.

use accel::arch::x86_topology::Level;

use crate::BoardConfig;

/// A structure under construction: formatted part, then its strings.
struct Structure {
    data: Vec<u8>,
    strings: Vec<String>,
}

impl Structure {
    fn new(kind: u8, handle: u16) -> Self {
        let mut data = vec![kind, 0];
        data.extend(handle.to_le_bytes());
        Structure { data, strings: Vec::new() }
    }

    fn string(&mut self, text: &str) -> &mut Self {
        self.strings.push(text.to_owned());
        self.data.push(self.strings.len() as u8);
        self
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.data.extend_from_slice(bytes);
        self
    }

    fn finish(mut self, out: &mut Vec<u8>) -> usize {
        self.data[1] = self.data.len() as u8;
        let before = out.len();
        out.extend(self.data);
        for text in &self.strings {
            out.extend_from_slice(text.as_bytes());
            out.push(0);
        }
        out.extend(if self.strings.is_empty() { &b"\0\0"[..] } else { b"\0" });
        out.len() - before
    }
}

/// The UUID with its first three fields in little-endian order.
fn wire_uuid(uuid: Option<[u8; 16]>) -> [u8; 16] {
    let mut u = uuid.unwrap_or_default();
    u[..4].reverse();
    u[4..6].reverse();
    u[6..8].reverse();
    u
}

/// The anchor and the structures.
pub(super) fn build(board: &str, c: &BoardConfig) -> (Vec<u8>, Vec<u8>) {
    let mut out = Vec::new();
    let mut count = 0u16;
    let mut largest = 0;
    let mut add = |s: Structure| {
        largest = largest.max(s.finish(&mut out));
        count += 1;
    };
    let mut s = Structure::new(0, 0);
    // BIOS information: a virtual machine's, with UEFI perhaps.
    s.string("Rhea").string("1").bytes(&[0, 0xe8]).string("01/01/2026").bytes(&[0]);
    s.bytes(&8u64.to_le_bytes()).bytes(&[0, 0x14, 0, 0, 0xff, 0xff]);
    add(s);
    let mut s = Structure::new(1, 0x100);
    s.string("Rhea").string(&format!("Rhea PC ({board})")).string("1").bytes(&[0]);
    // Woken by the power switch.
    s.bytes(&wire_uuid(c.uuid)).bytes(&[6, 0]).string("Virtual Machine");
    add(s);
    let mut s = Structure::new(3, 0x300);
    s.string("Rhea")
        .bytes(&[1])
        .string("1")
        .bytes(&[0, 0, 3, 3, 3, 2])
        .bytes(&[0; 4])
        .bytes(&[0, 0, 0, 0, 0]);
    add(s);
    let t = &c.topology;
    let byte = |count: u32| count.min(255) as u8;
    let (cores, threads) = (byte(t.threads_of(Level::Socket) / t.threads), byte(t.threads_of(Level::Socket)));
    for cpu in 0..t.sockets.min(255) as u16 {
        let mut s = Structure::new(4, 0x400 + cpu);
        s.string(&format!("CPU {cpu}")).bytes(&[3, 1]).string("Rhea").bytes(&[0; 8]).string("1");
        s.bytes(&[0]).bytes(&[0; 2]).bytes(&2000u16.to_le_bytes()).bytes(&2000u16.to_le_bytes());
        // Enabled; no upgrade; no caches.
        s.bytes(&[0x41, 1]).bytes(&[0xff; 6]).bytes(&[0, 0, 0, cores, cores, threads]).bytes(&[4, 0, 1, 0]);
        add(s);
    }
    let kib = c.ram >> 10;
    let mut s = Structure::new(16, 0x1000);
    s.bytes(&[1, 3, 6]).bytes(&(kib.min(0x8000_0000) as u32).to_le_bytes()).bytes(&[0xfe, 0xff, 1, 0]);
    s.bytes(&if kib >= 0x8000_0000 { c.ram } else { 0 }.to_le_bytes());
    add(s);
    let mib = c.ram >> 20;
    let mut s = Structure::new(17, 0x1100);
    s.bytes(&0x1000u16.to_le_bytes()).bytes(&[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff]);
    s.bytes(&(mib.min(0x7fff) as u16).to_le_bytes())
        .bytes(&[9, 0])
        .string("DIMM 0")
        .bytes(&[0, 7, 2, 0, 0, 0]);
    s.string("Rhea").bytes(&[0, 0, 0, 0]);
    s.bytes(&(if mib >= 0x7fff { mib as u32 } else { 0 }).to_le_bytes()).bytes(&[0, 0, 0, 0, 0, 0, 0, 0]);
    add(s);
    let mut s = Structure::new(19, 0x1300);
    s.bytes(&0u32.to_le_bytes()).bytes(&((kib - 1).min(0xffff_fffe) as u32).to_le_bytes());
    s.bytes(&0x1000u16.to_le_bytes()).bytes(&[1]);
    s.bytes(&[0; 16]);
    add(s);
    let mut s = Structure::new(32, 0x2000);
    s.bytes(&[0; 7]);
    add(s);
    add(Structure::new(127, 0x7f00));
    (anchor(out.len(), count, largest), out)
}

fn anchor(len: usize, count: u16, largest: usize) -> Vec<u8> {
    let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, b| sum.wrapping_add(*b)).wrapping_neg();
    let mut a = vec![0; 31];
    a[..4].copy_from_slice(b"_SM_");
    (a[5], a[6], a[7]) = (31, 2, 8);
    a[8..10].copy_from_slice(&(largest as u16).to_le_bytes());
    a[16..21].copy_from_slice(b"_DMI_");
    a[22..24].copy_from_slice(&(len as u16).to_le_bytes());
    a[28..30].copy_from_slice(&count.to_le_bytes());
    a[30] = 0x28;
    a[21] = sum(&a[16..31]);
    a[4] = sum(&a);
    a
}
