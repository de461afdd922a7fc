"""On which device a trained model is used."""

import re
from typing import TYPE_CHECKING

from kelip_lightning.errors import ConfigError

if TYPE_CHECKING:
    import torch

AUTO = "auto"
_NAME = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


def choose_device(name: str) -> "torch.device":
    """The device that `--device` names.

    Args:
        name: auto (a GPU if there is one, as in training), cpu, cuda, cuda:NUMBER or mps.

    Raises:
        ConfigError: It is no such name, or this machine has no such device.
    """
    import torch

    if not _NAME.fullmatch(name):
        raise ConfigError([f"--device {name or repr(name)} must be auto, cpu, cuda, cuda:NUMBER or mps"])
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    has_mps = torch.backends.mps.is_available()
    if name == AUTO:
        # Lightning's order, so that a model is used where it would be trained.
        return torch.device("mps" if has_mps else "cuda" if num_gpus else "cpu")
    device = torch.device(name)
    if device.type == "mps" and not has_mps:
        raise ConfigError([f"--device {name}: torch sees no Apple GPU here; use auto or cpu"])
    if device.type == "cuda" and not num_gpus:
        raise ConfigError([f"--device {name}: torch sees no GPU here; use auto or cpu"])
    if device.type == "cuda" and (device.index or 0) >= num_gpus:
        raise ConfigError(
            [f"--device {name}: this machine has {num_gpus} GPU(s), numbered from 0; give a smaller number"]
        )
    return device
