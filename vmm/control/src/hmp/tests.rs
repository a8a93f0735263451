//! Lines and terminals with a machine that only pretends.

use super::*;
use crate::monitor::Session as Monitor;
use crate::testing::FakeVm;
use std::sync::Arc;

fn control() -> (Arc<FakeVm>, Arc<Control>) {
    let vm = Arc::new(FakeVm::default());
    (vm.clone(), Control::new(vm))
}

#[test]
fn lines_and_answers() {
    let (vm, c) = control();
    for (line, want) in [
        ("", ""),
        ("info status", "VM status: running\n"),
        ("stop", ""),
        ("info status", "VM status: paused\n"),
        ("c", ""),
        (
            "info cpus",
            "* CPU #0: thread_id=100 pc=0x0000000080000000\n  CPU #1: thread_id=101 pc=0x0000000080000000 (halted)\n",
        ),
        ("info registers", "pc of 0\n"),
        ("info registers -a", "\nCPU#0\npc of 0\n\nCPU#1\npc of 1\n"),
        ("info mtree -f", "tree -f\n"),
        ("info jit", "Error: info jit is not supported by this machine\n"),
        ("info statsu", "Error: info subject 'statsu' is not known; did you mean 'status'?\n"),
        ("info name", "fake\n"),
        ("info kvm", "kvm support: disabled\n"),
        ("info chardev", "serial0: filename=null\n"),
        ("info snapshots", "There is no snapshot available.\n"),
        ("stpo", "unknown command: 'stpo'; did you mean 'stop'?\n"),
        ("x/2xw 0", "0000000000000000: 0x03020100 0x07060504\n"),
        ("xp /3db 0x7f", "000000000000007f: 127 -128 -127\n"),
        ("x/c 65", "0000000000000041: 'A'\n"),
        ("x/1gx $pc+(2*4)", "0000000000000018: 0x1f1e1d1c1b1a1918\n"),
        ("x/2xg 248", "no memory at 0xf8\n"),
        ("x", "Error: expected an address\n"),
        ("x/zz 0", "Error: format expects letters of x d u o c s and b h w g, got 'z'\n"),
        ("x/99999999999 0", "Error: count expects a number of at most 65536\n"),
        ("x $nope", "Error: register 'nope' is not known\n"),
        ("p 1+2*3", "0x7\n"),
        ("p/d -1", "-1\n"),
        ("p 1/0", "Error: division by zero\n"),
        ("p (1", "Error: expected ')'\n"),
        ("p ~0 & 0xff", "0xff\n"),
        ("savevm a", ""),
        ("loadvm q", "Error: snapshot 'q' not found\n"),
        ("loadvm", "Error: expected one argument: tag\n"),
        ("cpu 7", "Error: vCPU '7' is not there\n"),
        ("nmi", ""),
        ("qom-list /", "machine (child<virt>)\n"),
        ("qom-get /m p", "{\n  \"/m\": \"p\"\n}\n"),
        ("ringbuf_read ring 5", "ring\\x1b\n"),
        ("device_add foo,id=x", "Error: hot plug of 'foo' is not supported by this machine\n"),
        ("log in_as", "Error: log item 'in_as' is not known\n"),
        ("log none", "Error: log is not supported by this machine\n"),
        ("help nmi", "nmi -- inject a non-maskable interrupt\n"),
        ("help s", "stop|s -- stop the vCPUs\n"),
        ("help nope", "Error: command 'nope' is not known\n"),
    ] {
        let got = run(&c, 0, line);
        assert_eq!(got, want, "{line}");
    }
    assert_eq!(vm.calls(), ["save a of all, state in first, replace true", "nmi 0"]);
}

#[test]
fn the_help_is_complete() {
    let (_, c) = control();
    let help = run(&c, 0, "help");
    for command in COMMANDS {
        assert!(help.lines().any(|l| l.starts_with(command.name)), "{}", command.name);
        assert!(!command.help.is_empty());
    }
    assert_eq!(run(&c, 0, "info"), run(&c, 0, "help info"));
}

fn typed(keys: &[u8]) -> (String, bool) {
    let (_, c) = control();
    let mut s = Session::new(c);
    let mut out = Vec::new();
    s.input(keys, &mut out);
    (String::from_utf8(out).unwrap(), s.wants_quit())
}

#[test]
fn a_terminal() {
    let (text, quit) = typed(b"info name\r");
    assert_eq!((text.as_str(), quit), ("info name\r\nfake\r\n(qemu) ", false));
    let (text, quit) = typed(b"quit\r\n");
    assert_eq!((text.as_str(), quit), ("quit\r\n", true));
    // One line end in either spelling.
    assert_eq!(typed(b"info name\r\ninfo name\n").0.matches("fake").count(), 2);
    assert!(typed(b"\r\n").0.ends_with("\r\n(qemu) "));
}

#[test]
fn line_editing() {
    for keys in [
        &b"infx\x7fo name\r"[..],
        b"nfo name\x01i\r",
        b"info xx\x17name\r",
        b"junk\x15info name\r",
        b"info namejunk\x1b[D\x1b[D\x1b[D\x1b[D\x0b\r",
        b"info na\tm\x08\r",
        b"inf\tname\r",
        b"xinfo name\x1b[H\x1b[3~\r",
    ] {
        let (text, _) = typed(keys);
        assert!(text.ends_with("\r\nfake\r\n(qemu) "), "{:?} {text:?}", keys.escape_ascii().to_string());
    }
    // History: the line before the last.
    assert_eq!(typed(b"info name\rstop\r\x1b[A\x1b[A\r").0.matches("fake").count(), 2);
    // Completion shows what is possible.
    assert!(typed(b"system_\t").0.contains("system_reset  system_powerdown"));
}

#[test]
fn the_chosen_cpu_is_kept() {
    let (text, _) = typed(b"cpu 1\rinfo registers\r");
    assert!(text.contains("pc of 1"), "{text}");
}

#[test]
fn random_keys_never_panic() {
    let mut state = 0xdead_beef_1234_5678_u64;
    let (_, c) = control();
    let mut s = Session::new(c.clone());
    let mut out = Vec::new();
    for _ in 0..60_000 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let letters =
            b"xp/0123456789$+-*%()~ infostatu\t\r\x1b[ABCD~\x01\x02\x04\x05\x06\x0b\x15\x17\x7f\xff";
        s.input(&[letters[state as usize % letters.len()]], &mut out);
        out.clear();
    }
    assert!(run(&c, 0, &"(".repeat(4000)).starts_with("unknown"));
    assert!(run(&c, 0, &format!("p {}", "(".repeat(4000))).contains("nested too deeply"));
}

#[test]
fn keyboard_mouse_and_screen() {
    let (vm, c) = control();
    for (line, call) in [
        ("sendkey ctrl-alt-delete", "keys ctrl alt delete 100"),
        ("sendkey 0x1e 20", "keys 0x1e 20"),
        ("screendump /tmp/x", "screendump /tmp/x ppm"),
        ("screendump /tmp/x -f png", "screendump /tmp/x png"),
        ("mouse_move 3 -4", "input [Move { dx: 3, dy: -4 }]"),
    ] {
        assert_eq!((run(&c, 0, line), vm.calls()), (String::new(), vec![call.to_owned()]), "{line}");
    }
    run(&c, 0, "mouse_button 5");
    assert!(vm.calls()[0].contains("{ button: \"right\", down: true }"));
    for bad in
        ["sendkey", "sendkey a b", "mouse_move 1", "mouse_button x", "screendump", "screendump a b c d"]
    {
        assert!(run(&c, 0, bad).starts_with("Error: "), "{bad}");
    }
    assert_eq!(vm.calls(), [] as [String; 0]);
}
