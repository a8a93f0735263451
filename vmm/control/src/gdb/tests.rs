//! Packet conversations, and GDB itself where it is installed, with a machine that only pretends.

#![cfg(unix)]

use super::*;
use crate::chardev::{Chardevs, PortKind};
use crate::monitor::Control;
use crate::testing::FakeVm;
use crate::vm::{Event, RunState};
use accel::arch::riscv::State;
use accel::{WatchKind, Watchpoint};
use parking_lot::Mutex;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Two harts. The test stands in for their execution.
struct Fake {
    vm: Arc<FakeVm>,
    states: Mutex<Vec<CpuState>>,
    debug: Mutex<Vec<DebugConfig>>,
    held: Mutex<Vec<u32>>,
    listener: Mutex<Option<StopListener>>,
}

impl Fake {
    /// A vCPU meets what the debugger wanted.
    fn hit(&self, cpu: u32, event: DebugEvent) {
        *self.vm.state.lock() = RunState::Debug;
        self.vm.events.emit(&Event::stop());
        self.met(DebugStop { cpu, event, run: self.run_number() });
    }

    /// The same is heard of when the machine stands already, or runs again.
    fn met(&self, stop: DebugStop) {
        (self.listener.lock().as_ref().unwrap())(stop);
    }

    fn wait_running(&self) {
        while *self.vm.state.lock() != RunState::Running {
            std::thread::yield_now();
        }
    }
}

impl DebugTarget for Fake {
    fn vm(&self) -> &dyn Vm {
        &*self.vm
    }

    fn arch(&self) -> GuestArch {
        GuestArch::Riscv64
    }

    fn cpu_state(&self, cpu: u32) -> Result<CpuState, VmError> {
        self.states.lock().get(cpu as usize).cloned().ok_or_else(|| VmError::Failed("no such vCPU".into()))
    }

    fn set_cpu_state(&self, cpu: u32, state: CpuState) -> Result<(), VmError> {
        self.states.lock()[cpu as usize] = state;
        Ok(())
    }

    fn set_debug(&self, cpu: u32, debug: DebugConfig) -> Result<(), VmError> {
        self.debug.lock()[cpu as usize] = debug;
        Ok(())
    }

    fn hold(&self, cpus: &[u32]) {
        *self.held.lock() = cpus.to_vec();
    }

    fn run_number(&self) -> u64 {
        self.vm.runs.load(Ordering::Acquire)
    }

    fn set_stop_listener(&self, listener: Option<StopListener>) {
        *self.listener.lock() = listener;
    }
}

struct Bench {
    fake: Arc<Fake>,
    path: PathBuf,
    _server: GdbServer,
    _set: Chardevs,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gdb");
        let state = |hart| {
            let mut s =
                State { xlen: 64, pc: 0x10, misa: 0x2d, mhartid: hart, privilege: 3, ..State::default() };
            s.x[1] = 0x1122_3344_5566_7788;
            CpuState::Riscv(Box::new(s))
        };
        let vm = Arc::new(FakeVm::default());
        let fake = Arc::new(Fake {
            vm: vm.clone(),
            states: Mutex::new(vec![state(0), state(1)]),
            debug: Mutex::new(vec![DebugConfig::default(); 2]),
            held: Mutex::default(),
            listener: Mutex::default(),
        });
        let gdb = format!("unix:{}", path.display());
        let Ok(crate::Invocation::Run(config)) = crate::parse(&["-nodefaults", "-gdb", &gdb], "riscv64")
        else {
            panic!()
        };
        let quit = crate::chardev::Keys { quit: Arc::new(|| {}), save: Arc::new(|| Ok(0)) };
        let set = Chardevs::open(&config, &quit).unwrap();
        let chardev = set.connect("gdb", PortKind::Device).unwrap();
        let server = serve(chardev, fake.clone(), Control::new(vm)).unwrap();
        Self { fake, path, _server: server, _set: set, _dir: dir }
    }

    fn connect(&self) -> Client {
        let mut c = Client { socket: UnixStream::connect(&self.path).unwrap() };
        c.ask("qSupported:multiprocess+;swbreak+;hwbreak+;vContSupported+;qXfer:features:read+");
        c
    }
}

struct Client {
    socket: UnixStream,
}

impl Client {
    fn byte(&mut self) -> u8 {
        let mut b = [0];
        self.socket.read_exact(&mut b).unwrap();
        b[0]
    }

    fn send(&mut self, packet: &str) {
        let sum = packet.bytes().fold(0u8, u8::wrapping_add);
        write!(self.socket, "${packet}#{sum:02x}").unwrap();
    }

    /// The next packet, with run lengths undone.
    fn answer(&mut self) -> String {
        while self.byte() != b'$' {}
        let mut out = String::new();
        loop {
            match self.byte() {
                b'#' => break,
                b'*' => {
                    let n = self.byte() - 29;
                    let last = out.chars().last().unwrap();
                    out.extend(std::iter::repeat_n(last, n.into()));
                }
                b => out.push(char::from(b)),
            }
        }
        self.byte();
        self.byte();
        self.socket.write_all(b"+").unwrap();
        out
    }

    fn ask(&mut self, packet: &str) -> String {
        self.send(packet);
        self.answer()
    }
}

#[test]
fn registers_and_memory() {
    let b = Bench::new();
    let mut c = b.connect();
    assert_eq!(*b.fake.vm.state.lock(), RunState::Paused, "the guest stands while a client looks");
    assert!(c.ask("?").starts_with('T') || c.ask("?").starts_with('S'));
    let xml = c.ask("qXfer:features:read:target.xml:0,3fff");
    assert!(xml.contains("riscv:rv64") && xml.contains("org.gnu.gdb.riscv.csr"), "{xml}");
    let g = c.ask("g");
    assert_eq!(g.len(), 33 * 16);
    assert_eq!(&g[16..32], "8877665544332211");
    assert_eq!(c.ask("p20"), "1000000000000000");
    // mhartid of the other thread.
    c.ask("Hgp1.2");
    assert_eq!(c.ask(&format!("p{:x}", 65 + 0xf14)), "0100000000000000");
    assert_eq!(c.ask("P5=0807060504030201"), "OK");
    let CpuState::Riscv(s) = b.fake.cpu_state(1).unwrap() else { panic!() };
    assert_eq!(s.x[5], 0x0102_0304_0506_0708);
    assert_eq!(c.ask("P5=08"), "E16");
    assert_eq!(c.ask("m10,4"), "10111213");
    assert_eq!(c.ask("M10,2:aabb"), "OK");
    assert_eq!(c.ask("m10,4"), "aabb1213");
    assert!(c.ask("m1000,4").starts_with('E'));
    let threads = c.ask("qfThreadInfo");
    assert!(threads.contains("01") && threads.contains("02"), "{threads}");
}

#[test]
fn breakpoints_steps_and_interrupts() {
    let b = Bench::new();
    let mut c = b.connect();
    assert_eq!(c.ask("Z0,1000,4"), "OK");
    assert_eq!(c.ask("Z1,2000,4"), "OK");
    assert_eq!(c.ask("Z2,3000,8"), "OK");
    c.send("vCont;c");
    b.fake.wait_running();
    let want = DebugConfig {
        breakpoints: vec![0x1000, 0x2000],
        watchpoints: vec![Watchpoint { gva: 0x3000, len: 8, kind: WatchKind::Write }],
        single_step: false,
    };
    assert_eq!(*b.fake.debug.lock(), [want.clone(), want]);
    b.fake.hit(1, DebugEvent::Breakpoint { pc: 0x1000 });
    let stop = c.answer();
    assert!(stop.starts_with("T05") && stop.contains("swbreak") && stop.contains("thread:p01.02"), "{stop}");

    c.send("vCont;c");
    b.fake.wait_running();
    b.fake.hit(0, DebugEvent::Breakpoint { pc: 0x2000 });
    assert!(c.answer().contains("hwbreak"));
    c.send("vCont;c");
    b.fake.wait_running();
    b.fake.hit(0, DebugEvent::Watchpoint { gva: 0x3004, write: true });
    assert!(c.answer().contains("watch:3004"));

    assert_eq!(c.ask("z0,1000,4"), "OK");
    c.send("vCont;s:p1.2;c");
    b.fake.wait_running();
    {
        let debug = b.fake.debug.lock();
        assert_eq!((debug[0].single_step, debug[1].single_step), (false, true));
        assert_eq!(debug[0].breakpoints, [0x2000]);
    }
    b.fake.hit(1, DebugEvent::SingleStep);
    assert!(c.answer().starts_with("T05thread:p01.02"));
    assert!(b.fake.held.lock().is_empty());

    // One thread alone.
    c.send("vCont;c:p1.1");
    b.fake.wait_running();
    assert_eq!(*b.fake.held.lock(), [1]);
    b.fake.hit(0, DebugEvent::Breakpoint { pc: 0x2000 });
    c.answer();

    c.send("vCont;c");
    b.fake.wait_running();
    c.socket.write_all(&[3]).unwrap();
    assert!(c.answer().starts_with("T02"));
    assert_eq!(*b.fake.vm.state.lock(), RunState::Paused);

    // A monitor stops it.
    c.send("vCont;c");
    b.fake.wait_running();
    b.fake.vm.stop().unwrap();
    assert!(c.answer().starts_with("T02"));
}

#[test]
fn of_two_that_stop_together_each_is_told_of() {
    let b = Bench::new();
    let mut c = b.connect();
    let at = |cpu: usize, pc| {
        let CpuState::Riscv(s) = &mut b.fake.states.lock()[cpu] else { panic!() };
        s.pc = pc;
    };
    let hit = DebugEvent::Breakpoint { pc: 0x1000 };
    assert_eq!(c.ask("Z1,1000,4"), "OK");
    for late in [false, true] {
        c.send("vCont;c");
        b.fake.wait_running();
        let other = DebugStop { cpu: 1, event: hit, run: b.fake.run_number() };
        at(0, 0x1000);
        at(1, 0x1000);
        b.fake.hit(0, hit);
        assert!(c.answer().contains("thread:p01.01"));
        if !late {
            b.fake.met(other);
        }
        // The first steps over the breakpoint, alone; the other's stop is none of this.
        c.send("vCont;s:p1.1");
        b.fake.wait_running();
        if late {
            b.fake.met(other);
        }
        b.fake.hit(0, DebugEvent::SingleStep);
        let stop = c.answer();
        assert!(stop.starts_with("T05thread:p01.01"), "{stop}");
        // With the next that lets it run it is the first thing to be seen, and nothing has run.
        let runs = b.fake.run_number();
        c.send("vCont;c");
        let stop = c.answer();
        assert!(stop.contains("hwbreak") && stop.contains("thread:p01.02"), "{stop}");
        assert_eq!(b.fake.run_number(), runs);
    }
    // A stop at a breakpoint that is there no more is forgotten.
    c.send("vCont;c");
    b.fake.wait_running();
    let run = b.fake.run_number();
    b.fake.hit(0, hit);
    b.fake.met(DebugStop { cpu: 1, event: hit, run });
    c.answer();
    assert_eq!(c.ask("z1,1000,4"), "OK");
    c.send("vCont;c");
    b.fake.wait_running();
    c.socket.write_all(&[3]).unwrap();
    assert!(c.answer().starts_with("T02"));
}

#[test]
fn clients_come_and_go() {
    let b = Bench::new();
    let mut c = b.connect();
    assert_eq!(c.ask("Z0,1000,4"), "OK");
    assert_eq!(c.ask("D;1"), "OK");
    b.fake.wait_running();
    assert_eq!(b.fake.debug.lock()[0], DebugConfig::default());
    drop(c);
    // A connection that just breaks.
    let mut c = b.connect();
    assert_eq!(c.ask("Z0,1000,4"), "OK");
    c.send("vCont;c");
    b.fake.wait_running();
    drop(c);
    while b.fake.debug.lock()[0] != DebugConfig::default() {
        std::thread::yield_now();
    }
    // Monitor commands, in hexadecimal.
    let mut c = b.connect();
    let hex: String = "info name".bytes().map(|b| format!("{b:02x}")).collect();
    let answer = c.ask(&format!("qRcmd,{hex}"));
    let text: Vec<u8> =
        (1..answer.len()).step_by(2).map(|i| u8::from_str_radix(&answer[i..i + 2], 16).unwrap()).collect();
    assert_eq!((answer.as_bytes()[0], text.as_slice()), (b'O', &b"fake\n"[..]));
    assert_eq!(c.answer(), "OK");
    c.send("vKill;1");
    while !b.fake.vm.calls().contains(&"quit".to_owned()) {
        std::thread::yield_now();
    }
}

#[test]
fn random_packets_do_not_end_the_server() {
    let b = Bench::new();
    let mut state = 0x1357_9bdf_0246_8ace_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let pieces = [
        "m",
        "M",
        "p",
        "P",
        "g",
        "G",
        "Z0",
        "z2",
        ",",
        ":",
        ";",
        "=",
        "ffffffffffffffff",
        "-1",
        "0",
        "H",
        "g",
        "qXfer",
        "vCont?",
        "T",
        "X",
        "\u{7f}",
        "}",
        "*",
        "?",
    ];
    for _ in 0..20 {
        let mut c = Client { socket: UnixStream::connect(&b.path).unwrap() };
        for _ in 0..20 {
            let text: String = (0..random() % 6).map(|_| pieces[random() as usize % pieces.len()]).collect();
            if !["k", "vK", "c", "s", "D", "R"].iter().any(|p| text.starts_with(p)) {
                c.send(&text);
            }
        }
    }
    let mut c = b.connect();
    let g = c.ask("g");
    assert!(g.starts_with("0000"), "{g}");
}

#[test]
fn gdb_itself() {
    let gdb = ["gdb-multiarch", "gdb"].into_iter().find(|g| {
        std::process::Command::new(g)
            .args(["-batch", "-ex", "set architecture riscv:rv64"])
            .output()
            .is_ok_and(|o| o.status.success() && !String::from_utf8_lossy(&o.stderr).contains("ndefined"))
    });
    let Some(gdb) = gdb else { return };
    let b = Bench::new();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let out = std::thread::scope(|scope| {
        // The guest's part: whenever it runs, hart 0 comes to the breakpoint.
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let set = b.fake.debug.lock()[0].breakpoints.contains(&0x20);
                if set && *b.fake.vm.state.lock() == RunState::Running {
                    if let CpuState::Riscv(s) = &mut b.fake.states.lock()[0] {
                        s.pc = 0x20;
                    }
                    b.fake.hit(0, DebugEvent::Breakpoint { pc: 0x20 });
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        let target = format!("target remote {}", b.path.display());
        let commands = [
            "set pagination off",
            "set confirm off",
            "set architecture riscv:rv64",
            &target,
            "info threads",
            "p/x $ra",
            "p/x $pc",
            "p $priv",
            "p/x $misa",
            "p $fa0",
            "x/2xb 0x30",
            "hbreak *0x20",
            "continue",
            "p/x $pc",
            "set $a0 = 77",
            "p $a0",
            "monitor info name",
            "detach",
        ];
        let mut run = std::process::Command::new(gdb);
        run.args(["-nx", "-batch"]);
        for c in commands {
            run.args(["-ex", c]);
        }
        let out = run.output();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        out.unwrap()
    });
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    for want in [
        "CPU#0 [running]",
        "CPU#1 [halted]",
        "$1 = 0x1122334455667788",
        "$2 = 0x10",
        "0x30:\t0x30\t0x31",
        "Breakpoint 1",
        "$6 = 0x20",
        "$7 = 77",
        "fake",
    ] {
        assert!(text.contains(want), "no {want:?} in:\n{text}");
    }
}
