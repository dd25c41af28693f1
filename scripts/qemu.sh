#!/usr/bin/env bash
# Where is a qemu-system-x86_64 for the tests' virtual machines? On the PATH, or below target/qemu.
#
# Nothing is installed: Debian's qemu-system-common and the qemu-utils of backports push each other out, and whoever has
# one of them needs it. The packages are fetched as any user and unpacked beside the build.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v qemu-system-x86_64 >/dev/null 2>&1 && exit 0
dir=target/qemu
# Its libraries may have been the system's own when it was unpacked, and be gone since: whether it runs is what counts.
runs() { LD_LIBRARY_PATH=$dir/usr/lib/$(uname -m)-linux-gnu "$dir/usr/bin/qemu-system-x86_64" --version >/dev/null 2>&1; }
runs && exit 0
command -v apt-get >/dev/null 2>&1 || { echo "setup: no qemu-system-x86_64, and this is not Debian" >&2; exit 1; }

# What apt would install, and nothing that is there already.
wanted=$(apt-get -s install --no-install-recommends qemu-system-x86 seabios 2>/dev/null |
    sed -nE 's/^Inst ([^ ]+) .*\(([^ ]+) .*/\1=\2/p')
[[ -n $wanted ]] || { echo "setup: apt does not know qemu-system-x86; try: apt-get update" >&2; exit 1; }
fetched=$(mktemp -d)
trap 'rm -rf "$fetched"' EXIT
echo "setup: unpacking qemu-system-x86_64 into $dir" >&2
# shellcheck disable=SC2086 # one word per package
(cd "$fetched" && apt-get download -q $wanted >&2)
rm -rf "$dir.new"
mkdir -p "$dir.new"
for package in "$fetched"/*.deb; do dpkg -x "$package" "$dir.new"; done
rm -rf "$dir"
mv "$dir.new" "$dir"
runs || { echo "setup: the unpacked qemu-system-x86_64 does not run" >&2; exit 1; }
