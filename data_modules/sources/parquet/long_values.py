"""Single long values of a column (images), read without the rest of their page."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from data_modules.faults import SampleFault
from data_modules.sources.blobs import Span
from data_modules.sources.parquet.kept import PLACES_BYTES, Kept
from data_modules.sources.parquet.pages import (
    Page,
    UnsupportedPageError,
    ValuePlaces,
    decompressed,
    dictionary_places,
    find_pages,
    page_rows,
)
from data_modules.sources.parquet.schema import Leaf
from data_modules.sources.parquet.thrift import unsigned
from data_modules.sources.parquet.value_index import (
    BY_PAGE,
    Records,
    ValueIndex,
    page_records,
    records_by_page,
)

Read = Callable[[Span], bytes]
"""The bytes of a span; raises SampleFault."""

_PAGE_BYTES = 400
"""Memory of a `Page`, about."""
_PLACES: Kept[Any] = Kept(PLACES_BYTES)
"""What this process keeps of all tables."""


class ChunkPlace(NamedTuple):
    """A leaf of a row group."""

    owner: object
    """The table, by its identity."""
    group: int
    leaf: Leaf
    span: Span
    """Its bytes."""
    codec: int

    @property
    def key(self) -> tuple[object, int, tuple[str, ...]]:
        return self.owner, self.group, self.leaf.path


class LongValue(NamedTuple):
    """The value of a row."""

    leaf: Leaf
    level: int
    """Its definition level."""
    span: Span
    """The bytes that hold it; none of a null or empty value."""
    raw_size: int
    """Of those bytes when decompressed; 0: they are not compressed."""
    skipped: int
    length: int
    """Bytes of the value, behind `skipped` others."""

    def nested(self, content: bytes) -> Any:
        """The value of the leaf's column: the bytes, or a dictionary that leads to them.

        Raises:
            SampleFault: They are not those that were there when the page was looked at.
        """
        if self.level < self.leaf.max_definition:
            return nested(self.leaf, self.level, None)
        if self.raw_size and self.length:
            try:
                content = decompressed(unsigned(self.raw_size) + content, self.raw_size)
            except ValueError as error:
                raise damaged(self.span, error) from error
            content = content[self.skipped : self.skipped + self.length]
        if len(content) != self.length:
            raise damaged(self.span, ValueError(f"{len(content)} bytes of a value of {self.length}"))
        return nested(self.leaf, self.level, content)


def nested(leaf: Leaf, level: int, value: Any) -> Any:
    """A value of a leaf as a part of its column: dictionaries that lead to it, or to the field that is null."""
    depth = next((at for at in range(len(leaf.path)) if sum(leaf.are_optional[: at + 1]) > level), len(leaf.path) - 1)
    for name in reversed(leaf.path[1 : depth + 1]):
        value = {name: value}
    return value


def damaged(span: Span, error: Exception) -> SampleFault:
    """The fault of a sample whose page makes no sense."""
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return SampleFault("table_damaged", f"{span.path}: the page at byte {span.start} cannot be decoded ({reason})")


def chunk_pages(chunk: ChunkPlace, read: Read) -> list[Page]:
    """The pages of a leaf of a row group.

    Raises:
        SampleFault: They cannot be read, or are damaged.
    """
    key = ("pages", *chunk.key)
    if (found := _PLACES.get(key)) is not None:
        return list(found)
    path, start, length = chunk.span
    try:
        pages = find_pages(lambda at, size: read(Span(path, at, size)), start, length)
    except ValueError as error:
        raise damaged(chunk.span, error) from error
    return list(_PLACES.put(key, pages, _PAGE_BYTES * len(pages)))


def page_of(pages: Sequence[Page], row: int) -> Page:
    """The data page that holds a row of the row group.

    Raises:
        ValueError: There is none.
    """
    data = [page for page in pages if not page.is_dictionary]
    at = bisect_right(data, row, key=lambda page: page.first_row) - 1
    if at < 0 or row >= data[at].first_row + data[at].num_values:
        raise ValueError(f"no page holds row {row} of the row group")
    return data[at]


def dictionary_of(pages: Sequence[Page]) -> Page | None:
    """The dictionary of a column, if it has one."""
    return pages[0] if pages and pages[0].is_dictionary else None


def find_value(chunk: ChunkPlace, row: int, first_row: int, index: ValueIndex, read: Read) -> LongValue | None:
    """Where the value of a row of the row group is; `None`: it can only be had with its page.

    Args:
        chunk: The column.
        row: In the row group.
        first_row: Of the row group, in the table.
        index: Of the column, which is read, or completed by the row's page.
        read: Reads the page.

    Raises:
        SampleFault: The page cannot be read, or is damaged.
    """
    record = index.read(first_row + row)
    if record is None:
        start, records = _records(chunk, row, first_row, index, read)
        record = records[row - start]
    # One conversion of the record is several times faster than one for each field.
    begin, part, raw_size, length, skipped, level, _ = record.item()
    if level == BY_PAGE:
        return None
    return LongValue(chunk.leaf, level, Span(chunk.span.path, begin, part), raw_size, skipped, length)


def index_chunk(chunk: ChunkPlace, first_row: int, index: ValueIndex, read: Read) -> None:
    """Complete the index by all pages of a leaf of a row group; arguments and errors as in `find_value`."""
    for page in chunk_pages(chunk, read):
        if not page.is_dictionary and index.read(first_row + page.first_row) is None:
            _records(chunk, page.first_row, first_row, index, read)


def _records(chunk: ChunkPlace, row: int, first_row: int, index: ValueIndex, read: Read) -> tuple[int, Records]:
    """First row, in the row group, of the page that holds a row, and its records, which the index gets too."""
    pages = chunk_pages(chunk, read)
    try:
        page = page_of(pages, row)
        key = ("records", *chunk.key, page.start)
        if (kept := _PLACES.get(key)) is not None:
            return page.first_row, kept
        records = _page_records(chunk, pages, page, read)
    except ValueError as error:
        raise damaged(chunk.span, error) from error
    if not index.write(first_row + page.first_row, records):
        _PLACES.put(key, records, records.nbytes)
    return page.first_row, records


def _page_records(chunk: ChunkPlace, pages: Sequence[Page], page: Page, read: Read) -> Records:
    """The records of a page.

    Raises:
        ValueError: It is damaged.
    """
    max_level = chunk.leaf.max_definition
    try:
        dictionary = _dictionary(chunk, dictionary_of(pages), read) if page.uses_dictionary else None
        rows = page_rows(page, _body(chunk, page, read), chunk.codec, max_level, dictionary)
    except UnsupportedPageError:
        return records_by_page(page.num_values)
    return page_records(rows, page.num_values, max_level)


def _dictionary(chunk: ChunkPlace, page: Page | None, read: Read) -> ValuePlaces | None:
    if page is None:
        return None
    key = ("dictionary", *chunk.key)
    if (found := _PLACES.get(key)) is not None:
        assert isinstance(found, ValuePlaces)
        return found
    places = dictionary_places(page, _body(chunk, page, read), chunk.codec)
    _PLACES.put(key, places, places.nbytes + 500)
    return places


def _body(chunk: ChunkPlace, page: Page, read: Read) -> bytes:
    content = read(Span(chunk.span.path, page.body, page.end - page.body))
    if len(content) < page.end - page.body:
        raise ValueError("the file ends in it")
    return content
