"""The forward passes of one training sample and their floating-point operations (FLOPs).

`torch.utils.flop_counter` counts the forward passes of the real modules on the meta device, without memory and without
values. Its conventions are those of open_clip's table of model profiles: a multiply-add counts 2, only matrix products
count (no normalisation, softmax, embedding look-up or optimizer), and attention is dense (a causal mask saves nothing).
By formula follows what one sample on one device cannot show: a backward pass costs twice its forward pass, gradient
checkpointing repeats each forward pass, and the loss compares a sample with the whole global batch. The product that
resamples position embeddings is left out: it runs once per pass, not once per sample.

Reference: Chowdhery et al. 2022 (arXiv:2204.02311), app. B, for the factor 3 and model FLOPs utilisation.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kelip_lightning.config.experiment import ContrastiveExperiment, MaskedPretrainExperiment
from kelip_lightning.models.config import MaskedAutoencoderVariant, Pooling, SelfSupervisionMethod
from kelip_lightning.models.self_supervision import SelfSupervisedBranch
from kelip_lightning.planning.stage_plan import Stage, build_on_meta, tokens_per_crop

CHANNELS = 3
FORWARD_AND_BACKWARD = 3
RECOMPUTED = 4
"""Forward and backward with gradient checkpointing, which repeats every forward pass during the backward pass."""
_WEIGHT_PRODUCTS = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.convolution)
"""Products with weights; all others (batched) are those of attention."""
ONE_CROP = ("global crop", "caption", "visible patches", "decoder")
"""The passes of one image with its caption and no further crops or views."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One transformer on one crop or caption of a sample."""

    name: str
    times: int
    """Runs per image or pair."""
    tokens: int
    """Tokens through the blocks."""
    width: int
    hidden: int
    """Hidden width of an MLP."""
    depth: int
    input_values: int = 0
    """Values of the input image per run; 0: no image."""
    patch_values: int = 0
    """Those of its patches that are not dropped."""
    trained: bool = True
    """Whether there is a backward pass, for which activations are kept."""
    pooled: bool = False
    """Whether the last block computes the token that is pooled alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassFlops:
    """Operations of one pass."""

    name: str
    times: int
    """Runs per image or pair."""
    tokens: int
    linear: int
    """Weight matrices of the blocks, one run forward."""
    attention: int
    """Scores and weighted sums, one run forward."""
    outer: int
    """Weight matrices outside the blocks (patch embedding, projections, heads, pixels), one run forward."""
    forward: int
    """Sum of the three."""
    training: int
    """All runs of a sample, forward and, where the pass is trained, backward."""
    trained: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFlops:
    """Operations per image (MAE) or per pair (contrastive)."""

    passes: list[PassFlops]
    forward: int
    training: int
    """Forward and backward of every crop, view and caption, without the loss."""
    training_recomputed: int
    """The same with gradient checkpointing."""
    one_crop_training: int
    """One global crop with its caption, as in CLIP; for MAE the same as `training`."""
    loss_training: int
    """The matrix products of InfoNCE and NT-Xent, forward and backward; 0 for MAE. With loss.matmul_precision = tf32x3
    the hardware executes three times as many."""


def passes_of(stage: Stage) -> list[Pass]:
    """The passes of one sample of a stage, in the order in which they run."""
    if isinstance(stage, MaskedPretrainExperiment):
        return _masked_passes(stage)
    text, transform = stage.text_encoder, stage.transform
    global_tokens, local_tokens = tokens_per_crop(stage)
    passes = [_image_pass(stage, "global crop", transform.num_global_crops, transform.image_size, global_tokens)]
    if local_tokens is not None:
        passes.append(_image_pass(stage, "local crop", transform.num_local_crops, transform.local_size, local_tokens))
    caption = Pass(
        name="caption",
        times=1,
        tokens=stage.tokenizer.context_length,
        width=text.width,
        hidden=round(text.width * text.mlp_ratio),
        depth=text.depth,
        pooled=text.hf_model is None,
    )
    passes.append(caption)
    if stage.self_supervision.method is not SelfSupervisionMethod.none:
        size, num_views = stage.image_encoder.image_size, transform.views.num_views
        passes.append(view := _image_pass(stage, "view", num_views, size, global_tokens))
        if stage.self_supervision.method is SelfSupervisionMethod.byol:  # the target drops no patches
            tokens = 1 + stage.image_encoder.num_patches
            passes.append(
                replace(view, name="view, target", tokens=tokens, input_values=0, patch_values=0, trained=False)
            )
    return passes


def _masked_passes(stage: MaskedPretrainExperiment) -> list[Pass]:
    encoder, config = stage.image_encoder, stage.masked_autoencoder
    decoder = Pass(
        name="decoder",
        times=1,
        tokens=_class_tokens(stage) + encoder.num_patches,
        width=config.decoder_width,
        hidden=4 * config.decoder_width,
        depth=config.decoder_depth,
    )
    return [_image_pass(stage, "visible patches", 1, encoder.image_size, tokens_per_crop(stage)[0]), decoder]


def _image_pass(stage: Stage, name: str, times: int, size: int, tokens: int) -> Pass:
    encoder = stage.image_encoder
    return Pass(
        name=name,
        times=times,
        tokens=tokens,
        width=encoder.width,
        hidden=int(encoder.width * encoder.mlp_ratio),
        depth=encoder.depth,
        input_values=CHANNELS * size * size,
        patch_values=(tokens - _class_tokens(stage)) * _patch_values(stage),
        pooled=isinstance(stage, ContrastiveExperiment) and encoder.pooling is Pooling.cls,
    )


def count_flops(stage: Stage) -> StageFlops:
    """The operations of one sample of a stage."""
    if isinstance(stage, MaskedPretrainExperiment):
        passes, loss = list(_masked_flops(stage)), 0
    else:
        passes, loss = list(_contrastive_flops(stage)), _loss_flops(stage)
    return StageFlops(
        passes=passes,
        forward=sum(one.times * one.forward for one in passes),
        training=sum(one.training for one in passes),
        training_recomputed=sum(one.times * one.forward * (RECOMPUTED if one.trained else 1) for one in passes),
        one_crop_training=FORWARD_AND_BACKWARD * sum(one.forward for one in passes if one.name in ONE_CROP),
        loss_training=FORWARD_AND_BACKWARD * loss,
    )


def evaluation_flops(stage: ContrastiveExperiment, training: StageFlops) -> tuple[int, int]:
    """Forward operations of an image and of a caption in an evaluation, which drops no patch.

    Args:
        stage: A contrastive stage.
        training: Its operations in training, equal to those in evaluation without patch dropout.
    """
    if stage.image_encoder.patch_drop_rate:
        training = count_flops(replace(stage, image_encoder=replace(stage.image_encoder, patch_drop_rate=0.0)))
    forward = {one.name: one.forward for one in training.passes}
    return forward["global crop"], forward["caption"]


def _contrastive_flops(stage: ContrastiveExperiment) -> Iterator[PassFlops]:
    model = build_on_meta(stage)
    encoder, branch = model.image_encoder, getattr(model, "self_supervision", None)
    heads: dict[str, Callable[[Tensor], object]] = {
        "global crop": model.image_projection,
        "local crop": model.image_projection,
        "caption": model.text_projection,
    }
    if isinstance(branch, SelfSupervisedBranch):
        heads |= {"view": branch.transform, "view, target": getattr(branch, "target_head", branch.head)}
    for one in passes_of(stage):
        outer = sum(_count(heads[one.name], 1, one.width))
        if one.name == "caption":
            blocks = _count(model.text_encoder, 1, one.tokens, dtype=torch.int64)
        else:
            outer += sum(
                _count(encoder.vit.patch_embed.proj, 1, one.tokens - _class_tokens(stage), _patch_values(stage))
            )
            run = partial(encoder.run_blocks, num_outputs=1 if one.pooled else None)
            blocks = _count(run, 1, one.tokens, one.width)
        yield _pass_flops(one, blocks, outer)


def _masked_flops(stage: MaskedPretrainExperiment) -> Iterator[PassFlops]:
    model, (visible, decoder) = build_on_meta(stage), passes_of(stage)
    images = (1, CHANNELS, stage.image_encoder.image_size, stage.image_encoder.image_size)
    noise = torch.zeros(1, stage.image_encoder.num_patches, device="meta")
    patches = 1, visible.tokens - _class_tokens(stage), _patch_values(stage)
    embedding = sum(_count(model.encoder.vit.patch_embed.proj, *patches))
    visible_flops = _pass_flops(visible, _count(model.encoder.run_blocks, 1, visible.tokens, visible.width), embedding)
    yield visible_flops
    blocks = _count(model.get_submodule("decoder_blocks"), 1, decoder.tokens, decoder.width)
    whole = sum(_count(partial(model, noise_BN=noise), *images))
    yield _pass_flops(decoder, blocks, whole - visible_flops.forward - sum(blocks))


def _class_tokens(stage: Stage) -> int:
    """Class tokens among those of an image; the official MAE drops it before the blocks."""
    if isinstance(stage, MaskedPretrainExperiment):
        return int(stage.masked_autoencoder.variant is not MaskedAutoencoderVariant.official)
    return 1


def _patch_values(stage: Stage) -> int:
    return CHANNELS * stage.image_encoder.patch_size**2


def _count(network: Callable[[Tensor], object], *shape: int, dtype: torch.dtype = torch.float32) -> tuple[int, int]:
    """Operations of the weights and of attention in a forward pass on an input of this shape."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(shape, dtype=dtype, device="meta"))
    counts = counter.get_flop_counts().get("Global", {})
    weights = sum(counts.get(operation, 0) for operation in _WEIGHT_PRODUCTS)
    return weights, counter.get_total_flops() - weights


def _pass_flops(one: Pass, blocks: tuple[int, int], outer: int) -> PassFlops:
    linear, attention = blocks
    forward = linear + attention + outer
    return PassFlops(
        name=one.name,
        times=one.times,
        tokens=one.tokens,
        linear=linear,
        attention=attention,
        outer=outer,
        forward=forward,
        training=(FORWARD_AND_BACKWARD if one.trained else 1) * one.times * forward,
        trained=one.trained,
    )


def _loss_flops(stage: ContrastiveExperiment) -> int:
    """Forward operations of the loss per pair, with G pairs in the global batch and 2 E operations a logit.

    InfoNCE compares each crop of a pair with G captions, and its caption with G crops; the number of chunks
    (`trainer.accumulate`) changes nothing. NT-Xent compares each of two views with 2 G views.
    """
    negatives = stage.data.global_batch_size
    crops = stage.transform.num_global_crops + stage.transform.num_local_crops
    flops = 4 * crops * negatives * stage.dual_encoder.embed_dim
    if stage.self_supervision.method is SelfSupervisionMethod.simclr:
        flops += 2 * 2 * negatives * 2 * stage.self_supervision.projection_dim
    return flops


def training_operations(stage: Stage) -> int:
    """The operations of all training steps of a stage, the loss included."""
    return stage.schedule.max_steps * stage.data.global_batch_size * operations_per_sample(stage)


def operations_per_sample(stage: Stage) -> int:
    """The operations of training on one sample of a stage, the loss included."""
    flops = count_flops(stage)
    return flops.training + flops.loss_training
