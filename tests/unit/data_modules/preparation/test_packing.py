"""Packing: samples that cannot be stored are counted and skipped; the rest is tested through the command."""

import io
from pathlib import Path

import pytest
from PIL import Image

from data_modules.preparation.packing import PackSettings, pack_source
from data_modules.sources.config import SourceConfig
from data_modules.sources.opening import open_source
from tests.unit.data_modules.corpora import picture, write_tar


@pytest.mark.parametrize(
    ("image_format", "side", "left_out"),
    [("webp", 16_383, 0), ("webp", 16_384, 1), ("jpg", 65_500, 0), ("jpg", 65_501, 1), ("png", 65_536, 0)],
)
def test_pack_source__an_image_longer_than_its_format_holds_is_left_out(
    tmp_path: Path, image_format: str, side: int, left_out: int
) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (side, 2)).save(buffer, "PNG")
    content = [("1.jpg", picture(0)), ("1.txt", b"whole"), ("2.png", buffer.getvalue()), ("2.txt", b"a strip")]
    config = SourceConfig(files=[str(write_tar(tmp_path / "a.tar", content))], caption_fields=["txt"])
    folder = tmp_path / "packed"
    shards = list(pack_source(open_source("s", config), config, folder, PackSettings(image_format=image_format)))
    assert [(one.samples, one.faults) for one in shards] == [(2 - left_out, {"image_too_large": 1} if left_out else {})]
    packed = open_source("p", SourceConfig(files=[str(folder / "*.tar")], caption_fields=["txt"]))
    assert [packed[index].caption for index in range(len(packed))] == ["whole", "a strip"][: 2 - left_out]
