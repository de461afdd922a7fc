"""Constants of a device: one tensor, whatever mode it was first asked for in."""

import torch

from kelip_lightning.models.constants import device_constant
from kelip_lightning.models.preprocessing import normalize_images


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
