"""Standardisation against torchvision and CLIP's constants; constants on a device."""

import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torchvision.transforms.functional import normalize

from kelip_lightning.models.patches import patchify
from kelip_lightning.models.preprocessing import (
    CLIP_MEAN,
    CLIP_STD,
    device_constant,
    normalize_images,
    normalize_patches,
)


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


def test_normalize_patches__equals_torchvision_on_every_pixel_value() -> None:
    values = torch.arange(256, dtype=torch.uint8).view(16, 16)
    images = torch.stack([values, values.flip(0), values.T]).unsqueeze(0)
    found = normalize_patches(patchify(images, 4))
    assert found.dtype == torch.float32
    expected = normalize(images.double() / 255, list(CLIP_MEAN), list(CLIP_STD))
    torch.testing.assert_close(found.double(), patchify(expected, 4), rtol=0, atol=1e-6)
    some = patchify(images, 4)[:, [7, 2]]
    assert torch.equal(normalize_patches(some), found[:, [7, 2]])


def test_normalize_patches__compiles_to_one_graph() -> None:
    patches = torch.randint(0, 256, (2, 5, 48), dtype=torch.uint8)
    compiled = torch.compile(normalize_patches, backend="inductor", fullgraph=True)
    torch.testing.assert_close(compiled(patches), normalize_patches(patches))


def test_normalize_images__no_views() -> None:
    assert normalize_images(torch.empty(0, 4, 3, 8, 8, dtype=torch.uint8)).shape == (0, 4, 3, 8, 8)


def test_device_constant__is_made_once_and_of_float32() -> None:
    torch.set_default_dtype(torch.bfloat16)
    first = device_constant((0.1, 2.5), torch.device("cpu"))
    assert first is device_constant((0.1, 2.5), torch.device("cpu"))
    assert torch.equal(first, torch.tensor([0.1, 2.5], dtype=torch.float32))


def test_device_constant__first_used_in_inference_mode_trains_afterwards() -> None:
    with torch.inference_mode():
        device_constant((3.5,), torch.device("cpu"))
    weight = torch.ones(1, requires_grad=True)
    (weight * device_constant((3.5,), torch.device("cpu"))).backward()
    assert weight.grad == 3.5


def test_device_constant__compiles_to_one_graph() -> None:
    images = torch.rand(2, 3, 4, 4)
    compiled = torch.compile(normalize_images, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(images), normalize_images(images))
