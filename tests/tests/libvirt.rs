//! A client that people have: libvirt defines a PC by its own description and starts it, here without a daemon (virt-qemu-run(1)).
#![cfg(target_os = "linux")]

use std::{
    fs,
    os::unix::fs::symlink,
    process::{Child, Command, Stdio},
    thread,
    time::Instant,
};

use rhea_tests::boot::{self, APPEND, STEP, Scratch};

/// What starts the machine, ended with it.
struct Starter(Child);

impl Drop for Starter {
    fn drop(&mut self) {
        // Asked to end, it ends its machine, too.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// A PC with what libvirt gives one: a disk, an empty CD drive, a network, a serial port into a file, a channel for an agent, a
/// balloon and random numbers.
fn description(scratch: &Scratch, machine: &str, kernel: &str, initrd: &str) -> String {
    let (emulator, disk) = (scratch.path("qemu-system-x86_64"), scratch.path("disk.qcow2"));
    let (emulator, disk, serial) = (emulator.display(), disk.display(), scratch.path("serial"));
    let serial = serial.display();
    let (bus, target) = if machine == "pc" { ("ide", "hdc") } else { ("sata", "sda") };
    format!(
        "<domain type='qemu'>
  <name>{machine}</name>
  <memory unit='MiB'>512</memory>
  <vcpu>2</vcpu>
  <os>
    <type arch='x86_64' machine='{machine}'>hvm</type>
    <kernel>{kernel}</kernel><initrd>{initrd}</initrd><cmdline>{APPEND} console=ttyS0</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <on_reboot>destroy</on_reboot>
  <devices>
    <emulator>{emulator}</emulator>
    <controller type='usb' model='none'/>
    <controller type='scsi' model='virtio-scsi'/>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/><source file='{disk}'/><target dev='vda' bus='virtio'/>
    </disk>
    <disk type='file' device='cdrom'><target dev='{target}' bus='{bus}'/></disk>
    <interface type='user'><model type='virtio'/></interface>
    <serial type='file'><source path='{serial}'/></serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <video><model type='vga'/></video>
    <memballoon model='virtio'/>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
</domain>
"
    )
}

#[test]
fn libvirt_starts_debian_on_a_pc() {
    let (Some(kernel), Some(initrd)) = (boot::guest("x86_64/linux"), boot::guest("x86_64/initrd.gz")) else {
        return;
    };
    if Command::new("virt-qemu-run").arg("--help").output().is_err() {
        println!("SKIPPED: libvirt: there is no virt-qemu-run (resources/scripts/deps.sh libvirt)");
        return;
    }
    for machine in ["pc", "q35"] {
        let scratch = Scratch::new(&format!("libvirt-{machine}"));
        symlink(boot::rhea(), scratch.path("qemu-system-x86_64")).unwrap();
        let create = ["img", "create", "-q", "-f", "qcow2"];
        let made =
            Command::new(boot::rhea()).args(create).arg(scratch.path("disk.qcow2")).arg("64M").status();
        assert!(made.unwrap().success());
        fs::create_dir_all(scratch.path("root/etc")).unwrap();
        // As the user who runs the test, in no name space of its own.
        let settings =
            "security_driver = \"none\"\nnamespaces = []\nremember_owner = 0\nstdio_handler = \"file\"\n";
        let user = "user = \"root\"\ngroup = \"root\"\n";
        fs::write(scratch.path("root/etc/qemu.conf"), format!("{settings}{user}")).unwrap();
        let text = |path: &std::path::Path| path.to_str().expect("paths of guests are UTF-8").to_owned();
        let xml = scratch.path("domain.xml");
        fs::write(&xml, description(&scratch, machine, &text(&kernel), &text(&initrd))).unwrap();
        let said = fs::File::create(scratch.path("said")).unwrap();
        let starter = Command::new("virt-qemu-run")
            .arg(format!("--root={}", scratch.path("root").display()))
            .arg(&xml)
            .stdin(Stdio::null())
            .stdout(said.try_clone().unwrap())
            .stderr(said)
            .spawn();
        let mut starter = Starter(starter.expect("it was there a moment ago"));
        let deadline = Instant::now() + STEP;
        loop {
            let serial = fs::read(scratch.path("serial")).unwrap_or_default();
            let serial = String::from_utf8_lossy(&serial);
            if serial.contains("GUEST-DONE") && serial.contains("Power down") {
                break;
            }
            let ended = starter.0.try_wait().unwrap();
            if ended.is_some() || Instant::now() > deadline {
                let said = fs::read_to_string(scratch.path("said")).unwrap_or_default();
                panic!("{machine}: {ended:?}\n{said}\n{serial}");
            }
            thread::sleep(std::time::Duration::from_millis(100));
        }
    }
}
