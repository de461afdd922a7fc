"""A run keeps its tokenizer and fingerprints of its data, which are checked by `consolidate` and `--resume`."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_modules.text.tokenizer import BilingualTokenizer, train_tokenizer
from kelip_lightning.cli import main
from kelip_lightning.runs.metrics_file import read_metrics
from tests.faults.experiment import write_contrastive
from tests.unit.data_modules.corpora import Sample, members, samples, write_shards, write_tar

STEPS, SAVE_EVERY, BATCH = 4, 2, 4
WORDS = ("사과", "orange", "포도", "melon", "바나나", "cherry")


def _captions(number: int, start: int = 0) -> list[str]:
    """Captions with other words in each part of a corpus, so that parts give different tokenizers."""
    return [f"{WORDS[i % len(WORDS)]} {chr(ord('a') + i % 26) * 9} 그림 {i}" for i in range(start, start + number)]


def _corpus(number: int, start: int = 0) -> list[Sample]:
    pairs = zip(samples(number, start), _captions(number, start), strict=True)
    return [one._replace(caption=caption) for one, caption in pairs]


def _table(file: Path, corpus: Sequence[Sample], columns: Sequence[str] = ("ko", "en")) -> str:
    rows = [
        {"key": one.key, "concept": one.key, "image": {"bytes": one.image}} | dict.fromkeys(columns, one.caption)
        for one in corpus
    ]
    pq.write_table(pa.Table.from_pylist(rows), file)
    return str(file)


def _experiment(folder: Path, sources: dict[str, Any], data: dict[str, Any] | None = None, **sections: Any) -> Path:
    data = {"sources": sources, "global_batch_size": BATCH} | (data or {})
    return write_contrastive(folder, data, STEPS, checkpoint={"every_n_steps": SAVE_EVERY}, **sections)


def _shards(folder: Path) -> dict[str, Any]:
    pattern = write_shards(folder / "shards", _corpus(12), 6)
    return {"web": {"files": [pattern], "caption_fields": ["txt"], "language": "en"}}


def _train(file: Path, *arguments: str) -> int:
    return main(["contrastive", str(file), *arguments])


def _cut_off(file: Path) -> Path:
    """The run of an experiment as if its process had been killed in the last steps."""
    assert _train(file) == 0
    run = file.parent / "runs" / "tiny"
    (run / "report.json").unlink()
    shutil.rmtree(run / "contrastive" / "checkpoints" / f"step={STEPS:07d}")
    shutil.rmtree(run / "contrastive" / "dual_encoder")
    return run


def _losses(run: Path) -> list[float]:
    lines = read_metrics(run / "metrics.jsonl")
    return [line[key] for line in lines if (key := f"{line['stage']}/loss") in line]


def _changes(run: Path) -> list[str]:
    """The changes of the last line of resumes.jsonl."""
    last = (run / "resumes.jsonl").read_text(encoding="utf-8").split("\n")[-2]
    changes: list[str] = json.loads(last)["changes"]
    return changes


def test_run__keeps_its_tokenizer_and_every_folder_of_weights_has_the_same(tmp_path: Path) -> None:
    file = _experiment(tmp_path, _shards(tmp_path))
    assert _train(file) == 0
    run = tmp_path / "runs" / "tiny"
    kept = (run / "tokenizer.json").read_bytes()
    assert kept.decode() == train_tokenizer(_captions(12), 290, 24).to_json()
    assert (run / "contrastive" / "dual_encoder" / "tokenizer.json").read_bytes() == kept
    assert json.loads((run / "data.json").read_text(encoding="utf-8"))["tokenizer"] == sha256(kept).hexdigest()
    for number, command in enumerate((["consolidate", str(run)], ["export", str(run), "--format", "open_clip"])):
        assert main([*command, "--output", str(tmp_path / str(number))]) == 0
        assert (tmp_path / str(number) / "tokenizer.json").read_bytes() == kept


@pytest.mark.parametrize("languages", ["ko", "both"])
def test_consolidate__of_a_tokenizer_by_the_run_s_rules(languages: str, tmp_path: Path) -> None:
    """Under `ko`, a source without Korean is left out; else every second row of each of 16 pairs trains it."""
    korean, english = _corpus(8), _corpus(8, start=20)
    sources = {
        "korean": {"files": [_table(tmp_path / "ko.parquet", korean, ["ko"])], "captions": {"ko": "ko"}},
        "english": {"files": [_table(tmp_path / "en.parquet", english, ["en"])], "captions": {"en": "en"}},
    }
    tokenizer = {"vocab_size": 290, "context_length": 24, "max_training_pairs": 8}
    run = _cut_off(_experiment(tmp_path, sources, {"languages": languages}, tokenizer=tokenizer))
    assert main(["consolidate", str(run), "--output", str(tmp_path / "weights")]) == 0
    texts = [one.caption for one in korean] if languages == "ko" else _captions(8)[::2] + _captions(8, start=20)[::2]
    expected = train_tokenizer(texts, 290, 24).to_json()
    assert (tmp_path / "weights" / "tokenizer.json").read_text(encoding="utf-8") == expected


def test_consolidate__a_run_without_a_tokenizer_or_with_another_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _cut_off(_experiment(tmp_path, _shards(tmp_path)))
    output = ["--output", str(tmp_path / "weights")]
    (run / "tokenizer.json").write_text(train_tokenizer(["other"], 290, 24).to_json(), encoding="utf-8")
    assert main(["consolidate", str(run), *output]) == 2
    assert "tokenizer.json is not the file that the run began with" in capsys.readouterr().err
    (run / "tokenizer.json").unlink()
    assert main(["consolidate", str(run), *output]) == 2
    assert "has no tokenizer.json" in capsys.readouterr().err


def test_resume__the_same_data_gives_the_same_metrics(tmp_path: Path) -> None:
    file = _experiment(tmp_path, _shards(tmp_path))
    run = _cut_off(file)
    before = _losses(run)
    assert len(before) == STEPS
    kept = {name: (run / name).read_bytes() for name in ("data.json", "tokenizer.json")}
    for shard in (tmp_path / "shards").iterdir():
        os.utime(shard, (1, 1))  # as after a copy
    assert _train(file, "--resume", "auto") == 0
    assert _losses(run) == before
    assert kept == {name: (run / name).read_bytes() for name in kept}
    assert _changes(run) == []


def test_resume__a_shard_added(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = _experiment(tmp_path, _shards(tmp_path))
    run = _cut_off(file)
    kept = (run / "tokenizer.json").read_bytes()
    write_tar(tmp_path / "shards" / "00002.tar", members(_corpus(3, start=40)))
    assert _train(file, "--resume", "auto") == 2
    message = capsys.readouterr().err
    change = "contrastive: source 'web': 00002.tar added, 15 pairs, not 12"
    assert change in message
    assert "--accept-changed-data" in message
    assert not (run / "resumes.jsonl").exists()
    assert json.loads((run / "status.json").read_text(encoding="utf-8"))["state"] == "finished"
    assert _train(file, "--resume", "auto", "--accept-changed-data") == 0
    assert _changes(run) == [f"data: {change}"]
    assert (run / "tokenizer.json").read_bytes() == kept
    assert (run / "contrastive" / "dual_encoder" / "tokenizer.json").read_bytes() == kept
    recorded = json.loads((run / "data.json").read_text(encoding="utf-8"))
    assert recorded["sources"]["contrastive"]["web"]["num_samples"] == 15
    assert recorded["tokenizer"] == sha256(kept).hexdigest()


def _remove(shards: Path) -> None:
    (shards / "00001.tar").unlink()


def _grow(shards: Path) -> None:
    write_tar(shards / "00001.tar", members(_corpus(40, start=6)))


@pytest.mark.parametrize(
    ("change", "message"),
    [(_remove, "00001.tar removed, 6 pairs, not 12"), (_grow, "; 40 rows, not 6), 46 pairs, not 12")],
)
def test_resume__a_shard_removed_or_grown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], None], message: str
) -> None:
    file = _experiment(tmp_path, _shards(tmp_path))
    _cut_off(file)
    change(tmp_path / "shards")
    assert _train(file, "--resume", "auto") == 2
    assert message in capsys.readouterr().err


def test_resume__a_row_added_to_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = _table(tmp_path / "pairs.parquet", _corpus(12))
    file = _experiment(tmp_path, {"all": {"files": [table], "captions": {"ko": "ko", "en": "en"}}})
    _cut_off(file)
    _table(tmp_path / "pairs.parquet", _corpus(13))
    assert _train(file, "--resume", "auto") == 2
    message = capsys.readouterr().err
    assert "pairs.parquet changed (" in message
    assert "13 rows, not 12), 26 pairs, not 24" in message


def test_resume__changed_evaluation_sets_are_recorded(tmp_path: Path) -> None:
    table = _table(tmp_path / "queries.parquet", _corpus(6))
    sets = {"retrieval": {"own": {"table": {"files": [table], "captions": {"ko": "ko", "en": "en"}}}}}
    file = _experiment(tmp_path, _shards(tmp_path), evaluation=sets | {"every_n_steps": STEPS})
    run = _cut_off(file)
    _table(tmp_path / "queries.parquet", _corpus(7))
    assert _train(file, "--resume", "auto") == 0
    (change,) = _changes(run)
    assert change.startswith("data: evaluation.retrieval.own: queries.parquet changed (")
    assert change.endswith("7 rows, not 6)")


def _with_tokenizer_file(tmp_path: Path) -> tuple[Path, Path]:
    source = tmp_path / "given.json"
    source.write_text(train_tokenizer(_captions(12), 280, 24).to_json(), encoding="utf-8")
    settings = {"file": str(source), "context_length": 24}
    return _experiment(tmp_path, _shards(tmp_path), tokenizer=settings), source


def test_resume__without_the_file_that_the_tokenizer_came_from(tmp_path: Path) -> None:
    file, source = _with_tokenizer_file(tmp_path)
    run = _cut_off(file)
    before, given = _losses(run), source.read_bytes()
    assert (run / "tokenizer.json").read_bytes() == given
    source.unlink()
    assert _train(file, "--resume", "auto") == 0
    assert _losses(run) == before
    assert (run / "contrastive" / "dual_encoder" / "tokenizer.json").read_bytes() == given


@pytest.mark.parametrize("of_the_run", [False, True])
def test_resume__another_tokenizer_is_never_accepted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], of_the_run: bool
) -> None:
    file, source = _with_tokenizer_file(tmp_path)
    run = _cut_off(file)
    changed = run / "tokenizer.json" if of_the_run else source
    changed.write_text(train_tokenizer(["other"], 280, 24).to_json(), encoding="utf-8")
    assert _train(file, "--resume", "auto", "--accept-changed-data") == 2
    assert "a model cannot change its tokenizer" in capsys.readouterr().err


def test_resume__a_tokenizer_that_was_lost_is_trained_anew_only_to_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _experiment(tmp_path, _shards(tmp_path))
    run = _cut_off(file)
    kept = (run / "tokenizer.json").read_bytes()
    (run / "tokenizer.json").unlink()
    write_tar(tmp_path / "shards" / "00002.tar", members(_corpus(9, start=40)))
    assert _train(file, "--resume", "auto", "--accept-changed-data") == 2
    assert "the data now gives another one" in capsys.readouterr().err
    (tmp_path / "shards" / "00002.tar").unlink()
    assert _train(file, "--resume", "auto", "--accept-changed-data") == 0
    assert (run / "tokenizer.json").read_bytes() == kept


def test_resume__a_run_of_an_earlier_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = _experiment(tmp_path, _shards(tmp_path))
    with pytest.MonkeyPatch.context() as patch:  # that version straightened no quotes
        patch.setattr("kelip_lightning.training.provenance.NORMALIZATION", 1)
        run = _cut_off(file)
    assert BilingualTokenizer.from_file(run / "tokenizer.json", 24).normalization == 1
    before, kept = _losses(run), {name: (run / name).read_bytes() for name in ("data.json", "tokenizer.json")}
    for name in kept:
        (run / name).unlink()
    assert _train(file, "--resume", "auto") == 2
    assert "--accept-changed-data" in capsys.readouterr().err
    assert _train(file, "--resume", "auto", "--accept-changed-data") == 0
    assert _changes(run) == ["data: not recorded before, assumed unchanged"]
    assert _losses(run) == before
    assert kept == {name: (run / name).read_bytes() for name in kept}


def test_accept_changed_data__belongs_to_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _train(_experiment(tmp_path, _shards(tmp_path)), "--accept-changed-data") == 2
    assert "--accept-changed-data needs --resume" in capsys.readouterr().err
