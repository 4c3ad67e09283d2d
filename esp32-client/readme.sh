#!/usr/bin/env bash
# Tries what README.md promises to somebody without a chip, with its own commands: three of them provision a broker and a device,
# mosquitto_sub sees what the device publishes, over TLS with certificates on both sides, and without its certificate the device is
# refused with a reason in the broker's log.
#
#   esp32-client/readme.sh FOLDER_OF_NIGHTJAR FOLDER_OF_NIGHTJAR_DEVICE
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../tests/free_port.sh"
# The part for somebody without a chip.
readme=$(sed -n '/^## Try it/,/^## What it says/p' "$(dirname "${BASH_SOURCE[0]}")/README.md")
PATH=$(realpath "$1"):$(realpath "$2"):$PATH
folder=$(mktemp -d)
broker= subscriber= device=
trap 'kill $broker $subscriber $device 2>/dev/null || true; rm -rf "$folder"' EXIT
cd "$folder"
# The port of the README may be taken.
port=$(free_port)

wait_for() { # FILE TEXT: at most 30 s
    for _ in $(seq 300); do
        if grep -q -- "$2" "$1" 2>/dev/null; then return; fi
        sleep 0.1
    done
    echo "no '$2' in $1:"; cat "$1" broker.log
    return 1
}

# The one line of the README that begins so.
line() {
    local lines
    mapfile -t lines < <(grep -E "^$1" <<<"$readme")
    [ ${#lines[@]} = 1 ] || { echo "not one line '$1' in the README: ${lines[*]}" >&2; exit 1; }
    printf '%s\n' "${lines[0]//8883/$port}"
}

mapfile -t commands < <(grep '^nightjar-certs ' <<<"$readme")
[ ${#commands[@]} = 3 ] || { echo "not three commands: ${commands[*]}"; exit 1; }
for command in "${commands[@]}"; do
    [[ $command != *--esp* ]] || command+=" --port $port"
    bash -c "$command" >/dev/null || { echo "'$command' failed"; exit 1; }
done
sed -i "s/:8883/:$port/g" certificates/nightjar.toml
timeout 120 $(line 'nightjar -c ') --ephemeral 2>broker.log &
broker=$!
wait_for broker.log ' running$'

subscribe=$(line 'mosquitto_sub ')
eval "stdbuf -oL timeout 60 $subscribe -d" >seen 2>&1 &
subscriber=$!
wait_for seen 'received SUBACK'
timeout 60 $(line 'nightjar-device certificates/esp/gauge-7$') 2>device.log &
device=$!
wait_for seen '^devices/gauge-7/status {"state":"online"}$'
wait_for seen '^devices/gauge-7/telemetry/uptime_ms {"device_id":"gauge-7","sequence":2,'
kill -INT $device
wait_for seen '^devices/gauge-7/status {"state":"offline"}$'

if timeout 60 $(line 'nightjar-device .*--no-certificate$') 2>refused.log; then
    echo "a device without a certificate was let in"; cat broker.log; exit 1
fi
reason=$(line 'Connection from .* rejected')
wait_for broker.log "${reason#*rejected, }"
echo "the README of the device holds"
