#!/usr/bin/env bash
# What the guide has a person type, with Debian's paths and ports: its default start, its files, its commands.
#
#   guide.sh BROKER PASSWD FILES CERTIFICATES OUT
#
# BROKER is the program, PASSWD the command that makes password files, FILES the guide's files, CERTIFICATES what nightjar-certs made.
# What each step said, and how it ended, is a file of its own in OUT; broker-*.log is what the broker said.
#
# To be run as root of a mount, network and process namespace of its own: it mounts over /etc/mosquitto and takes Mosquitto's ports.
set -euo pipefail
broker=$1 passwd=$2 files=$3 certificates=$4 out=$5

# Who is root here and nobody outside cannot become the user mosquitto; the broker then starts as somebody who is not root.
somebody=()
read -r _ outside _ </proc/self/uid_map
[ "$outside" = 0 ] || somebody=(unshare --user --map-user=1883 --map-group=1883)

ip link set lo up
# An address that is not a loopback address, and is this machine.
ip address add 192.0.2.1/32 dev lo
printf '127.0.0.1 localhost broker.example.com\n::1 localhost\n' >"$out/hosts"
mount --bind "$out/hosts" /etc/hosts
for directory in /etc/mosquitto /var/lib /run; do
    mount -t tmpfs -o mode=0755 none $directory
done
mkdir -p /etc/mosquitto/conf.d /etc/mosquitto/certs /var/lib/mosquitto /run/mosquitto /run/home
export HOME=/run/home

# To whom the broker becomes, as the packages of a distribution do.
hand_over() {
    [ "$outside" != 0 ] || chown mosquitto "$@"
}
hand_over /var/lib/mosquitto /run/mosquitto

# Runs a command to its end.
step() {
    local name=$1 code=0
    shift
    stdbuf -oL "$@" >"$out/$name" 2>&1 </dev/null || code=$?
    echo "exit $code" >>"$out/$name"
}

# The same of what asks questions: the first argument answers them.
ask() {
    local name=$1 answers=$2 code=0
    shift 2
    printf '%b' "$answers" | "$@" >"$out/$name" 2>&1 || code=$?
    echo "exit $code" >>"$out/$name"
}

# Starts a subscriber and waits for its SUBACK.
declare -A begun
begin() {
    local name=$1
    shift
    stdbuf -oL "$@" >"$out/$name" 2>&1 </dev/null &
    begun[$name]=$!
    until_in "$out/$name" 'Subscribed (mid'
}

# Waits until a subscriber has what it was told to wait for.
finish() {
    local code=0
    wait "${begun[$1]}" || code=$?
    echo "exit $code" >>"$out/$1"
}

until_in() {
    for _ in $(seq 2000); do
        ! grep -q "$2" "$1" 2>/dev/null || return 0
        sleep 0.01
    done
    echo "no '$2' in $1" >&2
    cat "$1" >&2
    exit 1
}

start() {
    log=$out/broker-$1.log
    shift
    "${somebody[@]}" stdbuf -oL "$broker" "$@" >"$log" 2>&1 &
    process=$!
    until_in "$log" 'version [0-9.]* running$'
}

# Everybody has gone before it is told to stop.
stop() {
    local code=0
    for _ in $(seq 2000); do
        [ "$(grep -c 'New client connected' "$log")" != "$(grep -c 'Client .* disconnected\.$' "$log")" ] || break
        sleep 0.01
    done
    kill -TERM $process
    wait $process || code=$?
    echo "exit $code" >>"$log"
}

sub() {
    local name=$1
    shift
    begin "$name" mosquitto_sub -d "$@"
}

pub() {
    local name=$1
    shift
    step "$name" mosquitto_pub -d "$@"
}

# J1: the default start is for this machine only.
start default
sub j1-everything -h localhost -t '#' -v -C 2 -i everything
pub j1-one -h localhost -t hello -m world -i one
pub j1-two -h 127.0.0.1 -t hello -m again -i two
finish j1-everything
pub j1-from-elsewhere -h 192.0.2.1 -t hello -m world -i elsewhere
stop

# J5: users.
ask j5-create 'secret\nsecret\n' $passwd -c /etc/mosquitto/passwd gw_123
ask j5-differ 'secret\nother\n' $passwd /etc/mosquitto/passwd nobody_else
hand_over /etc/mosquitto/passwd
chmod 600 /etc/mosquitto/passwd

# J4: the guide's files, unchanged but for the users of its later pages.
cp "$files/mosquitto.conf" /etc/mosquitto/
cp "$files/conf.d/prod.conf" /etc/mosquitto/conf.d/
cat "$files/acl" - >/etc/mosquitto/acl <<'ACL'

user monitor
topic read prod/acme/+/+/+/status/#

user test_device
topic write prod/acme/test/line-01/test-device/status/#

user backend
topic read acme/+/+/+/telemetry/#
ACL
start guide -c /etc/mosquitto/mosquitto.conf
gateway=(-h broker.example.com -u gw_123 -P secret)
own=acme/plant1/line1/gw_123

pub j4-anonymous -h broker.example.com -t $own/telemetry/a -m x -i nobody
pub j4-wrong-password -h broker.example.com -u gw_123 -P Secret -t $own/telemetry/a -m x -i wrong
pub j4-wrong-password-v5 -V 5 -h broker.example.com -u gw_123 -P Secret -t $own/telemetry/a -m x -i wrong
pub j5-not-yet -h broker.example.com -u ingestion_worker -P work -t a -m x -i early

# J5: more users, and a reload.
for user in ingestion_worker:work command_service:order monitor:watch test_device:test backend:back; do
    ask j5-add-${user%:*} "${user#*:}\n${user#*:}\n" $passwd /etc/mosquitto/passwd ${user%:*}
done
hand_over /etc/mosquitto/passwd
chmod 600 /etc/mosquitto/passwd
sub j5-stays "${gateway[@]}" -t "$own/command/#" -C 1 -v -q 1 -i stays
kill -HUP $process
until_in "$log" 'Reloading config.'
# Mosquitto does nothing else before it is done, and does not say so.
[ "${broker##*/}" = mosquitto ] || until_in "$log" 'Config reloaded.'
# What was read is in force when the next one is let in.
for _ in $(seq 200); do
    ! mosquitto_pub -h broker.example.com -u backend -P back -t a -m x -i ready >/dev/null 2>&1 || break
    sleep 0.05
done

# J6: the worker reads telemetry and status, the gateway not its own status.
worker=(-h broker.example.com -u ingestion_worker -P work)
sub j6-worker "${worker[@]}" -t 'acme/+/+/+/telemetry/#' -t 'acme/+/+/+/status/#' -q 1 -v -C 3 -i worker
sub j6-gateway "${gateway[@]}" -t "$own/#" -t 'acme/#' -q 1 -v -C 1 -i gateway
pub j6-status "${gateway[@]}" -t $own/status/availability -m '{"state":"online"}' -q 1 -r -i gw_123
pub j6-telemetry "${gateway[@]}" -t $own/telemetry/temperature -m 21.7 -q 1 -i gw_123
pub j6-of-another "${gateway[@]}" -t acme/plant1/line1/gw_124/telemetry/temperature -m 1 -q 1 -i gw_123
pub j6-of-another-v5 -V 5 "${gateway[@]}" -t acme/plant1/line1/gw_124/telemetry/temperature -m 1 -q 1 -i gw_123
pub j6-command-by-gateway -V 5 "${gateway[@]}" -t $own/command/stop -m now -q 1 -i gw_123
pub j6-telemetry-qos-2 "${gateway[@]}" -t $own/telemetry/humidity -m 40 -q 2 -i gw_123
pub j6-command -h broker.example.com -u command_service -P order -t $own/command/stop -m now -q 1 -i orders
finish j6-worker
finish j6-gateway
finish j5-stays
# The status is retained, for those who may read it.
sub j6-later "${worker[@]}" -t 'acme/+/+/+/status/#' -v -C 1 -i later
finish j6-later
step j6-not-for-the-gateway mosquitto_sub "${gateway[@]}" -t "$own/status/#" -v -W 1 -i own
step j6-v5 mosquitto_sub -d -V 5 "${gateway[@]}" -t 'acme/#' -v -W 1 -i five

# J7: the smoke pair.
sub j7-monitor -h broker.example.com -u monitor -P watch -t 'prod/acme/+/+/+/status/#' -v -C 1 -i monitor
pub j7-device -h broker.example.com -u test_device -P test -t prod/acme/test/line-01/test-device/status/availability -m online -q 1 -r -i test-device
finish j7-monitor

# J8: the cheat sheet; the third is refused.
sub j8-backend -h broker.example.com -u backend -P back -t 'acme/+/+/+/telemetry/#' -q 1 -v -C 1 -i backend
pub j8-gateway "${gateway[@]}" -t $own/telemetry/temperature -q 1 -m '{"value":21.7,"unit":"C","schema_version":1}' -i gw_123
finish j8-backend
pub j8-without-user -h broker.example.com -t $own/status/availability -m online -q 1 -r -i gw_123
pub j8-without-user-v5 -V 5 -h broker.example.com -t $own/status/availability -m online -q 1 -r -i gw_123
step j8-bad-filter mosquitto_sub "${worker[@]}" -t 'spBv1.0/+/+BIRTH/#' -i bad
stop

# What is retained is there after a restart.
start again -c /etc/mosquitto/mosquitto.conf
sub j4-after-a-restart "${worker[@]}" -t 'acme/+/+/+/status/#' -v -C 1 -i later
finish j4-after-a-restart
stop

# J2, J3: over TLS.
cp "$certificates/ca.crt" /etc/mosquitto/certs/
cp "$certificates/servers/broker.example.com.crt" /etc/mosquitto/certs/server.crt
cp "$certificates/servers/broker.example.com.key" /etc/mosquitto/certs/server.key
hand_over /etc/mosquitto/certs/*
cp "$files/tls/prod.conf" /etc/mosquitto/conf.d/prod.conf
cat >>/etc/mosquitto/acl <<'ACL'

user user
topic readwrite factory/#
ACL
ask j2-add-user 'password\npassword\n' $passwd /etc/mosquitto/passwd user
hand_over /etc/mosquitto/passwd
chmod 600 /etc/mosquitto/passwd
start tls -c /etc/mosquitto/mosquitto.conf
tls=(-h broker.example.com -p 8883 --cafile "$certificates/ca.crt")
sub j2-subscribe "${tls[@]}" -u user -P password -t 'factory/fr/#' -v -C 1 -i reader
pub j3-publish "${tls[@]}" -u user -P password -t factory/fr/test/device-1/status -m '{"state":"online"}' -q 1 -r -i device-1
finish j2-subscribe
sub j3-later "${tls[@]}" -u user -P password -t 'factory/fr/#' -F '%t r=%r %p' -C 1 -i later
finish j3-later
pub j2-wrong-password "${tls[@]}" -u user -P Password -t factory/fr/x -m x -i wrong
# CONNECT in plain: nothing that begins as a CONNACK comes back, and the connection ends.
step j2-without-tls timeout 10 bash -c 'exec 3<>/dev/tcp/127.0.0.1/8883
    printf "\\x10\\x0d\\x00\\x04MQTT\\x04\\x02\\x00\\x3c\\x00\\x01p" >&3
    ! cat <&3 2>/dev/null | head -c 1 | grep -qP "^\\x20"'
# Of a refused handshake the client notices what it notices first.
step j2-another-name bash -c '! mosquitto_pub "$@" 2>&1 | grep "host name verification"' - \
    -h localhost -p 8883 --cafile "$certificates/ca.crt" -u user -P password -t factory/fr/x -m x -i name
pub j2-tls-1.3 "${tls[@]}" --tls-version tlsv1.3 -u user -P password -t factory/fr/x -m x -i new
pub j2-tls-1.1 "${tls[@]}" --tls-version tlsv1.1 -u user -P password -t factory/fr/x -m x -i old
stop
rm "$out/hosts"
