"""Floating-point operations of training, in closed form.

Conventions, those of `torch.utils.flop_counter` and of open_clip's table of model profiles: a multiply-add counts 2,
only matrix products count (no normalisation, no softmax, no embedding look-up, no optimizer), attention is dense
(a causal mask saves nothing), and a backward pass costs twice its forward pass. The product that resamples positions
is left out: it comes once a pass, not once a sample.

Exact for the forward passes; the backward pass of the patch embedding needs no gradient of the image, so that torch
counts `patch_embedding` once less there. The tests compare both with torch's counter on the real modules.

Reference: Kaplan et al. 2020 (arXiv:2001.08361), sec. 2.1, for operations of a transformer by its dimensions;
Chowdhery et al. 2022 (arXiv:2204.02311), app. B, for the factor 3 and model FLOPs utilisation.
"""

from dataclasses import dataclass, replace

from kelip_lightning.config.experiment import ContrastiveExperiment
from kelip_lightning.models.self_supervision import SelfSupervisionMethod
from kelip_lightning.planning.passes import Pass, passes_of
from kelip_lightning.planning.stage_plan import Stage

FORWARD_AND_BACKWARD = 3
"""Forward once, backward twice."""
RECOMPUTED = 4
"""The same with every forward pass repeated during the backward pass (gradient checkpointing)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassFlops:
    """Operations of one pass; forward, one run."""

    name: str
    times: int
    """Runs per image or pair."""
    tokens: int
    linear: int
    """Matrices of the blocks."""
    attention: int
    """Scores and weighted sums."""
    outer: int
    """Matrices outside the blocks."""
    forward: int
    """One run, forward."""
    training: int
    """All runs of a sample, forward and, where the pass is trained, backward."""
    trained: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFlops:
    """Operations per image (MAE) or per pair (contrastive)."""

    passes: list[PassFlops]
    forward: int
    training: int
    """Forward and backward of every crop, view and caption; the loss is apart."""
    training_recomputed: int
    """The same with gradient checkpointing."""
    one_crop_training: int
    """One global crop with its caption, as in CLIP; in MAE pre-training as `training`."""
    loss_training: int
    """The matrix products of InfoNCE and NT-Xent, forward and backward; 0 for MAE. With loss.matmul_precision =
    tf32x3 the hardware does three times as many."""


def count_flops(stage: Stage) -> StageFlops:
    """The operations of one sample of a stage."""
    passes = [pass_flops(one) for one in passes_of(stage)]
    forward = sum(one.times * one.forward for one in passes)
    once = forward
    if isinstance(stage, ContrastiveExperiment):
        once = sum(one.forward for one in passes if one.name in ("global crop", "caption"))
    return StageFlops(
        passes=passes,
        forward=forward,
        training=sum(one.training for one in passes),
        training_recomputed=sum(one.times * one.forward * (RECOMPUTED if one.trained else 1) for one in passes),
        one_crop_training=FORWARD_AND_BACKWARD * once,
        loss_training=FORWARD_AND_BACKWARD * (info_nce_flops(stage) + nt_xent_flops(stage)),
    )


def pass_flops(one: Pass) -> PassFlops:
    """Operations of one run.

    With T tokens, width D, MLP width H and L blocks: linear 2 T D (4 D + 2 H) L, attention 4 T^2 D L.
    """
    linear = 2 * one.tokens * one.width * (4 * one.width + 2 * one.hidden) * one.depth
    attention = 4 * one.tokens**2 * one.width * one.depth
    forward = linear + attention + one.outer_flops
    return PassFlops(
        name=one.name,
        times=one.times,
        tokens=one.tokens,
        linear=linear,
        attention=attention,
        outer=one.outer_flops,
        forward=forward,
        training=(FORWARD_AND_BACKWARD if one.trained else 1) * one.times * forward,
        trained=one.trained,
    )


def evaluation_flops(stage: ContrastiveExperiment) -> tuple[int, int]:
    """Forward operations of an image and of a caption in an evaluation, where no patch is dropped."""
    whole = replace(stage, image_encoder=replace(stage.image_encoder, patch_drop_rate=0.0))
    forward = {one.name: pass_flops(one).forward for one in passes_of(whole)}
    return forward["global crop"], forward["caption"]


def info_nce_flops(stage: Stage) -> int:
    """Forward operations of the loss per pair: 4 G E a crop.

    A pair's image is compared with G captions and its caption with G images, 2 E operations each; G is the global
    batch.
    """
    if not isinstance(stage, ContrastiveExperiment):
        return 0
    crops = stage.transform.num_global_crops + stage.transform.num_local_crops
    return 4 * crops * negatives(stage) * stage.dual_encoder.embed_dim


def nt_xent_flops(stage: Stage) -> int:
    """Forward operations of SimCLR's loss per pair: each of two views with 2 G views, 2 E operations each."""
    if (
        not isinstance(stage, ContrastiveExperiment)
        or stage.self_supervision.method is not SelfSupervisionMethod.simclr
    ):
        return 0
    return 2 * 2 * negatives(stage) * 2 * stage.self_supervision.projection_dim


def negatives(stage: Stage) -> int:
    """Pairs that a pair is compared with, itself included: the global batch, in however many chunks it is taken."""
    return stage.data.global_batch_size
