"""`onnx:FOLDER` as a model; that its features are the run's is in tests/integration/test_interchange.py."""

from pathlib import Path

import pytest
import torch

from kelip_lightning.errors import EncoderFileError
from kelip_lightning.inference.encoders import load_encoders

CPU = torch.device("cpu")


def test_folder_without_an_export(tmp_path: Path) -> None:
    with pytest.raises(EncoderFileError, match=r"holds no ONNX export that can be read .*; write it again with kelip"):
        load_encoders(f"onnx:{tmp_path}", CPU)


def test_damaged_graph(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(EncoderFileError, match="holds no ONNX export that can be read"):
        load_encoders(f"onnx:{tmp_path}", CPU)


def test_other_precision__is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        EncoderFileError, match="runs on the CPU in the arithmetic of its graphs; leave out --precision"
    ):
        load_encoders(f"onnx:{tmp_path}", CPU, "bf16-mixed")


def test_no_folder() -> None:
    with pytest.raises(EncoderFileError, match=r"onnx: names no model; give .* or onnx:FOLDER"):
        load_encoders("onnx:", CPU)
