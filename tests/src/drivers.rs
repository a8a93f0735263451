//! Initramfs of Debian's kernel with modules of it (group `drivers` of the guests), for tests of what its drivers drive.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::boot::{self, Linux, Scratch};
use crate::workspace;

/// Loads all modules, in the order in which they need one another.
const LOAD: &str = "for m in $(cat /tmp/ORDER); do insmod /tmp/$m.ko; done\n";

/// Adds a module and all it needs, by what it says itself (`depends=` in its `.modinfo`).
fn with_needs(folder: &Path, name: &str, all: &mut BTreeSet<String>) {
    if !all.insert(name.to_owned()) {
        return;
    }
    let module = std::fs::read(folder.join(format!("{name}.ko"))).unwrap_or_default();
    const KEY: &[u8] = b"\0depends=";
    let at = module.windows(KEY.len()).position(|bytes| bytes == KEY);
    let rest = at.and_then(|at| module.get(at + KEY.len()..)).unwrap_or_default();
    let needs = rest.split(|byte| *byte == 0).next().unwrap_or_default();
    for need in String::from_utf8_lossy(needs).split(',').filter(|need| !need.is_empty()) {
        with_needs(folder, &need.replace('-', "_"), all);
    }
}

/// Writes an initramfs with the modules named, and what they need, that loads them and runs `script`, for the kernel beside them. `mkinitrd`
/// is the program of this crate. `None`, said aloud, if the guests are not there.
///
/// # Panics
/// When a module is not among the guests, or the initramfs cannot be written.
pub fn guest(mkinitrd: &str, scratch: &Scratch, modules: &[&str], script: &str) -> Option<Linux> {
    let (kernel, busybox) = (boot::guest("drivers/linux")?, boot::guest("x86_64/busybox")?);
    let folder = kernel.parent().expect("it is in a folder");
    let order = std::fs::read_to_string(folder.join("ORDER")).expect("the guests are whole");
    let (programs, initrd, list) = (scratch.path("programs"), scratch.path("initrd"), scratch.path("ORDER"));
    std::fs::write(&programs, format!("{LOAD}{script}")).expect("a file in the folder");
    let mut make = Command::new(mkinitrd);
    make.arg(&initrd).arg(workspace::root().join("resources/guest/init")).arg(busybox);
    make.arg(format!("programs={}", programs.display()));
    let mut all = BTreeSet::new();
    modules.iter().for_each(|name| with_needs(folder, name, &mut all));
    let wanted: Vec<&str> = order.lines().filter(|name| all.contains(*name)).collect();
    let missing: Vec<_> = modules.iter().filter(|name| !wanted.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?} are not among the guests");
    std::fs::write(&list, wanted.join("\n")).expect("a file in the folder");
    make.arg(format!("tmp/ORDER={}", list.display()));
    for name in wanted {
        make.arg(format!("tmp/{name}.ko={}", folder.join(format!("{name}.ko")).display()));
    }
    assert!(make.status().expect("it starts").success());
    Some(Linux { arch: "x86_64", firmware: None, kernel, initrd })
}
