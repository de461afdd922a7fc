"""What this machine has: cores, memory, GPUs."""

import os
from dataclasses import dataclass

import torch

from kelip_lightning.distributed.cores import usable_cores


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The resources that an experiment is sized to."""

    cores: int
    memory_bytes: int
    """Main memory; of a container the machine's."""
    num_gpus: int = 0
    gpu_name: str = ""
    gpu_bytes: int = 0
    """Memory of the smallest GPU."""

    @property
    def described(self) -> str:
        """One line for reports."""
        own = f"{self.cores} CPU core{'s' * (self.cores != 1)}, {self.memory_bytes / 2**30:.0f} GiB of memory"
        if not self.num_gpus:
            return f"{own}, no GPU"
        return f"{own}, {self.num_gpus} x {self.gpu_name} with {self.gpu_bytes / 2**30:.0f} GiB"


def this_machine() -> Machine:
    """The machine that this process runs on; GPUs are those that CUDA shows."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if not torch.cuda.is_available():
        return Machine(cores=usable_cores(), memory_bytes=memory)
    gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return Machine(
        cores=usable_cores(),
        memory_bytes=memory,
        num_gpus=len(gpus),
        gpu_name=gpus[0].name,
        gpu_bytes=min(gpu.total_memory for gpu in gpus),
    )
