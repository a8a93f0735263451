//! Where firmware is found: Debian's packages put each image at a place of its own.

use std::path::{Path, PathBuf};

/// Folders where firmware packages install, relative names of [`find`] below them.
const FOLDERS: &[&str] = &[
    "/usr/share/rhea",
    "/usr/local/share/rhea",
    "/usr/share/qemu",
    "/usr/share/seabios",
    "/usr/lib/ipxe/qemu",
];

/// Names under which distributions install what a board asks for.
const PLACES: &[(&str, &str)] = &[
    ("opensbi-riscv64-generic-fw_dynamic.bin", "/usr/lib/riscv64-linux-gnu/opensbi/generic/fw_dynamic.bin"),
    ("opensbi-riscv32-generic-fw_dynamic.bin", "/usr/lib/riscv32-linux-gnu/opensbi/generic/fw_dynamic.bin"),
];

/// The file for firmware `name`: a path, a file in one of `dirs`, or an installed one.
pub(crate) fn find(name: &str, dirs: &[String]) -> Option<PathBuf> {
    if name.contains('/') {
        return Path::new(name).is_file().then(|| name.into());
    }
    let own = dirs.iter().map(|d| Path::new(d).join(name));
    let shared = FOLDERS.iter().map(|d| Path::new(d).join(name));
    let known = PLACES.iter().filter(|(n, _)| *n == name).map(|(_, p)| PathBuf::from(p));
    let here = std::iter::once(PathBuf::from(name));
    own.chain(here).chain(shared).chain(known).find(|p| p.is_file())
}
