//! Network back ends with QEMU's at the other end.
//!
//! Neither side has a guest: on each, a hub joins the back end under test to a datagram socket that the test holds. Where
//! the right is there, all of it happens in a network namespace that the test makes, in which raw sockets, multicast
//! routes, tap devices and bridges are free to have; that needs no more than user namespaces.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rhea_tests::boot::{Scratch, rhea};
use rhea_tests::namespace::in_namespace;
use rhea_tests::{skip, workspace};

const STEP: Duration = Duration::from_secs(60);
const QEMU: &str = "qemu-system-riscv64";

/// A process that ends with us.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Which of the two it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Rhea,
    Qemu,
}

/// A side of the wire: the process, and our socket to it.
struct Edge {
    _running: Running,
    socket: UnixDatagram,
    there: PathBuf,
}

impl Edge {
    fn start(side: Side, netdev: &str, scratch: &Scratch, name: &str) -> Edge {
        let (ours, theirs) = (scratch.path(&format!("{name}-test")), scratch.path(&format!("{name}-net")));
        let _ = fs::remove_file(&ours);
        let _ = fs::remove_file(&theirs);
        let socket = UnixDatagram::bind(&ours).expect("a socket in the folder");
        let mut command = match side {
            Side::Rhea => {
                let mut command = Command::new(rhea());
                command.args(["run", "--arch", "riscv64"]);
                command
            }
            Side::Qemu => Command::new(QEMU),
        };
        let edge = format!(
            "dgram,id=edge,local.type=unix,local.path={},remote.type=unix,remote.path={}",
            theirs.display(),
            ours.display()
        );
        command.args(["-M", "none", "-nodefaults", "-display", "none"]);
        for option in [netdev, &edge, "hubport,id=h0,hubid=0,netdev=n0", "hubport,id=h1,hubid=0,netdev=edge"]
        {
            command.args(["-netdev", option]);
        }
        if side == Side::Qemu {
            // It warns of hubs without cards.
            command.stderr(Stdio::null());
        }
        let running = Running(command.stdin(Stdio::null()).spawn().expect("the program starts"));
        let deadline = Instant::now() + STEP;
        while !theirs.exists() {
            assert!(Instant::now() < deadline, "{netdev}: the process has no socket");
            std::thread::sleep(Duration::from_millis(10));
        }
        Edge { _running: running, socket, there: theirs }
    }
}

fn frame(length: usize, mark: u32) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend_from_slice(&[0x52, 0x54, 0, 0, 0, 1, 0x88, 0xb5]);
    frame.extend((14..length).map(|i| (i as u32 ^ mark) as u8));
    frame
}

/// Sends until it comes out at the other end: the first ones may find nobody there yet.
fn carries(from: &Edge, to: &Edge, length: usize, mark: u32) -> Result<(), String> {
    let wanted = frame(length, mark);
    let deadline = Instant::now() + STEP;
    let mut buffer = vec![0; 70_000];
    to.socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    while Instant::now() < deadline {
        let _ = from.socket.send_to(&wanted, &from.there);
        while let Ok(n) = to.socket.recv(&mut buffer) {
            if buffer[..n] == wanted {
                return Ok(());
            }
        }
    }
    Err(format!("no frame of {length} bytes came through"))
}

fn try_pair(what: &str, first: (Side, &str), second: (Side, &str), scratch: &Scratch) {
    let left = Edge::start(first.0, first.1, scratch, "left");
    let right = Edge::start(second.0, second.1, scratch, "right");
    for (i, length) in [60, 1514, 9000].into_iter().enumerate() {
        let mark = i as u32 * 2;
        for (from, to, mark) in [(&left, &right, mark), (&right, &left, mark + 1)] {
            carries(from, to, length, mark).unwrap_or_else(|e| panic!("{what}: {e}"));
        }
    }
    println!("{what}: ok");
}

fn has_qemu() -> bool {
    let there = Command::new(QEMU).arg("--version").output().is_ok_and(|o| o.status.success());
    if !there {
        skip(&format!("{QEMU} is not installed"));
    }
    there
}

#[test]
fn qemu_at_the_other_end() {
    use Side::{Qemu, Rhea};
    if !has_qemu() || !in_namespace("qemu_at_the_other_end") {
        return;
    }
    let scratch = Scratch::new("peers");
    let unix = scratch.path("stream").display().to_string();
    let (a, b) = (scratch.path("a").display().to_string(), scratch.path("b").display().to_string());
    let path = |mine: &str, other: &str| {
        format!("dgram,id=n0,local.type=unix,local.path={mine},remote.type=unix,remote.path={other}")
    };
    let inet = |mine: u32, other: u32| {
        format!(
            "dgram,id=n0,local.type=inet,local.host=127.0.0.1,local.port={mine},\
             remote.type=inet,remote.host=127.0.0.1,remote.port={other}"
        )
    };
    let group = "dgram,id=n0,remote.type=inet,remote.host=239.1.2.3,remote.port=4500";
    let udp = "l2tpv3,id=n0,src=127.0.0.1,dst=127.0.0.1,udp=on";
    let raw = "l2tpv3,id=n0,src=127.0.0.1,dst=127.0.0.1";
    let mut cases: Vec<(&str, String, String)> = vec![
        (
            "socket udp",
            "socket,id=n0,udp=127.0.0.1:4101,localaddr=127.0.0.1:4100".into(),
            "socket,id=n0,udp=127.0.0.1:4100,localaddr=127.0.0.1:4101".into(),
        ),
        (
            "socket mcast",
            "socket,id=n0,mcast=230.0.0.1:4200".into(),
            "socket,id=n0,mcast=230.0.0.1:4200".into(),
        ),
        ("dgram unix", path(&a, &b), path(&b, &a)),
        ("dgram inet", inet(4300, 4301), inet(4301, 4300)),
        ("dgram multicast", group.into(), group.into()),
        (
            "stream unix, Rhea serves",
            format!("stream,id=n0,server=on,addr.type=unix,addr.path={unix}"),
            format!("stream,id=n0,server=off,addr.type=unix,addr.path={unix}"),
        ),
        (
            "l2tpv3 udp, cookies and counter",
            format!(
                "{udp},srcport=4400,dstport=4401,txsession=1,rxsession=2,txcookie=0x1122334455667788,rxcookie=7,cookie64=on,counter=on"
            ),
            format!(
                "{udp},srcport=4401,dstport=4400,txsession=2,rxsession=1,txcookie=7,rxcookie=0x1122334455667788,cookie64=on,counter=on"
            ),
        ),
        (
            "l2tpv3 ip, short cookies and offset",
            format!("{raw},txsession=0xffffffff,rxsession=3,txcookie=9,rxcookie=8,offset=4"),
            format!("{raw},txsession=3,rxsession=0xffffffff,txcookie=8,rxcookie=9,offset=4"),
        ),
    ];
    for (what, ours, theirs) in cases.drain(..) {
        try_pair(what, (Rhea, &ours), (Qemu, &theirs), &scratch);
    }
    // Here it matters who is there first.
    for (what, first, second) in [
        (
            "socket, Rhea listens",
            (Rhea, "socket,id=n0,listen=127.0.0.1:4600"),
            (Qemu, "socket,id=n0,connect=127.0.0.1:4600"),
        ),
        (
            "socket, QEMU listens",
            (Qemu, "socket,id=n0,listen=127.0.0.1:4601"),
            (Rhea, "socket,id=n0,connect=127.0.0.1:4601"),
        ),
        (
            "stream inet, Rhea comes back",
            (Rhea, "stream,id=n0,reconnect-ms=50,addr.type=inet,addr.host=127.0.0.1,addr.port=4602"),
            (Qemu, "stream,id=n0,server=on,addr.type=inet,addr.host=127.0.0.1,addr.port=4602"),
        ),
    ] {
        try_pair(what, first, second, &scratch);
    }
}

/// The bridge helper of the build under test.
fn helper() -> PathBuf {
    let beside = rhea().with_file_name("rhea-bridge-helper");
    if !beside.exists() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let done = Command::new(cargo)
            .args(["build", "--quiet", "--release", "--package", "bridge_helper"])
            .current_dir(workspace::root())
            .status();
        assert!(done.is_ok_and(|s| s.success()), "cargo build --package bridge_helper failed");
        return workspace::root().join("target/release/rhea-bridge-helper");
    }
    beside
}

fn ip(line: &str) {
    let done = Command::new("ip").args(line.split(' ')).status();
    assert!(done.is_ok_and(|s| s.success()), "ip {line}");
}

#[test]
fn two_on_a_bridge() {
    let helper = if std::env::var_os("RHEA_TEST_NAMESPACE").is_some() { PathBuf::new() } else { helper() };
    let tun = fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    if let Err(e) = tun {
        return skip(&format!("bridges: /dev/net/tun: {e}"));
    }
    if !in_namespace("two_on_a_bridge") {
        drop(helper);
        return;
    }
    let helper = rhea().with_file_name("rhea-bridge-helper");
    let helper =
        if helper.exists() { helper } else { workspace::root().join("target/release/rhea-bridge-helper") };
    let bridges = Command::new("ip").args(["link", "add", "br0", "type", "bridge"]).output();
    if !bridges.is_ok_and(|o| o.status.success()) {
        return skip("bridges: this host's kernel makes none");
    }
    ip("link set br0 up");
    let scratch = Scratch::new("bridge");
    // Ours in this mount namespace: who may have which bridge.
    let etc = Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/etc"]).status();
    assert!(etc.is_ok_and(|s| s.success()), "mount");
    let refused = run_once(&helper, "br0");
    assert!(refused.contains("/etc/rhea/bridge.conf"), "{refused}");
    fs::create_dir("/etc/rhea").unwrap();
    fs::write("/etc/rhea/bridge.conf", "deny br1\nallow all\n").unwrap();
    let denied = run_once(&helper, "br1");
    assert!(denied.contains("bridge 'br1' is not allowed"), "{denied}");
    let netdev = format!("bridge,id=n0,br=br0,helper={}", helper.display());
    try_pair_small("bridge", (Side::Rhea, &netdev), (Side::Rhea, &netdev), &scratch);
    let by_tap = format!("tap,id=n0,helper={},br=br0", helper.display());
    if has_qemu() {
        try_pair_small("our helper for QEMU", (Side::Rhea, &by_tap), (Side::Qemu, &netdev), &scratch);
    }
    let up = scratch.path("up");
    fs::write(&up, "#!/bin/sh\nip link set $1 master br0 && ip link set $1 up\n").unwrap();
    fs::set_permissions(&up, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let script = format!("tap,id=n0,ifname=rheab%d,vnet_hdr=off,downscript=no,script={}", up.display());
    try_pair_small("tap with a script", (Side::Rhea, &script), (Side::Rhea, &netdev), &scratch);
}

/// A bridge has a small MTU; and a tap device with a virtio-net header cannot be on a hub.
fn try_pair_small(what: &str, first: (Side, &str), second: (Side, &str), scratch: &Scratch) {
    let left = Edge::start(first.0, first.1, scratch, "left");
    let right = Edge::start(second.0, second.1, scratch, "right");
    for (length, mark) in [(60, 0), (1514, 1)] {
        carries(&left, &right, length, mark).unwrap_or_else(|e| panic!("{what}: {e}"));
        carries(&right, &left, length, mark + 2).unwrap_or_else(|e| panic!("{what}: {e}"));
    }
    println!("{what}: ok");
}

/// What a run with a bridge prints before it ends.
fn run_once(helper: &Path, bridge: &str) -> String {
    let netdev = format!("bridge,id=n0,br={bridge},helper={}", helper.display());
    let mut command = Command::new(rhea());
    command.args([
        "run",
        "--arch",
        "riscv64",
        "-M",
        "none",
        "-nodefaults",
        "-display",
        "none",
        "-netdev",
        &netdev,
    ]);
    let output = command.stdin(Stdio::null()).output().expect("the program starts");
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}
