//! Debian guests on networks: what people do with one, on each kind of card and each way of wiring two. All of it happens in a
//! network namespace, so that nothing of this host's network is needed or disturbed.
//!
//! Sizes: `RHEA_NET_MIB` says how much data goes each way on the user network (16 MiB).
#![cfg(target_os = "linux")]

mod boot_from_net;
mod control;
mod pairs;
mod user;
mod vhost;
mod vsock;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rhea_tests::boot::{self, Scratch};
use rhea_tests::netguest::Guest;
use rhea_tests::process::Process;

/// Time for one step of a guest's.
pub(crate) const STEP: Duration = Duration::from_secs(600);

/// A board and the card in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    pub(crate) arch: &'static str,
    pub(crate) board: &'static str,
    /// The card's type.
    pub(crate) card: &'static str,
    /// The modules that drive it.
    pub(crate) modules: &'static [&'static str],
}

pub(crate) const E1000: Machine = Machine { arch: "x86_64", board: "pc", card: "e1000", modules: &["e1000"] };
pub(crate) const VIRTIO_PCI: Machine =
    Machine { arch: "x86_64", board: "pc", card: "virtio-net-pci", modules: &["virtio_net"] };
pub(crate) const VIRTIO_MMIO: Machine = Machine {
    arch: "riscv64",
    board: "virt",
    card: "virtio-net-device",
    modules: &["virtio_mmio", "virtio_net"],
};

/// The tool that makes initramfs.
pub(crate) fn mkinitrd() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_mkinitrd"))
}

pub(crate) fn text(path: &Path) -> String {
    path.display().to_string()
}

impl Machine {
    /// Starts a guest that loads the card's modules and `more`, waits for the first card, and runs `script`.
    pub(crate) fn start(
        &self,
        (scratch, name): (&Scratch, &str),
        more: &[&str],
        script: &str,
        options: &[String],
    ) -> Option<Process> {
        if !boot::has_board(self.arch, self.board) {
            return None;
        }
        let modules: Vec<&str> = self.modules.iter().chain(more).copied().collect();
        let script = format!(
            "export PATH=$PATH:/usr/bin\nwhile [ ! -e /sys/class/net/eth0 ]; do sleep 0.1; done\nifconfig lo 127.0.0.1 up\nifconfig eth0 up\n{script}"
        );
        let guest = Guest { arch: self.arch, modules: &modules, script: &script };
        let (kernel, initrd) = guest.files(&scratch.path(name), mkinitrd())?;
        let mut arguments = vec!["-m".to_owned(), "512".to_owned(), "-accel".to_owned(), "tcg".to_owned()];
        if self.arch == "riscv64" {
            arguments.extend(["-bios".to_owned(), text(&boot::guest("riscv64/fw_dynamic.bin")?)]);
        }
        arguments.extend(["-kernel".to_owned(), text(&kernel), "-initrd".to_owned(), text(&initrd)]);
        arguments.extend(["-append".to_owned(), format!("{} quiet", boot::APPEND)]);
        arguments.extend_from_slice(options);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Some(boot::start(self.arch, self.board, &arguments).expect("the binary starts"))
    }
}

/// Waits for lines in this order.
pub(crate) fn follow(guest: &mut Process, lines: &[&str]) -> Result<(), String> {
    lines.iter().try_for_each(|line| guest.console.expect(line, STEP).map(|_| ()))
}

/// The path of a program of the host's; `None`, said aloud, if it is not installed.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let folders = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];
    let found = folders.iter().map(|f| Path::new(f).join(name)).find(|p| p.is_file());
    if found.is_none() {
        rhea_tests::skip(&format!("{name} is not installed"));
    }
    found
}
