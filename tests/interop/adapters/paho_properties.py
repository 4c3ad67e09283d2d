"""MQTT 5.0 properties between the names of `driver.py` and those of paho-mqtt, which aiomqtt uses too."""

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

NAMES = {
    "content_type": "ContentType",
    "message_expiry_interval": "MessageExpiryInterval",
    "payload_format_indicator": "PayloadFormatIndicator",
    "response_topic": "ResponseTopic",
    "correlation_data": "CorrelationData",
    "user_properties": "UserProperty",
    "subscription_identifiers": "SubscriptionIdentifier",
    "topic_alias": "TopicAlias",
    "will_delay_interval": "WillDelayInterval",
    "session_expiry_interval": "SessionExpiryInterval",
    "receive_maximum": "ReceiveMaximum",
    "maximum_packet_size": "MaximumPacketSize",
    "topic_alias_maximum": "TopicAliasMaximum",
    "assigned_client_id": "AssignedClientIdentifier",
    "server_keep_alive": "ServerKeepAlive",
}
CONNECT_NAMES = (
    "session_expiry_interval",
    "receive_maximum",
    "maximum_packet_size",
    "topic_alias_maximum",
    "user_properties",
)


def publish_properties(given):
    return _properties(PacketTypes.PUBLISH, given)


def will_properties(given):
    return _properties(PacketTypes.WILLMESSAGE, given)


def connect_properties(request):
    return _properties(PacketTypes.CONNECT, {name: request[name] for name in CONNECT_NAMES if request.get(name) is not None})


def subscribe_properties(identifier):
    return None if identifier is None else _properties(PacketTypes.SUBSCRIBE, {"subscription_identifiers": identifier})


def told(properties):
    """What paho received, in our names."""
    result = {}
    for name, theirs in NAMES.items():
        value = getattr(properties, theirs, None) if properties is not None else None
        if value is not None:
            if name == "correlation_data":
                value = value.hex()
            elif name == "user_properties":
                value = [list(pair) for pair in value]
            elif name == "subscription_identifiers" and not isinstance(value, list):
                value = [value]
            result[name] = value
    return result


def _properties(packet_type, given):
    properties = Properties(packet_type)
    for name, value in given.items():
        if name == "correlation_data":
            value = bytes.fromhex(value)
        elif name == "user_properties":
            value = [tuple(pair) for pair in value]
        setattr(properties, NAMES[name], value)
    return properties
