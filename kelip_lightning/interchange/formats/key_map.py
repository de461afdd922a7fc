"""Tensor names here and in other libraries, as entries that convert in both directions.

The names of OpenAI's CLIP are also those of the official KELIP code and of open_clip.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


class Layout(Enum):
    """Layout of a tensor here relative to its counterpart."""

    same = "same"
    transposed = "transposed"
    batched = "batched"
    """Here with an additional leading dimension of size 1."""
    batched_twice = "batched_twice"
    """Here with two of them."""

    def outward(self, tensor: Tensor) -> Tensor:
        """Our tensor in their layout."""
        match self:
            case Layout.transposed:
                return tensor.T
            case Layout.batched:
                return tensor[0]
            case Layout.batched_twice:
                return tensor[0, 0]
        return tensor

    def inward(self, tensor: Tensor) -> Tensor:
        """Their tensor in our layout."""
        match self:
            case Layout.transposed:
                return tensor.T
            case Layout.batched:
                return tensor[None]
            case Layout.batched_twice:
                return tensor[None, None]
        return tensor


@dataclass(frozen=True, slots=True)
class Entry:
    """A correspondence; several names on one side are parts of the other side's stacked tensor."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    layout: Layout = Layout.same


def entry(ours: str, theirs: str, layout: Layout = Layout.same) -> Entry:
    """The entry of a tensor with one counterpart."""
    return Entry((ours,), (theirs,), layout)


def weight_and_bias(ours: str, theirs: str) -> list[Entry]:
    """The entries of a module with a weight and a bias."""
    return [entry(f"{ours}.{name}", f"{theirs}.{name}") for name in ("weight", "bias")]


def stacked(ours: Sequence[str], theirs: Sequence[str]) -> list[Entry]:
    """The entries of modules with weight and bias, stacked on one side."""
    return [
        Entry(tuple(f"{one}.{name}" for one in ours), tuple(f"{one}.{name}" for one in theirs))
        for name in ("weight", "bias")
    ]


def to_theirs(entries: Iterable[Entry], tensors: Mapping[str, Tensor]) -> Tensors:
    """Our tensors with their names and shapes; every tensor must have an entry."""
    found: Tensors = {}
    used: set[str] = set()
    for one in entries:
        used.update(one.ours)
        parts = _regroup([one.layout.outward(tensors[name]) for name in one.ours], len(one.theirs))
        found.update(zip(one.theirs, parts, strict=True))
    assert used == set(tensors), f"tensors without an entry: {sorted(set(tensors) ^ used)}"
    return found


def to_ours(entries: Iterable[Entry], tensors: Mapping[str, Tensor]) -> Tensors:
    """The inverse of `to_theirs`, for tensors with checked names and shapes."""
    found: Tensors = {}
    for one in entries:
        parts = _regroup([tensors[name] for name in one.theirs], len(one.ours))
        found.update({name: one.layout.inward(part) for name, part in zip(one.ours, parts, strict=True)})
    return found


def _regroup(parts: Sequence[Tensor], count: int) -> Sequence[Tensor]:
    """Split one tensor into `count` of equal height, or concatenate several."""
    if len(parts) == count:
        return parts
    return [torch.cat(list(parts))] if count == 1 else parts[0].chunk(count)


IMAGE, TEXT = "image_encoder.vit", "text_encoder.clip"
"""Prefixes of the towers in `DualEncoder`."""


def clip_entries(image_depth: int, text_depth: int, *, pre_norm: bool = True, prefix: str = "") -> list[Entry]:
    """The entries of a model with the names of OpenAI's CLIP (Radford et al. 2021, code), after a prefix."""
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
        *(entry(f"{ours}.attn.qkv.{one}", f"{theirs}.attn.in_proj_{one}") for one in ("weight", "bias")),
        *weight_and_bias(f"{ours}.attn.proj", f"{theirs}.attn.out_proj"),
        *weight_and_bias(f"{ours}.norm2", f"{theirs}.ln_2"),
        *_mlp(ours, theirs),
    ]


def _text_block(index: int, theirs: str) -> list[Entry]:
    ours = f"{TEXT}.encoder.layers.{index}"
    parts = [f"{ours}.self_attn.{name}_proj" for name in "qkv"]
    return [
        *weight_and_bias(f"{ours}.layer_norm1", f"{theirs}.ln_1"),
        *(Entry(tuple(f"{p}.{one}" for p in parts), (f"{theirs}.attn.in_proj_{one}",)) for one in ("weight", "bias")),
        *weight_and_bias(f"{ours}.self_attn.out_proj", f"{theirs}.attn.out_proj"),
        *weight_and_bias(f"{ours}.layer_norm2", f"{theirs}.ln_2"),
        *_mlp(ours, theirs),
    ]


def _mlp(ours: str, theirs: str) -> list[Entry]:
    return [
        *weight_and_bias(f"{ours}.mlp.fc1", f"{theirs}.mlp.c_fc"),
        *weight_and_bias(f"{ours}.mlp.fc2", f"{theirs}.mlp.c_proj"),
    ]
