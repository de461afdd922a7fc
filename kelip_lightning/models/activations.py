"""Activations that are computed again in the backward pass instead of being kept."""

from torch import nn
from transformers import PreTrainedModel

from kelip_lightning.models.image_encoder import ImageEncoder


def enable_gradient_checkpointing(model: nn.Module) -> None:
    """Keep the inputs of transformer blocks only, in every tower inside the model; gradients stay the same."""
    for part in model.modules():
        if isinstance(part, ImageEncoder):
            part.gradient_checkpointing = True
        elif isinstance(part, PreTrainedModel):
            part.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[no-untyped-call]
