//! The long ones of what PCs start with (`make boot-tests`): GRUB's CD, memtest86+, iPXE, Xen with a first domain, and Debian's
//! 32-bit kernel on each board.
#![cfg(target_os = "linux")]

use std::{path::Path, time::Duration};

use rhea_tests::{
    boot::{self, Linux, Scratch, powers_off},
    process::Process,
    screen::Screen,
};

/// A step that is slow by nature.
const LONG: Duration = Duration::from_secs(900);

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of guests are UTF-8")
}

fn has_boards(boards: &[&str]) -> bool {
    boards.iter().all(|board| boot::has_board("x86_64", board))
}

/// GRUB from a CD: on IDE with and without PCI, and on AHCI.
#[test]
fn grub_on_a_cd_gives_its_menu() {
    if !has_boards(&["pc", "q35", "isapc"]) {
        return;
    }
    let Some(image) = boot::guest("pc/grub.iso") else { return };
    for board in ["pc", "q35", "isapc"] {
        let mut screen = Screen::start("grub-cd", board, &["-m", "64", "-cdrom", text(&image), "-boot", "d"]);
        screen.expect("GNU GRUB  version", LONG).unwrap();
        // Downwards in the menu, by the keyboard.
        screen.expect("*GNU/Linux", LONG).unwrap();
        screen.keys(&["down", "down"]).unwrap();
        screen.expect("*FreeBSD (or GNU/kFreeBSD), direct boot", LONG).unwrap();
    }
}

/// memtest86+ from a CD through its first tests, and as a kernel.
#[test]
fn memtest_passes_its_first_tests() {
    if !has_boards(&["pc", "q35"]) {
        return;
    }
    let (Some(image), Some(kernel)) = (boot::guest("pc/memtest.iso"), boot::guest("pc/memtest")) else {
        return;
    };
    for (board, arguments) in [("pc", ["-cdrom", text(&image)]), ("q35", ["-kernel", text(&kernel)])] {
        let arguments = [&["-m", "64", "-boot", "d"], &arguments[..]].concat();
        let mut screen = Screen::start("memtest", board, &arguments);
        for test in ["Test #1", "Test #2", "Test #3"] {
            screen.expect(test, LONG).unwrap();
        }
        let said = screen.expect("Errors: 0", LONG).unwrap();
        assert!(said.contains("Memory  :   64MB") || said.contains("Memory  :  63"), "{said}");
    }
}

/// iPXE from the card's own ROM gets a lease of our network.
#[test]
fn ipxe_gets_a_lease() {
    if !has_boards(&["pc", "q35"]) {
        return;
    }
    for (board, card, rom) in [("pc", "e1000", "pc/pxe-e1000.rom"), ("q35", "e1000", "pc/pxe-e1000.rom")] {
        let Some(rom) = boot::guest(rom) else { return };
        let device = format!("{card},netdev=n,romfile={}", text(&rom));
        let arguments =
            ["-accel", "tcg", "-m", "256", "-boot", "n", "-netdev", "user,id=n", "-device", &device];
        let mut guest = boot::start("x86_64", board, &arguments).unwrap();
        guest.console.expect("iPXE (http://ipxe.org)", LONG).unwrap();
        guest.console.expect("10.0.2.15/255.255.255.0 gw 10.0.2.2", LONG).unwrap();
    }
}

/// The ROMs that cards have by themselves, made to name them where they do not: a lease, and a script from the network's server.
#[test]
fn ipxe_boots_from_the_cards_own_roms() {
    if !Path::new("/usr/lib/ipxe/qemu/pxe-virtio.rom").is_file() {
        rhea_tests::skip("the package ipxe-qemu is not installed");
        return;
    }
    if !has_boards(&["pc", "q35"]) {
        return;
    }
    for (board, card) in [
        ("pc", "e1000"),
        ("pc", "virtio-net-pci"),
        ("q35", "e1000e"),
        ("q35", "virtio-net-pci"),
        ("q35", "e1000"),
    ] {
        let scratch = Scratch::new(&format!("rom-{board}-{card}"));
        let folder = scratch.path("tftp");
        std::fs::create_dir(&folder).unwrap();
        let script = "#!ipxe\necho FROM-TFTP ${net0/ip} ${net0/mac} ${net0/chip}\nshell\n";
        std::fs::write(folder.join("boot.ipxe"), script).unwrap();
        let netdev = format!("user,id=n,tftp={},bootfile=boot.ipxe", text(&folder));
        let device = format!("{card},netdev=n");
        let arguments = ["-accel", "tcg", "-m", "256", "-boot", "n", "-netdev", &netdev, "-device", &device];
        let mut guest = boot::start("x86_64", board, &arguments).unwrap();
        let mut session = || {
            guest.console.expect("iPXE (http://ipxe.org)", LONG)?;
            guest.console.expect("FROM-TFTP 10.0.2.15 52:54:00:12:34:56", LONG)
        };
        session().unwrap_or_else(|e| panic!("{card} on {board}: {e}"));
    }
}

/// Xen with Debian's kernel as its first domain, started as Multiboot modules, to power-off.
#[test]
fn xen_runs_a_first_domain() {
    if !has_boards(&["q35"]) {
        return;
    }
    let (Some(xen), Some(kernel), Some(initrd)) =
        (boot::guest("pc/xen"), boot::guest("pc/linux-amd64"), boot::guest("x86_64/initrd.gz"))
    else {
        return;
    };
    let modules = format!("{} console=hvc0 panic=-1,{}", text(&kernel), text(&initrd));
    let append = "console=com1 com1=115200 dom0_mem=512M";
    for vcpus in ["1", "2"] {
        let arguments = ["-accel", "tcg", "-cpu", "max", "-m", "1024", "-smp", vcpus];
        let kernel = ["-kernel", text(&xen), "-append", append, "-initrd", &modules];
        let mut guest = boot::start("x86_64", "q35", &[&arguments[..], &kernel].concat()).unwrap();
        guest.console.expect("Xen version 4.17", LONG).unwrap();
        guest.console.expect("GUEST-INIT-OK x86_64", LONG).unwrap();
        guest.console.expect(&format!(" cpus={vcpus}"), LONG).unwrap();
        guest.console.expect("GUEST-FLOAT 7464.534242052", LONG).unwrap();
        guest.console.expect("GUEST-DONE", LONG).unwrap();
        powers_off(&mut guest).unwrap();
    }
}

/// Debian's 32-bit kernel on each board.
#[test]
fn i386_linux_powers_off_on_each_board() {
    let (Some(kernel), Some(initrd)) = (boot::guest("pc/linux-686"), boot::guest("pc/initrd-i386.gz")) else {
        return;
    };
    let linux = Linux { arch: "x86_64", firmware: None, kernel, initrd };
    powers_off_on(&linux, "i686", &[("pc", "pentium3"), ("q35", "qemu32"), ("microvm", "max")]).unwrap();
}

/// Debian's kernel as the ELF file inside its bzImage, by PVH.
#[test]
fn an_elf_linux_powers_off_on_each_board() {
    let (Some(kernel), Some(linux)) = (boot::guest("x86_64/vmlinux"), Linux::debian("x86_64")) else {
        return;
    };
    let linux = Linux { kernel, ..linux };
    powers_off_on(&linux, "x86_64", &[("pc", "max"), ("q35", "qemu64"), ("microvm", "max")]).unwrap();
}

fn powers_off_on(linux: &Linux, machine: &str, boards: &[(&str, &str)]) -> Result<(), String> {
    for (board, cpu) in boards.iter().filter(|(board, _)| boot::has_board("x86_64", board)) {
        let mut guest = linux.start(board, "", &["-accel", "tcg", "-cpu", cpu, "-m", "512"]);
        guest.console.expect(&format!("GUEST-INIT-OK {machine}"), LONG)?;
        guest.console.expect("GUEST-FLOAT 7464.534242052", LONG)?;
        guest.console.expect("GUEST-DONE", LONG)?;
        powers_off(&mut guest).map_err(|e| format!("{board}: {e}"))?;
    }
    Ok(())
}

/// OVMF's builds with system management mode and Secure Boot, of 64 and of 32 bits, with several processors to gather at each
/// system management interrupt.
#[test]
fn ovmf_gathers_its_processors() {
    if !has_boards(&["q35"]) {
        return;
    }
    for (code, vars, cpu, vcpus) in [
        ("OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.fd", "max", "2"),
        ("OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.fd", "max", "4"),
        ("OVMF32_CODE_4M.secboot.fd", "OVMF32_VARS_4M.fd", "qemu32", "2"),
    ] {
        let scratch = Scratch::new("ovmf-smp");
        let Some(flash) = boot::ovmf(code, vars, &scratch) else { return };
        let arguments = ["-accel", "tcg", "-cpu", cpu, "-m", "256", "-smp", vcpus];
        let mut command = boot::command("x86_64", "q35,smm=on", &arguments);
        command.args(["-global", "driver=cfi.pflash01,property=secure,value=on"]).args(flash);
        let mut guest = Process::piped(&mut command).unwrap();
        guest.console.expect("any other key to continue", LONG).unwrap();
        guest.console.send("x").unwrap();
        guest.console.expect("Shell> ", LONG).unwrap();
        guest.console.send("reset -s\r").unwrap();
        powers_off(&mut guest).unwrap();
    }
}
