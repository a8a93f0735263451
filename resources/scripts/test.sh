#!/bin/bash
# test.sh: everything a change must pass, on a Debian machine with nothing but a Rust toolchain. What is missing is installed.
# The last line is `N passed, N failed, N skipped` over all suites; what was skipped is listed above it with its reason.
set -uo pipefail
cd "$(dirname "$0")/../.."
mkdir -p build
log=build/test.log
: >"$log"
status=0

# stage NAME COMMAND...: runs it, keeps going after a failure so that one run shows every fault.
stage() {
    local name=$1 start=$SECONDS before
    before=$(wc -l <"$log")
    shift
    echo "== $name"
    if "$@" 2>&1 | tee -a "$log"; then
        echo "== $name: ok, $((SECONDS - start)) s"
    else
        echo "== $name: FAILED, $((SECONDS - start)) s"
        # The suites of a stage count their own failures; one that ended before it could counts as one.
        grep -qE '[1-9][0-9]* failed' <(tail -n "+$((before + 1))" "$log") || echo "$name: 0 passed, 1 failed, 0 skipped" >>"$log"
        status=1
    fi
}

# Tests that need a real guest skip themselves when there is none: an archive that cannot be reached now is no fault of the
# change under test, whatever else goes wrong here is.
fetch_guests() {
    local code=0
    resources/scripts/guests.sh || code=$?
    [ "$code" = 75 ] || return "$code"
    echo "SKIPPED: fetching guests: Debian's archive could not be reached"
}

fetched_guests() {
    cat build/guests.log
    return "$fetched"
}

resources/scripts/deps.sh build test pc || exit 1
# Beside the compiler: the one waits for the network, the other for the processor.
fetch_guests >build/guests.log 2>&1 &
guests=$!
stage check resources/scripts/check.sh
# The binary of the boots is built with the tests, so that both share all they are made of: a release build would take as long as
# all tests together, and would not check for overflow.
export PROFILE=dev RHEA_BIN=${CARGO_TARGET_DIR:-$PWD/target}/debug/rhea
stage build cargo build --quiet --locked --workspace --bins --tests
wait "$guests"
fetched=$?
stage guests fetched_guests
stage tests cargo test --locked --workspace --no-fail-fast
stage cross-check resources/scripts/cross-check.sh

echo
grep -a '^SKIPPED: ' "$log" | sort | uniq -c | sed 's/^ *1 SKIPPED/SKIPPED/' || true
# A test that skips itself returns normally, so libtest counts it as passed: take those out again.
awk '
    /^SKIPPED: / { skipped++; self++ }
    match($0, /[0-9]+ passed[;,] [0-9]+ failed[;,] [0-9]+ (ignored|skipped)/) {
        split(substr($0, RSTART, RLENGTH), n, /[^0-9]+/)
        passed += n[1]; failed += n[2]; skipped += n[3]
    }
    END { printf "%d passed, %d failed, %d skipped\n", passed - self, failed, skipped }
' "$log"
exit "$status"
