#!/bin/bash
# run.sh RHEA GUESTS ARCH: boots Debian's kernel and busybox from GUESTS to a shell on this terminal. Ctrl-A x leaves.
set -euo pipefail
cd "$(dirname "$0")/../.."
. resources/scripts/lib.sh
rhea=$1 guest=$2/$3 arch=$3
common=(-smp 2 -m 512 -nographic -no-reboot -kernel "$guest/linux" -initrd "$guest/initrd.gz"
    -append 'console=ttyS0 panic=-1 quiet guest.shell')
case $arch in
x86_64)
    resources/scripts/deps.sh pc
    exec "$rhea" run --arch x86_64 -M q35 "${common[@]}"
    ;;
riscv64) exec "$rhea" run --arch riscv64 -M virt -bios "$guest/fw_dynamic.bin" "${common[@]}" ;;
*) die "ARCH=$arch: there are guests for x86_64 and riscv64" ;;
esac
