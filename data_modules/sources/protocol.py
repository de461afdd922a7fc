"""What every source of pairs offers."""

from typing import Protocol

from data_modules.records import PairRecord


class PairSource(Protocol):
    """Random access to image–text pairs."""

    name: str
    """The source's key in the configuration, for logs and error messages."""

    def __len__(self) -> int:
        """Number of pairs."""
        ...

    def __getitem__(self, index: int) -> PairRecord:
        """The pair at `index`, 0 <= index < len(self)."""
        ...

    def captions(self) -> list[tuple[str, str]]:
        """Every (language, text) of the source, names and keywords alike, in a fixed order, images unread."""
        ...
