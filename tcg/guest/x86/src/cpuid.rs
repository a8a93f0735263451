//! CPUID (SDM volume 2): what the model says, with what depends on the vCPU and its state.

use accel::arch::{x86_models::Register, x86_topology::Level};

use crate::{
    control::{CR4_OSXSAVE, CR4_PKE},
    cpu::Model,
    kvm,
    state::Cpu,
    svm::ASIDS,
};

/// Answer of CPUID: EAX, EBX, ECX, EDX.
pub(crate) type Leaf = [u32; 4];

/// Family, model and stepping as leaf 1 and EDX after reset give them.
pub(crate) fn signature(m: &Model) -> u32 {
    let (family, model) = (m.id.family, m.id.model);
    let (base, extended) = if family > 15 { (15, family - 15) } else { (family, 0) };
    m.id.stepping & 15 | (model & 15) << 4 | base << 8 | (model >> 4 & 15) << 16 | (extended & 0xff) << 20
}

fn text(bytes: &[u8], at: usize) -> u32 {
    let b = |n| u32::from(bytes.get(at + n).copied().unwrap_or(0));
    b(0) | b(1) << 8 | b(2) << 16 | b(3) << 24
}

fn vendor(m: &Model) -> Leaf {
    let v = m.id.vendor.as_bytes();
    [0, text(v, 0), text(v, 8), text(v, 4)]
}

/// Offset and size of each component of the XSAVE area, by its bit in XCR0 (SDM volume 1, 13.4).
const COMPONENTS: [(u32, u32, u32); 5] =
    [(2, 576, 256), (5, 1088, 64), (6, 1152, 512), (7, 1664, 1024), (9, 2688, 8)];

/// Components of XCR0 that the model has.
pub(crate) fn xcr0_mask(m: &Model) -> u64 {
    let has = m.has();
    let mut mask = 1;
    if has.sse {
        mask |= 2;
    }
    if has.avx {
        mask |= 4;
    }
    if has.avx512f {
        mask |= 0xe0;
    }
    if has.pku {
        mask |= 1 << 9;
    }
    mask
}

/// Bytes of the standard XSAVE area for components `mask`.
pub(crate) fn xsave_size(mask: u64) -> u32 {
    COMPONENTS.iter().filter(|(n, ..)| mask >> n & 1 != 0).map(|(_, at, len)| at + len).fold(576, u32::max)
}

/// Bytes of the compacted area.
fn xsave_compact_size(mask: u64) -> u32 {
    576 + COMPONENTS.iter().filter(|(n, ..)| mask >> n & 1 != 0).map(|(.., len)| len).sum::<u32>()
}

/// Offset of a component in the standard area, and its size.
pub(crate) fn xsave_component(n: u32) -> Option<(u32, u32)> {
    COMPONENTS.iter().find(|(c, ..)| *c == n).map(|(_, at, len)| (*at, *len))
}

/// Bytes of a cache line.
const LINE: u32 = 64;

/// The cache of that number in the form of leaf 4, without the number of cores: 32 KiB each for data and instructions and
/// 1 MiB behind them for a core, 16 MiB that a die's cores share.
fn cache(m: &Model, n: u32) -> Leaf {
    let (kind, level, size, ways, shared) = match n {
        0 => (1, 1, 32 << 10, 8, Level::Core),
        1 => (2, 1, 32 << 10, 8, Level::Core),
        2 => (3, 2, 1 << 20, 8, Level::Core),
        3 => (3, 3, 16 << 20, 16, Level::Die),
        _ => return [0; 4],
    };
    // Self-initialising.
    let eax = kind | level << 5 | 1 << 8 | m.topology.sharers(shared);
    [eax, (ways - 1) << 22 | (LINE - 1), size / (ways * LINE) - 1, 0]
}

/// One leaf.
pub(crate) fn leaf(m: &Model, s: &Cpu, leaf: u32, subleaf: u32) -> Leaf {
    let bits = |l, sub, r| m.bits(l, sub, r);
    let (topology, amd) = (&m.topology, m.id.vendor == "AuthenticAMD");
    // The levels between cores and packages have a leaf of their own.
    let last = if topology.is_deep() { m.id.level.max(0x1f) } else { m.id.level };
    let highest = match leaf >> 16 {
        0x8000 => m.id.xlevel,
        0x4000 => 0x4000_0001,
        _ => last,
    };
    // Beyond the last leaf: what the last basic one says (SDM).
    let leaf = if leaf > highest { last } else { leaf };
    let apic_id = topology.apic_id(s.index);
    match leaf {
        0 => {
            let mut v = vendor(m);
            v[0] = last;
            v
        }
        1 => {
            let mut ecx = bits(1, 0, Register::Ecx);
            if s.cr4 & CR4_OSXSAVE != 0 {
                ecx |= 1 << 27;
            }
            let mut edx = bits(1, 0, Register::Edx);
            let logical = topology.logical(!amd);
            if logical.is_some() {
                edx |= 1 << 28;
            }
            if s.msrs.apic_base & 0x800 == 0 {
                edx &= !(1 << 9);
            }
            [signature(m), apic_id << 24 | logical.unwrap_or(0) << 16 | 8 << 8, ecx, edx]
        }
        // One reading, and a descriptor that says where the caches are: in leaf 4.
        2 if !amd && m.id.level >= 4 => [0xff01, 0, 0, 0],
        2 => [1, 0, 0, 0],
        4 if !amd => {
            let mut l = cache(m, subleaf);
            if l[0] != 0 {
                l[0] |= topology.core_numbers();
            }
            l
        }
        7 if subleaf == 0 => {
            let mut ecx = bits(7, 0, Register::Ecx);
            if s.cr4 & CR4_PKE != 0 {
                ecx |= 1 << 4;
            }
            [0, bits(7, 0, Register::Ebx), ecx, bits(7, 0, Register::Edx)]
        }
        6 => [bits(6, 0, Register::Eax), 0, 0, 0],
        0xb | 0x1f => topology.cpuid(leaf, subleaf, apic_id),
        0xd if m.has().xsave => {
            let mask = xcr0_mask(m);
            match subleaf {
                0 => [mask as u32, xsave_size(s.xcr0), xsave_size(mask), (mask >> 32) as u32],
                1 => [bits(13, 1, Register::Eax), xsave_compact_size(s.xcr0), 0, 0],
                n if n < 64 && mask >> n & 1 != 0 => match xsave_component(n) {
                    Some((at, len)) => [len, at, 0, 0],
                    None => [0; 4],
                },
                _ => [0; 4],
            }
        }
        // The crystal is what the local APIC counts, a tick a nanosecond; the counter's frequency is a ratio of it.
        0x15 => [1_000_000, s.msrs.tsc_khz as u32, 1_000_000_000, 0],
        // Megahertz: base, highest, bus.
        0x16 => {
            let mhz = (s.msrs.tsc_khz / 1000).min(0xffff) as u32;
            [mhz, mhz, 100, 0]
        }
        // The signature of hypervisors with KVM's paravirtual interface.
        0x4000_0000 => [0x4000_0001, text(b"KVMK", 0), text(b"VMKV", 0), text(b"M\0\0\0", 0)],
        0x4000_0001 => [kvm::FEATURES, 0, 0, 0],
        0x8000_0000 => {
            let mut v = vendor(m);
            v[0] = m.id.xlevel;
            v
        }
        0x8000_0001 => {
            let mut edx = bits(0x8000_0001, 0, Register::Edx);
            // AMD's processors repeat bits of leaf 1.
            if amd {
                edx |= bits(1, 0, Register::Edx) & 0x0183_f3ff;
            }
            if m.id.vendor == "GenuineIntel" && !s.code64() {
                edx &= !(1 << 11);
            }
            // The package has several processors, which need not be cores.
            let legacy = if amd && topology.logical(false).is_some() { 1 << 1 } else { 0 };
            [signature(m), 0, bits(0x8000_0001, 0, Register::Ecx) | legacy, edx]
        }
        0x8000_0002..=0x8000_0004 => {
            let at = (leaf - 0x8000_0002) as usize * 16;
            let b = m.id.brand.as_bytes();
            [text(b, at), text(b, at + 4), text(b, at + 8), text(b, at + 12)]
        }
        0x8000_0005 if amd => [0, 0, 32 << 24 | 8 << 16 | 1 << 8 | LINE, 32 << 24 | 8 << 16 | 1 << 8 | LINE],
        // Kilobytes, then units of 512 KiB; 8 and 16 ways.
        0x8000_0006 => [0, 0, 1024 << 16 | 6 << 12 | 1 << 8 | LINE, 32 << 18 | 8 << 12 | 1 << 8 | LINE],
        0x8000_001d if m.has().topoext => cache(m, subleaf),
        0x8000_001e if m.has().topoext => topology.node(s.index),
        // Nested paging, saving of the next instruction, flushes by ASID, decode assists.
        0x8000_000a if m.has().svm => [1, ASIDS as u32, 0, 1 | 1 << 3 | 1 << 6 | 1 << 7],
        0x8000_0007 => [0, 0, 0, bits(0x8000_0007, 0, Register::Edx)],
        0x8000_0008 => {
            let virt = if m.has().la57 { 57 } else { 48 };
            [m.phys_bits | virt << 8, bits(0x8000_0008, 0, Register::Ebx), topology.sizes(), 0]
        }
        _ => [0; 4],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use accel::{CpuModel, arch::x86_topology::Topology};

    #[test]
    fn leaves_say_what_the_model_is() {
        let m = Model::new(&CpuModel { name: "Haswell".to_owned(), features: Vec::new() }, Topology::flat(3))
            .unwrap();
        let s = crate::snapshot::reset(&m, 2);
        let l0 = leaf(&m, &s, 0, 0);
        assert_eq!((l0[0], l0[1].to_le_bytes()), (13, *b"Genu"));
        let l1 = leaf(&m, &s, 1, 0);
        assert_eq!((l1[0] & 0xfff_ffff, l1[1] >> 24), (0x306c4, 2));
        assert_ne!(l1[3] & 1 << 28, 0, "several threads");
        assert_eq!(leaf(&m, &s, 0x8000_0002, 0)[0].to_le_bytes(), *b"Inte");
        // Three vCPUs take two bits of the identifier.
        assert_eq!(leaf(&m, &s, 0xb, 0), [0, 1, 0x100, 2]);
        assert_eq!(leaf(&m, &s, 0xb, 1), [2, 3, 0x201, 2]);
        assert_eq!(leaf(&m, &s, 0xb, 2), [0, 0, 2, 2]);
        let sizes: Vec<u32> = (0..4)
            .map(|n| {
                let [_, b, c, _] = leaf(&m, &s, 4, n);
                ((b >> 22) + 1) * ((b & 0xfff) + 1) * (c + 1)
            })
            .collect();
        assert_eq!(sizes, [32 << 10, 32 << 10, 1 << 20, 16 << 20]);
        assert_eq!(leaf(&m, &s, 4, 3)[0], 3 | 3 << 5 | 1 << 8 | 3 << 14 | 3 << 26);
        assert_eq!(leaf(&m, &s, 4, 4), [0; 4]);
        let amd = Model::new(&CpuModel { name: "EPYC".to_owned(), features: Vec::new() }, Topology::flat(3))
            .unwrap();
        assert_eq!(leaf(&amd, &s, 0x8000_0008, 0)[2], 2 | 2 << 12);
        assert_eq!((leaf(&amd, &s, 0x8000_001e, 0)[0], leaf(&amd, &s, 4, 0)), (2, [0; 4]));
        assert_eq!(leaf(&m, &s, 0x1234, 0), leaf(&m, &s, 13, 0));
        let max = Model::new(&CpuModel { name: "max".to_owned(), features: Vec::new() }, Topology::flat(1))
            .unwrap();
        let [denominator, numerator, crystal, _] = leaf(&max, &s, 0x15, 0).map(u64::from);
        assert_eq!(crystal * numerator / denominator, s.msrs.tsc_khz * 1000);
        assert_eq!(leaf(&max, &s, 0x16, 0), [1000, 1000, 100, 0]);
        let deep = Topology { sockets: 2, dies: 2, modules: 1, cores: 3, threads: 2 };
        let deep = Model::new(&CpuModel { name: "Haswell".to_owned(), features: Vec::new() }, deep).unwrap();
        let s = crate::snapshot::reset(&deep, 12);
        assert_eq!((leaf(&deep, &s, 0, 0)[0], leaf(&deep, &s, 1, 0)[1] >> 16), (0x1f, 16 << 8 | 16));
        assert_eq!(leaf(&deep, &s, 0x1f, 2), [4, 12, 0x502, 16]);
        assert_eq!(leaf(&amd, &s, 0x8000_000a, 0), [1, ASIDS as u32, 0, 0xc9]);
        assert_eq!(xsave_size(3), 576);
        assert_eq!(xsave_size(7), 832);
    }
}
