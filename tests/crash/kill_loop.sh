#!/usr/bin/env bash
# What a person can try: mosquitto_pub publishes with QoS 1, one process a message, while the broker is killed with SIGKILL again and again; a
# durable mosquitto_sub counts. Every message whose mosquitto_pub ended with success must have come.
#
#   tests/crash/kill_loop.sh PATH_OF_NIGHTJAR [KILLS]
set -euo pipefail
nightjar=$1 kills=${2:-20}
publishers=4
folder=$(mktemp -d)
broker= subscriber= workers=()

finish() {
    touch "$folder/stop"
    for pid in $broker $subscriber "${workers[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$folder"
}
trap finish EXIT

. "$(dirname "${BASH_SOURCE[0]}")/../free_port.sh"
port=$(free_port)

start() {
    "$nightjar" -p "$port" --data "$folder/data" 2>>"$folder/log" &
    broker=$!
    for _ in $(seq 200); do
        if timeout 5 mosquitto_pub -p "$port" -t ready -n 2>/dev/null; then return; fi
        sleep 0.02
    done
    echo "the broker does not start:"; tail -n 20 "$folder/log"
    exit 1
}

publish() { # NUMBER OF THE PUBLISHER: its messages that were acknowledged stand in a file of their own
    local count=0
    while [ ! -e "$folder/stop" ]; do
        count=$((count + 1))
        if timeout 10 mosquitto_pub -p "$port" -q 1 -t "loop/$1" -m "$1-$count" 2>/dev/null; then
            echo "$1-$count" >>"$folder/acknowledged-$1"
        fi
    done
}

came() {
    sort -u "$folder/came"
}

start
# Subscribes, and has a session from then on; the first one leaves again.
timeout 10 mosquitto_sub -p "$port" -c -i counter -q 1 -t 'loop/#' -E
stdbuf -oL timeout 600 mosquitto_sub -p "$port" -c -i counter -q 1 -t 'loop/#' >"$folder/came" 2>/dev/null &
subscriber=$!
for number in $(seq $publishers); do
    publish "$number" &
    workers+=($!)
done

for _ in $(seq "$kills"); do
    sleep "0.$((RANDOM % 6 + 1))"
    kill -9 $broker
    wait $broker 2>/dev/null || true
    start
done
touch "$folder/stop"
wait "${workers[@]}" || true
workers=()

cat "$folder"/acknowledged-* | sort >"$folder/acknowledged"
# The subscriber waits a second before it connects again.
for _ in $(seq 200); do
    came >"$folder/came-once"
    comm -23 "$folder/acknowledged" "$folder/came-once" >"$folder/lost"
    [ -s "$folder/lost" ] || break
    sleep 0.1
done
acknowledged=$(wc -l <"$folder/acknowledged") lost=$(wc -l <"$folder/lost")
echo "$kills kills, $acknowledged messages acknowledged, $(wc -l <"$folder/came-once") came, $lost acknowledged and lost"
[ "$acknowledged" -gt "$kills" ] || { echo "too few to prove anything"; exit 1; }
[ "$lost" -eq 0 ] || { echo "lost:"; head "$folder/lost"; exit 1; }
