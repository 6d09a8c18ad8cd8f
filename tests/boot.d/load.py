"""What works on the gateway from outside, and the book of what it was told.

Every writer counts its attempts. Its value says the number and is otherwise derived from it, so what
comes back is known byte by byte. Written down is only what was acknowledged: an answer 204, a PUBACK.
"""

import collections
import hashlib
import http.client
import json
import queue
import threading
import time

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from machine import Failed, check

SAVERS, TRANSACTORS, HTTP_PUBLISHERS, MQTT_PUBLISHERS = 3, 1, 2, 3
# Keys of one saver, topics of the retained publisher: some are overwritten often, none at once.
KEYS, RETAINED_TOPICS = 25, 10
# Unacknowledged publishes of one MQTT client.
WINDOW = 8
# Silence after which nothing more is expected.
SILENCE_S_MAX = 60
RAW = "?metadata.rawPayload=true"


def text_of(name, number):
    """The value of the n-th attempt: the number and 16 to 1,039 characters that belong to it."""
    digest = hashlib.sha256(f"{name} {number}".encode()).hexdigest()
    return f"{number}:{(digest * 17)[: 16 + int(digest[:2], 16) * 4]}"


def number_of(name, text):
    """The number of a value, which must be whole."""
    number = int(text.split(":", 1)[0])
    check(text == text_of(name, number), f"{name} holds a value that was never written: {text!r}")
    return number


class Book:
    """What was attempted and acknowledged, by key or topic, since the machine was new."""

    def __init__(self):
        self.lock = threading.Lock()
        self.attempted = collections.Counter()
        self.acknowledged = collections.defaultdict(list)

    def attempt(self, name):
        with self.lock:
            self.attempted[name] += 1
            return self.attempted[name]

    def acknowledge(self, name, number):
        with self.lock:
            self.acknowledged[name].append(number)

    def names(self, prefix):
        return [name for name in sorted(self.attempted) if name.startswith(prefix)]

    def count(self, prefix=""):
        return sum(len(numbers) for name, numbers in self.acknowledged.items() if name.startswith(prefix))

    def check_last(self, name, text):
        """`text` is what is stored under a name that each attempt overwrites; None is nothing."""
        told = max(self.acknowledged.get(name, [0]))
        found = 0 if text is None else number_of(name, text)
        check(found >= told, f"LOST: {name} holds attempt {found}, but {told} was acknowledged")
        check(found <= self.attempted[name], f"{name} holds attempt {found}, which was never made")


class Load:
    """Writers of every kind, from `start` until the gateway stops answering."""

    def __init__(self, port, book):
        self.port, self.book = port, book
        self.threads, self.clients, self.problems = [], [], []
        self.is_over = False

    def start(self):
        kinds = [(self._save, "key{}", SAVERS), (self._transact, "pair{}", TRANSACTORS)]
        kinds += [(self._publish, "line/http{}", HTTP_PUBLISHERS)]
        kinds += [(self._publish_mqtt, "line/mqtt{}", MQTT_PUBLISHERS)]
        kinds += [(self._publish_retained, "kept/{}", 1)]
        for writer, name, count in kinds:
            for index in range(count):
                work = (writer, name.format(index))
                self.threads.append(threading.Thread(target=self._write, args=work, daemon=True))
        for thread in self.threads:
            thread.start()

    def stop(self):
        """Ends it; to be called after the power is out, or to let what runs finish."""
        self.is_over = True
        for thread in self.threads:
            thread.join()
        check(not self.problems, f"under load: {self.problems[:3]}")

    def _write(self, writer, name):
        try:
            writer(name)
        except Failed as problem:
            self.problems.append(str(problem))

    def _each_answer(self, content_type, requests):
        """Makes requests on one connection, for as long as it lasts: path, body, what a 204 tells."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port["http"], timeout=60)
        try:
            for path, body, told in requests:
                if self.is_over:
                    return
                connection.request("POST", path, body, {"content-type": content_type})
                answer = connection.getresponse()
                answer_body = answer.read()
                check(answer.status == 204, f"{path}: {answer.status} {answer_body!r}")
                for name, number in told:
                    self.book.acknowledge(name, number)
        except (OSError, http.client.HTTPException):
            pass  # the power is out
        finally:
            connection.close()

    def _save(self, saver):
        def requests():
            turn = 0
            while True:
                name = f"{saver}-{turn % KEYS}"
                turn += 1
                number = self.book.attempt(name)
                entries = [{"key": name, "value": text_of(name, number)}]
                yield "/v1.0/state/statestore", json.dumps(entries), [(name, number)]

        self._each_answer("application/json", requests())

    def _transact(self, pair):
        def requests():
            while True:
                number = self.book.attempt(pair)
                value = text_of(pair, number)
                halves = [
                    {"operation": "upsert", "request": {"key": f"{pair}-{half}", "value": value}}
                    for half in "ab"
                ]
                body = json.dumps({"operations": halves})
                yield "/v1.0/state/statestore/transaction", body, [(pair, number)]

        self._each_answer("application/json", requests())

    def _publish(self, topic):
        def requests():
            while True:
                number = self.book.attempt(topic)
                yield f"/v1.0/publish/pubsub/{topic}{RAW}", text_of(topic, number), [(topic, number)]

        self._each_answer("application/octet-stream", requests())

    def _publish_mqtt(self, topic):
        self._publish_over_mqtt(topic, lambda turn: topic, retain=False)

    def _publish_retained(self, topic):
        self._publish_over_mqtt(topic, lambda turn: f"{topic}/{turn % RETAINED_TOPICS}", retain=True)

    def _publish_over_mqtt(self, client_id, topic_of, retain):
        # Acknowledgements come on paho's thread, maybe before `publish` has returned here: they
        # queue, and this thread alone looks at what waits.
        answers, waiting, gone = queue.Queue(), {}, threading.Event()

        def note(answer):
            mid, reason = answer
            name, number = waiting.pop(mid)
            check(not reason.is_failure, f"{name}: PUBACK {reason}")
            self.book.acknowledge(name, number)

        try:
            client = _client(self.port, client_id, clean=True)
        except OSError:
            return
        client.on_publish = lambda _c, _d, mid, reason, _p: answers.put((mid, reason))
        client.on_disconnect = lambda *_: gone.set()
        turn = 0
        while not (self.is_over or gone.is_set()):
            try:
                while answer := answers.get(len(waiting) >= WINDOW, timeout=0.2):
                    note(answer)
            except queue.Empty:
                pass
            if len(waiting) < WINDOW:
                name = topic_of(turn)
                turn += 1
                number = self.book.attempt(name)
                info = client.publish(name, text_of(name, number), 1, retain)
                waiting[info.mid] = (name, number)
        _end(client)
        while not answers.empty():
            note(answers.get())


class Collector:
    """An MQTT client with a persistent session: what it missed waits for it in the gateway."""

    def __init__(self, port):
        self.port, self.client = port, None
        self.arrived = collections.defaultdict(list)
        self.last_arrival = 0.0
        self.problems = []

    def connect(self):
        """Whether the gateway had a session of it."""
        self.last_arrival = time.monotonic()
        self.client = _client(self.port, "collector", clean=False, on_message=self._on_message)
        return self.client.session_present

    def subscribe(self):
        granted = queue.Queue()
        self.client.on_subscribe = lambda _c, _d, _mid, reasons, _p: granted.put(reasons)
        self.client.subscribe("line/#", 1)
        reasons = granted.get(timeout=60)
        check([reason.value for reason in reasons] == [1], f"SUBACK {reasons}")

    def leave(self):
        if self.client:
            _end(self.client)
        self.client = None

    def missing(self, book):
        """The first acknowledged message that has not arrived."""
        for topic in book.names("line/"):
            absent = set(book.acknowledged[topic]).difference(self.arrived[topic])
            if absent:
                return f"{len(absent)} of {len(book.acknowledged[topic])} on {topic}, first {min(absent)}"
        return None

    def collect(self, book):
        """Takes what waits until nothing acknowledged is missing."""
        while missing := self.missing(book):
            check(not self.problems, f"received: {self.problems[:3]}")
            silent_s = time.monotonic() - self.last_arrival
            check(silent_s < SILENCE_S_MAX, f"LOST: {missing}; nothing came for {SILENCE_S_MAX} s")
            time.sleep(0.1)

    def check_order(self):
        """First arrivals are in the order they were made; the number of repeated ones."""
        repeated = 0
        for topic, numbers in self.arrived.items():
            first = list(dict.fromkeys(numbers))
            for earlier, later in zip(first, first[1:]):
                check(earlier < later, f"out of order on {topic}: {later} came after {earlier}")
            repeated += len(numbers) - len(first)
        return repeated

    def count(self):
        return sum(len(numbers) for numbers in self.arrived.values())

    def _on_message(self, _client, _data, message):
        self.last_arrival = time.monotonic()
        try:
            self.arrived[message.topic].append(number_of(message.topic, message.payload.decode()))
        except Exception as problem:
            self.problems.append(f"{message.topic}: {problem}")


def retained(port, topics):
    """Retained messages as a new client gets them, by topic, once these topics are among them."""
    found, arrivals = {}, queue.Queue()
    client = _client(port, "onlooker", clean=True, on_message=lambda _c, _d, message: arrivals.put(message))
    client.subscribe("kept/#", 1)
    try:
        while not found.keys() >= set(topics):
            message = arrivals.get(timeout=SILENCE_S_MAX)
            if message.retain:
                found[message.topic] = message.payload.decode()
    except queue.Empty:
        pass  # the caller sees what is absent
    _end(client)
    return found


def _client(port, client_id, clean, on_message=None):
    """A connected MQTT 3.1.1 client that does not connect a second time."""
    answer = queue.Queue()
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2, client_id, clean_session=clean, reconnect_on_failure=False
    )
    client.max_inflight_messages_set(WINDOW)
    client.on_connect = lambda _c, _d, flags, reason, _p: answer.put((flags, reason))
    client.on_message = on_message
    client.connect("127.0.0.1", port["mqtt"], keepalive=60)
    client.loop_start()
    try:
        flags, reason = answer.get(timeout=60)
    except queue.Empty:
        raise OSError("no CONNACK") from None
    check(not reason.is_failure, f"CONNACK {reason}")
    client.session_present = flags.session_present
    return client


def _end(client):
    client.disconnect()
    client.loop_stop()
