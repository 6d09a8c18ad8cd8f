"""The emulated gateway: an ARM board in qemu, its disk, its forwarded ports, and a way in."""

import ctypes
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Under software emulation on a busy computer everything takes its time.
BOOT_S_MAX = 420
COMMAND_S_MAX = 300
GUEST_PORTS = {"http": 3500, "mqtt": 1883, "metrics": 9090, "shell": 2222}


class Failed(Exception):
    """What was wrong, in one sentence."""


def check(right, what):
    if not right:
        raise Failed(what)


def say(text):
    """One line per step, with the seconds since the script began."""
    elapsed = time.time() - float(os.environ["BOOT_BEGUN"])
    print(f"[{elapsed:6.1f} s] {text}", flush=True)


def _die_with_parent():
    # PR_SET_PDEATHSIG: no emulator outlives the test, however that ends.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _free_ports(count):
    doors = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [door.getsockname()[1] for door in doors]
    for door in doors:
        door.close()
    return ports


class Machine:
    """One board and its disk; it is switched on and loses power many times."""

    def __init__(self, work, image, disk_mode, memory_mb):
        self.work, self.image = Path(work), image
        self.disk_mode, self.memory_mb = disk_mode, memory_mb
        self.port = dict(zip(GUEST_PORTS, _free_ports(len(GUEST_PORTS))))
        self.qemu = self.disk = None
        self.console = self.work / "console.log"
        self.console.write_bytes(b"")

    def start(self, seed):
        """Switches it on. The seed decides what its disk loses when the power goes."""
        door = self.work / "disk.socket"
        door.unlink(missing_ok=True)
        self.disk = subprocess.Popen(
            [sys.executable, HERE / "disk.py", "--image", self.image, "--socket", door]
            + ["--mode", self.disk_mode, "--seed", str(seed)],
            stdout=subprocess.PIPE, preexec_fn=_die_with_parent,
        )
        self._until("the disk's socket", 30, door.exists)
        forwards = "".join(
            f",hostfwd=tcp:127.0.0.1:{self.port[name]}-:{inside}"
            for name, inside in GUEST_PORTS.items()
        )
        self.qemu = subprocess.Popen(
            ["qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a53", "-smp", "2"]
            + ["-m", str(self.memory_mb), "-nodefaults", "-display", "none", "-no-reboot"]
            + ["-chardev", f"file,id=console,path={self.console},append=on"]
            + ["-serial", "chardev:console", "-kernel", self.work / "vmlinuz"]
            + ["-initrd", self.work / "initrd", "-append", "console=ttyAMA0 panic=-1 systemd.show_status=no"]
            # writeback: the guest is told that the disk has a volatile cache, and has to flush it.
            + ["-drive", f"if=none,id=disk,format=raw,cache=writeback,file=nbd+unix:///?socket={door}"]
            + ["-device", "virtio-blk-device,drive=disk"]
            + ["-netdev", f"user,id=net{forwards}", "-device", "virtio-net-device,netdev=net"],
            stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent,
        )
        self.started = time.monotonic()

    def wait_for(self, what, is_so, limit_s=BOOT_S_MAX):
        """Returns the seconds since it was switched on once `is_so` answers true."""
        self._until(what, limit_s, lambda: self._is_running() and is_so())
        return time.monotonic() - self.started

    def cut(self):
        """Cuts the power. What the disk held and lost."""
        # The disk says when it is out; from then on it answers nothing, so neither does the machine.
        self.disk.terminate()
        printed = self.disk.stdout.readline()
        self.qemu.kill()
        return self._after_qemu(printed)

    def power_off(self):
        """Shuts it down as an operator would. What the disk held and lost."""
        try:
            self.run("systemctl --no-block poweroff")
        except (OSError, Failed):
            pass  # it may be gone before it has answered
        try:
            self.qemu.wait(COMMAND_S_MAX)
        except subprocess.TimeoutExpired:
            raise Failed("the machine did not power off") from None
        return self._after_qemu(self.disk.stdout.readline())

    def end(self):
        """Whatever state it is in: nothing of it runs afterwards."""
        for process in (self.qemu, self.disk):
            if process and process.poll() is None:
                process.kill()
                process.wait()

    def has_shell(self):
        try:
            return self.run("true", limit_s=20) == ""
        except (OSError, Failed):
            return False

    def run(self, script, data=b"", limit_s=COMMAND_S_MAX):
        """What a root shell inside prints for `script`, which must succeed. `data` is what it reads."""
        # One compound command: bash reads it to its end before it runs, so that `data` follows it.
        head = f'{{ ( set -e; {script}\n) 2>&1; s=$?; echo; echo "exit $s"; exit; }}\n'.encode()
        with socket.create_connection(("127.0.0.1", self.port["shell"]), timeout=limit_s) as stream:
            stream.sendall(head + data)
            answer = b""
            while piece := stream.recv(1 << 16):
                answer += piece
        text = answer.decode(errors="replace")
        ended = re.search(r"\nexit (\d+)\n$", text)
        check(ended, f"the shell inside went away during: {script}")
        output = text[: ended.start()].strip("\n")
        check(ended.group(1) == "0", f"inside, `{script}` failed with {ended.group(1)}:\n{output}")
        return output

    def request(self, method, path, body=None, port="http", limit_s=30):
        """Status and body of a request from outside."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port[port], timeout=limit_s)
        try:
            connection.request(method, path, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def is_healthy(self):
        try:
            return self.request("GET", "/v1.0/healthz", limit_s=10)[0] == 204
        except (OSError, http.client.HTTPException):
            return False

    def metric(self, name):
        status, text = self.request("GET", "/metrics", port="metrics")
        found = re.search(rf"^{name} ([0-9.e+]+)$", text.decode(), re.MULTILINE)
        check(status == 200 and found, f"no metric {name}")
        return float(found.group(1))

    def service(self, *names):
        """Properties of pillion.service, by name."""
        shown = self.run("systemctl show pillion.service -p " + ",".join(names))
        return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)

    def last_lines(self, count=40):
        lines = self.console.read_text(errors="replace").splitlines()
        return "\n".join(f"    | {line}" for line in lines[-count:])

    def _is_running(self):
        check(self.qemu.poll() is None, f"the emulator ended with {self.qemu.poll()}")
        check(self.disk.poll() is None, f"the disk ended with {self.disk.poll()}")
        return True

    def _after_qemu(self, printed):
        self.qemu.wait()
        try:
            status = self.disk.wait(timeout=60)
        except subprocess.TimeoutExpired:
            raise Failed("the disk did not end with the emulator") from None
        check(status == 0 and printed, f"the disk ended with {status}")
        return json.loads(printed)

    def _until(self, what, limit_s, is_so):
        deadline = time.monotonic() + limit_s
        while not is_so():
            check(time.monotonic() < deadline, f"{what}: not within {limit_s} s")
            # Polling: the guest has no way to call.
            time.sleep(0.2)
