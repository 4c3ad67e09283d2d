"""One way to talk to every MQTT client that is tested here.

An *adapter* is a small process around one client library. It reads requests as JSON lines from stdin and answers, and tells
what happened to its clients, as JSON lines on stdout. Here are the runner's side of that conversation and the handle that
the cases use. Payloads travel as hexadecimal text. mosquitto_pub and its siblings are programs of their own, so they have
the same interface in `mosquitto.py` without a process in between.

Requests `{"id": 1, "op": "connect", "client": "c1", ...}` are answered `{"id": 1, "ok": {...}}` or `{"id": 1, "error": "..."}`.
What nobody asked for is an event: `{"event": "message" | "closed", "client": "c1", ...}`.

This room knows nothing about any single client and nothing about the broker.
"""

import asyncio
import dataclasses
import json

LINE_BYTES_MAX = 64 * 1024 * 1024


class ClientError(Exception):
    """A client library said no, or its connection ended while it was asked for something."""


class Failed(Exception):
    """A case found something other than what it must find."""


@dataclasses.dataclass
class Message:
    """An Application Message as a client library handed it to its user. None: the client does not tell."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool | None
    properties: dict

    def __str__(self):
        payload = self.payload if len(self.payload) <= 40 else b"%d bytes" % len(self.payload)
        return f"{self.topic} {payload!r} qos={self.qos} retain={self.retain} {self.properties}"


class Inbox:
    """What one client received, and whether its connection still stands. Every wait has an end."""

    def __init__(self, wait_seconds):
        self.wait_seconds = wait_seconds
        self.messages = asyncio.Queue()
        self.closed = asyncio.get_running_loop().create_future()

    async def expect(self, count):
        """The next `count` messages, in the order of their arrival."""
        messages = []
        for number in range(count):
            try:
                messages.append(await asyncio.wait_for(self.messages.get(), self.wait_seconds))
            except asyncio.TimeoutError:
                got = ", ".join(str(message) for message in messages[-3:]) or "nothing"
                raise Failed(f"message {number + 1} of {count} did not come; before it: {got}") from None
        return messages

    async def expect_closed(self):
        """What the client says about the end of its connection."""
        try:
            return await asyncio.wait_for(asyncio.shield(self.closed), self.wait_seconds)
        except asyncio.TimeoutError:
            raise Failed("the connection was not closed") from None

    def deliver(self, event):
        if event["event"] == "message":
            self.messages.put_nowait(
                Message(
                    topic=event["topic"],
                    payload=bytes.fromhex(event["payload"]),
                    qos=event["qos"],
                    retain=event["retain"],
                    dup=event.get("dup"),
                    properties=event.get("properties") or {},
                )
            )
        elif event["event"] == "closed" and not self.closed.done():
            self.closed.set_result({"reason_code": event.get("reason_code"), "detail": event.get("detail", "")})


class Adapter:
    """One adapter process. Killing it is the abnormal close of every client in it."""

    def __init__(self, argv, environment, wait_seconds):
        self.argv = argv
        self.environment = environment
        self.wait_seconds = wait_seconds
        self.process = None
        self.inboxes = {}
        self.answers = {}
        self.next_id = 0
        self.reader = None
        self.stderr_reader = None
        self.stderr = b""

    async def start(self):
        self.process = await asyncio.create_subprocess_exec(
            *self.argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.environment,
            limit=LINE_BYTES_MAX,
        )
        self.reader = asyncio.create_task(self._read())
        self.stderr_reader = asyncio.create_task(self._read_stderr())
        await self.call("hello", None)

    async def call(self, op, client, **arguments):
        """Asks for one thing and waits for its answer."""
        self.next_id += 1
        request_id = self.next_id
        answer = asyncio.get_running_loop().create_future()
        self.answers[request_id] = answer
        request = {"id": request_id, "op": op, "client": client, **arguments}
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            await self.process.stdin.drain()
            return await asyncio.wait_for(answer, self.wait_seconds)
        except asyncio.TimeoutError:
            raise ClientError(f"no answer to {op} in {self.wait_seconds} s") from None
        except (BrokenPipeError, ConnectionResetError):
            raise ClientError(f"the adapter ended before {op}: {self._last_words()}") from None
        finally:
            self.answers.pop(request_id, None)

    async def kill(self):
        """SIGKILL: the kernel closes the sockets, no DISCONNECT is sent."""
        if self.process is None:
            return
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        for task in (self.reader, self.stderr_reader):
            if task is not None:
                await asyncio.wait([task], timeout=5)

    def register(self, client, inbox):
        self.inboxes[client] = inbox

    async def _read(self):
        while line := await self.process.stdout.readline():
            try:
                said = json.loads(line)
            except ValueError:
                self.stderr += b"not JSON: " + line[:200]
                continue
            if "event" in said:
                inbox = self.inboxes.get(said["client"])
                if inbox is not None:
                    inbox.deliver(said)
            elif said.get("id") in self.answers:
                answer = self.answers[said["id"]]
                if not answer.done():
                    if "ok" in said:
                        answer.set_result(said["ok"])
                    else:
                        answer.set_exception(ClientError(said.get("error", "unknown error")))
        for answer in self.answers.values():
            if not answer.done():
                answer.set_exception(ClientError(f"the adapter ended: {self._last_words()}"))

    async def _read_stderr(self):
        while chunk := await self.process.stderr.read(65536):
            self.stderr = (self.stderr + chunk)[-4000:]

    def _last_words(self):
        return self.stderr.decode(errors="replace").strip()[-600:] or "it said nothing"


class Client(Inbox):
    """One MQTT client inside an adapter process: the handle that the cases use."""

    def __init__(self, adapter, name, address, wait_seconds, over_web_socket=False):
        super().__init__(wait_seconds)
        self.adapter = adapter
        self.name = name
        self.address = address
        # Other adapters need not know of it.
        self.transport = {"over_web_socket": True} if over_web_socket else {}
        adapter.register(name, self)

    async def connect(self, **options):
        """CONNECT; gives what the client tells of the CONNACK."""
        host, port = self.address
        return await self.adapter.call("connect", self.name, host=host, port=port, **self.transport, **options)

    async def subscribe(self, *filters, qos=0, subscription_identifier=None, **options):
        """SUBSCRIBE; gives the reason codes of the SUBACK, or None where the client hides them."""
        filters = [f if isinstance(f, dict) else {"topic_filter": f, "qos": qos, **options} for f in filters]
        answer = await self.adapter.call(
            "subscribe", self.name, filters=filters, subscription_identifier=subscription_identifier
        )
        return answer.get("reason_codes")

    async def unsubscribe(self, *filters):
        await self.adapter.call("unsubscribe", self.name, filters=list(filters))

    async def publish(self, topic, payload=b"", qos=0, retain=False, **properties):
        """PUBLISH; returns when its acknowledgement is there (QoS 0: when it was handed to the socket)."""
        await self.publish_many([message(topic, payload, qos, retain, **properties)])

    async def publish_many(self, messages):
        """All of them without waiting in between; returns when all are acknowledged."""
        await self.adapter.call("publish_many", self.name, messages=messages)

    async def disconnect(self, with_will_message=False):
        """DISCONNECT (5.0: with reason code 4 if the Will Message shall be published); then the connection is closed."""
        await self.adapter.call("disconnect", self.name, reason_code=4 if with_will_message else 0)

    async def request(self, topic, response_topic, payload, correlation_data):
        """A request, and the first answer to it."""
        await self.subscribe(response_topic, qos=1)
        properties = {}
        if correlation_data is not None:
            properties = {"response_topic": response_topic, "correlation_data": correlation_data.hex()}
        await self.publish(topic, payload, qos=1, **properties)
        return (await self.expect(1))[0]


def message(topic, payload=b"", qos=0, retain=False, **properties):
    """A message as the adapters want it."""
    if isinstance(payload, str):
        payload = payload.encode()
    return {"topic": topic, "payload": payload.hex(), "qos": qos, "retain": retain, "properties": properties}
