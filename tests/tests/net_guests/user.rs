//! The user network: lease, names, echoes, data both ways, iperf3 both ways, a shared folder, a server in the guest, and what
//! a capture of it all holds.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use rhea_tests::boot::{self, Scratch, powers_off};
use rhea_tests::namespace::in_namespace;

use super::{E1000, Machine, STEP, VIRTIO_MMIO, VIRTIO_PCI, follow, program, text};
use rhea_tests::nethost::{Running, data, free_port, name_server, sha256, sink, web};

/// What a guest does with the user network: `$` names are replaced.
const SCRIPT: &str = r#"cat > /tmp/lease <<'END'
#!/bin/sh
[ "$1" = bound ] || exit 0
ifconfig eth0 $ip netmask $subnet
route add default gw $router
echo "LEASE $ip $router $dns"
END
chmod +x /tmp/lease
udhcpc -i eth0 -n -q -t 10 -s /tmp/lease
nslookup -type=a some.name.example 10.0.2.3
ping -c 2 10.0.2.2 && echo PING-4-OK
for i in $(seq 20); do ping6 -c 2 fec0::2 && echo PING-6-OK && break; sleep 1; done
wget -q -O /tmp/data http://10.0.2.2:$DOWN/x
echo "DOWN $(sha256sum /tmp/data | cut -d' ' -f1)"
nc 10.0.2.2 $UP < /tmp/data
echo UP-DONE
iperf3 -c 10.0.2.2 -p $IPERF -t 2 && echo IPERF-UP-OK
iperf3 -c 10.0.2.2 -p $IPERF -t 2 -R && echo IPERF-DOWN-OK
iperf3 -c 10.0.2.2 -p $IPERF -t 1 -u -b 2M -l 1000 && echo IPERF-UDP-OK
iperf3 -c fec0::2 -p $IPERF6 -t 1 && echo IPERF-6-OK
$SHARE
echo served-by-the-guest > /root/page
httpd -p 80 -h /root
echo HTTPD-UP
$SSH
read line
"#;

const SSH: &str = "\
mkdir -p /root/.ssh /etc/dropbear
echo '$KEY' > /root/.ssh/authorized_keys
chmod -R go= /root
echo root:x:0:0::/root:/bin/sh > /etc/passwd
/usr/sbin/dropbear -R -p 22 && echo SSHD-UP";

const SHARE: &str = "mkdir /mnt
mount -t cifs -o ip=10.0.2.4,guest,vers=3.1.1 //10.0.2.4/qemu /mnt
cat /mnt/from-host
echo written-by-the-guest > /mnt/from-guest
umount /mnt && echo SHARE-OK";

/// A shell in the guest for who has the key, if guest and host have the programs: its script, and the key.
fn shell(machine: &Machine, scratch: &Scratch) -> Option<(String, PathBuf)> {
    boot::guest(&format!("net/{}/root/usr/sbin/dropbear", machine.arch))?;
    program("ssh")?;
    let (keygen, key) = (program("ssh-keygen")?, scratch.path("key"));
    let made =
        Command::new(keygen).args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(&key).status();
    assert!(made.is_ok_and(|s| s.success()), "ssh-keygen makes a key");
    let public = fs::read_to_string(scratch.path("key.pub")).expect("a key has two halves");
    Some((SSH.replace("$KEY", public.trim()), key))
}

/// What a command in the guest says to somebody at a port of the host.
fn over_ssh(key: &Path, port: u16, command: &str) -> Result<String, String> {
    let mut ssh = Command::new("ssh");
    ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"]);
    ssh.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=120", "-i"]).arg(key);
    let output = ssh.args(["-p", &port.to_string(), "root@127.0.0.1", command]).output();
    let output = output.map_err(|e| format!("ssh: {e}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { Ok(said) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// The same with every card; `options` are added to the machine's, and `capture` is a file of frames.
fn session(machine: &Machine, name: &str, options: &[&str], share: bool) {
    let Some(iperf3) = program("iperf3") else { return };
    let share = share && program("smbd").is_some();
    let scratch = Scratch::new(name);
    name_server(&scratch.path("resolv.conf"));
    let mib = std::env::var("RHEA_NET_MIB").ok().and_then(|n| n.parse().ok()).unwrap_or(16);
    let sent = data(mib);
    let expected = sha256(&sent);
    let (down, (up, taken), forwarded) = (web(sent), sink(), free_port());
    let (ssh, ssh_port) = (shell(machine, &scratch), free_port());
    let ports = [free_port(), free_port()];
    let _servers = [("127.0.0.1", ports[0]), ("::1", ports[1])].map(|(address, port)| {
        Running::start(Command::new(&iperf3).args(["-s", "-B", address, "-p", &port.to_string()]))
    });
    let script = SCRIPT
        .replace("$DOWN", &down.to_string())
        .replace("$UP", &up.to_string())
        .replace("$IPERF6", &ports[1].to_string())
        .replace("$IPERF", &ports[0].to_string())
        .replace("$SHARE", if share { SHARE } else { "" })
        .replace("$SSH", ssh.as_ref().map_or("", |(script, _)| script));
    let folder = scratch.path("share");
    fs::create_dir(&folder).expect("a folder to share");
    fs::write(folder.join("from-host"), "written-by-the-host\n").expect("a folder to share");
    let mut netdev =
        format!("user,id=net0,hostfwd=tcp:127.0.0.1:{forwarded}-:80,hostfwd=tcp:127.0.0.1:{ssh_port}-:22");
    if share {
        netdev.push_str(&format!(",smb={}", text(&folder)));
    }
    let mut all = vec!["-netdev".into(), netdev, "-device".into(), format!("{},netdev=net0", machine.card)];
    let capture = scratch.path("frames.pcap");
    all.extend(["-object".into(), format!("filter-dump,id=dump,netdev=net0,file={}", text(&capture))]);
    all.extend(options.iter().map(|o| (*o).to_owned()));
    let modules: &[&str] = if share { &["ghash_generic", "ccm", "gcm", "cmac", "cifs"] } else { &[] };
    let Some(mut guest) = machine.start((&scratch, "guest"), modules, &script, &all) else { return };
    let mut steps = || -> Result<(), String> {
        follow(&mut guest, &["LEASE 10.0.2.15 10.0.2.2 10.0.2.3", "192.0.2.77", "PING-4-OK", "PING-6-OK"])?;
        follow(&mut guest, &[&format!("DOWN {expected}"), "UP-DONE"])?;
        follow(&mut guest, &["IPERF-UP-OK", "IPERF-DOWN-OK", "IPERF-UDP-OK", "IPERF-6-OK"])?;
        if share {
            follow(&mut guest, &["written-by-the-host", "SHARE-OK"])?;
        }
        guest.console.expect("HTTPD-UP", STEP)?;
        let mut client = TcpStream::connect(("127.0.0.1", forwarded)).map_err(|e| e.to_string())?;
        client.write_all(b"GET /page HTTP/1.0\r\n\r\n").map_err(|e| e.to_string())?;
        let mut page = String::new();
        client.read_to_string(&mut page).map_err(|e| e.to_string())?;
        if !page.contains("served-by-the-guest") {
            return Err(format!("the guest's server said: {page}"));
        }
        if let Some((_, key)) = &ssh {
            guest.console.expect("SSHD-UP", STEP)?;
            let said = over_ssh(key, ssh_port, "cat /root/page; uname -m")?;
            if said != format!("served-by-the-guest\n{}\n", machine.arch) {
                return Err(format!("the guest's shell said: {said}"));
            }
        }
        guest.console.send("\n").map_err(|e| e.to_string())?;
        powers_off(&mut guest)
    };
    steps().unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(taken.join().expect("the sink ends"), expected, "what came up");
    if share {
        let written = fs::read_to_string(folder.join("from-guest")).expect("what the guest wrote");
        assert_eq!(written, "written-by-the-guest\n");
    }
    looks_right(&capture);
}

/// What another program makes of the capture.
fn looks_right(capture: &std::path::Path) {
    let Some(tshark) = program("tshark") else { return };
    for filter in [
        "dhcp.option.dhcp == 5",
        "dns.a == 192.0.2.77",
        "icmp.type == 0",
        "icmpv6.type == 129",
        "tcp.flags.fin == 1",
    ] {
        let found = Command::new(&tshark).args(["-c", "20000", "-Y", filter, "-r"]).arg(capture).output();
        let found = found.expect("tshark runs");
        let text = String::from_utf8_lossy(&found.stdout);
        let said = String::from_utf8_lossy(&found.stderr);
        assert!(found.status.success() && !text.trim().is_empty(), "{filter}: nothing of the kind; {said}");
    }
}

#[test]
fn e1000_on_the_user_network() {
    if in_namespace("user::e1000_on_the_user_network") {
        session(&E1000, "user-e1000", &[], true);
    }
}

/// With a way that loses, delays and reorders frames.
#[test]
fn virtio_on_a_bad_way() {
    if in_namespace("user::virtio_on_a_bad_way") {
        let bad = "filter-impair,id=bad,netdev=net0,loss=1,reorder=2,delay=2000,jitter=1000,seed=7";
        session(&VIRTIO_PCI, "user-virtio", &["-object", bad], false);
    }
}

#[test]
fn virtio_mmio_on_the_user_network() {
    if in_namespace("user::virtio_mmio_on_the_user_network") {
        session(&VIRTIO_MMIO, "user-mmio", &[], true);
    }
}
