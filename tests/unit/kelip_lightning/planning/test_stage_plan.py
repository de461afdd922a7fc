"""Derived values, computed by hand for a small experiment."""

from pathlib import Path

import pytest
import yaml

from data_modules.errors import DataError
from kelip_lightning.config.experiment import MaskedPretrainExperiment, PretrainExperiment
from kelip_lightning.config.load import load_experiment
from kelip_lightning.models.image_encoder import ImageEncoder
from kelip_lightning.models.masked_autoencoder import MaskedAutoencoder
from kelip_lightning.planning import stage_plan
from kelip_lightning.planning.stage_plan import check_loaders, count_parameters, make_plan


def test_make_plan(experiments: Path) -> None:
    overrides = ["trainer.precision=32", "contrastive.trainer.accumulate=2", "schedule.warmup_steps=1"]
    experiment = load_experiment(experiments / "pretrain.yaml", overrides, PretrainExperiment).experiment
    plan = make_plan(experiment, {"mae": 16, "contrastive": 20})
    mae, contrastive = plan.stages["mae"], plan.stages["contrastive"]
    assert (mae.batch_size_per_device, mae.chunk_size) == (8, 8)
    assert (contrastive.batch_size_per_device, contrastive.chunk_size) == (8, 4)
    assert contrastive.precision == "32-true"
    assert (mae.samples_seen, mae.epochs, mae.steps_per_epoch) == (32, 2.0, 2.0)
    assert (contrastive.epochs, contrastive.steps_per_epoch, contrastive.warmup_steps) == (1.6, 2.5, 1)
    # 32 px in patches of 16: 4 patches, of which MAE pre-training hides 3; a local crop of 16 px is one patch.
    assert (mae.tokens_per_global_crop, contrastive.tokens_per_global_crop) == (2, 5)
    assert contrastive.tokens_per_local_crop == 2
    assert contrastive.images_forwarded == 32 * (2 + 1)
    assert contrastive.tokens_forwarded == 32 * (2 * 5 + 1 * 2)
    assert contrastive.peak_learning_rate == experiment.contrastive.optimizer.learning_rate
    assert plan.disk_bytes > 2**26
    assert yaml.safe_load(yaml.safe_dump(plan.to_dict())) == plan.to_dict()


def test_check_loaders__refuses_before_a_run_what_does_not_fit(
    experiments: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = ["contrastive.data.num_workers=2", "mae.data.num_workers=0"]
    experiment = load_experiment(experiments / "pretrain.yaml", workers, PretrainExperiment).experiment
    plan = make_plan(experiment)
    # 8 pairs of 2 crops of 32 px and one of 16: two processes with 4 batches each, and the one that is trained on.
    assert plan.shared_memory_bytes == (2 * 4 + 1) * 8 * 3 * (2 * 32**2 + 16**2)
    check_loaders(experiment, plan)
    seen: list[list[int]] = []
    monkeypatch.setattr(stage_plan, "check_shared_memory", lambda of_ranks: seen.append(list(of_ranks)))
    experiment.contrastive.trainer.devices = 4
    experiment.contrastive.trainer.num_nodes = 3
    check_loaders(experiment, plan)
    assert seen == [[plan.shared_memory_bytes] * 4]
    experiment.contrastive.data.num_workers = 40
    experiment.contrastive.data.prefetch_megabytes = 2
    with pytest.raises(DataError, match=r"^contrastive\.data\.prefetch_megabytes = 2 is less than one batch"):
        check_loaders(experiment, plan)


def test_make_plan__epochs_stay_open_without_data(experiments: Path) -> None:
    experiment = load_experiment(experiments / "pretrain.yaml", ["mae=null"], PretrainExperiment).experiment
    plan = make_plan(experiment)
    assert list(plan.stages) == ["contrastive"]
    assert plan.stages["contrastive"].epochs is None


def test_count_parameters__equals_the_real_model_s(experiments: Path) -> None:
    stage = load_experiment(experiments / "mae.yaml", [], MaskedPretrainExperiment).experiment
    model = MaskedAutoencoder(ImageEncoder(stage.image_encoder), stage.masked_autoencoder)
    counts = count_parameters(stage)
    assert sum(counts.values()) == sum(one.numel() for one in model.parameters())
    assert counts["image_encoder"] == sum(one.numel() for one in model.encoder.parameters())
