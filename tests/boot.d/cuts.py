"""cuts.py: installs the package on the emulated gateway, cuts its power, and looks for what was promised.

Called by tests/boot, which see. Everything that was acknowledged before a cut must be there after the
next start: state as it was written, each topic complete and in order, retained messages.
"""

import argparse
import json
import random
import signal
import sys
import time
import traceback
from pathlib import Path

from load import Book, Collector, Load, retained
from machine import Failed, Machine, check, say

# What one cut may repeat on one queue: what was in flight, and acknowledgements that waited for the
# next commit.
REPEATED_PER_CUT_MAX = 512
# When the power goes, in seconds of load.
CUT_S = (2.0, 10.0)
START_S_MAX = 120


class Gateway:
    """The machine, and what the world outside knows about it."""

    def __init__(self, given):
        self.given = given
        self.random = random.Random(given.seed)
        self.machine = Machine(given.work, given.image, given.disk, given.memory)
        self.book = Book()
        self.collector = Collector(self.machine.port)
        self.lost_writes = 0
        self.ready_s = 0.0

    def install(self):
        """As an operator does: the package is copied there and given to dpkg; then its configuration."""
        machine, deb = self.machine, Path(self.given.deb)
        machine.start(self.random.getrandbits(32))
        seconds = machine.wait_for("a shell inside", machine.has_shell)
        system = machine.run("uname -srm; systemctl --version | head -n 1").replace("\n", ", ")
        say(f"first boot: a shell after {seconds:.1f} s; {system}")
        cache = machine.run("cat /sys/block/vda/queue/write_cache")
        check(cache == "write back", f"the guest takes the disk for {cache}: it would not flush")

        data = deb.read_bytes()
        begun = time.monotonic()
        machine.run(f"head -c {len(data)} >pillion.deb; dpkg -i pillion.deb", data)
        state = machine.run("for is in enabled active; do systemctl is-$is pillion || true; done").split()
        check(state == ["enabled", "active"], f"after the installation the service is {state}")
        say(f"installed {deb.name} ({len(data) / 1e6:.1f} MB) in {time.monotonic() - begun:.1f} s: "
            "enabled and active with the package's configuration")

        config = (Path(__file__).parent / "gateway.yaml").read_bytes()
        machine.run(
            f"find /etc/pillion -name '*.yaml' -delete; head -c {len(config)} >/etc/pillion/boot.yaml; "
            "pillion check /etc/pillion; systemctl restart pillion; sync", config,
        )
        machine.wait_for("the gateway's answer from outside", machine.is_healthy)
        version = machine.run("pillion version").splitlines()[0]
        say(f"configured and restarted; `pillion version`: {version}")
        self.collector.connect()
        self.collector.subscribe()

    def load_and_cut(self, is_watched):
        """Load until the power goes; with `is_watched` the collector takes messages meanwhile."""
        if not is_watched:
            self.collector.leave()
        before = self.book.count()
        load = Load(self.machine.port, self.book)
        load.start()
        # Not counted from the start: under emulation the first answers can take longer than the load.
        self.machine.wait_for("an acknowledgement", lambda: self.book.count() > before)
        seconds = self.random.uniform(*CUT_S)
        time.sleep(seconds)
        rss = self._rss()
        lost = self._cut()
        load.stop()
        self.collector.leave()
        told = self.book.count() - before
        say(f"power cut after {seconds:.1f} s of load with {told} acknowledgements; RSS {rss}; the disk "
            f"held {lost['held']} writes ({lost['held_bytes'] >> 10} KiB) and lost {lost['lost']} of them")

    def flicker(self):
        """The power comes and goes again around the moment when the service reads what is left."""
        self.machine.start(self.random.getrandbits(32))
        seconds = self.random.uniform(0.7, 1.1) * self.ready_s
        time.sleep(seconds)
        is_up = self.machine.is_healthy()
        lost = self._cut()
        when = "after" if is_up else "before"
        say(f"the power came and went again after {seconds:.1f} s, {when} the service was ready; the "
            f"disk lost {lost['lost']} of {lost['held']} held writes")

    def start_again(self):
        """By itself, from the same disk."""
        self.machine.start(self.random.getrandbits(32))
        seconds = self.machine.wait_for("the gateway's answer after a cut", self.machine.is_healthy)
        begun, ready = "ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic"
        shown = self.machine.service("ActiveState", "NRestarts", begun, ready)
        check(shown["ActiveState"] == "active", f"the service is {shown}")
        check(shown["NRestarts"] == "0", f"the service needed {shown['NRestarts']} restarts to start")
        self.ready_s = int(shown[ready]) / 1e6
        own_s = self.ready_s - int(shown[begun]) / 1e6
        say(f"on again: answers after {seconds:.1f} s, ready {self.ready_s:.1f} s after the kernel's start, "
            f"{own_s:.1f} s of it its own; RSS {self._rss()}")

    def look(self, cuts):
        """Everything that was acknowledged is there."""
        begun = time.monotonic()
        keys = self._check_state()
        kept = self._check_retained()
        check(self.collector.connect(), "LOST: the collector's session")
        self.collector.collect(self.book)
        repeated = self.collector.check_order()
        check(repeated <= cuts * REPEATED_PER_CUT_MAX, f"{repeated} messages came again")
        say(f"nothing lost: {keys} keys, {kept} retained, {self.book.count('line/')} acknowledged messages "
            f"in order ({repeated} came again), in {time.monotonic() - begun:.1f} s")

    def kill_and_hang(self):
        """systemd starts the service again when it was killed, and when it hangs if there is a watchdog."""
        watchdog_s = _seconds(self.machine.service("WatchdogUSec")["WatchdogUSec"])
        self.collector.leave()
        faults = [("killed", "KILL", START_S_MAX)]
        if watchdog_s:
            faults.append(("stopped", "STOP", START_S_MAX + 3 * watchdog_s))
        else:
            say("the service has no watchdog: not tried")
        for restarts, (what, name, limit_s) in enumerate(faults, 1):
            load = Load(self.machine.port, self.book)
            before = self.book.count()
            load.start()
            self.machine.wait_for("an acknowledgement", lambda: self.book.count() > before)
            begun = time.monotonic()
            self.machine.run(f"kill -{name} $(systemctl show pillion -p MainPID --value)")
            restarted = f"a restart of the {what} service"
            self.machine.wait_for(restarted, lambda: self._restarts() >= restarts, limit_s)
            self.machine.wait_for("its answer", self.machine.is_healthy, START_S_MAX)
            seconds = time.monotonic() - begun
            load.stop()
            say(f"{what} under load, started again by systemd: answers after {seconds:.1f} s")
            self.look(self.given.cuts + restarts)
            self.collector.leave()

    def shut_down(self):
        self.machine.power_off()

    def _cut(self):
        lost = self.machine.cut()
        self.lost_writes += lost["lost"]
        return lost

    def _restarts(self):
        return int(self.machine.service("NRestarts")["NRestarts"])

    def _rss(self):
        return f"{self.machine.metric('process_resident_memory_bytes') / 1e6:.1f} MB"

    def _check_state(self):
        names = self.book.names("key")
        halves = {pair: [f"{pair}-a", f"{pair}-b"] for pair in self.book.names("pair")}
        keys = names + [half for pair in halves.values() for half in pair]
        body = json.dumps({"keys": keys})
        status, answer = self.machine.request("POST", "/v1.0/state/statestore/bulk", body)
        check(status == 200, f"bulk get: {status} {answer!r}")
        found = {entry["key"]: entry.get("data") for entry in json.loads(answer)}
        for name in names:
            self.book.check_last(name, found.get(name))
        for pair, (one, other) in halves.items():
            check(found.get(one) == found.get(other), f"half of a transaction: {pair}")
            self.book.check_last(pair, found.get(one))
        return len(keys)

    def _check_retained(self):
        topics = self.book.names("kept/")
        told = [topic for topic in topics if self.book.acknowledged[topic]]
        found = retained(self.machine.port, told)
        for topic in topics:
            self.book.check_last(topic, found.get(topic))
        return len(told)


def _seconds(text):
    """Seconds of a time as systemctl shows it, as `1min 30s`; 0 for none."""
    units = {"h": 3600, "min": 60, "s": 1, "ms": 0.001, "us": 1e-6}
    total = 0.0
    for part in text.split():
        number = part.rstrip("abcdefghijklmnopqrstuvwxyz")
        total += float(number) * units[part[len(number):]] if number else 0
    return total


def passed(gateway, given):
    """The whole story."""
    gateway.install()
    for cut in range(1, given.cuts + 1):
        say(f"cut {cut} of {given.cuts}")
        gateway.load_and_cut(is_watched=cut % 2 == 0)
        if cut % 2 == 0:
            gateway.flicker()
        gateway.start_again()
        gateway.look(cut)
    gateway.kill_and_hang()
    gateway.shut_down()
    say(f"powered off; {gateway.book.count()} acknowledged, none lost, while the disk lost "
        f"{gateway.lost_writes} writes")


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--work", required=True)
    options.add_argument("--image", required=True)
    options.add_argument("--deb", required=True)
    options.add_argument("--cuts", type=int, required=True)
    options.add_argument("--memory", type=int, required=True)
    options.add_argument("--disk", choices=["volatile", "plain", "lying"], required=True)
    options.add_argument("--seed", type=int, required=True)
    given = options.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    gateway = Gateway(given)
    try:
        passed(gateway, given)
    except Exception as problem:
        if not isinstance(problem, Failed):
            traceback.print_exc()
        say(f"FAILED: {problem}")
        print(f"the last lines of {gateway.machine.console}:\n{gateway.machine.last_lines()}")
        sys.exit(1)
    finally:
        gateway.machine.end()


main()
