"""will.py PORT VERSION: a client that vanishes leaves its will, one that says goodbye does not."""

import os
import sys

from common import Client, check

PORT, VERSION = int(sys.argv[1]), int(sys.argv[2])


def with_will(name):
    will = {"topic": f"wills/{VERSION}/{name}", "payload": "gone", "qos": 1, "retain": True}
    client = Client(PORT, VERSION, f"{name}{VERSION}", will=will)
    client.connect()
    return client


watcher = Client(PORT, VERSION, f"watcher{VERSION}")
watcher.connect()
watcher.subscribe(f"wills/{VERSION}/#", 1)

polite = with_will("polite")
polite.disconnect()

child = os.fork()
if child == 0:
    rude = with_will("rude")
    os._exit(0)
os.waitpid(child, 0)
message = watcher.next()
check((message.topic, message.payload) == (f"wills/{VERSION}/rude", b"gone"), message.topic)

# A client that is thrown out by its double leaves a will too.
first = with_will("double")
second = Client(PORT, VERSION, f"double{VERSION}")
second.connect()
message = watcher.next()
check(message.topic == f"wills/{VERSION}/double", message.topic)
first.paho.loop_stop()
second.disconnect()

# The will was retained.
late = Client(PORT, VERSION, f"late{VERSION}")
late.connect()
late.subscribe(f"wills/{VERSION}/rude", 1)
message = late.next()
check(message.retain and message.payload == b"gone", "the retained will")
late.disconnect()
watcher.disconnect()
check(watcher.messages.empty(), "a will too many")
print("ok")
