"""A switch in user space between network namespaces, which loses, doubles, delays, reorders and damages packets.

    with PacketSwitch(7) as machines: ...      # needs root, `ip`, and /dev/net/tun

It has the interface of `drilling.machines.Machines`, and works where the kernel has no `netem`. Each namespace has a
TUN device; one process carries packets between them. A packet with a changed bit gets the TCP checksum that fits, so
the change reaches the program that reads the connection.
"""

from __future__ import annotations

import ctypes
import dataclasses
import fcntl
import heapq
import json
import os
import random
import selectors
import struct
import subprocess
import sys
import time
from typing import Any

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000
_TCP = 6
_MTU = 9000
_PATIENCE = 60.0
BOTH, OUT, IN = "both", "out", "in"


@dataclasses.dataclass(frozen=True)
class PacketWeather:
    """The chances of loss, doubling and a changed bit, 0 to 1; each packet is delayed by `least` to `delay` seconds."""

    loss: float = 0.0
    doubling: float = 0.0
    delay: float = 0.0
    least: float = 0.0
    flips: float = 0.0


class PacketSwitch:
    """Network namespaces, `10.77.0.1` onwards, and the switch; a context manager, leaving it removes them."""

    def __init__(self, count: int) -> None:
        self._prefix = f"adamsw{os.getpid()}"
        self.count = count
        self._process: subprocess.Popen[str] | None = None

    @staticmethod
    def can_be_made() -> bool:
        """Tell whether this user on this machine may have namespaces with TUN devices."""
        try:
            with PacketSwitch(1):
                return True
        except (OSError, RuntimeError):
            return False

    def __enter__(self) -> PacketSwitch:
        try:
            spaces = [self.space(number) for number in range(1, self.count + 1)]
            for space in spaces:
                _must("netns", "add", space)
            self._process = subprocess.Popen(
                [sys.executable, __file__, *spaces], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            self._read("ready")
            for number, space in enumerate(spaces, 1):
                _must("-n", space, "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
                _must("-n", space, "link", "set", "eth0", "mtu", str(_MTU))
                for device in ("lo", "eth0"):
                    _must("-n", space, "link", "set", device, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
        for number in range(1, self.count + 1):
            subprocess.run(["ip", "netns", "del", self.space(number)], check=False, capture_output=True)

    def space(self, number: int) -> str:
        """Return the namespace of machine `number`, from 1."""
        return f"{self._prefix}-{number}"

    def address(self, number: int) -> str:
        """Return its address."""
        return f"10.77.0.{number}"

    def cut(self, number: int, way: str = BOTH) -> None:
        """Lose what a machine sends, what is sent to it, or both."""
        self._order("cut", number, way)

    def set_weather(self, number: int, weather: PacketWeather) -> None:
        """Treat the packets from and to a machine so."""
        self._order("weather", number, dataclasses.asdict(weather))

    def heal(self, number: int) -> None:
        """End cuts and weather of a machine."""
        self._order("heal", number, None)

    def _order(self, deed: str, number: int, what: Any) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([deed, number, what]) + "\n")
        self._process.stdin.flush()
        self._read("done")

    def _read(self, word: str) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        if (line := self._process.stdout.readline().strip()) != word:
            raise RuntimeError(f"the switch says {line!r}; expected {word!r}")


def _must(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True, timeout=_PATIENCE)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


# The process.


class _Carrier:
    """Carries packets between devices, by machine number; `chance` draws what happens to them."""

    def __init__(self, devices: dict[int, int]) -> None:
        self._devices, self._chance = devices, random.Random(1)
        self._cut: dict[int, str] = {}
        self._weather: dict[int, PacketWeather] = {}
        self._late: list[tuple[float, int, int, bytes]] = []
        self._count = 0

    def obey(self, deed: str, number: int, what: Any) -> None:
        """Do what `PacketSwitch` orders."""
        if deed == "cut":
            self._cut[number] = what
        elif deed == "weather":
            self._weather[number] = PacketWeather(**what)
        else:
            self._cut.pop(number, None)
            self._weather.pop(number, None)

    def carry(self, source: int) -> None:
        """Take a packet of a machine."""
        packet = os.read(self._devices[source], 1 << 16)
        target = packet[19]
        if packet[0] >> 4 != 4 or packet[16:19] != bytes((10, 77, 0)) or target not in self._devices:
            return
        if self._cut.get(source) in (BOTH, OUT) or self._cut.get(target) in (BOTH, IN):
            return
        weather = self._weather.get(source) or self._weather.get(target)
        if weather is None:
            self._deliver(target, packet)
            return
        for _ in range(1 + (self._chance.random() < weather.doubling)):
            if self._chance.random() < weather.loss:
                continue
            sent = _with_a_bit_changed(packet, self._chance) if self._chance.random() < weather.flips else packet
            self._count += 1
            due = time.monotonic() + self._chance.uniform(weather.least, weather.delay)
            heapq.heappush(self._late, (due, self._count, target, sent))

    def deliver_due(self) -> float | None:
        """Deliver what is due; return for how many seconds nothing will be, None if nothing waits."""
        while self._late:
            wait = self._late[0][0] - time.monotonic()
            if wait > 0:
                return wait
            _, _, target, packet = heapq.heappop(self._late)
            self._deliver(target, packet)
        return None

    def _deliver(self, target: int, packet: bytes) -> None:
        try:
            os.write(self._devices[target], packet)
        except OSError:
            pass  # a full queue, or a device that is down: lost


def _with_a_bit_changed(packet: bytes, chance: random.Random) -> bytes:
    """Change a bit of what a TCP packet carries, and its checksum with it; leave other packets as they are."""
    begin = 4 * (packet[0] & 15)
    if packet[9] != _TCP or len(packet) < begin + 20:
        return packet
    data = begin + 4 * (packet[begin + 12] >> 4)
    if len(packet) <= data:
        return packet
    changed = bytearray(packet)
    at = chance.randrange(data, len(packet))
    word = at - (at - begin) % 2
    before = _word(changed, word)
    changed[at] ^= 1 << chance.randrange(8)
    total = (~_word(changed, begin + 16) & 0xFFFF) + (~before & 0xFFFF) + _word(changed, word)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    struct.pack_into(">H", changed, begin + 16, ~total & 0xFFFF)
    return bytes(changed)


def _word(packet: bytearray, at: int) -> int:
    return packet[at] << 8 | (packet[at + 1] if at + 1 < len(packet) else 0)


def _open_device(space: str) -> int:
    """Make the device eth0 of a namespace; return its descriptor."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/ns/net") as here, open(f"/run/netns/{space}") as there:
        if libc.setns(there.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "cannot enter a network namespace")
        try:
            device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", b"eth0", _IFF_TUN | _IFF_NO_PI))
        finally:
            libc.setns(here.fileno(), _CLONE_NEWNET)
    return device


def main(spaces: list[str]) -> None:
    """Carry packets until standard input ends."""
    devices = {number: _open_device(space) for number, space in enumerate(spaces, 1)}
    carrier, selector = _Carrier(devices), selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ, None)
    for number, device in devices.items():
        selector.register(device, selectors.EVENT_READ, number)
    print("ready", flush=True)
    while True:
        for key, _ in selector.select(carrier.deliver_due()):
            if key.data is not None:
                carrier.carry(key.data)
                continue
            line = sys.stdin.readline()
            if not line:
                return
            carrier.obey(*json.loads(line))
            print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
