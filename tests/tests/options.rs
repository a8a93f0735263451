//! Every bad option ends in one line that names what was wrong and what is allowed, with exit code 1.
#![cfg(target_os = "linux")]

use std::{process::Command, time::Duration};

use rhea_tests::{
    boot::{self, Scratch},
    process::Process,
};

/// Arguments after `rhea run`, and what the line must hold: the bad thing first, then what was expected.
const BAD: &[(&[&str], &[&str])] = &[
    (&["-M", "virtt"], &["virtt", "virt"]),
    (&["-M", "virt", "-cpu", "rv65"], &["rv65"]),
    (&["-M", "virt", "-m", "0"], &["-m"]),
    (&["-M", "virt", "-m", "12parsecs"], &["12parsecs"]),
    (&["-M", "virt", "-m", "16777216T"], &["-m"]),
    (&["-M", "virt", "-smp", "0"], &["smp"]),
    (&["-M", "virt", "-smp", "1000000"], &["1000000"]),
    (&["-M", "virt", "-kernel", "/nonexistent/kernel"], &["/nonexistent/kernel"]),
    (&["-M", "virt", "-bios", "/nonexistent/firmware"], &["/nonexistent/firmware"]),
    (&["-M", "virt", "-accel", "warp"], &["warp", "tcg"]),
    (&["-M", "virt", "-device", "virtio-teapot"], &["virtio-teapot"]),
    (&["-M", "virt", "-device", "virtio-rng-device,flavour=mint"], &["flavour"]),
    (&["-M", "virt", "-drive", "file=/nonexistent/disk,if=none,id=d"], &["/nonexistent/disk"]),
    (&["-M", "virt", "-kernal", "x"], &["kernal", "kernel"]),
    (&["-M", "virt", "-qmp", "carrier-pigeon"], &["carrier-pigeon"]),
    (&["-M", "virt", "-serial", "semaphore"], &["semaphore"]),
    (&["-M", "virt", "-gdb", "carrier-pigeon"], &["carrier-pigeon"]),
    (&["-M", "virt", "-netdev", "telepathy,id=n"], &["telepathy"]),
    (&["-M", "virt", "-kernel", "/dev/null"], &["/dev/null"]),
    (&["-M", "virt", "-kernel", "/"], &["/", "directory"]),
    (&["-M", "virt", "-bios", "none", "-initrd", "/nonexistent/initrd"], &["initrd"]),
    (&["-M", "virt,colour=red"], &["colour"]),
    (&["-M", "virt", "-cpu", "rv64,wings=on"], &["wings"]),
    (&["-M", "virt", "-accel", "tcg,backend=steam"], &["steam"]),
    (&["-M", "virt", "-smp", "2", "-smp"], &["smp"]),
    (&["-M", "virt", "-loadvm", "/nonexistent/snapshot"], &["/nonexistent/snapshot"]),
    (&["-M", "virt", "/nonexistent/positional"], &["/nonexistent/positional"]),
    (&["-arch", "pdp12"], &["pdp12", "riscv64"]),
    (&["-mem-path", "/nonexistent/folder/ram"], &["/nonexistent/folder/ram"]),
    (&["-icount", "shift=11"], &["11", "0 to 10"]),
    (&["-icount", "auto"], &["-icount", "not supported"]),
    (&["-uuid", "12-34"], &["12-34", "UUID"]),
    (&["-rtc", "base=yesterday"], &["yesterday", "utc"]),
    (&["-rtc", "clock=rt"], &["clock=rt", "host or vm"]),
    (&["-rtc", "driftfix=slew"], &["driftfix=slew", "none"]),
    (&["-initrd", "/nonexistent/initrd", "-kernel", "/bin/sh"], &["/nonexistent/initrd"]),
    (&["-dtb", "/nonexistent/dtb"], &["/nonexistent/dtb"]),
    (&["-boot", "order=zz"], &["order", "a to p"]),
    (&["-boot", "menu=on"], &["menu", "not supported"]),
    (&["-drive", "file=/nonexistent/d,if=virtio,fromat=raw"], &["fromat", "format"]),
    (&["-drive", "file=/dev/null,if=none,id=d,format=qcow9"], &["qcow9", "raw"]),
    (&["-drive", "file=/dev/null,if=none,id=d,werror=maybe"], &["maybe", "report"]),
    (&["-fw_cfg", "name=opt/x"], &["opt/x", "file or string"]),
    (&["-drive", "if=none,file=/dev/null"], &["id"]),
    (&["-drive", "file=/dev/null,if=floppy"], &["floppy", "virtio"]),
    (&["-blockdev", "qcow9,node-name=n"], &["qcow9", "null-co"]),
    (&["-blockdev", "null-co"], &["node-name"]),
    (&["-blockdev", "file,node-name=n,filename=/nonexistent/n"], &["/nonexistent/n"]),
    (&["-blockdev", "null-co,node-name=n,sise=1M"], &["sise", "size"]),
    (&["-blockdev", r#"{"driver":"raw","node-name":"n","file":"gone"}"#], &["gone"]),
    (&["-blockdev", "null-co,node-name=n", "-blockdev", "null-co,node-name=n"], &["'n'", "twice"]),
    (&["-hda", "/nonexistent/hda"], &["/nonexistent/hda"]),
    (&["-hdb", "/nonexistent/hdb"], &["/nonexistent/hdb"]),
    (&["-hdc", "/nonexistent/hdc"], &["/nonexistent/hdc"]),
    (&["-hdd", "/nonexistent/hdd"], &["/nonexistent/hdd"]),
    (&["-cdrom", "/nonexistent/cdrom"], &["/nonexistent/cdrom"]),
    (&["-pflash", "/nonexistent/pflash"], &["/nonexistent/pflash"]),
    (&["-device", "virtio-blk-device,drive=gone"], &["gone", "none"]),
    (&["-device", "virtio-net-device,netdev=gone"], &["gone", "none"]),
    (&["-device", "virtio-rng-device,rng=gone"], &["gone", "none"]),
    (&["-device", "virtio-blk-device"], &["drive=ID"]),
    (&["-device", "virtconsole,chardev=c"], &["virtio-serial-device"]),
    (&["-device", "isa-debug-exit,iobase=0xf4,iosize=4"], &["isa-debug-exit", "virtio-mmio"]),
    (&["-device", "isa-debug-exit,iobase=0x12345"], &["iobase", "0xffff"]),
    (
        &[
            "-blockdev",
            "null-co,node-name=n",
            "-device",
            "virtio-blk-device,drive=n",
            "-device",
            "virtio-blk-device,drive=n",
        ],
        &["'n'", "in use"],
    ),
    (&["-global", "virtio-teapot.x=1"], &["virtio-teapot", "no such driver"]),
    (&["-global", "virtio-rng-device.flavour=mint"], &["flavour", "period"]),
    (&["-global", "virtio-rng-device.period=soon"], &["period", "soon"]),
    (&["-object", "rng-teapot,id=r"], &["rng-teapot", "rng-builtin"]),
    (&["-object", "rng-random,id=r,filename=/nonexistent/random"], &["/nonexistent/random"]),
    (&["-object", "memory-backend-ram,id=m"], &["size"]),
    (
        &["-object", "memory-backend-ram,id=m,size=16M,policy=bind", "-M", "virt,memory-backend=m"],
        &["policy", "default"],
    ),
    (&["-M", "virt,memory-backend=gone"], &["gone"]),
    (&["-netdev", "user,id=n,hostfwd=nonsense"], &["n"]),
    (&["-netdev", "hubport,id=n,hubid=0,netdev=gone"], &["gone"]),
    (&["-netdev", "dgram,id=n,local.type=unix"], &["local.path"]),
    (&["-nic", "hubport,hubid=0,model=ne2000"], &["ne2000", "virtio-net-device"]),
    (&["-nic", "telepathy"], &["telepathy", "tap"]),
    (&["-net", "telepathy"], &["telepathy", "tap"]),
    (&["-chardev", "semaphore,id=c"], &["semaphore", "socket"]),
    (&["-chardev", "file,id=c"], &["path"]),
    (&["-chardev", "file,id=c,path=/nonexistent/c"], &["/nonexistent/c"]),
    (&["-chardev", "socket,id=c,path=/nonexistent/c"], &["/nonexistent/c"]),
    (&["-chardev", "ringbuf,id=c,size=3"], &["3", "power of two"]),
    (&["-parallel", "semaphore"], &["semaphore"]),
    (&["-parallel", "null"], &["isa-parallel", "no ISA bus"]),
    (&["-watchdog-action", "bark"], &["bark", "inject-nmi"]),
    (&["-monitor", "semaphore"], &["semaphore"]),
    (&["-qmp-pretty", "semaphore"], &["semaphore"]),
    (&["-mon", "chardev=gone"], &["gone"]),
    (&["-display", "gtkk"], &["gtkk", "none"]),
    (&["-vga", "quartz"], &["quartz"]),
    (&["-vga", "std"], &["-vga", "none"]),
    (&["-name", "x,colour=red"], &["colour"]),
    (&["-action", "reboot=explode"], &["explode", "shutdown"]),
    (&["-incoming", "pigeon:x"], &["pigeon:x", "tcp:HOST:PORT"]),
    (&["-incoming", "file:/nonexistent/machine"], &["/nonexistent/machine"]),
    (&["-incoming", "fd:9999"], &["fd:9999"]),
    (&["-daemonize", "-serial", "stdio"], &["stdio", "-daemonize"]),
    (&["-pidfile", "/nonexistent/pid"], &["/nonexistent/pid"]),
    (&["-run-with", "user=nobody-such"], &["nobody-such", "UID:GID"]),
    (&["-run-with", "chroot=/nonexistent/root"], &["/nonexistent/root"]),
    (&["-run-with", "async-teardown=on"], &["async-teardown", "off"]),
    (&["-add-fd", "fd=4000,set=1", "-chardev", "null,id=n"], &["fd=4000"]),
    (&["-M", "virt", "-plugin", "teapot"], &["teapot", "memtrace"]),
    (&["-audiodev", "pa,id=a"], &["pa", "none"]),
    (&["-sandbox", "enable=maybe"], &["maybe", "on or off"]),
    (&["-overcommit", "mem-lock=maybe"], &["maybe", "on-fault"]),
    (&["-overcommit", "cpu-pm=on"], &["cpu-pm", "off"]),
    (&["-d", "everything"], &["everything", "in_asm"]),
    (&["-D", "/nonexistent/log", "-d", "int"], &["/nonexistent/log"]),
    (&["-trace", "virtio*"], &["-trace", "-d help"]),
    (&["-msg", "timestamp=maybe"], &["maybe", "on or off"]),
    (&["-readconfig", "/nonexistent/ini"], &["/nonexistent/ini"]),
    (&["-config", "/nonexistent/json"], &["/nonexistent/json"]),
    (&["-M", "virt", "-m", "64T"], &["MiB of RAM", "at most"]),
    (&["-m", "128,slots=2,maxmem=1G"], &["maxmem"]),
    (&["-smp", "cpus=4,sockets=2,cores=1,threads=1"], &["4"]),
    (&["-smp", "65"], &["65", "64"]),
    (&["-M", "none", "-kernel", "/dev/null"], &["none", "/dev/null"]),
];

/// Options whose argument cannot be wrong: any text will do, or a folder that need not be there.
const ANYTHING_GOES: &[&str] = &["append", "L"];

#[test]
fn every_option_with_an_argument_has_a_bad_case() {
    if !boot::has_board("riscv64", "virt") {
        return;
    }
    let (_, help) = run(&["run", "--help"]).unwrap();
    let mut seen = 0;
    for line in help.lines().filter(|line| line.starts_with("  -")) {
        // "-name, -alias ARGUMENT": an option without an argument takes nothing that could be wrong.
        let words: Vec<&str> = line.split_whitespace().collect();
        let names: Vec<&str> =
            words.iter().filter(|w| w.starts_with('-')).map(|w| w.trim_end_matches(',')).collect();
        if names.len() == words.len() || ANYTHING_GOES.contains(&&names[0][1..]) {
            continue;
        }
        seen += 1;
        let tried = |(arguments, _): &(&[&str], &[&str])| arguments.iter().any(|a| names.contains(a));
        assert!(BAD.iter().any(tried), "{line}: no bad case");
    }
    assert!(seen > 50, "{help}");
}

#[test]
fn devices_on_one_port_are_named() {
    if !boot::has_board("x86_64", "microvm") || !boot::has_kvm() {
        return;
    }
    let scratch = Scratch::new("overlap");
    let kernel = scratch.path("kernel");
    std::fs::write(&kernel, rhea_tests::tiny::x86_pvh(rhea_tests::tiny::X86::Exit)).unwrap();
    let kernel = kernel.to_str().unwrap();
    let base = ["run", "--arch", "x86_64", "-M", "microvm", "-nographic", "-accel", "kvm", "-kernel", kernel];
    let exit = |port: &str| {
        [&base[..], &["-device", &format!("isa-debug-exit,iobase={port},iosize=4")]].concat().join("\n")
    };
    let lines = exit("0x3f8");
    let (code, printed) = run(&lines.split('\n').collect::<Vec<_>>()).unwrap();
    assert_eq!(code, Some(1), "{printed}");
    assert!(
        printed.contains("isa-debug-exit") && printed.contains("serial0") && printed.contains("overlap"),
        "{printed}"
    );
    let lines = exit("0xf4");
    let (code, printed) = run(&lines.split('\n').collect::<Vec<_>>()).unwrap();
    assert_eq!(code, Some(0x2a << 1 | 1), "{printed}");
}

/// Runs to the end, which a bad option reaches at once: exit code and all that was printed.
fn run(arguments: &[&str]) -> Result<(Option<i32>, String), String> {
    let mut process =
        Process::piped(Command::new(boot::rhea()).args(arguments)).map_err(|error| error.to_string())?;
    let (status, _) = process.wait(Duration::from_secs(60))?;
    // What was still in the pipe when it ended.
    while !process.console.is_closed() {
        process.console.pump(Duration::from_millis(10));
    }
    Ok((status.code(), process.console.text()))
}

#[test]
fn bad_options_are_named_in_one_line() {
    if !boot::has_board("riscv64", "virt") {
        return;
    }
    let mut breaches = Vec::new();
    for (arguments, words) in BAD {
        let mut complain = |what: String| breaches.push(format!("{arguments:?}: {what}"));
        let (code, printed) = match run(&[&["run", "--arch", "riscv64", "-nographic"], *arguments].concat()) {
            Ok(end) => end,
            Err(error) => {
                complain(error);
                continue;
            }
        };
        if code != Some(1) {
            complain(format!("exit code {code:?}, expected 1; printed {printed:?}"));
        }
        if printed.trim_end().lines().count() != 1 {
            complain(format!("expected one line; printed {printed:?}"));
        }
        for word in *words {
            if !printed.contains(word) {
                complain(format!("expected {word:?} in it; printed {printed:?}"));
            }
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn every_list_can_be_asked_for() {
    if !boot::has_board("riscv64", "virt") {
        return;
    }
    let lists: &[(&[&str], &str)] = &[
        (&["-M", "help"], "virt"),
        (&["-M", "virt", "-cpu", "help"], "rv64"),
        (&["-accel", "help"], "tcg"),
        (&["-device", "help"], "virtio-blk-device"),
        (&["-device", "virtio-blk-device,help"], "serial=<str>"),
        (&["-device", "virtio-rng-device,help"], "  period=<uint32>        - "),
        (&["-object", "help"], "memory-backend-memfd"),
        (&["-chardev", "help"], "ringbuf"),
        (&["-netdev", "help"], "hubport"),
        (&["-nic", "tap,model=help"], "virtio-net-device"),
        (&["-display", "help"], "none"),
        (&["-d", "help"], "in_asm"),
        (&["-M", "virt,help"], "virt options:"),
        (&["--help"], "-kernel"),
        (&["--version"], "Rhea"),
    ];
    for (arguments, expected) in lists {
        let (code, printed) = run(&[&["run", "--arch", "riscv64"], *arguments].concat()).unwrap();
        assert_eq!(code, Some(0), "{arguments:?}: {printed}");
        assert!(printed.contains(expected), "{arguments:?}: expected {expected:?} in {printed}");
    }
}

#[test]
fn an_unknown_architecture_is_named() {
    if !boot::has_board("riscv64", "virt") {
        return;
    }
    let (code, printed) = run(&["run", "--arch", "pdp12", "-M", "virt"]).unwrap();
    assert_eq!(code, Some(1), "{printed}");
    assert!(printed.contains("pdp12") && printed.contains("riscv64"), "{printed}");
}

#[test]
fn nothing_is_created_when_an_option_is_bad() {
    if !boot::has_board("riscv64", "virt") {
        return;
    }
    let scratch = Scratch::new("options");
    let pidfile = scratch.path("pid").display().to_string();
    let socket = format!("unix:{},server=on,wait=off", scratch.path("qmp").display());
    let bad = ["-M", "virt", "-nographic", "-kernel", "/nonexistent/kernel"];
    let end =
        run(&[&["run", "--arch", "riscv64"], &bad[..], &["-pidfile", &pidfile, "-qmp", &socket]].concat());
    let (code, printed) = end.unwrap();
    assert_eq!(code, Some(1), "{printed}");
    assert_eq!(scratch.names(), Vec::<String>::new(), "left behind");
}
