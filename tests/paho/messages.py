"""messages.py PORT VERSION: publishes and receives at every QoS; with MQTT 5 its properties too."""

import sys

from common import Client, PacketTypes, Properties, check

PORT, VERSION = int(sys.argv[1]), int(sys.argv[2])
COUNT = 100


def every_qos():
    taker, giver = Client(PORT, VERSION, f"taker{VERSION}"), Client(PORT, VERSION)
    taker.connect()
    giver.connect()
    taker.subscribe(f"paho/{VERSION}/#", 2)
    for qos in (0, 1, 2):
        topic = f"paho/{VERSION}/{qos}"
        infos = [giver.paho.publish(topic, str(n), qos) for n in range(COUNT)]
        for info in infos:
            info.wait_for_publish(20)
        for n in range(COUNT):
            message = taker.next()
            got = (message.topic, int(message.payload), message.qos, message.retain)
            check(got == (topic, n, qos, False), f"{got} instead of {n} of {topic}")
    # Binary, empty and large payloads come as they went.
    for payload in (b"\x00\xff\xfe", b"", bytes(range(256)) * 400):
        giver.publish(f"paho/{VERSION}/bytes", payload, 1)
        check(taker.next().payload == payload, f"{len(payload)} bytes")
    taker.unsubscribe(f"paho/{VERSION}/#")
    giver.publish(f"paho/{VERSION}/after", "x", 1)
    taker.disconnect()
    giver.disconnect()
    check(taker.messages.empty(), "a message after UNSUBSCRIBE")


def properties_of_version_5():
    taker, giver = Client(PORT, 5, "properties"), Client(PORT, 5)
    taker.connect()
    giver.connect()
    check(giver.properties.AssignedClientIdentifier, "an id for a client without one")
    taker.subscribe("with/#", 1)
    sent = Properties(PacketTypes.PUBLISH)
    sent.ContentType = "application/json"
    sent.ResponseTopic = "answers/1"
    sent.CorrelationData = b"\x01\x02"
    sent.UserProperty = [("unit", "K"), ("unit", "C")]
    sent.PayloadFormatIndicator = 1
    sent.MessageExpiryInterval = 60
    giver.publish("with/properties", "{}", 1, properties=sent)
    got = taker.next().properties
    for name in ("ContentType", "ResponseTopic", "CorrelationData", "PayloadFormatIndicator"):
        check(getattr(got, name, None) == getattr(sent, name), f"{name}: {got}")
    check([tuple(pair) for pair in got.UserProperty] == sent.UserProperty, f"{got}")
    check(0 < got.MessageExpiryInterval <= 60, f"{got}")
    # A topic is named once, then by its alias.
    aliased = Properties(PacketTypes.PUBLISH)
    aliased.TopicAlias = 1
    giver.publish("with/alias", "1", 1, properties=aliased)
    giver.publish("", "2", 1, properties=aliased)
    check([taker.next().topic for _ in range(2)] == ["with/alias"] * 2, "the alias")
    taker.disconnect()
    giver.disconnect()


every_qos()
if VERSION == 5:
    properties_of_version_5()
print("ok")
