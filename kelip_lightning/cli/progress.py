"""Progress of work on many items: a bar on a terminal, else a line a minute."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS_BETWEEN_LINES = 60.0

Show = Callable[[int, int, int], None]
"""Items done, items in all, broken ones."""


@contextmanager
def item_progress(what: str) -> Iterator[Show]:
    """A function that shows how many items are done; `what` they are called (`images`)."""
    if not sys.stderr.isatty():
        yield _lines(what)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)

        def show(done: int, total: int, broken: int) -> None:
            bar.update(task, completed=done, total=total, description=f"{what}, {broken} broken" if broken else what)

        yield show


def _lines(what: str) -> Show:
    began = last = time.monotonic()

    def show(done: int, total: int, broken: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < SECONDS_BETWEEN_LINES:
            return
        last = now
        left = (now - began) / max(done, 1) * (total - done)
        print(f"{what}: {done:,} of {total:,}, {broken:,} broken, about {left / 60:.0f} min left", file=sys.stderr)

    return show
