"""Adapter: aiomqtt, whose client is an asynchronous context manager and whose messages are an iterator."""

import asyncio

import aiomqtt
from lines import serve, tell_closed, tell_message
from paho.mqtt.subscribeoptions import SubscribeOptions
from paho_properties import connect_properties, publish_properties, subscribe_properties, told, will_properties

WAIT_SECONDS = 30
clients = {}


class Handle:
    def __init__(self, name, request):
        self.name = name
        self.version = request["protocol_version"]
        arguments = {}
        if self.version == 5:
            arguments["clean_start"] = request.get("clean_start", True)
            arguments["properties"] = connect_properties(request)
        else:
            arguments["clean_session"] = request.get("clean_start", True)
        if "username" in request:
            arguments |= {"username": request["username"], "password": request["password"]}
        if will := request.get("will"):
            properties = will_properties(will["properties"]) if self.version == 5 else None
            payload = bytes.fromhex(will["payload"])
            arguments["will"] = aiomqtt.Will(will["topic"], payload, will["qos"], will["retain"], properties)
        self.client = aiomqtt.Client(
            request["host"],
            request["port"],
            identifier=request["client_id"],
            protocol=aiomqtt.ProtocolVersion(self.version),
            keepalive=request.get("keep_alive", 60),
            timeout=WAIT_SECONDS,
            **arguments,
        )
        self.client.pending_calls_threshold = 1_000_000
        self.messages = None

    async def connect(self):
        await self.client.__aenter__()
        self.messages = asyncio.create_task(self.tell())
        return {"session_present": None}

    async def tell(self):
        try:
            async for message in self.client.messages:
                properties = told(message.properties) if self.version == 5 else None
                tell_message(
                    self.name, str(message.topic), message.payload, message.qos, message.retain, None, properties
                )
        except aiomqtt.MqttError as error:
            # The number of the reason code is inside the error that caused this one.
            code = getattr(getattr(error.__cause__, "rc", None), "value", None)
            tell_closed(self.name, code, error.__cause__ or error)

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
            properties = subscribe_properties(request.get("subscription_identifier"))
            codes = await self.client.subscribe(filters, properties=properties)
        else:
            codes = await self.client.subscribe([(f["topic_filter"], f["qos"]) for f in request["filters"]])
        return {"reason_codes": [getattr(code, "value", code) for code in codes]}

    async def publish_many(self, request):
        await asyncio.gather(
            *(
                self.client.publish(
                    message["topic"],
                    bytes.fromhex(message["payload"]),
                    message["qos"],
                    message["retain"],
                    publish_properties(message["properties"]) if self.version == 5 else None,
                )
                for message in request["messages"]
            )
        )

    async def unsubscribe(self, request):
        await self.client.unsubscribe(request["filters"])

    async def disconnect(self, _request):
        await self.client.__aexit__(None, None, None)
        if self.messages is not None:
            await asyncio.wait([self.messages], timeout=1)
            self.messages.cancel()


async def handle(op, name, request):
    if op == "connect":
        clients[name] = Handle(name, request)
        return await clients[name].connect()
    return await getattr(clients[name], op)(request)


asyncio.run(serve(handle))
