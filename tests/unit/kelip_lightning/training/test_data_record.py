"""What a run was begun with, and what of it may change."""

import functools
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_modules.sources.fingerprint import FileFingerprint, SourceFingerprint
from kelip_lightning.config.experiment import PretrainExperiment
from kelip_lightning.config.load import load_experiment
from kelip_lightning.errors import RunFolderError
from kelip_lightning.runs.folder import RunFolder
from kelip_lightning.training.provenance import DataRecord, check_data, describe_data, read_record
from tests.paths import ROOT

EXPERIMENT = ROOT / "experiments" / "emoji" / "pretrain.yaml"
FILE = FileFingerprint(name="a.tar", size=10, num_rows=2, digest="d")
SOURCE = SourceFingerprint(format="shards", num_samples=2, selection={}, files=(FILE,))
OTHER = replace(SOURCE, num_samples=3)
RECORD = DataRecord(
    sources={"mae": {"images": SOURCE}, "contrastive": {"pairs": SOURCE}},
    templates=FileFingerprint(name="templates.yaml", size=9, digest="e"),
    evaluation={"retrieval.own": (FILE,)},
    tokenizer="0a",
)
CHANGED_MAE = replace(RECORD, sources=RECORD.sources | {"mae": {"images": OTHER}})
CHANGED_PAIRS = replace(RECORD, sources=RECORD.sources | {"contrastive": {"pairs": OTHER}})


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "one", config="name: one\n", overrides=[], plan={}, data=RECORD.to_json())


def finish_mae(run: RunFolder) -> None:
    run.image_encoder.mkdir(parents=True)
    (run.image_encoder / "model.safetensors").touch()


def save(run: RunFolder, stage: str) -> None:
    (run.stage(stage).checkpoints / "step=0000002").mkdir(parents=True)


def test_data_record__survives_json() -> None:
    assert DataRecord.from_json(RECORD.to_json()) == RECORD


@functools.cache
def emoji() -> tuple[PretrainExperiment, DataRecord]:
    experiment = load_experiment(EXPERIMENT, [], PretrainExperiment).experiment
    return experiment, describe_data(experiment)


def test_describe_data__has_every_source_and_set_of_both_stages() -> None:
    experiment, record = emoji()
    assert experiment.mae is not None
    assert {stage: set(sources) for stage, sources in record.sources.items()} == {
        "mae": set(experiment.mae.data.sources),
        "contrastive": set(experiment.contrastive.data.sources),
    }
    sets = experiment.contrastive.evaluation
    names = {f"retrieval.{one}" for one in sets.retrieval} | {f"captions.{one}" for one in sets.captions}
    assert set(record.evaluation) == names | {f"classification.{one}" for one in sets.classification}
    assert record.templates is not None
    assert DataRecord.from_json(record.to_json()) == record


def test_describe_data__sees_class_names_beside_the_tables(tmp_path: Path) -> None:
    experiment, before = emoji()
    classes = next(iter(experiment.contrastive.evaluation.classification.values())).classes_file
    assert classes.startswith("package:")
    root = ROOT / "data_modules"
    content = yaml.safe_load((root / classes.removeprefix("package:")).read_text(encoding="utf-8"))
    content["templates"]["en"][0] += "!"
    (tmp_path / Path(classes).name).write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    name = next(iter(experiment.contrastive.evaluation.classification))
    override = f"contrastive.evaluation.classification.{name}.classes_file={tmp_path / Path(classes).name}"
    loaded: PretrainExperiment = load_experiment(EXPERIMENT, [override], PretrainExperiment).experiment
    after = describe_data(loaded)
    assert after.sources == before.sources
    differing = [one for one, files in before.evaluation.items() if after.evaluation[one] != files]
    assert differing == [f"classification.{name}"]


def test_settle_data__the_same_data_changes_nothing(run: RunFolder) -> None:
    before = run.data.stat()
    assert check_data(run, replace(RECORD, tokenizer=None), accept=False) == []
    assert run.data.stat() == before


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (CHANGED_MAE, "mae: source 'images': 3 pairs, not 2"),
        (CHANGED_PAIRS, "contrastive: source 'pairs': 3 pairs, not 2"),
        (replace(RECORD, templates=None), "the caption templates changed"),
    ],
)
def test_settle_data__other_training_data_only_on_purpose(run: RunFolder, found: DataRecord, told: str) -> None:
    with pytest.raises(RunFolderError, match=rf"\({told}\).*--accept-changed-data"):
        check_data(run, found, accept=False)
    assert read_record(run) == RECORD
    assert check_data(run, replace(found, tokenizer=None), accept=True) == [f"data: {told}"]
    assert read_record(run) == replace(found, tokenizer="0a"), "the tokenizer stays"
    assert check_data(run, found, accept=False) == []


def test_settle_data__evaluation_sets_and_finished_stages_may_change(
    run: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    finish_mae(run)
    found = replace(CHANGED_MAE, evaluation={"retrieval.own": (), "captions.new": (FILE,)})
    changes = check_data(run, found, accept=False)
    assert changes == [
        "data: mae: source 'images': 3 pairs, not 2",
        "data: evaluation.retrieval.own: a.tar removed",
        "data: evaluation.captions.new: a.tar added",
    ]
    assert [f"data: {one.partition(': ')[2]}" for one in caplog.messages] == changes
    assert read_record(run) == found


def test_settle_data__other_ranks_compare_and_write_nothing(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(RunFolderError, match="3 pairs, not 2"):
        check_data(run, CHANGED_PAIRS, accept=False)
    assert check_data(run, CHANGED_PAIRS, accept=True)
    assert read_record(run) == RECORD


def test_settle_data__other_ranks_wait_for_a_run_that_is_being_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    run = RunFolder(tmp_path)
    writer = threading.Timer(0.3, run.data.write_text, (RECORD.to_json(),))
    writer.start()
    with pytest.raises(RunFolderError, match="3 pairs, not 2"):
        check_data(run, CHANGED_PAIRS, accept=False)
    writer.join()


@pytest.mark.parametrize("stage", ["mae", "contrastive"])
def test_settle_data__a_run_without_a_record_that_has_learnt_something(run: RunFolder, stage: str) -> None:
    run.data.unlink()
    save(run, stage)
    with pytest.raises(RunFolderError, match=r"has no data\.json, as it was begun by a version that kept none"):
        check_data(run, RECORD, accept=False)
    assert check_data(run, RECORD, accept=True) == ["data: not recorded before, and taken to be unchanged"]
    assert read_record(run) == RECORD


def test_settle_data__a_run_without_a_record_that_has_learnt_nothing(run: RunFolder) -> None:
    run.data.unlink()
    assert check_data(run, RECORD, accept=False) == []
    assert read_record(run) == RECORD


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sources": 3}', RECORD.to_json()[:-40]])
def test_read_record__damaged(run: RunFolder, content: Any) -> None:
    run.data.write_text(content, encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"data\.json is damaged .*; restore it, or remove it and resume with"):
        read_record(run)
