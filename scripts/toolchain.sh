# shellcheck shell=bash
# Which Rust toolchain? The one rust-toolchain.toml pins, or, on a machine without network that lacks it, another
# installed one that is new enough. Sourced; sets RUSTUP_TOOLCHAIN only in the second case.

choose_toolchain() {
    local wanted have root
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    (cd "$root" && cargo --version >/dev/null 2>&1) && return 0
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
    for candidate in stable $(rustup toolchain list 2>/dev/null | awk '{print $1}'); do
        have=$(RUSTUP_TOOLCHAIN=$candidate cargo --version 2>/dev/null | awk '{print $2}') || continue
        [[ $have == *nightly* || -z $have ]] && continue
        if [[ $(printf '%s\n' "$wanted" "$have" | sort -V | head -1) == "$wanted" ]]; then
            echo "note: the pinned Rust is not installed and cannot be fetched; using $candidate ($have)" >&2
            export RUSTUP_TOOLCHAIN=$candidate
            return 0
        fi
    done
    echo "error: no Rust toolchain of at least $wanted; run \`rustup toolchain install\` in $root" >&2
    return 1
}

choose_toolchain
