"""The precision of a model in use: the dtype of its weights, and autocast."""

from dataclasses import dataclass

import torch

from kelip_lightning.distributed.accelerators import LightningPrecision, choose_precision


@dataclass(frozen=True, slots=True)
class InferencePrecision:
    """Computes as Lightning's precision plugin of this name does in training.

    `32-true`: float32. `bf16-mixed`: float32 weights, autocast to bfloat16. `bf16-true`: bfloat16 weights and inputs.

    Reference: Lightning, `MixedPrecision` and `HalfPrecision`.
    """

    name: LightningPrecision
    device: torch.device

    @classmethod
    def choose(cls, name: str, device: torch.device) -> "InferencePrecision":
        """The precision for one of `accelerators.PRECISIONS`; `auto` depends on the device.

        Raises:
            ValueError: The name is none of `PRECISIONS`.
        """
        return cls(choose_precision(name, "cpu" if device.type == "cpu" else "auto"), device)

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and float inputs."""
        return torch.bfloat16 if self.name == "bf16-true" else torch.float32

    def autocast(self) -> torch.autocast:
        """A new context of a forward pass; it also ends an autocast that is active around it."""
        enabled = self.name == "bf16-mixed"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled, cache_enabled=False)
