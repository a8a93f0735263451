//! An installed Debian boots from a disk to its login, on every kind of disk, and goes on from where it was saved on the way; its
//! installer comes to its first dialog.
//! Disk and installer are group `system` of the guests, kernel and modules are group `drivers`.
#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rhea_tests::boot::{self, Linux, Scratch, powers_off};
use rhea_tests::console::Console;
use rhea_tests::drivers;
use rhea_tests::process::Process;
use rhea_tests::qmp::Qmp;
use serde_json::json;

const STEP: Duration = Duration::from_secs(1200);

/// Mounts the disk named "root", and makes its init that of the machine.
const SWITCH: &str = "\
n=0; while ! mount -t ext4 \"$(findfs LABEL=root 2>/dev/null)\" /root 2>/dev/null && [ $n -lt 300 ]; do sleep 0.2; n=$((n+1)); done
echo SWITCHING
umount /proc /sys; mount --move /dev /root/dev
exec switch_root /root /sbin/init
";

/// Where a disk hangs: board, options with IMAGE in them, modules, and the device that is the root then.
struct Place {
    name: &'static str,
    board: &'static str,
    options: &'static [&'static str],
    modules: &'static [&'static str],
    device: &'static str,
}

const PLACES: [Place; 5] = [
    Place {
        name: "ide",
        board: "pc",
        options: &["-drive", "if=ide,IMAGE"],
        modules: &["ata_piix", "sd_mod", "crc32c_generic", "ext4"],
        device: "/dev/sda",
    },
    Place {
        name: "ahci",
        board: "q35",
        options: &["-drive", "if=ide,IMAGE"],
        modules: &["ahci", "sd_mod", "crc32c_generic", "ext4"],
        device: "/dev/sda",
    },
    Place {
        name: "nvme",
        board: "q35",
        options: &["-drive", "if=none,id=d,IMAGE", "-device", "nvme,drive=d,serial=rhea"],
        modules: &["nvme", "crc32c_generic", "ext4"],
        device: "/dev/nvme0n1",
    },
    Place {
        name: "virtio-blk",
        board: "pc",
        options: &["-drive", "if=none,id=d,IMAGE", "-device", "virtio-blk-pci,drive=d"],
        modules: &["virtio_blk", "crc32c_generic", "ext4"],
        device: "/dev/vda",
    },
    Place {
        name: "virtio-scsi",
        board: "q35",
        options: &[
            "-drive",
            "if=none,id=d,IMAGE",
            "-device",
            "virtio-scsi-pci",
            "-device",
            "scsi-hd,drive=d",
        ],
        modules: &["virtio_scsi", "sd_mod", "crc32c_generic", "ext4"],
        device: "/dev/sda",
    },
];

impl Place {
    /// The command line, with `image` as the disk and more options. Nothing without the guests.
    fn command(&self, scratch: &Scratch, image: &str, more: &[&str]) -> Option<Command> {
        let mkinitrd = env!("CARGO_BIN_EXE_mkinitrd");
        let linux = drivers::guest(mkinitrd, scratch, self.modules, SWITCH)?;
        let mut command = boot::command("x86_64", self.board, &["-accel", "tcg", "-m", "512"]);
        command.args(linux.options("quiet net.ifnames=0"));
        command.args(self.options.iter().map(|option| option.replace("IMAGE", image)));
        command.args(more);
        Some(command)
    }

    /// From the login to power-off: the root is the disk, its files are what they were, and `first` is done before.
    fn log_in(&self, guest: &mut Process, sum: &str, first: &str) -> Result<(), String> {
        let type_in = |console: &mut Console, line: &str| console.send(line).map_err(|e| e.to_string());
        guest.console.expect("login: ", STEP)?;
        type_in(&mut guest.console, "root\n")?;
        guest.console.expect("assword: ", STEP)?;
        type_in(&mut guest.console, "root\n")?;
        guest.console.expect("# ", STEP)?;
        type_in(
            &mut guest.console,
            &format!(
                "{first}echo FROM $(findmnt -no SOURCE /) FAILED $(systemctl --failed --no-legend | wc -l); \
                sha256sum /usr/bin/perl; poweroff\n"
            ),
        )?;
        guest.console.expect(&format!("FROM {} FAILED 0", self.device), STEP)?;
        guest.console.expect(sum, STEP)?;
        powers_off(guest)
    }
}

fn disk() -> Option<(std::path::PathBuf, String)> {
    let (image, sum) = (boot::guest("system/disk.img")?, boot::guest("system/SUM")?);
    let sum = std::fs::read_to_string(sum).expect("the guests are whole");
    Some((image, sum.trim().to_owned()))
}

fn boots(name: &str) {
    boots_with(name, &[], "");
}

/// False if the guests are not there.
fn boots_with(name: &str, more: &[&str], first: &str) -> bool {
    let place = PLACES.iter().find(|place| place.name == name).expect("it is in the table");
    let Some((image, sum)) = disk().filter(|_| boot::has_board("x86_64", place.board)) else { return false };
    let scratch = Scratch::new(&format!("system-{name}"));
    let image = format!("format=raw,snapshot=on,file={}", image.display());
    let Some(mut command) = place.command(&scratch, &image, more) else { return false };
    let mut guest = Process::piped(&mut command).expect("the binary starts");
    place.log_in(&mut guest, &sum, first).unwrap_or_else(|e| panic!("{name}: {e}"));
    true
}

#[test]
fn debian_boots_from_ide() {
    boots("ide");
}

#[test]
fn debian_boots_from_ahci() {
    boots("ahci");
}

#[test]
fn debian_boots_from_nvme() {
    boots("nvme");
}

#[test]
fn debian_boots_from_virtio_blk() {
    boots("virtio-blk");
}

/// A second disk, on which the kernel zeroes a part and gives another up.
#[test]
fn debian_zeroes_and_discards_by_virtio_blk() {
    const MIB: usize = 1 << 20;
    let scratch = Scratch::new("system-zeroes");
    let file = scratch.path("disk");
    let mut model = vec![0xa5; 4 * MIB];
    std::fs::write(&file, &model).expect("a file in the folder");
    let drive = format!("if=none,id=e,format=raw,discard=unmap,detect-zeroes=off,file={}", file.display());
    let script = "\
[ $(cat /sys/block/vdb/queue/write_zeroes_max_bytes) -gt 0 ] && blkdiscard -z -o 1048576 -l 1048576 /dev/vdb; \
[ $(cat /sys/block/vdb/queue/discard_max_bytes) -gt 0 ] && blkdiscard -o 3145728 -l 524288 /dev/vdb; ";
    if !boots_with("virtio-blk", &["-drive", &drive, "-device", "virtio-blk-pci,drive=e"], script) {
        return;
    }
    model[MIB..2 * MIB].fill(0);
    model[3 * MIB..3 * MIB + MIB / 2].fill(0);
    assert!(std::fs::read(&file).expect("the file") == model);
}

#[test]
fn debian_boots_from_virtio_scsi() {
    boots("virtio-scsi");
}

/// A disk over the installed one, so that a state can be saved in it.
fn overlay(scratch: &Scratch, image: &Path) -> String {
    let file = scratch.path("overlay.qcow2").display().to_string();
    let mut make = Command::new(boot::rhea());
    make.args(["img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(image).arg(&file);
    assert!(make.status().expect("the binary starts").success());
    format!("format=qcow2,file={file}")
}

/// Saved while systemd starts its services; a new process goes on from there.
#[test]
fn a_boot_goes_on_from_where_it_was_saved() {
    for name in ["ahci", "nvme", "virtio-scsi"] {
        let place = PLACES.iter().find(|place| place.name == name).expect("it is in the table");
        let Some((image, sum)) = disk().filter(|_| boot::has_board("x86_64", place.board)) else { return };
        let scratch = Scratch::new(&format!("system-saved-{name}"));
        let image = overlay(&scratch, &image);
        let socket = scratch.path("socket");
        let option = format!("unix:{},server=on,wait=off", socket.display());
        let Some(mut command) = place.command(&scratch, &image, &["-qmp", &option]) else { return };
        let mut guest = Process::piped(&mut command).expect("the binary starts");
        let mut qmp = Qmp::connect(&socket, STEP).expect("the socket");
        guest.console.expect("SWITCHING", STEP).unwrap_or_else(|e| panic!("{name}: {e}"));
        std::thread::sleep(Duration::from_secs(5));
        let said = qmp.execute("human-monitor-command", json!({ "command-line": "savevm middle" }));
        assert_eq!(said, Ok(json!("")), "{name}");
        let _ = qmp.execute("quit", json!({}));
        powers_off(&mut guest).unwrap_or_else(|e| panic!("{name}: {e}"));
        let Some(mut command) = place.command(&scratch, &image, &["-loadvm", "middle"]) else { return };
        let mut guest = Process::piped(&mut command).expect("the binary starts");
        place.log_in(&mut guest, &sum, "").unwrap_or_else(|e| panic!("{name}, loaded: {e}"));
    }
}

#[test]
fn debian_installer_reaches_its_first_dialog() {
    if !boot::has_board("x86_64", "q35") {
        return;
    }
    let (kernel, initrd) = (boot::guest("system/installer-linux"), boot::guest("system/installer-initrd.gz"));
    let (Some(kernel), Some(initrd)) = (kernel, initrd) else { return };
    let installer = Linux { arch: "x86_64", firmware: None, kernel, initrd };
    let mut guest = installer.start("q35", "", &["-accel", "tcg", "-m", "1024", "-smp", "2"]);
    guest.console.expect("[!!] Select a language", STEP).expect("the first dialog");
}
