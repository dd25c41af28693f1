#!/usr/bin/env bash
# What does this machine lack for a verb, and where does it come from?
#
#   scripts/setup.sh GROUP…        groups: rust, tests, demo, deny
#
# Looks first; calls apt, rustup or cargo only for what is missing, so a machine that has run once works offline.
# Needs root or sudo only when a package is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "setup: $*" >&2; }
fail() { echo "error: $*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# A rustup that was installed a moment ago is not on the PATH of the shell that called us; mkfs and friends often are not either.
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH:/usr/sbin:/sbin"

# Command → Debian package, for every group; behind a `|` the package that has it in an older release.
declare -A PACKAGES=(
    [rust]="cc=gcc ld=binutils"
    [tests]="nbdkit=nbdkit qemu-img=qemu-utils qemu-io=qemu-utils qemu-nbd=qemu-utils qemu-storage-daemon=qemu-utils|qemu-system-common nbdinfo=libnbd-bin nbdcopy=libnbd-bin fio=fio jq=jq mkfs.xfs=xfsprogs"
    [demo]="qemu-img=qemu-utils nbdcopy=libnbd-bin mkfs.ext4=e2fsprogs e2fsck=e2fsprogs debugfs=e2fsprogs jq=jq"
    [deny]=""
)

as_root() {
    if [[ $(id -u) == 0 ]]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        fail "packages are missing and this is neither root nor is sudo there; as root, type: $*"
    fi
}

apt_install() {
    have apt-get || fail "these are missing and this is not Debian: $*; install them and run again"
    say "installing with apt: $*"
    # An index that is a few days old often still serves; refresh it only when it does not.
    # Never at the price of a package that is there: somebody needs it.
    local how=(apt-get install -y -q --no-install-recommends --no-remove)
    if ! as_root env DEBIAN_FRONTEND=noninteractive "${how[@]}" "$@" >&2; then
        as_root apt-get update -q >&2 || true
        as_root env DEBIAN_FRONTEND=noninteractive "${how[@]}" "$@" >&2 ||
            fail "apt could not install: $*"
    fi
}

# packages_missing ROUND GROUP… : what to install for commands that are not there; in round 2 by its older name.
packages_missing() {
    local round=$1 group pair names missing=()
    shift
    for group in "$@"; do
        for pair in ${PACKAGES[$group]}; do
            have "${pair%%=*}" && continue
            IFS='|' read -ra names <<<"${pair#*=}"
            missing+=("${names[$((round - 1))]:-${names[0]}}")
        done
    done
    # The C library's headers come without a command of their own.
    [[ -e /usr/include/stdio.h ]] || missing+=(libc6-dev)
    printf '%s\n' "${missing[@]}" | sed '/^$/d' | sort -u
}

rust_install() {
    have cargo && return 0
    have rustup && return 0
    # Debian 13 packages rustup; Debian 12 packages neither it nor a Rust that is new enough.
    if [[ -n $(apt-cache madison rustup 2>/dev/null) ]]; then
        apt_install rustup
    else
        have curl || apt_install curl ca-certificates
        local triple url dir
        triple="$(uname -m)-unknown-linux-gnu"
        url="https://static.rust-lang.org/rustup/dist/$triple/rustup-init"
        dir=$(mktemp -d)
        say "fetching $url"
        if ! { curl --proto '=https' --tlsv1.2 -fsS -o "$dir/rustup-init" "$url" &&
            curl --proto '=https' --tlsv1.2 -fsS "$url.sha256" | awk '{print $1"  '"$dir"'/rustup-init"}' | sha256sum -c --quiet -; }; then
            rm -rf "$dir"
            fail "Rust is missing and $url cannot be fetched whole; install Rust $(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml) (https://rustup.rs) and run again"
        fi
        chmod +x "$dir/rustup-init"
        "$dir/rustup-init" -y -q --no-modify-path --profile minimal --default-toolchain none >&2
        rm -rf "$dir"
    fi
}

toolchain_install() {
    # A working cargo in this directory has the pinned version or none is pinned for it (a distribution's own).
    if have rustup && ! cargo --version >/dev/null 2>&1; then
        say "installing the Rust that rust-toolchain.toml pins"
        rustup toolchain install >&2 || true
    fi
    # shellcheck source=scripts/toolchain.sh
    source scripts/toolchain.sh
    local component
    for component in fmt clippy; do
        cargo "$component" --version >/dev/null 2>&1 || fail "cargo $component is missing; type: rustup component add rustfmt clippy"
    done
}

deny_install() {
    cargo deny --version >/dev/null 2>&1 && return 0
    say "building cargo-deny (once, some minutes)"
    cargo install --locked --quiet cargo-deny >&2 ||
        say "cargo-deny could not be installed; licences and sources will not be checked"
}

for group in "$@"; do
    [[ -v PACKAGES[$group] ]] || fail "setup.sh knows no group \`$group\`; it knows: ${!PACKAGES[*]}"
done
for round in 1 2; do
    mapfile -t missing < <(packages_missing $round "$@")
    [[ ${#missing[@]} == 0 ]] || apt_install "${missing[@]}"
done
rust_install
toolchain_install
for group in "$@"; do
    if [[ $group == deny ]]; then deny_install; fi
    if [[ $group == tests ]] && ! scripts/qemu.sh; then
        as_root apt-get update -q >&2 || true
        scripts/qemu.sh || fail "the tests' virtual machines need qemu-system-x86_64; install it and run again"
    fi
done
