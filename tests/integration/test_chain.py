"""The whole chain on the embedded corpus through the command line, shrunk to seconds."""

import importlib
import json
import operator
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_modules.json_lines import read_json_lines
from kelip_lightning.cli import main
from tests.paths import ROOT

BY_STAGE = (["ko"], ["en", "ko"])
"""MAE pre-training reads each image once, by its Korean caption."""
STAGES = ("data_modules.image", "data_modules.image_text")

EXPERIMENT = str(ROOT / "experiments" / "emoji" / "pretrain.yaml")
SMALL = [
    "data.global_batch_size=16",
    "image_encoder.width=48",
    "image_encoder.depth=1",
    "mae.masked_autoencoder.decoder_width=24",
    "mae.masked_autoencoder.decoder_depth=1",
    "mae.schedule.max_steps=4",
    "contrastive.schedule.max_steps=6",
    "contrastive.data.allow_partial_epoch=true",
    "schedule.warmup_steps=1",
    "contrastive.text_encoder.width=48",
    "contrastive.text_encoder.depth=1",
    "contrastive.tokenizer.vocab_size=600",
    "trainer.log_every_n_steps=1",
    "contrastive.evaluation.every_n_steps=4",
    "contrastive.evaluation.captions.captions=null",
    "contrastive.evaluation.classification.subgroups=null",
    *(f"contrastive.evaluation.retrieval.{name}=null" for name in ("unseen_design", "unseen_combinations", "flags")),
    "contrastive.evaluation.retrieval.unseen_concepts.gallery={split: [unseen_concepts]}",
]


def _pretrain(folder: Path, name: str, *overrides: str) -> int:
    return main(["pretrain", EXPERIMENT, f"output_dir={folder}", f"name={name}", *SMALL, *overrides])


def _lines(run: Path) -> list[dict[str, Any]]:
    return list(read_json_lines(run / "metrics.jsonl"))


def _losses(run: Path) -> list[tuple[str, int, float]]:
    return [
        (line["stage"], line["step"], line[key]) for line in _lines(run) if (key := f"{line['stage']}/loss") in line
    ]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Counter[str]]:
    """A run of both stages, and how often it opened and built what costs hours at scale."""
    folder, calls = tmp_path_factory.mktemp("runs"), Counter[str]()

    def count(patch: pytest.MonkeyPatch, place: str, name: str, label: Callable[..., str]) -> None:
        function = operator.attrgetter(name)(importlib.import_module(place))

        def counted(*arguments: Any, **options: Any) -> Any:
            calls[f"{name} {label(*arguments)}"] += 1
            return function(*arguments, **options)

        patch.setattr(f"{place}.{name}", counted)

    with pytest.MonkeyPatch.context() as patch:
        count(
            patch, "data_modules.loading", "open_source", lambda name, config, *_: f"{name} {sorted(config.captions)}"
        )
        count(patch, "data_modules.text.tokenizer", "train_tokenizer", lambda *_: "")
        count(patch, "kelip_lightning.training.inputs", "build_evaluation_sets", lambda *_: "")
        for place in STAGES:
            count(patch, place, "build_order", lambda *_, place=place: place)
            count(patch, place, "PairDataset", lambda *_, place=place: place)
        assert _pretrain(folder, "first") == 0
    return folder / "first", calls


@pytest.fixture(scope="module")
def run(first: tuple[Path, Counter[str]]) -> Path:
    return first[0]


def test_pretrain__opens_and_builds_everything_once(first: tuple[Path, Counter[str]]) -> None:
    sources = [f"open_source {name} {languages}" for name in ("plain", "skin_tones") for languages in BY_STAGE]
    built = [f"{what} {place}" for what in ("build_order", "PairDataset") for place in STAGES]
    assert first[1] == Counter([*sources, *built, "train_tokenizer ", "build_evaluation_sets "])


def test_pretrain__leaves_a_complete_record(run: Path) -> None:
    record = {"config.yaml", "overrides.txt", "plan.yaml", "environment.json", "metrics.jsonl", "report.json"}
    record |= {"items.parquet", "data.json", "tokenizer.json", "log.txt"}
    assert {*record, "status.json", "timing.json", "mae", "contrastive"} == {file.name for file in run.iterdir()}
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    for stage in ("mae", "contrastive"):
        assert list((run / stage).glob("events.out.tfevents.*"))
    assert [line["step"] for line in _lines(run) if "eval/unseen_concepts_ko/image_to_text_median_rank" in line] == [
        0,
        4,
        6,
    ]
    assert [step for stage, step, _ in _losses(run) if stage == "mae"] == list(range(4))


def test_pretrain__same_command_twice_gives_identical_losses(run: Path) -> None:
    assert _pretrain(run.parent, "second") == 0
    assert _losses(run.parent / "second") == _losses(run)


def test_pretrain__without_mae_starts_elsewhere(run: Path) -> None:
    assert _pretrain(run.parent, "scratch", "mae=null") == 0
    assert not (run.parent / "scratch" / "mae").exists()
    assert _losses(run.parent / "scratch") != [one for one in _losses(run) if one[0] == "contrastive"]


@pytest.mark.parametrize(
    ("stage", "exported", "step"), [("mae", "image_encoder", 4), ("contrastive", "dual_encoder", 6)]
)
def test_pretrain__refuses_to_finish_again_what_was_removed(
    run: Path, tmp_path: Path, stage: str, exported: str, step: int, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(run, tmp_path / "first")
    shutil.rmtree(copy / stage / exported)
    (copy / "report.json").unlink()
    assert _pretrain(tmp_path, "first", "--resume", "auto") == 2
    message = capsys.readouterr().err
    assert f"step={step:07d} is the last checkpoint of a stage that has finished" in message
    assert f"what it exported into {copy / stage} is missing" in message


def test_evaluate__gives_the_metrics_of_the_last_evaluation(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert evaluated["models"][str(run)]["metrics"] == pytest.approx(report["metrics"], abs=1e-6)
    assert evaluated["chance"] == report["chance"]


def test_predict__prints_probabilities(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (90, 70), "red").save(tmp_path / "red.png")
    arguments = ["predict", str(run), str(tmp_path / "red.png"), "--json", "--texts", "사과", "a red apple"]
    assert main(arguments) == 0
    probabilities = json.loads(capsys.readouterr().out)
    assert set(probabilities) == {"사과", "a red apple"}
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-6)


def test_pretrain__refuses_an_existing_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _losses(run)
    assert _pretrain(run.parent, "first") == 2
    assert "name=NEW_NAME" in capsys.readouterr().err
    assert _losses(run) == before


def test_pretrain__finds_a_damaged_evaluation_file_before_the_mae_pretraining(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes((ROOT / "data_modules" / "emoji" / "emojione.parquet").read_bytes()[:-1000])
    table = f"contrastive.evaluation.retrieval.unseen_concepts.table.files=[{damaged}]"
    assert _pretrain(tmp_path, "damaged-table", table) == 2
    assert "damaged.parquet is damaged" in capsys.readouterr().err
    assert not (tmp_path / "damaged-table" / "mae").exists()


def test_contrastive__refuses_another_encoder_before_any_work(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = [one.removeprefix("contrastive.") for one in SMALL if not one.startswith("mae.")]
    arguments = [str(ROOT / "experiments" / "emoji" / "contrastive.yaml"), f"output_dir={run.parent}", "name=other"]
    init = [f"init.image_encoder={run / 'mae' / 'image_encoder'}", "image_encoder.depth=2"]
    assert main(["contrastive", *arguments, *overrides, *init]) == 2
    message = capsys.readouterr().err
    assert "depth is 1 there, 2 here" in message


def test_pretrain__ctrl_c_writes_a_checkpoint_and_exits_130(tmp_path: Path) -> None:
    overrides = [f"output_dir={tmp_path}", "name=stopped", *SMALL, "mae.schedule.max_steps=100000"]
    command = [sys.executable, "-m", "kelip_lightning", "pretrain", EXPERIMENT, *overrides]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        metrics = tmp_path / "stopped" / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not metrics.is_file() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        os.kill(process.pid, signal.SIGINT)
        _, message = process.communicate(timeout=60)
    assert process.returncode == 130, message
    assert list((tmp_path / "stopped" / "mae" / "checkpoints").glob("step=*/manifest.json"))
    assert "--resume auto" in message
    assert json.loads((tmp_path / "stopped" / "status.json").read_text())["state"] == "interrupted"
