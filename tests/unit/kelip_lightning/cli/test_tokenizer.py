"""`kelip tokenizer train` and `inspect`."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from data_modules.text.tokenizer import train_tokenizer
from kelip_lightning.cli import main
from tests.paths import ROOT
from tests.unit.data_modules.corpora import samples, write_csv


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    file = tmp_path / "captions.txt"
    file.write_text("빨간 사과\n풋사과\nred apple\na green apple\n" * 5, encoding="utf-8")
    return file


def _train(captions: Path, output: Path, *more: str) -> int:
    return main(["tokenizer", "train", "--vocab-size", "280", "--output", str(output), *more, str(captions)])


def test_train__twice_gives_identical_files(captions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _train(captions, tmp_path / "a") == 0
    assert _train(captions, tmp_path / "b") == 0
    assert "280 tokens" in capsys.readouterr().out
    files = {file.name: file.read_bytes() for file in (tmp_path / "a").iterdir()}
    assert set(files) == {"tokenizer.json", "tokenizer_config.json"}
    assert files == {file.name: file.read_bytes() for file in (tmp_path / "b").iterdir()}
    assert json.loads(files["tokenizer_config.json"])["model_max_length"] == 77


def test_inspect__table_and_json(captions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _train(captions, tmp_path / "tokenizer", "--context-length", "5") == 0
    capsys.readouterr()
    assert main(["tokenizer", "inspect", str(tmp_path / "tokenizer"), str(captions)]) == 0
    shown = capsys.readouterr().out
    assert "280 tokens, context length 5" in shown
    assert "OpenAI CLIP, ko" in shown
    assert main(["tokenizer", "inspect", str(tmp_path / "tokenizer"), str(captions), "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["vocab_size"] == 280
    assert metrics["reports"]["this tokenizer"]["ko"]["captions"] == 10
    # OpenAI's tokenizer knows no Hangul: each syllable costs it two tokens or more.
    assert metrics["reports"]["OpenAI CLIP"]["ko"]["tokens_per_unit"] >= 2
    assert metrics["reports"]["this tokenizer"]["ko"]["tokens_per_unit"] < 2


def test_inspect__without_open_clip(
    captions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _train(captions, tmp_path / "tokenizer") == 0
    monkeypatch.setitem(sys.modules, "open_clip.tokenizer", None)
    assert main(["tokenizer", "inspect", str(tmp_path / "tokenizer"), str(captions)]) == 0
    shown = capsys.readouterr().out
    assert "open_clip_torch is not installed" in shown
    assert "OpenAI CLIP, ko" not in shown


def test_train__on_the_captions_of_an_experiment(tmp_path: Path) -> None:
    experiments = ROOT / "experiments" / "emoji"
    few = {"files": ["package:emoji/twemoji.parquet"], "where": {"split": ["unseen_concepts"]}}
    experiment = {
        "extends": str(experiments / "contrastive.yaml"),
        "data": {"sources": {"plain": few, "skin_tones": None}},
    }
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(experiment), encoding="utf-8")
    assert _train(tmp_path / "few.yaml", tmp_path / "out") == 0
    assert _train(experiments / "mae.yaml", tmp_path / "mae") == 2


def test_train__on_the_captions_that_a_run_would_train_on(tmp_path: Path) -> None:
    """Under one language, sources without it are skipped, as in the run."""
    korean, english = samples(8), samples(8, start=20)
    sources = {}
    for language, corpus in (("ko", korean), ("en", english)):
        (tmp_path / language).mkdir()
        sources[language] = {"files": [write_csv(tmp_path / language, corpus)], "captions": {language: "caption"}}
    experiment = {
        "name": "one",
        "data": {"sources": sources, "languages": "ko"},
        "tokenizer": {"vocab_size": 280},
        "schedule": {"max_steps": 1},
    }
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(experiment), encoding="utf-8")
    assert _train(tmp_path / "one.yaml", tmp_path / "out") == 0
    expected = train_tokenizer([one.caption for one in korean], 280, 77).to_json()
    assert (tmp_path / "out" / "tokenizer.json").read_text(encoding="utf-8") == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--vocab-size", "9", "--output", "new", "captions.txt"], "vocab_size = 9 must be at least 259"),
        (["train", "--vocab-size", "300", "--output", "new", "missing.txt"], "missing.txt does not exist"),
        (["train", "--vocab-size", "300", "--output", ".", "captions.txt"], "exists already"),
        (["inspect", "nowhere", "captions.txt"], "nowhere/tokenizer.json does not exist"),
    ],
)
def test_tokenizer__user_errors(
    captions: Path,
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(captions.parent)
    assert main(["tokenizer", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (captions.parent / "new").exists()
