"""The sizes are those of the experiments and of open_clip's configuration."""

from collections.abc import Callable

import open_clip
import pytest

from kelip_lightning.benchmarks.step.setting import (
    EMOJI_CAPTIONS,
    EMOJI_SOURCE,
    LOCAL_SIZE,
    MODELS,
    ModelName,
    StepSetting,
    architecture_of,
    experiment_of,
)
from kelip_lightning.config.experiment import ContrastiveExperiment
from kelip_lightning.config.load import load_experiment
from kelip_lightning.interchange.formats.open_clip import CONFIG, config_files
from tests.paths import ROOT

Setting = Callable[..., StepSetting]


def _experiment(name: str) -> ContrastiveExperiment:
    return load_experiment(ROOT / "experiments" / name / "contrastive.yaml", [], ContrastiveExperiment).experiment


def test_emoji__is_the_emoji_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    experiment = _experiment("emoji")
    experiment.image_encoder.patch_drop_rate = 0.0  # open_clip's steps drop no patches
    sizes = MODELS[ModelName.emoji]
    assert (sizes.image, sizes.text) == (experiment.image_encoder, experiment.text_encoder)
    assert sizes.embed_dim == experiment.dual_encoder.embed_dim
    assert sizes.vocab_size == experiment.tokenizer.vocab_size
    assert sizes.context_length == experiment.tokenizer.context_length
    assert LOCAL_SIZE[ModelName.emoji] == experiment.transform.local_size
    assert experiment.data.sources["plain"] == EMOJI_SOURCE
    assert experiment.data.captions == EMOJI_CAPTIONS


def test_vit_b32__is_open_clip_s() -> None:
    ours = config_files(MODELS[ModelName.vit_b32])[CONFIG]["model_cfg"]
    theirs = open_clip.get_model_config("ViT-B-32-quickgelu")
    assert (ours["embed_dim"], ours["quick_gelu"]) == (theirs["embed_dim"], theirs["quick_gelu"])
    for part in ("vision_cfg", "text_cfg"):
        assert ours[part].items() >= theirs[part].items()


def test_experiment_of__neither_logs_nor_saves_and_clips_as_by_default(tiny_setting: Setting) -> None:
    experiment = experiment_of(tiny_setting(local_crops=2, threads=3, precision="bf16-mixed"), num_steps=10)
    assert experiment.checkpoint.every_n_steps is None
    assert experiment.trainer.log_every_n_steps > experiment.schedule.max_steps == 11
    assert experiment.optimizer.gradient_clip_norm == 1.0
    assert (experiment.trainer.precision, experiment.trainer.num_threads) == ("bf16-mixed", 3)
    assert (experiment.transform.num_global_crops, experiment.transform.num_local_crops) == (1, 2)
    assert experiment.data.global_batch_size == 4


def test_architecture_of__the_depth_factor_is_of_both_towers(tiny_setting: Setting) -> None:
    plain, doubled = (architecture_of(tiny_setting(depth_factor=factor)) for factor in (1, 2))
    assert (doubled.image.depth, doubled.text.depth) == (2 * plain.image.depth, 2 * plain.text.depth)
    assert MODELS[ModelName.tiny] == plain


@pytest.mark.parametrize("options", [{"batch": 1}, {"local_crops": -1}, {"threads": 0}, {"depth_factor": 0}])
def test_step_setting__refuses_numbers_out_of_range(tiny_setting: Setting, options: dict[str, int]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} = .* must be at least"):
        tiny_setting(**options)
