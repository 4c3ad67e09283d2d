"""Adapter: paho-mqtt with its own network thread, as most of its users run it."""

import asyncio

import paho.mqtt.client as mqtt
from lines import serve, tell_closed, tell_message
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions
from paho_properties import connect_properties, publish_properties, subscribe_properties, told, will_properties

WAIT_SECONDS = 30
PROTOCOLS = {3: mqtt.MQTTv31, 4: mqtt.MQTTv311, 5: mqtt.MQTTv5}
clients = {}


class Handle:
    """One paho client. paho calls back from its thread; `loop.call_soon_threadsafe` brings the answers home."""

    def __init__(self, name, request):
        self.name = name
        self.version = request["protocol_version"]
        self.loop = asyncio.get_running_loop()
        self.connack = self.loop.create_future()
        self.closed = self.loop.create_future()
        self.waiting = {}
        self.early = {}
        self.topic_aliases = {}
        arguments = {} if self.version == 5 else {"clean_session": request.get("clean_start", True)}
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=request["client_id"],
            protocol=PROTOCOLS[self.version],
            reconnect_on_failure=False,
            transport="websockets" if request.get("over_web_socket") else "tcp",
            **arguments,
        )
        if "username" in request:
            self.client.username_pw_set(request["username"], request["password"])
        if will := request.get("will"):
            properties = will_properties(will["properties"]) if self.version == 5 else None
            self.client.will_set(
                will["topic"], bytes.fromhex(will["payload"]), will["qos"], will["retain"], properties=properties
            )
        self.client.on_connect = self.on_connect
        self.client.on_disconnect = self.on_disconnect
        self.client.on_message = self.on_message
        self.client.on_subscribe = lambda _c, _u, mid, codes, _p: self.answer(mid, [code.value for code in codes])
        self.client.on_unsubscribe = lambda _c, _u, mid, _codes, _p: self.answer(mid, None)
        self.client.on_publish = lambda _c, _u, mid, code, _p: self.answer(mid, code.value)

    async def connect(self, request):
        arguments = {}
        if self.version == 5:
            arguments = {"clean_start": request.get("clean_start", True), "properties": connect_properties(request)}
        self.client.connect(request["host"], request["port"], request.get("keep_alive", 60), **arguments)
        self.client.loop_start()
        return await asyncio.wait_for(self.connack, WAIT_SECONDS)

    def on_connect(self, _client, _userdata, flags, reason_code, properties):
        answer = {
            "session_present": flags.session_present,
            "reason_code": reason_code.value,
            "properties": told(properties),
        }
        self.at_home(lambda: self.connack.done() or self.connack.set_result(answer))

    def on_disconnect(self, _client, _userdata, flags, reason_code, _properties):
        # Without a DISCONNECT packet the reason code is paho's own guess.
        told_code = reason_code.value if flags.is_disconnect_packet_from_server else None
        tell_closed(self.name, told_code, reason_code)
        self.at_home(lambda: self.closed.done() or self.closed.set_result(None))
        error = ConnectionError(f"connection ended: {reason_code}")
        for future in [self.connack, *self.waiting.values()]:
            self.at_home(lambda future=future: future.done() or future.set_exception(error))

    def on_message(self, _client, _userdata, message):
        properties = told(message.properties) if self.version == 5 else {}
        topic = message.topic
        # paho hands an aliased PUBLISH out with an empty topic: its user has to know the alias.
        if alias := properties.get("topic_alias"):
            topic = self.topic_aliases.setdefault(alias, topic) if not topic else topic
            self.topic_aliases[alias] = topic
        tell_message(
            self.name, topic, message.payload, message.qos, message.retain, message.dup, properties
        )

    def at_home(self, action):
        self.loop.call_soon_threadsafe(action)

    def answer(self, mid, value):
        """An acknowledgement may come before its packet id is known here: then it is kept."""

        def settle():
            future = self.waiting.pop(mid, None)
            if future is None:
                self.early[mid] = value
            elif not future.done():
                future.set_result(value)

        self.at_home(settle)

    async def acknowledged(self, mid):
        if mid in self.early:
            return self.early.pop(mid)
        if self.closed.done():
            raise ConnectionError("connection ended")
        future = self.waiting[mid] = self.loop.create_future()
        return await asyncio.wait_for(future, WAIT_SECONDS)

    async def subscribe(self, request):
        if self.version == 5:
            filters = [
                (
                    f["topic_filter"],
                    SubscribeOptions(
                        qos=f["qos"],
                        noLocal=f.get("no_local", False),
                        retainAsPublished=f.get("retain_as_published", False),
                        retainHandling=f.get("retain_handling", 0),
                    ),
                )
                for f in request["filters"]
            ]
            identifier = request.get("subscription_identifier")
            result, mid = self.client.subscribe(filters, properties=subscribe_properties(identifier))
        else:
            result, mid = self.client.subscribe([(f["topic_filter"], f["qos"]) for f in request["filters"]])
        check(result)
        return {"reason_codes": await self.acknowledged(mid)}

    async def publish_many(self, request):
        mids = []
        for message in request["messages"]:
            properties = publish_properties(message["properties"]) if self.version == 5 else None
            info = self.client.publish(
                message["topic"], bytes.fromhex(message["payload"]), message["qos"], message["retain"], properties
            )
            check(info.rc)
            mids.append(info.mid)
        for mid in mids:
            code = await self.acknowledged(mid)
            if code >= 0x80:
                raise ConnectionError(f"refused with reason code {code}")

    async def unsubscribe(self, request):
        result, mid = self.client.unsubscribe(request["filters"])
        check(result)
        await self.acknowledged(mid)

    async def disconnect(self, request):
        if not self.closed.done():
            with_will = self.version == 5 and request["reason_code"] == 4
            code = ReasonCode(PacketTypes.DISCONNECT, identifier=4) if with_will else None
            self.client.disconnect(reasoncode=code)
            await asyncio.wait_for(self.closed, WAIT_SECONDS)


def check(result):
    if result != mqtt.MQTT_ERR_SUCCESS:
        raise ConnectionError(mqtt.error_string(result))


async def handle(op, name, request):
    if op == "connect":
        clients[name] = Handle(name, request)
        return await clients[name].connect(request)
    return await getattr(clients[name], op)(request)


asyncio.run(serve(handle))
