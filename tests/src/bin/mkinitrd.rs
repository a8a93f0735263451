//! Writes an initramfs as an uncompressed "newc" cpio archive.
//!
//! Source: the Linux kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`.
//! The archive needs no root and no cpio program, and equal inputs give equal bytes (no times, inode
//! numbers by position), so a boot can be repeated exactly.
//!
//! Usage: `mkinitrd OUT INIT BUSYBOX [NAME=FILE ...]` where each `NAME=FILE` puts an executable at `/NAME`, or all of a
//! folder below it; `/=FOLDER` is the root itself, of which links that would hide the folders made here are left out.

use std::{env, fs, path::Path, process::ExitCode};

const DIRECTORY: u32 = 0o040_755;
/// What every archive has.
const FOLDERS: [&str; 7] = ["bin", "sbin", "dev", "proc", "sys", "tmp", "root"];

const EXECUTABLE: u32 = 0o100_755;
const SYMLINK: u32 = 0o120_777;
const CHAR_DEVICE: u32 = 0o020_600;

/// An archive under construction.
struct Cpio {
    bytes: Vec<u8>,
    inode: u32,
}

impl Cpio {
    fn new() -> Self {
        Cpio { bytes: Vec::new(), inode: 0 }
    }

    /// Appends one member; `device` is the (major, minor) pair of a device node.
    fn add(&mut self, name: &str, mode: u32, data: &[u8], device: (u32, u32)) -> Result<(), String> {
        self.inode += 1;
        let size = u32::try_from(data.len()).map_err(|_| format!("{name}: larger than 4 GiB"))?;
        let name_size = u32::try_from(name.len() + 1).map_err(|_| format!("{name}: name too long"))?;
        // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad(4);
        self.bytes.extend_from_slice(data);
        self.pad(4);
        Ok(())
    }

    fn pad(&mut self, unit: usize) {
        let len = self.bytes.len().next_multiple_of(unit);
        self.bytes.resize(len, 0);
    }

    fn finish(mut self) -> Result<Vec<u8>, String> {
        self.add("TRAILER!!!", 0, &[], (0, 0))?;
        self.pad(512);
        Ok(self.bytes)
    }
}

fn read(path: &str) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{path}: {error}"))
}

/// Adds what is in `folder` at `name`, in the order of names.
fn add_folder(cpio: &mut Cpio, name: &str, folder: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut entries = fs::read_dir(folder).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let file_name = entry.file_name().to_string_lossy().into_owned();
        let at = if name.is_empty() { file_name } else { format!("{name}/{file_name}") };
        let kind = entry.file_type().map_err(failed)?;
        if FOLDERS.contains(&at.as_str()) {
            if kind.is_dir() {
                add_folder(cpio, &at, &entry.path())?;
            }
        } else if kind.is_symlink() {
            let target = fs::read_link(entry.path()).map_err(failed)?;
            cpio.add(&at, SYMLINK, target.to_string_lossy().as_bytes(), (0, 0))?;
        } else if kind.is_dir() {
            cpio.add(&at, DIRECTORY, &[], (0, 0))?;
            add_folder(cpio, &at, &entry.path())?;
        } else {
            cpio.add(&at, EXECUTABLE, &fs::read(entry.path()).map_err(failed)?, (0, 0))?;
        }
    }
    Ok(())
}

fn run(args: &[String]) -> Result<(), String> {
    let [out, init, busybox, extra @ ..] = args else {
        return Err("usage: mkinitrd OUT INIT BUSYBOX [NAME=FILE ...]".to_owned());
    };
    let mut cpio = Cpio::new();
    for directory in FOLDERS {
        cpio.add(directory, DIRECTORY, &[], (0, 0))?;
    }
    // The kernel opens /dev/console before any program of ours could make it.
    cpio.add("dev/console", CHAR_DEVICE, &[], (5, 1))?;
    cpio.add("dev/null", CHAR_DEVICE, &[], (1, 3))?;
    cpio.add("bin/busybox", EXECUTABLE, &read(busybox)?, (0, 0))?;
    cpio.add("bin/sh", SYMLINK, b"busybox", (0, 0))?;
    cpio.add("init", EXECUTABLE, &read(init)?, (0, 0))?;
    for pair in extra {
        let (name, file) = pair.split_once('=').ok_or_else(|| format!("{pair}: expected NAME=FILE"))?;
        let name = name.trim_start_matches('/');
        if Path::new(file).is_dir() {
            add_folder(&mut cpio, name, Path::new(file))?;
        } else {
            cpio.add(name, EXECUTABLE, &read(file)?, (0, 0))?;
        }
    }
    fs::write(out, cpio.finish()?).map_err(|error| format!("{out}: {error}"))
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mkinitrd: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_aligned_and_the_trailer_closes_the_archive() {
        let mut cpio = Cpio::new();
        cpio.add("a", EXECUTABLE, b"12345", (0, 0)).unwrap();
        cpio.add("dev/console", CHAR_DEVICE, &[], (5, 1)).unwrap();
        let bytes = cpio.finish().unwrap();
        assert_eq!(bytes.len() % 512, 0);
        // Header 110 bytes + "a\0" = 112, data 5 bytes padded to 8: the second header is at 120.
        assert_eq!(&bytes[120..126], b"070701");
        assert_eq!(&bytes[54..62], b"00000005");
        assert_eq!(&bytes[120 + 78..120 + 94], b"0000000500000001");
        assert!(bytes.windows(10).any(|window| window == b"TRAILER!!!"));
    }
}
