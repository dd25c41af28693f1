# shellcheck shell=bash
# How do the steps of a verb report? Sourced by check.sh and test.sh.

passed=0
failed=0
failures=()
skips=()

# step NAME COMMAND… : runs it, counts it, goes on either way.
step() {
    local name=$1 begin=$SECONDS
    shift
    echo "── $name"
    if "$@"; then
        passed=$((passed + 1))
        echo "── $name: ok, $((SECONDS - begin)) s"
    else
        failed=$((failed + 1))
        failures+=("$name")
        echo "── $name: FAILED, $((SECONDS - begin)) s: $*"
        return 0
    fi
}

# skip NAME REASON : this machine cannot; said again at the end.
skip() {
    skips+=("$1: $2")
    echo "── $1: not run: $2"
}

# steps_end VERB : what failed, what was not run, and the count as the last line.
steps_end() {
    local line
    for line in "${skips[@]}"; do echo "$1: not run: $line"; done
    for line in "${failures[@]}"; do echo "$1: failed: $line"; done
    echo "$1: $SECONDS s"
    echo "$passed passed, $failed failed"
    [[ $failed == 0 ]]
}
