"""What a process keeps of the parquet files that it reads, up to a number of bytes."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Kept_co = TypeVar("Kept_co")

DECODED_BYTES = 48 << 20
"""Decoded columns of row groups that a process keeps, of all its sources together."""
PLACES_BYTES = 32 << 20
"""Places of pages that a process keeps, and of long values whose index cannot be written."""


class Kept(Generic[Kept_co]):
    """The values used last whose sizes add up to at most `max_bytes`, and in any case the newest."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.num_bytes = max_bytes, 0
        self._values: OrderedDict[Hashable, tuple[int, Kept_co]] = OrderedDict()

    def get(self, key: Hashable) -> Kept_co | None:
        """The value of a key, or `None`."""
        found = self._values.get(key)
        if found is None:
            return None
        self._values.move_to_end(key)
        return found[1]

    def put(self, key: Hashable, value: Kept_co, num_bytes: int) -> Kept_co:
        """Keep a value of this size; returns it."""
        if (before := self._values.pop(key, None)) is not None:
            self.num_bytes -= before[0]
        self._values[key] = num_bytes, value
        self.num_bytes += num_bytes
        while self.num_bytes > self.max_bytes and len(self._values) > 1:
            self.num_bytes -= self._values.popitem(last=False)[1][0]
        return value
