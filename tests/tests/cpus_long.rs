//! Many processors: Debian's kernel on 8 and 64 of them, with x2APIC, also under KVM where it runs kernels; and processors that
//! come and go where OVMF was the firmware.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

use std::time::Duration;

use rhea_tests::boot::{self, Linux, Scratch};
use rhea_tests::cpus::comes_and_goes;

/// A boot of 64 processors on a machine with few.
const LONG: Duration = Duration::from_secs(1800);

fn boots(board: &str, accel: &str, cpu: &str, smp: &str, words: &str, count: u32) {
    if !boot::has_board("x86_64", board) {
        return;
    }
    let Some(linux) = Linux::debian("x86_64") else { return };
    let arguments = ["-accel", accel, "-cpu", cpu, "-smp", smp, "-m", "1024"];
    let mut guest = linux.start(board, words, &arguments);
    guest.console.expect(&format!("cpus={count}"), LONG).unwrap();
    let (status, _) = guest.wait(LONG).unwrap();
    assert!(status.success(), "{status}: {}", guest.console.tail());
    let text = guest.console.text();
    assert!(!text.contains("nobody cared") && !text.contains("failed to boot"), "{text}");
    if cpu == "max" {
        assert!(text.contains("x2apic"), "{text}");
    }
}

#[test]
fn x86_64_linux_has_8_processors() {
    boots("pc", "tcg", "qemu64", "8", "quiet", 8);
    boots("q35", "tcg", "max", "8,sockets=2,dies=2,cores=1,threads=2", "", 8);
}

#[test]
fn x86_64_linux_has_64_processors() {
    boots("pc", "tcg", "max", "64", "", 64);
    boots("q35", "tcg", "qemu64", "64,sockets=4,cores=8,threads=2", "quiet", 64);
}

#[test]
fn x86_64_linux_has_8_processors_under_kvm() {
    if boot::has_native_kvm() {
        boots("q35", "kvm", "host", "8,sockets=2,cores=2,threads=2", "quiet", 8);
    }
}

#[test]
fn x86_64_linux_takes_and_gives_back_a_processor_under_ovmf() {
    for board in ["pc", "q35"] {
        let scratch = Scratch::new(&format!("cpus-ovmf-{board}"));
        let Some(flash) = boot::ovmf("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd", &scratch) else { return };
        let flash: Vec<&str> = flash.iter().map(String::as_str).collect();
        comes_and_goes(env!("CARGO_BIN_EXE_mkinitrd"), board, &flash).unwrap();
    }
}
