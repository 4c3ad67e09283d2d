"""mosquitto_pub, mosquitto_sub and mosquitto_rr behind the interface of `driver.Client`.

One handle is one mosquitto_sub (started by the first subscribe) and one mosquitto_pub for every publish, so the two halves of
a handle are two MQTT clients. What mosquitto_sub tells on its debug lines is how a SUBACK or the end of a connection is
awaited. A killed mosquitto_sub is the abnormal close.
"""

import asyncio

from driver import ClientError, Failed, Inbox

VERSION_NAMES = {3: "mqttv31", 4: "mqttv311", 5: "mqttv5"}
# One line a message: topic, QoS, RETAIN, payload in hexadecimal, and the properties a format letter exists for.
FORMAT = "M\\t%t\\t%q\\t%r\\t%x\\t%P\\t%C\\t%R\\t%D\\t%E\\t%F\\t%S"


class MosquittoClients(Inbox):
    def __init__(self, address, wait_seconds):
        super().__init__(wait_seconds)
        self.address = address
        self.options = None
        self.subscriber = None
        self.reader = None
        self.last_lines = []
        self.suback = None
        self.connack = None

    async def connect(self, **options):
        """Remembers how to connect; mosquitto_sub does it together with its SUBSCRIBE."""
        self.options = options
        self.connack = {"session_present": None}
        return self.connack

    async def subscribe(self, *filters, qos=0, subscription_identifier=None, **options):
        filters = [f["topic_filter"] if isinstance(f, dict) else f for f in filters]
        if self.subscriber is not None:
            raise ClientError("mosquitto_sub subscribes once")
        self.suback = asyncio.get_running_loop().create_future()
        # stdbuf: in a pipe its debug lines would otherwise wait for a full buffer.
        argv = ["stdbuf", "-oL", "mosquitto_sub", "-d", "-F", FORMAT, "-q", str(qos), *self._connect_argv(self.options)]
        for topic_filter in filters:
            argv += ["-t", topic_filter]
        if options.get("no_local"):
            raise ClientError("mosquitto_sub and mosquitto_pub are two clients")
        if options.get("retain_as_published"):
            argv += ["--retain-as-published"]
        if options.get("retain_handling") == 2:
            argv += ["--retain-handling", "never"]
        if subscription_identifier is not None:
            argv += ["-D", "subscribe", "subscription-identifier", str(subscription_identifier)]
        self.subscriber = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=64 * 1024 * 1024,
        )
        self.reader = asyncio.create_task(self._read())
        try:
            return await asyncio.wait_for(asyncio.shield(self.suback), self.wait_seconds)
        except asyncio.TimeoutError:
            raise ClientError(f"mosquitto_sub: no SUBACK: {self.last_lines}") from None

    async def publish(self, topic, payload=b"", qos=0, retain=False, **properties):
        payload = payload.encode() if isinstance(payload, str) else payload
        await self._publish(topic, payload, qos, retain, properties, lines=False)

    async def publish_many(self, messages):
        """Messages of one topic go through one mosquitto_pub -l, in order; topics one after the other."""
        by_topic = {}
        for message in messages:
            by_topic.setdefault((message["topic"], message["qos"], message["retain"]), []).append(message)
        for (topic, qos, retain), group in by_topic.items():
            payload = b"".join(bytes.fromhex(message["payload"]) + b"\n" for message in group)
            await self._publish(topic, payload, qos, retain, group[0]["properties"], lines=True)

    async def disconnect(self, with_will_message=False):
        """SIGTERM makes mosquitto_sub send DISCONNECT; the one of 5.0 asks for the Will Message, always."""
        if self.subscriber is None:
            return
        if self.subscriber.returncode is None:
            self.subscriber.terminate()
        try:
            await asyncio.wait_for(self.subscriber.wait(), self.wait_seconds)
        except asyncio.TimeoutError:
            await self.kill()
            raise Failed("mosquitto_sub did not end after SIGTERM") from None
        await self.reader

    async def kill(self):
        if self.subscriber is not None:
            if self.subscriber.returncode is None:
                self.subscriber.kill()
            await self.subscriber.wait()
            await asyncio.wait([self.reader], timeout=5)

    async def expect_closed(self):
        """mosquitto_pub has ended when it has published, so there is nothing to wait for."""
        if self.subscriber is None:
            return {"reason_code": None, "detail": "mosquitto_pub ended"}
        return await super().expect_closed()

    async def request(self, topic, response_topic, payload, correlation_data):
        """mosquitto_rr: subscribes, asks, prints the answer."""
        argv = ["mosquitto_rr", "-q", "1", "-t", topic, "-e", response_topic, "-W", str(int(self.wait_seconds))]
        argv += ["-F", FORMAT, "-m", payload.decode(), *self._connect_argv(self.options)]
        if correlation_data is not None:
            argv += ["-D", "publish", "correlation-data", correlation_data.decode()]
        output = await self._run(argv, b"")
        for line in output.splitlines():
            if line.startswith("M\t"):
                self.deliver(parse_message(line))
                return (await self.expect(1))[0]
        raise Failed(f"mosquitto_rr printed no answer: {output[-300:]!r}")

    def _connect_argv(self, options):
        host, port = self.address
        version = options["protocol_version"]
        argv = ["-h", host, "-p", str(port), "-V", VERSION_NAMES[version]]
        # -i takes no empty text; without it the client id is empty.
        argv += ["-i", options["client_id"]] if options["client_id"] else []
        if not options.get("clean_start", True):
            argv += ["-c"]
        if "keep_alive" in options:
            argv += ["-k", str(options["keep_alive"])]
        if "username" in options:
            argv += ["-u", options["username"], "-P", options["password"]]
        if options.get("session_expiry_interval") is not None:
            argv += ["-x", str(options["session_expiry_interval"])]
        for name in ("receive_maximum", "maximum_packet_size", "topic_alias_maximum"):
            if options.get(name) is not None:
                argv += ["-D", "connect", name.replace("_", "-"), str(options[name])]
        for key, value in options.get("user_properties", []):
            argv += ["-D", "connect", "user-property", key, value]
        will = options.get("will")
        if will is not None:
            argv += ["--will-topic", will["topic"], "--will-qos", str(will["qos"])]
            argv += ["--will-payload", bytes.fromhex(will["payload"]).decode()]
            argv += ["--will-retain"] if will["retain"] else []
            argv += property_argv("will", will["properties"])
        return argv

    async def _publish(self, topic, payload, qos, retain, properties, lines):
        # A client of its own: with the id of the subscriber it would take the connection over.
        options = {key: value for key, value in self.options.items() if key not in ("will", "clean_start")}
        client_id = options["client_id"] + "p" if options["client_id"] else ""
        options = {**options, "client_id": client_id, "session_expiry_interval": None}
        argv = ["mosquitto_pub", "-t", topic, "-q", str(qos), *self._connect_argv(options)]
        argv += ["-r"] if retain else []
        argv += ["-l"] if lines else ["-n"] if not payload else ["-s"]
        argv += property_argv("publish", properties)
        await self._run(argv, payload)

    async def _run(self, argv, stdin):
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=64 * 1024 * 1024,
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(stdin), self.wait_seconds)
        except asyncio.TimeoutError:
            process.kill()
            await process.wait()
            raise ClientError(f"{argv[0]} did not end in {self.wait_seconds} s") from None
        output = output.decode(errors="replace")
        if process.returncode != 0:
            raise ClientError(f"{argv[0]} exit {process.returncode}: {output.strip()[-300:]}")
        return output

    async def _read(self):
        detail, reason_code = "the connection ended", None
        while line := await self.subscriber.stdout.readline():
            line = line.decode(errors="replace").rstrip("\n")
            if line.startswith("M\t"):
                self.deliver(parse_message(line))
                continue
            self.last_lines = [*self.last_lines[-4:], line]
            if line.startswith("Subscribed (mid: ") and not self.suback.done():
                # "Subscribed (mid: 1): 0, 2"
                codes = line.split("): ", 1)[1]
                self.suback.set_result([int(code) for code in codes.split(", ")])
            elif line.endswith("received CONNACK (0)") and not self.options["client_id"]:
                # "Client auto-7 received CONNACK (0)": by then it calls itself what the broker calls it.
                self.connack["properties"] = {"assigned_client_id": line.split(" ")[1]}
            elif "eceived DISCONNECT (" in line:
                # "Received DISCONNECT (142)"
                reason_code = int(line.rsplit("(", 1)[1].rstrip(")"))
                self.deliver({"event": "closed", "reason_code": reason_code, "detail": line})
            elif line.startswith(("Error", "Connection error")):
                detail = line
        if not self.suback.done():
            self.suback.set_exception(ClientError(f"mosquitto_sub ended: {self.last_lines}"))
            self.suback.exception()
        self.deliver({"event": "closed", "reason_code": reason_code, "detail": detail})


def property_argv(packet, properties):
    """The -D arguments of one packet's properties."""
    argv = []
    for name, value in properties.items():
        if name == "user_properties":
            for key, text in value:
                argv += ["-D", packet, "user-property", key, text]
        elif name == "payload_format_indicator":
            argv += ["-D", packet, "payload-format-indicator", str(value)]
        elif name == "correlation_data":
            argv += ["-D", packet, "correlation-data", bytes.fromhex(value).decode()]
        else:
            argv += ["-D", packet, name.replace("_", "-"), str(value)]
    return argv


def parse_message(line):
    """A line of FORMAT. User properties are printed as `key:value key:value`, so the tests use neither in them."""
    fields = line.split("\t")[1:]
    fields += [""] * (11 - len(fields))
    topic, qos, retain, payload, users, content_type, response_topic, correlation, expiry, indicator, identifiers = fields
    properties = {}
    if users:
        properties["user_properties"] = [pair.split(":", 1) for pair in users.split(" ")]
    if content_type:
        properties["content_type"] = content_type
    if response_topic:
        properties["response_topic"] = response_topic
    if correlation:
        properties["correlation_data"] = correlation.encode().hex()
    if expiry:
        properties["message_expiry_interval"] = int(expiry)
    if indicator:
        properties["payload_format_indicator"] = int(indicator)
    if identifiers:
        properties["subscription_identifiers"] = [int(identifier) for identifier in identifiers.split(" ")]
    return {
        "event": "message",
        "topic": topic,
        "qos": int(qos),
        "retain": retain == "1",
        "payload": payload,
        "properties": properties,
    }
