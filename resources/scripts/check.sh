#!/bin/bash
# check.sh: what must hold before anything is run. Stops at the first kind of failure.
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo fmt --all --check
cargo clippy --quiet --keep-going --locked --workspace --all-targets --all-features -- -D warnings
cargo run --quiet --locked --package rhea_tests --bin licences
echo "check: 3 passed, 0 failed, 0 skipped"
