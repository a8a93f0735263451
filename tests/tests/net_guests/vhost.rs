//! A network by vhost-user: Debian's passt serves it, and the guest gets a lease from it and moves data both ways. Where its memory
//! can be shared passt has the guest's own rings, except while a filter looks at the frames.

use std::process::Command;
use std::time::{Duration, Instant};

use rhea_tests::boot::{self, Scratch, powers_off};
use rhea_tests::namespace::in_namespace;
use rhea_tests::process::Process;
use rhea_tests::qmp::Qmp;
use rhea_tests::skip;
use serde_json::json;

use super::{Machine, VIRTIO_MMIO, VIRTIO_PCI, follow, text};
use rhea_tests::nethost::{Running, data, sha256, sink, web};

const SCRIPT: &str = r#"cat > /tmp/lease <<'END'
#!/bin/sh
[ "$1" = bound ] || exit 0
ifconfig eth0 $ip netmask $subnet
route add default gw $router
echo $router > /tmp/router
END
chmod +x /tmp/lease
udhcpc -i eth0 -n -q -t 10 -s /tmp/lease && echo LEASE-OK
move() {
    wget -T 15 -q -O /tmp/data http://$(cat /tmp/router):$DOWN/x
    echo "DOWN $(sha256sum /tmp/data | cut -d' ' -f1)"
    nc $(cat /tmp/router) $1 < /tmp/data
    echo UP-DONE
    read line
}
for port in $UP; do move $port; done
"#;

/// Starts passt with the libraries it was built for; none, said aloud, if it does not serve here.
fn passt(scratch: &Scratch) -> Option<Running> {
    let program = boot::guest("net/x86_64/passt")?;
    let root = program.with_file_name("root");
    let mut command = Command::new(root.join("usr/lib64/ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(root.join("usr/lib/x86_64-linux-gnu")).arg(&program);
    command.args(["--foreground", "--quiet", "--vhost-user", "--socket"]).arg(scratch.path("passt"));
    let mut running = Running::start(&mut command);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !scratch.path("passt").exists() {
        if Instant::now() > deadline || running.0.try_wait().is_ok_and(|ended| ended.is_some()) {
            skip("passt does not run here");
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(running)
}

/// A guest on passt, and its monitor.
struct Session {
    guest: Process,
    qmp: Qmp,
}

impl Session {
    /// Whether the back end has the guest's rings.
    fn is_handed(&mut self) -> Result<bool, String> {
        let line = json!({"command-line": "info network"});
        let report = self.qmp.execute("human-monitor-command", line)?;
        Ok(report.as_str().is_some_and(|r| r.contains("rings=guest")))
    }

    /// Follows a round of data, in which the back end has the rings or not.
    fn round(&mut self, down: &str, handed: bool) -> Result<(), String> {
        follow(&mut self.guest, &[down, "UP-DONE"])?;
        if self.is_handed()? == handed {
            Ok(())
        } else {
            Err(format!("expected rings handed over: {handed}"))
        }
    }

    fn go_on(&mut self) -> Result<(), String> {
        self.guest.console.send("\n").map_err(|e| e.to_string())
    }
}

fn serve_a_guest(machine: &Machine, shared: bool) {
    let scratch = Scratch::new("vhost");
    let Some(_passt) = passt(&scratch) else { return };
    let sent = data(8);
    let expected = sha256(&sent);
    let sinks: Vec<_> = (0..if shared { 3 } else { 1 }).map(|_| sink()).collect();
    let ports = Vec::from_iter(sinks.iter().map(|(port, _)| port.to_string())).join(" ");
    let script = SCRIPT.replace("$DOWN", &web(sent).to_string()).replace("$UP", &ports);
    let socket = scratch.path("qmp");
    let mut options = vec![
        "-qmp".to_owned(),
        format!("unix:{},server=on,wait=off", text(&socket)),
        "-chardev".to_owned(),
        format!("socket,id=c0,path={}", text(&scratch.path("passt"))),
        "-netdev".to_owned(),
        "vhost-user,id=n0,chardev=c0".to_owned(),
        "-device".to_owned(),
        format!("{},netdev=n0", machine.card),
    ];
    if shared {
        let memory = ["-object", "memory-backend-memfd,id=m0,size=512M", "-M", "memory-backend=m0"];
        options.extend(memory.map(str::to_owned));
    }
    let Some(guest) = machine.start((&scratch, "guest"), &[], &script, &options) else { return };
    let session = || -> Result<(), String> {
        let mut s = Session { guest, qmp: Qmp::connect(&socket, boot::STEP)? };
        follow(&mut s.guest, &["LEASE-OK"])?;
        let down = format!("DOWN {expected}");
        s.round(&down, shared)?;
        if shared {
            let file = text(&scratch.path("pcap"));
            let filter = json!({"qom-type": "filter-dump", "id": "f0", "netdev": "n0", "file": file});
            s.qmp.execute("object-add", filter)?;
            s.go_on()?;
            s.round(&down, false)?;
            s.qmp.execute("object-del", json!({"id": "f0"}))?;
            s.go_on()?;
            s.round(&down, true)?;
        }
        s.go_on()?;
        powers_off(&mut s.guest)
    };
    session().unwrap_or_else(|e| panic!("{}: {e}", machine.card));
    for (_, taken) in sinks {
        assert_eq!(taken.join().expect("the server does not fail"), expected, "what came up");
    }
}

fn in_a_namespace(name: &str, machine: &Machine, shared: bool) {
    if !cfg!(target_arch = "x86_64") {
        return skip("the passt that is fetched is for x86_64");
    }
    if in_namespace(name) {
        serve_a_guest(machine, shared);
    }
}

#[test]
fn passt_serves_a_guest() {
    in_a_namespace("vhost::passt_serves_a_guest", &VIRTIO_MMIO, false);
}

#[test]
fn passt_serves_a_guests_own_rings() {
    in_a_namespace("vhost::passt_serves_a_guests_own_rings", &VIRTIO_MMIO, true);
}

#[test]
fn passt_serves_a_guests_own_rings_on_pci() {
    in_a_namespace("vhost::passt_serves_a_guests_own_rings_on_pci", &VIRTIO_PCI, true);
}
