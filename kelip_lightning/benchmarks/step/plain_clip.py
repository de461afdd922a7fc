"""CLIP as one writes it from the paper, in plain PyTorch: two transformers, F.scaled_dot_product_attention, two losses.

Tensors have the names and shapes of OpenAI's CLIP, so that weights and gradients map as those of open_clip do.

Reference: Radford et al. 2021 (arXiv:2103.00020), sec. 2 and fig. 3; Caron et al. 2020 (arXiv:2006.09882) for crops of
    several sizes, whose positions are resampled.

Shapes: V crops of one size, B batch, L tokens, D width, E embed_dim, H image side.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kelip_lightning.interchange.formats.architecture import Architecture


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Multi-head self-attention with one matrix for queries, keys and values."""

    def __init__(self, width: int, num_heads: int, *, causal: bool) -> None:
        super().__init__()
        self.num_heads, self.causal = num_heads, causal
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """(B, L, D)."""
        qkv = F.linear(x_BLD, self.in_proj_weight, self.in_proj_bias).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        out_BLD: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return out_BLD


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, num_heads: int, hidden: int, *, causal: bool) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width, num_heads, causal=causal)
        layers = OrderedDict(c_fc=nn.Linear(width, hidden), gelu=QuickGELU(), c_proj=nn.Linear(hidden, width))
        self.mlp = nn.Sequential(layers)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """(B, L, D)."""
        x_BLD = x_BLD + self.attn(self.ln_1(x_BLD))
        out_BLD: Tensor = x_BLD + self.mlp(self.ln_2(x_BLD))
        return out_BLD


class Transformer(nn.Module):
    """A stack of blocks."""

    def __init__(self, width: int, depth: int, num_heads: int, hidden: int, *, causal: bool) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, num_heads, hidden, causal=causal) for _ in range(depth))

    def forward(self, x_BLD: Tensor) -> Tensor:
        """(B, L, D)."""
        for block in self.resblocks:
            x_BLD = block(x_BLD)
        return x_BLD


class VisionTransformer(nn.Module):
    """The image tower; reads the class token."""

    def __init__(self, sizes: Architecture) -> None:
        super().__init__()
        image = sizes.image
        self.patch_size, self.side = image.patch_size, image.image_size // image.patch_size
        self.conv1 = nn.Conv2d(3, image.width, image.patch_size, image.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(image.width))
        self.positional_embedding = nn.Parameter(torch.empty(1 + image.num_patches, image.width))
        self.ln_pre, self.ln_post = nn.LayerNorm(image.width), nn.LayerNorm(image.width)
        hidden = int(image.width * image.mlp_ratio)
        self.transformer = Transformer(image.width, image.depth, image.num_heads, hidden, causal=False)
        self.proj = nn.Parameter(torch.empty(image.width, sizes.embed_dim))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """(B, E) of square images of any size."""
        patches_BLD = self.conv1(images_BCHW).flatten(2).transpose(1, 2)
        token_B1D = self.class_embedding.to(patches_BLD.dtype).expand(len(patches_BLD), 1, -1)
        x_BLD = torch.cat([token_B1D, patches_BLD], dim=1) + self._positions(images_BCHW.shape[-1])
        x_BLD = self.ln_post(self.transformer(self.ln_pre(x_BLD)))
        features_BE: Tensor = x_BLD[:, 0] @ self.proj
        return features_BE

    def _positions(self, size: int) -> Tensor:
        """(L, D), those of patches resampled for images of another size than the model's."""
        side = size // self.patch_size
        if side == self.side:
            return self.positional_embedding
        grid = self.positional_embedding[1:].T.unflatten(1, (self.side, self.side)).unsqueeze(0)
        resampled = F.interpolate(grid, (side, side), mode="bicubic", antialias=True)
        return torch.cat([self.positional_embedding[:1], resampled[0].flatten(1).T])


class PlainClip(nn.Module):
    """Both towers and the logit scale; parameters are not initialised, since the benchmark loads weights.

    Args:
        sizes: Of a model with the class token, LayerNorm before the blocks and QuickGELU in both towers.
    """

    def __init__(self, sizes: Architecture) -> None:
        super().__init__()
        text = sizes.text
        self.eot_id = sizes.eot_id
        self.visual = VisionTransformer(sizes)
        self.token_embedding = nn.Embedding(sizes.vocab_size, text.width)
        self.positional_embedding = nn.Parameter(torch.empty(sizes.context_length, text.width))
        hidden = round(text.width * text.mlp_ratio)
        self.transformer = Transformer(text.width, text.depth, text.num_heads, hidden, causal=True)
        self.ln_final = nn.LayerNorm(text.width)
        self.text_projection = nn.Parameter(torch.empty(text.width, sizes.embed_dim))
        self.logit_scale = nn.Parameter(torch.empty(()))

    def encode_text(self, tokens_BL: Tensor) -> Tensor:
        """(B, E), read at the end token."""
        x_BLD = self.token_embedding(tokens_BL) + self.positional_embedding[: tokens_BL.shape[1]]
        x_BLD = self.ln_final(self.transformer(x_BLD))
        end_B = (tokens_BL == self.eot_id).int().argmax(dim=1)
        end_BD = x_BLD[torch.arange(len(end_B), device=end_B.device), end_B]
        features_BE: Tensor = end_BD @ self.text_projection
        return features_BE

    def forward(self, crops: Sequence[Tensor], tokens_BL: Tensor) -> Tensor:
        """The loss: the mean over crops of the cross-entropies in both directions.

        Args:
            crops: Standardised images, (V, B, 3, H, H), one tensor per resolution; V may be 0.
            tokens_BL: int64.
        """
        text_BE = F.normalize(self.encode_text(tokens_BL), dim=-1)
        scale, target_B = self.logit_scale.exp(), torch.arange(len(text_BE), device=text_BE.device)
        losses = []
        for images_VBCHW in filter(len, crops):
            image_VBE = F.normalize(self.visual(images_VBCHW.flatten(0, 1)), dim=-1).unflatten(0, (-1, len(text_BE)))
            for logits in scale * image_VBE @ text_BE.T:
                losses.append((F.cross_entropy(logits, target_B) + F.cross_entropy(logits.T, target_B)) / 2)
        return torch.stack(losses).mean()
