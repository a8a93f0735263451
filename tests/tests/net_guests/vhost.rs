//! A network by vhost-user: Debian's passt serves it, and the guest gets a lease from it and moves data both ways.

use std::process::Command;
use std::time::{Duration, Instant};

use rhea_tests::boot::{self, Scratch, powers_off};
use rhea_tests::namespace::in_namespace;
use rhea_tests::skip;

use super::{VIRTIO_MMIO, follow, text};
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
wget -T 15 -q -O /tmp/data http://$(cat /tmp/router):$DOWN/x
echo "DOWN $(sha256sum /tmp/data | cut -d' ' -f1)"
nc $(cat /tmp/router) $UP < /tmp/data
echo UP-DONE
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

#[test]
fn passt_serves_a_guest() {
    if !cfg!(target_arch = "x86_64") {
        return skip("the passt that is fetched is for x86_64");
    }
    if !in_namespace("vhost::passt_serves_a_guest") {
        return;
    }
    let scratch = Scratch::new("vhost");
    let Some(_passt) = passt(&scratch) else { return };
    let sent = data(8);
    let expected = sha256(&sent);
    let (down, (up, taken)) = (web(sent), sink());
    let script = SCRIPT.replace("$DOWN", &down.to_string()).replace("$UP", &up.to_string());
    let options = [
        "-chardev".to_owned(),
        format!("socket,id=c0,path={}", text(&scratch.path("passt"))),
        "-netdev".to_owned(),
        "vhost-user,id=n0,chardev=c0".to_owned(),
        "-device".to_owned(),
        format!("{},netdev=n0", VIRTIO_MMIO.card),
    ];
    let Some(mut guest) = VIRTIO_MMIO.start((&scratch, "guest"), &[], &script, &options) else { return };
    let mut session = || {
        follow(&mut guest, &["LEASE-OK", &format!("DOWN {expected}"), "UP-DONE"])?;
        powers_off(&mut guest)
    };
    session().unwrap();
    assert_eq!(taken.join().unwrap(), expected, "what came up");
}
