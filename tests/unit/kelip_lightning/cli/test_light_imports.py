"""Help, and mistakes on the command line or in a file, are told before torch or another heavy library is imported.

Each case runs in an interpreter of its own, and the modules that it has imported are compared with a list: a limit on
the time would depend on the machine.
"""

import json
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from kelip_lightning.cli import VERBS
from kelip_lightning.config.experiment import EvaluationExperiment, PretrainExperiment
from kelip_lightning.runs.folder import RunFolder
from tests.paths import ROOT

HEAVY = frozenset(
    {
        "datasets",
        "fsspec",
        "lightning",
        "matplotlib",
        "numpy",
        "pandas",
        "pyarrow",
        "pytorch_lightning",
        "scipy",
        "timm",
        "tokenizers",
        "torch",
        "torchmetrics",
        "torchvision",
        "transformers",
    }
)
CHILD = """
import json, sys
from pathlib import Path
from kelip_lightning.cli import main
try:
    code = main(sys.argv[2:])
except SystemExit as ended:
    code = ended.code
modules = sorted({name.partition(".")[0] for name in sys.modules})
Path(sys.argv[1]).write_text(json.dumps({"code": code, "modules": modules}))
"""

PRETRAIN, MAE, CONTRASTIVE = (f"experiments/emoji/{name}.yaml" for name in ("pretrain", "mae", "contrastive"))
ANALYSIS, SETS = "experiments/analyses/culture.yaml", "experiments/evaluation/paper.yaml"
NOWHERE = "experiments/emoji/pretrian.yaml"


@dataclass(frozen=True, slots=True)
class Ended:
    """What one run of the command line leaves."""

    code: int
    heavy: frozenset[str]
    """The modules of `HEAVY` that it imported."""
    stdout: str
    stderr: str


def kelip(folder: Path, *words: str) -> Ended:
    """Run the command line in a new interpreter."""
    record = folder / "record.json"
    command = [sys.executable, "-c", CHILD, str(record), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert record.is_file(), done.stderr
    found = json.loads(record.read_text())
    return Ended(found["code"], HEAVY & set(found["modules"]), done.stdout, done.stderr)


def assert_told(ended: Ended, message: str) -> None:
    assert (ended.code, ended.heavy) == (2, frozenset()), ended.stderr
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("words", [(), *((verb.name,) for verb in VERBS)], ids=lambda words: " ".join(words) or "kelip")
def test_help(tmp_path: Path, words: tuple[str, ...]) -> None:
    ended = kelip(tmp_path, *words, "--help")
    assert (ended.code, ended.heavy) == (0, frozenset())
    assert ended.stdout.startswith(f"usage: {' '.join(['kelip', *words])}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["pretrain", PRETRAIN, "--seed=1"], "unrecognized arguments: --seed=1"),
        (["evaluate", "nowhere"], "run folder nowhere does not exist"),
        (["predict", "nowhere", "a.png", "--texts", "a"], "run folder nowhere does not exist"),
        (["embed", "nowhere", "pictures", "--output", "a.parquet"], "run folder nowhere does not exist"),
        (["search", "nowhere", "pictures"], "run folder nowhere does not exist"),
        (["export", "nowhere", "--format", "kelip", "--output", "x"], "nowhere is not a folder"),
    ],
)
def test_usage_errors(tmp_path: Path, words: list[str], message: str) -> None:
    assert_told(kelip(tmp_path, *words), message)


@pytest.mark.parametrize("verb", ["pretrain", "mae", "contrastive", "show-config", "plan"])
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.lernrate=1"], "optimizer.lernrate is not a known key; did you mean"),
        (["optimizer.learning_rate=fast"], "optimizer.learning_rate = 'fast' must be a number"),
        (["data.global_batch_size=7", "trainer.devices=2"], "data.global_batch_size = 7 must be a multiple of"),
    ],
    ids=["key", "type", "rule"],
)
def test_an_experiment__wrong_override(tmp_path: Path, verb: str, overrides: list[str], message: str) -> None:
    file = {"mae": MAE, "contrastive": CONTRASTIVE}.get(verb, PRETRAIN)
    assert_told(kelip(tmp_path, verb, file, *overrides), message)


@pytest.mark.parametrize("verb", ["pretrain", "mae", "contrastive", "show-config", "plan"])
def test_an_experiment__missing_file(tmp_path: Path, verb: str) -> None:
    assert_told(kelip(tmp_path, verb, NOWHERE), f"{NOWHERE} does not exist; did you mean {PRETRAIN}?")


@pytest.mark.parametrize(
    "override",
    [
        "data.sources.plain.files=[nowhere.parquet]",
        "contrastive.evaluation.retrieval.known.table.files=[nowhere.parquet]",
        "contrastive.tokenizer.file=nowhere.json",
    ],
)
def test_an_experiment__files_that_it_names(tmp_path: Path, override: str) -> None:
    assert_told(kelip(tmp_path, "pretrain", PRETRAIN, override), "nowhere.")


def test_an_experiment__encoder_to_start_from(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("width: 3\n", encoding="utf-8")
    ended = kelip(tmp_path, "contrastive", CONTRASTIVE, f"init.image_encoder={tmp_path}")
    assert_told(ended, "are missing or unknown in ImageEncoderConfig")


@pytest.mark.parametrize(("file", "schema"), [(PRETRAIN, PretrainExperiment), (SETS, EvaluationExperiment)])
def test_show_config__of_a_file_without_mistakes(tmp_path: Path, file: str, schema: type[Any]) -> None:
    ended = kelip(tmp_path, "show-config", file)
    assert (ended.code, ended.heavy) == (0, frozenset()), ended.stderr
    assert list(yaml.safe_load(ended.stdout)) == [field.name for field in fields(schema)]


def test_a_rule_about_timm_imports_it(tmp_path: Path) -> None:
    """Shows that the children's lists of modules are not empty for another reason."""
    ended = kelip(tmp_path, "show-config", PRETRAIN, "image_encoder.timm_name=vit_of_nobody")
    assert ended.code == 2
    assert "image_encoder.timm_name = vit_of_nobody is no Vision Transformer of the installed timm" in ended.stderr
    assert {"torch", "timm"} <= ended.heavy


@pytest.fixture
def finished(tmp_path: Path) -> str:
    """A run folder that looks finished."""
    run = RunFolder(tmp_path / "run")
    run.dual_encoder.mkdir(parents=True)
    run.config.write_text("name: run\n", encoding="utf-8")
    (run.dual_encoder / "model.safetensors").touch()
    return str(run.path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([SETS, "evaluation.batchsize=1"], "evaluation.batchsize is not a known key; did you mean"),
        ([SETS, "evaluation.batch_size=many"], "evaluation.batch_size = 'many' must be a whole number"),
        ([SETS, "include=[nowhere.yaml]"], "include names nowhere.yaml, which does not exist"),
        ([NOWHERE], f"{NOWHERE} does not exist"),
    ],
)
def test_evaluate(tmp_path: Path, finished: str, words: list[str], message: str) -> None:
    assert_told(kelip(tmp_path, "evaluate", finished, *words), message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([ANALYSIS, "topk=3"], "topk is not a known key; did you mean top_k?"),
        ([ANALYSIS, "top_k=few"], "top_k = 'few' must be a whole number"),
        ([NOWHERE], f"{NOWHERE} does not exist"),
    ],
)
def test_analyze(tmp_path: Path, finished: str, words: list[str], message: str) -> None:
    assert_told(kelip(tmp_path, "analyze", "culture", finished, *words), message)


@pytest.mark.parametrize(
    "words",
    [
        ["data", "index", "FILE"],
        ["data", "inspect", "FILE"],
        ["data", "pack", "FILE", "packed"],
        ["tokenizer", "train", "FILE", "--vocab-size", "300", "--output", "trained"],
        ["tokenizer", "inspect", "nowhere", "FILE"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_data_and_tokenizer(tmp_path: Path, words: list[str]) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"extends: {ROOT / CONTRASTIVE}\noptimizer: {{lernrate: 1}}\n", encoding="utf-8")
    ended = kelip(tmp_path, *(str(file) if word == "FILE" else word for word in words))
    assert_told(ended, "optimizer.lernrate is not a known key; did you mean optimizer.learning_rate?")


STUDY: dict[str, Any] = {
    "question": "Which?",
    "paper": "Unknown.",
    "reference": "plain",
    "variants": {"plain": {"about": "the base"}},
    "scales": {
        "emoji": {
            "base": str(ROOT / CONTRASTIVE),
            "metrics": ["eval/unseen_design_ko/image_to_text_R@1"],
        }
    },
}


def _variant(*overrides: str) -> dict[str, Any]:
    return {"variants": STUDY["variants"] | {"other": {"about": "another", "overrides": list(overrides)}}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sed": 1}, "sed is not a known key"),
        ({"seeds": "many"}, "seeds = 'many' must be a whole number"),
        (_variant("optimizer.lernrate=1"), "variant other: optimizer.lernrate is not a known key"),
        (_variant("seed=1"), "'seed=1' sets seed, which the study sets; remove it"),
        (_variant("data.global_batch_size=7", "trainer.devices=2"), "variant other: data.global_batch_size = 7"),
        (_variant("trainer.num_threads=3"), "variants plain and other train the same"),
    ],
)
def test_ablate(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(STUDY | change), encoding="utf-8")
    assert_told(kelip(tmp_path, "ablate", str(file), "--output", str(tmp_path / "runs")), message)


def test_ablate__missing_file(tmp_path: Path) -> None:
    assert_told(kelip(tmp_path, "ablate", NOWHERE), f"{NOWHERE} does not exist")
