//! ACPI tables and the script by which firmware puts them into memory.
//!
//! ACPI Specification 6.5, chapter 5; PCI Firmware Specification 3.2, 4.1.2 (MCFG); IA-PC HPET Specification 1.0a, 3.2.4. The
//! script is QEMU's table loader (`docs/specs`): firmware allocates each file, patches addresses into them and sums up.
//!
//! What the guest may move (the memory-mapped configuration space) is looked at when it asks for the tables. A board without
//! firmware puts them into memory as they are to stand there: [`placed`].

use device::{CpuPresence, le_value};

use super::dsdt;

/// Files of fw_cfg.
pub(super) const TABLES: &str = "etc/acpi/tables";
pub(super) const RSDP: &str = "etc/acpi/rsdp";
pub(super) const LOADER: &str = "etc/table-loader";

const HEADER: usize = 36;
const OEM: &[u8; 6] = b"RHEA  ";
/// FADT up to version 3.
const FADT_SIZE: usize = 244;
const FACS_SIZE: usize = 64;
/// Fields of the FADT that hold addresses of other tables.
const FADT_FACS: usize = 36;
const FADT_DSDT: usize = 40;
const FADT_X_DSDT: usize = 140;

/// What differs between the boards.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hardware {
    /// PCI Express board, with the memory-mapped configuration space at this base and of this size.
    pub(crate) express: bool,
    pub(crate) ecam: Option<(u64, u64)>,
    /// First port of the power management block, as firmware places it.
    pub(crate) pm_base: u16,
    /// The general-purpose event block: first port and size of both halves.
    pub(crate) gpe: (u16, u8),
    /// Values of the SMI command port that hand ACPI over and back; nothing where it is never taken.
    pub(crate) handover: Option<(u8, u8)>,
    /// The port and the value that reset the machine.
    pub(crate) reset: (u16, u8),
    /// Numbers of the processors' local APICs, and which processors are there.
    pub(crate) ids: Vec<u32>,
    pub(crate) present: CpuPresence,
    /// First port of the controller of processors that come and go, if there is one.
    pub(crate) cpu_hotplug: Option<u16>,
    /// End of RAM below 4 GiB, and of all RAM.
    pub(crate) low_end: u64,
    pub(crate) high_end: u64,
    /// There is an HPET.
    pub(crate) hpet: bool,
    /// Serial ports.
    pub(crate) serials: usize,
    /// First ports and interrupts of the parallel ports.
    pub(crate) parallels: Vec<(u16, u32)>,
    /// Slots of the root bus that can come and go, if any.
    pub(crate) hotplug: u32,
}

/// The tables, and what the script does to them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Acpi {
    pub(super) tables: Vec<u8>,
    pub(super) rsdp: Vec<u8>,
    pub(super) loader: Vec<u8>,
}

struct Builder {
    data: Vec<u8>,
    /// Starts and lengths of tables with a checksum.
    sums: Vec<(usize, usize)>,
    /// Fields with addresses in this file, by place and size.
    pointers: Vec<(usize, u8)>,
}

impl Builder {
    /// Adds a table; returns where it begins.
    fn table(&mut self, signature: &[u8; 4], revision: u8, body: &[u8]) -> usize {
        let at = self.data.len();
        let len = HEADER + body.len();
        self.data.extend_from_slice(signature);
        self.data.extend_from_slice(&(len as u32).to_le_bytes());
        self.data.extend_from_slice(&[revision, 0]);
        self.data.extend_from_slice(OEM);
        self.data.extend_from_slice(b"RHEA");
        self.data.extend_from_slice(signature);
        self.data.extend_from_slice(&1u32.to_le_bytes());
        self.data.extend_from_slice(b"RHEA\x01\0\0\0");
        self.data.extend_from_slice(body);
        self.sums.push((at, len));
        while !self.data.len().is_multiple_of(16) {
            self.data.push(0);
        }
        at
    }

    fn pointer(&mut self, at: usize, to: usize, size: u8) {
        self.data[at..at + usize::from(size)].copy_from_slice(&(to as u64).to_le_bytes()[..size.into()]);
        self.pointers.push((at, size));
    }
}

fn put(body: &mut [u8], at: usize, bytes: &[u8]) {
    body[at - HEADER..at - HEADER + bytes.len()].copy_from_slice(bytes);
}

/// A generic address of registers in port space.
fn gas(port: u16, bits: u8, access: u8) -> [u8; 12] {
    let mut g = [0; 12];
    (g[0], g[1], g[3]) = (1, bits, access);
    g[4..6].copy_from_slice(&port.to_le_bytes());
    g
}

fn fadt(h: &Hardware) -> Vec<u8> {
    let mut f = vec![0; FADT_SIZE - HEADER];
    let port = |offset: u16| u32::from(h.pm_base + offset).to_le_bytes();
    // SCI; SMI command port with its values.
    put(&mut f, 46, &super::SCI.to_le_bytes());
    if let Some((enable, disable)) = h.handover {
        put(&mut f, 48, &0xb2u32.to_le_bytes());
        put(&mut f, 52, &[enable, disable]);
    }
    // Event block, control block, timer, general-purpose events.
    put(&mut f, 56, &port(0));
    put(&mut f, 64, &port(4));
    put(&mut f, 76, &port(8));
    put(&mut f, 80, &u32::from(h.gpe.0).to_le_bytes());
    put(&mut f, 88, &[4, 2, 0, 4, h.gpe.1]);
    // No C2 or C3; the century byte of the clock.
    put(&mut f, 96, &0xfffu16.to_le_bytes());
    put(&mut f, 98, &0xfffu16.to_le_bytes());
    put(&mut f, 108, &[0x32]);
    // Boot architecture: legacy devices, 8042.
    put(&mut f, 109, &3u16.to_le_bytes());
    // WBINVD, C1, sleep button is a device, RTC wakes by status, timer is 32 bits wide, reset register.
    let flags = 1u32 | 1 << 2 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 10;
    // APIC destinations are physical if there are more than 8 processors.
    let flags = flags | if h.ids.len() > 8 { 1 << 19 } else { 0 };
    put(&mut f, 112, &flags.to_le_bytes());
    put(&mut f, 116, &gas(h.reset.0, 8, 1));
    put(&mut f, 128, &[h.reset.1]);
    put(&mut f, 148, &gas(h.pm_base, 32, 0));
    put(&mut f, 172, &gas(h.pm_base + 4, 16, 0));
    put(&mut f, 208, &gas(h.pm_base + 8, 32, 0));
    if h.gpe.1 != 0 {
        put(&mut f, 220, &gas(h.gpe.0, h.gpe.1 * 8, 0));
    }
    f
}

/// The entry of a processor's local APIC, whose number is `id`.
pub(super) fn local_apic(cpu: u32, id: u32, there: bool) -> Vec<u8> {
    if cpu < 255 && id < 255 {
        return vec![0, 8, cpu as u8, id as u8, there.into(), 0, 0, 0];
    }
    let words = [id, there.into(), cpu].map(u32::to_le_bytes);
    [&[9, 16, 0, 0][..], words.as_flattened()].concat()
}

fn madt(h: &Hardware) -> Vec<u8> {
    let mut m = 0xfee0_0000u32.to_le_bytes().to_vec();
    m.extend(1u32.to_le_bytes());
    for (cpu, id) in (0..).zip(&h.ids) {
        m.extend(local_apic(cpu, *id, h.present.has(cpu)));
    }
    m.extend([1, 12, 0, 0]);
    m.extend((crate::x86::IOAPIC as u32).to_le_bytes());
    m.extend([0; 4]);
    // Interrupts of PCI and ACPI are active high and level-triggered.
    for irq in [5u8, 9, 10, 11] {
        m.extend([2, 10, 0, irq, irq, 0, 0, 0, 0x0d, 0]);
    }
    // LINT1 of all processors is NMI.
    m.extend([4, 6, 0xff, 0, 0, 1]);
    m
}

fn hpet() -> Vec<u8> {
    let mut t = 0x8086_a201u32.to_le_bytes().to_vec();
    // In memory space; number 0, no minimal period, no protection.
    t.extend([0, 0, 0, 0]);
    t.extend((crate::x86::HPET as u32).to_le_bytes());
    t.extend([0; 4]);
    t
}

fn mcfg(ecam: Option<(u64, u64)>) -> Vec<u8> {
    let mut t = vec![0; 8];
    let (base, size) = ecam.unwrap_or_default();
    t.extend(base.to_le_bytes());
    t.extend([0, 0, 0, ((size >> 20) as u8).wrapping_sub(1)]);
    t.extend([0; 4]);
    t
}

/// Emulated timers need no workaround (WAET).
fn waet() -> Vec<u8> {
    2u32.to_le_bytes().to_vec()
}

/// Makes the tables; also returns where the root table is in them.
fn tables(h: &Hardware, dsdt: &[u8]) -> (Builder, usize) {
    let mut b = Builder { data: Vec::new(), sums: Vec::new(), pointers: Vec::new() };
    let facs = b.data.len();
    b.data.extend_from_slice(b"FACS");
    b.data.extend_from_slice(&(FACS_SIZE as u32).to_le_bytes());
    b.data.resize(FACS_SIZE, 0);
    let dsdt = b.table(b"DSDT", 1, dsdt);
    let fadt = b.table(b"FACP", 3, &fadt(h));
    b.pointer(fadt + FADT_FACS, facs, 4);
    b.pointer(fadt + FADT_DSDT, dsdt, 4);
    b.pointer(fadt + FADT_X_DSDT, dsdt, 8);
    let mut listed = vec![fadt, b.table(b"APIC", 3, &madt(h))];
    if h.hpet {
        listed.push(b.table(b"HPET", 1, &hpet()));
    }
    if h.express {
        listed.push(b.table(b"MCFG", 1, &mcfg(h.ecam)));
    }
    listed.push(b.table(b"WAET", 1, &waet()));
    let rsdt = b.table(b"RSDT", 1, &vec![0; 4 * listed.len()]);
    for (i, to) in listed.into_iter().enumerate() {
        b.pointer(rsdt + HEADER + 4 * i, to, 4);
    }
    (b, rsdt)
}

/// The root pointer to a root table at `rsdt`, without its sum.
fn root(rsdt: u32) -> Vec<u8> {
    let mut rsdp = b"RSD PTR \0".to_vec();
    rsdp.extend_from_slice(OEM);
    rsdp.push(0);
    rsdp.extend(rsdt.to_le_bytes());
    rsdp
}

/// Makes everything for firmware.
pub(super) fn build(h: &Hardware) -> Acpi {
    let (mut b, rsdt) = tables(h, &dsdt::build(h));
    while !b.data.len().is_multiple_of(4096) {
        b.data.push(0);
    }
    let loader = script(&b);
    Acpi { tables: b.data, rsdp: root(rsdt as u32), loader }
}

/// Root pointer and tables as they stand at `base` of memory, below 4 GiB and on a boundary of 64 bytes.
pub(crate) fn placed(h: &Hardware, dsdt: &[u8], base: u32) -> Vec<u8> {
    const ROOT: usize = 64;
    let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, b| sum.wrapping_add(*b)).wrapping_neg();
    let (Builder { mut data, sums, pointers }, rsdt) = tables(h, dsdt);
    let at = base + ROOT as u32;
    for (field, _) in pointers {
        let to = le_value(&data[field..field + 4]) as u32 + at;
        data[field..field + 4].copy_from_slice(&to.to_le_bytes());
    }
    for (start, len) in sums {
        data[start + 9] = sum(&data[start..start + len]);
    }
    let mut all = root(rsdt as u32 + at);
    all[8] = sum(&all);
    all.resize(ROOT, 0);
    all.extend(data);
    all
}

fn name(file: &str) -> [u8; 56] {
    let mut field = [0; 56];
    field[..file.len()].copy_from_slice(file.as_bytes());
    field
}

fn script(b: &Builder) -> Vec<u8> {
    let mut script = Vec::new();
    let mut step = |command: u32, parts: &[&[u8]]| {
        let mut entry = command.to_le_bytes().to_vec();
        parts.iter().for_each(|part| entry.extend_from_slice(part));
        entry.resize(128, 0);
        script.extend(entry);
    };
    let word = |n: usize| (n as u32).to_le_bytes();
    // Allocate: file, alignment, zone (1 is anywhere below 4 GiB, 2 the BIOS area).
    step(1, &[&name(RSDP), &word(16), &[2]]);
    step(1, &[&name(TABLES), &word(64), &[1]]);
    // Add the address of a file to a field: file with the field, file pointed to, place, size.
    for (at, size) in &b.pointers {
        step(2, &[&name(TABLES), &name(TABLES), &word(*at), &[*size]]);
    }
    // Sum: file, place of the sum, start, length.
    for (at, len) in &b.sums {
        step(3, &[&name(TABLES), &word(at + 9), &word(*at), &word(*len)]);
    }
    step(2, &[&name(RSDP), &name(TABLES), &word(16), &[4]]);
    step(3, &[&name(RSDP), &word(8), &word(0), &word(20)]);
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Does what firmware would, for a machine without: the tables as they are at `base`, and the root pointer to them.
    fn place(acpi: &Acpi, base: u64) -> (Vec<u8>, Vec<u8>) {
        let (mut tables, mut rsdp) = (acpi.tables.clone(), acpi.rsdp.clone());
        let le = |data: &[u8]| data.iter().rev().fold(0u64, |v, x| v << 8 | u64::from(*x));
        for entry in acpi.loader.chunks(128) {
            let file = entry.get(4..60).unwrap_or_default();
            let data = if file.starts_with(RSDP.as_bytes()) { &mut rsdp } else { &mut tables };
            match entry.first() {
                Some(2) => {
                    let (at, size) = (le(&entry[116..120]) as usize, usize::from(entry[120]));
                    let value = le(&data[at..at + size]).wrapping_add(base);
                    data[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
                }
                Some(3) => {
                    let (at, start, len) = (
                        le(&entry[60..64]) as usize,
                        le(&entry[64..68]) as usize,
                        le(&entry[68..72]) as usize,
                    );
                    data[at] = 0;
                    data[at] =
                        data[start..start + len].iter().fold(0u8, |s, b| s.wrapping_add(*b)).wrapping_neg();
                }
                _ => {}
            }
        }
        (tables, rsdp)
    }

    #[test]
    fn placed_tables_point_to_one_another_and_sum_to_nothing() {
        let h = Hardware {
            express: true,
            ecam: Some((0xb000_0000, 256 << 20)),
            pm_base: 0x600,
            gpe: (0x620, 16),
            ids: vec![0, 1, 2],
            low_end: 1 << 30,
            high_end: 1 << 32,
            hpet: true,
            serials: 1,
            ..Hardware::default()
        };
        let acpi = build(&h);
        assert_eq!(
            build(&Hardware { ecam: None, ..h.clone() }).tables.len(),
            acpi.tables.len(),
            "one length whatever moves"
        );
        let base = 0x7ff0_0000u64;
        let (tables, rsdp) = place(&acpi, base);
        let sum = |d: &[u8]| d.iter().fold(0u8, |s, b| s.wrapping_add(*b));
        let word = |d: &[u8], at: usize| u32::from_le_bytes(d[at..at + 4].try_into().unwrap());
        assert_eq!(sum(&rsdp), 0);
        let table = |gpa: u32| {
            let at = (u64::from(gpa) - base) as usize;
            let len = word(&tables, at + 4) as usize;
            assert_eq!(sum(&tables[at..at + len]), 0);
            &tables[at..at + len]
        };
        let rsdt = table(word(&rsdp, 16));
        let names: Vec<&[u8]> = rsdt[36..].chunks(4).map(|p| &table(word(p, 0))[..4]).collect();
        assert_eq!(names, [b"FACP", b"APIC", b"HPET", b"MCFG", b"WAET"]);
        let fadt = table(word(rsdt, 36));
        assert_eq!(&table(word(fadt, 40))[..4], b"DSDT");
        assert_eq!(&tables[(u64::from(word(fadt, 36)) - base) as usize..][..4], b"FACS");
        // What firmware makes of it is what a board without firmware has.
        let own = placed(&h, &dsdt::build(&h), base as u32 - 64);
        assert_eq!(own[..20], rsdp[..20]);
        assert_eq!(own[64..], tables[..own.len() - 64]);
    }
}
