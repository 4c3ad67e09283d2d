"""Proves the RV32IMC client in qemu against a real broker that wants certificates.

    python3 prove.py PATH_OF_NIGHTJAR_QEMU

NIGHTJAR_BIN and NIGHTJAR_CERTS_BIN name the broker and the tool. Everything else is made here: an authority, certificates, a time
server that says what is wanted, and, for each proof, a machine. The first that fails ends it, with what the machine and the broker said.
"""

import json
import os
import queue
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

# The machine loads these; see src/main.rs.
PROVISIONING, FLAGS = 0x8040_0000, 0x8040_4000
TLS_1_2, ANONYMOUS = 1, 2
# The host, as a machine with user networking sees it.
HOST = "10.0.2.2"
DEVICE = "gauge-rv32"
# The emulation is fast; a build machine under load is not.
PATIENCE = 60


class Failed(Exception):
    pass


class Lines:
    """What a process says, line by line, kept."""

    def __init__(self, stream, what):
        self.what, self.seen, self.fresh = what, [], queue.Queue()
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream):
        for line in stream:
            self.fresh.put(line.rstrip("\r\n"))
        self.fresh.put(None)

    def wait_for(self, wanted):
        """The next line for which `wanted` is true, or that has it in it."""
        test = wanted if callable(wanted) else lambda line: wanted in line
        end = time.monotonic() + PATIENCE
        while True:
            try:
                line = self.fresh.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise Failed(f"{self.what} did not say {wanted!r} in {PATIENCE} s") from None
            if line is None:
                raise Failed(f"{self.what} ended before it said {wanted!r}")
            self.seen.append(line)
            if test(line):
                return line

    def all(self):
        while not self.fresh.empty():
            line = self.fresh.get()
            if line is not None:
                self.seen.append(line)
        return self.seen


class TimeServer:
    """SNTP, `shift` seconds wrong, or silent."""

    def __init__(self):
        self.shift, self.silent = 0.0, False
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        def stamp(when):
            seconds = int(when)
            return struct.pack("!II", (seconds + 2_208_988_800) & 0xFFFF_FFFF, int((when - seconds) * 2**32))

        while True:
            question, who = self.socket.recvfrom(512)
            if self.silent or len(question) < 48:
                continue
            now = time.time() + self.shift
            header = struct.pack("!BBbbII4s", 0x24, 2, 6, -20, 0, 0, b"\x7f\0\0\1")
            self.socket.sendto(header + stamp(now - 1) + question[40:48] + stamp(now) + stamp(now), who)


def free_port():
    """None that the system gives to an outgoing connection by chance while the broker is away."""
    while True:
        port = random.randrange(12000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


class World:
    def __init__(self, elf, folder):
        self.elf, self.folder, self.processes, self.mark = elf, folder, [], 0
        self.time = TimeServer()
        self.port = free_port()

    def prepare(self):
        folder = self.folder
        self.write("more.toml", f'ntp_server = "{HOST}:{self.time.port}"\nretry_seconds_max = 1\n')
        self.certs("certificates", "init")
        self.certs("certificates", "server", "localhost", "--ip", HOST)
        self.device("certificates", DEVICE)
        self.certs("certificates", "device", "operator")
        self.write(
            "nightjar.toml",
            f'data_directory = "{folder}/data"\nhttp_listener = "off"\nlog_level = "debug"\n[[listeners]]\naddress = "127.0.0.1:{self.port}"\n'
            f'[listeners.tls]\ncertificate_file = "{folder}/certificates/servers/localhost.crt"\n'
            f'key_file = "{folder}/certificates/servers/localhost.key"\nca_file = "{folder}/certificates/ca.crt"\n'
            f'crl_file = "{folder}/certificates/ca.crl"\nrequire_certificate = true\nuse_identity_as_username = true\n',
        )
        self.start_broker()

    def write(self, name, text):
        with open(os.path.join(self.folder, name), "w", encoding="utf-8") as file:
            file.write(text)

    def certs(self, directory, *arguments):
        command = [os.environ["NIGHTJAR_CERTS_BIN"], "--dir", directory, *arguments]
        subprocess.run(command, cwd=self.folder, check=True, stdout=subprocess.DEVNULL)

    def device(self, directory, name):
        more = ("--esp", "--esp-config", "more.toml", "--broker", HOST, "--port", str(self.port))
        self.certs(directory, "device", name, *more)

    def spawn(self, what, command):
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        process.lines = Lines(process.stdout, what)
        self.processes.append(process)
        return process

    def start_broker(self):
        self.broker = self.spawn("the broker", [os.environ["NIGHTJAR_BIN"], "-c", "nightjar.toml"])
        self.broker.lines.wait_for(" running")

    def start_machine(self, flags=0, directory="certificates"):
        blob = f"{directory}/esp/{DEVICE}/provisioning.bin"
        command = ["qemu-system-riscv32", "-M", "virt", "-cpu", "rv32,a=off,f=off,d=off", "-m", "8M", "-bios", "none"]
        command += ["-kernel", self.elf, "-nographic", "-monitor", "none", "-serial", "stdio"]
        command += ["-global", "virtio-mmio.force-legacy=false", "-netdev", "user,id=net,ipv6=off"]
        command += ["-device", "virtio-net-device,netdev=net", "-device", "virtio-rng-device"]
        command += ["-device", f"loader,file={blob},addr={PROVISIONING:#x},force-raw=on"]
        command += ["-device", f"loader,addr={FLAGS:#x},data={flags},data-len=4"]
        self.machine = self.spawn("the machine", command)
        return self.machine

    def client(self, program, *arguments):
        own = ["--cafile", "certificates/ca.crt", "--cert", "certificates/devices/operator.crt"]
        own += ["--key", "certificates/devices/operator.key", "-h", "localhost", "-p", str(self.port)]
        return [program, *own, *arguments]

    def watch(self):
        """Sees everything of the device, what is retained, too; the broker keeps what it has to see while it is away."""
        topics = ["-t", f"devices/{DEVICE}/#", "-t", f"consumer/response/{DEVICE}"]
        command = self.client("mosquitto_sub", "-i", "watcher", "-c", "-q", "1", "-v", "-d", *topics)
        watcher = self.spawn("mosquitto_sub", ["stdbuf", "-oL", *command])
        watcher.lines.wait_for("received SUBACK")
        return watcher

    def command(self, number, name, **data):
        payload = {"id": number, "believerGuarantee": "RECEIPT_CONFIRMATION", "command": name, "data": data}
        payload["currentTimestamp"] = int(time.time() * 1000)
        arguments = ("-q", "1", "-t", f"consumer/request/{DEVICE}", "-m", json.dumps(payload))
        subprocess.run(self.client("mosquitto_pub", *arguments), cwd=self.folder, check=True, timeout=PATIENCE)

    def end(self, process):
        process.kill()
        process.wait()
        self.processes.remove(process)

    def end_all(self):
        for process in list(self.processes):
            self.end(process)


def message_of(line, topic):
    """The JSON of a message of that topic, if the line of mosquitto_sub is one."""
    prefix = topic + " "
    return json.loads(line[len(prefix) :]) if line.startswith(prefix) else None


def answer_to(watcher, number, status):
    topic = f"consumer/response/{DEVICE}"

    def fits(line):
        answer = message_of(line, topic)
        return answer is not None and answer["id"] == number and answer["deliveryStatus"] == status

    return message_of(watcher.lines.wait_for(fits), topic)


def readings(watcher):
    topic = f"devices/{DEVICE}/telemetry/uptime"
    messages = (message_of(line, topic) for line in watcher.lines.all())
    return [message["sequence"] for message in messages if message is not None]


def a_device_lives(world, version):
    """mTLS, readings in order, a command round trip, a broker that is killed and comes back, good-bye, exit code 0."""
    world.time.shift, world.time.silent = 0.0, False
    watcher = world.watch()
    machine = world.start_machine(TLS_1_2 if version == "1.2" else 0)
    machine.lines.wait_for(f"TLS {version} with {HOST}:{world.port}")
    world.broker.lines.wait_for(f"u'{DEVICE}'")
    watcher.lines.wait_for(f'devices/{DEVICE}/status {{"state":"online"}}')
    watcher.lines.wait_for('"clock":"known"')
    world.command(1, "digitalWrite", pinNumber=5, pinValue=True)
    machine.lines.wait_for("pin 5 is high")
    answer_to(watcher, 1, "DELIVERED")
    answer_to(watcher, 1, "COMPLETED")
    world.command(2, "digitalWrite", pinNumber=6, pinValue=True)
    refused = answer_to(watcher, 2, "COMPLETED_WITH_ERROR")
    if refused.get("reason") != "no such pin":
        raise Failed(f"pin 6 was answered with {refused}")
    before = readings(watcher)

    world.end(world.broker)
    world.end(watcher)
    machine.lines.wait_for("next connection in")
    # The buffer fills meanwhile.
    time.sleep(2)
    world.start_broker()
    watcher = world.watch()
    world.broker.lines.wait_for(f"u'{DEVICE}'")
    world.command(3, "digitalWrite", pinNumber=5, pinValue=False)
    machine.lines.wait_for("pin 5 is low")
    answer_to(watcher, 3, "COMPLETED")
    watcher.lines.wait_for(f"devices/{DEVICE}/telemetry/uptime")
    world.command(4, "stop")
    watcher.lines.wait_for(f'devices/{DEVICE}/status {{"state":"offline"}}')
    code = machine.wait(timeout=PATIENCE)
    if code != 0:
        raise Failed(f"the machine ended with {code}")
    # What was in flight when the broker was killed comes twice; nothing is missing, and nothing is overtaken.
    came = before + readings(watcher)
    first_time = [number for index, number in enumerate(came) if number not in came[:index]]
    if not first_time or first_time != list(range(1, len(first_time) + 1)):
        raise Failed(f"readings are missing or out of order: {came}")
    machine.lines.wait_for("heap:")
    notes = [line for line in machine.lines.seen if "heap:" in line]
    world.end(watcher)
    world.processes.remove(machine)
    return f"{len(first_time)} readings, none lost, in order; {notes[0].split('INFO')[1].strip()}"


def refused_by_the_broker(world, version):
    """Who shows no certificate is refused, with the reason in the broker's log."""
    world.time.shift = 0.0
    machine = world.start_machine(ANONYMOUS | (TLS_1_2 if version == "1.2" else 0))
    world.broker.lines.wait_for("sent no certificates")
    machine.lines.wait_for("next connection in")
    if any(f"u'{DEVICE}'" in line for line in world.broker.lines.all()[world.mark :]):
        raise Failed("it was let in")
    world.end(machine)
    return "the broker's log: peer sent no certificates"


def refused_by_the_device(world, shift, why, directory="certificates"):
    """The device does not go on with a broker whose certificate is not in order."""
    world.time.shift = shift
    machine = world.start_machine(directory=directory)
    said = machine.lines.wait_for(lambda line: "the broker's certificate" in line)
    if why not in said:
        raise Failed(f"it said: {said}")
    if any("TLS 1" in line for line in machine.lines.seen):
        raise Failed("it went on")
    world.end(machine)
    return f"the device: the broker's certificate {why}"


def no_time_no_connection(world):
    """A device that nobody tells the time does not even try."""
    world.time.silent = True
    connections = sum("New connection" in line for line in world.broker.lines.all())
    machine = world.start_machine()
    machine.lines.wait_for("time: no answer")
    machine.lines.wait_for("time: no answer")
    if sum("New connection" in line for line in world.broker.lines.all()) != connections:
        raise Failed("it connected without the time")
    world.time.silent = False
    machine.lines.wait_for("TLS 1.3 with")
    world.end(machine)
    return "no connection until the time was told"


def revoked(world):
    """A certificate that was revoked is refused after a reload."""
    world.certs("certificates", "revoke", DEVICE)
    world.broker.send_signal(signal.SIGHUP)
    machine = world.start_machine()
    world.broker.lines.wait_for("Revoked")
    machine.lines.wait_for("next connection in")
    world.end(machine)
    return "the broker's log: Revoked"


def prove(world):
    year = 365 * 24 * 3600
    world.certs("others", "init")
    world.certs("others", "server", "localhost", "--ip", HOST)
    world.device("others", DEVICE)
    proofs = [
        ("TLS 1.2: a device lives", lambda: a_device_lives(world, "1.2")),
        ("TLS 1.3: a device lives", lambda: a_device_lives(world, "1.3")),
        ("TLS 1.2: no certificate", lambda: refused_by_the_broker(world, "1.2")),
        ("TLS 1.3: no certificate", lambda: refused_by_the_broker(world, "1.3")),
        ("in 20 years", lambda: refused_by_the_device(world, 20 * year, "has expired")),
        ("before it was issued", lambda: refused_by_the_device(world, 1_767_300_000 - time.time(), "is not yet valid")),
        ("another authority", lambda: refused_by_the_device(world, 0.0, "is not of the authority", "others")),
        ("nobody tells the time", lambda: no_time_no_connection(world)),
        ("revoked", lambda: revoked(world)),
    ]
    for name, proof in proofs:
        world.mark = len(world.broker.lines.all())
        began = time.monotonic()
        print(f"{name}: {proof()} ({time.monotonic() - began:.1f} s)", flush=True)


def main():
    elf = os.path.abspath(sys.argv[1])
    for name in ("NIGHTJAR_BIN", "NIGHTJAR_CERTS_BIN"):
        os.environ[name] = os.path.abspath(os.environ[name])
    folder = tempfile.mkdtemp(prefix="nightjar-qemu-")
    world = World(elf, folder)
    try:
        world.prepare()
        prove(world)
    except (Failed, subprocess.SubprocessError) as failure:
        print(f"FAILED: {failure}")
        for process in world.processes:
            print(f"-- {process.lines.what}:")
            print("\n".join(process.lines.all()[-40:]))
        sys.exit(1)
    finally:
        world.end_all()
        shutil.rmtree(folder, ignore_errors=True)
    print("all of it holds")


main()
