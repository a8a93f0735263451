#!/bin/bash
# cross-check.sh [TARGET...]: clippy over the workspace, warnings as errors, for hosts other than this one. Nothing is linked or
# run, so no foreign linker or SDK is needed; only std for each host is, and it is built here with this very rustc.
# Everything made is kept under build/cross/<rustc version> and reused until rustc changes.
#   RHEA_RUST_SRC=FILE   an archive with library/ at its top, instead of Debian's rust-src package
set -euo pipefail
cd "$(dirname "$0")/../.."
. resources/scripts/lib.sh
targets=("$@")
[ $# -gt 0 ] || targets=(aarch64-unknown-linux-gnu aarch64-apple-darwin x86_64-pc-windows-gnu)

unset RUSTC_BOOTSTRAP RUSTFLAGS RUSTC RUSTC_WRAPPER CARGO_BUILD_TARGET
host=$(rustc -vV | sed -n 's/^host: //p')
version=$(rustc -vV | sed -n 's/^release: //p')
mkdir -p "build/cross/$version-$host"
work=$(cd "build/cross/$version-$host" && pwd)

# The std sources of exactly this rustc.
if [ ! -e "$work/library/std/Cargo.toml" ]; then
    installed_src=$(rustc --print sysroot)/lib/rustlib/src/rust/library
    archive=${RHEA_RUST_SRC:-../shared/hosts/rust-src-$version-library.tar.zst}
    if [ -e "$installed_src/std/Cargo.toml" ]; then
        cp -a "$installed_src" "$work/library"
    elif [ -e "$archive" ]; then
        say "std sources from $archive"
        command -v zstd >/dev/null || apt_install zstd
        tar xf "$archive" -C "$work"
    else
        say "std sources of $version from Debian's rust-src"
        found=
        for suite in trixie-backports forky sid; do
            private_apt "$work/apt-$suite" $suite amd64
            found=$(APT_CONFIG=$work/apt-$suite/apt.conf apt-cache madison rust-src | awk -v v="$version+" 'index($3, v) == 1 { print $3; exit }')
            [ -z "$found" ] || break
        done
        [ -n "$found" ] || die "Debian has no rust-src $version; give its library/ as RHEA_RUST_SRC=FILE"
        (cd "$work" && APT_CONFIG=$work/apt-$suite/apt.conf apt-get download -qq "rust-src=$found")
        dpkg --fsys-tarfile "$work"/rust-src_*.deb | tar x -C "$work" --strip-components=4 --wildcards './usr/src/rustc-*/library/*'
        rm -f "$work"/rust-src_*.deb
    fi
fi

# A toolchain of our own beside the installed one, which stays as it is: hard links, so it takes no room.
if [ ! -x "$work/toolchain/bin/cargo" ]; then
    sysroot=$(rustc --print sysroot)
    rm -rf "$work/toolchain" && mkdir -p "$work/toolchain"
    cp -al "$sysroot/bin" "$sysroot/lib" "$work/toolchain/" 2>/dev/null ||
        { rm -rf "$work/toolchain" && mkdir -p "$work/toolchain" && cp -a "$sysroot/bin" "$sysroot/lib" "$work/toolchain/"; }
fi

# A target that the installed toolchain already had came along with it.
missing=()
for target in "${targets[@]}"; do
    compgen -G "$work/toolchain/lib/rustlib/$target/lib/libcore-*.rlib" >/dev/null || missing+=("$target")
done
if [ ${#missing[@]} -gt 0 ]; then
    case " ${missing[*]} " in *windows-gnu*) resources/scripts/deps.sh cross ;; esac
    say "building std for ${missing[*]}"
    empty=$work/empty
    mkdir -p "$empty/src"
    printf '[package]\nname = "empty"\nversion = "0.0.0"\nedition = "2024"\n[workspace]\n' >"$empty/Cargo.toml"
    echo '#![no_std]' >"$empty/src/lib.rs"
    # std's panic_abort must itself be built to abort, or crates built with panic = "abort" are refused.
    cat >"$work/rustc-wrapper" <<'WRAP'
#!/bin/bash
case " $* " in
*" --crate-name panic_abort "*) exec "$@" -Cpanic=abort ;;
*) exec "$@" ;;
esac
WRAP
    chmod +x "$work/rustc-wrapper"
    arguments=()
    for target in "${missing[@]}"; do arguments+=(--target "$target"); done
    (
        cd "$empty"
        export RUSTC_BOOTSTRAP=1 __CARGO_TESTS_ONLY_SRC_ROOT=$work/library
        export RUSTC=$work/toolchain/bin/rustc RUSTC_WRAPPER=$work/rustc-wrapper
        export RUSTFLAGS="-Copt-level=0 -Cembed-bitcode=no -Cdebug-assertions=no" CARGO_TARGET_DIR=$empty/target
        "$work/toolchain/bin/cargo" build --quiet --release -Zbuild-std=std,panic_abort,proc_macro,test "${arguments[@]}"
    )
    for target in "${missing[@]}"; do
        lib=$work/toolchain/lib/rustlib/$target/lib
        rm -rf "$lib.new" "$lib" && mkdir -p "$lib.new"
        cp "$empty/target/$target"/release/deps/lib*.rlib "$lib.new/"
        mv "$lib.new" "$lib"
    done
    rm -rf "$empty"
fi

# From here on these are plain stable commands; no rustup proxy is involved.
export PATH="$work/toolchain/bin:$PATH" CARGO_TARGET_DIR=$work/target
failed=0
for target in "${targets[@]}"; do
    say "clippy for $target"
    # Crates that build C for the target do it in vain: nothing is linked here, and there is no compiler for it.
    export "CC_${target//-/_}=true" "AR_${target//-/_}=true" "RANLIB_${target//-/_}=true"
    cargo clippy --quiet --keep-going --locked --workspace --target "$target" -- -D warnings || failed=$((failed + 1))
done
echo "cross-check: $((${#targets[@]} - failed)) passed, $failed failed, 0 skipped"
[ "$failed" = 0 ]
