#!/usr/bin/env bash
# Tries what the README promises: a message published as retained reaches a subscriber that is there and one that comes later, and SIGTERM
# ends the broker with exit code 0.
#
#   tests/readme.sh PATH_OF_NIGHTJAR
set -euo pipefail
nightjar=$1
folder=$(mktemp -d)
broker= subscriber=
trap 'kill $broker $subscriber 2>/dev/null || true; rm -rf "$folder"' EXIT

# A port that is free at this moment.
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
timeout 120 "$nightjar" -p "$port" 2>"$folder/log" &
broker=$!

wait_for() { # FILE TEXT: at most 10 s
    for _ in $(seq 100); do
        if grep -q -- "$2" "$1" 2>/dev/null; then return; fi
        sleep 0.1
    done
    echo "no '$2' in:"; cat "$1" "$folder/log"
    return 1
}

# A publish that succeeds is the sign that the broker listens.
for _ in $(seq 100); do
    if timeout 5 mosquitto_pub -p "$port" -t ready -n 2>/dev/null; then break; fi
    sleep 0.1
done

stdbuf -oL timeout 60 mosquitto_sub -p "$port" -t 'a/#' -v -d >"$folder/early" 2>&1 &
subscriber=$!
wait_for "$folder/early" 'received SUBACK'
timeout 10 mosquitto_pub -p "$port" -t a/b -m hello -q 2 -r
wait_for "$folder/early" '^a/b hello$'
late=$(timeout 10 mosquitto_sub -p "$port" -t 'a/#' -v -C 1)
[ "$late" = "a/b hello" ] || { echo "a late subscriber got '$late'"; exit 1; }

kill -TERM $broker
wait $broker || { echo "exit code $? after SIGTERM"; cat "$folder/log"; exit 1; }
broker=
echo "the README's example works"
