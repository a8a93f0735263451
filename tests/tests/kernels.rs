//! Kernels that `-kernel` starts in flat protected mode, by Multiboot 1 and 2 and by PVH, on boards with firmware and without:
//! small ones of our own, which check what they are told, and Debian's.
#![cfg(target_os = "linux")]

use std::{fs, path::Path};

use rhea_tests::{
    boot::{self, STEP, Scratch},
    screen::Screen,
    tiny::{self, Loader},
};

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of guests are UTF-8")
}

/// The boards that start such kernels.
const BOARDS: [&str; 3] = ["pc", "q35", "microvm"];

fn has_boards() -> bool {
    BOARDS.iter().all(|board| boot::has_board("x86_64", board))
}

#[test]
fn small_kernels_are_told_what_they_expect() {
    if !has_boards() {
        return;
    }
    let scratch = Scratch::new("kernels");
    let module = scratch.path("module");
    fs::write(&module, b"from the module\0").unwrap();
    for (name, loader) in [("m1", Loader::Multiboot1), ("m2", Loader::Multiboot2), ("pvh", Loader::Pvh)] {
        let kernel = scratch.path(name);
        fs::write(&kernel, tiny::x86_told(loader)).unwrap();
        let words = format!("{} two words", text(&module));
        let initrd = if loader == Loader::Pvh { text(&module) } else { &words };
        let said = match loader {
            Loader::Multiboot1 => format!("{} -v a=b\r\n{words}\r\nfrom the module\r\n", text(&kernel)),
            Loader::Multiboot2 => "-v a=b\r\ntwo words\r\nfrom the module\r\n".to_owned(),
            Loader::Pvh => "-v a=b\r\nfrom the module\r\n".to_owned(),
        };
        for board in BOARDS {
            let arguments =
                ["-accel", "tcg", "-m", "64", "-kernel", text(&kernel), "-append", "-v a=b", "-initrd"];
            let exit = [initrd, "-device", "isa-debug-exit,iobase=0xf4,iosize=4"];
            let mut guest = boot::start("x86_64", board, &[&arguments[..], &exit].concat()).unwrap();
            guest.console.expect(&said, STEP).unwrap_or_else(|error| panic!("{name} on {board}: {error}"));
            if loader == Loader::Multiboot2 && board != "microvm" {
                guest.console.expect("ACPI ", STEP).unwrap();
            }
            let (status, _) = guest.wait(STEP).unwrap();
            assert_eq!(status.code(), Some(i32::from(tiny::DEBUG_EXIT_VALUE) << 1 | 1), "{name} on {board}");
        }
    }
}

/// Xen as far as it goes without a first domain: it names its loader and the machine's memory.
#[test]
fn xen_gives_its_banner() {
    if !boot::has_board("x86_64", "q35") {
        return;
    }
    let Some(xen) = boot::guest("pc/xen") else { return };
    let append = "console=com1 com1=115200";
    let arguments = ["-accel", "tcg", "-cpu", "max", "-m", "256", "-kernel", text(&xen), "-append", append];
    let mut guest = boot::start("x86_64", "q35", &arguments).unwrap();
    for line in
        ["Xen version 4.17", "Bootloader: rhea", "Command line: console=com1", "dom0 kernel not specified"]
    {
        guest.console.expect(line, STEP).unwrap();
    }
}

/// A game that is a Multiboot kernel, up to the invaders.
#[test]
fn the_invaders_come() {
    if !boot::has_board("x86_64", "pc") {
        return;
    }
    let Some(kernel) = boot::guest("pc/invaders") else { return };
    let mut screen = Screen::start("invaders", "pc", &["-m", "64", "-kernel", text(&kernel)]);
    screen.expect("-*-    -*-    -*-", STEP).unwrap();
}
