//! What the controller and its namespaces say about themselves (section 5.15).

use super::{DATA_PAGES, MAX_EVENTS, Nvme, VERSION, events};

/// Bytes of each structure.
pub(super) const SIZE: usize = 4096;
const FIRMWARE: &str = "1.0";

fn put(data: &mut [u8], at: usize, bytes: &[u8]) {
    data[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Text padded with blanks.
fn put_text(data: &mut [u8], at: usize, len: usize, text: &str) {
    data[at..at + len].fill(b' ');
    let bytes = &text.as_bytes()[..text.len().min(len)];
    put(data, at, bytes);
}

impl Nvme {
    pub(super) fn identify_controller(&self) -> Vec<u8> {
        let mut d = vec![0; SIZE];
        put(&mut d, 0, &pci::REDHAT.to_le_bytes());
        put(&mut d, 2, &pci::QUMRANET.to_le_bytes());
        put_text(&mut d, 4, 20, &self.config.serial);
        put_text(&mut d, 24, 40, "Rhea NVMe");
        put_text(&mut d, 64, 8, FIRMWARE);
        d[72] = 6;
        d[77] = DATA_PAGES;
        put(&mut d, 80, &VERSION.to_le_bytes());
        // Events that can be asked for.
        put(&mut d, 92, &events::NAMESPACES.to_le_bytes());
        // Aborts and events at a time, from 0; one firmware slot, read-only; logs for each namespace.
        (d[258], d[259], d[260], d[261]) = (3, MAX_EVENTS as u8 - 1, 3, 0);
        put(&mut d, 266, &343u16.to_le_bytes());
        put(&mut d, 268, &373u16.to_le_bytes());
        (d[512], d[513]) = (0x66, 0x44);
        put(&mut d, 516, &(self.config.disks.len() as u32).to_le_bytes());
        // Data set management, write zeroes; a write cache, which each namespace's flush empties.
        put(&mut d, 520, &0x000cu16.to_le_bytes());
        d[525] = 5;
        let name = format!("nqn.2014-08.org.nvmexpress:uuid:rhea-{}", self.config.serial);
        put(&mut d, 768, name.as_bytes());
        // One power state.
        put(&mut d, 2048, &2500u16.to_le_bytes());
        put(&mut d, 2052, &16u32.to_le_bytes());
        put(&mut d, 2056, &4u32.to_le_bytes());
        d
    }

    pub(super) fn identify_namespace(&self, number: u32) -> Vec<u8> {
        let mut d = vec![0; SIZE];
        let Some(disk) = self.disk(number) else { return d };
        let blocks = (disk.len() / 512).to_le_bytes();
        for at in [0, 8, 16] {
            put(&mut d, at, &blocks);
        }
        // Given up blocks are known of and read as zero.
        d[24] = 4;
        d[33] = 9;
        d[99] = u8::from(disk.read_only());
        put(&mut d, 120, &self.identifier(number));
        // Blocks of 512 bytes.
        d[130] = 9;
        d
    }

    /// 64 bits that name a namespace: a locally administered address.
    fn identifier(&self, number: u32) -> [u8; 8] {
        let hash = self.config.serial.bytes().fold(0x52_5400u32, |h, b| h.rotate_left(5) ^ u32::from(b));
        let [a, b, c, d] = hash.to_be_bytes();
        let [_, _, e, f] = number.to_be_bytes();
        [0x52, 0x54, a, b, c, d, e, f]
    }

    /// Namespaces after `number`, in order.
    pub(super) fn identify_list(&self, number: u32) -> Vec<u8> {
        let mut d = vec![0; SIZE];
        let all = (1..=self.config.disks.len() as u32).filter(|n| *n > number);
        for (entry, n) in d.chunks_exact_mut(4).zip(all) {
            entry.copy_from_slice(&n.to_le_bytes());
        }
        d
    }

    pub(super) fn identify_descriptors(&self, number: u32) -> Vec<u8> {
        let mut d = vec![0; SIZE];
        (d[0], d[1]) = (1, 8);
        put(&mut d, 4, &self.identifier(number));
        d
    }

    /// Health and use.
    pub(super) fn health(&self) -> Vec<u8> {
        let mut d = vec![0; 512];
        put(&mut d, 1, &323u16.to_le_bytes());
        (d[3], d[4]) = (100, 10);
        let stats = self.config.disks.iter().map(|disk| disk.stats());
        let [mut read, mut written, mut reads, mut writes] = [0u64; 4];
        for s in stats {
            (read, written) = (read.wrapping_add(s.read_bytes), written.wrapping_add(s.write_bytes));
            (reads, writes) = (reads.wrapping_add(s.reads), writes.wrapping_add(s.writes));
        }
        // Data in thousands of 512 bytes, then commands.
        for (at, value) in
            [(32, read.div_ceil(512_000)), (48, written.div_ceil(512_000)), (64, reads), (80, writes)]
        {
            put(&mut d, at, &value.to_le_bytes());
        }
        put(&mut d, 112, &1u64.to_le_bytes());
        d
    }

    pub(super) fn firmware_slots(&self) -> Vec<u8> {
        let mut d = vec![0; 512];
        d[0] = 1;
        put_text(&mut d, 8, 8, FIRMWARE);
        d
    }
}
