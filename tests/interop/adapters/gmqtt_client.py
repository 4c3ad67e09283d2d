"""Adapter: gmqtt, an asyncio client with a codec of its own."""

import asyncio
import logging

import gmqtt
from gmqtt.storage import PersistentStorage
from lines import serve, tell_closed, tell_message

WAIT_SECONDS = 30
OUR_NAMES = {
    "content_type": "content_type",
    "message_expiry_interval": "message_expiry_interval",
    "payload_format_id": "payload_format_indicator",
    "response_topic": "response_topic",
    "correlation_data": "correlation_data",
    "user_property": "user_properties",
    "subscription_identifier": "subscription_identifiers",
    "will_delay_interval": "will_delay_interval",
    "topic_alias": "topic_alias",
}
THEIR_NAMES = {ours: theirs for theirs, ours in OUR_NAMES.items()}
LISTS = ("user_properties", "subscription_identifiers")
CONNECT_NAMES = ("session_expiry_interval", "receive_maximum", "maximum_packet_size", "topic_alias_maximum")
clients = {}


class Acknowledged(PersistentStorage):
    """gmqtt has no callback for PUBACK and PUBCOMP; its store of unacknowledged messages is where they show."""

    def __init__(self):
        super().__init__()
        self.removed = asyncio.Event()

    def remove_message_by_mid(self, mid):
        super().remove_message_by_mid(mid)
        self.removed.set()


class Handle:
    def __init__(self, name, request):
        self.name = name
        self.request = request
        self.version = request["protocol_version"]
        self.connack = {}
        self.subacks = {}
        self.unsubacks = {}
        self.store = Acknowledged()
        self.closed = asyncio.get_running_loop().create_future()
        properties = {key: request[key] for key in CONNECT_NAMES if request.get(key) is not None}
        if request.get("user_properties"):
            properties["user_property"] = [tuple(pair) for pair in request["user_properties"]]
        if will := request.get("will"):
            will = gmqtt.Message(
                will["topic"],
                bytes.fromhex(will["payload"]),
                qos=will["qos"],
                retain=will["retain"],
                **their_properties(will["properties"]),
            )
        self.client = gmqtt.Client(
            request["client_id"],
            clean_session=request.get("clean_start", True),
            will_message=will,
            persistent_storage=self.store,
            **(properties if self.version == 5 else {}),
        )
        # A connection that ends shall stay ended; 0 would still allow one try, -1 is gmqtt's "for ever".
        self.client.set_config({"reconnect_retries": -2})
        if "username" in request:
            self.client.set_auth_credentials(request["username"], request["password"])
        self.client.on_connect = self.on_connect
        self.client.on_message = self.on_message
        self.client.on_disconnect = self.on_disconnect
        self.client.on_subscribe = lambda _c, mid, codes, _p: self.subacks[mid].set_result(list(codes))
        self.client.on_unsubscribe = lambda _c, mid, _codes: self.unsubacks[mid].set_result(None)

    def on_connect(self, _client, session_present, reason_code, properties):
        self.connack = {
            "session_present": bool(session_present),
            "reason_code": reason_code,
            "properties": {
                "assigned_client_id": (properties.get("assigned_client_identifier") or [None])[0],
                "maximum_packet_size": first(properties.get("maximum_packet_size")),
            },
        }

    def on_message(self, _client, topic, payload, qos, properties):
        told = {}
        for theirs, value in properties.items():
            if ours := OUR_NAMES.get(theirs):
                value = list(value) if ours in LISTS else value[0]
                told[ours] = value.hex() if ours == "correlation_data" else value
        retain, dup = properties["retain"], properties["dup"]
        tell_message(self.name, topic, bytes(payload), qos, retain, dup, told)

    def on_disconnect(self, _client, packet, exc=None):
        # gmqtt gives the body of the DISCONNECT packet, and calls once more with an empty one when the socket closes.
        if not self.closed.done():
            self.closed.set_result(None)
            tell_closed(self.name, packet[0] if packet else None, f"DISCONNECT {packet!r}")
        self.store.removed.set()

    async def connect(self, request):
        connecting = self.client.connect(
            request["host"], request["port"], keepalive=request.get("keep_alive", 60), version=self.version
        )
        await asyncio.wait_for(connecting, WAIT_SECONDS)
        return self.connack

    async def subscribe(self, request):
        subscriptions = [
            gmqtt.Subscription(
                f["topic_filter"],
                qos=f["qos"],
                no_local=f.get("no_local", False),
                retain_as_published=f.get("retain_as_published", False),
                retain_handling_options=f.get("retain_handling", 0),
                subscription_identifier=request.get("subscription_identifier"),
            )
            for f in request["filters"]
        ]
        mid = self.client.subscribe(subscriptions)
        self.subacks[mid] = asyncio.get_running_loop().create_future()
        return {"reason_codes": await asyncio.wait_for(self.subacks[mid], WAIT_SECONDS)}

    async def publish_many(self, request):
        for message in request["messages"]:
            while True:
                try:
                    self.client.publish(
                        message["topic"],
                        bytes.fromhex(message["payload"]),
                        qos=message["qos"],
                        retain=message["retain"],
                        **(their_properties(message["properties"]) if self.version == 5 else {}),
                    )
                    break
                except OverflowError:
                    # gmqtt has as many packet ids as the Receive Maximum of the broker and no queue behind them.
                    await self.acknowledgement()
        while not self.store.is_empty:
            await self.acknowledgement()

    async def acknowledgement(self):
        self.store.removed.clear()
        await asyncio.wait_for(self.store.removed.wait(), WAIT_SECONDS)
        if self.closed.done():
            raise ConnectionError("connection ended")

    async def unsubscribe(self, request):
        mid = self.client.unsubscribe(request["filters"])
        self.unsubacks[mid] = asyncio.get_running_loop().create_future()
        await asyncio.wait_for(self.unsubacks[mid], WAIT_SECONDS)

    async def disconnect(self, request):
        await asyncio.wait_for(self.client.disconnect(reason_code=request["reason_code"]), WAIT_SECONDS)


def their_properties(given):
    properties = {}
    for ours, value in given.items():
        if ours == "correlation_data":
            value = bytes.fromhex(value)
        elif ours == "user_properties":
            value = [tuple(pair) for pair in value]
        properties[THEIR_NAMES[ours]] = value
    return properties


def first(value):
    return value[0] if isinstance(value, list) else value


async def handle(op, name, request):
    if op == "connect":
        clients[name] = Handle(name, request)
        return await clients[name].connect(request)
    return await getattr(clients[name], op)(request)


logging.disable(logging.CRITICAL)
asyncio.run(serve(handle))
