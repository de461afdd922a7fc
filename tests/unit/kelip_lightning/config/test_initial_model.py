"""Sections of an experiment that begins from a model: taken from it, or refused where they contradict it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from data_modules.text.tokenizer import BilingualTokenizer
from kelip_lightning.config.experiment import ContrastiveExperiment, PretrainExperiment
from kelip_lightning.config.fingerprint import training_fingerprint
from kelip_lightning.config.load import load_experiment
from kelip_lightning.errors import ConfigError
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.model_folder import save_dual_encoder

TinyDualEncoder = Callable[..., DualEncoder]
SECTIONS = ("image_encoder", "text_encoder", "dual_encoder", "tokenizer")


@pytest.fixture
def model(tiny_dual_encoder: TinyDualEncoder, tiny_tokenizer: BilingualTokenizer, tmp_path: Path) -> Path:
    save_dual_encoder(tmp_path / "model", tiny_dual_encoder(), tiny_tokenizer, "# card")
    return tmp_path / "model"


@pytest.fixture
def file(experiments: Path, model: Path) -> Path:
    """contrastive.yaml without the sections of the model."""
    tree = yaml.safe_load((experiments / "base.yaml").read_text(encoding="utf-8"))
    tree |= yaml.safe_load((experiments / "contrastive.yaml").read_text(encoding="utf-8"))
    tree = {key: value for key, value in tree.items() if key not in (*SECTIONS, "extends")}
    tree["init"] = {"model": str(model)}
    path = experiments / "begun.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def load(file: Path, *overrides: str, **options: Any) -> ContrastiveExperiment:
    return load_experiment(file, overrides, ContrastiveExperiment, **options).experiment


def problems(file: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(file, *overrides)
    return caught.value.problems


def test_sections_left_out_are_the_models(file: Path, tiny_tokenizer: BilingualTokenizer) -> None:
    found = load(file)
    assert (found.image_encoder.width, found.image_encoder.depth, found.image_encoder.patch_size) == (16, 2, 8)
    assert (found.text_encoder.width, found.dual_encoder.embed_dim) == (16, 8)
    assert found.tokenizer.context_length == 12
    assert found.tokenizer.vocab_size == max(259, tiny_tokenizer.vocab_size)
    assert found.init.model_sha256 is not None


def test_what_may_differ(file: Path) -> None:
    overrides = ["image_encoder.image_size=48", "transform.image_size=48", "tokenizer.context_length=20"]
    overrides += ["image_encoder.patch_drop_rate=0.5", "tokenizer.vocab_size=4000", "dual_encoder.max_logit_scale=30"]
    found = load(file, *overrides)
    assert found.image_encoder.image_size == 48
    assert found.tokenizer.context_length == 20
    assert found.image_encoder.patch_drop_rate == 0.5
    assert found.dual_encoder.max_logit_scale == 30


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "image_encoder.width=32",
            "image_encoder.width = 32 contradicts init.model = MODEL, which has 16; remove the key",
        ),
        (
            "image_encoder.activation=gelu",
            "image_encoder.activation = 'gelu' contradicts init.model = MODEL, which has",
        ),
        ("text_encoder.depth=3", "text_encoder.depth = 3 contradicts init.model = MODEL, which has 2"),
        ("dual_encoder.embed_dim=16", "dual_encoder.embed_dim = 16 contradicts init.model = MODEL, which has 8"),
        (
            "dual_encoder.initial_temperature=0.5",
            "initial_temperature = 0.5 contradicts init.model = MODEL, which has 0.07",
        ),
        ("tokenizer.vocab_size=260", "tokenizer.vocab_size = 260 is less than the "),
        ("init.model_sha256=abc", "init.model_sha256 = abc is not that of init.model = MODEL, which has "),
        (
            "init.image_encoder=/x",
            "init.model = MODEL has an image encoder of its own, so image_encoder = /x would have no",
        ),
        ("init.unlock_text_blocks=1", "init.unlock_text_blocks = 1 has no effect on an encoder that is not locked"),
        ("init.model=nowhere/at/all", "init.model = nowhere/at/all: nowhere/at/all is neither a folder nor"),
    ],
)
def test_contradictions(file: Path, model: Path, override: str, message: str) -> None:
    found = problems(file, override)
    assert len(found) == 1
    assert message.replace("MODEL", str(model)) in found[0]
    assert "\n" not in found[0]


def test_contradictions__a_bound_below_the_scale_that_the_model_has_learned(
    file: Path, model: Path, tiny_dual_encoder: TinyDualEncoder, tiny_tokenizer: BilingualTokenizer
) -> None:
    trained = tiny_dual_encoder()
    torch.nn.init.constant_(trained.logit_scale, math.log(30))
    save_dual_encoder(model, trained, tiny_tokenizer, "# card")
    found = problems(file, "dual_encoder.max_logit_scale=25")
    assert found == [
        f"dual_encoder.max_logit_scale = 25 is less than the logit scale 30 of init.model = {model}; remove the key, "
        "or raise it"
    ]
    assert load(file, "dual_encoder.max_logit_scale=31").dual_encoder.max_logit_scale == 31


def test_contradictions__every_one_at_once_and_the_remedy_works(file: Path) -> None:
    given = ["image_encoder.width=32", "image_encoder.num_heads=4", "text_encoder.depth=3"]
    assert len(problems(file, *given)) == 3
    remedy = [f"{one.partition('=')[0]}=???" for one in given]
    assert load(file, *given, *remedy).image_encoder.width == 16


def test_more_blocks_than_there_are(file: Path) -> None:
    found = problems(file, "init.lock_image_encoder=true", "init.unlock_image_blocks=3")
    assert found == [
        "init.unlock_image_blocks = 3 must not exceed image_encoder.depth = 2; lower it, or do not lock the encoder"
    ]
    assert load(file, "init.lock_image_encoder=true", "init.unlock_image_blocks=2").init.unlock_image_blocks == 2


def test_other_mistakes_are_told_before_the_model_is_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: Any) -> None:
        raise AssertionError("read")

    monkeypatch.setattr("kelip_lightning.interchange.initial_model.read_initial_model", read)
    assert "schedule.max_step is not a known key" in problems(file, "schedule.max_step=3")[0]


def test_mae_pretraining_would_have_no_effect(experiments: Path, model: Path) -> None:
    with pytest.raises(ConfigError, match=r"contrastive\.init\.model = .* MAE pre-training would have no effect"):
        load_experiment(experiments / "pretrain.yaml", [f"contrastive.init.model={model}"], PretrainExperiment)


@pytest.mark.usefixtures("file")
def test_a_stage_of_an_experiment_of_both(experiments: Path) -> None:
    (experiments / "both.yaml").write_text("name: chain\ncontrastive: {extends: begun.yaml}\n", encoding="utf-8")
    found = load_experiment(experiments / "both.yaml", [], PretrainExperiment)
    assert found.experiment.contrastive.image_encoder.width == 16
    assert not any("image_encoder" in line for line in found.base_diff), "the extended file begins from it too"
    with pytest.raises(
        ConfigError, match=r"contrastive\.image_encoder\.width = 32 contradicts contrastive\.init\.model"
    ):
        load_experiment(experiments / "both.yaml", ["image_encoder.width=32"], PretrainExperiment)


def test_resolved__loads_to_the_same_experiment(file: Path) -> None:
    loaded = load_experiment(file, [], ContrastiveExperiment)
    again = file.with_name("again.yaml")
    again.write_text(loaded.resolved, encoding="utf-8")
    assert load(again) == loaded.experiment


def test_fingerprint__counts_content_and_not_place(
    file: Path, model: Path, tiny_dual_encoder: TinyDualEncoder, tiny_tokenizer: BilingualTokenizer
) -> None:
    before = training_fingerprint(load(file))
    model.rename(model.with_name("moved"))
    assert training_fingerprint(load(file, f"init.model={model.with_name('moved')}")) == before
    save_dual_encoder(model, tiny_dual_encoder(), tiny_tokenizer, "# other weights")
    assert training_fingerprint(load(file)) != before


def test_resume__what_the_run_has_recorded(file: Path, model: Path, tmp_path: Path) -> None:
    loaded = load_experiment(file, ["output_dir=" + str(tmp_path / "runs")], ContrastiveExperiment)
    run = tmp_path / "runs" / "small"
    (run / "contrastive" / "checkpoints" / "step=0000002").mkdir(parents=True)
    (run / "config.yaml").write_text(loaded.resolved, encoding="utf-8")
    model.rename(model.with_name("gone"))
    place = f"output_dir={tmp_path / 'runs'}"
    for resume in ("auto", str(run), str(run / "contrastive" / "checkpoints" / "step=0000002")):
        assert load(file, place, resume=resume, on_this_machine=False) == loaded.experiment
    with pytest.raises(ConfigError, match=r"init\.model = "):
        load(file, place, "name=another", resume="auto", on_this_machine=False)
    with pytest.raises(ConfigError, match=r"init\.model = nowhere/at/all: "):
        load(file, place, "init.model=nowhere/at/all", resume=str(run), on_this_machine=False)
