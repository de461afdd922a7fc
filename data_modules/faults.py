"""Faults of single samples: their kinds, exceptions and reports.

A faulty sample is either skipped (another one replaces it, deterministically) or repaired (docs/data.md states how).
Both are counted by kind and source.
"""

from typing import NamedTuple

from data_modules.errors import DataError

SKIPPED: dict[str, str] = {
    "image_missing": "there is no image file, or it is empty",
    "image_undecodable": "the bytes are not a whole image in a supported format",
    "image_too_large": "the image has more pixels than the limit (decompression bomb)",
    "image_range_unknown": "its 32-bit values have no stated range from black to white",
    "caption_missing": "there is no caption, or only white space",
    "caption_not_text": "a caption or keyword is a number, a truth value, an object or a list of lists",
    "caption_not_utf8": "a caption or keyword is not UTF-8, or holds half of a surrogate pair",
    "language_unknown": "the language column names neither Korean nor English, or the caption has no letters",
    "metadata_undecodable": "the JSON beside the image cannot be read",
    "read_failed": "reading failed after all retries, or hung",
    "shard_changed": "the shard's bytes are not those that its index describes",
    "shard_unreadable": "the whole shard cannot be read",
    "shard_cut": "the tar ends in the middle; the members before are used",
    "shard_damaged": "a tar header is damaged; the members before are used",
    "table_damaged": "a page of a parquet file cannot be decoded",
    "duplicate_key": "the shard has another member of this name; the first one counts",
    "unsafe_name": "the name is absolute or leaves its folder",
    "unexpected_error": "reading or transforming the sample raised another exception, which is recorded with it",
}
"""Kind -> rule. Another sample takes its place."""

REPAIRED: dict[str, str] = {
    "image_cmyk": "CMYK is converted to RGB",
    "image_16_bit": "16-bit grey is divided by 257",
    "image_32_bit": "32-bit grey is scaled from the range that the file states; floats without one from 0 to 1",
    "image_palette": "palette colours are converted to RGB",
    "image_animated": "the first frame is used",
    "image_rotated": "rotated upright by its EXIF orientation",
    "wrong_extension": "the content determines the format, not the name",
    "caption_not_nfc": "composed to NFC",
    "caption_cut": "cut to the longest supported caption",
    "text_entry_empty": "empty and null entries of a list of captions or keywords are left out",
}
"""Kind -> rule. The sample is used."""

ABSENT: dict[str, str] = {
    "other_language_only": "the row has a caption in the other language, and so no pair in this one",
}
"""Kind -> rule. Another sample takes its place, and nothing is counted: such a row is as it should be."""

_PASSED_ON = (DataError, MemoryError, OSError, AssertionError, NameError, ImportError)
"""Errors that are not those of one sample."""
_MAX_PRINTED = 300
"""Characters of a key or detail that are logged."""


class SampleFault(DataError):  # noqa: N818  # it is counted, not an error of the run
    """One sample cannot be used.

    Attributes:
        kind: One of `SKIPPED` or `ABSENT`.
        key: The sample's identity inside its source; empty if it is not known yet.
    """

    def __init__(self, kind: str, detail: str, key: str = "") -> None:
        assert kind in SKIPPED or kind in ABSENT, kind
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail
        self.key = key


class sample_errors:  # noqa: N801  # used as a function; `contextlib.contextmanager` takes three times as long
    """Turns exceptions of the body, which processes one sample, into faults with the key.

    Errors of the machine and of the run (`MemoryError`, `OSError`, `DataError`) pass, and so do exceptions that only a
    programming error causes.

    Args:
        key: The sample's identity inside its source; empty if it is not known yet.

    Raises:
        SampleFault: The body raised one, or another exception (`unexpected_error`).
    """

    __slots__ = ("_key",)

    def __init__(self, key: str = "") -> None:
        self._key = key

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, SampleFault):
            if self._key and not error.key:
                raise SampleFault(error.kind, error.detail, self._key) from error
        elif isinstance(error, Exception) and not isinstance(error, _PASSED_ON):
            raise SampleFault("unexpected_error", f"{type(error).__name__}: {error}", self._key) from error


def encodable(text: str) -> str:
    """The text with lone surrogates, which JSON allows and UTF-8 does not, as escapes."""
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def printable(text: str) -> str:
    """The text for logs: encodable and of limited length."""
    return encodable(text if len(text) <= _MAX_PRINTED else f"{text[:_MAX_PRINTED]}...")


class FaultReport(NamedTuple):
    """One fault in a batch, as plain values that a worker can send."""

    kind: str
    """One of `SKIPPED` or `REPAIRED`."""
    source: str
    """Name of the source."""
    key: str
    """Identity of the sample inside its source."""
    sample_id: int
    """Id of the sample; -1: it has none, since the index of its shard leaves it out."""
    step: int
    """Optimizer step; -1: the opening of its source."""
    detail: str
    """Description for people."""

    @property
    def is_skipped(self) -> bool:
        return self.kind in SKIPPED
