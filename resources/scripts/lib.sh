# Shared by the scripts here; sourced, never run. Debian only: apt and dpkg are taken for granted.

die() { echo "${0##*/}: $*" >&2; exit 1; }
say() { echo "== $*" >&2; }

# What asks the network may fail for a while: three tries, then status 75 (EX_TEMPFAIL), by which a caller can tell an archive
# that cannot be reached from a fault of ours.
NO_NETWORK=75
retry() {
    local try
    for try in 1 2 3; do
        "$@" && return 0
        [ "$try" = 3 ] || { say "failed, trying again: $*" && sleep $((try * 10)); }
    done
    say "given up: $*"
    return "$NO_NETWORK"
}

# The Debian archive this machine already uses; nothing here names a server.
mirror() {
    if [ -n "${RHEA_MIRROR:-}" ]; then
        echo "$RHEA_MIRROR"
        return
    fi
    # shellcheck disable=SC2016 # apt expands the format
    apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | sort -u | grep -m1 '/debian/*$' ||
        die "no Debian archive in apt's sources; set RHEA_MIRROR to one"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "must be root (or have sudo) for: $*"
    fi
}

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# apt_install [-t SUITE] PACKAGE...: what is missing of the packages; nothing is asked of the network when all are there.
apt_install() {
    local suite=() missing=() package
    if [ "$1" = -t ]; then
        suite=(-t "$2")
        shift 2
    fi
    for package in "$@"; do
        installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing ${missing[*]}"
    local stamp=/var/lib/apt/lists/.rhea-updated
    if [ -z "$(find "$stamp" -mmin -720 2>/dev/null)" ]; then
        # One source that cannot be reached need not be the one that is needed.
        retry as_root apt-get update -qq || say "apt-get update had errors, going on"
        as_root touch "$stamp"
    fi
    retry as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${suite[@]}" "${missing[@]}" \
        >/dev/null || die "apt-get could not install ${missing[*]}"
}

# private_apt DIR SUITE ARCH...: an apt of its own under DIR that knows SUITE for these architectures. Signatures are checked
# against Debian's archive keyring, the machine's own apt state is not touched, and no root is needed.
private_apt() {
    local dir=$1 suite=$2 keyring=/usr/share/keyrings/debian-archive-keyring.gpg arches
    shift 2
    [ -e "$keyring" ] || apt_install debian-archive-keyring
    mkdir -p "$dir"/state/lists/partial "$dir"/cache/archives/partial "$dir"/log
    : >"$dir/state/status"
    echo "deb [signed-by=$keyring] $(mirror) $suite main" >"$dir/sources.list"
    arches=$(printf '"%s"; ' "$@")
    cat >"$dir/apt.conf" <<CONF
Dir::State "$dir/state"; Dir::State::status "$dir/state/status"; Dir::Cache "$dir/cache"; Dir::Log "$dir/log";
Dir::Etc::SourceList "$dir/sources.list"; Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null"; Dir::Etc::PreferencesParts "/dev/null";
APT::Architecture "$1"; APT::Architectures { $arches };
APT::Sandbox::User "$(id -un)"; Acquire::Languages "none"; Acquire::Retries "3"; Debug::NoLocking "true";
CONF
    # Without the mode a list that did not arrive is only warned of, and a package is missing later.
    retry env APT_CONFIG="$dir/apt.conf" apt-get update -qq -o APT::Update::Error-Mode=any
}
