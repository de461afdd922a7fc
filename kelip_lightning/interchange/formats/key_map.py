"""Which tensor here is which tensor there: explicit entries, each of which can be read in both directions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


class Layout(Enum):
    """How a tensor here relates to its counterpart there."""

    same = "same"
    transposed = "transposed"
    """A matrix that the other library multiplies from the other side."""
    batched = "batched"
    """Here with one leading dimension of size 1 more, (1, ...)."""
    batched_twice = "batched_twice"
    """Here with two of them, (1, 1, ...)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One correspondence; several names on one side are that side's parts of the other side's stacked tensor."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    layout: Layout = Layout.same


def entry(ours: str, theirs: str, layout: Layout = Layout.same) -> Entry:
    """The correspondence of one tensor with one."""
    return Entry((ours,), (theirs,), layout)


def weight_and_bias(ours: str, theirs: str) -> list[Entry]:
    """The entries of a module with a weight and a bias."""
    return [entry(f"{ours}.{name}", f"{theirs}.{name}") for name in ("weight", "bias")]


def stacked(ours: Sequence[str], theirs: Sequence[str]) -> list[Entry]:
    """The entries of modules with weight and bias whose rows one side stacks."""
    return [
        Entry(tuple(f"{one}.{name}" for one in ours), tuple(f"{one}.{name}" for one in theirs))
        for name in ("weight", "bias")
    ]


def to_theirs(entries: Iterable[Entry], tensors: Mapping[str, Tensor]) -> Tensors:
    """Our tensors under their names and in their shapes; every tensor must have an entry."""
    found: Tensors = {}
    used: set[str] = set()
    for one in entries:
        used.update(one.ours)
        parts = _regroup([_outward(tensors[name], one.layout) for name in one.ours], len(one.theirs))
        found.update(zip(one.theirs, parts, strict=True))
    assert used == set(tensors), f"tensors without an entry: {sorted(set(tensors) ^ used)}"
    return found


def to_ours(entries: Iterable[Entry], tensors: Mapping[str, Tensor]) -> Tensors:
    """The inverse of `to_theirs`, for tensors whose names and shapes have been checked."""
    found: Tensors = {}
    for one in entries:
        parts = _regroup([tensors[name] for name in one.theirs], len(one.ours))
        found.update({name: _inward(part, one.layout) for name, part in zip(one.ours, parts, strict=True)})
    return found


def _outward(tensor: Tensor, layout: Layout) -> Tensor:
    match layout:
        case Layout.same:
            return tensor
        case Layout.transposed:
            return tensor.T
        case Layout.batched:
            return tensor[0]
        case Layout.batched_twice:
            return tensor[0, 0]


def _inward(tensor: Tensor, layout: Layout) -> Tensor:
    match layout:
        case Layout.same:
            return tensor
        case Layout.transposed:
            return tensor.T
        case Layout.batched:
            return tensor[None]
        case Layout.batched_twice:
            return tensor[None, None]


def _regroup(parts: Sequence[Tensor], count: int) -> Sequence[Tensor]:
    """The same rows as `count` tensors: one becomes several of equal height, or several become one."""
    if len(parts) == count:
        return parts
    return [torch.cat(list(parts))] if count == 1 else parts[0].chunk(count)
