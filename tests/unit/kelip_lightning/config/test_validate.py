"""Every rule over several sections, broken once."""

from pathlib import Path

import pytest
import torch

from kelip_lightning.config import validate
from kelip_lightning.config.experiment import ContrastiveExperiment, PretrainExperiment
from kelip_lightning.config.load import check_heavy_rules, load_experiment
from kelip_lightning.errors import ConfigError
from kelip_lightning.models.config import ImageEncoderConfig, SelfSupervisionMethod
from kelip_lightning.models.image_encoder import ImageEncoder
from kelip_lightning.models.model_folder import save_image_encoder
from kelip_lightning.planning.stage_plan import make_stage_plan


def problems(folder: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_experiment(folder / "pretrain.yaml", overrides, PretrainExperiment)
    return caught.value.problems


BROKEN = [
    (["contrastive.data.global_batch_size=9", "contrastive.trainer.accumulate=2"], "use 8 or 10"),
    (["contrastive.data.global_batch_size=1"], "global_batch_size = 1 must be at least 2: a contrastive loss"),
    (["contrastive.loss.kind=sigmoid"], "contrastive.loss.kind = sigmoid learns a bias; SigLIP starts it at -10"),
    (["contrastive.dual_encoder.initial_logit_bias=-10"], "has no effect on contrastive.loss.kind = info_nce"),
    (
        ["contrastive.init.lock_image_encoder=true", "contrastive.image_encoder.drop_path_rate=0.1"],
        "drop_path_rate = 0.1 must be 0 with contrastive.init.lock_image_encoder",
    ),
    (["mae.trainer.strategy=fsdp"], "strategy = 'fsdp' must be one of auto, ddp, deepspeed_stage_1"),
    (
        ["mae.trainer.strategy=deepspeed_stage_2", "mae.optimizer.name=muon"],
        "mae.optimizer.name = muon needs whole matrices, and mae.trainer.strategy = deepspeed_stage_2 partitions them",
    ),
    (
        ["trainer.strategy=deepspeed_stage_1", "trainer.ema_decay=0.9"],
        "ema_decay = 0.9 is not kept in the checkpoints of contrastive.trainer.strategy = deepspeed_stage_1",
    ),
    (["trainer.precision=bf16-true", "trainer.ema_decay=0.9"], "ema_decay = 0.9 would not change in bfloat16"),
    (["mae.trainer.ema_decay=1"], "ema_decay = 1.0 must be in (0, 1) or null"),
    (["mae.data.sources={one: null}"], "mae.data.sources is empty"),
    (["mae.probe.every_n_steps=5"], "mae.probe has an interval, but no set; name one in mae.probe.sets, or remove"),
    (
        ["checkpoint.best_metric=eval/x/knn_top1"],
        "mae.checkpoint.best_metric = eval/x/knn_top1 needs a set in mae.probe.sets, as only probes evaluate MAE",
    ),
    (
        ["mae.probe.sets.x={label: kind, k: 0, train: {table: {files: [a.csv]}}, test: {table: {files: [b.csv]}}}"],
        "mae.probe.sets.x.k = 0 must be at least 1",
    ),
    (
        ["mae.probe.sets.x={label: a, train: {table: {files: [a], captions: {ko: a}}}, test: {table: {files: [b]}}}"],
        "table.captions has no effect, since a probe reads images and classes only; remove it",
    ),
    (["mae.probe.sets.x={label: kind}"], "mae.probe.sets.x.train"),
    (
        ["contrastive.projector.set=flags"],
        "contrastive.projector.set = flags must be a set of contrastive.ev",
    ),
    (
        ["contrastive.projector.set=flags", "contrastive.projector.max_images=0"],
        "set = flags has no effect with max_images = 0; remove one of them",
    ),
    (["contrastive.projector.max_images=9000"], "max_images = 9000 must be in [0, 5000]"),
    (["contrastive.transform.image_size=48"], "contrastive.transform.image_size = 48 must equal"),
    (["mae.transform.image_size=48"], "mae.transform.image_size = 48 must equal mae.image_encoder.image_size = 32"),
    (["contrastive.transform.local_size=20"], "must be a multiple of contrastive.image_encoder.patch_size = 16"),
    (["contrastive.transform.local_size=48"], "must not exceed contrastive.transform.image_size = 32"),
    (
        ["contrastive.data.resize_on_device=true", "contrastive.transform.strong.grayscale=0.2"],
        "contrastive.data.resize_on_device = true leaves the crops to the device, and contrastive.transform.strong aug",
    ),
    (
        [
            "contrastive.data.resize_on_device=true",
            "contrastive.self_supervision.method=simclr",
            "contrastive.transform.views.num_views=2",
        ],
        "and contrastive.transform.views.strong augments their pixels on the CPU: set resize_on_device to false, or",
    ),
    (["mae.masked_autoencoder.mask_ratio=0.9"], "must leave at least one patch visible and one masked"),
    (
        ["contrastive.data.captions={name: 0.5, keywords: 0.5, max_keywords: 9}"],
        "contrastive.tokenizer.context_length = 8 cannot hold",
    ),
    (["contrastive.data.captions={name: 0.5, keywords: 0.4}"], "must sum to 1"),
    (["contrastive.evaluation.retrieval.known.table.captions={fr: x}"], "language 'fr' is not known: use ko or en"),
    (["contrastive.evaluation.captions.both={table: {files: [F], captions: {ko: ko}}}"], "both ko and en"),
    (["mae.image_encoder.width=64"], "contrastive.image_encoder.width = 32 must equal mae.image_encoder.width = 64"),
    (["contrastive.init.image_encoder=somewhere"], "would be overridden by the encoder"),
    (
        ["contrastive.trainer.devices=2"],
        "contrastive.trainer.devices = 2 must equal mae.trainer.devices = 1, as one command starts the processes of "
        "both stages; trainer.devices=VALUE sets both",
    ),
    (["mae.trainer.num_nodes=2"], "contrastive.trainer.num_nodes = 1 must equal mae.trainer.num_nodes = 2"),
    (["contrastive.data.sources.one.files=[nowhere.parquet]"], "/nowhere.parquet'; check the path"),
    (["contrastive.data.captions.templates_file=nowhere.yaml"], "nowhere.yaml does not exist"),
    (["contrastive.tokenizer.file=nowhere.json"], "/nowhere.json does not exist"),
    (
        ["contrastive.evaluation.retrieval.known.table.files=[nowhere]"],
        "contrastive.evaluation.retrieval.known: no file matches",
    ),
    (["mae=null", "contrastive.init.image_encoder=nowhere"], "/nowhere holds no config.yaml"),
    (["contrastive.transform.local_scale_min=0.9"], "local_scale_min = 0.9 must not exceed local_scale_max"),
    (["mae.schedule.warmup_steps=4"], "mae.schedule.warmup_steps = 4 must be below max_steps = 4"),
    (["mae.trainer.precision=16"], "mae.trainer.precision = '16' must be one of auto, 32, bf16-mixed, bf16-true"),
    (["mae.optimizer.learning_rate=.inf"], "mae.optimizer.learning_rate = inf must be a finite number"),
    (["image_encoder.patch_size=0"], "image_encoder.patch_size = 0 must be at least 1"),
    (["name=a/b"], "is a folder name"),
    (["seed=-1"], "seed = -1 must be in [0, 4294967295]"),
]
VIEWS = "transform.views.num_views=2"
BYOL = [VIEWS, "self_supervision.method=byol"]
BROKEN += [
    ([VIEWS], "transform.views.num_views = 2, but contrastive.self_supervision.method = none uses no views"),
    (
        ["self_supervision.method=simclr"],
        "transform.views.num_views = 0, but contrastive.self_supervision.method = simclr compares",
    ),
    (["self_supervision.method=byol", "transform.views.num_views=3"], "compares exactly two views; set it to 2"),
    ([*BYOL, "init.lock_image_encoder=true"], "self_supervision.method = byol would train only its own heads"),
    (
        [*BYOL, "trainer.strategy=deepspeed_stage_3"],
        "strategy = deepspeed_stage_3 would cast",
    ),
    ([*BYOL, "trainer.precision=bf16-true"], "would not change under contrastive.trainer.precision = bf16-true"),
    ([*BYOL, "self_supervision.method=dino"], "self_supervision.method"),
]


@pytest.mark.parametrize(("overrides", "expected"), BROKEN)
def test_rules(experiments: Path, overrides: list[str], expected: str) -> None:
    given = [one.replace("[F]", f"[{experiments / 'pairs.parquet'}]") for one in overrides]
    found = problems(experiments, *given)
    assert any(expected in one for one in found), found
    assert all("\n" not in one for one in found)


def test_rules__regularisation_of_the_stages_may_differ(experiments: Path) -> None:
    overrides = ["contrastive.image_encoder.drop_path_rate=0.1", "contrastive.image_encoder.patch_drop_rate=0.5"]
    load_experiment(experiments / "pretrain.yaml", overrides, PretrainExperiment)


def test_rules__encoder_to_start_from(experiments: Path) -> None:
    config = ImageEncoderConfig(image_size=32, patch_size=16, width=32, depth=1, num_heads=2)
    folder = experiments / "image_encoder"
    save_image_encoder(folder, ImageEncoder(config), "card")
    override = f"init.image_encoder={folder}"
    load_experiment(experiments / "contrastive.yaml", [override], ContrastiveExperiment)
    with pytest.raises(ConfigError, match="holds another encoder"):
        load_experiment(experiments / "contrastive.yaml", [override, "image_encoder.depth=2"], ContrastiveExperiment)


def test_rules__machine(experiments: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch finds no GPU" in problems(experiments, "mae.trainer.accelerator=gpu")[0]
    load_experiment(
        experiments / "pretrain.yaml",
        ["trainer.accelerator=gpu", "data.sources.one.files=[nowhere]"],
        PretrainExperiment,
        on_this_machine=False,
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert "has 2 GPU(s)" in problems(experiments, "trainer.devices=4")[0]


def test_rules__those_that_need_timm_or_torch_run_after_all_others(
    experiments: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    heavy = ["image_encoder.timm_name=vit_tiny_patch16_225", "contrastive.trainer.accelerator=gpu"]
    assert problems(experiments, *heavy, "contrastive.data.global_batch_size=1") == [
        "contrastive.data.global_batch_size = 1 must be at least 2: a contrastive loss needs negatives"
    ]
    found = problems(experiments, *heavy)
    assert [one.split(" is ")[0] for one in found[:2]] == [
        "mae.image_encoder.timm_name = vit_tiny_patch16_225",
        "contrastive.image_encoder.timm_name = vit_tiny_patch16_225",
    ]
    assert "contrastive.trainer.accelerator = gpu, but torch finds no GPU; use auto or cpu" in found
    assert len(found) == 3


def test_check_heavy_rules__for_an_experiment_loaded_without_them(
    experiments: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    overrides = ["image_encoder.timm_name=resnet50", "trainer.accelerator=gpu"]
    loaded = load_experiment(experiments / "contrastive.yaml", overrides, ContrastiveExperiment, heavy=False)
    found = {}
    for here in (False, True):
        with pytest.raises(ConfigError) as caught:
            check_heavy_rules(loaded.experiment, on_this_machine=here)
        found[here] = caught.value.problems
    assert "image_encoder.timm_name = resnet50 is no Vision Transformer" in found[False][0]
    assert found[True] == [*found[False], "trainer.accelerator = gpu, but torch finds no GPU; use auto or cpu"]


def test_rules__deepspeed_must_be_installed(experiments: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate, "find_spec", lambda _name: None)
    found = problems(experiments, "mae.trainer.strategy=deepspeed_stage_1")
    assert "mae.trainer.strategy = deepspeed_stage_1 needs DeepSpeed, which is not installed" in found[0]


def test_rules__loggers_are_known_and_installed(experiments: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate, "find_spec", lambda _name: None)
    load_experiment(experiments / "pretrain.yaml", ["mae.trainer.loggers=[csv]"], PretrainExperiment)
    assert problems(experiments, "mae.trainer.loggers=[csv,wandb]") == [
        "mae.trainer.loggers: wandb is not installed; pip install 'kelip-lightning[wandb]', or leave it out"
    ]
    for names in ("tensorboard", "csv,csv"):
        found = problems(experiments, f"mae.trainer.loggers=[{names}]")
        assert "must hold each of csv, wandb, mlflow at most once; TensorBoard is always written" in found[0]


def _contrastive(folder: Path, overrides: list[str]) -> ContrastiveExperiment:
    return load_experiment(folder / "contrastive.yaml", overrides, ContrastiveExperiment).experiment


def test_rules__the_device_resizes_crops_without_augmentation(experiments: Path) -> None:
    overrides = ["data.resize_on_device=true", "contrastive.transform.views.strong.grayscale=0.5"]
    experiment = load_experiment(experiments / "pretrain.yaml", overrides, PretrainExperiment).experiment
    assert experiment.mae is not None
    assert experiment.mae.data.resize_on_device and experiment.contrastive.data.resize_on_device


def test_rules__simclr_may_use_deepspeed(experiments: Path) -> None:
    overrides = [VIEWS, "self_supervision.method=simclr", "trainer.strategy=deepspeed_stage_3"]
    assert _contrastive(experiments, overrides).self_supervision.method is SelfSupervisionMethod.simclr


def test_plan__counts_views_and_heads(experiments: Path) -> None:
    sizes = ["self_supervision.projection_width=10", "self_supervision.projection_dim=5"]
    plain = make_stage_plan(_contrastive(experiments, []), None)
    with_views = make_stage_plan(_contrastive(experiments, [*BYOL, *sizes]), None)
    assert with_views.images_forwarded - plain.images_forwarded == 2 * plain.samples_seen
    assert with_views.tokens_forwarded - plain.tokens_forwarded == 2 * plain.samples_seen * plain.tokens_per_global_crop
    head, predictor = 32 * 10 + 2 * 10 + 10 * 5, 5 * 10 + 2 * 10 + 10 * 5
    target = plain.parameters["image_encoder"] + head
    assert with_views.parameters == plain.parameters | {"self_supervision": head + predictor + target}
