#!/usr/bin/env python3
"""The app of the tour: takes readings, keeps a running average, publishes it.

Nothing but the standard library: plain HTTP in, plain HTTP out. Pillion delivers every reading
of `sensors/+/temperature` as a CloudEvent to POST /readings. The app asks the app `calibrate`
for the corrected value, keeps its sums as state, and publishes to `results/<sensor>`.
"""

import http.client
import json
import os
import sys
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = int(os.environ.get("APP_PORT", "8001"))
PILLION = int(os.environ.get("DAPR_HTTP_PORT", "3500"))
connection = None


def call(method, path, body=None):
    """One request to Pillion over a connection that is kept; a broken one is opened anew."""
    global connection
    data = None if body is None else json.dumps(body)
    for attempt in (1, 2):
        try:
            connection = connection or http.client.HTTPConnection("127.0.0.1", PILLION, timeout=10)
            connection.request(method, path, data, {"content-type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status >= 300:
                raise RuntimeError(f"{method} {path}: {answer.status} {text.decode()}")
            return json.loads(text) if text else None
        except (http.client.HTTPException, OSError):
            connection = None
            if attempt == 2:
                raise


def take(event):
    sensor = event["topic"].split("/")[1]
    reading = event["data"]
    key = urllib.parse.quote(f"average-{sensor}", safe="")
    seen = call("GET", f"/v1.0/state/statestore/{key}") or {"count": 0, "sum": 0.0, "last": ""}
    if seen["last"] != event["id"]:  # delivered at least once: the same one again changes nothing
        degrees = call("POST", "/v1.0/invoke/calibrate/method/celsius", reading)["celsius"]
        seen = {
            "count": seen["count"] + 1,
            "sum": round(seen["sum"] + degrees, 3),
            "last": event["id"],
        }
        call("POST", "/v1.0/state/statestore", [{"key": f"average-{sensor}", "value": seen}])
    result = {
        "id": event["id"],
        "reading": reading,
        "count": seen["count"],
        "average": round(seen["sum"] / seen["count"], 3),
    }
    call("POST", f"/v1.0/publish/pubsub/results/{sensor}?metadata.rawPayload=true", result)


class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: the second must not wait

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if self.path == "/dapr/subscribe":
            topic = {"pubsubname": "pubsub", "topic": "sensors/+/temperature", "route": "/readings"}
            self.answer(200, [topic])
        else:
            self.answer(404, {})

    def do_POST(self):
        event = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))))
        try:
            take(event)
            self.answer(200, {"status": "SUCCESS"})
        except Exception as error:  # whatever it was, the reading comes again
            print(f"later: {error}", file=sys.stderr, flush=True)
            self.answer(200, {"status": "RETRY"})

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    print(f"average listens on {PORT}", flush=True)
    ThreadingHTTPServer(("127.0.0.1", PORT), App).serve_forever()
