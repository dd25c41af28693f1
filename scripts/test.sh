#!/usr/bin/env bash
# Does everything hold that this machine can check? Every step of check.sh, then build, tests, simulator and demo.
#
# POOLD_TESTS=all: every case of the forced switch too, with a table of them; the tests run a sample.
# Last line: `N passed, N failed`, counting each test and each step. Exit 1 when anything failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/check.sh

SEEDS=${SEEDS:-20000}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Tests count one by one. Both runners print their result lines in a form that has been stable for years.
run_tests() {
    local status=0 ok bad
    echo "── tests"
    local -x POOLD_TESTS=sample
    if cargo nextest --version >/dev/null 2>&1; then
        NEXTEST_HIDE_PROGRESS_BAR=1 cargo nextest run --release --workspace 2>&1 | tee "$log" || status=$?
        ok=$(sed -nE 's/.*Summary .* ([0-9]+) passed.*/\1/p' "$log" | tail -1)
        bad=$(sed -nE 's/.*Summary .* ([0-9]+) failed.*/\1/p' "$log" | tail -1)
    else
        cargo test --release --workspace --no-fail-fast --lib --bins --tests 2>&1 | tee "$log" || status=$?
        ok=$(sed -nE 's/^test result: .* ([0-9]+) passed; .*/\1/p' "$log" | awk '{n+=$1} END{print n+0}')
        bad=$(sed -nE 's/^test result: .* ([0-9]+) failed; .*/\1/p' "$log" | awk '{n+=$1} END{print n+0}')
    fi
    passed=$((passed + ${ok:-0}))
    failed=$((failed + ${bad:-0}))
    if [[ $status != 0 ]]; then
        failures+=("tests (see above)")
        # A runner that ended badly without naming a test (it could not build one, or was killed) is a failure too.
        [[ ${bad:-0} != 0 ]] || failed=$((failed + 1))
    fi
}

tests_all() {
    check_steps
    step "build" cargo build --release --workspace --bins
    if [[ " ${failures[*]} " == *" build "* ]]; then
        skip "tests, simulator, demo" "the build failed"
        return 0
    fi
    run_tests
    if [[ ${POOLD_TESTS:-} == all ]]; then
        step "forced switches, all cases" cargo test --release -p tests --test acceptance -- forced --nocapture
    fi
    step "documentation tests" cargo test --release --workspace --doc --quiet
    step "museum, a sample" cargo test --release --quiet -p sim --features museum --test museum
    step "simulator, $SEEDS seeds" cargo run --release --quiet -p sim -- --seeds "$SEEDS"
    step "demo" scripts/demo.sh
}

tests_all
steps_end "make test"
