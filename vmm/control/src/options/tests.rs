//! The command line as a table: what each option makes, what each bad input is answered with.

use super::*;
use crate::config::*;
use serde_json::Value;

fn words(line: &str) -> Vec<String> {
    // Words are separated by blanks; single quotes keep blanks, as in a shell.
    let mut out = Vec::new();
    for (i, part) in line.split('\'').enumerate() {
        if i % 2 == 1 {
            out.push(part.to_owned());
        } else {
            out.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    out
}

fn run(line: &str) -> VmConfig {
    match parse(&words(line), "riscv64") {
        Ok(Invocation::Run(c)) => *c,
        other => panic!("{line}: {other:?}"),
    }
}

fn error(line: &str) -> String {
    let e = parse(&words(line), "riscv64").expect_err(line).to_string();
    assert!(!e.contains('\n'), "{line}: {e:?}");
    e
}

/// Lines and the part of the configuration (a JSON pointer) they make.
const GOOD: &[(&str, &str, &str)] = &[
    ("-M virt,aclint=on", "/machine", r#"{"type":"virt","properties":{"aclint":"on"}}"#),
    ("--machine type=virt -M acpi=off", "/machine", r#"{"type":"virt","properties":{"acpi":"off"}}"#),
    ("-no-acpi", "/machine/properties/acpi", r#""off""#),
    ("-M virt,accel=kvm:tcg", "/accels", r#"[{"name":"kvm"},{"name":"tcg"}]"#),
    ("-M virt,kernel=k,initrd=i,append=a,,b,dtb=d,firmware=none", "/append", r#""a,b""#),
    ("-M smp.cpus=4 -M virt,smp.cores=2", "/smp", r#"{"cpus":4,"cores":2}"#),
    (
        "-accel tcg,thread=multi,backend=interp,tb-size=64",
        "/accels/0/properties",
        r#"{"thread":"multi","backend":"interp","tb-size":"64"}"#,
    ),
    ("-accel tcg,perfmap=on,jitdump=off", "/accels/0/properties", r#"{"perfmap":"on","jitdump":"off"}"#),
    ("-accel kvm,kernel-irqchip=split -accel tcg", "/accels/1", r#"{"name":"tcg"}"#),
    (
        "-accel kvm:tcg,takeover=on",
        "/accels",
        r#"[{"name":"kvm","properties":{"takeover":"on"}},{"name":"tcg"}]"#,
    ),
    ("-enable-kvm", "/accels", r#"[{"name":"kvm"}]"#),
    ("-arch x86_64", "/arch", r#""x86_64""#),
    (
        "-cpu rv64,+v,-c,vlen=256,sv57=off",
        "/cpu",
        r#"{"model":"rv64","features":{"v":true,"c":false,"vlen":"256","sv57":false}}"#,
    ),
    ("-smp 8,sockets=2,maxcpus=16", "/smp", r#"{"cpus":8,"sockets":2,"maxcpus":16}"#),
    ("-m 512", "/memory/size", "536870912"),
    (
        "-m size=1G,slots=2,maxmem=4G",
        "/memory",
        r#"{"size":1073741824,"slots":2,"maxmem":4294967296,"backend":{"kind":{"type":"anon"}}}"#,
    ),
    (
        "-mem-path /dev/hugepages -mem-prealloc",
        "/memory/backend",
        r#"{"kind":{"type":"file","path":"/dev/hugepages","offset":0,"readonly":false,"discard-data":false},"prealloc":true}"#,
    ),
    (
        "-object memory-backend-memfd,id=ram,size=1G,hugetlb=on -M virt,memory-backend=ram",
        "/memory",
        r#"{"size":1073741824,"backend":{"id":"ram","kind":{"type":"memfd"},"share":true,"hugetlb":true}}"#,
    ),
    (
        "-object rng-random,id=r,filename=/dev/urandom",
        "/objects/0",
        r#"{"qom-type":"rng-random","id":"r","props":{"filename":"/dev/urandom"}}"#,
    ),
    (
        r#"-object '{"qom-type":"iothread","id":"t","poll-max-ns":5}'"#,
        "/objects/0/props",
        r#"{"poll-max-ns":5}"#,
    ),
    ("-icount shift=auto,sleep=off", "/icount", r#"{"sleep":false}"#),
    (
        "-kernel Image -initrd a,b -append 'root=/dev/vda console=ttyS0' -dtb d -bios none",
        "/append",
        r#""root=/dev/vda console=ttyS0""#,
    ),
    ("-append -x", "/append", r#""-x""#),
    (
        "-drive file=a,,b.img,if=virtio,format=raw,readonly,file.locking=off",
        "/drives/0",
        r#"{"file":"a,b.img","interface":"virtio","format":"raw","readonly":true,"media":"disk","options":{"file.locking":"off"}}"#,
    ),
    ("-hda d.img -cdrom c.iso", "/drives/1", r#"{"file":"c.iso","index":2,"media":"cdrom"}"#),
    ("disk.img", "/drives/0", r#"{"file":"disk.img","index":0,"media":"disk"}"#),
    ("-pflash a -pflash b", "/drives/1", r#"{"file":"b","index":1,"interface":"pflash","media":"disk"}"#),
    (
        "-blockdev driver=qcow2,node-name=n,file.driver=file,file.filename=f",
        "/blockdevs/0",
        r#"{"driver":"qcow2","node-name":"n","options":{"file":{"driver":"file","filename":"f"}}}"#,
    ),
    (
        r#"-blockdev '{"driver":"raw","node-name":"n","file":{"driver":"file","filename":"f"}}'"#,
        "/blockdevs/0/options/file/filename",
        r#""f""#,
    ),
    (
        "-device virtio-blk-device,drive=d0,id=disk,bus=b,share-rw",
        "/devices/0",
        r#"{"driver":"virtio-blk-device","id":"disk","bus":"b","props":{"drive":"d0","share-rw":"on"}}"#,
    ),
    (
        r#"-device '{"driver":"virtio-net-device","mq":true,"host_mtu":1500}'"#,
        "/devices/0/props",
        r#"{"mq":true,"host_mtu":1500}"#,
    ),
    (
        "-global virtio-blk-device.queue-size=8",
        "/globals/0",
        r#"{"driver":"virtio-blk-device","property":"queue-size","value":"8"}"#,
    ),
    ("-fw_cfg opt/x,string=a,,b", "/fw-cfg/0", r#"{"name":"opt/x","string":"a,b"}"#),
    ("-fw_cfg name=opt/x,file=f", "/fw-cfg/0/file", r#""f""#),
    ("-global driver=a,property=b,value=c", "/globals/0", r#"{"driver":"a","property":"b","value":"c"}"#),
    (
        "-netdev user,id=n0,hostfwd=tcp::1-:2,hostfwd=tcp::3-:4",
        "/netdevs/0",
        r#"{"id":"n0","type":"user","props":{"hostfwd":["tcp::1-:2","tcp::3-:4"]}}"#,
    ),
    (
        "-nic tap,model=virtio,mac=52:54:00:00:00:01,ifname=t0,script=no",
        "/nics/0",
        r#"{"netdev":"net0","model":"virtio","mac":"52:54:00:00:00:01"}"#,
    ),
    ("-nic none", "/nics", "null"),
    (
        "-net nic,model=virtio -net user",
        "/netdevs/2",
        r#"{"id":"net2","type":"hubport","props":{"hubid":0,"netdev":"net1"}}"#,
    ),
    (
        "-chardev socket,id=c,path=/tmp/s,server=on,wait=off -serial chardev:c",
        "/chardevs/0",
        r#"{"id":"c","type":"socket","addr":{"type":"unix","path":"/tmp/s"},"server":true}"#,
    ),
    ("-chardev socket,id=c,host=::1,port=4,reconnect=2", "/chardevs/0/reconnect-ms", "2000"),
    (
        "-chardev ringbuf,id=r,size=4k,logfile=x,logappend",
        "/chardevs/0",
        r#"{"id":"r","type":"ringbuf","size":4096,"logfile":"x","logappend":true}"#,
    ),
    (
        "-serial tcp:127.0.0.1:4444,server,nowait",
        "/chardevs/0",
        r#"{"id":"serial0","type":"socket","addr":{"type":"inet","host":"127.0.0.1","port":4444},"server":true}"#,
    ),
    ("-serial telnet:[::1]:23,server=on", "/chardevs/0/wait", "true"),
    (
        "-serial udp:h:1@:2",
        "/chardevs/0",
        r#"{"id":"serial0","type":"udp","host":"h","port":1,"localport":2}"#,
    ),
    ("-serial none -serial null", "/serials", r#"[null,"serial1"]"#),
    ("-serial mon:stdio", "/monitors", r#"[{"chardev":"serial0","mode":"readline"}]"#),
    ("-serial mon:stdio", "/chardevs", r#"[{"id":"serial0","type":"stdio","signal":false,"mux":true}]"#),
    ("-parallel file:lp", "/parallels", r#"["parallel0"]"#),
    ("-nographic", "/monitors", r#"[{"chardev":"serial0","mode":"readline"}]"#),
    ("-nographic -monitor none", "/chardevs", r#"[{"id":"serial0","type":"stdio","signal":false}]"#),
    (
        "-display curses",
        "/chardevs",
        r##"[{"id":"#terminal","type":"stdio","signal":false},{"id":"compat_monitor0","type":"vc"},{"id":"serial0","type":"vc"}]"##,
    ),
    ("-display none", "/chardevs", r#"[{"id":"serial0","type":"vc"}]"#),
    ("-nodefaults", "/serials", "null"),
    (
        "-qmp unix:/tmp/q,server=on,wait=off -qmp-pretty null",
        "/monitors",
        r#"[{"chardev":"compat_monitor0","mode":"control"},{"chardev":"compat_monitor1","mode":"control","pretty":true}]"#,
    ),
    ("-chardev null,id=m -mon m,mode=control", "/monitors", r#"[{"chardev":"m","mode":"control"}]"#),
    ("-s -S", "/gdb", r#"{"chardev":"gdb"}"#),
    (
        "-gdb unix:/tmp/g -serial null",
        "/chardevs/0",
        r#"{"id":"gdb","type":"socket","addr":{"type":"unix","path":"/tmp/g"},"server":true,"nodelay":true}"#,
    ),
    (
        "-rtc base=2006-06-17T16:01:21,clock=vm,driftfix=slew",
        "/rtc",
        r#"{"base":{"at":1150560081},"clock":"vm","driftfix-slew":true}"#,
    ),
    ("-name vm1,debug-threads=on", "/name", r#"{"guest":"vm1","debug-threads":true}"#),
    ("-uuid 123e4567-e89b-12d3-a456-426614174000", "/uuid", r#""123e4567-e89b-12d3-a456-426614174000""#),
    ("-boot once=d,menu=on -boot order=c", "/boot", r#"{"order":"c","once":"d","menu":true}"#),
    (
        "-no-reboot -no-shutdown",
        "/action",
        r#"{"reboot":"shutdown","shutdown":"pause","panic":"shutdown","watchdog":"reset"}"#,
    ),
    ("-watchdog-action inject-nmi", "/action/watchdog", r#""inject-nmi""#),
    ("-action watchdog=pause", "/action/watchdog", r#""pause""#),
    ("-action panic=exit-failure", "/action/panic", r#""exit-failure""#),
    (
        "-d in_asm,trace:virtio* -D log.txt",
        "/log",
        r#"{"items":["in_asm","trace:virtio*"],"file":"log.txt"}"#,
    ),
    ("-trace virtio_*,file=t", "/trace", r#"{"enable":["virtio_*"],"file":"t"}"#),
    ("-msg timestamp=on", "/msg", r#"{"timestamp":true}"#),
    ("-add-fd fd=24,set=0,opaque=x", "/fd-sets", r#"[{"fd":24,"set":0,"opaque":"x"}]"#),
    ("-audiodev none,id=a", "/audiodevs", r#"["a"]"#),
    ("-sandbox on,spawn=deny", "/run-with", r#"{"sandbox":true,"sandbox-groups":{"spawn":"deny"}}"#),
    ("-run-with user=nobody,chroot=/x", "/run-with", r#"{"user":"nobody","chroot":"/x"}"#),
    ("-overcommit mem-lock=on-fault", "/run-with/mem-lock", r#""on-fault""#),
    (
        "-incoming defer -loadvm s -daemonize -pidfile p -snapshot -L /fw -vga none -no-user-config",
        "/incoming",
        r#""defer""#,
    ),
];

#[test]
fn options_make_configurations_that_survive_json() {
    for (line, pointer, want) in GOOD {
        let config = run(line);
        let text = config.to_json();
        let json: Value = serde_json::from_str(&text).unwrap();
        let want: Value = serde_json::from_str(want).unwrap();
        assert_eq!(json.pointer(pointer).unwrap_or(&Value::Null), &want, "{line}\n{text}");
        assert_eq!(VmConfig::from_json(&text).as_ref(), Ok(&config), "{line}");
    }
}

/// Bad input and its answer, in full.
const BAD: &[(&str, &str)] = &[
    ("-kernal x", "option '-kernal' is not known; did you mean '-kernel'?"),
    ("--zzzzzz", "option '--zzzzzz' is not known; see --help"),
    ("-kernel", "option '-kernel' needs 'FILE'"),
    (
        "-m 12x",
        "-m 12x: 'size' expects a size (a number with an optional suffix K, M, G, T, P or E), got '12x'",
    ),
    ("-m 0", "-m 0: 'size' expects a size above zero, got '0'"),
    ("-m 4G,maxmem=1G", "-m 4G,maxmem=1G: memory: maxmem (1G) expected to be at least size (4G)"),
    ("-m 1G,slots=2", "-m 1G,slots=2: memory slots needs 'maxmem'"),
    ("-m 1G,slot=2", "-m 1G,slot=2: memory key 'slot' is not known; did you mean 'slots'?"),
    ("-smp 0", "-smp 0: Invalid CPU topology: CPU topology parameters must be greater than zero"),
    ("-smp x", "-smp x: 'cpus' expects a number, got 'x'"),
    ("-smp 99999999999", "-smp 99999999999: 'cpus' expects a number of 32 bits, got '99999999999'"),
    ("-smp 2,core=2", "-smp 2,core=2: smp-opts key 'core' is not known; did you mean 'cores'?"),
    ("-accel kvmm", "-accel kvmm: accelerator type 'kvmm' is not known; did you mean 'kvm'?"),
    (
        "-accel tcg,tread=multi",
        "-accel tcg,tread=multi: accelerator tcg key 'tread' is not known; did you mean 'thread'?",
    ),
    ("-accel tcg,thread=many", "-accel tcg,thread=many: 'thread' expects one of multi, single, got 'many'"),
    ("-accel tcg -M virt,accel=kvm", "-machine virt,accel=kvm: -M accel= and -accel exclude each other"),
    ("-M virt,memory-backend=r", "machine: memory-backend 'r' is not known"),
    ("-M =x", "-machine =x: expected a key before '=x'"),
    ("-cpu ,x", "-cpu ,x: cpu needs 'model'"),
    ("-cpu a,+", "-cpu a,+: expected +feature, -feature or property=value, got '+'"),
    ("-arch a/b", "-arch a/b: 'arch' expects an architecture such as riscv64 or x86_64, got 'a/b'"),
    ("-icount 11", "-icount 11: 'shift' expects auto or a number from 0 to 10, got '11'"),
    ("-icount auto,align=on", "-icount auto,align=on: align=on needs sleep=on and a shift that is a number"),
    ("-uuid 12", "-uuid 12: 'uuid' expects a UUID such as 123e4567-e89b-12d3-a456-426614174000, got '12'"),
    (
        "-rtc base=2026-02-30",
        "-rtc base=2026-02-30: 'base' expects utc, localtime, YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS, got '2026-02-30'",
    ),
    ("-rtc clock=sun", "-rtc clock=sun: 'clock' expects one of host, rt, vm, got 'sun'"),
    ("-boot cc", "-boot cc: 'order' expects different drive letters from a to p, got 'cc'"),
    ("-boot menu=maybe", "-boot menu=maybe: 'menu' expects on or off, got 'maybe'"),
    ("-boot c,menu=", "-boot c,menu=: 'menu' expects on or off, got ''"),
    ("-drive fle=x", "-drive fle=x: drive key 'fle' is not known; did you mean 'file'?"),
    (
        "-drive file=x,if=sata",
        "-drive file=x,if=sata: 'if' expects one of none, ide, scsi, sd, mtd, floppy, pflash, virtio, got 'sata'",
    ),
    ("-drive file=x,if=none", "-drive file=x,if=none: drive with if=none needs 'id'"),
    ("-drive file=x,index=1,bus=0", "-drive file=x,index=1,bus=0: index excludes bus and unit"),
    ("-drive if=none,id=a -drive if=none,id=a", "drive id 'a' is used twice"),
    ("-blockdev raw", "-blockdev raw: blockdev needs 'node-name'"),
    (
        "-blockdev raw,node-name=n,a=1,a.b=2",
        "-blockdev raw,node-name=n,a=1,a.b=2: key 'a.b' is both a value and a group of keys",
    ),
    ("-blockdev {\"driver\"", "-blockdev {\"driver\": JSON: EOF while parsing an object at line 1 column 9"),
    ("-device id=x", "-device id=x: device needs 'driver'"),
    (
        "-device a,id=1",
        "-device a,id=1: 'id' expects a letter followed by letters, digits, '-', '.' or '_', got '1'",
    ),
    ("-device a,id=x -device b,id=x", "device id 'x' is used twice"),
    ("-global x", "-global x: 'global' expects driver.property=value, got 'x'"),
    (
        "-object rng-rand,id=x",
        "-object rng-rand,id=x: object type 'rng-rand' is not known; did you mean 'rng-random'?",
    ),
    ("-object rng-random", "-object rng-random: object needs 'id'"),
    ("-object memory-backend-ram,id=x", "-object memory-backend-ram,id=x: memory-backend-ram needs 'size'"),
    (
        "-object memory-backend-ram,id=x,size=1G,path=y",
        "-object memory-backend-ram,id=x,size=1G,path=y: object memory-backend-ram key 'path' is not known; known: size, share, prealloc, prealloc-threads, merge, dump, reserve, host-nodes, policy",
    ),
    (
        "-object memory-backend-ram,id=x,size=1G -M memory-backend=x -m 2G",
        "memory-backend 'x' has 1073741824 bytes, expected the machine's size of 2147483648",
    ),
    ("-netdev usr,id=n", "-netdev usr,id=n: netdev type 'usr' is not known; did you mean 'user'?"),
    ("-netdev user", "-netdev user: netdev needs 'id'"),
    (
        "-netdev user,id=n,hostfw=x",
        "-netdev user,id=n,hostfw=x: netdev user key 'hostfw' is not known; did you mean 'hostfwd'?",
    ),
    (
        "-nic user,mac=1",
        "-nic user,mac=1: 'mac' expects six bytes in hexadecimal such as 52:54:00:12:34:56, got '1'",
    ),
    (
        "-nic user,mac=01:00:00:00:00:00",
        "-nic user,mac=01:00:00:00:00:00: 'mac' expects an address that is not multicast (an even first byte), got '01:00:00:00:00:00'",
    ),
    ("-net nic,netdev=q", "nic: netdev 'q' is not known"),
    ("-chardev sock,id=c", "-chardev sock,id=c: chardev type 'sock' is not known; did you mean 'socket'?"),
    ("-chardev socket,id=c", "-chardev socket,id=c: chardev socket needs 'port' or 'path'"),
    ("-chardev null,id=c,path=x", "-chardev null,id=c,path=x: chardev null key 'path' is not known"),
    (
        "-chardev socket,id=c,port=70000",
        "-chardev socket,id=c,port=70000: 'port' expects a number from 0 to 65535, got '70000'",
    ),
    (
        "-chardev socket,id=c,port=1,wait=on",
        "-chardev socket,id=c,port=1,wait=on: wait is for server=on only",
    ),
    (
        "-chardev ringbuf,id=c,size=5",
        "-chardev ringbuf,id=c,size=5: 'size' expects a power of two of at most 64M, got '5'",
    ),
    ("-chardev null,id=a -chardev null,id=a", "chardev id 'a' is used twice"),
    (
        "-serial foo",
        "-serial foo: 'back end' expects one of none, null, stdio, vc, pty, pty:PATH, file:PATH, pipe:PATH, tcp:HOST:PORT, telnet:HOST:PORT, unix:PATH, udp:HOST:PORT, ringbuf, chardev:ID, mon:..., got 'foo'",
    ),
    ("-serial tcp:1", "-serial tcp:1: 'address' expects HOST:PORT, got '1'"),
    ("-serial tcp:h:x", "-serial tcp:h:x: 'port' expects a number from 0 to 65535, got 'x'"),
    ("-serial chardev:no", "serial: chardev 'no' is not known"),
    (
        "-display curses -serial stdio",
        "the terminal is that of -display curses; expected chardev 'serial0' elsewhere (vc shows it there)",
    ),
    (
        "-serial stdio -monitor stdio",
        "chardevs 'serial0' and 'compat_monitor0' both are stdio; expected one (share it with mon:stdio or mux=on)",
    ),
    ("-mon mode=control", "-mon mode=control: mon needs 'chardev'"),
    ("-display gtk", "-display gtk: display type 'gtk' is not known; known: curses, none"),
    (
        "-vga foo",
        "-vga foo: 'vga' expects one of none, std, cirrus, vmware, qxl, virtio, tcx, cg3, xenfb, got 'foo'",
    ),
    ("-action reboot=x", "-action reboot=x: 'reboot' expects one of reset, shutdown, got 'x'"),
    (
        "-incoming ftp:x",
        "-incoming ftp:x: 'incoming' expects defer, tcp:HOST:PORT, unix:PATH, fd:N, exec:COMMAND or file:PATH[,offset=N], got 'ftp:x'",
    ),
    ("-d in_as", "-d in_as: log item 'in_as' is not known; did you mean 'in_asm'?"),
    ("-msg x=on", "-msg x=on: msg key 'x' is not known; known: timestamp, guest-name"),
    ("-name a,proces=b", "-name a,proces=b: name key 'proces' is not known; did you mean 'process'?"),
    ("-add-fd fd=2,set=0", "-add-fd fd=2,set=0: 'fd' expects a number from 3 to 2147483647, got '2'"),
    ("-add-fd fd=3", "-add-fd fd=3: 'set' expects a number from 0 to 2147483647, got ''"),
    ("-audiodev pa,id=a", "-audiodev pa,id=a: 'driver' expects one of none, got 'pa'"),
    ("-sandbox maybe", "-sandbox maybe: 'enable' expects on or off, got 'maybe'"),
    (
        "-run-with foo=1",
        "-run-with foo=1: run-with key 'foo' is not known; known: async-teardown, chroot, exit-with-parent, user",
    ),
    (
        "-overcommit mem-lock=1",
        "-overcommit mem-lock=1: 'mem-lock' expects one of on, off, on-fault, got '1'",
    ),
    (
        "-readconfig /nonexistent",
        "-readconfig /nonexistent: cannot read '/nonexistent': No such file or directory (os error 2)",
    ),
    ("-smp cpus", "-smp cpus: 'cpus' expects a number, got 'cpus'"),
    ("-drive if=none,file", "-drive if=none,file: 'file' needs a value: expected a text"),
];

#[test]
fn bad_input_is_answered_in_one_line() {
    for (line, want) in BAD {
        let got = error(line);
        assert!(
            got == *want || (want.ends_with("not known") && got.starts_with(want)),
            "{line}\n got {got}\nwant {want}"
        );
    }
}

#[test]
fn every_option_with_an_argument_refuses_its_absence() {
    for option in super::table::OPTIONS.iter().filter(|o| o.takes_argument()) {
        for name in option.names() {
            assert_eq!(error(&format!("-{name}")), format!("option '-{name}' needs '{}'", option.argument));
        }
    }
}

#[test]
fn names_are_unique_and_described() {
    let mut names: Vec<&str> = super::table::names().collect();
    let n = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(n, names.len());
    let Ok(Invocation::Help(help)) = parse(&["--help"], "riscv64") else { panic!() };
    for name in names {
        let shown = help
            .lines()
            .any(|l| l.starts_with("  -") && l.split([' ', ',']).any(|w| w == format!("-{name}")));
        assert!(shown, "-{name} is not in the help");
    }
    assert!(help.lines().all(|l| l.len() <= 110 || l.starts_with("  -")));
    assert!(super::table::OPTIONS.iter().all(|o| o.help.ends_with('.')));
}

#[test]
fn questions() {
    for (line, want) in [
        ("-M help", ListOf::Machines),
        ("-M virt,help", ListOf::MachineProps("virt".into())),
        ("-cpu help -M virt", ListOf::Cpus),
        ("-device help", ListOf::Devices),
        ("-device virtio-blk-device,help", ListOf::DeviceProps("virtio-blk-device".into())),
        ("-accel help", ListOf::Accels),
        ("-nic user,model=help", ListOf::NicModels),
        ("-nic model=help", ListOf::NicModels),
        ("-net nic,model=help", ListOf::NicModels),
    ] {
        match parse(&words(line), "riscv64") {
            Ok(Invocation::List { what, .. }) => assert_eq!(what, want),
            other => panic!("{line}: {other:?}"),
        }
    }
    for line in [
        "-help",
        "-h",
        "-d help",
        "-chardev help",
        "-netdev help",
        "-object help",
        "-display help",
        "-chardev null,help",
    ] {
        assert!(matches!(parse(&words(line), "riscv64"), Ok(Invocation::Help(_))), "{line}");
    }
    assert_eq!(parse(&["-version"], "riscv64"), Ok(Invocation::Version));
}

#[test]
fn an_ini_file_is_the_same_as_options() {
    let ini = r#"
# a machine
[machine]
  type = "virt"
  accel = "tcg"
[memory]
size = "1G"
[smp-opts]
cpus = "2"
[drive "d0"]
  file = "a,b.img"
  if = "none"
[device "disk"]
  driver = "virtio-blk-device"
  drive = "d0"
[chardev "c"]
  backend = "null"
[mon "m"]
  chardev = "c"
  mode = "control"
"#;
    let mut b = Builder::new("riscv64");
    super::ini::apply(&mut b, ini).unwrap();
    let line = "-M virt,accel=tcg -m 1G -smp 2 -drive file=a,,b.img,if=none,id=d0 -device virtio-blk-device,id=disk,drive=d0 \
                -chardev null,id=c -mon chardev=c,mode=control";
    assert_eq!(b.finish().unwrap(), run(line));
}

#[test]
fn ini_errors_name_the_line() {
    for (text, want) in [
        ("a = 1", "line 1: a key stands before the first [section]"),
        ("[machine\n", "line 1: the section header has no closing ']'"),
        ("[drive x]\n", "line 1: expected [section \"id\"]"),
        ("\n[machne]\n", "line 2: section 'machne' is not known; did you mean 'machine'?"),
        ("[memory]\nsize", "line 2: expected key = \"value\""),
        ("[memory]\nsize = \"1", "line 2: the value has no closing quote"),
        ("[memory]\nsze = \"1\"", "line 1: [memory]: memory key 'sze' is not known; did you mean 'size'?"),
        ("[memory]\n\nsize = \"q\"\n", "line 1: [memory]: 'size' expects a size"),
    ] {
        let mut b = Builder::new("riscv64");
        match super::ini::apply(&mut b, text) {
            Err(Stop::Error(e)) => assert!(e.to_string().starts_with(want), "{text:?}: {e}"),
            other => panic!("{text:?}: {other:?}"),
        }
    }
}

#[test]
fn a_json_file_is_a_whole_configuration() {
    let file = std::env::temp_dir().join(format!("rhea-config-{}.json", std::process::id()));
    let first = run("-M virt -nographic -m 1G");
    std::fs::write(&file, first.to_json()).unwrap();
    let again = run(&format!("-config {} -smp 2", file.display()));
    std::fs::remove_file(&file).unwrap();
    assert_eq!(again, VmConfig { smp: SmpConfig { cpus: Some(2), ..Default::default() }, ..first });
}

/// xorshift64: the same inputs every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[test]
fn random_text_never_panics() {
    let pieces = [
        "=",
        ",",
        ",,",
        "id",
        "on",
        "help",
        "type",
        "file",
        "size",
        "1G",
        "0x",
        "-1",
        "9999999999999999999999",
        "tcp:",
        "[::1]:",
        ":",
        "mon:",
        "stdio",
        "unix:",
        "socket",
        "user",
        "virt",
        "{",
        "\"",
        "}",
        "[",
        "]",
        "\n",
        "[drive \"",
        "é",
        "\0",
        "#",
        "server",
        "noserver",
        ".",
        "..",
        "accel",
        "memory-backend-ram",
        "+",
        "-",
        "@",
        "shift",
        "T",
        "driver",
    ];
    let mut r = Random(0x1234_5678_9abc_def1);
    let options: Vec<_> = super::table::OPTIONS.iter().filter(|o| o.takes_argument()).collect();
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..r.next() % 9 {
            text.push_str(pieces[r.next() as usize % pieces.len()]);
        }
        let option = options[r.next() as usize % options.len()];
        // These read files.
        if !["readconfig", "config"].contains(&option.name) {
            let _ = parse(&[format!("-{}", option.name), text.clone()], "riscv64");
        }
        let mut b = Builder::new("riscv64");
        let _ = super::ini::apply(&mut b, &text);
        let _ = super::keyval::split(&text);
        let _ = VmConfig::from_json(&text);
    }
}
