#!/usr/bin/env bash
# Counts the instructions that each hot path costs per message, and compares with broker/benches/instructions.toml.
#
#   broker/benches/instructions.sh            fails where a path has grown by more than 3 %
#   UPDATE=1 broker/benches/instructions.sh   writes what it counted: for a change that is worth it
#
# Commit the baseline with the change that moves it, and say in the message what the instructions buy.
#
# Instructions are the same on a busy machine, and from run to run to the last one: hashers have fixed seeds, addresses are not random,
# the environment is empty. They are not the same with another compiler, so the baseline names the one it is of (rust-toolchain.toml pins
# it), and with another nothing is compared. Nor with another C library, whose malloc and memcpy are in every path: that is told.
# Valgrind passes the CPU's own features on, and glibc chooses its memcpy by them, which moves a path by up to 5 %; so it is
# kept to the variants that every x86-64 CPU has. Needs valgrind.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

baseline=broker/benches/instructions.toml
rounds=${ROUNDS:-200}
rustc=$(rustc --version | cut -d' ' -f2)

program=$(cargo bench -p nightjar --bench instructions --locked --no-run --message-format=json 2>/dev/null |
    grep -o '"executable":"[^"]*/instructions-[^"]*"' | tail -1 | cut -d'"' -f4)
[ -x "$program" ] || { echo "the benchmark does not build" >&2; exit 1; }

# ASLR moves a few instructions about; where it may not be turned off, less than one in a thousand.
fixed=(setarch -R)
"${fixed[@]}" true 2>/dev/null || fixed=()
plain_cpu=glibc.cpu.hwcaps=-AVX2,-AVX512F,-AVX512VL,-AVX512BW,-AVX_Fast_Unaligned_Load,-BMI2,-ERMS,-FSRM,-RTM,-SSSE3,-SSE4_1,-SSE4_2
valgrind=$(command -v valgrind) || { echo "missing: valgrind" >&2; exit 2; }
libc=$(ldd --version 2>/dev/null | awk 'NR == 1 { print $NF }')

count() {
    env -i "GLIBC_TUNABLES=$plain_cpu" "${fixed[@]}" \
        "$valgrind" --tool=callgrind --callgrind-out-file=/dev/null "$program" "$1" "$2" 2>&1 |
        awk '/Collected :/ { print $4; found = 1 } END { exit !found }'
}

known() {
    awk -v name="$1" '$1 == name && $2 == "=" { print $3 }' "$baseline" 2>/dev/null || true
}

failed=0 written=''
if [ -z "${UPDATE:-}" ] && [ "$(known rustc)" != "\"$rustc\"" ]; then
    echo "the baseline is of rustc $(known rustc), this is \"$rustc\": nothing is compared"
    exit 0
fi
if [ -z "${UPDATE:-}" ] && [ "$(known libc)" != "\"$libc\"" ]; then
    echo "the baseline is of glibc $(known libc), this is \"$libc\": a small difference may be its own"
fi
while read -r name messages; do
    once=$(count "$name" "$rounds")
    twice=$(count "$name" $((2 * rounds)))
    now=$(awk -v difference=$((twice - once)) -v messages=$((rounds * messages)) 'BEGIN { printf "%.1f", difference / messages }')
    before=$(known "$name")
    verdict=$(awk -v now="$now" -v before="${before:-0}" 'BEGIN {
        if (before == 0) print "new"
        else if (now > before * 1.03) print "GROWN"
        else if (now < before * 0.97) print "smaller: write it down with UPDATE=1"
        else print "as before"
    }')
    printf '%-16s %8s instructions a message, before %8s: %s\n' "$name" "$now" "${before:--}" "$verdict"
    case $verdict in GROWN | new) failed=1 ;; esac
    written+="$name = $now"$'\n'
done < <("$program" --list)

if [ -n "${UPDATE:-}" ]; then
    {
        echo "# Instructions a message costs on each hot path, written by UPDATE=1 broker/benches/instructions.sh."
        echo "rustc = \"$rustc\""
        echo "libc = \"$libc\""
        printf '%s' "$written"
    } >"$baseline"
    exit 0
fi
if [ $failed -ne 0 ]; then
    echo "a path costs over 3 % more (or is new): mend it, or if it is worth it, UPDATE=1 $0 and commit $baseline" >&2
fi
exit $failed
