"""Which networks a sample runs through, and on how many tokens: what operations and activations are counted from."""

from dataclasses import dataclass, replace

from kelip_lightning.config.experiment import ContrastiveExperiment, MaskedPretrainExperiment
from kelip_lightning.models.image_encoder import Activation, ImageEncoderConfig
from kelip_lightning.models.masked_autoencoder import MaskedAutoencoderVariant
from kelip_lightning.models.self_supervision import SelfSupervisionMethod
from kelip_lightning.planning.stage_plan import Stage, tokens_per_crop

CHANNELS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One transformer, run on one crop or one caption of a sample."""

    name: str
    times: int
    """Runs per image or pair."""
    tokens: int
    """Tokens through the blocks."""
    width: int
    hidden: int
    """Width inside an MLP."""
    depth: int
    outer_flops: int
    """Forward operations of the matrices outside the blocks, per run: patch embedding, projections, pixels."""
    input_values: int = 0
    """Values of the image that enters, per run; 0: no image."""
    quick_gelu: bool = False
    """Whether the MLPs use quick_gelu, which keeps one tensor more for the backward pass than gelu."""
    separate_qkv: bool = False
    """Whether queries, keys and values come from three matrices, each of which keeps its own copy of the input
    under autocast."""
    trained: bool = True
    """Whether there is a backward pass, for which activations are kept."""


def passes_of(stage: Stage) -> list[Pass]:
    """The passes of one sample of a stage, in the order in which they run."""
    return _masked_passes(stage) if isinstance(stage, MaskedPretrainExperiment) else _contrastive_passes(stage)


def patch_embedding_flops(size: int, encoder: ImageEncoderConfig) -> int:
    """2 N P D operations for the N patches of P values of a crop; dropped and masked patches are embedded too."""
    patches = (size // encoder.patch_size) ** 2
    return 2 * patches * _values_of(encoder.patch_size) * encoder.width


def _contrastive_passes(stage: ContrastiveExperiment) -> list[Pass]:
    text, transform = stage.text_encoder, stage.transform
    embed_dim = stage.dual_encoder.embed_dim
    global_tokens, local_tokens = tokens_per_crop(stage)
    sizes = [("global crop", transform.num_global_crops, transform.image_size, global_tokens)]
    if local_tokens is not None:
        sizes.append(("local crop", transform.num_local_crops, transform.local_size, local_tokens))
    caption = Pass(
        name="caption",
        times=1,
        tokens=stage.tokenizer.context_length,
        width=text.width,
        hidden=round(text.width * text.mlp_ratio),
        depth=text.depth,
        outer_flops=2 * text.width * embed_dim,
        quick_gelu=text.activation is Activation.quick_gelu,
        separate_qkv=True,
    )
    return [*(_crop(*size, stage.image_encoder, embed_dim) for size in sizes), caption, *_view_passes(stage)]


def _view_passes(stage: ContrastiveExperiment) -> list[Pass]:
    """The views of a self-supervised loss with its heads; BYOL's target, which drops no patch, without backward."""
    encoder, config, views = stage.image_encoder, stage.self_supervision, stage.transform.views.num_views
    if config.method is SelfSupervisionMethod.none:
        return []
    hidden, last = config.projection_width, config.projection_width * config.projection_dim
    tokens, _ = tokens_per_crop(stage)
    view = _crop("view", views, encoder.image_size, tokens, encoder)
    if config.method is SelfSupervisionMethod.simclr:
        return [_with_heads(view, encoder.width * hidden + hidden * hidden + last)]
    head = encoder.width * hidden + last
    whole = replace(view, name="view, target", tokens=1 + encoder.num_patches, input_values=0, trained=False)
    return [_with_heads(view, head + 2 * last), _with_heads(whole, head)]


def _with_heads(one: Pass, num_weights: int) -> Pass:
    """Two operations a weight of the heads more."""
    return replace(one, outer_flops=one.outer_flops + 2 * num_weights)


def _masked_passes(stage: MaskedPretrainExperiment) -> list[Pass]:
    encoder, decoder = stage.image_encoder, stage.masked_autoencoder
    visible, _ = tokens_per_crop(stage)
    patches, width = encoder.num_patches, decoder.decoder_width
    class_token = decoder.variant is not MaskedAutoencoderVariant.official
    into_decoder = 2 * visible * encoder.width * width
    to_pixels = 2 * patches * width * _values_of(encoder.patch_size)
    return [
        _crop("visible patches", 1, encoder.image_size, visible, encoder),
        Pass(
            name="decoder",
            times=1,
            tokens=class_token + patches,
            width=width,
            hidden=4 * width,
            depth=decoder.decoder_depth,
            outer_flops=into_decoder + to_pixels,
        ),
    ]


def _crop(name: str, times: int, size: int, tokens: int, encoder: ImageEncoderConfig, embed_dim: int = 0) -> Pass:
    return Pass(
        name=name,
        times=times,
        tokens=tokens,
        width=encoder.width,
        hidden=int(encoder.width * encoder.mlp_ratio),
        depth=encoder.depth,
        outer_flops=patch_embedding_flops(size, encoder) + 2 * encoder.width * embed_dim,
        input_values=_values_of(size),
        quick_gelu=encoder.activation is Activation.quick_gelu,
    )


def _values_of(side: int) -> int:
    return CHANNELS * side * side
