"""Settings of the models."""

from dataclasses import dataclass, field
from enum import Enum

from data_modules.config_roles import above, at_least, between, check_ranges


class Pooling(Enum):
    """Pooling of tokens into one feature."""

    cls = "cls"
    mean = "mean"


class Activation(Enum):
    """The non-linearity of the MLPs; `quick_gelu` is CLIP's and KELIP's x * sigmoid(1.702 x)."""

    gelu = "gelu"
    quick_gelu = "quick_gelu"


class PositionResampling(Enum):
    """Resampling of position embeddings for other image sizes."""

    timm = "timm"
    official = "official"


@dataclass(kw_only=True, slots=True)
class ImageEncoderConfig:
    """Dimensions of the Vision Transformer (defaults: ViT-B/32 as in the paper)."""

    image_size: int = field(default=224, metadata=at_least(1))
    """Side in pixels for which position embeddings are stored; other sizes resample them."""
    patch_size: int = field(default=32, metadata=at_least(1))
    """Side of a patch in pixels."""
    width: int = field(default=768, metadata=at_least(1))
    """Token width."""
    depth: int = field(default=12, metadata=at_least(1))
    """Number of transformer blocks."""
    num_heads: int = field(default=12, metadata=at_least(1))
    """Attention heads; must divide width."""
    mlp_ratio: float = field(default=4.0, metadata=above(0))
    """Hidden width of an MLP over the token width."""
    pooling: Pooling = Pooling.cls
    """cls: the class token (paper); mean: the mean of the patch tokens."""
    activation: Activation = Activation.quick_gelu
    """Non-linearity of the MLPs (paper: quick_gelu)."""
    pre_norm: bool = True
    """A LayerNorm before the blocks and no bias in the patch embedding (paper: yes)."""
    position_resampling: PositionResampling = PositionResampling.timm
    """timm: bicubic with antialiasing; official: as the official KELIP code, set when its weights are loaded."""
    timm_name: str | None = None
    """A Vision Transformer of timm by name, for example `vit_small_patch16_224`, for more than the sizes (register
    tokens, layer scale, ...); patch_size, width, depth, num_heads, mlp_ratio, activation and pre_norm must be that
    model's own. Null: the plain one of these sizes."""
    drop_path_rate: float = field(default=0.0, metadata=between(0, 1, "left"))
    """Stochastic depth of the last block, in [0, 1); earlier blocks get less, the first none."""
    dropout_rate: float = field(default=0.0, metadata=between(0, 1, "left"))
    """Dropout of what each attention and MLP adds to the tokens, in [0, 1)."""
    patch_drop_rate: float = field(default=0.0, metadata=between(0, 1, "left"))
    """Share of patch tokens dropped in contrastive training, in [0, 1) (FLIP, arXiv:2212.00794), of global crops and of
    the views of a self-supervised loss; local crops and evaluation keep all patches."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size = {self.image_size} must be a multiple of patch_size = {self.patch_size}; change one"
            )
        if self.width % self.num_heads or self.width % 4:
            raise ValueError(
                f"width = {self.width} must be a multiple of num_heads = {self.num_heads} and of 4; change one"
            )
        # Whether timm has this model, and of these sizes, is checked by `image_encoder.timm_problem`.
        if self.timm_name is not None and self.position_resampling is PositionResampling.official:
            raise ValueError("position_resampling = official belongs to KELIP's own encoder; use timm with timm_name")

    @property
    def num_patches(self) -> int:
        """Patches of an image of the stored size."""
        return (self.image_size // self.patch_size) ** 2


REGULARISATION = ("drop_path_rate", "dropout_rate", "patch_drop_rate")
"""Fields that affect training but not weights: they may differ between the stages."""


class TextPooling(Enum):
    """Token or tokens that the feature of a caption is read from."""

    end = "end"
    mean = "mean"
    first = "first"


@dataclass(kw_only=True, slots=True)
class TextEncoderConfig:
    """Dimensions of the text transformer (defaults: as in the paper)."""

    width: int = field(default=512, metadata=at_least(1))
    """Token width."""
    depth: int = field(default=12, metadata=at_least(1))
    """Number of transformer blocks."""
    num_heads: int = field(default=8, metadata=at_least(1))
    """Attention heads; must divide width."""
    mlp_ratio: float = field(default=4.0, metadata=above(0))
    """Hidden width of an MLP over the token width."""
    activation: Activation = Activation.quick_gelu
    """Non-linearity of the MLPs (paper: quick_gelu); a Hugging Face model keeps its own."""
    pooling: TextPooling = TextPooling.end
    """end: the end token (paper); mean (of all tokens but the padding) and first: for a Hugging Face model."""
    hf_model: str | None = None
    """A Hugging Face text model instead of CLIP's, for example `FacebookAI/xlm-roberta-base`: a name on the Hub or a
    folder with a config.json; width, depth, num_heads and mlp_ratio must be that model's own. Null: CLIP's."""
    hf_weights: bool = False
    """Whether training starts from the trained weights of hf_model, which needs its tokenizer in tokenizer.file."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.width % self.num_heads:
            raise ValueError(f"width = {self.width} must be a multiple of num_heads = {self.num_heads}; change one")
        if self.hf_model is None and self.pooling is not TextPooling.end:
            raise ValueError(f"pooling = {self.pooling.name} needs hf_model; CLIP's own text encoder pools at the end")
        if self.hf_model is None and self.hf_weights:
            raise ValueError("hf_weights = true needs hf_model, the model with these weights")


@dataclass(kw_only=True, slots=True)
class DualEncoderConfig:
    """The joint space."""

    embed_dim: int = field(default=512, metadata=at_least(1))
    """Width of the joint space (paper: 512)."""
    initial_temperature: float = field(default=0.07, metadata=between(0, 1, "right"))
    """exp(-logit_scale) at the start (paper: 0.07)."""
    max_logit_scale: float = field(default=100.0, metadata=above(0))
    """Upper bound of exp(logit_scale); the parameter is clamped after each step and keeps its gradient (CLIP: 100)."""
    initial_logit_bias: float | None = None
    """Initial value of the learned bias, needed with loss.kind = sigmoid (SigLIP: -10); must be null with info_nce."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.initial_temperature * self.max_logit_scale < 1:
            raise ValueError(
                f"initial_temperature = {self.initial_temperature} must be at least 1 / max_logit_scale = "
                f"{1 / self.max_logit_scale:.4g}, the lowest that training allows; change one"
            )


class MaskedAutoencoderVariant(Enum):
    """Variant of the masked autoencoder."""

    he = "he"
    official = "official"


@dataclass(kw_only=True, slots=True)
class MaskedAutoencoderConfig:
    """Masking and decoder (defaults: He et al. 2022)."""

    variant: MaskedAutoencoderVariant = MaskedAutoencoderVariant.he
    """he: as He et al. 2022; official: as the code that ships with the official KELIP, without class token in the
    encoder, with a causal decoder and a final tanh. The default is he: its decoder sees every patch, and it trains the
    class token and every other exported weight; no metric of the official one is published."""

    mask_ratio: float = field(default=0.75, metadata=between(0, 1, "neither"))
    """Share of patches hidden from the encoder, in (0, 1) (paper: 0.75 "following MAE")."""
    norm_pix_loss: bool = True
    """Whether each target patch is standardised by its own mean and standard deviation."""
    decoder_width: int = field(default=512, metadata=at_least(1))
    """Token width of the decoder; a multiple of 4 and of decoder_num_heads."""
    decoder_depth: int = field(default=8, metadata=at_least(1))
    """Blocks of the decoder."""
    decoder_num_heads: int = field(default=16, metadata=at_least(1))
    """Attention heads of the decoder."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.decoder_width % self.decoder_num_heads or self.decoder_width % 4:
            raise ValueError(
                f"decoder_width = {self.decoder_width} must be a multiple of decoder_num_heads = "
                f"{self.decoder_num_heads} and of 4; change one"
            )
        if self.variant is MaskedAutoencoderVariant.official and self.norm_pix_loss:
            raise ValueError(
                "norm_pix_loss = true does not fit variant = official, which predicts pixels by a tanh; set it to false"
            )


def num_kept(num_patches: int, mask_ratio: float) -> int:
    """Number of visible patches: floor(num_patches * (1 - mask_ratio)), at least 1, as in the code of He et al."""
    return max(1, int(num_patches * (1 - mask_ratio) + 1e-9))  # 10 * (1 - 0.9) is 0.999... in floating point


class SelfSupervisionMethod(Enum):
    """simclr: contrast the image's other view with all other views; byol: predict a moving average's features of it."""

    none = "none"
    simclr = "simclr"
    byol = "byol"


@dataclass(kw_only=True, slots=True)
class SelfSupervisionConfig:
    """A loss between two views of an image, added to the contrastive one.

    Reference: Mu et al. 2021 (SLIP, arXiv:2112.12750); Chen et al. 2020 (SimCLR, arXiv:2002.05709); Grill et al. 2020
    (BYOL, arXiv:2006.07733).
    """

    method: SelfSupervisionMethod = SelfSupervisionMethod.none
    """none, simclr (as in SLIP) or byol; the latter two need transform.views.num_views=2."""
    weight: float = field(default=1.0, metadata=above(0))
    """Weight of the loss beside the contrastive one, above 0 (SLIP: 1)."""
    temperature: float = field(default=0.1, metadata=above(0))
    """Temperature of simclr, above 0 (SLIP: 0.1); byol has none."""
    projection_width: int = field(default=4096, metadata=at_least(1))
    """Width of the hidden layers of the heads, >= 1 (SLIP, BYOL: 4096)."""
    projection_dim: int = field(default=256, metadata=at_least(1))
    """Output width of the heads, >= 1 (SLIP, BYOL: 256)."""
    momentum: float = field(default=0.996, metadata=between(0, 1, "left"))
    """Momentum of byol's target at the first step, in [0, 1); a cosine schedule raises it to 1 (BYOL: 0.996)."""

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def is_on(self) -> bool:
        """Whether there is a self-supervised loss; without one the other fields have no effect."""
        return self.method is not SelfSupervisionMethod.none
