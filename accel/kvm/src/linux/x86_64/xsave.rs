//! Between the XSAVE area (Intel SDM volume 1, chapter 13, standard format) and the neutral registers.

use accel::arch::x86_64::Fpu;
use kvm_bindings::kvm_cpuid_entry2;

/// Bytes of the area that `KVM_GET_XSAVE` always fills.
pub(super) const LEGACY_AREA: usize = 4096;

const HEADER: usize = 512;
const X87: u64 = 1;
const SSE: u64 = 2;
const AVX: u64 = 1 << 2;
const OPMASK: u64 = 1 << 5;
const ZMM_HI: u64 = 1 << 6;
const HI_ZMM: u64 = 1 << 7;
const PKRU: u64 = 1 << 9;

/// Offsets of the components that the host has, by number.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Layout {
    offsets: [Option<usize>; 10],
}

impl Layout {
    /// From CPUID leaf 13.
    pub(super) fn from_cpuid(entries: &[kvm_cpuid_entry2]) -> Self {
        let mut offsets = [None; 10];
        for e in entries.iter().filter(|e| e.function == 13 && (2..10).contains(&e.index) && e.eax != 0) {
            offsets[e.index as usize] = Some(e.ebx as usize);
        }
        Self { offsets }
    }

    fn component(&self, bit: u64) -> Option<usize> {
        self.offsets.get(bit.trailing_zeros() as usize).copied().flatten()
    }
}

fn bytes<const N: usize>(area: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(part) = area.get(at..at + N) {
        out.copy_from_slice(part);
    }
    out
}

fn put(area: &mut [u8], at: usize, value: &[u8]) {
    if let Some(part) = area.get_mut(at..at + value.len()) {
        part.copy_from_slice(value);
    }
}

/// Reads the registers from an area. A component that is in its initial state reads as that.
pub(super) fn unpack(area: &[u8], layout: &Layout, xcr0: u64) -> Fpu {
    let present = u64::from_le_bytes(bytes(area, HEADER));
    let mut f = Fpu { xcr0, fcw: 0x37F, mxcsr: u32::from_le_bytes(bytes(area, 24)), ..Fpu::default() };
    if present & X87 != 0 {
        f.fcw = u16::from_le_bytes(bytes(area, 0));
        f.fsw = u16::from_le_bytes(bytes(area, 2));
        f.ftw = bytes::<1>(area, 4)[0];
        f.fop = u16::from_le_bytes(bytes(area, 6));
        f.fip = u64::from_le_bytes(bytes(area, 8));
        f.fdp = u64::from_le_bytes(bytes(area, 16));
        for (i, st) in f.st.iter_mut().enumerate() {
            let mut wide = [0; 16];
            wide[..10].copy_from_slice(&bytes::<10>(area, 32 + 16 * i));
            *st = u128::from_le_bytes(wide);
        }
    }
    if present & SSE != 0 {
        for i in 0..16 {
            f.zmm[i].0[..16].copy_from_slice(&bytes::<16>(area, 160 + 16 * i));
        }
    }
    let at = |bit| layout.component(bit).filter(|_| present & bit != 0);
    if let Some(base) = at(AVX) {
        for i in 0..16 {
            f.zmm[i].0[16..32].copy_from_slice(&bytes::<16>(area, base + 16 * i));
        }
    }
    if let Some(base) = at(OPMASK) {
        for (i, k) in f.opmask.iter_mut().enumerate() {
            *k = u64::from_le_bytes(bytes(area, base + 8 * i));
        }
    }
    if let Some(base) = at(ZMM_HI) {
        for i in 0..16 {
            f.zmm[i].0[32..].copy_from_slice(&bytes::<32>(area, base + 32 * i));
        }
    }
    if let Some(base) = at(HI_ZMM) {
        for i in 0..16 {
            f.zmm[16 + i].0 = bytes(area, base + 64 * i);
        }
    }
    if let Some(base) = at(PKRU) {
        f.pkru = u32::from_le_bytes(bytes(area, base));
    }
    f
}

/// Writes the registers into an area of `size` bytes; or names what the host has no room for.
pub(super) fn pack(f: &Fpu, layout: &Layout, size: usize) -> Result<Vec<u8>, (&'static str, &'static str)> {
    let mut area = vec![0; size];
    let mut present = X87 | SSE;
    put(&mut area, 0, &f.fcw.to_le_bytes());
    put(&mut area, 2, &f.fsw.to_le_bytes());
    put(&mut area, 4, &[f.ftw]);
    put(&mut area, 6, &f.fop.to_le_bytes());
    put(&mut area, 8, &f.fip.to_le_bytes());
    put(&mut area, 16, &f.fdp.to_le_bytes());
    put(&mut area, 24, &f.mxcsr.to_le_bytes());
    for (i, st) in f.st.iter().enumerate() {
        put(&mut area, 32 + 16 * i, &st.to_le_bytes()[..10]);
    }
    for i in 0..16 {
        put(&mut area, 160 + 16 * i, &f.zmm[i].0[..16]);
    }
    let missing = "is not zero, and the host has no such registers";
    match layout.component(AVX) {
        Some(base) => {
            present |= AVX;
            (0..16).for_each(|i| put(&mut area, base + 16 * i, &f.zmm[i].0[16..32]));
        }
        None if f.zmm[..16].iter().any(|z| z.0[16..32] != [0; 16]) => return Err(("fpu.zmm", missing)),
        None => {}
    }
    match layout.component(OPMASK) {
        Some(base) => {
            present |= OPMASK;
            f.opmask.iter().enumerate().for_each(|(i, k)| put(&mut area, base + 8 * i, &k.to_le_bytes()));
        }
        None if f.opmask != [0; 8] => return Err(("fpu.opmask", missing)),
        None => {}
    }
    match layout.component(ZMM_HI) {
        Some(base) => {
            present |= ZMM_HI;
            (0..16).for_each(|i| put(&mut area, base + 32 * i, &f.zmm[i].0[32..]));
        }
        None if f.zmm[..16].iter().any(|z| z.0[32..] != [0; 32]) => return Err(("fpu.zmm", missing)),
        None => {}
    }
    match layout.component(HI_ZMM) {
        Some(base) => {
            present |= HI_ZMM;
            (0..16).for_each(|i| put(&mut area, base + 64 * i, &f.zmm[16 + i].0));
        }
        None if f.zmm[16..].iter().any(|z| z.0 != [0; 64]) => return Err(("fpu.zmm", missing)),
        None => {}
    }
    match layout.component(PKRU) {
        Some(base) => {
            present |= PKRU;
            put(&mut area, base, &f.pkru.to_le_bytes());
        }
        None if f.pkru != 0 => return Err(("fpu.pkru", missing)),
        None => {}
    }
    put(&mut area, HEADER, &present.to_le_bytes());
    Ok(area)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        let mut l = Layout::default();
        for (i, at) in [(2, 0x240), (5, 0x440), (6, 0x480), (7, 0x680), (9, 0xA80)] {
            l.offsets[i] = Some(at);
        }
        l
    }

    #[test]
    fn registers_survive_the_area() {
        let mut f = Fpu {
            fcw: 0x27F,
            fsw: 0x3800,
            ftw: 0x81,
            fop: 0x123,
            mxcsr: 0x1FA0,
            pkru: 5,
            xcr0: 0xE7,
            ..Fpu::default()
        };
        f.st[7] = 0x3FFF_8000_0000_0000_0001;
        for (i, z) in f.zmm.iter_mut().enumerate() {
            for (j, b) in z.0.iter_mut().enumerate() {
                *b = (i * 64 + j * 7) as u8;
            }
        }
        f.opmask[7] = u64::MAX;
        let area = pack(&f, &layout(), LEGACY_AREA).unwrap();
        assert_eq!(unpack(&area, &layout(), 0xE7), f);
    }

    #[test]
    fn what_the_host_lacks_is_named() {
        let mut f = Fpu::default();
        assert!(pack(&f, &Layout::default(), LEGACY_AREA).is_ok());
        f.zmm[3].0[20] = 1;
        assert_eq!(pack(&f, &Layout::default(), LEGACY_AREA).unwrap_err().0, "fpu.zmm");
        let f = Fpu { pkru: 1, ..Fpu::default() };
        assert_eq!(pack(&f, &Layout::default(), LEGACY_AREA).unwrap_err().0, "fpu.pkru");
    }

    #[test]
    fn a_component_in_its_initial_state_reads_as_that() {
        let mut area = vec![0xFF; LEGACY_AREA];
        area[HEADER..HEADER + 8].fill(0);
        let f = unpack(&area, &layout(), 7);
        assert_eq!((f.fcw, f.zmm[0].0[0], f.pkru), (0x37F, 0, 0));
    }
}
