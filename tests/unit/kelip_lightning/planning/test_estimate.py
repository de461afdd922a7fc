"""Estimates of whole experiments against real losses, steps, optimizers and files."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from data_modules.benchmarks.config import EvaluationConfig, RetrievalSetConfig, TableConfig
from data_modules.images.config import ViewConfig
from data_modules.records import ImageTextBatch
from data_modules.text.tokenizer import BilingualTokenizer
from kelip_lightning.config.experiment import ContrastiveExperiment, MaskedPretrainExperiment, PretrainExperiment
from kelip_lightning.losses.config import MatmulPrecision
from kelip_lightning.models.config import SelfSupervisionMethod
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.image_encoder import ImageEncoder
from kelip_lightning.models.self_supervision import build_branch
from kelip_lightning.modules.contrastive import ContrastiveModule
from kelip_lightning.optim.optimizers import build_optimizer
from kelip_lightning.planning.estimate import estimate

Contrastive = Callable[..., ContrastiveExperiment]
BuildModel = Callable[[ContrastiveExperiment], DualEncoder]

SMALL = {"width": 64, "depth": 2, "num_heads": 4}


def test_estimate__stage_by_stage(contrastive: Contrastive, masked: Callable[..., MaskedPretrainExperiment]) -> None:
    image = SMALL | {"image_size": 32, "patch_size": 16}
    decoder = {"decoder_width": 16, "decoder_depth": 1, "decoder_num_heads": 2}
    pairs = contrastive(image=image, text=SMALL, vocab_size=300, global_batch_size=8)
    images = masked(image, decoder)
    images.data.global_batch_size = 8
    experiment = PretrainExperiment(name="planned", mae=images, contrastive=pairs)
    stages = estimate(experiment, gpu="h200", utilisation=0.1, tile=4)
    assert list(stages) == ["mae", "contrastive"]
    mae, second = stages["mae"], stages["contrastive"]
    assert list(mae.parameter_sums) == ["all"]
    assert list(second.parameter_sums) == ["image_tower", "text_tower", "all"]
    assert second.parameter_sums["all"] == second.plan.num_parameters
    assert mae.contrastive_loss is None
    assert mae.evaluation is None
    assert second.throughput.gpu.startswith("H200")
    # Four patches of 16 x 16 x 3 values, eight images: prediction, target, error.
    assert mae.memory[0].loss == 3 * 8 * 4 * 768 * 4
    for one in second.memory:
        assert one.total == one.state.total + one.activations + one.batch + one.loss
        assert one.total - one.total_checkpointed == one.activations - one.activations_checkpointed
        assert one.fits


def test_estimate__loss_in_chunks(contrastive: Contrastive) -> None:
    experiment = contrastive(image=SMALL, text=SMALL, vocab_size=300, global_batch_size=4096)
    whole = estimate(experiment)["contrastive"]
    experiment.loss.max_logits_per_pair = 64
    tiled = estimate(experiment)["contrastive"]
    assert tiled.tile == 64
    for one, other in zip(whole.memory, tiled.memory, strict=True):
        # Two matrices of logits: on GPUs with TF32 the gradient is split in two.
        assert one.total - other.total == one.loss - other.loss == 2 * 4 * 4096 * (4096 - 64)


def test_estimate__products_of_the_loss_follow_its_precision(contrastive: Contrastive) -> None:
    experiment = contrastive(image=SMALL, text=SMALL, vocab_size=300, global_batch_size=4096)
    shares, losses = {}, {}
    for precision in MatmulPrecision:
        experiment.loss.matmul_precision = precision
        stage = estimate(experiment)["contrastive"]
        shares[precision], losses[precision] = stage.throughput.loss_share, stage.memory[0].loss
    assert shares[MatmulPrecision.auto] == shares[MatmulPrecision.tf32x3] < shares[MatmulPrecision.float32]
    assert losses[MatmulPrecision.auto] == losses[MatmulPrecision.tf32x3] > losses[MatmulPrecision.float32]


def peak_bytes(work: Callable[[], object]) -> int:
    """Peak of the bytes allocated while `work` runs, above those before, from the allocator's events."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = [one for one in profiler.profiler.kineto_results.events() if one.name() == "[memory]"]
    allocated = torch.tensor([one.nbytes() for one in sorted(events, key=lambda one: one.start_ns())])
    return int(allocated.cumsum(0).max())


@pytest.mark.parametrize("method", [SelfSupervisionMethod.none, SelfSupervisionMethod.simclr])
def test_estimate__loss_and_crops_of_a_step_in_chunks_are_what_is_allocated(
    method: SelfSupervisionMethod,
    contrastive: Contrastive,
    dual_encoder: BuildModel,
    tiny_tokenizer: BilingualTokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With towers this small, logits and crops are nearly all that a step allocates."""
    tiny, batch, accumulate = {"width": 4, "depth": 1, "num_heads": 1}, 1024, 8
    experiment = contrastive(
        image=tiny | {"image_size": 16, "patch_size": 16},
        text=tiny,
        transform={"views": ViewConfig(num_views=2 if method is SelfSupervisionMethod.simclr else 0)},
        trainer={"precision": "32", "accumulate": accumulate},
        self_supervision={"method": method, "projection_width": 4, "projection_dim": 4},
        embed_dim=4,
        context_length=3,
        vocab_size=300,
        global_batch_size=batch,
    )
    experiment.loss.matmul_precision = MatmulPrecision.float32  # as on the CPU that measures
    model = dual_encoder(experiment)
    branch = build_branch(model.image_encoder, experiment.self_supervision)
    module = ContrastiveModule(
        model, tiny_tokenizer, experiment.loss, experiment.optimizer, experiment.schedule, accumulate, branch
    )
    monkeypatch.setattr(module, "log_dict", lambda *_: None)
    num_views = experiment.transform.views.num_views

    def step() -> object:
        crops = torch.zeros(1 + num_views, batch, 3, 16, 16, dtype=torch.uint8)
        pairs = ImageTextBatch(
            global_crops=crops[:1],
            local_crops=crops[:0],
            views=crops[1:],
            tokens=torch.full((batch, 3), 299),
            languages=torch.zeros(batch, dtype=torch.long),
            sample_ids=torch.arange(batch),
            sample_seeds=torch.arange(batch),
            captions=[],
        )
        return module.training_step(pairs, 0)

    measured = peak_bytes(step)
    memory = estimate(experiment)["contrastive"].memory[0]
    crops = (1 + num_views) * batch * 3 * 16 * 16
    assert memory.loss + crops == pytest.approx(measured, rel=0.05)
    assert memory.batch == crops


def test_estimate__does_not_fit(contrastive: Contrastive) -> None:
    (stage,) = estimate(contrastive(), gpu="a100").values()  # 32,768 pairs on one GPU
    assert not any(one.fits or one.fits_checkpointed for one in stage.memory)
    (smaller,) = estimate(contrastive(global_batch_size=4096), gpu="a100").values()
    assert [(one.fits, one.fits_checkpointed) for one in smaller.memory] == [(False, True)] * 4


def test_estimate__evaluations_are_counted(contrastive: Contrastive) -> None:
    experiment = contrastive(image=SMALL, text=SMALL, vocab_size=300)
    experiment.schedule.max_steps = 10
    table = TableConfig(files=["absent.parquet"], captions={"ko": "ko"})
    retrieval = {"one": RetrievalSetConfig(table=table)}
    for every, times in ((3, 5), (5, 3), (100, 2)):  # before training, every n steps, after the last
        experiment.evaluation = EvaluationConfig(every_n_steps=every, retrieval=retrieval)
        evaluation = estimate(experiment)["contrastive"].evaluation
        assert evaluation is not None
        assert evaluation.times == times


@pytest.mark.parametrize("decay", [None, 0.99])
def test_estimate__checkpoint_has_the_size_of_a_real_one(
    tmp_path: Path,
    decay: float | None,
    contrastive: Contrastive,
    dual_encoder: BuildModel,
) -> None:
    experiment = contrastive(image=SMALL, text=SMALL, vocab_size=3000, trainer={"precision": "32", "ema_decay": decay})
    model = dual_encoder(experiment)
    optimizer = build_optimizer(model, experiment.optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    saved = {"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()]}
    if decay is not None:  # Lightning's WeightAveraging saves the average as the weights, and the weights beside it
        saved["current_model_state"] = {name: one.clone() for name, one in model.state_dict().items()}
    torch.save(saved, tmp_path / "one.ckpt")
    disk = estimate(experiment)["contrastive"].disk
    assert disk.checkpoint == pytest.approx((tmp_path / "one.ckpt").stat().st_size, rel=0.03)
    assert disk.exported == sum(one.nbytes for one in model.state_dict().values() if one.is_floating_point())
    assert disk.whole_run >= 3 * disk.checkpoint + disk.exported


@pytest.mark.parametrize("method", [SelfSupervisionMethod.simclr, SelfSupervisionMethod.byol])
def test_estimate__heads_and_target_are_in_checkpoints_and_not_in_exports(
    contrastive: Contrastive, method: SelfSupervisionMethod
) -> None:
    sections = {"image": SMALL, "text": SMALL, "vocab_size": 300, "trainer": {"precision": "32"}}
    views = {"views": ViewConfig(num_views=2)}
    experiment = contrastive(**sections, transform=views, self_supervision={"method": method, "projection_width": 128})
    branch = build_branch(ImageEncoder(experiment.image_encoder), experiment.self_supervision)
    assert branch is not None
    trained = sum(one.nbytes for one in branch.parameters() if one.requires_grad)
    target = sum(one.nbytes for one in branch.parameters() if not one.requires_grad)
    assert (target > 0) == (method is SelfSupervisionMethod.byol)
    plain, found = (estimate(one)["contrastive"] for one in (contrastive(**sections), experiment))
    assert found.disk.exported == plain.disk.exported
    assert found.disk.checkpoint - plain.disk.checkpoint == 3 * trained + target  # Adam's two moments
    ddp, before = found.memory[0].state, plain.memory[0].state
    assert ddp.weights - before.weights == trained + target
    assert ddp.gradients - before.gradients == trained
    assert found.throughput.crops_per_second_per_node == pytest.approx(found.throughput.samples_per_second * 3)
    assert found.contrastive_loss is not None
    assert plain.contrastive_loss is not None
    # Twice the rows and twice the columns for two views of every image.
    times = 4 if method is SelfSupervisionMethod.simclr else 1
    assert found.contrastive_loss.full == times * plain.contrastive_loss.full
