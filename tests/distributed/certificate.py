"""The gradient certificate: one step on many processes has the gradient of one process with the whole batch.

`python -m tests.distributed.certificate` prints the largest error for every world, strategy, number of chunks, loss and
set of crops, then the largest by strategy and world. `--worlds 2 --strategies ddp` picks; `--precision tf32x3` has the
loss multiply as on a GPU; `--mutation` breaks the gather on purpose, which must be noticed. The processes are real,
talk over gloo, and run what a training run does: the module, the strategy and Lightning's Trainer.
"""

import argparse
import itertools
import os
import socket
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, multiprocessing

from kelip_lightning.losses.products import MatmulPrecision
from tests.distributed.step import MUTATIONS, RATE, Cell, reference_gradients, run_steps

WORLDS = (1, 2, 4)
STRATEGIES = ("ddp", "deepspeed_stage_1", "deepspeed_stage_2", "deepspeed_stage_3")
CHUNKS = (1, 2, 4)
TILES = (None, 3)
CROPS = ((1, 0), (2, 2))
TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one cell's processes found, compared with the reference."""

    cell: Cell
    gradient_errors: dict[str, float]
    """Parameter -> norm of the difference of gradients over the norm of the reference's."""
    step_error: float | None
    """The same of all parameters' changes in one SGD step; None where none was made."""

    @property
    def worst(self) -> tuple[str, float]:
        """The parameter with the largest error, and the error."""
        return max(self.gradient_errors.items(), key=lambda item: item[1])


def compare(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """Parameter -> relative error of the whole tensor.

    The bias of attention's keys moves all logits of a query alike and so has no gradient at all but for rounding: its
    error is taken relative to the gradient of the queries' bias beside it. What is no number is infinitely wrong.
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


def _work(rank: int, port: int, cells: Sequence[Cell], results: str) -> None:
    """A process of a world: its cells one after the other."""
    torch.set_num_threads(1)
    world = cells[0].world
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in ranks.items()} | {"MASTER_ADDR": "127.0.0.1"}
    outcomes = []
    for _, group in itertools.groupby(cells, key=lambda cell: (cell.strategy, cell.crops)):
        outcomes += _outcomes(list(group), rank)
    if rank == 0:
        torch.save(outcomes, results)
    # DeepSpeed's threads now and then abort an interpreter that shuts down.
    sys.stdout.flush()
    os._exit(0)


def run(cells: Iterable[Cell]) -> list[Outcome]:
    """The outcomes of cells, which are ordered by world, strategy and crops; processes start once a world."""
    outcomes: list[Outcome] = []
    for world, group in itertools.groupby(cells, key=lambda cell: cell.world):
        with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            probe.close()
            results = Path(folder) / "outcomes.pt"
            multiprocessing.spawn(_work, (port, list(group), str(results)), nprocs=world)
            outcomes += torch.load(results, weights_only=False)
    return outcomes


def all_cells(
    worlds: Sequence[int],
    strategies: Sequence[str],
    mutation: str | None = None,
    precision: MatmulPrecision = MatmulPrecision.auto,
) -> list[Cell]:
    """The whole matrix."""
    return [
        Cell(world, strategy, chunks, tile, crops, mutation, precision)
        for world, strategy, crops, chunks, tile in itertools.product(worlds, strategies, CROPS, CHUNKS, TILES)
    ]


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as text, one line per cell."""
    lines = ["world  strategy           chunks  loss   crops  largest relative error of a gradient"]
    for outcome in outcomes:
        name, error = outcome.worst
        step = "" if outcome.step_error is None else f"   (one SGD step: {outcome.step_error:.1e})"
        lines.append(f"{outcome.cell}    {error:.1e}  {name}{step}")
    return "\n".join(lines)


def summary(outcomes: Sequence[Outcome]) -> str:
    """The largest error of any gradient by strategy and number of processes, as a table in Markdown."""
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
    parser.add_argument("--mutation", choices=[name for name in MUTATIONS if name], help="what to break on purpose")
    parser.add_argument(
        "--precision",
        default="auto",
        choices=[one.name for one in MatmulPrecision],
        help="loss.matmul_precision, here on a CPU",
    )
    arguments = parser.parse_args()
    outcomes = run(
        all_cells(arguments.worlds, arguments.strategies, arguments.mutation, MatmulPrecision[arguments.precision])
    )
    print(table(outcomes), summary(outcomes), sep="\n\n", end="\n\n")
    worst = max(max(outcome.worst[1], outcome.step_error or 0.0) for outcome in outcomes)
    print(f"{len(outcomes)} cells, largest error {worst:.1e}, allowed {TOLERANCE:.0e}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
