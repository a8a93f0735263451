//! Every kind of boot goes on from where it was saved on the way, in another process (`make boot-tests`): firmware, boot loaders, a test of
//! memory, a hypervisor and an installer. Debian on a disk is in `system.rs`.
#![cfg(target_os = "linux")]

use std::{path::Path, process::Command, thread, time::Duration};

use rhea_tests::{
    boot::{self, Scratch, powers_off},
    screen::Screen,
};

const STEP: Duration = Duration::from_secs(600);

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of guests are UTF-8")
}

fn has_boards(boards: &[&str]) -> bool {
    boards.iter().all(|board| boot::has_board("x86_64", board))
}

/// SeaBIOS waits for a key; what it is given afterwards opens its menu.
#[test]
fn seabios_at_its_prompt() {
    if !has_boards(&["pc", "q35"]) || !Path::new("/usr/share/seabios/bios-256k.bin").is_file() {
        return;
    }
    for board in ["pc", "q35"] {
        let menu = ["-m", "32", "-boot", "menu=on,splash-time=60000"];
        let mut screen = Screen::start(&format!("saved-bios-{board}"), board, &menu);
        screen.expect("Press ESC for boot menu", STEP).unwrap();
        let mut screen = screen.saved_and_loaded().unwrap();
        screen.expect("Press ESC for boot menu", STEP).unwrap();
        screen.keys(&["esc"]).unwrap();
        screen.expect("Select boot device:", STEP).unwrap();
        screen.keys(&["1"]).unwrap();
    }
}

#[test]
fn grub_in_its_menu() {
    if !has_boards(&["pc"]) {
        return;
    }
    let (Some(cd), Some(floppy)) = (boot::guest("pc/grub.iso"), boot::guest("pc/grub-floppy.img")) else {
        return;
    };
    let diskette = format!("format=raw,if=floppy,readonly=on,file={}", text(&floppy));
    for (name, arguments) in
        [("cd", ["-cdrom", text(&cd), "-boot", "d"]), ("floppy", ["-drive", &diskette, "-boot", "a"])]
    {
        let arguments = [&["-m", "64"][..], &arguments[..]].concat();
        let mut screen = Screen::start(&format!("saved-grub-{name}"), "pc", &arguments);
        screen.expect("GNU GRUB  version", STEP).unwrap();
        screen.expect("*GNU/Linux", STEP).unwrap();
        let mut screen = screen.saved_and_loaded().unwrap();
        screen.keys(&["down", "down"]).unwrap();
        screen.expect("*FreeBSD (or GNU/kFreeBSD), direct boot", STEP).unwrap();
        // The command line is read from the disk.
        screen.keys(&["c"]).unwrap();
        screen.expect("grub>", STEP).unwrap();
        screen.keys(&["l", "s", "ret"]).unwrap();
        screen.expect(if name == "cd" { "(cd" } else { "(fd0)" }, STEP).unwrap();
    }
}

#[test]
fn memtest_in_a_test() {
    if !has_boards(&["pc"]) {
        return;
    }
    let Some(image) = boot::guest("pc/memtest.iso") else { return };
    let mut screen =
        Screen::start("saved-memtest", "pc", &["-m", "64", "-boot", "d", "-cdrom", text(&image)]);
    screen.expect("Test #2", STEP).unwrap();
    let mut screen = screen.saved_and_loaded().unwrap();
    screen.expect("Test #3", STEP).unwrap();
    screen.expect("Errors: 0", STEP).unwrap();
}

/// While drivers are loaded, which is most of its time.
#[test]
fn ovmf_on_its_way() {
    if !has_boards(&["pc", "q35"]) {
        return;
    }
    for (board, code, vars) in [
        ("pc", "OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"),
        ("q35", "OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"),
        ("q35,smm=on", "OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.fd"),
    ] {
        let folder = Path::new("/usr/share/OVMF");
        if !folder.join(code).is_file() {
            return rhea_tests::skip("the package ovmf is not installed");
        }
        // The variables are written to: they are saved with the machine.
        let scratch = Scratch::new("saved-ovmf-flash");
        let copy = scratch.path("vars.qcow2");
        let mut make = Command::new(boot::rhea());
        make.args(["img", "convert", "-f", "raw", "-O", "qcow2"]).arg(folder.join(vars)).arg(&copy);
        assert!(make.status().unwrap().success());
        let code = format!("if=pflash,format=raw,unit=0,readonly=on,file={}", folder.join(code).display());
        let vars = format!("if=pflash,format=qcow2,unit=1,file={}", copy.display());
        let arguments = ["-m", "256", "-drive", &code, "-drive", &vars];
        let screen = Screen::start("saved-ovmf", board, &arguments);
        thread::sleep(Duration::from_secs(6));
        let mut screen = screen.saved_and_loaded().unwrap();
        let guest = screen.guest();
        guest.console.expect("Shell> ", STEP).unwrap_or_else(|e| panic!("{board}: {e}"));
        guest.console.send("reset -s\r").unwrap();
        powers_off(guest).unwrap();
    }
}

/// In the middle of its first domain's boot.
#[test]
fn xen_with_a_first_domain() {
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
    let arguments =
        ["-cpu", "max", "-m", "1024", "-kernel", text(&xen), "-append", append, "-initrd", &modules];
    let mut screen = Screen::start("saved-xen", "q35", &arguments);
    screen.guest().console.expect("Linux version", STEP).unwrap();
    let mut screen = screen.saved_and_loaded().unwrap();
    let guest = screen.guest();
    guest.console.expect("GUEST-INIT-OK x86_64", STEP).unwrap();
    guest.console.expect("GUEST-FLOAT 7464.534242052", STEP).unwrap();
    guest.console.expect("GUEST-DONE", STEP).unwrap();
    powers_off(guest).unwrap();
}

#[test]
fn debians_installer() {
    if !has_boards(&["q35"]) {
        return;
    }
    let (kernel, initrd) = (boot::guest("system/installer-linux"), boot::guest("system/installer-initrd.gz"));
    let (Some(kernel), Some(initrd)) = (kernel, initrd) else { return };
    let arguments = [
        "-m",
        "1024",
        "-smp",
        "2",
        "-kernel",
        text(&kernel),
        "-initrd",
        text(&initrd),
        "-append",
        "console=ttyS0 panic=-1",
    ];
    let mut screen = Screen::start("saved-installer", "q35", &arguments);
    screen.guest().console.expect("Run /init as init process", STEP).unwrap();
    let mut screen = screen.saved_and_loaded().unwrap();
    screen.guest().console.expect("[!!] Select a language", STEP).unwrap();
}
