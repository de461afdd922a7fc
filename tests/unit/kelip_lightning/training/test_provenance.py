"""The data and the tokenizer that a run began with, and which of them may change."""

import functools
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_modules.sources.fingerprint import FileFingerprint, SourceFingerprint
from data_modules.text.config import TokenizerConfig
from data_modules.text.tokenizer import BilingualTokenizer, build_tokenizer, train_tokenizer
from kelip_lightning.config.experiment import ContrastiveExperiment, MaskedPretrainExperiment, PretrainExperiment
from kelip_lightning.config.load import load_experiment
from kelip_lightning.errors import RunFolderError
from kelip_lightning.runs.folder import RunFolder
from kelip_lightning.training.provenance import (
    DataRecord,
    check_data,
    describe_data,
    keep_tokenizer,
    kept_tokenizer,
    normalization_of,
    read_record,
    read_tokenizer,
    refuse_other_tokenizer,
    with_own_tokenizer,
)
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
TEXTS = ["빨간 사과", "풋사과", "red apple", "a green apple"] * 3
CONFIG = TokenizerConfig(vocab_size=280, context_length=16)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "one", config="name: one\n", overrides=[], plan={}, data=RECORD.to_json())


def finish_mae(run: RunFolder) -> None:
    run.image_encoder.mkdir(parents=True)
    (run.image_encoder / "model.safetensors").touch()


def save(run: RunFolder, stage: str) -> None:
    (run.stage(stage).checkpoints / "step=0000002").mkdir(parents=True)


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
    names |= {f"classification.{one}" for one in sets.classification}
    assert set(record.evaluation) == names | {f"probe.{one}" for one in experiment.mae.probe.sets}
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


def test_check_data__the_same_data_changes_nothing(run: RunFolder) -> None:
    def written() -> tuple[int, int, int, bytes]:
        # not the whole stat: the check reads the file, which may move its time of access
        status = run.data.stat()
        return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, run.data.read_bytes()

    before = written()
    assert check_data(run, replace(RECORD, tokenizer=None), accept=False) == []
    assert written() == before


@pytest.mark.parametrize(
    ("found", "change"),
    [
        (CHANGED_MAE, "mae: source 'images': 3 pairs, not 2"),
        (CHANGED_PAIRS, "contrastive: source 'pairs': 3 pairs, not 2"),
        (replace(RECORD, templates=None), "the caption templates changed"),
    ],
)
def test_check_data__changed_training_data_must_be_accepted(run: RunFolder, found: DataRecord, change: str) -> None:
    with pytest.raises(RunFolderError, match=rf"\({change}\).*--accept-changed-data"):
        check_data(run, found, accept=False)
    assert read_record(run) == RECORD
    assert check_data(run, replace(found, tokenizer=None), accept=True) == [f"data: {change}"]
    assert read_record(run) == replace(found, tokenizer="0a"), "the tokenizer stays"
    assert check_data(run, found, accept=False) == []


def test_check_data__evaluation_sets_and_finished_stages_may_change(
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


def test_check_data__other_ranks_compare_and_write_nothing(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(RunFolderError, match="3 pairs, not 2"):
        check_data(run, CHANGED_PAIRS, accept=False)
    assert check_data(run, CHANGED_PAIRS, accept=True)
    assert read_record(run) == RECORD


def test_check_data__other_ranks_wait_for_a_run_that_is_being_created(
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
def test_check_data__no_record_but_a_checkpoint(run: RunFolder, stage: str) -> None:
    run.data.unlink()
    save(run, stage)
    with pytest.raises(RunFolderError, match=r"has no data\.json, because an earlier version created it"):
        check_data(run, RECORD, accept=False)
    assert check_data(run, RECORD, accept=True) == ["data: not recorded before, assumed unchanged"]
    assert read_record(run) == RECORD


def test_check_data__no_record_and_no_checkpoint(run: RunFolder) -> None:
    run.data.unlink()
    assert check_data(run, RECORD, accept=False) == []
    assert read_record(run) == RECORD


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sources": 3}', RECORD.to_json()[:-40]])
def test_read_record__damaged(run: RunFolder, content: Any) -> None:
    run.data.write_text(content, encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"data\.json is damaged .*; restore it, or remove it and resume with"):
        read_record(run)


@functools.cache
def tokenizer(*texts: str) -> BilingualTokenizer:
    return train_tokenizer(texts or TEXTS, 280, 16)


@pytest.fixture
def new_run(tmp_path: Path) -> RunFolder:
    record = DataRecord(sources={}, evaluation={})
    return RunFolder.create(tmp_path / "one", config="name: one\n", overrides=[], plan={}, data=record.to_json())


def test_kept_tokenizer__is_what_was_kept_byte_for_byte_and_id_for_id(new_run: RunFolder) -> None:
    assert kept_tokenizer(new_run, CONFIG) is None, "the first process has to make it"
    keep_tokenizer(new_run, tokenizer())
    config = kept_tokenizer(new_run, CONFIG)
    assert config is not None
    read = build_tokenizer(config, ["never read"])
    assert read.to_json() == tokenizer().to_json() == new_run.tokenizer.read_text(encoding="utf-8")
    texts = [*TEXTS, "Ｆｕｌｌ WIDTH", "[EOT] is text", "ㅎㅏㄴ 글", "🍎" * 40]
    assert read.encode(texts).tolist() == tokenizer().encode(texts).tolist()
    assert (read.pad_id, read.sot_id, read.eot_id) == (tokenizer().pad_id, tokenizer().sot_id, tokenizer().eot_id)
    assert read_tokenizer(new_run, 16).to_json() == tokenizer().to_json()


def test_kept_tokenizer__other_processes_wait(new_run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    writer = threading.Timer(0.3, keep_tokenizer, (new_run, tokenizer()))
    writer.start()
    config = kept_tokenizer(new_run, CONFIG)
    writer.join()
    assert config is not None
    assert build_tokenizer(config, ["never read"]).to_json() == tokenizer().to_json()


@pytest.mark.parametrize(
    ("stage", "recorded", "version"),
    [("contrastive", False, 1), ("contrastive", True, 2), ("mae", False, 2), (None, False, 2)],
)
def test_normalization_of__a_run_that_trained_without_keeping_its_tokenizer(
    new_run: RunFolder, stage: str | None, recorded: bool, version: int
) -> None:
    if stage is not None:
        (new_run.stage(stage).checkpoints / "step=0000006").mkdir(parents=True)
    if recorded:
        keep_tokenizer(new_run, tokenizer())
    assert normalization_of(new_run) == version


def test_keep_tokenizer__records_its_digest_and_refuses_another_in_its_place(new_run: RunFolder) -> None:
    keep_tokenizer(new_run, tokenizer())
    record = read_record(new_run)
    assert record is not None
    assert record.tokenizer is not None
    new_run.tokenizer.unlink()
    with pytest.raises(RunFolderError, match="the data now gives another one"):
        keep_tokenizer(new_run, tokenizer("other words"))
    assert not new_run.tokenizer.exists()
    keep_tokenizer(new_run, tokenizer())
    assert read_record(new_run) == record


def test_read_tokenizer__refuses_one_that_was_exchanged(new_run: RunFolder) -> None:
    with pytest.raises(RunFolderError, match=r"has no tokenizer\.json: .* put the tokenizer that it was trained with"):
        read_tokenizer(new_run, 16)
    keep_tokenizer(new_run, tokenizer())
    new_run.tokenizer.write_text(tokenizer("other words").to_json(), encoding="utf-8")
    for use in (lambda: read_tokenizer(new_run, 16), lambda: kept_tokenizer(new_run, CONFIG)):
        with pytest.raises(RunFolderError, match="is not the file that the run began with"):
            use()


def with_file(file: Path) -> PretrainExperiment:
    text = f"contrastive.tokenizer.file={json.dumps(str(file))}"
    return load_experiment(EXPERIMENT, [text], PretrainExperiment, on_this_machine=False).experiment


def test_refuse_other_tokenizer__compares_content_not_formatting(new_run: RunFolder, tmp_path: Path) -> None:
    keep_tokenizer(new_run, tokenizer())
    file = tmp_path / "given.json"
    refuse_other_tokenizer(new_run, with_file(file))  # it may be gone
    file.write_text(json.dumps(json.loads(tokenizer().to_json())), encoding="utf-8")
    experiment = with_file(file)
    experiment.contrastive.tokenizer.context_length = 16
    refuse_other_tokenizer(new_run, experiment)
    file.write_text(tokenizer("other words").to_json(), encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"given\.json is no longer the tokenizer"):
        refuse_other_tokenizer(new_run, experiment)


def test_with_own_tokenizer__in_either_schema(new_run: RunFolder, tmp_path: Path) -> None:
    experiment = with_file(tmp_path / "gone.json")
    assert with_own_tokenizer(new_run, experiment) == experiment, "the run has none yet"
    keep_tokenizer(new_run, tokenizer())
    own = str(new_run.tokenizer.absolute())
    found = with_own_tokenizer(new_run, experiment)
    assert found.contrastive.tokenizer.file == own
    assert experiment.contrastive.tokenizer.file == str(tmp_path / "gone.json")
    stage: ContrastiveExperiment = with_own_tokenizer(new_run, experiment.contrastive)
    assert stage == found.contrastive
    assert isinstance(experiment.mae, MaskedPretrainExperiment)
    assert with_own_tokenizer(new_run, experiment.mae) is experiment.mae
    trained = load_experiment(EXPERIMENT, [], PretrainExperiment).experiment
    assert with_own_tokenizer(new_run, trained) == trained, "no file is configured"
