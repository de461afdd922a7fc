"""A lab's own data through the commands: trained on as it is, or refused in one sentence before a run begins."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kelip_lightning.cli import main
from tests.faults.experiment import write_contrastive
from tests.unit.data_modules.corpora import picture

KO, EN = [f"고양이 사진 {i}" for i in range(8)], [f"a photo of a cat {i}" for i in range(8)]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Eight pictures in a folder of their own."""
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    for number in range(8):
        (folder / ("below" if number % 2 else "") / f"{number}.jpg").write_bytes(picture(number))
    return folder


@pytest.fixture
def table(photos: Path) -> Callable[..., str]:
    """Writes a CSV beside the folder of pictures."""

    def write(ko: list[str] = KO, en: list[str] = EN, separator: str = ",", encoding: str = "utf-8") -> str:
        names = [path.relative_to(photos).as_posix() for path in sorted(photos.rglob("*.jpg"))]
        lines = [separator.join(cells) for cells in [("image", "ko", "en"), *zip(names, ko, en, strict=True)]]
        file = photos.parent / "pairs.csv"
        file.write_bytes(("\n".join(lines) + "\n").encode(encoding))
        return str(file)

    return write


def contrastive(folder: Path, source: dict[str, Any], max_steps: int = 4, **data: Any) -> int:
    root = {"image_root": str(folder / "photos"), "captions": {"ko": "ko", "en": "en"}}
    section = {"global_batch_size": 4, "allow_repeats": False, "allow_partial_epoch": False} | data
    return main(
        ["contrastive", str(write_contrastive(folder, section | {"sources": {"own": root | source}}, max_steps))]
    )


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    error = " ".join(capsys.readouterr().err.split())
    assert "Traceback" not in error
    return error


def test_mae__of_a_folder_of_images_without_captions_trains(tmp_path: Path, photos: Path) -> None:
    content = {
        "name": "images",
        "output_dir": str(tmp_path / "runs"),
        "data": {"sources": {"photos": {"files": [str(photos)]}}, "global_batch_size": 4, "num_workers": 0},
        "transform": {"image_size": 16},
        "image_encoder": {"image_size": 16, "patch_size": 4, "width": 16, "depth": 1, "num_heads": 2},
        "masked_autoencoder": {"decoder_width": 16, "decoder_depth": 1, "decoder_num_heads": 2},
        "schedule": {"max_steps": 2},
        "trainer": {"precision": "32", "accelerator": "cpu", "log_every_n_steps": 1},
    }
    file = tmp_path / "mae.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert main(["mae", str(file)]) == 0
    run = tmp_path / "runs" / "images"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len([line for line in lines if "mae/loss" in line]) == 2
    assert (run / "mae" / "image_encoder" / "model.safetensors").is_file()
    assert not (run / "mae" / "bad_samples.jsonl").exists() or not (run / "mae" / "bad_samples.jsonl").stat().st_size


def test_contrastive__of_a_half_translated_semicolon_table_of_another_folder_trains(
    tmp_path: Path, table: Callable[..., str]
) -> None:
    file = table(ko=["", *KO[1:]], separator=";", encoding="cp949")
    assert contrastive(tmp_path, {"files": [file], "encoding": "cp949"}, max_steps=8, global_batch_size=2) == 0
    plan = yaml.safe_load((tmp_path / "runs" / "tiny" / "plan.yaml").read_text(encoding="utf-8"))
    assert plan["stages"]["contrastive"]["samples_per_epoch"] == 15


@pytest.mark.parametrize(
    ("written", "source", "data", "sentence"),
    [
        (
            {"encoding": "cp949"},
            {},
            {},
            "is not UTF-8 (byte 18 cannot be decoded), and reads well as cp949: set encoding",
        ),
        (
            {},
            {"captions": {"ko": "en", "en": "ko"}},
            {},
            "swap them (captions: {ko: ko, en: en}), or set check_languages",
        ),
        ({"en": [""] * 8}, {}, {}, "the caption column 'en' is empty in all 8 rows"),
        ({}, {"image_root": "/"}, {}, "none of 8 evenly spaced rows has an image"),
        ({}, {}, {"global_batch_size": 32}, "data.global_batch_size = 32 is more than the 16 pairs of an epoch"),
        ({}, {}, {"global_batch_size": 12}, "data.global_batch_size = 12 are in it twice"),
        ({}, {}, {"global_batch_size": 2}, "schedule.max_steps = 4 steps of 2 see 8 of the 16 pairs"),
        ({}, {"captions": {}}, {}, "source 'own' has neither captions nor caption_fields, and contrastive training"),
    ],
)
def test_contrastive__what_nobody_means_is_refused_before_a_run_folder_is_made(
    written: dict[str, Any],
    source: dict[str, Any],
    data: dict[str, Any],
    sentence: str,
    tmp_path: Path,
    table: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert contrastive(tmp_path, {"files": [table(**written)]} | source, **data) == 2
    assert sentence in refusal(capsys)
    assert not (tmp_path / "runs").exists()


def test_inspect__fails_when_nothing_is_usable_and_writes_beside_the_run_folder(
    tmp_path: Path, table: Callable[..., str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    source = {"files": [table()], "captions": {"ko": "ko", "en": "en"}, "image_root": str(tmp_path / "photos")}
    file = str(write_contrastive(tmp_path, {"sources": {"own": source}}, 4))
    assert main(["data", "inspect", file]) == 0
    assert (tmp_path / "runs" / "tiny-contact_sheet.png").is_file()
    for path in (tmp_path / "photos").rglob("*.jpg"):
        path.write_bytes(b"no image")
    capsys.readouterr()
    assert main(["data", "inspect", file]) == 2
    assert "source 'own': none of 16 inspected pairs can be used (image_undecodable 16)" in refusal(capsys)
    assert not list((tmp_path / "elsewhere").iterdir())
