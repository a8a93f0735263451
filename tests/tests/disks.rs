//! A guest's driver on one of our disk controllers: Debian's amd64 kernel has the one for NVMe built in.
#![cfg(target_os = "linux")]

use rhea_tests::boot::{self, Linux, STEP, Scratch, powers_off};

/// Bytes of the disk: the guest copies its first half to the second.
const SIZE: usize = 8 << 20;

/// What the guest does.
const SCRIPT: &str = "\
d=/dev/nvme0n1
i=0; while [ ! -b $d ] && [ $i -lt 1200 ]; do sleep 0.1; i=$((i+1)); done
echo DISK-SECTORS $(cat /sys/block/nvme0n1/size)
dd if=$d of=$d bs=64k count=64 seek=64 conv=notrunc,fsync 2>/dev/null
echo 3 >/proc/sys/vm/drop_caches
[ \"$(dd if=$d bs=64k count=64 2>/dev/null | sha256sum)\" = \"$(dd if=$d bs=64k skip=64 2>/dev/null | sha256sum)\" ] && echo DISK-SAME
";

#[test]
fn x86_64_linux_copies_on_an_nvme_disk() {
    if !boot::has_board("x86_64", "pc") {
        return;
    }
    let scratch = Scratch::new("disks");
    let Some(linux) = Linux::running(env!("CARGO_BIN_EXE_mkinitrd"), &scratch, SCRIPT) else { return };
    let image = scratch.path("disk");
    let data: Vec<u8> = (0..SIZE as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(&image, &data).unwrap();
    let drive = format!("if=none,id=d0,format=raw,file={}", image.display());
    let disk = ["-drive", &drive, "-device", "nvme,drive=d0,serial=rhea-1"];
    let mut guest = linux.start("pc", "quiet", &[&["-accel", "tcg", "-m", "256"][..], &disk].concat());
    guest.console.expect(&format!("DISK-SECTORS {}", SIZE / 512), STEP).unwrap();
    guest.console.expect("DISK-SAME", STEP).unwrap();
    powers_off(&mut guest).unwrap();
    let after = std::fs::read(&image).unwrap();
    assert_eq!(after.len(), SIZE);
    assert!(after[..SIZE / 2] == data[..SIZE / 2] && after[SIZE / 2..] == data[..SIZE / 2]);
}
