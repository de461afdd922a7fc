"""What can be wrong with one sample, and how it is told.

A fault is either skipped (the sample is replaced by another one, deterministically) or repaired (the sample is
used after the repair that docs/data.md states). Both are counted by kind and source.
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from data_modules.errors import DataError

SKIPPED: dict[str, str] = {
    "image_missing": "there is no image file, or no bytes in it",
    "image_undecodable": "the bytes are not a whole image in a format that is read",
    "image_too_large": "the image has more pixels than the limit (decompression bomb)",
    "image_range_unknown": "its 32-bit values have no range that says which is black and which white",
    "caption_missing": "there is no caption, or nothing but white space",
    "caption_not_text": "a caption or keyword is a number, a truth value, an object or a list of lists",
    "language_unknown": "the language column names neither Korean nor English, or no letters tell it",
    "metadata_undecodable": "the JSON beside the image cannot be read",
    "read_failed": "reading failed after all retries, or hung",
    "shard_changed": "the shard's bytes are not those that its index describes",
    "shard_unreadable": "the whole shard cannot be read",
    "shard_cut": "the tar ends in the middle; what stands before is used",
    "shard_damaged": "a tar header is damaged; what stands before is used",
    "duplicate_key": "the shard has another member of this name; the first one counts",
    "unsafe_name": "the name is absolute or climbs out of its folder",
    "unexpected_error": "reading or transforming the sample raised the exception that is written down with it",
}
"""Kind -> rule. The sample is left out; another one takes its place."""

REPAIRED: dict[str, str] = {
    "image_cmyk": "CMYK is converted to RGB",
    "image_16_bit": "16-bit grey is divided by 257",
    "image_32_bit": "32-bit grey is scaled from the range that the file states; floats without one from 0 to 1",
    "image_palette": "palette colours are converted to RGB",
    "image_animated": "the first frame is used",
    "image_rotated": "turned upright as its EXIF orientation says",
    "wrong_extension": "the content decides on the format, not the name",
    "caption_not_utf8": "undecodable bytes are shown as U+FFFD",
    "caption_not_nfc": "composed to NFC",
    "caption_cut": "cut to the longest caption that is kept",
    "text_entry_empty": "empty and null entries of a list of captions or keywords are left out",
}
"""Kind -> rule. The sample is used."""


class SampleFault(DataError):  # noqa: N818  # it is counted and gone around, not an error of the run
    """One sample cannot be used.

    Attributes:
        kind: One of `SKIPPED`.
        key: The sample's identity inside its source; empty where it is not known yet.
    """

    def __init__(self, kind: str, detail: str, key: str = "") -> None:
        assert kind in SKIPPED, kind
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail
        self.key = key


@contextlib.contextmanager
def sample_errors(key: str = "") -> Iterator[None]:
    """Every exception of the body, which handles the data of one sample and nothing else, becomes a fault with the key.

    What is not the sample's passes: errors of the machine and of the run (`MemoryError`, `OSError`, `DataError`), and
    those that only a mistake in the program causes.

    Args:
        key: The sample's identity inside its source; empty where it is not known yet.

    Raises:
        SampleFault: The body raised one, or an exception (`unexpected_error`).
    """
    try:
        yield
    except SampleFault as fault:
        if fault.key or not key:
            raise
        raise SampleFault(fault.kind, fault.detail, key) from fault
    except (DataError, MemoryError, OSError, AssertionError, NameError, ImportError):
        raise
    except Exception as error:
        raise SampleFault("unexpected_error", f"{type(error).__name__}: {error}", key) from error


def encodable(text: str) -> str:
    """The text as UTF-8 can hold it: lone surrogates, which JSON can spell, as escapes."""
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def printable(text: str) -> str:
    """The text as it is written down for people: encodable, and no longer than they read."""
    return encodable(text if len(text) <= _MAX_TOLD else f"{text[:_MAX_TOLD]}...")


_MAX_TOLD = 300
"""Characters of a key or detail that are written down."""


class FaultReport(NamedTuple):
    """One fault on its way from a loader process to the log; plain values, so that it travels with a batch."""

    kind: str
    """One of `SKIPPED` or `REPAIRED`."""
    source: str
    """Name of the source."""
    key: str
    """Identity of the sample inside its source."""
    sample_id: int
    """Id of the sample; -1: it never got one (left out when its shard was indexed)."""
    step: int
    """Optimizer step in which it was met; -1: when its source was opened."""
    detail: str
    """What was found, for people."""

    @property
    def is_skipped(self) -> bool:
        """Whether the sample was replaced, not repaired."""
        return self.kind in SKIPPED
