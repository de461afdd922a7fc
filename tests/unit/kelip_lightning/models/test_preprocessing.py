"""Standardisation against torchvision and CLIP's constants."""

import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torchvision.transforms.functional import normalize

from kelip_lightning.models.preprocessing import CLIP_MEAN, CLIP_STD, normalize_images


def test_constants__are_those_of_clip() -> None:
    assert CLIP_MEAN == OPENAI_DATASET_MEAN
    assert CLIP_STD == OPENAI_DATASET_STD


def test_normalize_images__equals_torchvision() -> None:
    images = torch.randint(0, 256, (2, 4, 3, 6, 5), dtype=torch.uint8)
    expected = normalize(images / 255, list(CLIP_MEAN), list(CLIP_STD))
    found = normalize_images(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(normalize_images(images.double() / 255), expected)


def test_normalize_images__no_views() -> None:
    assert normalize_images(torch.empty(0, 4, 3, 8, 8, dtype=torch.uint8)).shape == (0, 4, 3, 8, 8)
