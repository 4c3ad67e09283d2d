#!/usr/bin/env bash
# Tries what the README promises: a message published as retained reaches a subscriber that is there and one that comes later, and SIGTERM
# ends the broker with exit code 0. Then its three commands for devices with certificates: what they make serves a broker, and a device is
# let in by its certificate, not without it, and not when it is revoked. nightjar-certs is expected beside nightjar.
#
#   tests/readme.sh PATH_OF_NIGHTJAR
set -euo pipefail
nightjar=$1
folder=$(mktemp -d)
broker= subscriber=
trap 'kill $broker $subscriber 2>/dev/null || true; rm -rf "$folder"' EXIT

. "$(dirname "${BASH_SOURCE[0]}")/free_port.sh"
port=$(free_port)
timeout 120 "$nightjar" -p "$port" 2>"$folder/log" &
broker=$!

wait_for() { # FILE TEXT: at most 30 s
    for _ in $(seq 300); do
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
timeout 30 mosquitto_pub -p "$port" -t a/b -m hello -q 2 -r
wait_for "$folder/early" '^a/b hello$'
late=$(timeout 30 mosquitto_sub -p "$port" -t 'a/#' -v -C 1)
[ "$late" = "a/b hello" ] || { echo "a late subscriber got '$late'"; exit 1; }

kill -TERM $broker
wait $broker || { echo "exit code $? after SIGTERM"; cat "$folder/log"; exit 1; }
broker=
echo "the README's example works"

readme=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../README.md")
nightjar=$(realpath "$nightjar")
PATH=$(dirname "$nightjar"):$PATH
cd "$folder"
mapfile -t commands < <(grep '^nightjar-certs ' "$readme")
[ ${#commands[@]} = 3 ] || { echo "not three commands for certificates: ${commands[*]}"; exit 1; }
for command in "${commands[@]}"; do
    bash -c "$command" || { echo "'$command' failed"; exit 1; }
done
port=$(free_port)
sed -i "s/:8883/:$port/g" certificates/nightjar.toml
timeout 120 "$nightjar" -c certificates/nightjar.toml --ephemeral 2>"$folder/log" &
broker=$!
wait_for "$folder/log" ' running$'
kill $subscriber 2>/dev/null || true
trust=(-h localhost -p "$port" --cafile certificates/ca.crt)
device=(--cert certificates/devices/gauge-7.crt --key certificates/devices/gauge-7.key)
stdbuf -oL timeout 60 mosquitto_sub "${trust[@]}" "${device[@]}" -t 'a/#' -v -d >"$folder/early" 2>&1 &
subscriber=$!
wait_for "$folder/early" 'received SUBACK'
timeout 30 mosquitto_pub "${trust[@]}" "${device[@]}" -t a/b -m hello
wait_for "$folder/early" '^a/b hello$'
wait_for "$folder/log" "u'gauge-7'"
if timeout 30 mosquitto_pub "${trust[@]}" -t a/b -m hello 2>/dev/null; then echo "let in without a certificate"; exit 1; fi
wait_for "$folder/log" 'sent no certificates'
nightjar-certs revoke gauge-7
kill -HUP $broker
wait_for "$folder/log" 'Config reloaded'
if timeout 30 mosquitto_pub "${trust[@]}" "${device[@]}" -t a/b -m hello 2>/dev/null; then echo "let in when revoked"; exit 1; fi
wait_for "$folder/log" 'Revoked'
kill -TERM $broker
wait $broker || { echo "exit code $? after SIGTERM"; cat "$folder/log"; exit 1; }
broker=
echo "the README's certificates work"
