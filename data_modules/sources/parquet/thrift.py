"""Structs of Thrift's compact protocol, in which parquet describes its files and pages.

A struct is a dictionary: field number -> (type, value). A list is (type of its entries, entries), a binary is bytes.
The protocol is that of https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md.
"""

from typing import Any

Struct = dict[int, tuple[int, Any]]

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
_NUMBERS = (I16, I32, I64)
_LONG_LIST = 15


class ThriftReader:
    """Reads values from bytes, one after the other.

    Args:
        content: The bytes.
        position: Of the first value.

    Its methods raise IndexError where the bytes end too early, and ValueError for an unknown type.
    """

    def __init__(self, content: bytes, position: int = 0) -> None:
        self._content, self.position = content, position

    def struct(self, last_field: int | None = None) -> Struct:
        """A struct; reading stops behind `last_field`, if it is given."""
        fields: Struct = {}
        number = 0
        while kind := self._byte():
            delta, kind = kind >> 4, kind & 15
            number = number + delta if delta else self._signed()
            fields[number] = (kind, self._value(kind))
            if number == last_field:
                break
        return fields

    def _byte(self) -> int:
        found = self._content[self.position]
        self.position += 1
        return found

    def _unsigned(self) -> int:
        found = shift = 0
        while (part := self._byte()) & 0x80:
            found |= (part & 0x7F) << shift
            shift += 7
        return found | part << shift

    def _signed(self) -> int:
        found = self._unsigned()
        return (found >> 1) ^ -(found & 1)

    def _value(self, kind: int) -> Any:
        if kind in (TRUE, FALSE):
            return kind == TRUE
        if kind in _NUMBERS:
            return self._signed()
        if kind == BINARY:
            return self._bytes(self._unsigned())
        if kind == STRUCT:
            return self.struct()
        if kind in (LIST, SET):
            head = self._byte()
            entry, size = head & 15, head >> 4
            size = self._unsigned() if size == _LONG_LIST else size
            return entry, [self._entry(entry) for _ in range(size)]
        if kind == BYTE:
            return self._byte()
        if kind == DOUBLE:
            return self._bytes(8)
        raise ValueError(f"Thrift's compact protocol has no type {kind} that parquet uses")

    def _entry(self, kind: int) -> Any:
        return self._byte() == TRUE if kind in (TRUE, FALSE) else self._value(kind)

    def _bytes(self, length: int) -> bytes:
        end = self.position + length
        if end > len(self._content):
            raise IndexError(f"{length} bytes at {self.position} of {len(self._content)}")
        found = self._content[self.position : end]
        self.position = end
        return found


def write_struct(fields: Struct) -> bytes:
    """The bytes of a struct."""
    written, before = bytearray(), 0
    for number, (kind, value) in sorted(fields.items()):
        if kind in (TRUE, FALSE):
            kind = TRUE if value else FALSE
        delta = number - before
        written += bytes([delta << 4 | kind]) if 0 < delta <= _LONG_LIST else bytes([kind]) + _signed(number)
        written += b"" if kind in (TRUE, FALSE) else _written(kind, value)
        before = number
    return bytes(written) + b"\0"


def unsigned(value: int) -> bytes:
    """A number in the form in which Thrift, parquet and Snappy write lengths (ULEB128)."""
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*written, value])


def _signed(value: int) -> bytes:
    return unsigned(value << 1 if value >= 0 else (-value << 1) - 1)


def _written(kind: int, value: Any) -> bytes:
    if kind in _NUMBERS:
        return _signed(value)
    if kind == BINARY:
        return unsigned(len(value)) + bytes(value)
    if kind == STRUCT:
        return write_struct(value)
    if kind in (LIST, SET):
        entry, entries = value
        size = len(entries)
        head = bytes([size << 4 | entry]) if size < _LONG_LIST else bytes([_LONG_LIST << 4 | entry]) + unsigned(size)
        flags = entry in (TRUE, FALSE)
        return head + b"".join(bytes([TRUE if one else FALSE]) if flags else _written(entry, one) for one in entries)
    if kind == BYTE:
        return bytes([value])
    if kind == DOUBLE:
        return bytes(value)
    raise ValueError(f"Thrift's compact protocol has no type {kind} that parquet uses")
