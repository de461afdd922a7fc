"""A link between two network namespaces that delays and loses packets, in user space: kernels may lack netem."""

import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_TUN = Path("/dev/net/tun")
_SET_INTERFACE, _TUN_WITHOUT_HEADER = 0x400454CA, 0x1001
"""TUNSETIFF, and IFF_TUN | IFF_NO_PI, of linux/if_tun.h."""
_PACKET_BYTES = 65536
_TICK_SECONDS = 0.05


def missing_tun() -> str | None:
    """Why there can be no such link; `None`: there can."""
    remedy = "modprobe tun, or give the container --device /dev/net/tun"
    return (
        None if _TUN.exists() else f"a link that delays and loses packets needs {_TUN}, which is not there ({remedy})"
    )


@dataclass(slots=True, kw_only=True)
class SlowLink:
    """Delay in each direction in seconds, share of the packets that are lost, and what has passed."""

    delay: float
    loss: float
    sent: int = 0
    lost: int = 0
    _waiting: list[tuple[float, int, int, bytes]] = field(default_factory=list)
    """Heap of (due, number, the other end's file, packet)."""

    def carry(self, ends: tuple[int, int], over: threading.Event) -> None:
        """Move packets between the files of two TUN interfaces until `over` is set; losses are drawn from a seed."""
        draw, numbers, other = random.Random(0), itertools.count(), dict(zip(ends, reversed(ends), strict=True))
        while not over.is_set():
            wait = self._waiting[0][0] - time.monotonic() if self._waiting else _TICK_SECONDS
            ready, _, _ = select.select(ends, [], [], min(max(wait, 0.0), _TICK_SECONDS))
            for end in ready:
                packet = os.read(end, _PACKET_BYTES)
                self.sent += 1
                if draw.random() < self.loss:
                    self.lost += 1
                    continue
                heapq.heappush(self._waiting, (time.monotonic() + self.delay, next(numbers), other[end], packet))
            while self._waiting and self._waiting[0][0] <= time.monotonic():
                _, _, end, packet = heapq.heappop(self._waiting)
                os.write(end, packet)


@contextmanager
def slow_link(spaces: tuple[str, str], name: str, link: SlowLink) -> Iterator[None]:
    """Interfaces of this name in two network namespaces, between which `link` carries the packets."""
    ends = (os.open(_TUN, os.O_RDWR), os.open(_TUN, os.O_RDWR))
    over = threading.Event()
    carrier = threading.Thread(target=link.carry, args=(ends, over), daemon=True)
    try:
        for number, (end, space) in enumerate(zip(ends, spaces, strict=True)):
            made = f"kl{os.getpid()}{'ab'[number]}"
            fcntl.ioctl(end, _SET_INTERFACE, struct.pack("16sH22x", made.encode(), _TUN_WITHOUT_HEADER))
            subprocess.run(["ip", "link", "set", made, "netns", space, "name", name], check=True)
            # Interfaces answer EIO before they are up.
            subprocess.run(["ip", "-n", space, "link", "set", name, "up"], check=True)
        carrier.start()
        yield
    finally:
        over.set()
        if carrier.ident is not None:
            carrier.join()
        for end in ends:
            os.close(end)
