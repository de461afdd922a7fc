"""A store of one file that is read asynchronously, with a record of its requests and faults on demand."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import fsspec
from fsspec.asyn import AsyncFileSystem

CONTENT = bytes(number % 251 for number in range(100_000))
URL = "steps://set/file"


@dataclass
class Seen:
    """The reads of the store."""

    ranges: list[tuple[int, int]] = field(default_factory=list)
    now: int = 0
    most: int = 0
    actions: list[str] = field(default_factory=list)
    """What the next reads do: `fail`, `hang`; no entry: work."""


SEEN = Seen()


class StepsFileSystem(AsyncFileSystem):  # type: ignore[misc]
    """One file, read asynchronously, with a short wait."""

    protocol = "steps"
    cachable = False

    async def _info(self, path: str, **_: Any) -> dict[str, Any]:
        if path.endswith("none"):
            raise FileNotFoundError(path)
        return {"name": path, "size": len(CONTENT), "type": "file", "ETag": "one"}

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        SEEN.ranges.append((start or 0, end or 0))
        if path.endswith("none"):
            raise FileNotFoundError(path)
        SEEN.now += 1
        SEEN.most = max(SEEN.most, SEEN.now)
        try:
            action = SEEN.actions.pop(0) if SEEN.actions else "work"
            if action == "fail":
                raise ConnectionError("the other side is busy")
            await asyncio.sleep(3600 if action == "hang" else 0.02)
        finally:
            SEEN.now -= 1
        return CONTENT[start:end]


def open_steps() -> Seen:
    """Make the store known to fsspec, and forget what it has seen."""
    fsspec.register_implementation("steps", StepsFileSystem, clobber=True)
    SEEN.ranges, SEEN.now, SEEN.most, SEEN.actions = [], 0, 0, []
    return SEEN
