#!/usr/bin/env bash
# Is the source in order, without running it? Format, lints, licences, documentation.
#
# Prints one line per step and a count at the end; exit 1 when a step failed. test.sh runs the same steps by sourcing this.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/toolchain.sh
source scripts/steps.sh

check_steps() {
    step "format" cargo fmt --all --check
    step "clippy" cargo clippy --release --workspace --all-targets -- -D warnings
    if cargo deny --version >/dev/null 2>&1; then
        step "licences, bans, sources" cargo deny --log-level error check bans licenses sources
    else
        skip "licences, bans, sources" "cargo-deny is missing and could not be installed (cargo install --locked cargo-deny)"
    fi
    step "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --release --no-deps --workspace
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
    check_steps
    steps_end "make check"
fi
