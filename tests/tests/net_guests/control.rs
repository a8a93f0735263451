//! What a monitor does to a card whose guest runs: the guest hears of its link, and the user of what the guest wants to hear.

use rhea_tests::boot::{STEP as MOMENT, Scratch, powers_off};
use rhea_tests::qmp::Qmp;
use serde_json::{Value, json};

use super::{E1000, Machine, STEP, VIRTIO_MMIO, VIRTIO_PCI, text};

const SCRIPT: &str = "\
is() { until [ $(cat /sys/class/net/eth0/carrier) = $1 ]; do usleep 50000; done; echo LINK-$1; }
is 1
read line
is 0
read line
is 1
read line
ifconfig eth0 promisc
echo PROMISCUOUS
read line
ifconfig eth0 -promisc
echo CHOOSY
read line
";

/// Cards whose users are told of changes of filters are those of virtio, as on QEMU.
fn session(machine: &Machine, filtered: bool) {
    let scratch = Scratch::new(&format!("control-{}", machine.card));
    let socket = scratch.path("qmp");
    let options = [
        "-netdev".to_owned(),
        "user,id=n0".to_owned(),
        "-device".to_owned(),
        format!("{},netdev=n0,id=card", machine.card),
        "-qmp".to_owned(),
        format!("unix:{},server=on,wait=off", text(&socket)),
    ];
    let Some(mut guest) = machine.start((&scratch, "guest"), &[], SCRIPT, &options) else { return };
    let mut session = || -> Result<(), String> {
        let mut qmp = Qmp::connect(&socket, MOMENT)?;
        let mut next = |line: &str| {
            guest.console.expect(line, STEP)?;
            guest.console.send("\n").map_err(|e| e.to_string())
        };
        next("LINK-1")?;
        for (name, up) in [("card", false), ("n0", true)] {
            qmp.execute("set_link", json!({"name": name, "up": up}))?;
            next(if up { "LINK-1" } else { "LINK-0" })?;
        }
        if filtered {
            let promiscuous = |qmp: &mut Qmp| -> Result<Value, String> {
                Ok(qmp.execute("query-rx-filter", json!({"name": "card"}))?[0]["promiscuous"].clone())
            };
            // Who has looked is told of one change, whatever has come before.
            let first = promiscuous(&mut qmp)?;
            next("PROMISCUOUS")?;
            let event = qmp.event("NIC_RX_FILTER_CHANGED")?;
            let path = "/machine/peripheral/card/virtio-backend";
            if event["data"] != json!({"name": "card", "path": path}) {
                return Err(format!("the event is {event}"));
            }
            let second = promiscuous(&mut qmp)?;
            next("CHOOSY")?;
            qmp.event("NIC_RX_FILTER_CHANGED")?;
            if [first, second, promiscuous(&mut qmp)?] != [json!(false), json!(true), json!(false)] {
                return Err("the filter that is told is not the guest's".into());
            }
        } else {
            next("PROMISCUOUS")?;
            next("CHOOSY")?;
        }
        powers_off(&mut guest)
    };
    session().unwrap_or_else(|e| panic!("{}: {e}", machine.card));
}

#[test]
fn link_and_filter_of_virtio_mmio() {
    session(&VIRTIO_MMIO, true);
}

#[test]
fn link_and_filter_of_virtio_pci() {
    session(&VIRTIO_PCI, true);
}

#[test]
fn link_of_e1000() {
    session(&E1000, false);
}
