"""Which folders lie on a network file system, by the kernel's list of mounts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from data_modules.sources import mounts
from data_modules.sources.mounts import is_on_network

LINES = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:30 / /data rw,relatime shared:9 master:2 - nfs4 store:/export rw
31 30 0:31 / /data/local\040disk rw - xfs /dev/sdb rw
32 22 0:32 / /bucket rw - fuse.s3fs s3fs rw
33 22 0:33 / /twice rw - nfs old:/ rw
34 22 0:34 / /twice rw - ext4 /dev/sdc rw
"""


@pytest.fixture(autouse=True)
def _listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "mountinfo").write_text(LINES)
    monkeypatch.setattr(mounts, "_MOUNTS", tmp_path / "mountinfo")
    mounts.mounts.cache_clear()
    mounts._is_network_folder.cache_clear()
    yield
    mounts.mounts.cache_clear()
    mounts._is_network_folder.cache_clear()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/data/set/00000.tar", True),
        ("/data/local disk/00000.tar", False),
        ("/database/00000.tar", False),
        ("/bucket/a.tar", True),
        ("/twice/a.tar", False),
        ("/home/a.tar", False),
    ],
)
def test_is_on_network(path: str, expected: bool) -> None:
    assert is_on_network(path) is expected


def test_is_on_network__unknown_without_a_list(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mounts, "_MOUNTS", tmp_path / "none")
    mounts.mounts.cache_clear()
    assert not is_on_network("/data/set/a.tar")
