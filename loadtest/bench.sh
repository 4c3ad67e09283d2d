#!/usr/bin/env bash
# Measures a broker on the standard rows and prints a Markdown table.
#
# The broker is pinned to one core and the generator to another. Each row starts the broker anew. With a second broker the two take
# turns within the same row, so that a disturbance of the machine hits both, and the table ends with the ratio of their medians.
#
# With --durable the broker keeps everything in a directory that is new for each run, below the build directory so that it is on
# a disk, and the store's own benchmark runs between the turns, so that what the broker makes of it is seen.
set -euo pipefail

usage() {
    cat <<'USAGE'
loadtest/bench.sh [options]
  --broker CMD       the broker, {port} is replaced; default: <target>/release/nightjar -p {port}
  --name NAME        its name in the table (default: the command's first word)
  --peer CMD         a second broker to take turns with, {port} is replaced
  --peer-name NAME
  --mosquitto        the second broker is Debian's mosquitto with equal bounds (in flight 1000, queues unbounded)
  --relay            the broker is the generator's own relay: shows the ceiling
  --rows REGEX       only the rows whose name matches
  --turns N          how often each row is run per broker (default 2)
  --rounds N         measured rounds of a run (default 3)
  --seconds S        length of a round (default 2)
  --protocol V       3.1.1 or 5 (default 3.1.1)
  --durable          the rows of sessions that are kept: acknowledgements a second; {data} in CMD is a new directory
  --latency          also the open-loop rows (p50 / p99 in the last column)
  --broker-core N    default 0; "none" leaves it unpinned
  --generator-core N default 1; "none" leaves it unpinned
  --nice N           run broker and generator with this niceness; negative (as root) keeps neighbours on the machine out
  --realtime         run both with a real-time policy (as root): also on a machine that others keep busy, nobody waits for a core
  --port N           default 21883, the peer gets the next
  --no-build
Needs taskset and jq.
USAGE
}

root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
generator=$target/release/nightjar-loadtest
broker=''
name='' peer='' peer_name='' mosquitto='' relay='' rows='.' turns=2 rounds=3 seconds=2 protocol=3.1.1 latency='' durable=''
broker_core=0 generator_core=1 nice=0 realtime='' port=21883 build=yes
while [ $# -gt 0 ]; do
    case $1 in
    --broker) broker=$2; shift ;;
    --name) name=$2; shift ;;
    --peer) peer=$2; shift ;;
    --peer-name) peer_name=$2; shift ;;
    --mosquitto) mosquitto=yes ;;
    --relay) relay=yes ;;
    --rows) rows=$2; shift ;;
    --turns) turns=$2; shift ;;
    --rounds) rounds=$2; shift ;;
    --seconds) seconds=$2; shift ;;
    --protocol) protocol=$2; shift ;;
    --latency) latency=yes ;;
    --durable) durable=yes ;;
    --broker-core) broker_core=$2; shift ;;
    --generator-core) generator_core=$2; shift ;;
    --nice) nice=$2; shift ;;
    --realtime) realtime=yes ;;
    --port) port=$2; shift ;;
    --no-build) build='' ;;
    -h | --help) usage; exit ;;
    *) usage >&2; exit 2 ;;
    esac
    shift
done

scratch=$(mktemp -d)
data='' running=''
cleanup() {
    stop
    rm -rf "$scratch" "$data"
}
stop() {
    [ -n "$running" ] || return 0
    kill "$running" 2>/dev/null || true
    for _ in $(seq 50); do
        kill -0 "$running" 2>/dev/null || break
        sleep 0.1
    done
    kill -9 "$running" 2>/dev/null || true
    wait "$running" 2>/dev/null || true
    running=''
    [ -z "$data" ] || rm -rf "${data:?}/store"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

memory=''
unit=1e6 unit_name=M
if [ -n "$durable" ]; then
    data=$(mktemp -d "$target/bench.XXXXXX")
    unit=1e3 unit_name=k
    # A thousand queues of a fan-out are more than a broker's default bound; the peer has none.
    cat >"$scratch/nightjar.toml" <<TOML
queue_total_bytes_max = "64 GiB"
TOML
    [ -n "$broker" ] || broker="$target/release/nightjar -c $scratch/nightjar.toml -p {port} --data {data}"
    memory="$target/release/nightjar -c $scratch/nightjar.toml -p {port} --ephemeral"
fi
[ -n "$broker" ] || broker="$target/release/nightjar -p {port}"
if [ -n "$build" ]; then
    packages=(-p nightjar-loadtest)
    case $broker in "$target"/release/nightjar\ *) [ -n "$relay" ] || packages+=(-p nightjar) ;; esac
    cargo build --release --manifest-path "$root/Cargo.toml" "${packages[@]}" >&2
fi
if [ -n "$durable" ]; then
    store_bench=$(cargo bench --manifest-path "$root/Cargo.toml" -p nightjar-storage --bench closed_loop --no-run \
        --message-format=json | jq -r 'select(.executable != null and .target.name == "closed_loop") | .executable')
fi
if [ -n "$relay" ]; then
    broker="$generator relay --port {port}"
    name=${name:-relay}
fi
if [ -n "$mosquitto" ]; then
    cat >"$scratch/mosquitto.conf" <<CONF
listener $((port + 1)) 127.0.0.1
allow_anonymous true
persistence false
max_inflight_messages 1000
max_queued_messages 0
set_tcp_nodelay true
log_dest none
CONF
    peer="$(PATH=$PATH:/usr/sbin command -v mosquitto) -c $scratch/mosquitto.conf"
    peer_name=${peer_name:-mosquitto}
fi
name=${name:-$(basename "${broker%% *}")}
[ -z "$peer" ] || peer_name=${peer_name:-$(basename "${peer%% *}")}
# 1000 connections each, on both sides.
ulimit -n "$(ulimit -H -n)"

# Pins to a core and, if asked, gives the command a session of its own, whose scheduling group gets the niceness too: between
# sessions the kernel compares groups, not processes.
prefix() { # core; words on standard output, one a line
    if [ "$nice" != 0 ]; then
        printf '%s\n' setsid --wait sh -c \
            'echo "$0" 2>/dev/null >/proc/self/autogroup || true; exec nice -n "$0" "$@"' "$nice"
    fi
    [ -z "$realtime" ] || printf '%s\n' chrt --rr 5
    if [ "$1" != none ]; then printf '%s\n' taskset -c "$1"; fi
}

start() { # command port
    local command=${1//\{port\}/$2}
    command=${command//\{data\}/$data/store}
    local words
    mapfile -t words < <(prefix "$broker_core")
    if (exec 3<>"/dev/tcp/127.0.0.1/$2") 2>/dev/null; then
        echo "bench.sh: port $2 is taken" >&2
        exit 1
    fi
    # Not the leader of a process group, so setsid does not fork and the pid is the broker's.
    eval 'exec "${words[@]}"' "$command" >"$scratch/broker.log" 2>&1 &
    running=$!
    for _ in $(seq 100); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$2") 2>/dev/null; then return; fi
        kill -0 "$running" 2>/dev/null || break
        sleep 0.1
    done
    echo "bench.sh: the broker does not listen on port $2: $command" >&2
    tail -n 20 "$scratch/broker.log" >&2
    exit 1
}

measure() { # which command port arguments...
    local which=$1 command=$2 at=$3
    shift 3
    start "$command" "$at"
    local limit
    limit=$(awk "BEGIN { print int($rounds * $seconds) + 700 }")
    local words
    mapfile -t words < <(prefix "$generator_core")
    if ! "${words[@]}" timeout "$limit" "$generator" "$@" --port "$at" --protocol "$protocol" \
        --rounds "$rounds" --duration "$seconds" --broker-pid "$running" --json >>"$scratch/$which.json"; then
        echo "bench.sh: no result: $generator $* --port $at" >&2
        tail -n 20 "$scratch/broker.log" >&2
    fi
    stop
}

# The store alone, as long as the others; publishes a second and CPU us of each, a line a turn.
measure_store() {
    local words length
    mapfile -t words < <(prefix none)
    length=$(awk "BEGIN { print int($rounds * $seconds + 0.999) }")
    "${words[@]}" env BENCH_DIR="$data" SECONDS="$length" "$store_bench" "$store_row" |
        awk -v row="$store_row" 'index($0, row) == 1 { print $(NF - 5), $NF }' >>"$scratch/store"
}

# Rate in M/s (lowest and highest), CPU us, peak memory, notes; from all rounds of all turns.
cells() {
    jq -rs --argjson unit "$unit" '
        def median: sort | if length % 2 == 1 then .[length / 2 | floor] else (.[length / 2 - 1] + .[length / 2]) / 2 end;
        def digits(n): (. * pow(10; n) | round) / pow(10; n) | tostring;
        if length == 0 then "failed | | |" else
        [.[].rounds[].per_second / $unit] as $rates
        | (map(.losses) | add) as $losses
        | ([.[].rounds[] | .generator_waited_seconds + .broker_waited_seconds] | add) as $waited
        | ([.[].rounds[].seconds] | add) as $seconds
        | [ if $losses > 0 then "**void: \($losses) lost**" else empty end,
            (map(.duplicates + .strays + .refused) | add | if . > 0 then "\(.) duplicate, stray or refused" else empty end),
            (map(.reorderings) | add | if . > 0 then "\(.) reordered" else empty end),
            if any(.generator.saturated) then "generator \(map(.generator.core_share) | max * 100 | round) % of its core" else empty end,
            if $waited / $seconds > 0.1 then "cores shared \($waited / $seconds * 100 | round) %" else empty end,
            (map(.fetched | values) | if length > 0 then "then fetched at \(map(.per_second) | median / 1000 | round) k/s" else empty end),
            (map(.latency | values) | if length > 0 then "p50 \(map(.p50) | median | digits(0)) us, p99 \(map(.p99) | median | digits(0)) us" else empty end)
          ] as $notes
        | "\($rates | median | digits(3)) (\($rates | min | digits(2))-\($rates | max | digits(2))) | "
          + "\(map(.broker.cpu_us_per_message) | median | digits(3)) | \(map(.generator.cpu_us_per_message) | median | digits(3)) | "
          + "\(map(.broker.resident_peak_kib) | max / 1024 | digits(1)) | \($notes | join("; "))"
        end' "$1"
}

# What the disk costs: acknowledgement latency and CPU.
added() {
    jq -rn --slurpfile disk "$1" --slurpfile memory "$2" '
        def median: sort | if length % 2 == 1 then .[length / 2 | floor] else (.[length / 2 - 1] + .[length / 2]) / 2 end;
        if ($disk | length) == 0 or ($memory | length) == 0 then "-" else
        (([$disk[].latency.p50] | median) - ([$memory[].latency.p50] | median)) as $p50
        | (([$disk[].broker.cpu_us_per_message] | median) - ([$memory[].broker.cpu_us_per_message] | median)) as $cpu
        | "p50 \($p50 | round) us, CPU \($cpu * 100 | round / 100) us"
        end'
}

of_store() {
    jq -rn --slurpfile ours "$1" --rawfile store "$scratch/store" '
        def median: sort | if length % 2 == 1 then .[length / 2 | floor] else (.[length / 2 - 1] + .[length / 2]) / 2 end;
        def digits(n): (. * pow(10; n) | round) / pow(10; n) | tostring;
        [$store | split("\n")[] | select(. != "") | split(" ") | map(tonumber)] as $lines
        | if ($lines | length) == 0 or ($ours | length) == 0 then "failed | | | |" else
        ([$lines[][0]] | median) as $rate
        | "\($rate / 1000 | digits(3)) (\([$lines[][0]] | min / 1000 | digits(2))-\([$lines[][0]] | max / 1000 | digits(2))) | "
          + "\([$lines[][1]] | median | digits(3)) | | | the broker does \(([$ours[].rounds[].per_second] | median) / $rate * 100 | round) % of it"
        end'
}

ratio() {
    jq -rn --slurpfile ours "$1" --slurpfile peer "$2" '
        def median: sort | if length % 2 == 1 then .[length / 2 | floor] else (.[length / 2 - 1] + .[length / 2]) / 2 end;
        if ($ours | length) == 0 or ($peer | length) == 0 then "-" else
        (([$ours[].rounds[].per_second] | median) / ([$peer[].rounds[].per_second] | median)) as $rate
        | ([$ours[].broker.cpu_us_per_message] | median) as $cpu
        | ([$peer[].broker.cpu_us_per_message] | median) as $peer_cpu
        | "\($rate * 10 | round / 10)x msg/s" + if $cpu > 0 then ", \($peer_cpu / $cpu * 10 | round / 10)x less CPU" else "" end
        end'
}

counted='msg/s'
[ -z "$durable" ] || counted='acknowledged/s'
store_row=''
header="| work | broker | $unit_name $counted (min-max) | broker CPU us | generator CPU us | peak MiB | notes |"
rule="|---|---|---|---|---|---|---|"
if [ -n "$durable" ]; then work='256-byte payloads'; else work='64-byte payloads, window 1000 (fan-out 200), in flight 1000'; fi
echo "MQTT $protocol, $work; $turns x $rounds x $seconds s; broker core $broker_core, generator core $generator_core"
echo
echo "$header"
echo "$rule"

row() { # name arguments...
    local row=$1
    shift
    [[ $row =~ $rows ]] || return 0
    : >"$scratch/ours.json"
    : >"$scratch/peer.json"
    : >"$scratch/memory.json"
    : >"$scratch/store"
    for _ in $(seq "$turns"); do
        measure ours "$broker" "$port" "$@"
        [ -z "$peer" ] || measure peer "$peer" $((port + 1)) "$@"
        [ -z "$memory" ] || measure memory "$memory" "$port" "$@"
        [ -z "$store_row" ] || measure_store
    done
    echo "| $row | $name | $(cells "$scratch/ours.json") |"
    if [ -n "$peer" ]; then
        echo "| | $peer_name | $(cells "$scratch/peer.json") |"
        echo "| | ratio | $(ratio "$scratch/ours.json" "$scratch/peer.json") | | | | |"
    fi
    if [ -n "$memory" ]; then
        echo "| | $name in memory | $(cells "$scratch/memory.json") |"
        echo "| | on disk adds | $(added "$scratch/ours.json" "$scratch/memory.json") | | | | |"
    fi
    if [ -n "$store_row" ]; then
        echo "| | the store alone | $(of_store "$scratch/ours.json") |"
    fi
}

if [ -n "$durable" ]; then
    store_row='100 x 20 in flight, offline' row 'QoS 1, 100 x 20 in flight, receivers away' \
        pubsub -P 100 -q 1 --in-flight 20 --payload 256 --receivers offline
    store_row='100 x 20 in flight, online' row 'QoS 1, 100 x 20 in flight, receivers there' \
        pubsub -P 100 -q 1 --in-flight 20 --payload 256 --receivers online
    store_row='fan-out to 1,000' row 'QoS 1, 1 to 1,000 that are away, 100 in flight' \
        fan-out -S 1000 -q 1 --in-flight 100 --payload 256 --receivers offline
    row '10,000/s QoS 1, receivers away' pubsub -P 100 -q 1 --rate 10000 --payload 256 --receivers offline
    row '10,000/s QoS 1, receivers there' pubsub -P 100 -q 1 --rate 10000 --payload 256 --receivers online
    exit
fi
row 'QoS 0 1:1' pubsub -P 1 -q 0
row 'QoS 0 10:10' pubsub -P 10 -q 0
row 'QoS 1 10:10' pubsub -P 10 -q 1
row 'QoS 2 10:10' pubsub -P 10 -q 2
row 'fan-out 1:1000 QoS 0' fan-out -S 1000 -q 0
row 'fan-out 1:1000 QoS 1' fan-out -S 1000 -q 1
if [ -n "$latency" ]; then
    row '10,000 msg/s QoS 1' pubsub -P 10 -q 1 --rate 10000
    row '1,000 msg/s QoS 0' pubsub -P 1 -q 0 --rate 1000
fi
