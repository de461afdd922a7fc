"""Preprocessing that a folder states, compared with the one of this package."""

import json
from pathlib import Path
from typing import Any

import pytest

from kelip_lightning.interchange.stated_preprocessing import stated_differences

OPENAI: dict[str, Any] = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 224,
}
"""The values of openai/clip-vit-base-patch32."""


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({}, []),
        ({"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, "rescale_factor": 1 / 255}, []),
        ({"image_mean": [0.5, 0.5, 0.5]}, ["image_mean"]),
        ({"resample": 2, "do_center_crop": False}, ["resample", "do_center_crop"]),
        ({"size": {"height": 224, "width": 224}}, ["size"]),
        ({"crop_size": 256, "rescale_factor": 1.0}, ["crop_size", "rescale_factor"]),
    ],
)
def test_transformers(changes: dict[str, Any], keys: list[str], tmp_path: Path) -> None:
    stated = OPENAI | changes
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stated), encoding="utf-8")
    assert [one.split()[0] for one in stated_differences(tmp_path, 224)] == keys
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": stated}), encoding="utf-8")
    assert [one.split()[0] for one in stated_differences(tmp_path, 224)] == keys


@pytest.mark.parametrize(
    ("stated", "keys"),
    [
        (None, []),
        ({"size": [224, 224], "mode": "RGB", "mean": OPENAI["image_mean"], "std": OPENAI["image_std"]}, []),
        ({"interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0}, []),
        ({"mean": [0.5, 0.5, 0.5], "resize_mode": "squash"}, ["mean", "resize_mode"]),
        ({"std": 0.5, "interpolation": "bilinear"}, ["std", "interpolation"]),
    ],
)
def test_open_clip(stated: dict[str, Any] | None, keys: list[str], tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"preprocess_cfg": stated}), encoding="utf-8")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"resample": 0}), encoding="utf-8")
    assert [one.split()[0] for one in stated_differences(tmp_path, 224)] == keys
    (tmp_path / "open_clip_config.json").unlink()
    assert stated_differences(tmp_path, 224) == ["resample is 0 there, 3 here"]


def test_folder_without_statement(tmp_path: Path) -> None:
    assert stated_differences(tmp_path, 224) == []
