//! Breakpoints that stand in guest memory. They belong to the partition: several vCPUs may ask for the same one,
//! and the original bytes come back when the last of them lets go.

use std::collections::BTreeMap;

use accel::VcpuError;
use guest_memory::AddressSpace;
use parking_lot::Mutex;

/// Longest breakpoint instruction.
const LONGEST: usize = 4;

struct Place {
    original: [u8; LONGEST],
    len: usize,
    users: u32,
}

/// The planted breakpoints of a partition, by guest physical address.
#[derive(Default)]
pub(crate) struct Planted(Mutex<BTreeMap<u64, Place>>);

impl Planted {
    /// Puts `code` (at most 4 bytes) at `gpa`, unless it stands there already.
    pub(crate) fn plant(&self, memory: &AddressSpace, gpa: u64, code: &[u8]) -> Result<(), VcpuError> {
        let mut places = self.0.lock();
        if let Some(place) = places.get_mut(&gpa) {
            place.users += 1;
            return Ok(());
        }
        let mut place = Place { original: [0; LONGEST], len: code.len().min(LONGEST), users: 1 };
        let view = memory.snapshot();
        let readable = view.peek(gpa, &mut place.original[..place.len]).is_ok();
        if !readable || !view.poke(gpa, code).is_ok() {
            return Err(VcpuError::Unsupported("a breakpoint outside of memory"));
        }
        places.insert(gpa, place);
        Ok(())
    }

    /// Lets go of the breakpoint at `gpa`.
    pub(crate) fn release(&self, memory: &AddressSpace, gpa: u64) {
        let mut places = self.0.lock();
        let Some(place) = places.get_mut(&gpa) else { return };
        place.users -= 1;
        if place.users == 0 {
            // Memory that has gone away took the breakpoint along.
            let _ = memory.snapshot().poke(gpa, &place.original[..place.len]);
            places.remove(&gpa);
        }
    }
}

#[cfg(test)]
mod tests {
    use guest_memory::{RamBlock, Region, Unassigned};

    use super::*;

    #[test]
    fn the_last_user_brings_the_original_back() {
        let memory = AddressSpace::memory(Unassigned::Ones);
        let ram = RamBlock::anonymous("ram", 0x1000).unwrap();
        ram.write(0x10, &[1, 2, 3, 4]).unwrap();
        memory.add(Region::ram("ram", ram.clone())).unwrap();
        let planted = Planted::default();
        let byte = || {
            let mut b = [0; 2];
            ram.read(0x10, &mut b).unwrap();
            b
        };
        planted.plant(&memory, 0x10, &[0xCC]).unwrap();
        planted.plant(&memory, 0x10, &[0xCC]).unwrap();
        assert_eq!(byte(), [0xCC, 2]);
        planted.release(&memory, 0x10);
        assert_eq!(byte(), [0xCC, 2]);
        planted.release(&memory, 0x10);
        assert_eq!(byte(), [1, 2]);
        planted.release(&memory, 0x10);
        assert!(planted.plant(&memory, 0x9000, &[0xCC]).is_err());
    }
}
