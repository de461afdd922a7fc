"""Loading: stages, overrides, resolved YAML, the difference to the base."""

from pathlib import Path

import pytest

from kelip_lightning.config.experiment import (
    SCHEMAS,
    ContrastiveExperiment,
    EvaluationExperiment,
    MaskedPretrainExperiment,
    PretrainExperiment,
)
from kelip_lightning.config.load import find_schema, load_experiment
from kelip_lightning.errors import ConfigError
from kelip_lightning.models.image_encoder import Pooling


def load(folder: Path, *overrides: str) -> PretrainExperiment:
    return load_experiment(folder / "pretrain.yaml", overrides, PretrainExperiment).experiment


def problems(folder: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, *overrides)
    return caught.value.problems


def test_load_experiment__three_mistakes_three_sentences(experiments: Path) -> None:
    found = problems(
        experiments,
        "contrastive.image_encoder.dept=2",
        "mae.schedule.max_steps=ten",
        "contrastive.trainer.devices=3",
    )
    assert found == [
        "mae.schedule.max_steps = 'ten' must be a whole number",
        "contrastive.image_encoder.dept is not a known key; did you mean contrastive.image_encoder.depth?",
        "contrastive.data.global_batch_size = 8 must be a multiple of trainer.devices x num_nodes x accumulate = "
        "3 x 1 x 1; use 6 or 9",
    ]


def test_load_experiment__overrides_reach_every_stage_that_has_the_key(experiments: Path) -> None:
    experiment = load(experiments, "seed=3", "trainer.precision=32", "transform.num_local_crops=0", "mae.seed=4")
    assert experiment.mae is not None
    assert (experiment.mae.seed, experiment.contrastive.seed) == (4, 3)
    assert experiment.mae.trainer.precision == experiment.contrastive.trainer.precision == "32"
    assert experiment.contrastive.transform.num_local_crops == 0


def test_load_experiment__later_overrides_win(experiments: Path) -> None:
    assert load(experiments, "contrastive.seed=2", "seed=1").contrastive.seed == 1


def test_load_experiment__unknown_in_every_stage(experiments: Path) -> None:
    assert problems(experiments, "optimizr.eps=1") == [
        "optimizr is not a known key; the keys here are name, output_dir, mae, contrastive"
    ]
    assert problems(experiments, "image_encoder.dept=1")[0].startswith("mae.image_encoder.dept is not a known key")
    assert "did you mean mae.schedule.max_steps" in problems(experiments, "max_steps=3")[0]


def test_load_experiment__name_and_output_dir_are_the_run_s(experiments: Path) -> None:
    experiment = load(experiments, "name=other", "output_dir=elsewhere")
    assert experiment.mae is not None
    for stage in (experiment, experiment.mae, experiment.contrastive):
        assert (stage.name, stage.output_dir) == ("other", "elsewhere")
    assert load(experiments).contrastive.output_dir == "runs"
    assert "both stages share one name" in problems(experiments, "contrastive.name=x")[0]


def test_load_experiment__mae_switched_off(experiments: Path) -> None:
    assert load(experiments, "mae=null", "seed=1").mae is None
    for order in (("mae=null", "masked_autoencoder.mask_ratio=0.5"), ("masked_autoencoder.mask_ratio=0.5", "mae=null")):
        assert "which is switched off" in problems(experiments, *order)[0]


def test_load_experiment__malformed_overrides_are_reported_with_the_rest(experiments: Path) -> None:
    assert len(problems(experiments, "seed", "mae.seed=-1")) == 2


@pytest.mark.parametrize(
    "overrides", [(), ("mae=null", "name=1e3", "image_encoder.pooling=mean", "optimizer.eps=1e-7")]
)
def test_load_experiment__resolved_yaml_loads_to_the_same(experiments: Path, overrides: tuple[str, ...]) -> None:
    first = load_experiment(experiments / "pretrain.yaml", overrides, PretrainExperiment)
    again = experiments / "again.yaml"
    again.write_text(first.resolved, encoding="utf-8")
    assert "!!python" not in first.resolved
    second = load_experiment(again, [], PretrainExperiment)
    assert second.experiment == first.experiment
    assert second.resolved == first.resolved
    assert second.base_diff == []


def test_load_experiment__enum_by_name(experiments: Path) -> None:
    assert load(experiments, "image_encoder.pooling=mean").contrastive.image_encoder.pooling is Pooling.mean
    assert "must be one of cls, mean" in problems(experiments, "image_encoder.pooling=max")[0]


def test_load_experiment__base_diff(experiments: Path) -> None:
    def diff(*overrides: str) -> list[str]:
        return load_experiment(experiments / "pretrain.yaml", overrides, PretrainExperiment).base_diff

    assert diff("seed=1") == [
        "name: (absent) -> chain",
        "mae.seed: 0 -> 1",
        "contrastive.seed: 0 -> 1",
    ]
    assert "mae: (section) -> null" in diff("mae=null")
    alone = load_experiment(experiments / "base.yaml", ["transform.image_size=32"], MaskedPretrainExperiment)
    assert alone.base_diff == ["transform.image_size: 224 -> 32"]


def test_load_experiment__entry_of_a_base_removed(experiments: Path) -> None:
    extra = f"data.sources.two={{files: [{experiments / 'pairs.parquet'}], captions: {{ko: ko}}}}"
    experiment = load(experiments, extra, "data.sources.one=null")
    assert list(experiment.contrastive.data.sources) == ["two"]


def test_find_schema(experiments: Path) -> None:
    (experiments / "sets.yaml").write_text("evaluation: {every_n_steps: 3}\n", encoding="utf-8")
    expected = {
        "pretrain": PretrainExperiment,
        "contrastive": ContrastiveExperiment,
        "mae": MaskedPretrainExperiment,
        "sets": EvaluationExperiment,
    }
    for name, schema in expected.items():
        assert find_schema(experiments / f"{name}.yaml", SCHEMAS) is schema
