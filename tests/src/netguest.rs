//! A Linux guest with a network card: Debian's kernel, our initramfs, and the modules for virtio-net, which Debian keeps
//! apart from its kernel. They come out of the installer's initramfs, which is one of the fetched guests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{boot, skip, workspace};

/// The modules, in the order they are loaded.
const MODULES: [&str; 4] = ["failover", "net_failover", "virtio_mmio", "virtio_net"];

/// Loads the modules and waits for the card.
const LOAD: &str = "\
for m in failover net_failover virtio_mmio virtio_net; do insmod /tmp/$m.ko; done
while [ ! -e /sys/class/net/eth0 ]; do sleep 0.1; done
ifconfig lo 127.0.0.1 up
ifconfig eth0 up
";

/// Writes an initramfs into `folder` that loads the modules and then runs `script` in busybox's shell; `tool` is the
/// `mkinitrd` of this crate. `None`, said aloud, when something for it is not there.
///
/// # Panics
/// When the installer's initramfs is not what it should be, or a tool fails.
pub fn initrd(folder: &Path, tool: &Path, script: &str) -> Option<PathBuf> {
    let (installer, busybox) = (boot::guest("riscv64/installer-initrd.gz")?, boot::guest("riscv64/busybox")?);
    for program in ["gzip", "xz"] {
        if !Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success()) {
            skip(&format!("{program} is not installed"));
            return None;
        }
    }
    let archive = output(Command::new("gzip").arg("-dc").arg(installer));
    let programs = folder.join("programs");
    fs::write(&programs, format!("{LOAD}{script}")).expect("a file in the folder");
    let out = folder.join("net.initrd");
    let mut make = Command::new(tool);
    make.arg(&out).arg(workspace::root().join("resources/guest/init")).arg(busybox);
    make.arg(format!("programs={}", programs.display()));
    for module in MODULES {
        let packed = folder.join(format!("{module}.ko.xz"));
        let data =
            member(&archive, &format!("/{module}.ko.xz")).unwrap_or_else(|| panic!("no module {module}"));
        fs::write(&packed, data).expect("a file in the folder");
        let file = folder.join(format!("{module}.ko"));
        fs::write(&file, output(Command::new("xz").arg("-dc").arg(packed))).expect("a file in the folder");
        make.arg(format!("tmp/{module}.ko={}", file.display()));
    }
    output(&mut make);
    Some(out)
}

/// What a command prints.
fn output(command: &mut Command) -> Vec<u8> {
    let output = command.stdin(Stdio::null()).output().expect("the program starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The file whose name ends so, in a cpio archive of the "newc" kind.
fn member<'a>(archive: &'a [u8], suffix: &str) -> Option<&'a [u8]> {
    let mut at = 0;
    loop {
        let head = archive.get(at..at + 110)?;
        if !head.starts_with(b"07070") {
            // Padding between two archives.
            at += 4;
            continue;
        }
        let field = |i: usize| -> Option<usize> {
            let text = std::str::from_utf8(head.get(6 + 8 * i..14 + 8 * i)?).ok()?;
            usize::from_str_radix(text, 16).ok()
        };
        let (size, name_size) = (field(6)?, field(11)?);
        let name = archive.get(at + 110..at + 110 + name_size)?;
        let from = (at + 110 + name_size).next_multiple_of(4);
        let data = archive.get(from..from + size)?;
        if String::from_utf8_lossy(name).trim_end_matches('\0').ends_with(suffix) {
            return Some(data);
        }
        at = (from + size).next_multiple_of(4);
    }
}
