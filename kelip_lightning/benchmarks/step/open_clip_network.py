"""open_clip's CLIP of our sizes; imported only where open_clip is installed."""

from functools import partial

import open_clip
import torch
from open_clip.transformer import text_global_pool
from torch import Tensor
from torch.nn import functional as F

from kelip_lightning.interchange.formats import open_clip as layout
from kelip_lightning.interchange.formats.architecture import Architecture


def build_network(sizes: Architecture, *, longest: bool) -> torch.nn.Module:
    """The model with random weights, as open_clip_train makes it from a configuration.

    Args:
        sizes: Of the model.
        longest: Whether captions may be shorter than the context. The text tower of open_clip 3 adds the positions and
            the causal mask of the whole context, and fails on shorter captions; open_clip 4 pads to the longest of the
            batch by default. So the first rows of both are taken here, and the rest is the library's.
    """
    model_cfg = layout.config_files(sizes)[layout.CONFIG]["model_cfg"]
    network: torch.nn.Module = open_clip.CLIP(**model_cfg, output_dict=True)
    if longest:
        setattr(network, "encode_text", partial(_encode_text, network))  # noqa: B010 - nn.Module's have no types
    return network


def _encode_text(network: open_clip.CLIP, text: Tensor, normalize: bool = False) -> Tensor:
    """`CLIP.encode_text` of open_clip 3.3 for captions of any length up to the context."""
    length = text.shape[1]
    dtype = network.transformer.get_cast_dtype()
    x = network.token_embedding(text).to(dtype) + network.positional_embedding[:length].to(dtype)
    x = network.ln_final(network.transformer(x, attn_mask=network.attn_mask[:length, :length]))
    x = text_global_pool(x, text, network.text_pool_type, eos_token_id=network.text_eos_id) @ network.text_projection
    return F.normalize(x, dim=-1) if normalize else x
