"""The gradient certificate: a step on several processes has the gradient of one process with the whole batch.

`python -m tests.distributed.certificate` prints the largest error for every world size, strategy, number of chunks,
loss and set of crops, then the largest by strategy and world size. `--worlds 2 --strategies ddp` selects;
`--precision tf32x3` multiplies as on a GPU; `--mutation` breaks the gather, which must be detected. The processes use
gloo, or with `--accelerator gpu --worlds 1` one GPU and NCCL, and run the module, the strategy and Lightning's Trainer
as in training; the reference is always computed on the CPU.
"""

import argparse
import itertools
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kelip_lightning.losses.config import MatmulPrecision
from tests.distributed.launch import launch
from tests.distributed.step import MUTATIONS, RATE, Cell, reference_gradients, run_steps

WORLDS = (1, 2, 4)
STRATEGIES = ("ddp", "deepspeed_stage_1", "deepspeed_stage_2", "deepspeed_stage_3")
CHUNKS = (1, 2, 4)
TILES = (None, 3)
CROPS = ((1, 0), (2, 2))
TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Outcome:
    """Errors of a cell against the reference."""

    cell: Cell
    gradient_errors: dict[str, float]
    """Parameter -> norm of the gradient difference over the norm of the reference."""
    step_error: float | None
    """The same of the parameters' changes in one SGD step; `None` without a step."""

    @property
    def worst(self) -> tuple[str, float]:
        """The parameter with the largest error, and the error."""
        return max(self.gradient_errors.items(), key=lambda item: item[1])


def compare(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """Parameter -> relative error of the whole tensor.

    The gradient of the key bias of attention is zero but for rounding, as it shifts all logits of a query: its error is
    relative to the gradient of the query bias. NaN counts as an infinite error.
    """
    assert found.keys() == expected.keys()
    scale = {name: expected[name.replace("k_proj.bias", "q_proj.bias")].norm() for name in expected}
    errors = {name: (found[name] - expected[name]).norm() / scale[name] for name in expected}
    return {name: error.nan_to_num(nan=torch.inf, posinf=torch.inf).item() for name, error in errors.items()}


def _outcomes(cells: Sequence[Cell], rank: int) -> list[Outcome]:
    module = run_steps(cells, rank)
    expected = reference_gradients(cells[0].crops)
    errors = [compare(found, expected) for found in module.gradients]
    step = compare(
        {"all": torch.cat([module.changes[name].flatten() for name in expected])},
        {"all": torch.cat([-RATE * expected[name].flatten() for name in expected])},
    )
    step_errors = [*[None] * (len(cells) - 1), step["all"]]
    return [Outcome(*values) for values in zip(cells, errors, step_errors, strict=True)]


def _work(rank: int, _: int, cells: Sequence[Cell], results: Path) -> None:
    outcomes = []
    for _, group in itertools.groupby(cells, key=lambda cell: (cell.strategy, cell.crops)):
        outcomes += _outcomes(list(group), rank)
    if rank == 0:
        torch.save(outcomes, results)


def run(cells: Iterable[Cell]) -> list[Outcome]:
    """The outcomes of cells, ordered by world, strategy and crops; processes start once per world size."""
    outcomes: list[Outcome] = []
    for world, group in itertools.groupby(cells, key=lambda cell: cell.world):
        with tempfile.TemporaryDirectory() as folder:
            results = Path(folder) / "outcomes.pt"
            launch(_work, world, list(group), results)
            outcomes += torch.load(results, weights_only=False)
    return outcomes


def all_cells(
    worlds: Sequence[int],
    strategies: Sequence[str],
    mutation: str | None = None,
    precision: MatmulPrecision = MatmulPrecision.auto,
    accelerator: str = "cpu",
) -> list[Cell]:
    """The whole matrix."""
    return [
        Cell(world, strategy, chunks, tile, crops, mutation, precision, accelerator)
        for world, strategy, crops, chunks, tile in itertools.product(worlds, strategies, CROPS, CHUNKS, TILES)
    ]


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes, one line per cell."""
    lines = ["world  strategy           chunks  loss   crops  largest relative error of a gradient"]
    for outcome in outcomes:
        name, error = outcome.worst
        step = "" if outcome.step_error is None else f"   (one SGD step: {outcome.step_error:.1e})"
        lines.append(f"{outcome.cell}    {error:.1e}  {name}{step}")
    return "\n".join(lines)


def summary(outcomes: Sequence[Outcome]) -> str:
    """The largest gradient error by strategy and world size, as a Markdown table."""
    largest: dict[str, dict[int, float]] = {}
    for outcome in outcomes:
        by_world = largest.setdefault(outcome.cell.strategy, {})
        by_world[outcome.cell.world] = max(outcome.worst[1], by_world.get(outcome.cell.world, 0.0))
    worlds = next(iter(largest.values())).keys()
    lines = [
        f"| strategy | {' | '.join(f'{world} process(es)' for world in worlds)} |",
        f"|---|{'---:|' * len(worlds)}",
    ]
    lines += [f"| {one} | {' | '.join(f'{largest[one][world]:.1e}' for world in worlds)} |" for one in largest]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, nargs="+", default=WORLDS, choices=WORLDS)
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES, choices=STRATEGIES)
    parser.add_argument("--mutation", choices=[name for name in MUTATIONS if name], help="deliberate error")
    parser.add_argument(
        "--precision",
        default="auto",
        choices=[one.name for one in MatmulPrecision],
        help="loss.matmul_precision; auto on a CPU is float32",
    )
    parser.add_argument("--accelerator", default="cpu", choices=["cpu", "gpu"], help="gpu: one process (default: cpu)")
    arguments = parser.parse_args()
    if arguments.accelerator == "gpu" and list(arguments.worlds) != [1]:
        parser.error("--accelerator gpu takes one process: give --worlds 1")
    precision, accelerator = MatmulPrecision[arguments.precision], arguments.accelerator
    outcomes = run(all_cells(arguments.worlds, arguments.strategies, arguments.mutation, precision, accelerator))
    print(table(outcomes), summary(outcomes), sep="\n\n", end="\n\n")
    worst = max(max(outcome.worst[1], outcome.step_error or 0.0) for outcome in outcomes)
    print(f"{len(outcomes)} cells, largest error {worst:.1e}, allowed {TOLERANCE:.0e}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
