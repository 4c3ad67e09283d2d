"""paho-mqtt with a certificate: subscribes, publishes, waits for its own message. Exit code 0: it came.

PORT TRANSPORT VERSION CAFILE [CERTFILE KEYFILE]; tcp or websockets, TLSv1_2 or TLSv1_3.
"""

import ssl
import sys
import threading

import paho.mqtt.client as mqtt

port, transport, version, authority, *own = sys.argv[1:]
context = ssl.create_default_context(cafile=authority)
context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
if own:
    context.load_cert_chain(*own)

over = threading.Event()
received = []
client = mqtt.Client(
    mqtt.CallbackAPIVersion.VERSION2,
    client_id="paho",
    transport=transport,
    protocol=mqtt.MQTTv5,
    reconnect_on_failure=False,
)
client.tls_set_context(context)


def on_connect(client, _userdata, _flags, reason, _properties):
    print("connected:", reason)
    client.subscribe("paho/#", qos=1)


client.on_connect = on_connect
client.on_subscribe = lambda client, *_: client.publish("paho/a", b"hello", qos=1)


def on_message(_client, _userdata, message):
    received.append(message.payload)
    over.set()


client.on_message = on_message
client.on_disconnect = lambda *_: over.set()
try:
    client.connect("localhost", int(port))
except (OSError, ssl.SSLError) as error:
    sys.exit(f"not connected: {error}")
client.loop_start()
over.wait(15)
if received != [b"hello"]:
    sys.exit("nothing came")
client.disconnect()
