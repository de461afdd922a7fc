"""Counted operations against whole training steps, published numbers and numbers computed by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from data_modules.images.config import ViewConfig
from kelip_lightning.config.experiment import ContrastiveExperiment, MaskedPretrainExperiment
from kelip_lightning.losses.config import ContrastiveKind
from kelip_lightning.losses.contrastive import contrastive_loss
from kelip_lightning.losses.self_supervised import nt_xent
from kelip_lightning.models.config import MaskedAutoencoderVariant, SelfSupervisionMethod
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.image_encoder import ImageEncoder
from kelip_lightning.models.masked_autoencoder import MaskedAutoencoderBase
from kelip_lightning.models.patches import num_kept
from kelip_lightning.models.self_supervision import ByolBranch, build_branch
from kelip_lightning.planning.flops import count_flops, evaluation_flops

Contrastive = Callable[..., ContrastiveExperiment]
Masked = Callable[..., MaskedPretrainExperiment]

SMALL_IMAGE = {"image_size": 64, "patch_size": 16, "width": 48, "depth": 3, "num_heads": 4, "mlp_ratio": 3.0}
SMALL: dict[str, Any] = {
    "image": SMALL_IMAGE,
    "text": {"width": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 2.0},
    "embed_dim": 24,
    "context_length": 11,
    "vocab_size": 300,
}
SMALL_CROPS = {"local_size": 32, "num_global_crops": 2, "num_local_crops": 3}
PATCH_FLOPS = 2 * (16 * 16 * 3) * 48
"""Embedding one patch of SMALL_IMAGE; backward this once, not twice, since the image needs no gradient."""


def product_flops(_into: Any, left: Any, right: Any, *_: Any, **__: Any) -> int:
    """Operations of adding a matrix product in place, from shapes (M, K) and (K, N): 2 M K N."""
    rows, inner = left
    return int(2 * rows * inner * right[1])


IN_PLACE = {torch.ops.aten.addmm_: product_flops}
"""An operation that torch's counter leaves out."""


def counted(forward: Callable[[], Tensor]) -> tuple[int, int]:
    """Operations of a forward pass on real tensors and of its backward pass.

    With unfused attention: the counter knows no fused one of CPUs.
    """
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
            result = forward()
        with FlopCounterMode(display=False) as backward_counter:
            result.backward()
    return counter.get_total_flops(), backward_counter.get_total_flops()


@pytest.mark.parametrize("image", [{}, {"patch_drop_rate": 0.3, "pooling": "mean"}], ids=["plain", "patch dropout"])
def test_count_flops__contrastive_sums_to_a_whole_step(
    image: dict[str, Any],
    contrastive: Contrastive,
    dual_encoder: Callable[[ContrastiveExperiment], DualEncoder],
    pairs: Callable[[ContrastiveExperiment, int], tuple[Tensor, Tensor, Tensor]],
) -> None:
    stage, batch = contrastive(**SMALL | {"image": SMALL_IMAGE | image, "transform": SMALL_CROPS}), 2
    model, crops = dual_encoder(stage).train(), pairs(stage, batch)

    def forward() -> Tensor:
        features = model(*crops, torch.arange(batch))
        return features.global_VBE.sum() + features.local_VBE.sum() + features.text_BE.sum()

    plan = count_flops(stage)
    resampled = 2 * 4 * 16 * 48  # 4 local positions from 16, once per pass; its backward pass needs one product too
    kept = num_kept(16, stage.image_encoder.patch_drop_rate)  # pixels need no gradient
    forward_flops, backward_flops = counted(forward)
    assert forward_flops == batch * plan.forward + resampled
    assert backward_flops == batch * (2 * plan.forward - (2 * kept + 3 * 4) * PATCH_FLOPS) + resampled
    assert plan.training == 3 * plan.forward == sum(one.training for one in plan.passes)
    assert plan.training_recomputed == 4 * plan.forward


@pytest.mark.parametrize("method", [SelfSupervisionMethod.simclr, SelfSupervisionMethod.byol])
@pytest.mark.parametrize("patch_drop_rate", [0.0, 0.5])
def test_count_flops__views_and_heads_sum_to_a_whole_step(
    contrastive: Contrastive, method: SelfSupervisionMethod, patch_drop_rate: float
) -> None:
    image, views = SMALL_IMAGE | {"patch_drop_rate": patch_drop_rate}, {"views": ViewConfig(num_views=2)}
    sizes = {"method": method, "projection_width": 40, "projection_dim": 12}
    stage = contrastive(**SMALL | {"image": image, "transform": views, "self_supervision": sizes})
    plain, plan = count_flops(contrastive(**SMALL | {"image": image})), count_flops(stage)
    encoder = ImageEncoder(stage.image_encoder)
    branch = build_branch(encoder, stage.self_supervision)
    assert branch is not None
    images = torch.randn(2, 1, 3, 64, 64)
    forward, backward = counted(lambda: branch(encoder, images, torch.zeros(1, dtype=torch.int64), 1).sum())
    assert backward == 2 * (forward - num_kept(16, patch_drop_rate) * PATCH_FLOPS)
    target = 0
    if isinstance(branch, ByolBranch):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            branch.targets(images)
        target = counter.get_total_flops()
    assert plan.forward - plain.forward == forward + target
    assert plan.training - plain.training == 3 * forward + target
    assert plan.training_recomputed - plain.training_recomputed == 4 * forward + target
    assert plan.one_crop_training == plain.one_crop_training


@pytest.mark.parametrize("variant", list(MaskedAutoencoderVariant))
def test_count_flops__mae_sums_to_a_whole_step(
    variant: MaskedAutoencoderVariant,
    masked: Masked,
    autoencoder: Callable[[MaskedPretrainExperiment], MaskedAutoencoderBase],
) -> None:
    decoder = {"variant": variant, "decoder_width": 24, "decoder_depth": 2, "decoder_num_heads": 4}
    stage = masked(SMALL_IMAGE, decoder | {"mask_ratio": 0.6, "norm_pix_loss": False})
    model, images, noise = autoencoder(stage), torch.randn(1, 3, 64, 64), torch.rand(1, 16)
    plan = count_flops(stage)
    forward_flops, backward_flops = counted(lambda: model(images, noise).prediction_BNP.sum())
    assert forward_flops == plan.forward
    assert backward_flops == 2 * plan.forward - 6 * PATCH_FLOPS
    # 6 of 16 patches are visible; of the decoder, the embedding of each and the pixels of all are outside the blocks.
    class_token = variant is MaskedAutoencoderVariant.he
    assert plan.passes[0].outer == 6 * PATCH_FLOPS
    assert plan.passes[1].outer == 2 * (6 + class_token) * 48 * 24 + 2 * 16 * 24 * 768


def test_count_flops__info_nce_equals_torch_s_counter(contrastive: Contrastive) -> None:
    batch, embed_dim = 8, 24
    stage = contrastive(**SMALL, transform=SMALL_CROPS, global_batch_size=batch)
    features = [F.normalize(torch.randn(n, batch, embed_dim), dim=-1).requires_grad_() for n in (2, 3, 1)]

    def loss() -> Tensor:
        scale = torch.tensor([10.0])
        return contrastive_loss(features[0], features[1], features[2][0], scale, kind=ContrastiveKind.info_nce).total

    forward_flops, backward_flops = counted(loss)
    assert forward_flops == batch * count_flops(stage).loss_training
    assert backward_flops == 0, "the forward pass has computed the gradients already"


def test_count_flops__nt_xent_equals_torch_s_counter(contrastive: Contrastive) -> None:
    sizes = {"method": SelfSupervisionMethod.simclr, "projection_dim": 12}
    sections: dict[str, Any] = SMALL | {"global_batch_size": 6}
    views = {"transform": {"views": ViewConfig(num_views=2)}, "self_supervision": sizes}
    features = F.normalize(torch.randn(2, 6, 12), dim=-1).requires_grad_()
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        nt_xent(features, 0.1)
    with_views, without = (count_flops(contrastive(**one)).loss_training for one in (sections | views, sections))
    assert counter.get_total_flops() == 6 * (with_views - without)


def unused_flops(tokens: int, width: int, *, projections: int) -> int:
    """Forward operations of a last block on all tokens but one.

    Projections (of the output; of packed captions of the queries too), an MLP of four times the width, scores and sums.
    """
    return (tokens - 1) * (2 * (projections + 8) * width**2 + 4 * tokens * width)


# Image and text GFLOP of open_clip's docs/model_profile.csv.
@pytest.mark.parametrize(
    ("image", "text", "embed_dim", "published"),
    [
        pytest.param({}, {}, 512, (8.82, 5.96), id="ViT-B-32"),
        pytest.param({"patch_size": 16}, {}, 512, (35.13, 5.96), id="ViT-B-16"),
        pytest.param({"image_size": 256}, {}, 512, (11.5, 5.96), id="ViT-B-32-256"),
        pytest.param({"width": 384, "num_heads": 6}, {"width": 384, "num_heads": 6}, 384, (2.29, 3.38), id="ViT-S-32"),
        pytest.param(
            {"patch_size": 14, "width": 1024, "depth": 24, "num_heads": 16},
            {"width": 768, "num_heads": 12},
            768,
            (162.03, 13.3),
            id="ViT-L-14",
        ),
    ],
)
def test_evaluation_flops__are_those_published_by_open_clip(
    image: dict[str, Any],
    text: dict[str, Any],
    embed_dim: int,
    published: tuple[float, float],
    contrastive: Contrastive,
) -> None:
    """But for what open_clip's last blocks compute of tokens that are not pooled."""
    stage = contrastive(image=image, text=text, embed_dim=embed_dim)
    encoder, text_encoder = stage.image_encoder, stage.text_encoder
    unused = (
        unused_flops(1 + encoder.num_patches, encoder.width, projections=1),
        unused_flops(77, text_encoder.width, projections=2),
    )
    done = evaluation_flops(stage, count_flops(stage))
    assert [round((one + two) / 1e9, 2) for one, two in zip(done, unused, strict=True)] == list(published)


def test_count_flops__training_of_a_pair(contrastive: Contrastive) -> None:
    """Three times 8.82 - 0.53 + 5.96 - 0.41 GFLOP; half of the 50 tokens leave 29.0."""
    whole = count_flops(contrastive())
    assert round(whole.training / 1e9, 1) == 41.5
    assert round(whole.loss_training / 1e9, 2) == 0.20
    assert whole.loss_training == count_flops(contrastive(trainer={"accumulate": 2})).loss_training
    stage = contrastive(image={"patch_drop_rate": 0.5}, transform={"num_global_crops": 2})
    halved = count_flops(stage)
    assert round(halved.one_crop_training / 1e9, 1) == 29.0
    assert halved.one_crop_training == halved.training - halved.passes[0].training // 2
    evaluated = [round(one / 1e9, 2) for one in evaluation_flops(stage, halved)]
    assert evaluated == [8.29, 5.55], "evaluations drop no patches"


def test_count_flops__decoder_of_the_official_mae(masked: Masked) -> None:
    """12 of 49 patches visible, as the official code rounds a quarter: 2.27 and 2.72 GFLOP forward."""
    plan = count_flops(masked())
    assert [(one.tokens, round(one.forward / 1e9, 2)) for one in plan.passes] == [(13, 2.27), (50, 2.72)]
    assert round(plan.training / 1e9, 1) == 15.0
    assert plan.loss_training == 0
    assert plan.one_crop_training == plan.training
