"""session.py PORT VERSION join | leave | collect COUNT: a persistent session over several runs.

`join` subscribes and goes. `collect` prints what waited. `leave` ends the session.
"""

import sys

from common import Client, check

PORT, VERSION, STEP = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
NAME = f"sleeper{VERSION}"

if STEP == "join":
    client = Client(PORT, VERSION, NAME, clean=False, expiry_s=3600)
    check(not client.connect(), "a session before the first")
    client.subscribe("sleep/#", 1)
    client.disconnect()
elif STEP == "collect":
    client = Client(PORT, VERSION, NAME, clean=False, expiry_s=3600)
    check(client.connect(), "no session")
    for _ in range(int(sys.argv[4])):
        message = client.next()
        print(f"{message.topic} {message.qos} {message.payload.decode()}", flush=True)
    client.disconnect()
elif STEP == "leave":
    client = Client(PORT, VERSION, NAME, clean=True)
    check(not client.connect(), "a session in spite of a clean start")
    client.disconnect()
    client = Client(PORT, VERSION, NAME, clean=False)
    check(not client.connect(), "a session after the clean start")
    client.disconnect()
print("ok")
