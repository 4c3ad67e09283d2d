"""The clients that are tested, and what each of them cannot do: with the reason, so that nothing is left out in silence.

`run.py` prints one line for every entry here instead of running the case, and stops if an entry names a case that does not
exist. A reason is about the client. What a *broker* gets wrong belongs into KNOWN_FAULTS, where it stays a visible line.
"""

ALL = "*"
V3_1, V3_1_1, V5 = 3, 4, 5
VERSIONS = {V3_1: "3.1", V3_1_1: "3.1.1", V5: "5.0"}
# Libraries that speak WebSocket as well, under a name of their own.
OVER_WEB_SOCKET = {"paho-ws": "paho", "mqtt.js-ws": "mqtt.js"}
CLIENTS = ("mosquitto", "paho", "aiomqtt", "gmqtt", "mqtt.js", "rumqttc", *OVER_WEB_SOCKET)

# client -> [(versions, cases, reason)]
CANNOT = {
    "mosquitto": [
        ((V5,), ("no_local",), "mosquitto_pub and mosquitto_sub are two clients: nothing is local to both"),
        ((V5,), ("retain_handling",), "mosquitto_sub 2.0 has no option for it and subscribes once"),
        ((V5,), ("topic_alias_from_the_broker",), "mosquitto_sub 2.0 drops its connection at an empty topic"),
        ((V5,), ("topic_alias_to_the_broker",), "mosquitto_pub sends one topic and needs its name"),
        (
            (V5,),
            ("no_will_message_after_disconnect",),
            "mosquitto_sub 5.0 always ends with DISCONNECT 4, which asks for the will (see disconnect_with_will_message)",
        ),
        (
            (V3_1, V3_1_1),
            ("second_connection_takes_over",),
            "mosquitto_sub does not tell that its connection ended; it comes back by itself and takes it over in turn",
        ),
        (ALL, ("unsubscribe",), "mosquitto_sub -U unsubscribes before the first message and not later"),
    ],
    "paho": [],
    "aiomqtt": [
        ((V5,), ("disconnect_with_will_message",), "sends DISCONNECT with reason code 0 only"),
        ((V5,), ("topic_alias_from_the_broker",), "stops reading at an empty topic that an alias stands for"),
        ((V5,), ("empty_client_id",), "does not show the CONNACK, so the assigned client id stays unknown"),
    ],
    "gmqtt": [
        ((V3_1,), ALL, "knows 3.1.1 and 5.0 only"),
        (ALL, ("empty_client_id",), "makes up a client id itself if there is none"),
    ],
    "mqtt.js": [],
    "paho-ws": [],
    "mqtt.js-ws": [],
    "rumqttc": [
        ((V5,), ("disconnect_with_will_message",), "sends DISCONNECT with reason code 0 only"),
        ((V3_1,), ALL, "knows 3.1.1 and 5.0 only"),
    ],
}

# client -> why the reason code of the broker's DISCONNECT stays unseen; the cases then check the rest.
HIDES_DISCONNECT = {
    "rumqttc": "takes a DISCONNECT without property length, which the standard allows, for a broken connection",
}

QOS_2_STALLS = "a burst of QoS 2 messages stalls, mostly at the 21st: it is acknowledged and never delivered"

# A fault does not have to show every time.
# broker -> {(client or ALL, version or ALL, case): reason}. Used with --known-faults.
KNOWN_FAULTS = {
    "mosquitto-2.0.11": {
        (ALL, V5, "second_connection_takes_over"): "sends no DISCONNECT to the connection that is taken over",
        (ALL, ALL, "order_on_one_topic"): QOS_2_STALLS,
        (ALL, ALL, "session_resumed_with_its_queue"): QOS_2_STALLS,
        (ALL, ALL, "session_resumed_after_an_abnormal_close"): QOS_2_STALLS,
    },
}
