"""Muon for many matrices: those of one shape are orthogonalised together, on CPUs each by one rank.

Shapes: K matrices of one shape, M x N each.
"""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from timm.optim import Muon
from timm.optim.muon import get_lr_scale, zeropower_via_newtonschulz
from torch import Tensor

from kelip_lightning.distributed.accelerators import cpu_has_bfloat16
from kelip_lightning.distributed.gather import is_distributed

QUINTIC = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
"""Coefficients of the five Newton-Schulz iterations, timm's preset of this name
(https://leloykun.github.io/ponder/muon-opt-coeffs/)."""
_SMALLEST_SIDE, _LARGEST_RATIO = 4, 128
"""timm optimises other matrices by AdamW: those with a shorter side, or a longer one that is more times as long."""


class BatchedMuon(Muon):
    """timm's Muon with the same updates, up to rounding, and the same state, in fewer and larger matrix products.

    Several ranks hold equal gradients after their reduction, so each would orthogonalise the same matrices: an eighth
    of a step of the emoji experiment. On CPUs every rank takes its share of each shape and the results are gathered;
    between GPUs that costs as much as it saves.

    Args:
        params: Parameters or groups; those of groups with `use_fallback` are left to timm.
        lr: Learning rate; updates are scaled to the size of AdamW's, so that both use one.
        betas: Decay of the moments of AdamW.
        eps: Added to the root of AdamW's second moment, and the smallest norm of an update before it is orthogonalised.

    Reference: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.
    """

    def __init__(
        self, params: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            nesterov=True,
            ns_coefficients="quintic",
            adjust_lr_fn="match_rms_adamw",
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One optimizer step; the loss, if there is a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        taken: dict[Tensor, Tensor] = {}
        for group in self.param_groups:
            if not group.get("use_fallback", False):
                gradients = {one: one.grad for one in group["params"] if one.grad is not None and _is_matrix(one)}
                if gradients:
                    self._update(group, list(gradients), list(gradients.values()))
                taken |= gradients
        # timm's step skips parameters without gradient.
        for one in taken:
            one.grad = None
        super().step()  # type: ignore[no-untyped-call]
        for one, gradient in taken.items():
            one.grad = gradient
        return loss

    def _update(self, group: dict[str, Any], matrices: list[Tensor], gradients: list[Tensor]) -> None:
        """The step of the matrices of one group."""
        learning_rate, momentum = group["lr"], group["momentum"]
        moments = [self._moment_of(one) for one in matrices]
        # Not a product, whose factor would be rounded to bfloat16 on CPUs.
        torch._foreach_add_(matrices, matrices, alpha=-learning_rate * group["weight_decay"])
        torch._foreach_lerp_(moments, gradients, 1 - momentum)
        updates = torch._foreach_lerp(gradients, moments, momentum)
        for shape in sorted({one.shape for one in matrices}):
            alike = [place for place, one in enumerate(matrices) if one.shape == shape]
            orthogonal_KMN = _orthogonalized([updates[place] for place in alike], group)
            scale = get_lr_scale(shape, group["adjust_lr_fn"])
            changes = list(orthogonal_KMN.to(matrices[0].dtype).unbind())
            torch._foreach_add_([matrices[place] for place in alike], changes, alpha=-learning_rate * scale)

    def _moment_of(self, matrix: Tensor) -> Tensor:
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["use_muon"], state["momentum_buffer"] = True, torch.zeros_like(matrix)
        moment: Tensor = state["momentum_buffer"]
        return moment


def _is_matrix(parameter: Tensor) -> bool:
    if parameter.ndim != 2:
        return False
    shorter, longer = sorted(parameter.shape)
    return shorter >= _SMALLEST_SIDE and longer <= _LARGEST_RATIO * shorter


def _orthogonalized(updates: list[Tensor], group: dict[str, Any]) -> Tensor:
    """The orthogonalised updates of one shape, (K, M, N) in the dtype of the products; the same on every rank."""
    dtype = _dtype_of_products(updates[0].device)
    world = dist.get_world_size() if updates[0].device.type == "cpu" and is_distributed() else 1
    if world == 1 or len(updates) == 1:
        return _newton_schulz(torch.stack(updates), group, dtype)
    share = -(-len(updates) // world)
    own = updates[dist.get_rank() * share :][:share]
    part_SMN = torch.zeros(share, *updates[0].shape, dtype=dtype)
    if own:
        part_SMN[: len(own)] = _newton_schulz(torch.stack(own), group, dtype)
    parts = [torch.empty_like(part_SMN) for _ in range(world)]
    dist.all_gather(parts, part_SMN)
    return torch.cat(parts)[: len(updates)]


@cache
def _dtype_of_products(device: torch.device) -> torch.dtype:
    """bfloat16, as in the reference, unless it is emulated: on such a CPU the products took most of a run's time."""
    return torch.bfloat16 if device.type != "cpu" or cpu_has_bfloat16() else torch.float32


def _newton_schulz(updates_KMN: Tensor, group: dict[str, Any], dtype: torch.dtype) -> Tensor:
    orthogonal_KMN: Tensor = zeropower_via_newtonschulz(
        updates_KMN,
        group["ns_steps"],
        list(QUINTIC),
        eps=group["eps"],
        safety_factor=group["safety_factor"],
        dtype=dtype,
    )
    return orthogonal_KMN
