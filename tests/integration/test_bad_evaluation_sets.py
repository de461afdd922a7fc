"""Mistakes in evaluation sets and models stop a command with one sentence, before any picture is decoded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from kelip_lightning.cli import main
from tests.faults.experiment import write_contrastive, write_experiment
from tests.paths import FIXTURES
from tests.unit.data_modules.corpora import picture, write_tar

RUN = FIXTURES / "run_of_e16296c" / "runs" / "finished"
NUM_ROWS = 6
Classes = dict[str, Any]


def _classes() -> Classes:
    names = {"round": {"ko": "둥근", "en": "round"}, "flat": {"ko": "납작한", "en": "flat"}}
    return {"classes": names, "templates": {"ko": ["{} 그림"], "en": ["a {} drawing"]}}


def _write_yaml(file: Path, content: dict[str, Any]) -> str:
    file.write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return str(file)


def _rows() -> list[dict[str, Any]]:
    """No image can be decoded: a command that tries to says so, instead of what it should say."""
    return [
        {
            "key": f"row {number}",
            "image": {"bytes": b"no image"},
            "ko": f"그림 {number}",
            "en": f"picture {number}",
            "number": number,
            "shape": ("round", "flat")[number % 2],
        }
        for number in range(NUM_ROWS)
    ]


def _write_table(rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), "samples.parquet")


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory has samples.parquet and classes.yaml, and each test spoils something."""
    monkeypatch.chdir(tmp_path)
    _write_table(_rows())
    _write_yaml(tmp_path / "classes.yaml", _classes())


def _sections(*, label: str = "shape", caption: str = "ko", file: str = "samples.parquet", **table: Any) -> Any:
    """The evaluation sets `shapes` and `captions` of the samples."""
    samples = {"files": [file], **table}
    return {
        "classification": {"shapes": {"table": samples, "label": label, "classes_file": "classes.yaml"}},
        "retrieval": {"captions": {"table": samples | {"captions": {"ko": caption}}}},
    }


def _evaluate(*models: str, **sections: Any) -> int:
    file = _write_yaml(Path("sets.yaml"), {"evaluation": sections})
    return main(["evaluate", *models, file, "--device", "cpu", "--json"])


def _sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed on stderr, which is one line; stdout is empty."""
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line.removeprefix("kelip: ")


def empty_class(classes: Classes) -> None:
    classes["classes"]["flat"] = {}


def blank_name(classes: Classes) -> None:
    classes["classes"]["flat"]["en"] = " "


def same_name_twice(classes: Classes) -> None:
    classes["classes"]["flat"]["ko"] = "둥근"


def no_slot(classes: Classes) -> None:
    classes["templates"]["en"] = ["a drawing"]


def unknown_slot(classes: Classes) -> None:
    classes["templates"]["en"] = ["a {name} drawing"]


def no_classes(classes: Classes) -> None:
    classes["classes"] = {}


OF_CLASSES: list[tuple[Callable[[Classes], None], str]] = [
    (empty_class, "the class 'flat' has no name in any language; add one, or remove the class"),
    (blank_name, "the class 'flat' has an unusable name: "),
    (same_name_twice, "the ko name '둥근' belongs to the classes 'round' and 'flat'; "),
    (no_slot, "templates.en: the template 'a drawing' has no slots for the name; "),
    (unknown_slot, "templates.en: the template 'a {name} drawing' has the unknown slot {name}; "),
    (no_classes, "it has no classes"),
]


@pytest.mark.parametrize(("spoil", "message"), OF_CLASSES)
def test_evaluate__classes(spoil: Callable[[Classes], None], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(classes := _classes())
    _write_yaml(Path("classes.yaml"), classes)
    assert _evaluate(str(RUN), **_sections()) == 2
    sentence = _sentence(capsys)
    assert sentence.startswith("evaluation.classification.shapes.classes_file: ")
    assert "classes.yaml" in sentence
    assert message in sentence


def image_twice() -> Any:
    rows = _rows()
    rows[5] |= {"key": rows[1]["key"], "image": {"bytes": b"another image"}}
    _write_table(rows)
    return _sections()


def no_such_label() -> Any:
    return _sections(label="form")


def labels_of_no_class() -> Any:
    return _sections(label="en")


def captions_are_numbers() -> Any:
    return _sections(caption="number")


def no_such_caption() -> Any:
    return _sections(caption="de")


def tar_as_table() -> Any:
    write_tar(Path("samples.tar"), [("a.jpg", picture(0)), ("a.ko", "그림".encode())])
    return _sections(file="samples.tar", layout="table")


def damaged_tar() -> Any:
    Path("samples.tar").write_bytes(b"no tar")
    return _sections(file="samples.tar")


def files_are_missing() -> Any:
    return _sections(file="nowhere.parquet")


@pytest.mark.parametrize(
    ("spoiled", "parts"),
    [
        (image_twice, ("evaluation.retrieval.captions: the key 'row 1' is that of two images, in rows 1 and 5; ",)),
        (no_such_label, ("evaluation.classification.shapes: ", "'form'", "shape")),
        (
            labels_of_no_class,
            ("evaluation.classification.shapes: no image has one of the 2 classes of the classes file",),
        ),
        (captions_are_numbers, ("evaluation.retrieval.captions: ", "'number'", "int64")),
        (no_such_caption, ("evaluation.retrieval.captions: ", "'de'")),
        (tar_as_table, ("evaluation.retrieval.captions: ", "samples.tar is a tar file", "set layout = shards")),
        (damaged_tar, ("evaluation.retrieval.captions: ", "samples.tar is no whole, uncompressed tar file")),
        (files_are_missing, ("2 are missing", "nowhere.parquet of ", "set evaluation.data_folder")),
    ],
)
def test_evaluate__samples(
    spoiled: Callable[[], Any], parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _evaluate(str(RUN), **spoiled()) == 2
    sentence = _sentence(capsys)
    assert [part for part in parts if part not in sentence] == [], sentence


def test_evaluate__a_model_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert _evaluate("no/where", **_sections()) == 2
    assert _sentence(capsys).startswith("no/where is neither a folder nor a model that could be downloaded")


def _readable() -> list[dict[str, Any]]:
    return [row | {"image": {"bytes": picture(number)}} for number, row in enumerate(_rows())]


@pytest.mark.parametrize(
    ("tower", "kept", "message"),
    [
        ("image", "retrieval", f"evaluation set captions: {NUM_ROWS} of {NUM_ROWS} image embeddings are not finite"),
        ("text", "retrieval", f"evaluation set captions: {NUM_ROWS} of {NUM_ROWS} text embeddings are not finite"),
        ("text", "classification", "evaluation set shapes: "),
    ],
)
def test_evaluate__weights_are_nan(tower: str, kept: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    _write_table(_readable())
    shutil.copytree(RUN / "contrastive" / "dual_encoder", "model")
    weights = load_file("model/model.safetensors")
    broken = [name for name in weights if name.startswith(f"{tower}_projection")]
    assert broken
    save_file(weights | {name: torch.full_like(weights[name], torch.nan) for name in broken}, "model/model.safetensors")
    assert _evaluate("model", **{kept: _sections()[kept]}) == 2
    assert message in (sentence := _sentence(capsys))
    assert "embeddings are not finite (NaN or infinite)" in sentence


def test_evaluate__a_broken_picture_is_found_while_evaluating(capsys: pytest.CaptureFixture[str]) -> None:
    rows = _readable()
    rows[3]["image"] = {"bytes": rows[3]["image"]["bytes"][:50]}
    _write_table(rows)
    assert _evaluate(str(RUN), retrieval=_sections()["retrieval"]) == 2
    assert _sentence(capsys).startswith("evaluation set captions: image 'row 3' cannot be used (")


def test_evaluate__what_is_left_out_is_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    _write_table(_readable())
    classes = _classes()
    classes["classes"]["wavy"] = {"ko": "물결", "en": "wavy"}
    _write_yaml(Path("classes.yaml"), classes)
    sections = _sections()
    sections["retrieval"]["elsewhere"] = {"table": {"files": ["nowhere.parquet"], "captions": {"ko": "ko"}}}
    assert _evaluate(str(RUN), **sections) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["notes"] == [
        "evaluation.classification.shapes: 1 of 3 classes have no image (wavy); their recall does not count"
    ]
    assert list(found["missing"]) == ["elsewhere"]
    assert main(["evaluate", str(RUN), "sets.yaml", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert found["notes"][0] in printed
    assert f"not evaluated: elsewhere, as {Path('nowhere.parquet').resolve()} does not exist" in printed


@pytest.mark.parametrize("spoiled", [image_twice, no_such_label, captions_are_numbers, files_are_missing])
def test_contrastive__stops_before_the_first_step(
    spoiled: Callable[[], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = [row | {"image": {"bytes": picture(number)}} for number, row in enumerate(_rows())]
    pq.write_table(pa.Table.from_pylist(training), "training.parquet")
    sources = {"all": {"files": ["training.parquet"], "captions": {"ko": "ko", "en": "en"}}}
    data = {"sources": sources, "global_batch_size": 4}
    experiment = write_contrastive(tmp_path, data, 2, evaluation=spoiled())
    assert main(["contrastive", str(experiment)]) == 2
    error = capsys.readouterr().err
    assert "evaluation." in error or "nowhere.parquet" in error
    assert "Traceback" not in error
    assert not (tmp_path / "runs" / "tiny").exists(), "the corrected command needs no other name"


def test_pretrain__stops_before_the_first_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = str(write_experiment(tmp_path))
    override = "contrastive.evaluation.retrieval.all.table.captions.ko=nothing"
    assert main(["pretrain", experiment, f"output_dir={tmp_path / 'runs'}", override]) == 2
    error = capsys.readouterr().err
    assert "evaluation.retrieval.all" in error and "'nothing'" in error
    assert not (tmp_path / "runs" / "tiny").exists(), "the corrected command needs no other name"
