"""Selection of device and precision; models and inputs are moved to the device."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from data_modules.text.tokenizer import BilingualTokenizer
from kelip_lightning.cli import main
from kelip_lightning.distributed import processor
from kelip_lightning.distributed.accelerators import choose_device, choose_precision
from kelip_lightning.errors import ConfigError
from kelip_lightning.evaluation.embed import image_encode_function, text_encode_function
from kelip_lightning.evaluation.suite import Evaluation
from kelip_lightning.inference import evaluate
from kelip_lightning.inference.build_model import KelipModel
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.model_folder import save_dual_encoder
from kelip_lightning.runs.folder import RunFolder

NUM_PAIRS = 4


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the devices that torch reports."""

    def have(gpus: int = 0, *, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"GPU {number}")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return have


@pytest.mark.parametrize(
    ("gpus", "mps", "name", "expected"),
    [
        (0, False, "auto", "cpu"),
        (2, False, "auto", "cuda"),
        (0, True, "auto", "mps"),
        (2, False, "cpu", "cpu"),
        (2, False, "cuda", "cuda"),
        (2, False, "cuda:1", "cuda:1"),
        (0, True, "mps", "mps"),
    ],
)
def test_choose_device(machine: Callable[..., None], gpus: int, mps: bool, name: str, expected: str) -> None:
    machine(gpus, mps=mps)
    assert str(choose_device(name)) == expected


@pytest.mark.parametrize(
    ("gpus", "name", "sentence"),
    [
        (0, "cuda:0", r"--device cuda:0: torch sees no GPU here; use auto or cpu"),
        (2, "cuda:2", r"--device cuda:2: this machine has 2 GPU\(s\), numbered from 0; give a smaller number"),
        (2, "mps", r"--device mps: torch sees no Apple GPU here; use auto or cpu"),
        (2, "gpu", r"--device gpu must be auto, cpu, cuda, cuda:NUMBER or mps"),
        (2, "cuda:-1", r"--device cuda:-1 must be auto, cpu, cuda, cuda:NUMBER or mps"),
        (2, "cpu:0", r"--device cpu:0 must be auto"),
        (2, "", r"--device '' must be auto"),
    ],
)
def test_choose_device__errors(machine: Callable[..., None], gpus: int, name: str, sentence: str) -> None:
    machine(gpus)
    with pytest.raises(ConfigError, match=f"^{sentence}"):
        choose_device(name)


class _Elsewhere:
    """A model on another device that returns its inputs."""

    def __init__(self, device: str) -> None:
        self.logit_scale = torch.zeros(1, device=device)

    def encode_image(self, images: Tensor, /, l2norm: bool = True) -> Tensor:
        return images

    def encode_text(self, tokens: Tensor, /, l2norm: bool = True) -> Tensor:
        return tokens


def test_encode_functions__inputs_follow_the_model(tiny_tokenizer: BilingualTokenizer) -> None:
    with FakeTensorMode():  # tracks devices without a GPU
        model = _Elsewhere("cuda:1")
        images = image_encode_function(model)(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
        texts = text_encode_function(model, tiny_tokenizer)(["사과", "red apple"])
    assert (str(images.device), images.dtype, images.shape) == ("cuda:1", torch.float32, (2, 3, 32, 32))
    assert (str(texts.device), texts.dtype) == ("cuda:1", torch.float32)


@pytest.fixture
def run(tmp_path: Path, tiny_dual_encoder: Callable[..., DualEncoder], tiny_tokenizer: BilingualTokenizer) -> RunFolder:
    """A finished run with an evaluation set of its own."""
    generator = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for index in range(NUM_PAIRS):
        buffer = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, "PNG")
        names = {"concept": str(index), "ko": f"사과 {index}", "en": f"red {index}"}
        rows.append({"key": str(index), "image": {"bytes": buffer.getvalue()}} | names)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    (tmp_path / "image.png").write_bytes(rows[0]["image"]["bytes"])
    table = {"files": [str(tmp_path / "pairs.parquet")], "captions": {"ko": "ko", "en": "en"}}
    config = yaml.safe_dump({"evaluation": {"retrieval": {"a": {"table": table}}}})
    captions = {"captions": {"names": {"table": table}}, "resampling": {"num_resamples": 100}}
    (tmp_path / "cross_lingual.yaml").write_text(yaml.safe_dump(captions), encoding="utf-8")
    plan = {"stages": {"contrastive": {"precision": "32-true"}}}
    found = RunFolder.create(tmp_path / "run", config=config, overrides=[], plan=plan)
    save_dual_encoder(found.dual_encoder, tiny_dual_encoder(), tiny_tokenizer, "card")
    return found


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Devices that models are moved to; without effect, since the machine has no such device."""
    found: list[Any] = []

    def to(module: nn.Module, device: Any, *_: Any) -> nn.Module:
        if isinstance(module, DualEncoder | KelipModel):
            found.append(str(device))
        return module

    monkeypatch.setattr(nn.Module, "to", to)
    return found


def command(verb: str, run: RunFolder) -> list[str]:
    """A command line that uses the run's model."""
    folder = run.path.parent
    return {
        "evaluate": ["evaluate", str(run.path), "--json"],
        "analyze": ["analyze", "cross-lingual", str(run.path), str(folder / "cross_lingual.yaml"), "--json"],
        "predict": ["predict", str(run.path), str(folder / "image.png"), "--json", "--texts", "사과", "red"],
    }[verb]


VERBS = {"evaluate": 1, "analyze": 2, "predict": 1}
"""Verb -> number of models; cross-lingual analysis uses an untrained one too."""


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("options", "expected"), [([], "cuda"), (["--device", "cuda:1"], "cuda:1"), (["--device", "cpu"], "cpu")]
)
def test_verbs__use_the_model_on_the_chosen_device(
    run: RunFolder,
    machine: Callable[..., None],
    moves: list[str],
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    options: list[str],
    expected: str,
) -> None:
    machine(gpus=2)
    monkeypatch.setattr(evaluate, "evaluate_sets", lambda *_: Evaluation())  # which would compute on the device
    assert main([*command(verb, run), *options]) == 0
    assert moves == VERBS[verb] * [expected]


@pytest.mark.parametrize("verb", VERBS)
def test_verbs__an_unavailable_device_fails_first(
    run: RunFolder, machine: Callable[..., None], moves: list[str], capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    machine(gpus=0)
    (run.dual_encoder / "config.yaml").write_text("damaged: [", encoding="utf-8")  # never read
    assert main([*command(verb, run), "--device", "cuda"]) == 2
    assert capsys.readouterr().err == "kelip: --device cuda: torch sees no GPU here; use auto or cpu\n"
    assert moves == []
    assert not (run.path / "analyses").exists()


def test_evaluate__a_machine_without_a_gpu_gives_the_metrics_of_the_cpu(
    run: RunFolder, machine: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    machine(gpus=0)
    found = []
    for options in ([], ["--device", "cpu"]):
        assert main([*command("evaluate", run), *options]) == 0
        found.append(json.loads(capsys.readouterr().out)["models"][str(run.path)]["metrics"])
    assert found[0] == found[1]
    assert set(found[0]) > {"eval/a_ko/image_to_text_R@1", "eval/a_en/image_to_text_R@1"}


@pytest.mark.parametrize(("name", "expected"), [("32", "32-true"), ("bf16-mixed", "bf16-mixed"), ("bf16-true",) * 2])
def test_choose_precision__explicit(name: str, expected: str) -> None:
    assert choose_precision(name, "cpu") == expected


def test_choose_precision__unknown() -> None:
    with pytest.raises(ValueError, match="'16' must be one of auto, 32, bf16-mixed, bf16-true"):
        choose_precision("16", "cpu")


@pytest.mark.parametrize(
    ("flag", "expected"), [("avx512_bf16", "bf16-mixed"), ("amx_bf16", "bf16-mixed"), ("avx2", "32-true")]
)
def test_choose_precision__auto_on_a_cpu(monkeypatch: pytest.MonkeyPatch, flag: str, expected: str) -> None:
    monkeypatch.setattr(processor, "cpu_features", lambda: frozenset({"sse2", flag}))
    assert choose_precision("auto", "cpu") == expected


@pytest.mark.parametrize(("supported", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_choose_precision__auto_on_a_gpu(monkeypatch: pytest.MonkeyPatch, supported: bool, expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: supported)
    monkeypatch.setattr(processor, "cpu_features", lambda: frozenset({"avx512_bf16"}))
    assert choose_precision("auto", "auto") == expected
