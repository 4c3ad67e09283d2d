#!/usr/bin/env python3
"""Runs real MQTT clients against a broker: one line a case, then `N passed, N failed`.

    tests/interop/run.sh --addr 127.0.0.1:1883                       against a broker that runs already
    tests/interop/run.sh --broker-cmd 'target/debug/nightjar -p {port}'
    tests/interop/run.sh --mosquitto                                 against Debian's mosquitto, to check the cases
    tests/interop/run.sh --addr 127.0.0.1:1883 --ws-addr 127.0.0.1:8080   the clients that can, over WebSocket, too
    tests/interop/run.sh ... --client paho --version 5 --case qos_2  less of it (each may be repeated)

The clients live in the folder that `setup.sh` fills. Each client library runs next to the others; its own cases run one
after the other. Everything is bounded: a wait, a case and the whole run.
"""

import argparse
import asyncio
import os
import pathlib
import random
import secrets
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import time

from cases import CASES, V3_1_1, V5
from driver import Adapter, Client, ClientError, Failed
from mosquitto import MosquittoClients
from table import ALL, CANNOT, CLIENTS, HIDES_DISCONNECT, KNOWN_FAULTS, OVER_WEB_SOCKET, VERSIONS

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ADAPTERS = {"paho": "paho_client.py", "aiomqtt": "aiomqtt_client.py", "gmqtt": "gmqtt_client.py"}


class NotHere(Exception):
    """The broker under test lacks what a case is about, by its configuration."""


class World:
    """What one case has: its client library, its protocol version, its own topics and client ids."""

    def __init__(self, library, version, name, settings):
        self.library = library
        self.version = version
        self.name = name
        self.settings = settings
        self.wait_seconds = settings.wait_seconds
        self.broker_maximum_packet_size = settings.broker_maximum_packet_size
        # mosquitto_sub cannot connect without subscribing, so it subscribes again when it resumes.
        self.subscribes_to_connect = library.name == "mosquitto"
        self.hides_disconnect = library.name in HIDES_DISCONNECT
        self.opened = []
        self.own_adapters = []
        self.retained = set()

    def topic(self, suffix):
        """A topic or filter of this case only."""
        return f"interop/{self.settings.nonce}/{self.library.name}/{self.version}/{self.name}/{suffix}"

    def client_id(self):
        """At most 23 characters, as 3.1 wants it."""
        self.settings.clients_made += 1
        return f"{self.settings.nonce}-{self.settings.clients_made}"

    def session_expiry(self, seconds):
        return {"session_expiry_interval": seconds} if self.version == V5 else {}

    def will(self, topic, payload, qos, retain=False, **properties):
        if retain:
            self.retained.add(topic)
        return {"topic": topic, "payload": payload.encode().hex(), "qos": qos, "retain": retain, "properties": properties}

    def not_here(self, reason):
        return NotHere(reason)

    async def connect(self, **options):
        return await self._connect(self.library, self.version, None, options)

    async def connect_in_own_process(self, **options):
        """For `kill`: alone in its process, with a subscription that makes mosquitto_sub connect at all."""
        adapter = None
        if self.library.name != "mosquitto":
            adapter = await self.library.start_adapter()
            self.own_adapters.append(adapter)
        client = await self._connect(self.library, self.version, adapter, options)
        if self.library.name == "mosquitto" and "will" in options:
            await client.subscribe(self.topic("nothing"))
        return client

    async def connect_reference(self, version):
        """A paho client, for what is said between libraries and versions."""
        return await self._connect(self.settings.libraries["paho"], version, None, {})

    async def kill(self, client):
        """The abnormal close: SIGKILL to the process of this client."""
        if isinstance(client, MosquittoClients):
            await client.kill()
        else:
            await client.adapter.kill()

    async def settle(self, client):
        """Lets the last exchange of a client end that could not bear its resumption."""
        if self.library.name == "rumqttc":
            # It ends its connection at a PUBREL whose PUBLISH it has forgotten, and it forgets all when it is killed.
            for _ in range(2):
                await client.publish(self.topic("settled"), qos=1)

    async def give_up(self, client):
        """Ends a client whose connection is gone."""
        if isinstance(client, MosquittoClients):
            await client.kill()

    async def forget_session(self, client_id):
        """Leaves no session behind."""
        client = await self.connect(client_id=client_id)
        if isinstance(client, MosquittoClients):
            await client.subscribe(self.topic("nothing"))
        await client.disconnect()

    async def end(self):
        """Closes what the case left open, and clears its retained messages."""
        for client in self.opened:
            try:
                if not client.closed.done():
                    await client.disconnect()
            except (ClientError, Failed):
                pass
            if isinstance(client, MosquittoClients):
                await client.kill()
        for adapter in self.own_adapters:
            await adapter.kill()

    async def _connect(self, library, version, adapter, options):
        client = await library.client(adapter)
        self.opened.append(client)
        options = {"protocol_version": version, "client_id": self.client_id(), **options}
        client.connack = await client.connect(**options)
        code = client.connack.get("reason_code")
        if code:
            raise Failed(f"CONNACK reason code {code}")
        return client


class Library:
    """One client library and its shared adapter process."""

    def __init__(self, name, settings):
        self.name = name
        # The library whose adapter it is.
        self.base = OVER_WEB_SOCKET.get(name, name)
        self.settings = settings
        self.adapter = None
        self.starting = asyncio.Lock()
        self.clients_made = 0

    async def client(self, adapter=None):
        over_web_socket = self.name in OVER_WEB_SOCKET
        address = self.settings.ws_address if over_web_socket else self.settings.address
        wait_seconds = self.settings.wait_seconds
        if self.name == "mosquitto":
            return MosquittoClients(address, wait_seconds)
        if adapter is None:
            async with self.starting:
                if self.adapter is None or self.adapter.process.returncode is not None:
                    self.adapter = await self.start_adapter()
            adapter = self.adapter
        self.clients_made += 1
        return Client(adapter, f"c{self.clients_made}", address, wait_seconds, over_web_socket)

    async def start_adapter(self):
        environment = {**os.environ, "NIGHTJAR_INTEROP_NODE": str(self.settings.home / "node"), "PYTHONUNBUFFERED": "1"}
        adapter = Adapter(self.argv(), environment, self.settings.wait_seconds + 5)
        self.settings.adapters.append(adapter)
        await adapter.start()
        return adapter

    def argv(self):
        if self.base in ADAPTERS:
            return [str(self.settings.home / "venv/bin/python"), str(HERE / "adapters" / ADAPTERS[self.base])]
        if self.base == "mqtt.js":
            return ["node", str(HERE / "adapters/mqttjs_client.mjs")]
        return [str(self.settings.rumqttc)]

    def missing(self):
        """What must be installed before this client can run, or None."""
        home = self.settings.home
        if self.name == "mosquitto":
            wanted = ("mosquitto_pub", "mosquitto_sub", "mosquitto_rr")
            absent = [program for program in wanted if shutil.which(program) is None]
            return f"{', '.join(absent)} (package mosquitto-clients)" if absent else None
        if self.base in ADAPTERS:
            return None if (home / "venv/.complete").exists() else f"the Python clients in {home / 'venv'}"
        if self.base == "mqtt.js":
            if shutil.which("node") is None:
                return "node (package nodejs)"
            return None if (home / "node/node_modules/mqtt").is_dir() else f"mqtt.js in {home / 'node'}"
        if self.settings.rumqttc is None or not pathlib.Path(self.settings.rumqttc).exists():
            return "the rumqttc adapter: cargo build -p nightjar-tests --bin interop-rumqttc, or --rumqttc PATH"
        return None


class Broker:
    """A broker that the runner starts and ends itself."""

    def __init__(self, command, folder):
        self.command = command
        self.log_path = folder / "broker.log"
        self.process = None

    async def start(self, port):
        argv = [part.replace("{port}", str(port)) for part in self.command]
        with self.log_path.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(*argv, stdout=log, stderr=log)
        for _ in range(400):
            if self.process.returncode is not None:
                raise SystemExit(f"the broker ended with {self.process.returncode}: {self.log_tail()}")
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            except OSError:
                await asyncio.sleep(0.05)
        raise SystemExit(f"the broker does not listen on port {port}: {self.log_tail()}")

    async def end(self):
        """SIGTERM; the exit code, or None if it had to be killed."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self.process.wait(), 15)
            except asyncio.TimeoutError:
                self.process.kill()
                await self.process.wait()
                return None
        return self.process.returncode

    def log_tail(self):
        return self.log_path.read_text(errors="replace")[-800:] if self.log_path.exists() else ""


class Report:
    def __init__(self, settings):
        self.settings = settings
        self.passed = self.failed = self.cannot = self.not_here = 0
        self.failures = []

    def line(self, kind, name, text=""):
        print(f"{kind:7} {name}{': ' if text else ''}{text}", flush=True)

    def fail(self, name, text):
        self.failed += 1
        self.failures.append(f"{name}: {text}")
        self.line("FAIL", name, text)


async def run_library(library, report, settings):
    for version in settings.versions:
        for case_name, (function, case_versions) in CASES.items():
            if version not in case_versions or case_name not in settings.cases:
                continue
            name = f"{library.name} {VERSIONS[version]} {case_name}"
            reason = cannot(library.name, version, case_name)
            if reason is not None:
                report.cannot += 1
                report.line("cannot", name, reason)
                continue
            await run_case(library, version, case_name, function, name, report, settings)


async def run_case(library, version, case_name, function, name, report, settings):
    world = World(library, version, case_name, settings)
    began = time.monotonic()
    try:
        await asyncio.wait_for(function(world), settings.case_seconds)
        problem = None
    except NotHere as reason:
        report.not_here += 1
        report.line("not here", name, str(reason))
        return
    except asyncio.TimeoutError:
        problem = f"not finished in {settings.case_seconds} s"
    except (Failed, ClientError) as error:
        problem = f"{type(error).__name__}: {error}"
    except Exception as error:  # A fault of a case itself must not end the run.
        problem = f"{type(error).__name__}: {error}"
    finally:
        try:
            await asyncio.wait_for(world.end(), 60)
        except asyncio.TimeoutError:
            report.line("note", name, "its clients did not end in 60 s")
    known = next(
        (
            settings.known_faults[key]
            for key in ((ALL, version, case_name), (ALL, ALL, case_name))
            if key in settings.known_faults
        ),
        None,
    )
    if problem is None:
        report.passed += 1
        report.line("pass", name, f"{time.monotonic() - began:.2f} s" if settings.times else "")
    elif known:
        report.not_here += 1
        report.line("fault", name, f"{known} ({problem})")
    else:
        report.fail(name, problem)


def cannot(library_name, version, case_name):
    for versions, cases, reason in CANNOT[library_name]:
        if (versions == ALL or version in versions) and (cases == ALL or case_name in cases):
            return reason
    return None


def check_table():
    """An entry for a case that does not exist (any more) would hide nothing and tell lies."""
    for client, entries in CANNOT.items():
        for _, cases, _ in entries:
            for case_name in () if cases == ALL else cases:
                if case_name not in CASES:
                    raise SystemExit(f"table.py: {client} names {case_name}, which is no case")


def free_port():
    """None that the system gives to an outgoing connection by chance, which could be connected to itself."""
    while True:
        port = random.randrange(12000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


def mosquitto_command(folder, settings):
    """Debian's broker with the limits that the cases know."""
    configuration = folder / "mosquitto.conf"
    port = free_port()
    configuration.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_packet_size {settings.broker_maximum_packet_size}\n"
    )
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise SystemExit("mosquitto is missing (package mosquitto)")
    return [program, "-c", str(configuration)], port


async def run(settings):
    report = Report(settings)
    settings.adapters = []
    settings.clients_made = 0
    settings.nonce = secrets.token_hex(3)
    settings.libraries = {name: Library(name, settings) for name in CLIENTS}
    # paho is also the reference for what is said between libraries.
    missing = {name: settings.libraries[name].missing() for name in dict.fromkeys([*settings.clients, "paho"])}
    missing = {name: what for name, what in missing.items() if what is not None}
    if missing:
        for name, what in missing.items():
            print(f"missing for {name}: {what}")
        print("tests/interop cannot run: install its clients with tests/interop/setup.sh")
        return 3
    broker = None
    with tempfile.TemporaryDirectory(prefix="nightjar-interop-") as folder:
        folder = pathlib.Path(folder)
        try:
            if settings.addr is None:
                if settings.mosquitto:
                    command, port = mosquitto_command(folder, settings)
                else:
                    command, port = shlex.split(settings.broker_cmd), free_port()
                broker = Broker(command, folder)
                await broker.start(port)
                settings.address = ("127.0.0.1", port)
            try:
                reference = await settings.libraries["paho"].client()
                await reference.connect(protocol_version=V3_1_1, client_id=f"{settings.nonce}-0")
                await reference.disconnect()
            except ClientError as error:
                # Every case would fail, each after its longest wait.
                print(f"the broker does not let a client connect: {error}")
                print("0 passed, 1 failed")
                return 1
            libraries = [settings.libraries[name] for name in settings.clients]
            await asyncio.gather(*(run_library(library, report, settings) for library in libraries))
        finally:
            for adapter in settings.adapters:
                await adapter.kill()
            code = await broker.end() if broker else 0
            if code and not report.failed:
                print(broker.log_tail())
        if code != 0:
            report.fail("broker SIGTERM", f"ended with {code}: {broker.log_tail()}")
        if report.failed and broker:
            print(f"--- end of the broker's log\n{broker.log_tail()}---")
    for failure in report.failures:
        print(f"failed: {failure}")
    extra = [f"{report.cannot} that a client cannot do"]
    if report.not_here:
        extra.append(f"{report.not_here} not with this broker")
    print(f"({', '.join(extra)})")
    print(f"{report.passed} passed, {report.failed} failed", flush=True)
    return 1 if report.failed or not report.passed else 0


async def run_bounded(settings):
    task = asyncio.ensure_future(run(settings))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        return await asyncio.wait_for(task, settings.run_seconds)
    except asyncio.TimeoutError:
        print(f"not finished in {settings.run_seconds} s: 0 passed, 1 failed")
    except asyncio.CancelledError:
        print("interrupted: 0 passed, 1 failed")
    return 1


def address_of(text):
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    return (host.strip("[]"), int(port))


def parse_arguments():
    parser = argparse.ArgumentParser(description="Real MQTT clients against a broker.")
    broker = parser.add_mutually_exclusive_group(required=True)
    broker.add_argument("--addr", help="HOST:PORT of a broker that runs already")
    broker.add_argument("--broker-cmd", help="starts the broker; {port} is replaced by a free port")
    broker.add_argument("--mosquitto", action="store_true", help="starts Debian's mosquitto")
    broker.add_argument("--table", action="store_true", help="prints what each client cannot do, and why")
    parser.add_argument("--ws-addr", help="HOST:PORT where the same broker speaks WebSocket")
    parser.add_argument("--client", action="append", choices=CLIENTS, help="only this client")
    parser.add_argument("--version", action="append", choices=["3.1", "3.1.1", "5.0", "3", "4", "5"])
    parser.add_argument("--case", action="append", choices=list(CASES), help="only this case")
    parser.add_argument("--broker-maximum-packet-size", type=int, default=2_000_000, help="0: the broker has none")
    parser.add_argument("--known-faults", choices=list(KNOWN_FAULTS), help="failures that are this broker's known faults")
    parser.add_argument("--rumqttc", help="path of the interop-rumqttc program")
    parser.add_argument("--wait-seconds", type=float, default=20, help="longest wait for one event")
    parser.add_argument("--case-seconds", type=float, default=90)
    parser.add_argument("--run-seconds", type=float, default=600)
    parser.add_argument("--times", action="store_true", help="print how long each case took")
    settings = parser.parse_args()
    without = () if settings.ws_addr else OVER_WEB_SOCKET
    settings.clients = settings.client or [name for name in CLIENTS if name not in without]
    settings.cases = settings.case or list(CASES)
    numbers = {text: number for number, text in VERSIONS.items()} | {str(number): number for number in VERSIONS}
    settings.versions = [numbers[text] for text in settings.version] if settings.version else list(VERSIONS)
    settings.known_faults = KNOWN_FAULTS.get(settings.known_faults, {})
    settings.home = pathlib.Path(os.environ.get("NIGHTJAR_INTEROP_HOME", ROOT / "target/interop"))
    if settings.rumqttc is None:
        target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
        built = [path for path in (target / "debug/interop-rumqttc", target / "release/interop-rumqttc") if path.exists()]
        settings.rumqttc = max(built, key=lambda path: path.stat().st_mtime, default=None)
    settings.address = address_of(settings.addr)
    settings.ws_address = address_of(settings.ws_addr)
    if settings.ws_address is None and any(name in OVER_WEB_SOCKET for name in settings.clients):
        parser.error("a client over WebSocket needs --ws-addr")
    return settings


def print_table():
    for client, entries in CANNOT.items():
        for versions, cases, reason in entries:
            versions = "all versions" if versions == ALL else ", ".join(VERSIONS[version] for version in versions)
            print(f"{client} ({versions}) cannot {'anything' if cases == ALL else ', '.join(cases)}: {reason}")
    for client, reason in HIDES_DISCONNECT.items():
        print(f"{client} (5.0) hides the reason code of a DISCONNECT: {reason}")


if __name__ == "__main__":
    check_table()
    arguments = parse_arguments()
    if arguments.table:
        print_table()
        sys.exit(0)
    sys.exit(asyncio.run(run_bounded(arguments)))
