#!/bin/bash
# deps.sh GROUP...: installs from Debian what a make target needs, once, and is silent when it is there.
#   build   a linker for rustc
#   test    independent oracles: qemu-riscv64 (user mode), RISC-V binutils, a GDB for all architectures,
#           makers and checkers of disk images and FAT volumes
#   pc      the firmware of PCs
#   net     what guests on a network talk to, and what reads captures
#   libvirt libvirt's driver of emulators, to be driven by it
#   bench   qemu-system-riscv64 and qemu-system-x86_64 10 to compare with, and a RISC-V C compiler for the programs run in them
#   cross   the import-library tool that Windows builds of std need
set -euo pipefail
cd "$(dirname "$0")/../.."
. resources/scripts/lib.sh

# Debian 12 carries QEMU 7.2; the figures are against QEMU 10, which is in its backports.
qemu_suite() {
    local codename
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    [ "$codename" = bookworm ] || return 0
    # shellcheck disable=SC2016
    if ! apt-get indextargets --format '$(CODENAME)' 'Created-By: Packages' | grep -qx bookworm-backports; then
        echo "deb $(mirror) bookworm-backports main" | as_root tee /etc/apt/sources.list.d/rhea-backports.list >/dev/null
        as_root rm -f /var/lib/apt/lists/.rhea-updated
    fi
    echo bookworm-backports
}

for group in "$@"; do
    case $group in
    build)
        command -v cargo >/dev/null || die "no cargo: install a Rust toolchain ($(grep -m1 rust-version Cargo.toml | cut -d'"' -f2) or newer)"
        command -v cc >/dev/null || apt_install gcc libc6-dev
        ;;
    test)
        apt_install git qemu-user binutils-riscv64-linux-gnu gdb-multiarch
        apt_install cryptsetup-bin dosfstools mtools bximage cloop-utils ovmf
        ;;
    pc) apt_install seabios zstd ;;
    net) apt_install iperf3 iproute2 samba tshark xz-utils ;;
    libvirt) apt_install libvirt-daemon-driver-qemu ;;
    bench)
        suite=$(qemu_suite)
        apt_install ${suite:+-t "$suite"} qemu-system-misc qemu-system-x86
        apt_install gcc-riscv64-linux-gnu libc6-dev-riscv64-cross
        ;;
    cross) apt_install zstd binutils-mingw-w64-x86-64 ;;
    *) die "unknown group $group" ;;
    esac
done
