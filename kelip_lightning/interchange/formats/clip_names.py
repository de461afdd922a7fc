"""The tensor names of OpenAI's CLIP, which the official KELIP code and open_clip kept.

Reference: Radford et al. 2021, code; every matrix of an `nn.Linear` is stored as there, the two projections transposed.
"""

from kelip_lightning.interchange.formats.key_map import Entry, Layout, entry, weight_and_bias

IMAGE, TEXT = "image_encoder.vit", "text_encoder.clip"
"""Where the two towers stand in `DualEncoder`."""


def clip_entries(image_depth: int, text_depth: int, *, pre_norm: bool = True, prefix: str = "") -> list[Entry]:
    """The whole model.

    Args:
        image_depth: Blocks of the image encoder.
        text_depth: Blocks of the text encoder.
        pre_norm: Whether the image encoder has a LayerNorm before its blocks.
        prefix: Stands before each of their names.
    """
    visual = f"{prefix}visual"
    return [
        entry("logit_scale", f"{prefix}logit_scale", Layout.batched),
        entry("image_projection.weight", f"{visual}.proj", Layout.transposed),
        entry("text_projection.weight", f"{prefix}text_projection", Layout.transposed),
        entry(f"{IMAGE}.cls_token", f"{visual}.class_embedding", Layout.batched_twice),
        entry(f"{IMAGE}.pos_embed", f"{visual}.positional_embedding", Layout.batched),
        entry(f"{IMAGE}.patch_embed.proj.weight", f"{visual}.conv1.weight"),
        *(weight_and_bias(f"{IMAGE}.norm_pre", f"{visual}.ln_pre") if pre_norm else []),
        *(one for i in range(image_depth) for one in _image_block(i, f"{visual}.transformer.resblocks.{i}")),
        *weight_and_bias(f"{IMAGE}.norm", f"{visual}.ln_post"),
        entry(f"{TEXT}.embeddings.token_embedding.weight", f"{prefix}token_embedding.weight"),
        entry(f"{TEXT}.embeddings.position_embedding.weight", f"{prefix}positional_embedding"),
        *(one for i in range(text_depth) for one in _text_block(i, f"{prefix}transformer.resblocks.{i}")),
        *weight_and_bias(f"{TEXT}.final_layer_norm", f"{prefix}ln_final"),
    ]


def _image_block(index: int, theirs: str) -> list[Entry]:
    ours = f"{IMAGE}.blocks.{index}"
    return [
        *weight_and_bias(f"{ours}.norm1", f"{theirs}.ln_1"),
        entry(f"{ours}.attn.qkv.weight", f"{theirs}.attn.in_proj_weight"),
        entry(f"{ours}.attn.qkv.bias", f"{theirs}.attn.in_proj_bias"),
        *weight_and_bias(f"{ours}.attn.proj", f"{theirs}.attn.out_proj"),
        *weight_and_bias(f"{ours}.norm2", f"{theirs}.ln_2"),
        *weight_and_bias(f"{ours}.mlp.fc1", f"{theirs}.mlp.c_fc"),
        *weight_and_bias(f"{ours}.mlp.fc2", f"{theirs}.mlp.c_proj"),
    ]


def _text_block(index: int, theirs: str) -> list[Entry]:
    ours = f"{TEXT}.encoder.layers.{index}"
    parts = [f"{ours}.self_attn.{name}_proj" for name in "qkv"]
    return [
        *weight_and_bias(f"{ours}.layer_norm1", f"{theirs}.ln_1"),
        Entry(tuple(f"{one}.weight" for one in parts), (f"{theirs}.attn.in_proj_weight",)),
        Entry(tuple(f"{one}.bias" for one in parts), (f"{theirs}.attn.in_proj_bias",)),
        *weight_and_bias(f"{ours}.self_attn.out_proj", f"{theirs}.attn.out_proj"),
        *weight_and_bias(f"{ours}.layer_norm2", f"{theirs}.ln_2"),
        *weight_and_bias(f"{ours}.mlp.fc1", f"{theirs}.mlp.c_fc"),
        *weight_and_bias(f"{ours}.mlp.fc2", f"{theirs}.mlp.c_proj"),
    ]
