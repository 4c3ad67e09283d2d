#!/usr/bin/env bash
# Installs the clients that tests/interop runs (paho-mqtt, aiomqtt, gmqtt, mqtt.js), pinned, into target/interop.
# mosquitto_pub, mosquitto_sub, mosquitto_rr, python3 with venv, node and npm come from the system. rumqttc is built by cargo.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
home=${NIGHTJAR_INTEROP_HOME:-$here/../../target/interop}
mkdir -p "$home"
home=$(cd "$home" && pwd)

missing=()
for program in mosquitto_pub mosquitto_sub mosquitto_rr python3 node npm; do
    command -v "$program" >/dev/null || missing+=("$program")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "missing programs: ${missing[*]}" >&2
    echo "on Debian: apt-get install mosquitto-clients python3-venv nodejs npm" >&2
    exit 1
fi

# A folder is complete when it was made from the same pins; otherwise it is made anew.
if ! cmp -s "$here/requirements.txt" "$home/venv/.complete"; then
    rm -rf "$home/venv"
    python3 -m venv "$home/venv"
    "$home/venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$here/requirements.txt"
    cp "$here/requirements.txt" "$home/venv/.complete"
fi
if ! cmp -s "$here/package-lock.json" "$home/node/.complete"; then
    rm -rf "$home/node"
    mkdir -p "$home/node"
    cp "$here/package.json" "$here/package-lock.json" "$home/node/"
    (cd "$home/node" && npm ci --silent --no-audit --no-fund --ignore-scripts)
    cp "$here/package-lock.json" "$home/node/.complete"
fi
echo "the interop clients are in $home"
