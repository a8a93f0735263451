//! A boot over the network: iPXE gets an address, a script, a kernel and an initramfs from the user network.

use std::fs;

use rhea_tests::boot::{self, Scratch, powers_off};

use super::{STEP, text};

#[test]
fn ipxe_boots_linux() {
    if !boot::has_board("x86_64", "pc") {
        return;
    }
    let (Some(ipxe), Some(kernel), Some(initrd)) =
        (boot::guest("net/x86_64/ipxe.lkrn"), boot::guest("x86_64/linux"), boot::guest("x86_64/initrd.gz"))
    else {
        return;
    };
    for card in ["e1000", "virtio-net-pci"] {
        let scratch = Scratch::new(&format!("ipxe-{card}"));
        let folder = scratch.path("tftp");
        fs::create_dir(&folder).unwrap();
        fs::copy(&kernel, folder.join("linux")).unwrap();
        fs::copy(&initrd, folder.join("initrd.gz")).unwrap();
        let script = format!("#!ipxe\nkernel linux {}\ninitrd initrd.gz\nboot\n", boot::APPEND);
        fs::write(folder.join("boot.ipxe"), script).unwrap();
        let netdev = format!("user,id=n0,tftp={},bootfile=boot.ipxe", text(&folder));
        let device = format!("{card},netdev=n0");
        let arguments =
            ["-m", "512", "-accel", "tcg", "-kernel", &text(&ipxe), "-netdev", &netdev, "-device", &device];
        let mut guest = boot::start("x86_64", "pc", &arguments).unwrap();
        let mut session = || {
            guest.console.expect("GUEST-INIT-OK x86_64", STEP)?;
            guest.console.expect("GUEST-DONE", STEP)?;
            powers_off(&mut guest)
        };
        session().unwrap_or_else(|e| panic!("{card}: {e}"));
    }
}
