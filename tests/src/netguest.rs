//! A Linux guest with a network card: Debian's kernel, our initramfs, and the modules that Debian keeps apart from its kernel.
//! Those for virtio-net come out of the installer's initramfs, which is one of the fetched guests; a [`Guest`] has kernel,
//! modules and programs of the guests fetched for networks (`guests.sh build/guests net`).

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
/// `mkinitrd` of this crate, `programs` are more files by the paths they get. `None`, said aloud, when something for it is not
/// there.
///
/// # Panics
/// When the installer's initramfs is not what it should be, or a tool fails.
pub fn initrd(folder: &Path, tool: &Path, script: &str, programs: &[(&str, &Path)]) -> Option<PathBuf> {
    let (installer, busybox) = (boot::guest("riscv64/installer-initrd.gz")?, boot::guest("riscv64/busybox")?);
    for program in ["gzip", "xz"] {
        if !Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success()) {
            skip(&format!("{program} is not installed"));
            return None;
        }
    }
    let archive = output(Command::new("gzip").arg("-dc").arg(installer));
    let run = folder.join("programs");
    fs::write(&run, format!("{LOAD}{script}")).expect("a file in the folder");
    let out = folder.join("net.initrd");
    let mut make = Command::new(tool);
    make.arg(&out).arg(workspace::root().join("resources/guest/init")).arg(busybox);
    make.arg(format!("programs={}", run.display()));
    make.args(programs.iter().map(|(name, path)| format!("{name}={}", path.display())));
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

/// A guest of those fetched for networks.
pub struct Guest<'a> {
    /// `riscv64` or `x86_64`.
    pub arch: &'a str,
    /// Modules to load, which bring those they depend on.
    pub modules: &'a [&'a str],
    /// What busybox's shell runs then.
    pub script: &'a str,
}

impl Guest<'_> {
    /// Its kernel, and an initramfs made in `folder`, with iperf3 and socat in it; `tool` is the `mkinitrd` of this crate.
    /// `None`, said aloud, when something for it is not there.
    ///
    /// # Panics
    /// When a file is not what it should be, or a tool fails.
    pub fn files(&self, folder: &Path, tool: &Path) -> Option<(PathBuf, PathBuf)> {
        let kernel = boot::guest(&format!("net/{}/linux", self.arch))?;
        let busybox = boot::guest(&format!("{}/busybox", self.arch))?;
        fs::create_dir_all(folder).expect("a folder");
        let around = kernel.parent().expect("it is in a folder");
        let mut order = Vec::new();
        self.modules.iter().for_each(|name| load(&around.join("modules"), name, folder, &mut order));
        let programs = folder.join("programs");
        let insert: String = order.iter().map(|name| format!("insmod /tmp/{name}.ko\n")).collect();
        fs::write(&programs, format!("{insert}{}", self.script)).expect("a file in the folder");
        let out = folder.join(format!("{}.initrd", self.arch));
        let mut make = Command::new(tool);
        make.arg(&out).arg(workspace::root().join("resources/guest/init")).arg(busybox);
        make.arg(format!("programs={}", programs.display()));
        make.arg(format!("/={}", around.join("root").display()));
        for name in &order {
            make.arg(format!("tmp/{name}.ko={}", folder.join(format!("{name}.ko")).display()));
        }
        output(&mut make);
        Some((kernel, out))
    }
}

/// Unpacks a module into `folder`, after those it depends on; `order` gets their names.
fn load(modules: &Path, name: &str, folder: &Path, order: &mut Vec<String>) {
    // A module's file may have dashes where its name has not.
    let named = [name.to_owned(), name.replace('_', "-")].map(|n| modules.join(format!("{n}.ko.xz")));
    let packed = named.iter().find(|p| p.is_file()).unwrap_or_else(|| panic!("no module {name}"));
    if order.iter().any(|n| n == name) {
        return;
    }
    let data = output(Command::new("xz").arg("-dc").arg(packed));
    let depends =
        data.windows(9).position(|w| w == b"\0depends=").map(|at| &data[at + 9..]).unwrap_or_default();
    let depends = depends.split(|b| *b == 0).next().unwrap_or_default();
    for other in String::from_utf8_lossy(depends).split(',').filter(|n| !n.is_empty()) {
        load(modules, other, folder, order);
    }
    fs::write(folder.join(format!("{name}.ko")), data).expect("a file in the folder");
    order.push(name.to_owned());
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
