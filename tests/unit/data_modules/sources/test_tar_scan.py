"""Members found by their headers alone, against the tars that Python's tarfile writes and reads."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_modules.faults import SampleFault
from data_modules.sources.tar_scan import (
    BLOCK,
    Member,
    TarDamage,
    are_plain_headers,
    check_member,
    header_name,
    is_header,
    parse_size,
    read_members,
)
from tests.unit.data_modules.corpora import write_tar

LONG = "folder/" + "이름" * 60 + ".jpg"
MEMBERS = [("a.jpg", b"x" * 700), ("dir/b.txt", b""), (LONG, b"y" * 512), ("d" * 90 + "/" + "e" * 90 + ".png", b"z")]


def _read(content: bytes) -> list[Member]:
    return list(read_members(lambda start, length: content[start : start + length], len(content)))


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_read_members__names_sizes_and_offsets_are_tarfiles(tmp_path: Path, tar_format: int) -> None:
    members = [one for one in MEMBERS if one[0] != LONG] if tar_format == tarfile.USTAR_FORMAT else MEMBERS
    file = write_tar(tmp_path / "a.tar", members, tar_format)
    with tarfile.open(file) as archive:
        expected = [(info.name, info.size, info.offset_data) for info in archive.getmembers()]
    found = [(one.name, one.size, (one.header_block + 1) * BLOCK) for one in _read(file.read_bytes())]
    assert found == expected
    assert [name for name, _, _ in found] == [name for name, _ in members]


def test_read_members__other_kinds_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    with tarfile.open(file, "w") as archive:
        for name, kind in (("folder", tarfile.DIRTYPE), ("link.jpg", tarfile.SYMTYPE), ("pipe.jpg", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "elsewhere"
            archive.addfile(info)
        info = tarfile.TarInfo("real.jpg")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    assert [one.name for one in _read(file.read_bytes())] == ["real.jpg"]


@pytest.mark.parametrize(
    ("cut", "kind", "left"),
    [(200, "shard_cut", 0), (512 + 300, "shard_cut", 0), (3 * 512, "shard_cut", 1), (4 * 512 + 100, "shard_cut", 2)],
)
def test_read_members__a_cut_tar_gives_what_is_whole(tmp_path: Path, cut: int, kind: str, left: int) -> None:
    content = write_tar(tmp_path / "a.tar", MEMBERS[:2]).read_bytes()[:cut]
    found: list[Member] = []
    with pytest.raises(TarDamage) as raised:
        found.extend(read_members(lambda start, length: content[start : start + length], len(content)))
    assert raised.value.kind == kind
    assert len(found) == left


def test_read_members__a_damaged_header_ends_it(tmp_path: Path) -> None:
    content = bytearray(write_tar(tmp_path / "a.tar", MEMBERS[:2]).read_bytes())
    content[3 * 512 + 5] ^= 1
    with pytest.raises(TarDamage, match="no tar header at byte 1536") as raised:
        _read(bytes(content))
    assert raised.value.kind == "shard_damaged"


def test_is_header__checksum(tmp_path: Path) -> None:
    block = write_tar(tmp_path / "a.tar", MEMBERS[:1]).read_bytes()[:BLOCK]
    assert is_header(block)
    assert header_name(block) == "a.jpg"
    assert not is_header(block[:-1])
    assert not is_header(b"\1" + block[1:])


@pytest.mark.parametrize(
    ("field", "size"),
    [
        (b"00000001234\0", 0o1234),
        (b"      77 \0\0\0", 0o77),
        (b"\0" * 12, 0),
        (b"\x80" + b"\0" * 6 + b"\2\0\0\0\0", 1 << 33),
    ],
)
def test_parse_size(field: bytes, size: int) -> None:
    assert parse_size(field) == size


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_are_plain_headers__of_the_tars_that_python_writes(tmp_path: Path, tar_format: int) -> None:
    content = write_tar(tmp_path / "a.tar", [MEMBERS[0], MEMBERS[1], MEMBERS[3]], tar_format).read_bytes()
    found = _read(content)
    headers = b"".join(content[one.header_block * BLOCK :][:BLOCK] for one in found)
    sizes = np.array([one.size for one in found])
    assert are_plain_headers(headers, sizes).tolist() == [True, True, True]
    assert are_plain_headers(headers, sizes + np.array([0, 1, -1])).tolist() == [True, False, False]
    assert are_plain_headers(b"", np.empty(0, dtype=np.int64)).tolist() == []


@given(st.lists(st.tuples(st.integers(0, BLOCK - 1), st.integers(0, 255)), max_size=3), st.integers(0, 900))
@settings(max_examples=400, deadline=None)
def test_are_plain_headers__none_that_a_closer_look_refuses(changes: list[tuple[int, int]], size: int) -> None:
    """Changes of single bytes, the checksum written anew or not."""
    info = tarfile.TarInfo("folder/a.jpg")
    info.size = size
    for renewed in (False, True):
        header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
        for place, value in changes:
            header[place] = value
        if renewed:
            header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 8 * 32)
        (is_plain,) = are_plain_headers(bytes(header), np.array([size])).tolist()
        if is_plain:
            check_member("shard", bytes(header), b"x" * size, size)


def test_check_member__other_notations_fit_too() -> None:
    info = tarfile.TarInfo("a.jpg")
    info.size = 700
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = b"\x80" + (700).to_bytes(11, "big")
    header[148:156] = b"%6o\0 " % (sum(header) - sum(header[148:156]) + 8 * 32)
    assert are_plain_headers(bytes(header), np.array([700])).tolist() == [False]
    check_member("shard", bytes(header), b"x" * 700, 700)
    with pytest.raises(SampleFault, match="shard_changed: shard no longer holds"):
        check_member("shard", bytes(header), b"x" * 699, 700)


def test_parse_size__garbage() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        parse_size(b"99999999999\0")
