"""What every source of pairs offers."""

from collections.abc import Iterator
from typing import Protocol

from data_modules.faults import FaultReport
from data_modules.records import PairRecord
from data_modules.sources.rows import Rows


class PairSource(Protocol):
    """Random access to image–text pairs."""

    name: str
    """The source's key in the configuration, for logs and error messages."""

    def __len__(self) -> int:
        """Number of pairs."""
        ...

    def __getitem__(self, index: int) -> PairRecord:
        """The pair at `index`, 0 <= index < len(self).

        Raises:
            SampleFault: It cannot be used.
        """
        ...

    def rows_of(self, language: str) -> Rows:
        """The indices of the pairs in a language, one of `LANGUAGES`."""
        ...

    def captions(self, every: int = 1) -> Iterator[tuple[str, str]]:
        """Every (language, text) of every n-th row, names and keywords alike, in a fixed order, images unread."""
        ...

    def opening_faults(self) -> list[FaultReport]:
        """What was left out when the source was opened; these samples have no index."""
        ...
