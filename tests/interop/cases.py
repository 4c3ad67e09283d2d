"""The cases: what every client must be able to do with the broker, written once for all clients.

A case gets a `World` (see `run.py`): clients of the library that is tested, topics and client ids of its own, and the protocol
version. It fails by raising. Nothing here sleeps: whether something does *not* arrive is decided by a later message that does.
"""

import asyncio

from driver import ClientError, Failed, message

V3_1, V3_1_1, V5 = 3, 4, 5
CASES = {}

ONE_MEGABYTE = 1_000_000
BINARY = bytes(range(256))
UNICODE = "Grüße, 世界 🌍"


def case(*versions):
    """Registers a case for these protocol versions; all of them if none is named."""

    def register(function):
        CASES[function.__name__] = (function, versions or (V3_1, V3_1_1, V5))
        return function

    return register


def check(got, wanted, what):
    if got != wanted:
        raise Failed(f"{what}: got {shorten(got)}, wanted {shorten(wanted)}")


def check_granted(reason_codes, wanted):
    # A client that hides the SUBACK (None) proves the granted QoS by what arrives.
    if reason_codes is not None:
        check(reason_codes, wanted, "SUBACK reason codes")


def shorten(value):
    text = repr(value)
    return text if len(text) <= 160 else f"{text[:100]}... ({len(text)} characters)"


# QoS


@case()
async def qos_0(world):
    await carry(world, 0)


@case()
async def qos_1(world):
    await carry(world, 1)


@case()
async def qos_2(world):
    await carry(world, 2)


async def carry(world, qos):
    subscriber, publisher = await world.connect(), await world.connect()
    topic = world.topic("carry")
    check_granted(await subscriber.subscribe(topic, qos=qos), [qos])
    for payload in (b"first", BINARY, UNICODE.encode(), b"", b"last"):
        await publisher.publish(topic, payload, qos=qos)
        (got,) = await subscriber.expect(1)
        check((got.topic, got.payload, got.qos, got.retain), (topic, payload, qos, False), "message")
        check(bool(got.dup), False, "DUP of a first delivery")


@case()
async def qos_is_the_lower_of_both(world):
    for subscribed, published in ((0, 2), (1, 2), (2, 1), (2, 0), (0, 1)):
        subscriber, publisher = await world.connect(), await world.connect()
        topic = world.topic(f"lower/{subscribed}/{published}")
        check_granted(await subscriber.subscribe(topic, qos=subscribed), [subscribed])
        await publisher.publish(topic, "x", qos=published)
        (got,) = await subscriber.expect(1)
        check(got.qos, min(subscribed, published), f"QoS of a QoS {published} message, subscribed with {subscribed}")


@case()
async def order_on_one_topic(world):
    for qos in (0, 1, 2):
        subscriber, publisher = await world.connect(), await world.connect()
        topic = world.topic(f"order/{qos}")
        await subscriber.subscribe(topic, qos=qos)
        payloads = [f"{number}".encode() for number in range(200)]
        await publisher.publish_many([message(topic, payload, qos) for payload in payloads])
        got = await subscriber.expect(len(payloads))
        check([m.payload for m in got], payloads, f"order of QoS {qos}")
        check({m.qos for m in got}, {qos}, "QoS")


@case()
async def order_on_many_topics(world):
    subscriber, publisher = await world.connect(), await world.connect()
    await subscriber.subscribe(world.topic("many/#"), qos=1)
    topics = [world.topic(f"many/{number}") for number in range(25)]
    sent = [message(topic, f"{number}", qos=1) for number in range(20) for topic in topics]
    await publisher.publish_many(sent)
    got = await subscriber.expect(len(sent))
    for topic in topics:
        payloads = [m.payload for m in got if m.topic == topic]
        check(payloads, [f"{number}".encode() for number in range(20)], f"order on {topic}")


# Retained messages


@case()
async def retained_message_for_a_late_subscriber(world):
    publisher, early = await world.connect(), await world.connect()
    topics = [world.topic(f"kept/{number}") for number in range(3)]
    await early.subscribe(world.topic("kept/#"), qos=2)
    for qos, topic in enumerate(topics):
        await publisher.publish(topic, f"kept {qos}", qos=qos, retain=True)
        (got,) = await early.expect(1)
        check((got.topic, got.qos, got.retain), (topic, qos, False), "live copy")
    late = await world.connect()
    await late.subscribe(world.topic("kept/#"), qos=2)
    got = sorted(await late.expect(3), key=lambda m: m.topic)
    for qos, topic in enumerate(topics):
        m = got[qos]
        check((m.topic, m.payload, m.qos, m.retain), (topic, b"kept %d" % qos, qos, True), "retained copy")


@case()
async def retained_message_replaced_and_cleared(world):
    publisher = await world.connect()
    topic, sentinel = world.topic("replaced"), world.topic("sentinel")
    await publisher.publish(topic, "old", qos=1, retain=True)
    await publisher.publish(topic, "new", qos=1, retain=True)
    late = await world.connect()
    await late.subscribe(topic, qos=1)
    (got,) = await late.expect(1)
    check((got.payload, got.retain), (b"new", True), "retained copy")
    await publisher.publish(topic, "", qos=1, retain=True)
    (got,) = await late.expect(1)
    check((got.payload, got.retain), (b"", False), "live copy of the clearing message")
    later = await world.connect()
    await later.subscribe(topic, sentinel, qos=1)
    await publisher.publish(sentinel, "nothing before this", qos=1)
    (got,) = await later.expect(1)
    check(got.topic, sentinel, "first message after the retained one was cleared")


# Will Messages


@case()
async def will_message_after_an_abnormal_close(world):
    observer = await world.connect()
    await observer.subscribe(world.topic("will/#"), qos=2)
    for qos in (0, 1, 2):
        topic = world.topic(f"will/{qos}")
        doomed = await world.connect_in_own_process(will=world.will(topic, "gone", qos))
        await world.kill(doomed)
        (got,) = await observer.expect(1)
        check((got.topic, got.payload, got.qos, got.retain), (topic, b"gone", qos, False), "will message")


@case()
async def will_message_is_retained(world):
    observer = await world.connect()
    topic = world.topic("will")
    await observer.subscribe(topic, qos=1)
    doomed = await world.connect_in_own_process(will=world.will(topic, "gone", 1, retain=True))
    await world.kill(doomed)
    (got,) = await observer.expect(1)
    check(got.retain, False, "RETAIN of the live copy")
    late = await world.connect()
    await late.subscribe(topic, qos=1)
    (got,) = await late.expect(1)
    check((got.payload, got.retain), (b"gone", True), "retained will message")


@case()
async def no_will_message_after_disconnect(world):
    observer, publisher = await world.connect(), await world.connect()
    topic, sentinel = world.topic("will"), world.topic("sentinel")
    await observer.subscribe(topic, sentinel, qos=1)
    polite = await world.connect_in_own_process(will=world.will(topic, "gone", 1))
    await polite.disconnect()
    await publisher.publish(sentinel, "nothing before this", qos=1)
    (got,) = await observer.expect(1)
    check(got.topic, sentinel, "first message after DISCONNECT")


@case(V5)
async def disconnect_with_will_message(world):
    observer = await world.connect()
    topic = world.topic("will")
    await observer.subscribe(topic, qos=1)
    leaving = await world.connect_in_own_process(will=world.will(topic, "on purpose", 1))
    await leaving.disconnect(with_will_message=True)
    check((await observer.expect(1))[0].payload, b"on purpose", "will message after DISCONNECT with reason code 4")


@case(V5)
async def will_properties_and_delay(world):
    observer = await world.connect()
    topic = world.topic("will")
    await observer.subscribe(topic, qos=1)
    properties = {"will_delay_interval": 1, "content_type": "text/plain", "user_properties": [["why", "cable"]]}
    doomed = await world.connect_in_own_process(
        session_expiry_interval=30, will=world.will(topic, "gone", 1, **properties)
    )
    await world.kill(doomed)
    (got,) = await observer.expect(1)
    check(got.payload, b"gone", "will message")
    check(got.properties.get("content_type"), "text/plain", "content type of the will")
    check(got.properties.get("user_properties"), [["why", "cable"]], "user properties of the will")


# Sizes


@case()
async def large_payload_qos_0(world):
    await carry_large(world, 0)


@case()
async def large_payload_qos_1(world):
    await carry_large(world, 1)


@case()
async def large_payload_qos_2(world):
    await carry_large(world, 2)


async def carry_large(world, qos):
    subscriber, publisher = await world.connect(), await world.connect()
    topic = world.topic("large")
    await subscriber.subscribe(topic, qos=qos)
    payload = b"".join(b"%08d" % number for number in range(ONE_MEGABYTE // 8))
    for _ in range(2):
        await publisher.publish(topic, payload, qos=qos)
        (got,) = await subscriber.expect(1)
        check((got.qos, len(got.payload)), (qos, len(payload)), "large message")
        check(got.payload == payload, True, "large payload is unchanged")


@case()
async def large_retained_payload(world):
    publisher, late = await world.connect(), await world.connect()
    topic, payload = world.topic("large"), BINARY * (ONE_MEGABYTE // 256)
    await publisher.publish(topic, payload, qos=1, retain=True)
    await late.subscribe(topic, qos=1)
    (got,) = await late.expect(1)
    check((got.retain, got.payload == payload), (True, True), "large retained message is unchanged")


@case()
async def packet_over_the_maximum_of_the_broker(world):
    if world.broker_maximum_packet_size == 0:
        raise world.not_here("this broker has no maximum packet size")
    subscriber, publisher, other = await world.connect(), await world.connect(), await world.connect()
    await subscriber.subscribe(world.topic("#"), qos=1)
    payload = bytes(world.broker_maximum_packet_size + 1000)
    try:
        # Either the client itself refuses (it was told the maximum), or the broker closes the connection.
        await publisher.publish(world.topic("too-large"), payload, qos=0)
        told = await publisher.expect_closed()
        if world.version == V5 and told["reason_code"] is not None:
            check(told["reason_code"], 0x95, "reason code of the DISCONNECT")
    except ClientError:
        pass
    await other.publish(world.topic("after"), "x", qos=1)
    (got,) = await subscriber.expect(1)
    check(got.topic, world.topic("after"), "what another client publishes afterwards")


@case(V5)
async def packet_over_the_maximum_of_the_subscriber(world):
    subscriber, publisher = await world.connect(maximum_packet_size=2000), await world.connect()
    topic = world.topic("sizes")
    await subscriber.subscribe(topic, qos=2)
    for qos in (0, 1, 2):
        await publisher.publish(topic, bytes(5000), qos=qos)
        await publisher.publish(topic, "small", qos=qos)
        (got,) = await subscriber.expect(1)
        check((got.payload, got.qos), (b"small", qos), "what follows a message that is too large")


# Subscriptions


@case()
async def wildcards(world):
    publisher, last = await world.connect(), world.topic("last")
    sent = [world.topic(t) for t in ("a", "a/b", "a/b/c", "a/b/c/d", "a//c", "b", "a/b/")]
    wanted = {
        "a/+": ["a/b"],
        "a/#": ["a", "a/b", "a/b/c", "a/b/c/d", "a//c", "a/b/"],
        "+": ["a", "b"],
        "+/b/+": ["a/b/c", "a/b/"],
        "a/+/c/#": ["a/b/c", "a/b/c/d", "a//c"],
        "a/b": ["a/b"],
        "a/+/": ["a/b/"],
    }
    subscribers = {}
    for topic_filter in wanted:
        subscribers[topic_filter] = await world.connect()
        check_granted(await subscribers[topic_filter].subscribe(world.topic(topic_filter), last, qos=1), [1, 1])
    for topic in sent:
        await publisher.publish(topic, "x", qos=1)
    await publisher.publish(last, "x", qos=1)
    for topic_filter, topics in wanted.items():
        # "+" matches the sentinel too, and it is subscribed twice there: one copy or two, after all the others.
        got = await subscribers[topic_filter].expect(len(topics) + 1)
        check([m.topic for m in got], [world.topic(t) for t in topics] + [last], f"matches of {topic_filter}")


@case()
async def topic_with_all_kinds_of_characters(world):
    subscriber, publisher = await world.connect(), await world.connect()
    topics = [world.topic(UNICODE), world.topic("/ / //"), world.topic("x" * 1000), "/" + world.topic("leading")]
    check_granted(await subscriber.subscribe(*topics, qos=1), [1] * len(topics))
    for topic in topics:
        await publisher.publish(topic, "x", qos=1)
    check([m.topic for m in await subscriber.expect(len(topics))], topics, "topics")


@case()
async def many_filters_in_one_subscribe(world):
    subscriber, publisher = await world.connect(), await world.connect()
    topics = [world.topic(f"filters/{number}") for number in range(50)]
    check_granted(await subscriber.subscribe(*topics, qos=1), [1] * 50)
    await publisher.publish_many([message(topic, "x", qos=1) for topic in topics])
    check([m.topic for m in await subscriber.expect(50)], topics, "topics")


@case()
async def unsubscribe(world):
    subscriber, publisher = await world.connect(), await world.connect()
    left, kept = world.topic("left"), world.topic("kept")
    await subscriber.subscribe(left, kept, qos=1)
    await publisher.publish(left, "before", qos=1)
    await subscriber.expect(1)
    await subscriber.unsubscribe(left)
    await publisher.publish(left, "after", qos=1)
    await publisher.publish(kept, "after", qos=1)
    (got,) = await subscriber.expect(1)
    check(got.topic, kept, "first message after UNSUBSCRIBE")


@case()
async def one_message_to_many_subscribers(world):
    publisher = await world.connect()
    topic = world.topic("fan-out")
    subscribers = [await world.connect() for _ in range(20)]
    await asyncio.gather(*(subscriber.subscribe(topic, qos=number % 3) for number, subscriber in enumerate(subscribers)))
    await publisher.publish_many([message(topic, f"{number}", qos=2) for number in range(10)])
    for number, subscriber in enumerate(subscribers):
        got = await subscriber.expect(10)
        check([m.payload for m in got], [b"%d" % n for n in range(10)], f"messages of subscriber {number}")
        check({m.qos for m in got}, {number % 3}, f"QoS of subscriber {number}")


@case(V5)
async def shared_subscription(world):
    publisher = await world.connect()
    topic = world.topic("jobs")
    members = [await world.connect() for _ in range(3)]
    for member in members:
        check_granted(await member.subscribe(f"$share/{world.name}/{topic}", qos=1), [1])
    outside = await world.connect()
    await outside.subscribe(topic, qos=1)
    payloads = [b"%d" % number for number in range(60)]
    await publisher.publish_many([message(topic, payload, qos=1) for payload in payloads])
    check([m.payload for m in await outside.expect(60)], payloads, "messages of the plain subscription")
    # Each message goes to one member; which one is the choice of the broker, so all of them are waited for together.
    arrivals = asyncio.Queue()

    async def forward(number, member):
        while True:
            arrivals.put_nowait((number, await member.messages.get()))

    forwarders = [asyncio.create_task(forward(number, member)) for number, member in enumerate(members)]
    got = []
    try:
        for _ in payloads:
            got.append(await asyncio.wait_for(arrivals.get(), world.wait_seconds))
    except asyncio.TimeoutError:
        raise Failed(f"{len(got)} of {len(payloads)} messages reached a member of the group") from None
    finally:
        for forwarder in forwarders:
            forwarder.cancel()
    check(sorted(int(m.payload) for _, m in got), list(range(60)), "messages of the group, each once")
    check(len({number for number, _ in got}), 3, "members that got a share")


@case(V5)
async def no_local(world):
    both, other = await world.connect(), await world.connect()
    topic = world.topic("echo")
    check_granted(await both.subscribe(topic, qos=1, no_local=True), [1])
    await both.publish(topic, "own", qos=1)
    await other.publish(topic, "of another", qos=1)
    (got,) = await both.expect(1)
    check(got.payload, b"of another", "first message with No Local")


@case(V5)
async def retain_as_published(world):
    subscriber, publisher = await world.connect(), await world.connect()
    topic = world.topic("as-published")
    await subscriber.subscribe(topic, qos=1, retain_as_published=True)
    for retain in (True, False):
        await publisher.publish(topic, "x", qos=1, retain=retain)
        (got,) = await subscriber.expect(1)
        check(got.retain, retain, "RETAIN")


@case(V5)
async def retain_handling(world):
    publisher = await world.connect()
    topic = world.topic("handling")
    await publisher.publish(topic, "kept", qos=1, retain=True)
    subscriber = await world.connect()
    # 2: do not send retained messages at all.
    await subscriber.subscribe(topic, qos=1, retain_handling=2)
    await publisher.publish(topic, "live", qos=1)
    (got,) = await subscriber.expect(1)
    check(got.payload, b"live", "first message with Retain Handling 2")
    # 1: send them only if the subscription is new, and it is not.
    await subscriber.subscribe(topic, qos=1, retain_handling=1)
    await publisher.publish(topic, "live again", qos=1)
    (got,) = await subscriber.expect(1)
    check(got.payload, b"live again", "first message with Retain Handling 1 on an old subscription")
    # 0: always.
    await subscriber.subscribe(topic, qos=1, retain_handling=0)
    (got,) = await subscriber.expect(1)
    check((got.payload, got.retain), (b"kept", True), "retained message with Retain Handling 0")


@case(V5)
async def subscription_identifier(world):
    subscriber, publisher = await world.connect(), await world.connect()
    topic = world.topic("identified")
    await subscriber.subscribe(topic, qos=1, subscription_identifier=268_435_455)
    await publisher.publish(topic, "x", qos=1)
    (got,) = await subscriber.expect(1)
    check(got.properties.get("subscription_identifiers"), [268_435_455], "subscription identifiers")


# Properties


@case(V5)
async def user_properties(world):
    subscriber, publisher = await world.connect(), await world.connect(user_properties=[["from", "a"], ["from", "b"]])
    topic = world.topic("users")
    await subscriber.subscribe(topic, qos=2)
    pairs = [["name", "one"], ["name", "two"], ["other", "ü"], ["zero", "0"]]
    for qos in (0, 1, 2):
        await publisher.publish(topic, "x", qos=qos, user_properties=pairs)
        (got,) = await subscriber.expect(1)
        check(got.properties.get("user_properties"), pairs, "user properties in order")


@case(V5)
async def publish_properties(world):
    subscriber, publisher = await world.connect(), await world.connect()
    topic = world.topic("properties")
    await subscriber.subscribe(topic, qos=1)
    sent = {
        "content_type": "text/plain",
        "payload_format_indicator": 1,
        "response_topic": world.topic("answers"),
        "correlation_data": b"id-7".hex(),
        "message_expiry_interval": 100,
    }
    await publisher.publish(topic, UNICODE, qos=1, **sent)
    (got,) = await subscriber.expect(1)
    expiry = got.properties.get("message_expiry_interval")
    if expiry not in range(90, 101):
        raise Failed(f"message expiry interval: got {expiry}, wanted at most 100 and not much less")
    for name, value in sent.items():
        if name != "message_expiry_interval":
            check(got.properties.get(name), value, name)


@case(V5)
async def topic_alias_to_the_broker(world):
    subscriber, publisher = await world.connect(), await world.connect()
    topics = [world.topic("alias/one"), world.topic("alias/two")]
    await subscriber.subscribe(world.topic("alias/#"), qos=1)
    sent = []
    for round_number in range(3):
        for alias, topic in enumerate(topics, start=1):
            # The topic is sent once; from then on the alias stands for it.
            sent.append(message("" if round_number else topic, f"{round_number}", qos=1, topic_alias=alias))
    await publisher.publish_many(sent)
    check([m.topic for m in await subscriber.expect(6)], topics * 3, "topics")


@case(V5)
async def topic_alias_from_the_broker(world):
    # Whether the broker makes use of the offer is its choice: the topics must be right either way.
    subscriber, publisher = await world.connect(topic_alias_maximum=2), await world.connect()
    topics = [world.topic(f"alias/{number}") for number in range(4)]
    await subscriber.subscribe(world.topic("alias/#"), qos=1)
    await publisher.publish_many([message(topic, "x", qos=1) for _ in range(3) for topic in topics])
    check(sorted(m.topic for m in await subscriber.expect(12)), sorted(topics * 3), "topics")


@case(V5)
async def receive_maximum_of_the_subscriber(world):
    subscriber, publisher = await world.connect(receive_maximum=1), await world.connect()
    topic = world.topic("window")
    await subscriber.subscribe(topic, qos=2)
    for qos in (1, 2):
        payloads = [b"%d" % number for number in range(30)]
        await publisher.publish_many([message(topic, payload, qos) for payload in payloads])
        check([m.payload for m in await subscriber.expect(30)], payloads, f"QoS {qos} through a window of 1")


@case()
async def request_response(world):
    responder, requester = await world.connect(), await world.connect()
    requests, answers = world.topic("requests"), world.topic("answers")
    await responder.subscribe(requests, qos=1)
    correlation_data = b"request-42" if world.version == V5 else None

    async def respond():
        (got,) = await responder.expect(1)
        check(got.payload, b"how much?", "request")
        properties, response_topic = {}, answers
        if world.version == V5:
            response_topic = got.properties.get("response_topic")
            check(response_topic, answers, "response topic")
            properties = {"correlation_data": got.properties.get("correlation_data")}
            check(properties["correlation_data"], correlation_data.hex(), "correlation data of the request")
        await responder.publish(response_topic, "42", qos=1, **properties)

    responding = asyncio.create_task(respond())
    try:
        answer = await requester.request(requests, answers, b"how much?", correlation_data)
    finally:
        if responding.done() and not responding.cancelled() and responding.exception():
            raise responding.exception()
        responding.cancel()
    check((answer.topic, answer.payload), (answers, b"42"), "answer")
    if correlation_data is not None:
        check(answer.properties.get("correlation_data"), correlation_data.hex(), "correlation data of the answer")


# Sessions


@case()
async def session_resumed_with_its_queue(world):
    for qos in (1, 2):
        await resume(world, qos, abnormal=False)


@case()
async def session_resumed_after_an_abnormal_close(world):
    for qos in (1, 2):
        await resume(world, qos, abnormal=True)


async def resume(world, qos, abnormal):
    publisher = await world.connect()
    topic, client_id = world.topic(f"queued/{qos}"), world.client_id()
    kept = {"client_id": client_id, "clean_start": False, **world.session_expiry(60)}
    first = await world.connect_in_own_process(**kept) if abnormal else await world.connect(**kept)
    check(first.connack.get("session_present") or False, False, "session present for a new session")
    await first.subscribe(topic, qos=qos)
    await publisher.publish(topic, "online", qos=qos)
    await first.expect(1)
    await world.settle(first)
    if abnormal:
        await world.kill(first)
    else:
        await first.disconnect()
    payloads = [b"queued %d" % number for number in range(100)]
    await publisher.publish_many([message(topic, payload, qos) for payload in payloads])
    second = await world.connect(**kept)
    if world.version != V3_1:
        # None: a client that does not tell. The CONNACK of 3.1 has no such flag.
        check(second.connack.get("session_present") in (True, None), True, "session present on resume")
    if world.subscribes_to_connect:
        await second.subscribe(topic, qos=qos)
    got = await second.expect(100)
    if got[0].payload == b"online":
        # Gone before its acknowledgement left, which libraries send when they come to it: the message comes again, marked.
        check(got[0].dup in (True, None), True, "DUP of the message that comes again")
        got = [*got[1:], *await second.expect(1)]
    check([m.payload for m in got], payloads, "queue in order")
    check({(m.qos, m.retain) for m in got}, {(qos, False)}, "QoS and RETAIN of the queue")
    await publisher.publish(topic, "live", qos=qos)
    check((await second.expect(1))[0].payload, b"live", "first message after the queue")
    await second.disconnect()
    await world.forget_session(client_id)


@case()
async def clean_start_discards_the_session(world):
    publisher = await world.connect()
    topic, sentinel, client_id = world.topic("discarded"), world.topic("sentinel"), world.client_id()
    kept = {"client_id": client_id, "clean_start": False, **world.session_expiry(60)}
    first = await world.connect(**kept)
    await first.subscribe(topic, qos=1)
    await first.disconnect()
    await publisher.publish(topic, "queued", qos=1)
    clean = await world.connect(client_id=client_id)
    check(clean.connack.get("session_present") or False, False, "session present after a clean start")
    await clean.subscribe(sentinel, qos=1)
    await publisher.publish(topic, "to nobody", qos=1)
    await publisher.publish(sentinel, "x", qos=1)
    check((await clean.expect(1))[0].topic, sentinel, "first message after a clean start")


@case()
async def second_connection_takes_over(world):
    client_id, topic = world.client_id(), world.topic("takeover")
    publisher = await world.connect()
    first = await world.connect(client_id=client_id)
    await first.subscribe(topic, qos=1)
    second = await world.connect(client_id=client_id)
    await second.subscribe(topic, qos=1)
    told = await first.expect_closed()
    if world.version == V5 and not world.hides_disconnect:
        check(told["reason_code"], 0x8E, "reason code for the first connection")
    # mosquitto_sub would come back after a second and take the connection over in turn.
    await world.give_up(first)
    await publisher.publish(topic, "x", qos=1)
    check((await second.expect(1))[0].payload, b"x", "message for the second connection")


@case(V3_1_1, V5)
async def empty_client_id(world):
    topic = world.topic("anonymous")
    clients = [await world.connect(client_id="") for _ in range(2)]
    for client in clients:
        await client.subscribe(topic, qos=1)
    if world.version == V5:
        assigned = [client.connack.get("properties", {}).get("assigned_client_id") for client in clients]
        check(all(assigned) and len(set(assigned)) == 2, True, f"assigned client ids {assigned}")
    await clients[0].publish(topic, "x", qos=1)
    for client in clients:
        check((await client.expect(1))[0].payload, b"x", "message")


@case()
async def keep_alive(world):
    # The client must ping, and our answers must keep both sides content, for longer than 1.5 times the interval.
    # 5 s is the least that mosquitto_sub takes; some clients look at their clock once a second and ping that much later.
    seconds = 5
    idle, publisher = await world.connect(keep_alive=seconds), await world.connect()
    topic = world.topic("idle")
    await idle.subscribe(topic, qos=1)
    try:
        await asyncio.wait_for(asyncio.shield(idle.closed), 2.5 * seconds)
        raise Failed(f"closed while idle: {idle.closed.result()}")
    except asyncio.TimeoutError:
        pass
    await publisher.publish(topic, "still there?", qos=1)
    check((await idle.expect(1))[0].payload, b"still there?", "message after 2.5 keep alive intervals")


@case()
async def user_name_and_password(world):
    subscriber = await world.connect(username="somebody", password="pässword")
    publisher = await world.connect()
    topic = world.topic("named")
    await subscriber.subscribe(topic, qos=1)
    await publisher.publish(topic, "x", qos=1)
    await subscriber.expect(1)


# Between protocol versions


@case()
async def heard_by_every_version(world):
    publisher, topic = await world.connect(), world.topic("from")
    subscribers = [await world.connect_reference(version) for version in (V3_1, V3_1_1, V5)]
    for subscriber in subscribers:
        await subscriber.subscribe(topic, qos=2)
    properties = {"user_properties": [["k", "v"]]} if world.version == V5 else {}
    for qos in (0, 1, 2):
        await publisher.publish(topic, UNICODE, qos=qos, **properties)
        for version, subscriber in zip((V3_1, V3_1_1, V5), subscribers):
            (got,) = await subscriber.expect(1)
            check((got.payload, got.qos), (UNICODE.encode(), qos), f"message at version {version}")
            if version == V5:
                check(got.properties, properties, "properties at version 5")


@case()
async def hears_every_version(world):
    subscriber, topic = await world.connect(), world.topic("to")
    await subscriber.subscribe(topic, qos=2)
    for version in (V3_1, V3_1_1, V5):
        publisher = await world.connect_reference(version)
        properties = {"user_properties": [["k", "v"]]} if version == V5 else {}
        for qos in (0, 1, 2):
            await publisher.publish(topic, UNICODE, qos=qos, **properties)
            (got,) = await subscriber.expect(1)
            check((got.payload, got.qos), (UNICODE.encode(), qos), f"message of version {version}")
            if world.version == V5:
                check(got.properties, properties, f"properties from version {version}")
