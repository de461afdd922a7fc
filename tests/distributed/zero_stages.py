"""How far the weights of ZeRO's stages 1 and 3 end from those of stage 2, on two processes.

`python -m tests.distributed.zero_stages 32` (or `bf16-mixed`) trains the chain of both stages under each, and prints
the largest differences of the exported dual encoders.
"""

import argparse
import tempfile
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from tests.faults.experiment import write_experiment
from tests.faults.runner import kelip


def weights(stage: int, precision: str, folder: Path) -> dict[str, Tensor]:
    """The exported dual encoder, in the dtype that it was exported in."""
    folder.mkdir()
    command = ["pretrain", str(write_experiment(folder)), f"output_dir={folder}", "trainer.devices=2"]
    settings = [f"trainer.strategy=deepspeed_stage_{stage}", f"trainer.precision={precision}"]
    done = kelip(*command, *settings, log=folder / "log", world=2)
    if done.exit_codes != [0, 0]:
        raise RuntimeError(done.output)
    return load_file(folder / "tiny" / "contrastive" / "dual_encoder" / "model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("precision", choices=["32", "bf16-mixed"])
    precision = parser.parse_args().precision
    with tempfile.TemporaryDirectory() as folder:
        found = {stage: weights(stage, precision, Path(folder) / str(stage)) for stage in (2, 1, 3)}
    for stage in (1, 3):
        apart = {name: (found[stage][name].float() - one.float()).abs().max().item() for name, one in found[2].items()}
        for name in sorted(apart, key=lambda name: -apart[name])[:4]:
            print(f"stage {stage} against 2, {found[stage][name].dtype}: {apart[name]:.1e}  {name}")


if __name__ == "__main__":
    main()
