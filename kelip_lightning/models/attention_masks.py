"""Attention masks of Hugging Face models, made without looking at their values.

`transformers` looks whether a batch has any padding, to leave the mask out where there is none: on a GPU the host waits
for the device there, in every step.
"""

from typing import Any

from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_ALWAYS_MASKED = "sdpa_always_masked"


def mask_without_looking(model: PreTrainedModel) -> None:
    """Let a model whose attention is torch's own always use the mask that it is given; its outputs stay the same.

    Other attentions (of models that torch's cannot serve) stay as they are.
    """
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(_ALWAYS_MASKED)


def _always_a_mask(*arguments: Any, **options: Any) -> Tensor | None:
    return sdpa_mask(*arguments, **options | {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})


AttentionInterface.register(_ALWAYS_MASKED, sdpa_attention_forward)
AttentionMaskInterface.register(_ALWAYS_MASKED, _always_a_mask)
