"""Records tensor operations and synchronisations on torch's `meta` device, as a substitute for a GPU.

Tensors of the meta device have no values, so every read by the host is detected. The operations of forward pass,
backward pass and optimizer are those of a GPU.
"""

import sys
from collections.abc import Set
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from tests.paths import ROOT

SIZE_FROM_DATA = frozenset(
    {
        "nonzero", "masked_select", "bincount", "histc", "unique_dim", "unique_consecutive", "_unique", "_unique2",
    }
)  # fmt: skip
"""Operations with a data-dependent result size or range, for which the host waits; `nonzero_static` is given one."""
_PLUMBING = ("torch/_dynamo/", "torch/_compile", "torch/utils/_", "torch/_ops", "torch/overrides", "torch/_tensor")


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of a tensor operation, or of a copy between host and device."""

    name: str
    """aten name without the overload; synchronising copies are `host_to_device` and `device_to_host`."""
    overload: str
    step: int
    place: str
    """Innermost line of this project, and innermost line of all if different."""
    floating: bool = True
    """Whether its first tensor is floating-point."""
    reduction: str = ""
    """Name of the reduction, if it takes one."""

    def __str__(self) -> str:
        return f"step {self.step}: {self.name}.{self.overload} at {self.place}"


class OperationRecorder(TorchDispatchMode):
    """Records what runs on the device while `armed`; the host reads zeros."""

    def __init__(self, places_of: Set[str] = frozenset()) -> None:
        """Takes the names of operations to locate, which is slower than the operations."""
        super().__init__()
        self._places_of = places_of
        self.armed = False
        self.step = 0
        self.operations: list[Operation] = []
        self.waits: list[Operation] = []
        """Operations for whose result the host waits."""
        self._constants = _ConstantWatch(self)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        touched = any(one.is_meta for one in tensors) or torch.device(kwargs.get("device") or "cpu").type == "meta"
        if touched and self.armed:
            place = _place() if name in self._places_of else ""
            self.operations.append(
                Operation(name, func._overloadname, self.step, place, _is_floating(args), _named_reduction(args))
            )
        if not touched:
            return func(*args, **kwargs)
        if name in ("_local_scalar_dense", "equal"):
            self.wait("device_to_host", func._overloadname)
            return False if name == "equal" else torch.zeros((), dtype=args[0].dtype).item()
        if name in ("_to_copy", "copy_"):
            return self._copy(name, func, args, kwargs)
        if name in SIZE_FROM_DATA or (name == "repeat_interleave" and kwargs.get("output_size") is None):
            self.wait(name, func._overloadname)
            return _on_ones(func, args, kwargs)
        if name in ("index", "index_put", "index_put_", "_index_put_impl_") and self._waits_for_indices(func, args):
            return _on_ones(func, args, kwargs)
        return func(*args, **kwargs)

    def _copy(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name == "copy_":
            target, source = args[0], args[1]
            to_device, from_device = target.is_meta, source.is_meta
            waits = not kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
        else:
            device = kwargs.get("device")
            from_device = args[0].is_meta
            to_device = from_device if device is None else torch.device(device).type == "meta"
            waits = not kwargs.get("non_blocking", False)
        if from_device and not to_device:
            self.wait("device_to_host", func._overloadname)
            if name == "copy_":
                return args[0].zero_()
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if to_device and not from_device and waits:
            self.wait("host_to_device", func._overloadname)
        return func(*args, **kwargs)

    def _waits_for_indices(self, func: Any, args: tuple[Any, ...]) -> bool:
        """Whether an index is a mask, which synchronises as `nonzero` does, or a tensor of the host."""
        indices = [index for index in args[1] if isinstance(index, Tensor)]
        masked = any(index.dtype in (torch.bool, torch.uint8) for index in indices)
        if masked or not all(index.is_meta for index in indices):
            self.wait("nonzero" if masked else "host_to_device", func._overloadname)
        return masked

    def wait(self, name: str, overload: str) -> None:
        """Record a synchronisation."""
        if self.armed:
            self.waits.append(Operation(name, overload, self.step, _place()))

    def __enter__(self) -> Self:
        self._constants.__enter__()
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._constants.__exit__(kind, error, trace)


class _ConstantWatch(TorchFunctionMode):
    """Detects device tensors made from Python numbers, which torch creates on `meta` without a visible copy."""

    def __init__(self, recorder: OperationRecorder) -> None:
        self._recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = func in (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)
        if made and result.is_meta and not (args and isinstance(args[0], Tensor) and func is not Tensor.new_tensor):
            self._recorder.wait("host_to_device", func.__name__)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and args[0].is_meta:
            indices = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(index, list | np.ndarray) for index in indices):
                self._recorder.wait("host_to_device", func.__name__)
        return result


def _on_ones(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result for tensors of ones, for operations that need values."""
    ones = tree_map_only(Tensor, lambda one: torch.ones(one.shape, dtype=one.dtype), (args, kwargs))
    return tree_map_only(Tensor, lambda one: one.to("meta"), func(*ones[0], **ones[1]))


def _is_floating(args: tuple[Any, ...]) -> bool:
    first = next((leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)), None)
    return first is None or first.is_floating_point()


def _named_reduction(args: tuple[Any, ...]) -> str:
    return next((one for one in args if isinstance(one, str)), "")


def _place() -> str:
    """The innermost line of this project, and the innermost line outside torch's dispatch code."""
    lines: list[tuple[str, str]] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        lines.append((code.co_filename, f"{_short(code.co_filename)}:{frame.f_lineno} {code.co_name}"))
        frame = frame.f_back
    lines = [(file, line) for file, line in lines if file != __file__ and not any(one in file for one in _PLUMBING)]
    own = next((line for file, line in lines if file.startswith(str(ROOT)) and "site-packages" not in file), "")
    return " > ".join(dict.fromkeys([own, *[line for _, line in lines[:1]]]))


def _short(file: str) -> str:
    return file.rpartition("site-packages/")[2].removeprefix(f"{ROOT}/")
