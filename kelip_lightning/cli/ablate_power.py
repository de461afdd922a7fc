"""`kelip ablate --power`: how often simulated studies find a difference, and how often they name a false winner."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from kelip_lightning.statistics import ALPHA
from kelip_lightning.statistics.simulation import (
    EFFECTS,
    FAMILIES,
    GridCell,
    Rates,
    SimulatedStudy,
    banerjee,
    crossed,
    simulate,
    simulate_family,
    simulate_sizes,
)

Result = TypeVar("Result")

POWER_EFFECTS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.1)
POWER_SPREADS = (0.005, 0.02)
NUM_ITEMS = 1000
NUM_POWER, NUM_GRID = 1000, 2000
"""Default numbers of simulated studies: of the table, and of each cell of the grid."""
_TIMES_AGAIN = 10
"""Of the studies of a cell, how many times as many decide whether a rate above the level is above it by chance."""


def print_power(
    num_variants: int,
    num_seeds: int,
    num_studies: int | None,
    num_items: int | None = None,
    spread: float | None = None,
) -> None:
    """Print how often a simulated study of this size finds a true difference, by the rule and by the one before.

    Args:
        num_variants: Variants beside the reference.
        num_seeds: Of each variant.
        num_studies: Simulated studies; `None`: `NUM_POWER`.
        num_items: Evaluated items; `None`: `NUM_ITEMS`.
        spread: Standard deviation of a run's hit rate over seeds, in [0, 1]; `None`: each of `POWER_SPREADS`.
    """
    count, num_items = num_studies or NUM_POWER, num_items or NUM_ITEMS
    table = Table(
        title=f"{count:,} simulated studies: {num_variants} variants, {num_seeds} seeds, {num_items:,} items, "
        "30 % hits",
        title_justify="left",
    )
    table.add_column("true difference", justify="right")
    columns: list[list[Rates]] = []
    for one in POWER_SPREADS if spread is None else (spread,):
        study = SimulatedStudy(num_variants=num_variants, num_seeds=num_seeds, num_items=num_items, seed_spread=one)
        (after, before), *_ = simulate_sizes([study], POWER_EFFECTS, count, rules=(crossed, banerjee))
        columns += [after, before]
        table.add_column(f"seed spread {100 * one:g} points", justify="right")
        table.add_column("rule before", justify="right")
    for place, effect in enumerate(POWER_EFFECTS):
        name = f"{100 * effect:+g} points" if effect else "0: false winner"
        shares = [column[place].found if effect else column[place].false_winner for column in columns]
        table.add_row(name, *(_percent(share) for share in shares))
    Console().print(table)


def print_grid(num_studies: int | None, jobs: int) -> None:
    """Print every cell of the simulated grid as Markdown, the worst ones, and those above the level simulated again."""
    count = num_studies or NUM_GRID
    print(f"{count:,} simulated studies a cell. False winners without and with a true difference of another variant;")
    print("in how many studies that difference is found, by the rule / by the rule before.")
    print()
    names = ["hits", "seed spread", "one variant", "group", "variants", "seeds", "items"]
    names += ["false, none", *(f"false, {100 * effect:+g}" for effect in EFFECTS[1:])]
    names += ["false before", *(f"{100 * effect:+g} found" for effect in EFFECTS[1:])]
    print(f"| {' | '.join(names)} |\n|{'---:|' * len(names)}", flush=True)
    cells: list[GridCell] = []
    for family in _in_processes(simulate_family, jobs, FAMILIES, [count] * len(FAMILIES), range(len(FAMILIES))):
        for cell in family:
            print(f"| {' | '.join(_row(cell))} |")
        print(end="", flush=True)
        cells += family
    print()
    print("\n".join(summary_lines(cells)), flush=True)
    above = [cell for cell in cells if max(rate.false_winner for rate in cell.rates) > ALPHA]
    if above:
        print(_line_again(above, _TIMES_AGAIN * count, jobs))


def _line_again(above: Sequence[GridCell], count: int, jobs: int) -> str:
    """The largest rate of these cells with other random numbers: the largest of many rates is above its expectation."""
    seeds = range(len(FAMILIES), len(FAMILIES) + len(above))
    again = [rate for rates in _in_processes(_again, jobs, above, [count] * len(above), seeds) for rate in rates]
    worst = max(again, key=lambda rate: rate.false_winner)
    return (
        f"The {len(above)} cells with a rate above {ALPHA:.0%} again, {count:,} studies each, with other random "
        f"numbers: at most {_percent(worst.false_winner)} false winners (standard error {_percent(worst.error)})."
    )


def _again(cell: GridCell, count: int, seed: int) -> list[Rates]:
    return simulate(cell.study, EFFECTS, count, seed)


def summary_lines(cells: Sequence[GridCell]) -> list[str]:
    """The worst cells, and how many are above the level by more than chance."""
    rates = [(rate, cell) for cell in cells for rate in cell.rates]
    worst, cell = max(rates, key=lambda one: one[0].false_winner)
    above = sum(rate.false_winner > ALPHA for rate, _ in rates)
    beyond = sum(rate.false_winner - 2 * rate.error > ALPHA for rate, _ in rates)
    before = max(rate.false_winner for cell in cells for rate in cell.before)
    return [
        f"Worst cell: {_percent(worst.false_winner)} false winners (standard error {_percent(worst.error)}) with "
        f"{', '.join(_row(cell)[:7])}.",
        f"Of {len(rates)} rates {above} are above {ALPHA:.0%}, {beyond} of them by more than two standard errors.",
        f"Worst cell of the rule before: {_percent(before)}.",
    ]


def _in_processes(function: Callable[..., Result], jobs: int, *work: Iterable[Any]) -> Iterator[Result]:
    """As `map`, by so many processes."""
    if jobs == 1:
        yield from map(function, *work)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(function, *work)


def _row(cell: GridCell) -> list[str]:
    study, (none, *others) = cell.study, cell.rates
    return [
        f"{study.hit_rate:.0%}",
        f"{100 * study.seed_spread:g}",
        f"{study.last_spread:g} x",
        str(study.group_size),
        str(study.num_variants),
        str(study.num_seeds),
        f"{study.num_items:,}",
        _percent(none.false_winner),
        *(_percent(one.false_winner) for one in others),
        _percent(max(one.false_winner for one in cell.before)),
        *(
            f"{_percent(after.found)} / {_percent(before.found)}"
            for after, before in zip(others, cell.before[1:], strict=True)
        ),
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
