"""Roles of parameters, from the type of the owning module and its place in the model; names are not used."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum

from torch import nn


class Role(Enum):
    """Role of a parameter in optimisation.

    block_matrix: weight of a linear layer (or of a whole attention) in a transformer block.
    matrix: weight of a linear layer or convolution outside the blocks: patches, projections, heads, pixels.
    embedding: look-up table (tokens, positions, relative positions), or a parameter of a module with submodules:
        positions, class, register and mask tokens.
    vector: gain or bias of any layer or norm, layer scale, logit scale and bias.
    """

    block_matrix = "block matrices"
    matrix = "other matrices"
    embedding = "embeddings, positions, tokens"
    vector = "norms, biases, scales"

    @property
    def decays(self) -> bool:
        """Whether weight decay applies."""
        return self in (Role.block_matrix, Role.matrix)


def roles_of(model: nn.Module) -> dict[str, Role]:
    """Parameter -> role, with the names and in the order of `named_parameters`."""
    inside = tuple(f"{one}." for one in _block_lists(model))
    owners = {
        id(parameter): _role(module, name, parameter, f"{prefix}.".startswith(inside))
        for prefix, module in reversed(list(model.named_modules()))
        for name, parameter in module.named_parameters(recurse=False)
    }
    return {name: owners[id(parameter)] for name, parameter in model.named_parameters()}


def _role(module: nn.Module, name: str, parameter: nn.Parameter, inside_a_block: bool) -> Role:
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return Role.embedding
    if parameter.ndim < 2 or isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return Role.vector
    if not (name == "weight" and _is_leaf(module)) and not isinstance(module, nn.MultiheadAttention):
        return Role.embedding
    return Role.block_matrix if inside_a_block and parameter.ndim == 2 else Role.matrix


def layers_above(model: nn.Module) -> dict[str, int]:
    """Parameter -> exponent of `layer_decay`: its distance from the top of its tower.

    A tower is the smallest submodule that contains one stack of blocks and an embedding before it. Block i of n has
    n - i; embeddings and layers before the blocks have n + 1; layers after the blocks or outside of towers
    (projections, heads, a decoder) have 0.
    """
    roles = roles_of(model)
    above = dict.fromkeys(roles, 0)
    stacks = _block_lists(model)
    for stack, depth in stacks.items():
        tower = _tower_of(stack, stacks, roles)
        first = _first_of(stack, tower)
        for place, name in enumerate(tower):
            if name.startswith(f"{stack}."):
                above[name] = depth - int(name[len(stack) + 1 :].partition(".")[0])
            elif place < first or roles[name] is Role.embedding:
                above[name] = depth + 1
    return above


def _tower_of(stack: str, stacks: Iterable[str], roles: Mapping[str, Role]) -> list[str]:
    """The parameters of the tower of a stack, in order; empty without a tower."""
    parts = stack.split(".")
    for length in reversed(range(len(parts))):
        prefix = "".join(f"{part}." for part in parts[:length])
        if sum(f"{one}.".startswith(prefix) for one in stacks) > 1:
            return []
        names = [name for name in roles if name.startswith(prefix)]
        if any(roles[name] is Role.embedding for name in names[: _first_of(stack, names)]):
            return names
    return []


def _first_of(stack: str, names: Sequence[str]) -> int:
    """Index of the stack's first parameter."""
    return next((place for place, name in enumerate(names) if name.startswith(f"{stack}.")), len(names))


def _block_lists(model: nn.Module) -> dict[str, int]:
    """Name of each outermost stack of transformer blocks -> number of blocks."""
    found: dict[str, int] = {}
    for name, module in model.named_modules():
        if _is_block_list(module) and not any(f"{name}.".startswith(f"{outer}.") for outer in found):
            found[name] = len(list(module.children()))
    return found


def _is_block_list(module: nn.Module) -> bool:
    """Whether it is a list of modules of one class with several matrices each."""
    children = list(module.children())
    return (
        isinstance(module, nn.ModuleList | nn.Sequential)
        and len({type(child) for child in children}) == 1
        and all(len(list(_layers(child))) > 1 for child in children)
    )


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """The leaf modules with a weight matrix, without embeddings."""
    for one in module.modules():
        weight = one._parameters.get("weight")
        if _is_leaf(one) and weight is not None and weight.ndim > 1 and not isinstance(one, nn.Embedding):
            yield one


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None
