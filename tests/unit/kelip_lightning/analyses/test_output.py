"""Files of a record: columns, plots of an earlier analysis, and the identity of the weights."""

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kelip_lightning.analyses.output import Finding, Findings, as_document, prepare_folder, write_record
from kelip_lightning.errors import RunFolderError
from kelip_lightning.runs.folder import RunFolder
from kelip_lightning.statistics.bootstrap import Interval


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    made = RunFolder.create(tmp_path / "run", config="{}\n", overrides=[], plan={})
    made.dual_encoder.mkdir(parents=True)
    (made.dual_encoder / "model.safetensors").write_bytes(b"weights")
    return made


def test_as_document__names_weights_settings_and_metrics(run: RunFolder) -> None:
    interval = Interval(value=0.5, low=0.4, high=0.6)
    findings = Findings(
        summary=[Finding(subject="밥", measure="m", interval=interval, count=3)], statements=["It holds."]
    )
    document = as_document("culture", [run], "top: 5\n", findings)
    assert document["checkpoint"]["run"] == "run"
    assert document["checkpoint"]["weights_sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert document["checkpoint"]["trained_with"]["python"] == document["analysed_with"]["python"]
    assert document["settings"] == "top: 5\n"
    assert document["summary"] == [
        {"subject": "밥", "measure": "m", "value": 0.5, "low": 0.4, "high": 0.6, "count": 3, "chance": None}
    ]


def test_write_record__columns_of_all_rows_and_no_earlier_plots(tmp_path: Path) -> None:
    items = [{"ko": "밥", "p": 0.5}, {"ko": "국", "right": True}]
    square = np.full((4, 4, 3), 7, dtype=np.uint8)
    for name in ("old", "new"):
        write_record(tmp_path, {"summary": [], "items": items}, {name: square})
    with (tmp_path / "items.csv").open(encoding="utf-8-sig", newline="") as stream:
        assert list(csv.DictReader(stream)) == [
            {"ko": "밥", "p": "0.5", "right": ""},
            {"ko": "국", "p": "", "right": "True"},
        ]
    assert [file.name for file in tmp_path.glob("*.png")] == ["new.png"]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new.png")), square)


def test_prepare_folder__uses_its_own_again_and_no_other(tmp_path: Path) -> None:
    prepare_folder(tmp_path / "a" / "b")
    write_record(tmp_path / "a" / "b", {"summary": [], "items": []}, {})
    prepare_folder(tmp_path / "a" / "b")
    with pytest.raises(RunFolderError, match="holds files of something else"):
        prepare_folder(tmp_path / "a")
