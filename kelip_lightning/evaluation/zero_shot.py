"""Zero-shot classification: a class is the mean of its prompts' embeddings.

Shapes: N images, C classes, E embedding width.

Reference: Radford et al. 2021 (arXiv:2103.00020), sec. 3.1.4 (prompt ensembles in embedding space);
the arithmetic agrees with open_clip's `build_zero_shot_classifier` and with CLIP_benchmark.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kelip_lightning.evaluation.embed import TextEncode, embed_texts
from kelip_lightning.evaluation.finite import require_finite
from kelip_lightning.evaluation.retrieval import retrieval_ranks


def class_embeddings(
    encode_texts: TextEncode, class_names: Sequence[Sequence[str]], templates: Sequence[str]
) -> Tensor:
    """One embedding per class: every prompt normalised, mean over names and templates, normalised again.

    Args:
        encode_texts: Maps B texts to features (B, E).
        class_names: Per class, one or more names.
        templates: Sentences with `{}` once, where the name goes.

    Returns:
        (C, E) float32, every row of length one.

    Raises:
        ValueError: If a class has no name, there is no template, or one lacks its `{}`.
    """
    if not templates or any(template.count("{}") != 1 for template in templates):
        raise ValueError(f"every template must hold '{{}}' exactly once, got {list(templates)}")
    if not class_names or any(not names for names in class_names):
        raise ValueError("every class must have at least one name")
    counts = torch.tensor([len(names) * len(templates) for names in class_names])
    # replace() and not format(): a class name may itself hold braces.
    prompts = [template.replace("{}", name) for names in class_names for name in names for template in templates]
    features = embed_texts(encode_texts, prompts)
    owner = torch.repeat_interleave(torch.arange(len(counts)), counts)
    sums = torch.zeros(len(counts), features.shape[1]).index_add_(0, owner, features)
    return F.normalize(sums / counts[:, None], dim=-1)


def class_ranks(image_features: Tensor, class_features: Tensor, labels: Tensor) -> Tensor:
    """Rank of every image's own class among the classes, (N,) int64, 0 is best; ties count against us.

    Args:
        image_features: (N, E), normalised.
        class_features: (C, E), normalised.
        labels: (N,) int64 in [0, C).

    Raises:
        NonFiniteEmbeddingsError: Images or classes hold NaN or infinity.
    """
    require_finite(image_features, "image")
    require_finite(class_features, "class")
    return retrieval_ranks(image_features, class_features, labels)


def accuracy(
    image_features: Tensor, class_features: Tensor, labels: Tensor, topk: Sequence[int] = (1, 5)
) -> dict[int, float]:
    """Share of the images whose class is among the first k, in [0, 1], for every k.

    A k above the number of classes is left out: it would be 1 for any model.
    """
    ranks = class_ranks(image_features, class_features, labels)
    return {k: (ranks < k).double().mean().item() for k in topk if k <= len(class_features)}


def mean_per_class_recall(image_features: Tensor, class_features: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy averaged over classes, in [0, 1]; classes without an image are ignored."""
    hits = (class_ranks(image_features, class_features, labels) == 0).double()
    counts = torch.bincount(labels)
    recalls = torch.zeros(len(counts), dtype=torch.double).index_add_(0, labels, hits) / counts
    return recalls[counts > 0].mean().item()
