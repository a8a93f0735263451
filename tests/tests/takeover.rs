//! The translator takes over where KVM cannot emulate an instruction, on a host whose KVM emulates guest kernels; elsewhere
//! nothing is taken over, and the guest comes to the same end.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a panic in a test is the report")]

use std::fs;

use rhea_tests::{
    boot::{self, STEP, Scratch},
    process::Process,
    qmp::Qmp,
    tiny,
};
use serde_json::json;

/// Starts the guest that counts timer interrupts under `accelerator`.
fn start(scratch: &Scratch, what: tiny::X86, accelerator: &str, extra: &[&str]) -> Process {
    let kernel = scratch.path("kernel");
    fs::write(&kernel, tiny::x86_pvh(what)).unwrap();
    let exit = format!("isa-debug-exit,iobase={:#x},iosize=4", tiny::DEBUG_EXIT_PORT);
    let mut command = boot::command("x86_64", "microvm", &["-m", "64", "-device", &exit]);
    command.args(["-accel", accelerator, "-kernel"]).arg(&kernel).args(extra);
    Process::piped(&mut command).expect("the binary starts")
}

/// How often the translator has taken over, from `info jit`.
fn takeovers(qmp: &mut Qmp) -> u64 {
    let said = qmp.execute("human-monitor-command", json!({ "command-line": "info jit" })).unwrap();
    let text = said.as_str().unwrap().to_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("takeovers "));
    let line = line.unwrap_or_else(|| panic!("no count of takeovers in {text:?}"));
    line.trim().split(',').next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{text:?}"))
}

#[test]
fn a_guest_goes_on_where_kvm_cannot_emulate_an_instruction() {
    if !boot::has_board("x86_64", "microvm") || !boot::has_kvm() {
        return;
    }
    let scratch = Scratch::new("takeover");
    let socket = scratch.path("socket");
    let option = format!("unix:{},server=on,wait=off", socket.display());
    let end = i32::from(tiny::DEBUG_EXIT_VALUE) << 1 | 1;
    for chips in ["on", "split", "off"] {
        let accelerator = format!("kvm,kernel-irqchip={chips}");
        let mut guest = start(&scratch, tiny::X86::TicksIret, &accelerator, &["-qmp", &option]);
        guest.console.expect("TICK d", STEP).unwrap();
        let mut qmp = Qmp::connect(&socket, STEP).unwrap();
        let count = takeovers(&mut qmp);
        let (status, _) = guest.wait(STEP).unwrap();
        let text = guest.console.text();
        assert_eq!(status.code(), Some(end), "{chips}: {text}");
        assert!(text.contains("TICK z") && !text.contains("BAD"), "{chips}: {text}");
        // Without the translator it is an error that says so, if KVM ever needed help.
        if count > 0 {
            let mut guest =
                start(&scratch, tiny::X86::TicksIret, &format!("{accelerator},takeover=off"), &[]);
            let (status, _) = guest.wait(STEP).unwrap();
            let text = guest.console.text();
            assert_eq!(status.code(), Some(1), "{chips}: {text}");
            assert!(text.contains("cannot emulate the instruction at 'iretd'"), "{chips}: {text}");
        }
    }
}
