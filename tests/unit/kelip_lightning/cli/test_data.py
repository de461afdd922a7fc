"""`kelip data index`, `inspect` and `pack` through the command line, on shards written here."""

import io
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from data_modules.image_text import ImageTextDataConfig, ImageTextDataModule
from data_modules.images.decoding import jpeg_ycbcr, open_image
from data_modules.images.planes import encode_planes
from data_modules.images.transforms.multi_crop import MultiCropConfig
from data_modules.sources.config import SourceConfig
from data_modules.sources.tar_source import TarSource
from data_modules.text.tokenizer import TokenizerConfig
from kelip_lightning.cli import main
from tests.unit.data_modules.corpora import members, picture, samples, write_shards, write_tar

NUM, PER_SHARD, SIDE = 12, 5, 40
TRIPLE, BICUBIC = ("yuv", "json", "txt"), Image.Resampling.BICUBIC


@pytest.fixture
def shards(tmp_path: Path) -> str:
    return write_shards(tmp_path / "shards", samples(NUM), PER_SHARD)


@pytest.fixture
def experiment(tmp_path: Path, shards: str) -> str:
    """Contrastive training on the shards, one sample of which is corrupt."""
    broken = [("broken.jpg", b"no image"), ("broken.txt", b"a broken image")]
    write_tar(tmp_path / "shards" / "00009.tar", broken)
    file = tmp_path / "mine.yaml"
    content = {
        "name": "mine",
        "data": {
            "sources": {"web": {"files": [shards], "caption_fields": ["txt"]}},
            "corrupt_samples": {"max_share": 1.0},
            "num_workers": 0,
        },
        "tokenizer": {"vocab_size": 300, "context_length": 24},
        "image_encoder": {"image_size": 32, "patch_size": 8, "width": 32, "depth": 1, "num_heads": 2},
        "transform": {"image_size": 32, "num_global_crops": 1, "num_local_crops": 0},
        "schedule": {"max_steps": 2, "warmup_steps": 1},
        "optimizer": {"learning_rate": 1.0e-3},
    }
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(file)


def test_index__prints_counts_and_path(shards: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "index", shards]) == 0
    found = re.search(r"shards: (\d+) samples in (\d+) shards, (\d+) skipped; (\S+)", capsys.readouterr().out)
    assert found is not None
    assert [int(number) for number in found.groups()[:3]] == [NUM, 3, 0]
    assert Path(found.group(4)).stat().st_size > 24 * NUM


def test_index__a_changed_shard_is_indexed_again(shards: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "index", shards]) == 0
    content = [*members(samples(7, start=50)), ("lonely.jpg", picture(1))]
    write_tar(Path(shards).parent / "00001.tar", content)
    capsys.readouterr()
    assert main(["data", "index", shards]) == 0
    assert f"{NUM - PER_SHARD + 7} samples in 3 shards, 1 skipped" in capsys.readouterr().out


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_index__of_an_experiment(experiment: str, workers: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "index", experiment, "--workers", workers]) == 0
    assert f"web: {NUM + 1} samples in 4 shards, 0 skipped" in capsys.readouterr().out


def test_index__no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "index", str(tmp_path / "none-*.tar")]) == 2
    assert "no file matches" in capsys.readouterr().err


def _cell(shown: str, label: str) -> str:
    found = re.search(rf"│ {re.escape(label)}\s*│\s*(.*?)\s*│", shown)
    assert found is not None, shown
    return found.group(1)


def test_inspect__counts_languages_tokens_sizes_and_corrupt_samples(
    experiment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    sheet = tmp_path / "sheets" / "all.png"
    assert main(["data", "inspect", experiment, "--sheet", str(sheet)]) == 0
    shown = capsys.readouterr().out
    assert _cell(shown, "pairs") == str(NUM + 1)
    assert _cell(shown, "read") == str(NUM + 1)
    assert _cell(shown, "Korean, English") == "50%, 50%"
    assert _cell(shown, "image_undecodable") == "1"
    assert _cell(shown, "short side, px") == f"{SIDE}, {SIDE}, {SIDE}"
    low, median, high = (int(value) for value in _cell(shown, "tokens").split(", "))
    longest = max(len(one.caption.encode()) for one in samples(NUM)) + 2
    assert 3 <= low <= median <= high <= min(24, longest)
    with Image.open(sheet) as drawn:
        assert drawn.format == "PNG"
        assert np.asarray(drawn.convert("L")).std() > 20, "pictures, not a blank sheet"


def _pack(experiment: str, folder: Path, *more: str) -> int:
    return main(["data", "pack", experiment, str(folder), "--short-side", "16", "--samples-per-shard", "5", *more])


def test_pack__every_sample_resized_with_its_caption(
    experiment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _pack(experiment, tmp_path / "packed") == 0
    assert f"web: {NUM} samples written" in capsys.readouterr().out
    config = SourceConfig(files=[str(tmp_path / "packed" / "*.tar")], caption_fields=["txt"])
    packed = TarSource("packed", config)
    assert [(packed[i].caption, packed[i].language) for i in range(len(packed))] == [
        (one.caption, one.language) for one in samples(NUM)
    ]
    for i in range(len(packed)):
        with Image.open(io.BytesIO(packed[i].image)) as small:
            assert (small.format, small.size) == ("WEBP", (20, 16))
    with tarfile.open(tmp_path / "packed" / "web-000000.tar") as archive:
        (metadata,) = (json.load(archive.extractfile(m)) for m in archive if m.name == "0000000001.json")
    assert metadata == {"key": "000000001", "language": "en", "caption_en": "picture number 1"}


def test_pack__resumes_after_an_interruption(
    experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert _pack(experiment, whole) == 0
    encode, calls = Image.Image.save, []

    def breaks(self: Image.Image, *arguments: object, **options: object) -> None:
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        encode(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", breaks)
        assert _pack(experiment, cut) == 130
    assert sorted(file.name for file in cut.iterdir()) == ["web-000000.tar", "web.json"], "no half shard"
    first = (cut / "web-000000.tar").stat().st_mtime_ns
    capsys.readouterr()
    assert _pack(experiment, cut) == 0
    assert "web: 7 samples written" in capsys.readouterr().out
    assert (cut / "web-000000.tar").stat().st_mtime_ns == first
    tars = sorted(file.name for file in whole.glob("*.tar"))
    for name in tars:
        with tarfile.open(whole / name) as one, tarfile.open(cut / name) as other:
            assert [(m.name, one.extractfile(m).read()) for m in one] == [
                (m.name, other.extractfile(m).read()) for m in other
            ]
    assert len(tars) == 3


def test_pack__other_settings_need_another_folder(
    experiment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _pack(experiment, tmp_path / "packed") == 0
    assert _pack(experiment, tmp_path / "packed", "--quality", "50") == 2
    assert "packed with other settings (see web.json); use another folder" in capsys.readouterr().err.replace("\n", " ")


def test_pack__undecoded_pixels_are_read_by_the_loader_like_other_images(
    experiment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "packed"
    assert _pack(experiment, folder, "--pixels", "yuv420") == 0
    shown = capsys.readouterr().out
    assert f"web: {NUM} samples written" in shown
    with tarfile.open(folder / "web-000000.tar") as archive:
        assert [m.name for m in archive if m.name.startswith("0000000001")] == [f"0000000001.{e}" for e in TRIPLE]
    config = SourceConfig(files=[str(folder / "*.tar")], caption_fields=["txt"], language="detect")
    packed = TarSource("packed", config)
    assert [packed[i].caption for i in range(len(packed))] == [one.caption for one in samples(NUM)]
    sizes = 0
    for i, one in enumerate(samples(NUM)):
        image, small = packed[i].image, Image.open(io.BytesIO(one.image)).convert("RGB").resize((20, 16), BICUBIC)
        assert image == encode_planes(small.convert("YCbCr"))
        sizes += len(image)
    estimate = re.search(r"web: about (\S+) GB, 1.5 bytes a pixel", shown)
    assert estimate is not None
    # One of the 13 images is corrupt and counts in neither; the estimate spreads over the rows.
    assert float(estimate.group(1)) * 1e9 == pytest.approx(sizes, rel=0.02)
    assert "GB are free in" in shown
    data = ImageTextDataModule(
        ImageTextDataConfig(sources={"packed": config}, global_batch_size=NUM, num_workers=0),
        MultiCropConfig(image_size=16, num_global_crops=1, num_local_crops=0, global_scale_min=1.0),
        TokenizerConfig(vocab_size=300),
        seed=0,
        max_steps=1,
    )
    (batch,) = data.train_dataloader()
    assert (batch.global_crops.shape, batch.faults) == ((1, NUM, 3, 16, 16), [])


def test_pack__small_jpegs_keep_the_values_that_they_store(experiment: str, tmp_path: Path) -> None:
    assert main(["data", "pack", experiment, str(tmp_path / "packed"), "--pixels", "yuv420"]) == 0
    packed = TarSource("packed", SourceConfig(files=[str(tmp_path / "packed" / "*.tar")], caption_fields=["txt"]))
    jpeg = samples(NUM)[0]
    assert jpeg.ending == "jpg"
    stored = jpeg_ycbcr(open_image(jpeg.image))
    assert stored is not None
    assert packed[0].image == encode_planes(stored)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pixels", "yuv420", "--format", "webp"], "--pixels yuv420 stores undecoded pixels, which have no --format"),
        (["--pixels", "yuv420", "--quality", "80"], "which have no --quality: leave one of them out"),
        (["--format", "png", "--quality", "80"], "--quality is of WebP and JPEG, and --format png has none"),
        (["--format", "bmp"], "format 'bmp' is not supported: use webp, jpg, png"),
    ],
)
def test_pack__options_without_effect_are_refused_before_anything_is_written(
    experiment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert _pack(experiment, tmp_path / "packed", *options) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "packed").exists()


@pytest.fixture
def two_stages(experiment: str, tmp_path: Path) -> Callable[..., str]:
    """Both stages with a source `web` of two JSON captions, each with settings of its own for it."""
    one, two = samples(2)
    content: list[tuple[str, bytes]] = []
    for number, sample in enumerate((one, two)):
        metadata = {"ko": f"사과 {number}", "en": f"an apple {number}", "alt": f"a fruit {number}", "words": ["pear"]}
        content += [(f"{number}.jpg", sample.image), (f"{number}.json", json.dumps(metadata).encode())]
    (tmp_path / "json").mkdir()
    write_tar(tmp_path / "json" / "00000.tar", content[:2])
    write_tar(tmp_path / "json" / "00001.tar", content[2:])
    contrastive = yaml.safe_load(Path(experiment).read_text(encoding="utf-8"))
    shared = ("name", "image_encoder", "schedule", "optimizer")
    mae_stage = {key: contrastive[key] for key in shared} | {"transform": {"image_size": 32}}

    def write(mae: dict[str, Any], training: dict[str, Any]) -> str:
        base = {"files": [str(tmp_path / "json" / "*.tar")]}
        stages = {
            "mae": mae_stage | {"data": {"sources": {"web": base | mae}}},
            "contrastive": contrastive | {"data": {"sources": {"web": base | training}}},
        }
        for stage in stages.values():
            del stage["name"]
        file = tmp_path / "both.yaml"
        file.write_text(yaml.safe_dump({"name": "both"} | stages), encoding="utf-8")
        return str(file)

    return write


def _packed_captions(pattern: Path) -> list[list[str]]:
    """The captions of each packed sample, of whatever name."""
    found = []
    for file in sorted(pattern.parent.glob(pattern.name)):
        with tarfile.open(file) as archive:
            for member in archive:
                if member.name.endswith(".json"):
                    metadata = json.load(archive.extractfile(member))
                    found.append([value for key, value in metadata.items() if key.startswith("caption")])
    return found


def test_pack__a_source_of_both_stages_is_packed_once_with_all_captions(
    two_stages: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = two_stages(
        {"captions": {"ko": "ko"}, "weight": 0.5}, {"captions": {"ko": "ko", "en": "en"}, "keywords": {"en": "words"}}
    )
    assert _pack(file, tmp_path / "packed") == 0
    assert re.findall(r"(\S+): (\d+) samples written", capsys.readouterr().out) == [("web", "2")]
    assert sorted(one.name for one in (tmp_path / "packed").iterdir()) == ["web-000000.tar", "web.json"]
    assert _packed_captions(tmp_path / "packed" / "web-*.tar") == [["사과 0", "an apple 0"], ["사과 1", "an apple 1"]]
    fields = {"ko": "caption_ko", "en": "caption_en"}
    config = SourceConfig(
        files=[str(tmp_path / "packed" / "web-*.tar")], captions=fields, keywords={"en": "keywords_en"}
    )
    assert TarSource("packed", config)[1].keywords == ("pear",)


APART = {"mae-web": ["a fruit 0"], "contrastive-web": ["an apple 0"]}


@pytest.mark.parametrize(
    ("mae", "training", "expected"),
    [
        ({"captions": {"en": "alt"}}, {"captions": {"en": "en"}}, APART),
        ({"caption_fields": ["alt"]}, {"captions": {"en": "en"}}, APART),
        ({"captions": {"ko": "ko"}}, {"captions": {"en": "en"}}, {"web": ["사과 0", "an apple 0"]}),
    ],
)
def test_pack__different_sources_of_one_name_are_separate(
    two_stages: Callable[..., str],
    tmp_path: Path,
    mae: dict[str, Any],
    training: dict[str, Any],
    expected: dict[str, list[str]],
) -> None:
    assert _pack(two_stages(mae, training), tmp_path / "packed") == 0
    assert {file.stem for file in (tmp_path / "packed").glob("*.json")} == set(expected)
    for name, first in expected.items():
        found = _packed_captions(tmp_path / "packed" / f"{name}-*.tar")
        assert (len(found), found[0]) == (2, first)


def test_pack__other_files_of_the_same_name_are_separate(two_stages: Callable[..., str], tmp_path: Path) -> None:
    other = {"captions": {"ko": "ko"}, "files": [str(tmp_path / "json" / "00001.tar")]}
    assert _pack(two_stages(other, {"captions": {"ko": "ko"}}), tmp_path / "packed") == 0
    assert _packed_captions(tmp_path / "packed" / "mae-web-*.tar") == [["사과 1"]]
    assert _packed_captions(tmp_path / "packed" / "contrastive-web-*.tar") == [["사과 0"], ["사과 1"]]


def test_pack__other_captions_need_another_folder(
    two_stages: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many pairs of the same files, but the shards hold other texts."""
    first, second = ({"captions": {"en": name}} for name in ("en", "alt"))
    assert _pack(two_stages(first, first), tmp_path / "packed") == 0
    assert _pack(two_stages(second, second), tmp_path / "packed") == 2
    assert "packed with other settings" in capsys.readouterr().err
