//! The display in the terminal: firmware's text, the keyboard, the monitor behind it.
#![cfg(target_os = "linux")]

use std::time::Duration;

use rhea_tests::boot;
use rhea_tests::process::Process;

const STEP: Duration = Duration::from_secs(120);

#[test]
fn the_terminal_is_screen_keyboard_and_monitor() {
    if !boot::has_board("x86_64", "pc") {
        return;
    }
    let program = boot::rhea().display().to_string();
    let arguments =
        ["run", "--arch", "x86_64", "-accel", "tcg", "-M", "pc", "-m", "64", "-net", "none", "-display"];
    let more = ["curses", "-boot", "menu=on,splash-time=60000"];
    let mut guest = Process::on_terminal(&program, &[&arguments[..], &more].concat(), |_| {}).unwrap();
    guest.console.expect("SeaBIOS (version", STEP).unwrap();
    guest.console.expect("Press ESC for boot menu", STEP).unwrap();
    guest.console.send("\x1b").unwrap();
    guest.console.expect("Select boot device", STEP).unwrap();
    // The monitor, and back.
    guest.console.send("\x1b2").unwrap();
    guest.console.expect("(qemu)", STEP).unwrap();
    guest.console.send("info status\r").unwrap();
    guest.console.expect("VM status: running", STEP).unwrap();
    guest.console.send("\x1b1").unwrap();
    guest.console.expect("Select boot device", STEP).unwrap();
    guest.console.send("\x1b2").unwrap();
    guest.console.expect("(qemu)", STEP).unwrap();
    guest.console.send("quit\r").unwrap();
    let (status, _) = guest.wait(STEP).unwrap();
    assert!(status.success(), "{status}");
    assert!(guest.console.text().contains("\x1b[?25h\x1b[2J"), "the terminal is left clean");
}
