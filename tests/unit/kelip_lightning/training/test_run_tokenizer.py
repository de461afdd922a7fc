"""The tokenizer of a run: written by its first process, read by everybody."""

import functools
import json
import threading
from pathlib import Path

import pytest

from data_modules.text.tokenizer import BilingualTokenizer, TokenizerConfig, build_tokenizer, train_tokenizer
from kelip_lightning.config.experiment import ContrastiveExperiment, MaskedPretrainExperiment, PretrainExperiment
from kelip_lightning.config.load import load_experiment
from kelip_lightning.errors import RunFolderError
from kelip_lightning.runs.folder import RunFolder
from kelip_lightning.training.provenance import (
    DataRecord,
    keep_tokenizer,
    kept_tokenizer,
    read_record,
    read_tokenizer,
    refuse_other_tokenizer,
    with_own_tokenizer,
)
from tests.paths import ROOT

EXPERIMENT = ROOT / "experiments" / "emoji" / "pretrain.yaml"
TEXTS = ["빨간 사과", "풋사과", "red apple", "a green apple"] * 3
CONFIG = TokenizerConfig(vocab_size=280, context_length=16)


@functools.cache
def tokenizer(*texts: str) -> BilingualTokenizer:
    return train_tokenizer(texts or TEXTS, 280, 16)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    record = DataRecord(sources={}, evaluation={})
    return RunFolder.create(tmp_path / "one", config="name: one\n", overrides=[], plan={}, data=record.to_json())


def test_kept_tokenizer__is_what_was_kept_byte_for_byte_and_id_for_id(run: RunFolder) -> None:
    assert kept_tokenizer(run, CONFIG) is None, "the first process has to make it"
    keep_tokenizer(run, tokenizer())
    config = kept_tokenizer(run, CONFIG)
    assert config is not None
    read = build_tokenizer(config, ["never read"])
    assert read.to_json() == tokenizer().to_json() == run.tokenizer.read_text(encoding="utf-8")
    texts = [*TEXTS, "Ｆｕｌｌ WIDTH", "[EOT] is text", "ㅎㅏㄴ 글", "🍎" * 40]
    assert read.encode(texts).tolist() == tokenizer().encode(texts).tolist()
    assert (read.pad_id, read.sot_id, read.eot_id) == (tokenizer().pad_id, tokenizer().sot_id, tokenizer().eot_id)
    assert read_tokenizer(run, 16).to_json() == tokenizer().to_json()


def test_kept_tokenizer__other_processes_wait_for_the_first(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    writer = threading.Timer(0.3, keep_tokenizer, (run, tokenizer()))
    writer.start()
    config = kept_tokenizer(run, CONFIG)
    writer.join()
    assert config is not None
    assert build_tokenizer(config, ["never read"]).to_json() == tokenizer().to_json()


def test_keep_tokenizer__records_its_digest_and_refuses_another_in_its_place(run: RunFolder) -> None:
    keep_tokenizer(run, tokenizer())
    record = read_record(run)
    assert record is not None
    assert record.tokenizer is not None
    run.tokenizer.unlink()
    with pytest.raises(RunFolderError, match="what would be trained now is another one"):
        keep_tokenizer(run, tokenizer("other words"))
    assert not run.tokenizer.exists()
    keep_tokenizer(run, tokenizer())
    assert read_record(run) == record


def test_read_tokenizer__refuses_one_that_was_exchanged(run: RunFolder) -> None:
    with pytest.raises(RunFolderError, match=r"has no tokenizer\.json: .* put the tokenizer that it was trained with"):
        read_tokenizer(run, 16)
    keep_tokenizer(run, tokenizer())
    run.tokenizer.write_text(tokenizer("other words").to_json(), encoding="utf-8")
    for use in (lambda: read_tokenizer(run, 16), lambda: kept_tokenizer(run, CONFIG)):
        with pytest.raises(RunFolderError, match="is not the file that the run was begun with"):
            use()


def with_file(file: Path) -> PretrainExperiment:
    text = f"contrastive.tokenizer.file={json.dumps(str(file))}"
    return load_experiment(EXPERIMENT, [text], PretrainExperiment, on_this_machine=False).experiment


def test_refuse_other_tokenizer__compares_what_is_read_not_how_it_is_written(run: RunFolder, tmp_path: Path) -> None:
    keep_tokenizer(run, tokenizer())
    file = tmp_path / "given.json"
    refuse_other_tokenizer(run, with_file(file))  # it may be gone
    file.write_text(json.dumps(json.loads(tokenizer().to_json())), encoding="utf-8")
    experiment = with_file(file)
    experiment.contrastive.tokenizer.context_length = 16
    refuse_other_tokenizer(run, experiment)
    file.write_text(tokenizer("other words").to_json(), encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"given\.json is no longer the tokenizer"):
        refuse_other_tokenizer(run, experiment)


def test_with_own_tokenizer__in_either_schema(run: RunFolder, tmp_path: Path) -> None:
    experiment = with_file(tmp_path / "gone.json")
    assert with_own_tokenizer(run, experiment) == experiment, "the run has none yet"
    keep_tokenizer(run, tokenizer())
    own = str(run.tokenizer.absolute())
    found = with_own_tokenizer(run, experiment)
    assert found.contrastive.tokenizer.file == own
    assert experiment.contrastive.tokenizer.file == str(tmp_path / "gone.json")
    stage: ContrastiveExperiment = with_own_tokenizer(run, experiment.contrastive)
    assert stage == found.contrastive
    assert isinstance(experiment.mae, MaskedPretrainExperiment)
    assert with_own_tokenizer(run, experiment.mae) is experiment.mae
    trained = load_experiment(EXPERIMENT, [], PretrainExperiment).experiment
    assert with_own_tokenizer(run, trained) == trained, "no file is configured"
