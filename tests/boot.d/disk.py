"""disk.py --image FILE --socket PATH --mode MODE --seed N: the emulated machine's disk, over NBD.

A disk answers a write when it is in its own memory and puts it on the medium later, in any order; only
a flush (or a write with FUA) makes sure. An emulator that is killed never shows that, because the
host keeps what the guest wrote. This server does: FILE is the medium, what was not flushed is held
here, and SIGTERM or the end of the connection is the end of the power.

    volatile   a flush takes its time, as on a memory card. At the cut, a random part of the writes
               since the last flush reached the medium, or none, some of them only in part (by
               sectors). Most cuts wait for a flush, some for one of several writes: then there is
               something to lose
    plain      every write is on the medium at once
    lying      flushes are answered without being done, and writes reach the medium in order and two
               seconds late: no program can keep a promise on it, so a test that passes here is blind

Serves one connection. At the cut it prints one line of JSON, what was held and what of it was lost,
and answers nothing from then on; it ends with the connection. NBD is spoken as its protocol document
describes the fixed newstyle handshake with simple replies.
"""

import argparse
import collections
import json
import os
import random
import signal
import socket
import struct
import time

SECTOR = 512
# A disk's own memory has an end: beyond it the oldest writes go to the medium.
HELD_BYTES_MAX = 32 << 20
# Larger requests than qemu makes; one that claims more is a broken client.
REQUEST_BYTES_MAX = 64 << 20
LIE_S = 2.0
FLUSH_S_MAX = 0.020
# A cut waits for a flush of so many held writes, drawn from here, but not for longer than that.
CUT_AT_HELD, CUT_WAIT_S = (0, 1, 1, 2, 3, 5), 3.0

OPTION_MAGIC, REPLY_MAGIC = 0x49484156454F5054, 0x3E889045565A9
REQUEST_MAGIC, ANSWER_MAGIC = 0x25609513, 0x67446698
OPT_EXPORT_NAME, OPT_ABORT, OPT_INFO, OPT_GO = 1, 2, 6, 7
REP_ACK, REP_INFO, REP_UNSUPPORTED = 1, 3, 0x80000001
READ, WRITE, DISCONNECT, FLUSH = 0, 1, 2, 3
HAS_FLAGS, SENDS_FLUSH, SENDS_FUA = 1, 4, 8
FUA, INVALID = 1, 22


class PowerOut(Exception):
    """Raised wherever the disk is at that moment."""


class Disk:
    """The medium, and the writes that wait before it in the order they came."""

    def __init__(self, image, mode, seed):
        self.medium = os.open(image, os.O_RDWR)
        self.size = os.fstat(self.medium).st_size
        self.mode, self.random = mode, random.Random(seed)
        self.writes = collections.deque()  # (time, offset, bytes)
        self.latest = {}  # sector -> its newest bytes, while they are only held
        self.waiting = collections.Counter()  # sector -> held writes that contain it
        self.held_bytes = 0
        self.counts = collections.Counter()
        self.cut_at_held = None

    def read(self, offset, length):
        data = bytearray(os.pread(self.medium, length, offset))
        for sector in range(offset // SECTOR, (offset + length) // SECTOR):
            if sector in self.latest:
                at = sector * SECTOR - offset
                data[at : at + SECTOR] = self.latest[sector]
        return bytes(data)

    def write(self, offset, data, is_fua):
        self.counts["writes"] += 1
        self.writes.append((time.monotonic(), offset, data))
        self.held_bytes += len(data)
        for at in range(0, len(data), SECTOR):
            sector = (offset + at) // SECTOR
            self.latest[sector] = data[at : at + SECTOR]
            self.waiting[sector] += 1
        if self.mode == "plain":
            self._settle(0)
        elif self.mode == "lying":
            self._settle_late()
        elif is_fua:
            # Older writes of the same sectors must not come after it: the simple way is all of them.
            self._settle(0)
        else:
            self._settle(HELD_BYTES_MAX)

    def flush(self):
        self.counts["flushes"] += 1
        if self.mode == "lying":
            self._settle_late()
            return
        if self.mode == "volatile":
            time.sleep(self.random.uniform(0, FLUSH_S_MAX))
            if self.cut_at_held is not None and len(self.writes) >= self.cut_at_held:
                raise PowerOut
        self._settle(0)

    def power_goes(self, *_):
        """The handler of SIGTERM, and of the alarm when no such flush came."""
        if self.mode != "volatile" or self.cut_at_held is not None:
            raise PowerOut
        self.cut_at_held = self.random.choice(CUT_AT_HELD)
        if not self.cut_at_held:
            raise PowerOut
        signal.setitimer(signal.ITIMER_REAL, CUT_WAIT_S)

    def cut(self):
        """Ends the disk: what of the held writes reached the medium is left to chance."""
        held, lost = len(self.writes), 0
        chance = self.random.random() * self.random.choice((0, 1)) if self.mode == "volatile" else 0
        for _, offset, data in self.writes:
            if self.random.random() < 0.25:
                sectors = range(0, len(data), SECTOR)
                kept = [at for at in sectors if self.random.random() < chance]
                for at in kept:
                    os.pwrite(self.medium, data[at : at + SECTOR], offset + at)
                lost += len(kept) < len(sectors)
            elif self.random.random() < chance:
                os.pwrite(self.medium, data, offset)
            else:
                lost += 1
        return {"held": held, "held_bytes": self.held_bytes, "lost": lost, **self.counts}

    def _settle(self, bytes_max):
        while self.writes and self.held_bytes > bytes_max:
            self._settle_oldest()

    def _settle_late(self):
        before = time.monotonic() - LIE_S
        while self.writes and self.writes[0][0] < before:
            self._settle_oldest()

    def _settle_oldest(self):
        _, offset, data = self.writes.popleft()
        os.pwrite(self.medium, data, offset)
        self.held_bytes -= len(data)
        for sector in range(offset // SECTOR, (offset + len(data)) // SECTOR):
            self.waiting[sector] -= 1
            if not self.waiting[sector]:
                del self.waiting[sector], self.latest[sector]


class Connection:
    """One NBD client, from its handshake to its end."""

    def __init__(self, stream, disk):
        self.stream, self.disk = stream, disk
        self.reader = stream.makefile("rb", buffering=1 << 20)

    def serve(self):
        try:
            if self._handshake():
                while self._answer_one():
                    pass
        except (EOFError, ConnectionError):
            pass  # the emulator is gone: that is the cut

    def _take(self, form):
        return struct.unpack(form, self._take_bytes(struct.calcsize(form)))

    def _take_bytes(self, length):
        data = self.reader.read(length)
        if len(data) < length:
            raise EOFError
        return data

    def _handshake(self):
        """Whether the client wants to use the disk."""
        flags = HAS_FLAGS | SENDS_FLUSH | SENDS_FUA
        self.stream.sendall(b"NBDMAGIC" + struct.pack(">QH", OPTION_MAGIC, 1 | 2))
        (client_flags,) = self._take(">I")
        while True:
            magic, option, length = self._take(">QII")
            if magic != OPTION_MAGIC or length > 4096:
                raise ConnectionError("not an NBD client")
            self._take_bytes(length)
            if option == OPT_EXPORT_NAME:
                padding = b"" if client_flags & 2 else bytes(124)
                self.stream.sendall(struct.pack(">QH", self.disk.size, flags) + padding)
                return True
            if option in (OPT_INFO, OPT_GO):
                self._option_reply(option, REP_INFO, struct.pack(">HQH", 0, self.disk.size, flags))
                self._option_reply(option, REP_ACK)
                if option == OPT_GO:
                    return True
            elif option == OPT_ABORT:
                self._option_reply(option, REP_ACK)
                return False
            else:
                self._option_reply(option, REP_UNSUPPORTED)

    def _option_reply(self, option, kind, data=b""):
        self.stream.sendall(struct.pack(">QIII", REPLY_MAGIC, option, kind, len(data)) + data)

    def _answer_one(self):
        """Whether another request may follow."""
        magic, flags, kind, handle, offset, length = self._take(">IHHQQI")
        if magic != REQUEST_MAGIC or length > REQUEST_BYTES_MAX:
            raise ConnectionError("not an NBD request")
        data = self._take_bytes(length) if kind == WRITE else b""
        error, answer = 0, b""
        is_inside = offset % SECTOR == length % SECTOR == 0 and offset + length <= self.disk.size
        if kind == DISCONNECT:
            return False
        if kind == FLUSH:
            self.disk.flush()
        elif kind == READ and is_inside:
            answer = self.disk.read(offset, length)
        elif kind == WRITE and is_inside:
            self.disk.write(offset, data, flags & FUA)
        else:
            error = INVALID
        self.stream.sendall(struct.pack(">IIQ", ANSWER_MAGIC, error, handle) + answer)
        return True


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--image", required=True)
    options.add_argument("--socket", required=True)
    options.add_argument("--mode", choices=["volatile", "plain", "lying"], required=True)
    options.add_argument("--seed", type=int, required=True)
    given = options.parse_args()
    disk = Disk(given.image, given.mode, given.seed)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(given.socket)
        door.listen(1)
        stream, _ = door.accept()
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, disk.power_goes)
    with stream:
        try:
            Connection(stream, disk).serve()
        except PowerOut:
            pass
        for number in (signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)
        print(json.dumps(disk.cut()), flush=True)
        try:
            while stream.recv(1 << 16):
                pass
        except ConnectionError:
            pass


main()
