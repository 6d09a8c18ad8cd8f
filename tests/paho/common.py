"""What the scripts share: a paho client that can be waited on, and a check that says what failed."""

import queue
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PATIENCE = 20


def check(right, what):
    if not right:
        print(f"FAILED: {what}", flush=True)
        sys.exit(1)


class Client:
    """A paho client: `connect` waits for CONNACK, `subscribe` for SUBACK, `next` for a message."""

    def __init__(self, port, version, client_id="", clean=True, expiry_s=0, will=None):
        self.port, self.version, self.clean, self.expiry_s = port, version, clean, expiry_s
        protocol = mqtt.MQTTv5 if version == 5 else mqtt.MQTTv311
        session = {} if version == 5 else {"clean_session": clean}
        self.paho = mqtt.Client(CallbackAPIVersion.VERSION2, client_id, protocol=protocol, **session)
        self.connected, self.subscribed, self.messages = (queue.Queue() for _ in range(3))
        self.unsubscribed = queue.Queue()
        self.paho.on_connect = lambda c, u, flags, reason, p: self.connected.put((flags, reason, p))
        self.paho.on_subscribe = lambda c, u, mid, reasons, p: self.subscribed.put(reasons)
        self.paho.on_unsubscribe = lambda c, u, mid, reasons, p: self.unsubscribed.put(reasons)
        self.paho.on_message = lambda c, u, message: self.messages.put(message)
        if will:
            self.paho.will_set(**will)

    def connect(self):
        """Whether the broker had a session of this client."""
        options = {}
        if self.version == 5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = self.expiry_s
            options = {"clean_start": self.clean, "properties": properties}
        self.paho.connect("127.0.0.1", self.port, keepalive=30, **options)
        self.paho.loop_start()
        flags, reason, self.properties = self.connected.get(timeout=PATIENCE)
        check(not reason.is_failure, f"CONNACK {reason}")
        return flags.session_present

    def subscribe(self, topic, qos):
        self.paho.subscribe(topic, qos)
        reasons = self.subscribed.get(timeout=PATIENCE)
        check([reason.value for reason in reasons] == [qos], f"SUBACK {reasons}")

    def unsubscribe(self, topic):
        self.paho.unsubscribe(topic)
        self.unsubscribed.get(timeout=PATIENCE)

    def publish(self, topic, payload, qos, **options):
        """Returns after PUBACK or PUBCOMP."""
        info = self.paho.publish(topic, payload, qos, **options)
        info.wait_for_publish(PATIENCE)
        check(info.is_published(), f"publish to {topic}")

    def next(self):
        return self.messages.get(timeout=PATIENCE)

    def disconnect(self):
        self.paho.disconnect()
        self.paho.loop_stop()
