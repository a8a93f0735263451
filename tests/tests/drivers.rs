//! Debian's drivers on emulated PC hardware: network cards get a lease and an answer, watchdogs bite, disks of every adapter come
//! and go.
//! Its kernel and the modules are the group `drivers` of the guests.
#![cfg(target_os = "linux")]

use std::process::Command;
use std::time::Duration;

use rhea_tests::boot::{self, Linux, Scratch, powers_off};
use rhea_tests::drivers;
use rhea_tests::process::Process;
use rhea_tests::qmp::Qmp;
use serde_json::{Value, json};

const STEP: Duration = Duration::from_secs(600);

fn guest(scratch: &Scratch, modules: &[&str], script: &str) -> Option<Linux> {
    drivers::guest(env!("CARGO_BIN_EXE_mkinitrd"), scratch, modules, script)
}

fn start(board: &str, linux: &Linux, more: &[&str]) -> Process {
    linux.start(board, "quiet", &[&["-accel", "tcg", "-m", "512"][..], more].concat())
}

/// A lease, an answer, and a file of which every byte counts.
const NET: &str = "\
n=0; while [ ! -e /sys/class/net/eth0 ] && [ $n -lt 300 ]; do sleep 0.1; n=$((n+1)); done
ifconfig eth0 up
cat > /tmp/lease <<'END'
#!/bin/sh
[ \"$1\" = bound ] || exit 0
ifconfig eth0 $ip netmask $subnet
echo \"LEASE $ip\"
END
chmod +x /tmp/lease
udhcpc -i eth0 -n -q -t 10 -s /tmp/lease
ping -c 3 -s 1400 10.0.2.2 && echo PING-OK
tftp -g -r data -l /tmp/data 10.0.2.2 && echo SUM $(sha256sum </tmp/data)
readlink /sys/class/net/eth0/device/driver
";

fn card(board: &str, modules: &[&str], option: &str, driver: &str) {
    if !boot::has_board("x86_64", board) {
        return;
    }
    let scratch = Scratch::new(&format!("card-{driver}"));
    let Some(linux) = guest(&scratch, modules, NET) else { return };
    let data: Vec<u8> = (0..300_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    std::fs::write(scratch.path("data"), &data).expect("a file in the folder");
    let folder = scratch.path("data").parent().expect("a folder").display().to_string();
    let sum = Command::new("sha256sum").arg(scratch.path("data")).output().expect("sha256sum is installed");
    let sum = String::from_utf8_lossy(&sum.stdout).split(' ').next().unwrap_or_default().to_owned();
    let netdev = format!("user,id=net0,tftp={folder}");
    let mut guest = start(board, &linux, &["-netdev", &netdev, "-device", option]);
    for line in ["LEASE 10.0.2.15", "PING-OK", &format!("SUM {sum}"), &format!("/{driver}")] {
        guest.console.expect(line, STEP).unwrap_or_else(|e| panic!("{option}: {e}"));
    }
    powers_off(&mut guest).unwrap_or_else(|e| panic!("{option}: {e}"));
}

#[test]
fn rtl8139_gets_a_lease() {
    card("pc", &["mii", "8139cp"], "rtl8139,netdev=net0", "8139cp");
}

#[test]
fn ne2k_pci_gets_a_lease() {
    card("pc", &["8390", "ne2k_pci"], "ne2k_pci,netdev=net0", "ne2k-pci");
}

#[test]
fn pcnet_gets_a_lease() {
    card("pc", &["mii", "pcnet32"], "pcnet,netdev=net0", "pcnet32");
}

#[test]
fn e1000_gets_a_lease() {
    card("q35", &["e1000"], "e1000,netdev=net0", "e1000");
}

#[test]
fn e1000e_gets_a_lease() {
    card("q35", &["e1000e"], "e1000e,netdev=net0", "e1000e");
}

/// The kernel's own driver of a graphics card makes a frame buffer, and what a program paints there is in the picture.
fn painted(card: &str, module: &str) {
    if !boot::has_board("x86_64", "pc") {
        return;
    }
    let scratch = Scratch::new(&format!("painted-{card}"));
    let script = "\
n=0; while [ ! -e /dev/fb0 ] && [ $n -lt 300 ]; do sleep 0.1; n=$((n+1)); done
echo FB $(cat /sys/class/graphics/fb0/name) $(cat /sys/class/graphics/fb0/virtual_size) $(cat /sys/class/graphics/fb0/bits_per_pixel)
tr '\\0' '\\377' </dev/zero | head -c 200000 >/dev/fb0
sleep 2
echo PAINTED
sleep 600
";
    let Some(linux) = guest(&scratch, &[module], script) else { return };
    let (socket, picture) = (scratch.path("socket"), scratch.path("picture.ppm"));
    let option = format!("unix:{},server=on,wait=off", socket.display());
    let mut guest = start("pc", &linux, &["-vga", card, "-qmp", &option]);
    let mut qmp = Qmp::connect(&socket, STEP).expect("the socket");
    guest.console.expect("FB ", STEP).unwrap_or_else(|e| panic!("{card}: {e}"));
    let size = guest.console.rest_of_line(STEP).unwrap_or_else(|e| panic!("{card}: {e}"));
    assert!(size.starts_with(module), "{card}: {size}");
    guest.console.expect("PAINTED", STEP).unwrap_or_else(|e| panic!("{card}: {e}"));
    qmp.execute("screendump", json!({"filename": picture.display().to_string()})).expect("a picture");
    let bytes = std::fs::read(&picture).expect("the picture");
    let lit = bytes.iter().filter(|byte| **byte == 0xff).count();
    assert!(lit >= 100_000, "{card} {size}: {lit} bytes are lit");
    qmp.execute("quit", Value::Null).expect("it ends");
    powers_off(&mut guest).unwrap_or_else(|e| panic!("{card}: {e}"));
}

#[test]
fn cirrus_has_a_frame_buffer() {
    painted("cirrus", "cirrus");
}

#[test]
fn the_standard_vga_has_a_frame_buffer() {
    painted("std", "bochs");
}

/// Copies the first half of the disk to the second by all vCPUs, each with a queue of its own, and gives a part up.
const QUEUES: &str = "\
d=/dev/vda
n=0; while [ ! -b $d ] && [ $n -lt 300 ]; do sleep 0.1; n=$((n+1)); done
echo QUEUES $(ls /sys/block/vda/mq | wc -l)
echo BEFORE $(sha256sum <$d)
for c in 0 1 2 3; do
  taskset $((1 << c)) dd if=$d of=$d bs=16k count=128 skip=$((c * 128)) seek=$((c * 128 + 512)) conv=notrunc,fsync 2>/dev/null &
done
wait
blkdiscard -o 1048576 -l 1048576 $d && echo DISCARDED
sync
echo 3 >/proc/sys/vm/drop_caches
echo AFTER $(sha256sum <$d)
";

/// What `rhea` says to some words.
fn rhea(words: &[&str]) -> String {
    let out = Command::new(boot::rhea()).args(words).output().expect("the binary starts");
    assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn a_qcow2_disk_with_a_queue_for_each_vcpu() {
    const HALF: usize = 8 << 20;
    if !boot::has_board("x86_64", "q35") {
        return;
    }
    let scratch = Scratch::new("disk-queues");
    let Some(linux) = guest(&scratch, &["virtio_blk"], QUEUES) else { return };
    let path = |name: &str| scratch.path(name).display().to_string();
    let (raw, image, out) = (path("raw"), path("image"), path("out"));
    let half: Vec<u8> = (0..HALF as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 | 1).collect();
    let mut model = half.clone();
    model.resize(2 * HALF, 0);
    std::fs::write(&raw, &model).expect("a file in the folder");
    rhea(&["img", "convert", "-f", "raw", "-O", "qcow2", &raw, &image]);
    let sum = |data: &[u8]| {
        std::fs::write(&raw, data).expect("a file in the folder");
        let sum = Command::new("sha256sum").arg(&raw).output().expect("sha256sum is installed");
        String::from_utf8_lossy(&sum.stdout).split(' ').next().unwrap_or_default().to_owned()
    };
    let before = sum(&model);
    model[HALF..].copy_from_slice(&half);
    model[1 << 20..2 << 20].fill(0);
    let after = sum(&model);
    let node = format!(
        "driver=qcow2,node-name=d,discard=unmap,cache.direct=on,file.driver=file,file.aio=io_uring,file.filename={image}"
    );
    let device = r#"{"driver":"virtio-blk-pci","drive":"d","num-queues":4,"iothread-vq-mapping":[{"iothread":"a"},{"iothread":"b"}]}"#;
    let options = ["-smp", "4", "-object", "iothread,id=a", "-object", "iothread,id=b", "-blockdev", &node];
    let mut guest = start("q35", &linux, &[&options[..], &["-device", device]].concat());
    for line in ["QUEUES 4", &format!("BEFORE {before}"), "DISCARDED", &format!("AFTER {after}")] {
        guest.console.expect(line, STEP).unwrap_or_else(|e| panic!("{e}"));
    }
    powers_off(&mut guest).expect("it ends");
    assert!(rhea(&["img", "check", &image]).contains("No errors"));
    rhea(&["img", "convert", "-f", "qcow2", "-O", "raw", &image, &out]);
    assert!(std::fs::read(&out).expect("the file") == model);
    let map: Value = serde_json::from_str(&rhea(&["img", "map", "--output=json", &image])).expect("JSON");
    let given_up = |e: &Value| e["start"].as_u64() <= Some(1 << 20) && e["data"] == json!(false);
    assert!(map.as_array().expect("a list").iter().any(given_up), "{map}");
}

/// Says what disks and cards there are whenever that changes.
const WATCH: &str = "\
last=; n=0
echo WATCHING
while [ $n -lt 3000 ]; do
  now=\"$(ls /sys/block | tr '\\n' ' ')$(ls /sys/class/net | tr '\\n' ' ')\"
  [ \"$now\" = \"$last\" ] || echo \"SEEN [$now]\"
  last=$now; n=$((n+1)); sleep 0.1
done
";

/// Devices of virtio come and go on both boards, and drives on a SCSI adapter that came itself.
fn come_and_go(board: &str, port: &[&str], bus: Option<&str>) {
    if !boot::has_board("x86_64", board) {
        return;
    }
    let scratch = Scratch::new(&format!("virtio-hotplug-{board}"));
    let modules = [
        "virtio_blk",
        "failover",
        "net_failover",
        "virtio_net",
        "scsi_common",
        "scsi_mod",
        "virtio_scsi",
        "sd_mod",
    ];
    let Some(linux) = guest(&scratch, &modules, WATCH) else { return };
    let (image, socket) = (scratch.path("disk"), scratch.path("socket"));
    std::fs::write(&image, vec![0; 4 << 20]).expect("a file in the folder");
    let option = format!("unix:{},server=on,wait=off", socket.display());
    let mut arguments = vec!["-qmp", &option];
    arguments.extend(port);
    let mut guest = start(board, &linux, &arguments);
    let mut qmp = Qmp::connect(&socket, STEP).expect("the socket");
    guest.console.expect("WATCHING", STEP).expect("the guest starts");
    let file = image.display().to_string();
    let node = json!({"driver": "raw", "node-name": "n0", "file": {"driver": "file", "filename": file}});
    let mut ok = |command: &str, arguments: Value| {
        qmp.execute(command, arguments).unwrap_or_else(|e| panic!("{command}: {e}"));
        if command == "device_del" {
            qmp.event("DEVICE_DELETED").expect("the guest lets go");
        }
    };
    ok("blockdev-add", node);
    ok("netdev_add", json!({"type": "user", "id": "u0"}));
    let on = |mut device: Value| {
        if let Some(bus) = bus {
            device["bus"] = json!(bus);
        }
        device
    };
    for (driver, backend, seen) in
        [("virtio-blk-pci", ("drive", "n0"), "vda"), ("virtio-net-pci", ("netdev", "u0"), "eth0")]
    {
        ok("device_add", on(json!({"driver": driver, "id": "d", backend.0: backend.1})));
        guest.console.expect(seen, STEP).unwrap_or_else(|e| panic!("{driver}: {e}"));
        ok("device_del", json!({"id": "d"}));
        guest.console.expect("SEEN [", STEP).unwrap_or_else(|e| panic!("{driver}: {e}"));
    }
    ok("device_add", on(json!({"driver": "virtio-scsi-pci", "id": "scsi0"})));
    for _ in 0..2 {
        ok("device_add", json!({"driver": "scsi-hd", "id": "sd", "drive": "n0", "bus": "scsi0.0", "lun": 1}));
        guest.console.expect("sda", STEP).expect("a SCSI disk comes");
        ok("device_del", json!({"id": "sd"}));
        guest.console.expect("SEEN [", STEP).expect("it goes");
    }
    ok("device_del", json!({"id": "scsi0"}));
    ok("blockdev-del", json!({"node-name": "n0"}));
    ok("netdev_del", json!({"id": "u0"}));
    ok("quit", Value::Null);
    powers_off(&mut guest).expect("it ends");
}

#[test]
fn virtio_devices_come_and_go_by_acpi() {
    come_and_go("pc", &[], None);
}

#[test]
fn virtio_devices_come_and_go_in_a_slot() {
    come_and_go("q35", &["-device", "pcie-root-port,id=rp,slot=1,chassis=1"], Some("rp"));
}

/// Says of all disks how many sectors they have, whenever that changes.
const SIZES: &str = "\
last=; n=0
echo WATCHING
while [ $n -lt 3000 ]; do
  now=\"$(for d in vda nvme0n1 sda; do echo $d=$(cat /sys/block/$d/size 2>/dev/null); done)\"
  [ \"$now\" = \"$last\" ] || echo \"SIZES\" $now .
  last=$now; n=$((n+1)); sleep 0.1
done
";

#[test]
fn disks_are_seen_to_grow_and_shrink() {
    if !boot::has_board("x86_64", "q35") {
        return;
    }
    let scratch = Scratch::new("disks-grow");
    let modules = ["virtio_blk", "scsi_common", "scsi_mod", "virtio_scsi", "sd_mod", "nvme"];
    let Some(linux) = guest(&scratch, &modules, SIZES) else { return };
    let socket = scratch.path("socket");
    let option = format!("unix:{},server=on,wait=off", socket.display());
    let mut arguments = vec!["-qmp", &option, "-device", "virtio-scsi-pci"];
    let devices = ["virtio-blk-pci,drive=n0", "nvme,serial=1,drive=n1", "scsi-hd,drive=n2"];
    let nodes: Vec<String> = (0..3)
        .map(|i| {
            let path = scratch.path(&format!("disk{i}")).display().to_string();
            rhea(&["img", "create", "-f", "qcow2", &path, "8M"]);
            format!("driver=qcow2,node-name=n{i},file.driver=file,file.filename={path}")
        })
        .collect();
    for (node, device) in nodes.iter().zip(devices) {
        arguments.extend(["-blockdev", node, "-device", device]);
    }
    let mut guest = start("q35", &linux, &arguments);
    let mut qmp = Qmp::connect(&socket, STEP).expect("the socket");
    guest.console.expect("SIZES vda=16384 nvme0n1=16384 sda=16384 .", STEP).expect("the guest starts");
    let mut sectors = [16384u64; 3];
    // Twice each: the second is told of only if the guest has dealt with the first.
    for (disk, size) in [(0, 24576), (1, 24576), (2, 24576), (0, 8192), (1, 32768), (2, 8192), (1, 8192)] {
        qmp.execute("block_resize", json!({"node-name": format!("n{disk}"), "size": 512 * size}))
            .unwrap_or_else(|e| panic!("n{disk}: {e}"));
        sectors[disk] = size;
        let [a, b, c] = sectors;
        let seen = format!("SIZES vda={a} nvme0n1={b} sda={c} .");
        guest.console.expect(&seen, STEP).unwrap_or_else(|e| panic!("{}: {e}", devices[disk]));
    }
    qmp.execute("quit", Value::Null).expect("it ends");
    powers_off(&mut guest).expect("it ends");
}

/// A watchdog that nobody feeds resets the machine, which ends the run.
fn watchdog(module: &str, option: &str) {
    if !boot::has_board("x86_64", "pc") {
        return;
    }
    let scratch = Scratch::new(&format!("watchdog-{module}"));
    let script = "\
n=0; while [ ! -c /dev/watchdog ] && [ $n -lt 300 ]; do sleep 0.1; n=$((n+1)); done
watchdog -T 4 -t 600 /dev/watchdog && echo ARMED
sleep 600
echo STILL-HERE
";
    let Some(linux) = guest(&scratch, &["watchdog", module], script) else { return };
    let mut guest = start("pc", &linux, &["-device", option]);
    guest.console.expect("ARMED", STEP).unwrap_or_else(|e| panic!("{option}: {e}"));
    powers_off(&mut guest).unwrap_or_else(|e| panic!("{option}: {e}"));
    assert!(!guest.console.text().contains("STILL-HERE"), "{option}");
}

#[test]
fn i6300esb_resets_the_machine() {
    watchdog("i6300esb", "i6300esb");
}

#[test]
fn ib700_resets_the_machine() {
    watchdog("ib700wdt", "ib700");
}
