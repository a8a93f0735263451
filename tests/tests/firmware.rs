//! Firmware and boot loaders of PCs, from Debian's packages, as far as a prompt or a menu: those that take a second or two.
#![cfg(target_os = "linux")]

use std::path::Path;

use rhea_tests::{
    boot::{self, STEP},
    process::Process,
    screen::Screen,
};

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of guests are UTF-8")
}

/// U-Boot of 32 and of 64 bits instead of a BIOS, to its prompt and back to the reset line.
#[test]
fn u_boot_gives_its_prompt_on_both_pcs() {
    if !boot::has_board("x86_64", "pc") || !boot::has_board("x86_64", "q35") {
        return;
    }
    for (board, chipset) in [("pc", "I440FX"), ("q35", "Q35")] {
        for (rom, words) in
            [("pc/u-boot-x86.rom", "CPU:"), ("pc/u-boot-x86_64.rom", "Jumping to 64-bit U-Boot")]
        {
            let Some(firmware) = boot::guest(rom) else { return };
            let arguments = ["-accel", "tcg", "-m", "256", "-bios", text(&firmware)];
            let mut guest = boot::start("x86_64", board, &arguments).unwrap();
            u_boot(&mut guest, words).unwrap_or_else(|error| panic!("{rom} on {board} ({chipset}): {error}"));
        }
    }
}

fn u_boot(guest: &mut Process, words: &str) -> Result<(), String> {
    guest.console.expect("U-Boot ", STEP)?;
    guest.console.expect(words, STEP)?;
    guest.console.expect("Hit any key to stop autoboot", STEP)?;
    guest.console.send("\n").map_err(|error| error.to_string())?;
    guest.console.expect("=> ", STEP)?;
    guest.console.send("setenv x 12340; printenv x\n").map_err(|error| error.to_string())?;
    guest.console.expect("x=12340", STEP)?;
    guest.console.send("pci\n").map_err(|error| error.to_string())?;
    guest.console.expect("00.00.00", STEP)?;
    guest.console.send("reset\n").map_err(|error| error.to_string())?;
    let (status, _) = guest.wait(STEP)?;
    if status.success() { Ok(()) } else { Err(format!("{status}; it printed:\n{}", guest.console.tail())) }
}

/// GRUB from a floppy, which SeaBIOS reads, to its menu, and to a command line that answers what is typed on the keyboard.
#[test]
fn grub_on_a_floppy_takes_what_is_typed() {
    if !boot::has_board("x86_64", "pc") {
        return;
    }
    let Some(image) = boot::guest("pc/grub-floppy.img") else { return };
    let drive = format!("if=floppy,format=raw,readonly=on,file={}", text(&image));
    let mut screen = Screen::start("grub", "pc", &["-m", "64", "-drive", &drive, "-boot", "a"]);
    screen.expect("GNU GRUB  version", STEP).unwrap();
    screen.expect("highlighted entry", STEP).unwrap();
    grub(&mut screen).unwrap();
}

fn grub(screen: &mut Screen) -> Result<(), String> {
    screen.keys(&["c"])?;
    screen.expect("grub>", STEP)?;
    // Capital letters and signs need the shift key: `test 2 -gt 1 && echo Yes_42`.
    for word in ["e c h o", "spc", "shift-y e s shift-minus 4 2", "ret"] {
        screen.keys(&word.split(' ').collect::<Vec<_>>())?;
    }
    screen.expect("\nYes_42", STEP)?;
    // With nothing else to boot, the firmware comes back.
    screen.keys(&["h", "a", "l", "t", "ret"])?;
    let (status, _) = screen.guest().wait(STEP)?;
    if status.success() { Ok(()) } else { Err(format!("halt: {status}")) }
}

/// SeaBIOS writes on a Cirrus through its own ROM, and on boards whose card is plugged by the user.
#[test]
fn a_bios_writes_on_a_cirrus() {
    for (board, card) in [("pc", ["-vga", "cirrus"]), ("q35", ["-device", "cirrus-vga"])] {
        if !boot::has_board("x86_64", board) {
            return;
        }
        let vga = if card[0] == "-vga" { &[][..] } else { &["-vga", "none"] };
        let arguments = [&["-m", "64", "-net", "none"], &card[..], vga].concat();
        let mut screen = Screen::start("cirrus", board, &arguments);
        screen.expect("No bootable device", STEP).unwrap_or_else(|e| panic!("{board}: {e}"));
    }
}
