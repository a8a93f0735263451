//! Two guests of different architectures with a card on each of the wires there are between machines.

use std::fs;
use std::process::Command;

use rhea_tests::boot::{Scratch, powers_off};
use rhea_tests::namespace::in_namespace;
use rhea_tests::skip;

use super::{STEP, VIRTIO_MMIO, VIRTIO_PCI, text};

/// Finds the cards by their addresses; `$N` is the guest's number, `$CARDS` are the cards'.
const SETUP: &str = "\
for i in $CARDS; do for d in /sys/class/net/*; do
[ \"$(cat $d/address)\" = 52:54:00:00:0$N:0$i ] && ifconfig ${d##*/} 10.7.$i.$N netmask 255.255.255.0 up
done; done
";

const LISTEN: &str = "\
for i in $CARDS; do (socat -u TCP-LISTEN:500$i OPEN:/tmp/got$i,creat; echo \"GOT-$i $(sha256sum < /tmp/got$i | cut -d' ' -f1)\") & done
usleep 500000
echo LISTENING
read line
";

const SEND: &str = "\
echo READY
read line
head -c 1000000 /dev/urandom > /tmp/data
echo \"SENDING $(sha256sum < /tmp/data | cut -d' ' -f1)\"
for i in $CARDS; do
for t in 1 2 3 4 5; do ping -c 1 -W 2 10.7.$i.1 && echo PING-$i-OK && break; done
socat -u OPEN:/tmp/data TCP:10.7.$i.1:500$i,retry=20,interval=1
done
echo ALL-SENT
read line
";

/// A bridge on which a new tap device is put by a script; none if this host's kernel has no such things.
fn bridge_script(scratch: &Scratch) -> Option<String> {
    let made = Command::new("ip").args(["link", "add", "br0", "type", "bridge"]).output();
    let tun = fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    if !made.is_ok_and(|o| o.status.success()) || tun.is_err() {
        skip("two guests on a bridge: this host has no bridges, or no /dev/net/tun");
        return None;
    }
    let up = Command::new("ip").args(["link", "set", "br0", "up"]).status();
    assert!(up.is_ok_and(|s| s.success()), "ip link set br0 up");
    let script = scratch.path("up");
    fs::write(&script, "#!/bin/sh\nip link set $1 master br0 && ip link set $1 up\n")
        .expect("a script in the scratch folder");
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("a script in the scratch folder");
    Some(text(&script))
}

#[test]
fn two_guests_on_every_wire() {
    if !in_namespace("pairs::two_guests_on_every_wire") {
        return;
    }
    let scratch = Scratch::new("pairs");
    let path = |name: &str| text(&scratch.path(name));
    let dgram = |ours: &str, theirs: &str| {
        format!(
            "dgram,id=n2,local.type=unix,local.path={},remote.type=unix,remote.path={}",
            path(ours),
            path(theirs)
        )
    };
    // What the first has, and the second; by the number of the card.
    let mut wires = vec![
        ("socket,id=n0,listen=127.0.0.1:4000".to_owned(), "socket,id=n0,connect=127.0.0.1:4000".to_owned()),
        (
            format!("stream,id=n1,server=on,addr.type=unix,addr.path={}", path("stream")),
            format!("stream,id=n1,reconnect-ms=100,addr.type=unix,addr.path={}", path("stream")),
        ),
        (dgram("a", "b"), dgram("b", "a")),
        ("socket,id=n3,mcast=230.0.0.1:4003".to_owned(), "socket,id=n3,mcast=230.0.0.1:4003".to_owned()),
        (
            "hubport,id=n4,hubid=1".to_owned(),
            format!("stream,id=n4,reconnect-ms=100,addr.type=unix,addr.path={}", path("hub")),
        ),
    ];
    if let Some(script) = bridge_script(&scratch) {
        let tap = format!("tap,id=n5,ifname=rhea%d,downscript=no,script={script}");
        wires.push((tap.clone(), tap));
    }
    let cards: Vec<usize> = (0..wires.len()).collect();
    let list = cards.iter().map(usize::to_string).collect::<Vec<_>>().join(" ");
    let script = |n: u8, rest: &str| {
        let wait = format!("while [ ! -e /sys/class/net/eth{} ]; do sleep 0.1; done\n", cards.len() - 1);
        format!("{wait}{SETUP}{rest}").replace("$N", &n.to_string()).replace("$CARDS", &list)
    };
    let options = |n: usize, card: &str| -> Vec<String> {
        let mut all = Vec::new();
        for (i, wire) in wires.iter().enumerate() {
            let netdev = if n == 1 { &wire.0 } else { &wire.1 };
            all.extend(["-netdev".to_owned(), netdev.clone()]);
            all.extend(["-device".to_owned(), format!("{card},netdev=n{i},mac=52:54:00:00:0{n}:0{i}")]);
        }
        if n == 1 {
            // The other way out of the hub.
            let out = format!("stream,id=out,server=on,addr.type=unix,addr.path={}", path("hub"));
            all.extend([
                "-netdev".to_owned(),
                out,
                "-netdev".to_owned(),
                "hubport,id=h1,hubid=1,netdev=out".to_owned(),
            ]);
        }
        all
    };
    let one = VIRTIO_PCI.start((&scratch, "one"), &[], &script(1, LISTEN), &options(1, VIRTIO_PCI.card));
    let Some(mut one) = one else { return };
    let two = VIRTIO_MMIO.start((&scratch, "two"), &[], &script(2, SEND), &options(2, VIRTIO_MMIO.card));
    let Some(mut two) = two else { return };
    let mut session = || -> Result<(), String> {
        let failed = |e: std::io::Error| e.to_string();
        one.console.expect("LISTENING", STEP)?;
        two.console.expect("READY", STEP)?;
        two.console.send("\n").map_err(failed)?;
        two.console.expect("SENDING ", STEP)?;
        let sum = two.console.rest_of_line(STEP)?;
        for i in &cards {
            two.console.expect(&format!("PING-{i}-OK"), STEP)?;
            one.console.expect(&format!("GOT-{i} {sum}"), STEP)?;
        }
        two.console.expect("ALL-SENT", STEP)?;
        for guest in [&mut one, &mut two] {
            guest.console.send("\n").map_err(failed)?;
            powers_off(guest)?;
        }
        Ok(())
    };
    session().unwrap();
}
