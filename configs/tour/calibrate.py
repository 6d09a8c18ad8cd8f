#!/usr/bin/env python3
"""The second app of the tour: turns a reading in Fahrenheit into Celsius when it is called."""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = int(os.environ.get("APP_PORT", "8002"))


class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: the second must not wait

    def do_POST(self):
        reading = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))))
        celsius = round((float(reading["temp"]) - 32) / 1.8, 3)
        data = json.dumps({"celsius": celsius}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.send_response(404)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    print(f"calibrate listens on {PORT}", flush=True)
    ThreadingHTTPServer(("127.0.0.1", PORT), App).serve_forever()
