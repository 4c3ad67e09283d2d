#!/usr/bin/env bash
# Real MQTT clients against a broker: see run.py, which this starts with the same arguments.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec python3 "$here/run.py" "$@"
