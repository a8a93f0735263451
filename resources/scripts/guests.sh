#!/bin/bash
# guests.sh [DIR [GROUP...]]: fetches real guests into DIR (build/guests): group boot is what the boots use, with their
# initramfs, groups user and i386 the roots of small systems for user mode (riscv64, i386), group firmware what PCs start with:
# boot loaders, firmware, hypervisor, kernels in other forms, into DIR/pc; group userland, on demand, more programs for the long
# tests, into DIR/userland; group drivers, on demand, Debian's amd64 kernel with the modules that drive emulated PC hardware, into
# DIR/drivers; group system, on demand, a disk with an installed Debian and Debian's installer, into DIR/system; group net, on demand,
# kernels with modules and programs for networks, into DIR/net; group suites, on demand, what user mode's long tests run, into DIR/suites. Nothing of
# them is ever committed. apt checks each package against Debian's signatures; MANIFEST
# keeps package, architecture, version and SHA-256 of the packages, FILES the SHA-256 of the files taken out, which every later
# run checks again (MANIFEST.user and FILES.user for group user, and so on).
# Ends with status 75 when the archive cannot be reached.
set -euo pipefail
cd "$(dirname "$0")/../.."
. resources/scripts/lib.sh
mkdir -p "${1:-build/guests}"
out=$(cd "${1:-build/guests}" && pwd)
suite=trixie
groups=" ${*:2} "
[ "$groups" != "  " ] || groups=" boot user i386 firmware "

manifest=MANIFEST

# fetch PACKAGE[:ARCH]: downloads and unpacks into $work/PACKAGE, and notes it.
fetch() {
    local package=${1%:*} deb
    say "fetching $1"
    (cd "$work/debs" && rm -f -- "${package}"_*.deb && retry apt-get download -qq "$1")
    deb=$(echo "$work/debs/${package}"_*.deb)
    dpkg-deb -x "$deb" "$work/x/$1"
    echo "$(dpkg-deb -W --showformat='${Package} ${Architecture} ${Version}' "$deb") $(sha256sum <"$deb" | cut -c1-64)" >>"$out/$manifest"
}

take() { install -D -m 644 "$work/x/$1" "$out/$2"; } # FILE-IN-PACKAGE NAME

fetch_all() {
    work=$out/.work
    rm -rf "$work" && mkdir -p "$work/debs" "$work/x"
    : >"$out/MANIFEST"
    private_apt "$work/apt" $suite riscv64 amd64
    export APT_CONFIG=$work/apt/apt.conf
    local installer kernel
    installer=debian-installer-13-netboot-riscv64
    fetch $installer
    fetch busybox-static:riscv64
    fetch opensbi
    fetch u-boot-qemu
    fetch busybox-static:amd64
    kernel=$(newest linux-image-cloud-amd64:amd64)
    fetch "$kernel:amd64"

    local images=$installer/usr/lib/debian-installer/images/13/riscv64/text/debian-installer/riscv64
    take $images/linux riscv64/linux
    take $images/initrd.gz riscv64/installer-initrd.gz
    take busybox-static:riscv64/usr/bin/busybox riscv64/busybox
    take opensbi/usr/lib/riscv64-linux-gnu/opensbi/generic/fw_dynamic.bin riscv64/fw_dynamic.bin
    take opensbi/usr/lib/riscv64-linux-gnu/opensbi/generic/fw_dynamic.elf riscv64/fw_dynamic.elf
    take u-boot-qemu/usr/lib/u-boot/qemu-riscv64/u-boot.bin riscv64/u-boot-m.bin
    take u-boot-qemu/usr/lib/u-boot/qemu-riscv64_smode/u-boot.bin riscv64/u-boot-s.bin
    take busybox-static:amd64/usr/bin/busybox x86_64/busybox
    install -D -m 644 "$work/x/$kernel:amd64"/boot/vmlinuz-* "$out/x86_64/linux"
    (cd "$out" && find riscv64 x86_64 -type f ! -name 'initrd*' ! -name vmlinux -print0 | sort -z | xargs -0 sha256sum >FILES.new && mv FILES.new FILES)
    rm -rf "$work"
}

# newest META: the kernel package that a package without contents stands for.
newest() { apt-cache depends "$1" | awk '/Depends: linux-image-[0-9]/ { sub(/:.*/, "", $2); print $2; exit }'; }

# unpacked_kernel BZIMAGE OUT: the ELF file inside, found by the header (boot protocol 2.08: offset of the real-mode part's end,
# then of the payload).
unpacked_kernel() {
    local sectors offset
    sectors=$(od -An -tu1 -j497 -N1 "$1")
    offset=$(od -An -tu4 -j584 -N4 "$1")
    tail -c +$(((sectors + 1) * 512 + offset + 1)) "$1" >"$2.packed"
    # What follows the payload is no part of it, which the programs complain of.
    case $(od -An -tx1 -N4 "$2.packed") in
        *"28 b5 2f fd") zstd -dcq "$2.packed" >"$2" 2>/dev/null || true ;;
    esac
    rm "$2.packed"
    [ -e "$2" ] && [ "$(od -An -tx1 -N4 "$2")" = " 7f 45 4c 46" ] || die "$1: its payload is no ELF file"
}

fetch_firmware() {
    local kernel
    work=$out/.work-firmware
    manifest=MANIFEST.firmware
    rm -rf "$work" && mkdir -p "$work/debs" "$work/x"
    : >"$out/$manifest"
    # Debian 12: later ones have no kernel for i386.
    private_apt "$work/apt" bookworm amd64 i386
    export APT_CONFIG=$work/apt/apt.conf
    fetch u-boot-qemu
    fetch grub-rescue-pc
    fetch grub-invaders
    fetch memtest86+
    fetch ipxe
    fetch ipxe-qemu
    fetch xen-hypervisor-4.17-amd64
    take u-boot-qemu/usr/lib/u-boot/qemu-x86/u-boot.rom pc/u-boot-x86.rom
    take u-boot-qemu/usr/lib/u-boot/qemu-x86_64/u-boot.rom pc/u-boot-x86_64.rom
    take grub-rescue-pc/usr/lib/grub-rescue/grub-rescue-cdrom.iso pc/grub.iso
    take grub-rescue-pc/usr/lib/grub-rescue/grub-rescue-floppy.img pc/grub-floppy.img
    take grub-invaders/boot/invaders.exec pc/invaders
    take memtest86+/usr/lib/memtest86+/memtest86+x64.iso pc/memtest.iso
    take memtest86+/boot/memtest86+x64.bin pc/memtest
    take ipxe/usr/lib/ipxe/ipxe.iso pc/ipxe.iso
    take ipxe-qemu/usr/lib/ipxe/qemu/pxe-e1000.rom pc/pxe-e1000.rom
    take ipxe-qemu/usr/lib/ipxe/qemu/pxe-virtio.rom pc/pxe-virtio.rom
    gzip -dc "$work"/x/xen-hypervisor-4.17-amd64/boot/xen-4.17-amd64.gz >"$out/pc/xen"
    kernel=$(newest linux-image-686:i386)
    fetch "$kernel:i386"
    install -D -m 644 "$work/x/$kernel:i386"/boot/vmlinuz-* "$out/pc/linux-686"
    # The one for all machines: that for clouds cannot be Xen's first domain.
    kernel=$(newest linux-image-amd64:amd64)
    fetch "$kernel:amd64"
    install -D -m 644 "$work/x/$kernel:amd64"/boot/vmlinuz-* "$out/pc/linux-amd64"
    fetch busybox-static:i386
    take busybox-static:i386/bin/busybox pc/busybox-i386
    (cd "$out" && find pc -type f ! -name 'initrd*' -print0 | sort -z | xargs -0 sha256sum >FILES.firmware.new && mv FILES.firmware.new FILES.firmware)
    rm -rf "$work"
}

# The programs that resources/guest/programs runs, with what they depend on, unpacked over the links of a merged /usr.
fetch_userland() {
    work=$out/.work
    tree=$out/userland
    rm -rf "$work" "$tree" && mkdir -p "$work" "$tree.new"
    private_apt "$work/apt" $suite riscv64
    say "fetching riscv64 programs"
    APT_CONFIG=$work/apt/apt.conf retry apt-get install -qq -y -d --no-install-recommends bash coreutils gawk perl-base python3 \
        sqlite3 openssl lua5.4 jq >/dev/null
    for directory in bin sbin lib; do
        mkdir -p "$tree.new/usr/$directory"
        ln -sfn "usr/$directory" "$tree.new/$directory"
    done
    for deb in "$work"/apt/cache/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$deb" | tar -x --no-same-owner --keep-directory-symlink -C "$tree.new"
    done
    rm -rf "$tree.new"/usr/share/{doc,man,locale,info,bash-completion,zoneinfo,lintian} "$work"
    mv "$tree.new" "$tree"
}

# Drivers of emulated PC hardware: these, and what they need.
driver_modules() {
    echo 8139too 8139cp ne2k-pci ne pcnet32 e1000 e1000e cirrus bochs i6300esb ib700wdt iTCO_wdt \
        virtio_pci virtio_blk virtio_net virtio_scsi nvme sd_mod sr_mod ahci ata_piix crc32c_generic ext4
}

# Debian's amd64 kernel for all machines, and modules of it as files with their names in an order in which they can be loaded.
fetch_drivers() {
    local work=$out/.work-drivers kernel module seen=" "
    rm -rf "$work" "$out/drivers" && mkdir -p "$work/debs" "$work/x" "$work/drivers"
    private_apt "$work/apt" $suite amd64
    export APT_CONFIG=$work/apt/apt.conf
    kernel=$(apt-cache depends linux-image-amd64:amd64 | awk '/Depends: linux-image-[0-9]/ { print $2; exit }')
    say "fetching ${kernel%:*}"
    (cd "$work/debs" && retry apt-get download -qq "${kernel%:*}:amd64")
    dpkg-deb -x "$work"/debs/*.deb "$work/x"
    with_needs() {
        local name=${1//-/_} file need
        [[ $seen != *" $name "* ]] || return 0
        seen+="$name "
        file=$(find "$work/x" -name "${name//_/[-_]}.ko*" | head -n 1)
        [ -n "$file" ] || return 0
        case $file in
        *.xz) xz -dc "$file" ;;
        *) cat "$file" ;;
        esac >"$work/drivers/$name.ko"
        for need in $(tr '\0' '\n' <"$work/drivers/$name.ko" | sed -n 's/^depends=//p' | tr , ' '); do with_needs "$need"; done
        echo "$name" >>"$work/drivers/ORDER"
    }
    for module in $(driver_modules); do with_needs "$module"; done
    cp "$work"/x/boot/vmlinuz-* "$work/drivers/linux"
    chmod a+r "$work/drivers/linux"
    mv "$work/drivers" "$out/drivers"
    rm -rf "$work"
}

# A disk on which Debian is installed, without a kernel: that of group drivers starts it. Its file system is named "root", and its
# user root has the password "root". SUM has the SHA-256 of a file in it.
fetch_system() {
    local work=$out/.work-system tree=$out/system
    apt_install mmdebstrap e2fsprogs
    as_root rm -rf "$work"
    rm -rf "$tree" "$tree.new" && mkdir -p "$work" "$tree.new"
    say "installing Debian into a folder"
    # shellcheck disable=SC2016 # the hook's shell expands
    # What another group has fetched with is gone.
    as_root env -u APT_CONFIG mmdebstrap --quiet --variant=minbase --architectures=amd64 --include=systemd-sysv,udev,dbus \
        --aptopt='APT::Install-Recommends "false"' \
        --customize-hook='echo root:root | chroot "$1" chpasswd; echo rhea-guest >"$1/etc/hostname"
            echo "LABEL=root / ext4 defaults 0 1" >"$1/etc/fstab"
            # A guest under a loaded translator takes its time.
            mkdir -p "$1/etc/systemd/system.conf.d"
            printf "[Manager]\nDefaultTimeoutStartSec=1800\nDefaultDeviceTimeoutSec=1800\n" >"$1/etc/systemd/system.conf.d/slow.conf"
            find "$1/usr/lib/systemd/system" -type f -name "*.service" -exec sed -i "s/^\(Timeout[A-Za-z]*Sec\)=[0-9].*/\1=1800/" {} +
            sed -i /^LOGIN_TIMEOUT/d "$1/etc/login.defs"; echo "LOGIN_TIMEOUT 1800" >>"$1/etc/login.defs"
            for d in doc man locale info; do rm -rf "$1/usr/share/$d"; done' \
        $suite "$work/root" "$(mirror)"
    sha256sum <"$work/root/usr/bin/perl" | cut -c1-64 >"$tree.new/SUM"
    as_root mke2fs -q -t ext4 -L root -d "$work/root" "$work/disk.img" 768M
    as_root chown "$(id -u)" "$work/disk.img"
    mv "$work/disk.img" "$tree.new/disk.img"
    as_root rm -rf "$work"
    mv "$tree.new" "$tree"
}

# Debian's installer for PCs: its own kernel and initramfs.
fetch_installer() {
    local work=$out/.work-installer name=debian-installer-13-netboot-amd64 images file
    images=./usr/lib/debian-installer/images/13/amd64/text/debian-installer/amd64
    rm -rf "$work" && mkdir -p "$work/x" "$out/system"
    private_apt "$work/apt" $suite amd64
    say "fetching $name"
    (cd "$work" && APT_CONFIG=$work/apt/apt.conf retry apt-get download -qq $name)
    dpkg-deb --fsys-tarfile "$work/$name"_*.deb | tar -x -C "$work/x" "$images/linux" "$images/initrd.gz"
    for file in initrd.gz linux; do
        install -m 644 "$work/x/$images/$file" "$out/system/installer-$file"
    done
    rm -rf "$work"
}

# What the guests of the network's tests have: Debian's kernels with the modules they load, iperf3, socat and dropbear with their
# libraries, iPXE, and the host's passt of the same suite.
fetch_net() {
    work=$out/.work-net
    tree=$out/net
    rm -rf "$work" "$tree" "$tree.new" && mkdir -p "$work/debs" "$tree.new"
    private_apt "$work/apt" $suite riscv64 amd64
    export APT_CONFIG=$work/apt/apt.conf
    local arch name kernel deb package
    for arch in riscv64 amd64; do
        name=$([ $arch = amd64 ] && echo x86_64 || echo riscv64)
        kernel=$(apt-cache depends linux-image-$arch:$arch | awk '/Depends: linux-image-[0-9]/ { print $2; exit }')
        say "fetching ${kernel%:*} and programs for networks"
        rm -f "$work"/debs/*.deb
        (cd "$work/debs" && retry apt-get download -qq "${kernel%:*}:$arch" {iperf3,libiperf0,socat,dropbear-bin,libtomcrypt1,libtommath1,libgmp10,libcrypt1,libc6,libgcc-s1,libssl3t64,libsctp1,libwrap0,zlib1g,libzstd1}:$arch)
        mkdir -p "$work/x/$arch" "$tree.new/$name/modules" "$tree.new/$name"/root/usr/{bin,sbin,lib}
        for package in bin sbin lib; do ln -s usr/$package "$tree.new/$name/root/$package"; done
        ! [ $arch = amd64 ] || { mkdir "$tree.new/$name/root/usr/lib64" && ln -s usr/lib64 "$tree.new/$name/root/lib64"; }
        for deb in "$work"/debs/*.deb; do
            case ${deb##*/} in
            linux-image-*) dpkg-deb -x "$deb" "$work/x/$arch" ;;
            *) dpkg-deb --fsys-tarfile "$deb" | tar -x --no-same-owner --keep-directory-symlink -C "$tree.new/$name/root" ;;
            esac
        done
        rm -rf "$tree.new/$name"/root/usr/share "$tree.new/$name"/root/usr/lib/*-linux-gnu/gconv "$tree.new/$name"/root/usr/lib/*-linux-gnu/ossl-modules "$tree.new/$name"/root/usr/lib/*-linux-gnu/engines-3
        cp "$work/x/$arch"/boot/vmlinu[xz]-* "$tree.new/$name/linux"
        (cd "$work/x/$arch"/usr/lib/modules/*/kernel && find arch crypto lib drivers/net drivers/virtio fs/smb fs/netfs fs/nls net -name '*.ko*' \
            -not -path '*/wireless/*' -size -1200k -exec cp -t "$tree.new/$name/modules" {} +)
    done
    rm -f "$work"/debs/*.deb
    (cd "$work/debs" && retry apt-get download -qq ipxe passt:amd64)
    dpkg-deb -x "$work"/debs/ipxe_*.deb "$work/x/ipxe" && cp "$work"/x/ipxe/usr/lib/ipxe/ipxe.lkrn "$tree.new/x86_64/ipxe.lkrn"
    dpkg-deb -x "$work"/debs/passt_*.deb "$work/x/passt" && cp "$work"/x/passt/usr/bin/passt* "$tree.new/x86_64/"
    rm -rf "$work"
    mv "$tree.new" "$tree"
}

# What the long tests of user mode run, for each architecture a root of its own: tools, a compiler, debuggers, Python and its own
# tests, apt. No package's scripts run.
suite_packages() {
    echo bash dash coreutils sed grep gawk findutils diffutils perl python3 libpython3.13-testsuite gcc libc6-dev git tar gzip \
        xz-utils zstd bzip2 sqlite3 stress-ng gdb strace procps apt debian-archive-keyring file make ca-certificates
}

fetch_suites() {
    local arch name deb dir tree
    for arch in riscv64 i386 amd64; do
        name=$([ $arch = amd64 ] && echo x86_64 || echo $arch)
        tree=$out/suites/$name
        [ ! -e "$tree/usr/bin/gdb" ] || continue
        work=$out/.work-suites
        rm -rf "$work" "$tree" "$tree.new" && mkdir -p "$work" "$tree.new"
        private_apt "$work/apt" $suite $arch
        say "fetching $arch programs for user mode"
        # shellcheck disable=SC2046 # a list
        APT_CONFIG=$work/apt/apt.conf retry apt-get install -qq -y -d --no-install-recommends $(suite_packages) >/dev/null
        for dir in bin sbin lib; do mkdir -p "$tree.new/usr/$dir" && ln -s usr/$dir "$tree.new/$dir"; done
        ! [ $arch = amd64 ] || { mkdir "$tree.new/usr/lib64" && ln -s usr/lib64 "$tree.new/lib64"; }
        for deb in "$work"/apt/cache/archives/*.deb; do
            case ${deb##*/} in
            # What draws is never started; stress-ng is linked with the libraries in front of it all the same.
            libllvm* | mesa-* | libdrm-* | libegl-mesa* | libx11-data* | libz3*) continue ;;
            esac
            dpkg-deb --fsys-tarfile "$deb" | tar -x --no-same-owner --keep-directory-symlink -C "$tree.new" \
                --exclude=./usr/share/{doc,man,locale,info,zoneinfo}
        done
        mv "$tree.new" "$tree"
        rm -rf "$work"
    done
}

# Programs for user mode and what they load: no package's scripts run, so this is no system, but a root for `-L`.
user_packages() {
    echo libc6 libgcc-s1 libstdc++6 zlib1g libtinfo6 libselinux1 libpcre2-8-0 libacl1 libattr1 libgmp10 libmpfr6 libssl3t64 \
        libsigsegv2 libreadline8t64 libcrypt1 libexpat1 libsqlite3-0 libsystemd0 libcap2 libzstd1 liblzma5 libbz2-1.0 libffi8 \
        bash dash coreutils sed grep gawk perl-base python3-minimal python3.13-minimal libpython3.13-minimal \
        libpython3.13-stdlib sqlite3
}

i386_packages() {
    echo libc6 libgcc-s1 libstdc++6 zlib1g libtinfo6 libselinux1 libpcre2-8-0 libacl1 libattr1 libgmp10 libssl3t64 libcrypt1 \
        libcap2 libsystemd0 libzstd1 liblzma5 libbz2-1.0 libffi8 libexpat1 bash dash coreutils sed grep perl-base busybox-static \
        python3-minimal python3.13-minimal libpython3.13-minimal libpython3.13-stdlib
}

# fetch_root GROUP ARCHITECTURE PACKAGE...: unpacks packages into $out/ARCHITECTURE-root.
fetch_root() {
    local group=$1 arch=$2 dir deb names=() package
    shift 2
    work=$out/.work-$group
    local root=$work/root
    rm -rf "$work" "$out/$arch-root" && mkdir -p "$work/debs"
    private_apt "$work/apt" $suite "$arch"
    export APT_CONFIG=$work/apt/apt.conf
    for package in "$@"; do names+=("$package:$arch"); done
    say "fetching ${#names[@]} $arch packages for user mode"
    (cd "$work/debs" && retry apt-get download -qq "${names[@]}")
    mkdir -p "$root"/usr/{bin,lib,sbin}
    for dir in bin lib sbin; do ln -s usr/$dir "$root/$dir"; done
    : >"$out/MANIFEST.$group"
    for deb in "$work"/debs/*.deb; do
        dpkg-deb -x "$deb" "$root"
        echo "$(dpkg-deb -W --showformat='${Package} ${Architecture} ${Version}' "$deb") $(sha256sum <"$deb" | cut -c1-64)" >>"$out/MANIFEST.$group"
    done
    rm -rf "$root"/usr/share/{doc,man,info,locale,lintian,bug,gcc} "$root"/usr/lib/*-linux-gnu/gconv
    mv "$root" "$out/$arch-root"
    (cd "$out" && find "$arch-root" -type f -print0 | sort -z | xargs -0 sha256sum >FILES.$group.new && mv FILES.$group.new FILES.$group)
    rm -rf "$work"
}

# checked LIST: the files of a list are there and unchanged.
checked() { (cd "$out" && [ -s "$1" ] && sha256sum --check --quiet --strict "$1" >/dev/null 2>&1); }

if [[ $groups == *" user "* ]] && ! checked FILES.user; then
    # shellcheck disable=SC2046 # a list
    fetch_root user riscv64 $(user_packages)
fi
if [[ $groups == *" i386 "* ]] && ! checked FILES.i386; then
    # shellcheck disable=SC2046 # a list
    fetch_root i386 i386 $(i386_packages)
fi
if [[ $groups == *" firmware "* ]] && ! checked FILES.firmware; then
    fetch_firmware
fi
if [[ $groups == *" net "* ]] && [ ! -e "$out/net/x86_64/ipxe.lkrn" ]; then
    fetch_net
fi
if [[ $groups == *" suites "* ]]; then
    fetch_suites
fi
if [[ $groups == *" userland "* ]] && [ ! -e "$out/userland/usr/bin/python3" ]; then
    fetch_userland
fi
if [[ $groups == *" drivers "* ]] && [ ! -e "$out/drivers/ext4.ko" ]; then
    fetch_drivers
fi
if [[ $groups == *" system "* ]] && [ ! -e "$out/system/disk.img" ]; then
    fetch_system
fi
if [[ $groups == *" system "* ]] && [ ! -e "$out/system/installer-linux" ]; then
    fetch_installer
fi
if [[ $groups == *" boot "* ]] && ! checked FILES; then
    fetch_all
fi

# The initramfs is ours: made again whenever its parts change, and put in place whole, as a guest may be reading it.
initramfs() { # BUSYBOX OUT
    [ -e "$1" ] || return 0
    "$mkinitrd" "$2.new" resources/guest/init "$1"
    if [ -e "$2.gz" ] && cmp -s "$2.new" "$2"; then
        rm "$2.new"
    else
        gzip -9 --no-name --keep --force "$2.new"
        mv "$2.new.gz" "$2.gz"
        mv "$2.new" "$2"
    fi
}
cargo build --quiet --package rhea_tests --bin mkinitrd
mkinitrd=${CARGO_TARGET_DIR:-target}/debug/mkinitrd
for arch in riscv64 x86_64; do
    initramfs "$out/$arch/busybox" "$out/$arch/initrd"
done
initramfs "$out/pc/busybox-i386" "$out/pc/initrd-i386"
# And the kernel inside its package's, for loaders that take ELF files.
if command -v zstd >/dev/null && [[ $groups == *" firmware "* && -e $out/x86_64/linux && ! $out/x86_64/vmlinux -nt $out/x86_64/linux ]]; then
    unpacked_kernel "$out/x86_64/linux" "$out/x86_64/vmlinux"
fi

