//! Address spaces as boards use them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use guest_memory::vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryBackend};
use guest_memory::{
    Access, AddressSpace, BusResult, DirtyClient, Dma, Gate, IoHandler, MemoryError, RamBlock, Region,
    Unassigned,
};

#[derive(Default)]
struct Scratch(AtomicU64);

impl IoHandler for Scratch {
    fn read(&self, offset: u64, data: &mut [u8]) -> Access {
        if offset >= 8 {
            return Access::NoRegister;
        }
        data.copy_from_slice(&self.0.load(Ordering::SeqCst).to_le_bytes()[..data.len()]);
        Access::Ok
    }
    fn write(&self, _: u64, data: &[u8]) -> Access {
        let mut word = [0; 8];
        word[..data.len()].copy_from_slice(data);
        self.0.store(u64::from_le_bytes(word), Ordering::SeqCst);
        Access::Ok
    }
}

#[test]
fn accesses_cross_ranges() {
    let space = AddressSpace::memory(Unassigned::Fault);
    let low = RamBlock::anonymous("low", 0x1000).unwrap();
    space.add(Region::ram("low", low.clone())).unwrap();
    space.add(Region::io("dev", 16, Arc::new(Scratch::default())).at(0x1000)).unwrap();
    let mut data = [0; 12];
    assert_eq!(space.write(0xffc, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]), BusResult::Ok);
    assert_eq!(space.read(0xffc, &mut data), BusResult::Ok);
    assert_eq!(data, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    assert_eq!(space.read(0x100c, &mut data), BusResult::DecodeError);
    assert_eq!(space.read(u64::MAX - 2, &mut data), BusResult::DecodeError);
    assert_eq!(space.write(0x1010, &[0]), BusResult::DecodeError);
    assert_eq!(space.view().peek(0xffc, &mut data), BusResult::DecodeError);
    assert_eq!(data, [1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn unassigned_ports_read_ones() {
    let ports = AddressSpace::ports();
    let mut data = [0; 4];
    assert_eq!(ports.read(0x80, &mut data), BusResult::Ok);
    assert_eq!(data, [0xff; 4]);
    assert_eq!(ports.read(0xfffe, &mut data), BusResult::Ok, "no wrap beyond 64 KiB");
}

#[test]
fn rom_and_rom_device() {
    let space = AddressSpace::memory(Unassigned::Zeros);
    let rom = RamBlock::anonymous("rom", 0x1000).unwrap();
    space.add(Region::rom("rom", rom)).unwrap();
    assert_eq!(space.write(0, &[1]), BusResult::Ok);
    let mut byte = [9];
    space.read(0, &mut byte);
    assert_eq!(byte, [0], "writes to ROM are ignored");
    assert_eq!(space.view().poke(0, &[5]), BusResult::Ok);
    space.read(0, &mut byte);
    assert_eq!(byte, [5]);

    let flash = RamBlock::anonymous("flash", 0x1000).unwrap();
    flash.write(0, &[0xea]).unwrap();
    let io = Arc::new(Scratch::default());
    let id = space.add(Region::rom_device("flash", flash, io.clone()).at(0x1000)).unwrap();
    space.write(0x1000, &[0x70]);
    space.read(0x1000, &mut byte);
    assert_eq!((byte, io.0.load(Ordering::SeqCst)), ([0xea], 0x70));
    let mut tx = space.update();
    tx.set_direct(id, false).unwrap();
    tx.commit().unwrap();
    space.read(0x1000, &mut byte);
    assert_eq!(byte, [0x70]);
}

#[test]
fn dma_follows_the_map_and_the_gate() {
    let space = AddressSpace::memory(Unassigned::Zeros);
    let gate = Gate::new(true);
    let dma = Dma::new(space.clone()).behind(gate.clone());
    assert_eq!(dma.memory().num_regions(), 0);
    let ram = RamBlock::anonymous("ram", 0x10000).unwrap();
    ram.dirty().start(DirtyClient::Migration);
    let id = space.add(Region::ram("ram", ram.clone()).at(0x8000_0000)).unwrap();
    dma.memory().write_obj(0x1122_3344u32, GuestAddress(0x8000_1ffe)).unwrap();
    assert_eq!(
        ram.take_dirty(DirtyClient::Migration, 0, u64::MAX).offsets().collect::<Vec<_>>(),
        [0x1000, 0x2000]
    );
    let mut back = [0; 4];
    dma.read(0x8000_1ffe, &mut back).unwrap();
    assert_eq!(back, [0x44, 0x33, 0x22, 0x11]);
    gate.set(false);
    assert!(dma.memory().read_obj::<u8>(GuestAddress(0x8000_0000)).is_err());
    assert!(dma.write(0x8000_0000, &[0]).unwrap_err().to_string().contains("bus mastering is off"));
    gate.set(true);
    let mut tx = space.update();
    tx.remove(id).unwrap();
    tx.commit().unwrap();
    assert!(dma.memory().read_obj::<u8>(GuestAddress(0x8000_0000)).is_err());
    assert_eq!(Arc::strong_count(&ram), 1, "nobody holds the block any more");
}

#[test]
fn mistakes_are_refused() {
    let space = AddressSpace::memory(Unassigned::Zeros);
    let mut tx = space.update();
    let root = tx.root();
    let a = tx.add(root, Region::container("a", 0x1000)).unwrap();
    let b = tx.add(a, Region::container("b", 0x100)).unwrap();
    let alias = Region::alias("loop", a, 0, 0x100);
    assert!(matches!(tx.add(b, alias), Err(MemoryError::Cycle(_))));
    let seen = tx.add(root, Region::alias("seen", b, 0, 0x100).at(0x5000)).unwrap();
    assert!(matches!(tx.remove(a), Err(MemoryError::Aliased(..))));
    tx.remove(seen).unwrap();
    assert!(matches!(
        tx.add(root, Region::container("big", 0x1000).at(u64::MAX)),
        Err(MemoryError::Overflow { .. })
    ));
    assert!(matches!(tx.add(root, Region::container("none", 0)), Err(MemoryError::BadSize { .. })));
    let ram = RamBlock::anonymous("ram", 0x1000).unwrap();
    assert!(matches!(tx.add(root, Region::ram_slice("x", ram, 1, 0x1000)), Err(MemoryError::BadSize { .. })));
    assert!(matches!(tx.set_direct(a, true), Err(MemoryError::WrongKind(..))));
    tx.remove(a).unwrap();
    assert!(matches!(tx.set_enabled(b, true), Err(MemoryError::NoRegion(_))));
}

#[test]
fn prints_like_mtree() {
    let space = AddressSpace::memory(Unassigned::Zeros);
    let ram = RamBlock::anonymous("ram", 0x10_0000).unwrap();
    let mut tx = space.update();
    let root = tx.root();
    let id = tx.create(Region::ram("ram", ram)).unwrap();
    tx.add(root, Region::alias("low", id, 0, 0x8_0000)).unwrap();
    tx.add(root, Region::alias("high", id, 0x8_0000, 0x8_0000).at(1 << 32)).unwrap();
    tx.add(root, Region::io("dev", 0x100, Arc::new(Scratch::default())).at(0x1000).priority(1)).unwrap();
    tx.commit().unwrap();
    assert_eq!(
        space.to_string(),
        "address-space: memory\n\
         0000000000000000-ffffffffffffffff (prio 0, container): memory\n  \
           0000000000000000-000000000007ffff (prio 0, alias): low -> ram 0000000000000000-000000000007ffff\n  \
           0000000000001000-00000000000010ff (prio 1, io): dev\n  \
           0000000100000000-000000010007ffff (prio 0, alias): high -> ram 0000000000080000-00000000000fffff\n  \
         0000000000000000-00000000000fffff (prio 0, ram): ram\n"
    );
    assert_eq!(
        space.view().to_string(),
        "0000000000000000-0000000000000fff (ram): ram @0000000000000000\n\
         0000000000001000-00000000000010ff (io): dev @0000000000000000\n\
         0000000000001100-000000000007ffff (ram): ram @0000000000001100\n\
         0000000100000000-000000010007ffff (ram): ram @0000000000080000\n"
    );
}

#[test]
fn secure_regions_are_in_the_other_view() {
    let space = AddressSpace::memory(Unassigned::Ones);
    let ram = RamBlock::anonymous("ram", 0x2000).unwrap();
    let smram = RamBlock::anonymous("smram", 0x1000).unwrap();
    space.add(Region::ram("ram", ram)).unwrap();
    assert!(Arc::ptr_eq(&space.snapshot(), &space.secure_snapshot()));
    let before = space.snapshot();
    let id = space.add(Region::ram("smram", smram.clone()).at(0x1000).priority(1).secure()).unwrap();
    assert!(Arc::ptr_eq(&before, &space.snapshot()) || before.ranges().len() == 1);
    smram.write(0, &[7]).unwrap();
    let byte = |view: &guest_memory::FlatView| {
        let mut b = [0];
        let _ = view.read(0x1000, &mut b);
        b[0]
    };
    assert_eq!((byte(&space.snapshot()), byte(&space.secure_snapshot())), (0, 7));
    assert!(space.to_string().contains("secure"), "{space}");
    let mut tx = space.update();
    tx.set_secure(id, false).unwrap();
    tx.commit().unwrap();
    assert_eq!((byte(&space.snapshot()), byte(&space.secure_snapshot())), (7, 7));
}
