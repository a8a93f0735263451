//! The GDB server, spoken to in GDB's own protocol over a UNIX socket: registers, memory, a breakpoint, a step.
//!
//! Source: "Debugging with GDB", appendix "GDB Remote Serial Protocol": packets `$data#checksum`, acknowledged by `+`.
#![cfg(target_os = "linux")]

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rhea_tests::{
    boot::{self, STEP, Scratch, powers_off},
    process::Process,
    tiny,
};

/// Number of the program counter in GDB's list of RISC-V registers, in hexadecimal.
const PC: &str = "20";
/// Number of t1, in hexadecimal.
const T1: &str = "6";

struct Gdb(UnixStream);

impl Gdb {
    /// Connects as soon as the socket is there; `None` when the emulator ended instead.
    fn connect(path: &Path, guest: &mut Process) -> Option<Gdb> {
        let deadline = Instant::now() + STEP;
        loop {
            match UnixStream::connect(path) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(STEP)).expect("a socket takes a time limit");
                    return Some(Gdb(stream));
                }
                Err(_) if guest.has_ended() => return None,
                Err(error) => assert!(Instant::now() < deadline, "{}: {error}", path.display()),
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.0.read_exact(&mut byte).expect("an answer");
        byte[0]
    }

    fn send(&mut self, packet: &str) {
        let sum = packet.bytes().fold(0u8, u8::wrapping_add);
        self.0.write_all(format!("${packet}#{sum:02x}").as_bytes()).expect("the server reads");
    }

    /// Sends a packet and returns the text of the answer.
    fn ask(&mut self, packet: &str) -> String {
        self.send(packet);
        self.answer()
    }

    fn answer(&mut self) -> String {
        while self.byte() != b'$' {}
        let mut text = Vec::new();
        loop {
            match self.byte() {
                b'#' => break,
                byte => text.push(byte),
            }
        }
        let sum = format!("{:02x}", text.iter().copied().fold(0u8, u8::wrapping_add));
        assert_eq!([self.byte(), self.byte()], sum.as_bytes(), "checksum");
        self.0.write_all(b"+").expect("the server reads");
        String::from_utf8(expand(&text)).expect("answers here are text")
    }

    /// A 64-bit register, sent in the guest's byte order.
    fn register(&mut self, number: &str) -> u64 {
        let answer = self.ask(&format!("p{number}"));
        let value =
            u64::from_str_radix(&answer, 16).unwrap_or_else(|_| panic!("register {number}: {answer}"));
        value.swap_bytes()
    }
}

/// Undoes run-length encoding: `c*n` is `c` and `n - 29` more of it.
fn expand(text: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        match (byte, whole.last().copied()) {
            (b'*', Some(last)) => {
                let count = bytes.next().expect("a count after *") - 29;
                whole.extend(std::iter::repeat_n(last, count.into()));
            }
            _ => whole.push(byte),
        }
    }
    whole
}

#[test]
fn gdb_breaks_steps_and_reads_a_riscv64_guest() {
    if !boot::has_board("riscv64", "virt") {
        return;
    }
    let scratch = Scratch::new("gdb");
    let (firmware, socket) = (scratch.path("firmware"), scratch.path("socket"));
    fs::write(&firmware, tiny::riscv_power_off()).unwrap();
    let option = format!("unix:{},server=on,wait=off", socket.display());
    let arguments = ["-m", "128", "-S", "-gdb", &option, "-bios", firmware.to_str().unwrap()];
    let mut guest = boot::start("riscv64", "virt", &arguments).unwrap();

    let Some(mut gdb) = Gdb::connect(&socket, &mut guest) else {
        let said =
            guest.console.expect("not supported yet", STEP).expect("it ended for want of a GDB server");
        rhea_tests::skip(&format!("no GDB server: {}", said.trim()));
        return;
    };
    let features = gdb.ask("qSupported:multiprocess-;swbreak+;xmlRegisters=i386");
    assert!(features.contains("qXfer:features:read+"), "{features}");
    let description = gdb.ask("qXfer:features:read:target.xml:0,ffb");
    assert!(description.contains("riscv:rv64"), "{description}");
    let stopped = gdb.ask("?");
    assert!(stopped.starts_with('T') || stopped.starts_with('S'), "{stopped}");
    assert_eq!(gdb.ask("m80000000,8"), "b702100037530000", "the first two instructions");

    // The third instruction: t1 holds 5 << 12 there, and 0x5555 one step later.
    assert_eq!(gdb.ask("Z0,80000008,4"), "OK");
    let stopped = gdb.ask("c");
    assert!(stopped.starts_with("T05"), "{stopped}");
    assert_eq!(gdb.register(PC), 0x8000_0008);
    assert_eq!(gdb.register(T1), 0x5000);
    assert_eq!(gdb.ask("z0,80000008,4"), "OK");
    let stopped = gdb.ask("s");
    assert!(stopped.starts_with("T05"), "{stopped}");
    assert_eq!(gdb.register(PC), 0x8000_000c);
    assert_eq!(gdb.register(T1), 0x5555);

    // Left alone, the guest powers off.
    gdb.send("c");
    powers_off(&mut guest).unwrap();
}

/// What a user types into the real GDB, and what must come back, in this order.
const SESSION: &[(&str, &str)] = &[
    ("info threads", "CPU#1"),
    ("info registers pc", "0x1000"),
    ("stepi", "0x0000000000001004"),
    ("hbreak *0x80000010", "Hardware assisted breakpoint 1 at 0x80000010"),
    ("continue", "hit Breakpoint 1"),
    ("info registers a1", "42"),
    ("x/i $pc", "sw\ta1,0(a0)"),
    ("delete", ""),
    ("watch *(int*)0x80100000", "Hardware watchpoint 2"),
    ("continue", "New value = 42"),
    ("delete", ""),
    ("thread 2", "Switching to thread"),
    ("monitor info status", ""),
    ("detach", "detached"),
];

#[test]
fn the_real_gdb_debugs_two_harts() {
    if !boot::has_board("riscv64", "virt") {
        return;
    }
    if std::process::Command::new("gdb-multiarch").arg("--version").output().is_err() {
        rhea_tests::skip("gdb-multiarch is not installed (resources/scripts/deps.sh test)");
        return;
    }
    let scratch = Scratch::new("real-gdb");
    let (firmware, socket, script) =
        (scratch.path("firmware"), scratch.path("socket"), scratch.path("script"));
    fs::write(&firmware, tiny::riscv_store()).unwrap();
    let option = format!("unix:{},server=on,wait=off", socket.display());
    let arguments = ["-m", "128", "-smp", "2", "-S", "-gdb", &option, "-bios", firmware.to_str().unwrap()];
    let mut guest = boot::start("riscv64", "virt", &arguments).unwrap();
    let deadline = Instant::now() + STEP;
    while !socket.exists() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    let mut text = "set pagination off\nset confirm off\nset architecture riscv:rv64\n".to_owned();
    text += &format!("target remote {}\n", socket.display());
    // A step of one hart must not let the other run, which could be at the guest's end before it. Only a target that
    // is there takes this setting.
    text += "set scheduler-locking step\n";
    SESSION.iter().for_each(|(command, _)| text += &format!("{command}\n"));
    fs::write(&script, text).unwrap();
    let gdb = std::process::Command::new("timeout")
        .args(["120", "gdb-multiarch", "-nx", "-q", "-batch", "-x"])
        .arg(&script)
        .output()
        .expect("gdb-multiarch runs");
    let said = String::from_utf8_lossy(&gdb.stdout).into_owned();
    let mut rest = said.as_str();
    for (command, expected) in SESSION {
        let Some(at) = rest.find(expected) else {
            panic!("{command}: expected {expected:?} in\n{said}\n{}", String::from_utf8_lossy(&gdb.stderr));
        };
        rest = &rest[at + expected.len()..];
    }
    // GDB has left: the guest goes on to its end.
    powers_off(&mut guest).unwrap();
}
