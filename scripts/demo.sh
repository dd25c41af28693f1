#!/usr/bin/env bash
# What is this good for? The main job, on three hosts that are three pairs of daemons on loopback addresses.
#
# A volume with two replicas gets a real file system through a stock NBD client, and is moved to the third host while it
# is written and verified. Then a host's marsd is killed and comes back. In the end all replicas are the same, and so
# are all files. Needs no root, uses only loopback, leaves nothing behind. Last line: `demo: ok`, exit 0.
#
#   scripts/demo.sh          (make demo builds first)
#   DEMO_KEEP=1              keep state and logs of the hosts
#   POOLD_BIN_DIR=DIR        use these programs
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin"

# Progress and tables follow the terminal; the daemons' logs are files.
daemon_env=(env -u RUST_LOG NO_COLOR=1)

bin=${POOLD_BIN_DIR:-${CARGO_TARGET_DIR:-target}/release}
[[ $bin == /* ]] || bin=$(pwd)/$bin

# Disks and logs belong on a disk; /tmp is memory on Debian 13.
work=$(mktemp -d /var/tmp/poold-demo.XXXXXX)

image_mib=128     # the file system, at the volume's beginning
files_mib=64      # files in it
region_mib=32     # each verified writer has so much behind it
volume_mib=$((image_mib + 2 * region_mib))

# ── how things are said and cleaned up ──────────────────────────────────────────────────────────────────────────────

if [[ -t 1 ]]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' dim='' plain=''; fi

chapter() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
fail() { echo "demo: failed: $*" >&2; exit 1; }

# Everything that was started, by name, so that it can be ended one by one.
declare -A pids=()

clean_up() {
    local status=$? name
    trap - EXIT INT TERM
    # Daemons may say good-bye; a writer that is still here would only try to reach them.
    for name in "${!pids[@]}"; do
        if [[ $name == writer-* ]]; then kill -9 "${pids[$name]}" 2>/dev/null || true; else kill "${pids[$name]}" 2>/dev/null || true; fi
    done
    for name in "${!pids[@]}"; do
        for _ in {1..50}; do kill -0 "${pids[$name]}" 2>/dev/null || break; sleep 0.1; done
        kill -9 "${pids[$name]}" 2>/dev/null || true
    done
    wait 2>/dev/null || true
    if [[ $status != 0 && $status != 130 && $status != 143 ]]; then
        for name in "$work"/*/*.log; do
            [[ -s $name ]] && { echo "── end of ${name#"$work"/}"; tail -n 15 "$name"; } >&2
        done
    fi
    [[ $status == 0 ]] || echo "demo: failed" >&2
    if [[ -n ${DEMO_KEEP:-} ]]; then echo "kept: $work"; else rm -rf "$work"; fi
    [[ $status != 0 ]] || echo "demo: ok"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# until_true SECONDS WHAT COMMAND… : asks until it is so.
until_true() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || fail "$what did not happen"
        sleep 0.1
    done
}

# on HOST COMMAND… : what an administrator types there.
on() {
    local host=$1 shown
    shift
    # A token is long, and a secret.
    shown=$(sed -E 's/(--token) [^ ]+/\1 …/' <<<"$*")
    printf '%s%s#%s poolctl %s\n' "$dim" "$host" "$plain" "$shown"
    POOLCTL_SOCKET=$work/$host/run/api.sock "$bin/poolctl" "$@"
}

# ask HOST COMMAND… : the same for the script itself, without showing it.
ask() {
    local host=$1
    shift
    POOLCTL_SOCKET=$work/$host/run/api.sock "$bin/poolctl" "$@" 2>/dev/null
}

# ── three hosts ─────────────────────────────────────────────────────────────────────────────────────────────────────

# Ports outside the range from which the kernel gives them to clients.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 10000))
        [[ -n ${ports_taken[$port]:-} ]] && continue
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && continue
        ports_taken[$port]=1
        reply=$port
        return
    done
}
declare -A ports_taken=() peer_port=() api_port=()

start_marsd() {
    local host=$1
    "${daemon_env[@]}" MARSD_CONFIG="$work/$host/marsd.toml" MARSD_STATE_DIR="$work/$host/marsd" \
        MARSD_RUN_DIR="$work/$host/run" MARSD_LISTEN="127.0.0.1:${peer_port[$host]}" \
        "$bin/marsd" >>"$work/$host/marsd.log" 2>&1 &
    pids[marsd-$host]=$!
}

start_poold() {
    local host=$1
    "${daemon_env[@]}" POOLD_CONFIG="$work/$host/poold.toml" POOLD_NODE="$host" POOLD_STATE_DIR="$work/$host/poold" \
        POOLD_API_SOCK="$work/$host/run/api.sock" POOLD_LISTEN="127.0.0.1:${api_port[$host]}" \
        POOLD_MARSD_CONTROL="$work/$host/run/control.sock" POOLD_MARSD_PEER="127.0.0.1:${peer_port[$host]}" \
        "$bin/poold" >>"$work/$host/poold.log" 2>&1 &
    pids[poold-$host]=$!
}

start_host() {
    local host=$1
    mkdir -p "$work/$host"/{marsd,poold,run}
    free_port; peer_port[$host]=$reply
    free_port; api_port[$host]=$reply
    start_marsd "$host"
    start_poold "$host"
}

host_answers() { ask "$1" pool show; }

# ── a file system with real files ───────────────────────────────────────────────────────────────────────────────────

make_image() {
    local bytes=0 size path
    mkdir "$work/files"
    # Regular files that we may read, in a fixed order, until there are enough; machines without documentation have
    # other things in /usr.
    while IFS= read -r -d '' size && IFS= read -r -d '' path; do
        ((bytes += size, bytes < files_mib << 20)) || break
        printf '%s\0' "$path"
    done < <(find /usr/share/doc /usr/share /usr/lib -xdev -type f -readable -size -4M -printf '%s\0%p\0' 2>/dev/null) >"$work/list"
    sort -zu "$work/list" | sed -z 's|^/||' | tar -C / --null -T - -cf - | tar -C "$work/files" -xf -
    (cd "$work/files" && find . -type f -print0 | sort -z | xargs -0 sha256sum) >"$work/sums"
    mkfs.ext4 -q -F -L demo -d "$work/files" "$work/image" "${image_mib}M" >/dev/null
    echo "$(wc -l <"$work/sums") files in an ext4 image of $image_mib MiB, sha256 of each noted"
}

# Everything in the image, read back and compared with what went in.
check_image() {
    local image=$1 right
    truncate -s "${image_mib}M" "$image"
    e2fsck -fn "$image" >"$work/e2fsck.log" 2>&1 || { cat "$work/e2fsck.log"; fail "the file system is damaged"; }
    cmp "$work/image" "$image" || fail "the image is not what was written"
    mkdir "$work/back"
    debugfs -R "rdump / $work/back" "$image" >/dev/null 2>&1
    (cd "$work/back" && sha256sum -c "$work/sums") >"$work/checked" 2>&1 || { grep -v ': OK$' "$work/checked" | head; fail "files differ"; }
    right=$(grep -c ': OK$' "$work/checked")
    echo "e2fsck finds nothing, the image is bit for bit what was written, the checksums of $right files are right"
}

# ── verified writers ────────────────────────────────────────────────────────────────────────────────────────────────

# start_writer NAME INDEX : writes and verifies its own region of the volume until it is told to stop.
start_writer() {
    "$bin/nbd-writer" --uri "$uri" --offset $(((image_mib + $2 * region_mib) << 20)) --length $((region_mib << 20)) \
        --depth 4 --rate 2000 --zeroed --reconnect "$3" --json >"$work/$1.json" 2>"$work/$1.err" &
    pids[$1]=$!
}

# stop_writer NAME : its summary; fails unless everything it ever wrote was there and no request failed.
stop_writer() {
    local name=$1 status=0
    kill -0 "${pids[$name]}" 2>/dev/null || { cat "$work/$name.err" >&2; fail "$name ended by itself"; }
    kill -TERM "${pids[$name]}"
    wait "${pids[$name]}" || status=$?
    unset "pids[$name]"
    cat "$work/$name.err" >&2
    [[ $status == 0 ]] || fail "$name found errors: $(cat "$work/$name.json")"
    jq -r '"\(.writes) writes, \(.reads) verified reads, \(.errors) errors, \(.reconnects) reconnects, longest pause \(.longest_pause_ms * 10 | round / 10) ms"' "$work/$name.json"
}

# ── what the pool says ──────────────────────────────────────────────────────────────────────────────────────────────

# volume FILTER : of `volume show`.
volume() { ask a --json volume show web | jq -e "$1"; }

degraded() { volume '.replicas[] | select(.node == "c") | .state != "uptodate"'; }

written_beyond() { volume "any(.replicas[]; .node == \"c\" and .role == \"primary\" and .appended > $1)"; }

# ── the story ───────────────────────────────────────────────────────────────────────────────────────────────────────

for program in marsd poold poolctl nbd-writer; do
    [[ -x $bin/$program ]] || fail "$bin/$program is missing; type: make demo"
done

chapter "Three hosts become a pool"
for host in a b c; do start_host $host; done
for host in a b c; do until_true 20 "an answer from poold on $host" host_answers $host; done
on a pool init --name demo
for host in b c; do
    token=$(ask a --json node token)
    on $host node join "$(jq -r .url <<<"$token")" --token "$(jq -r .token <<<"$token")"
done
for host in a b c; do on $host vg add vg0 --dir "$work/$host/vg0"; done

chapter "A volume with two replicas, and a file system on it"
on a volume create web ${volume_mib}M --replicas 2 --on a,b
uri=$(ask a volume attach web --door nbd --node a)
echo "a door on a: $uri"
make_image
nbdcopy --flush "$work/image" "$uri"
echo "written by nbdcopy"

chapter "Two verified writers begin, and do not stop"
start_writer writer-1 0 30
start_writer writer-2 1 0
on a status || [[ $? == 7 ]]

chapter "The volume moves from a to c while it is written"
on a migrate web --to c
# The door knows how long a request has waited because the primary moved; the writer how long one took for any reason.
pause_ms=$(volume '[.doors[].pause_micros_max] | max / 1000')
echo -n "at the guest, from before the migration to its end: "
stop_writer writer-2
[[ $(jq .reconnects "$work/writer-2.json") == 0 ]] || fail "the guest lost its connection during the migration"

chapter "The marsd of the primary is killed, and comes back"
written_before=$(volume '.replicas[] | select(.node == "c") | .appended')
kill -9 "${pids[marsd-c]}"
wait "${pids[marsd-c]}" 2>/dev/null || true
echo "c: kill -9 of marsd, while writer-1 writes"
until_true 20 "notice of the loss" degraded
on a status || [[ $? == 7 ]]
start_marsd c
echo "c: marsd is started again"
until_true 20 "another write of writer-1" written_beyond $((written_before + (8 << 20)))
echo -n "at the guest, from the beginning to here: "
stop_writer writer-1

chapter "Is everything still right?"
on a volume verify web
nbdcopy "$uri" "$work/read-back"
check_image "$work/read-back"
until_true 20 "a healthy pool" ask a status
on a status
printf '\nlongest pause of a guest because the primary moved: %.1f ms; the whole demo: %d s\n' "$pause_ms" "$SECONDS"
