"""Tables of `kelip benchmark`."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kelip_lightning.benchmarks.data import BOUND, DEVICE, NAMES, ONE, PEER, PLANES, RAW, DataRates
from kelip_lightning.benchmarks.evaluation import EvaluationCost, EvaluationSetting, described_peaks
from kelip_lightning.benchmarks.loss import LossCost, LossSetting
from kelip_lightning.benchmarks.ratios import Ratio
from kelip_lightning.benchmarks.run_time import PHASES, RunTime
from kelip_lightning.benchmarks.step.agreement import TOLERANCE
from kelip_lightning.benchmarks.step.captions import CaptionLengths
from kelip_lightning.benchmarks.step.ceiling import product_shapes
from kelip_lightning.benchmarks.step.growth_report import CaseSummary, GrowthReport
from kelip_lightning.benchmarks.step.report import QUANTILES, StepReport
from kelip_lightning.benchmarks.step.setting import StepSetting
from kelip_lightning.benchmarks.store.benchmark import StoreRate

WIDTH = 100
UNKNOWN = "–"


def print_step_report(report: StepReport, files: Sequence[Path]) -> None:
    """Caption lengths, agreement, rates and ratios, the share of the ceiling."""
    console, plan = _console(), report.plan
    console.print(_heading(plan.setting, len(report.rounds), plan.warmup, plan.steps))
    console.print(_captions_table(report.captions))
    console.print(_agreement_table(report))
    console.print(_rates_table(report))
    console.print(_ceiling_table(report))
    console.print(_batches_line(report))
    for note in report.notes:
        console.print(f"note: {escape(note)}")
    _print_files(console, files)


def print_growth_report(report: GrowthReport, files: Sequence[Path]) -> None:
    """Cost per sample of each case, and its time over counted operations."""
    console = _console()
    console.print(_heading(report.setting, len(report.rounds), report.warmup, report.steps))
    caption = (
        "sample: a pair, of MAE an image; a section's first row is the reference of its other rows\n"
        "time / counted: geometric mean, 95 % t-interval over the rounds"
    )
    columns = ["case", "ms", "GFLOP", "time", "counted", "time / counted"]
    table = _table("Cost per sample, and its ratio to the reference's", caption, columns)
    for one in report.summaries():
        if one.reference is None:
            table.add_section()
        time, counted = (UNKNOWN if ratio is None else f"{ratio:.3f}" for ratio in _ratios(one))
        interval = " ".join(dict.fromkeys(ratio_cells(one.time_over_counted)))
        table.add_row(one.name, f"{1000 * one.seconds:,.2f}", f"{one.flops / 1e9:,.2f}", time, counted, interval)
    console.print(table)
    for case, one in zip(report.cases, report.summaries(), strict=True):
        if one.within_tolerance is not None:
            verdict = "yes" if one.within_tolerance else "NO"
            console.print(f"{one.name}: time and counted operations agree within {case.tolerance:.0%}: {verdict}")
    _print_files(console, files)


def print_loss_report(setting: LossSetting, costs: Sequence[LossCost], files: Sequence[Path]) -> None:
    """Peak memory and time of each case."""
    console = _console()
    table = _table(
        f"InfoNCE of {setting.local:,} x {setting.total:,} pairs, width {setting.width}, {setting.precision.name}, "
        f"{setting.device}",
        "forward and backward; MiB above the features",
        ["case", "peak MiB", "without the features' gradients", "seconds"],
    )
    for one in costs:
        peaks = (one.peak_mebibytes, one.peak_mebibytes and one.peak_mebibytes - one.gradient_mebibytes)
        cells = [UNKNOWN if peak is None else f"{peak:,.0f}" for peak in peaks]
        table.add_row(one.name, *cells, f"{one.seconds:.2f}")
    console.print(table)
    _print_files(console, files)


def print_evaluation_report(setting: EvaluationSetting, cost: EvaluationCost, files: Sequence[Path]) -> None:
    """Memory and time by the number of ranks."""
    console = _console()
    caption = "MiB of a rank and its loader process above the model; seconds with one thread a rank"
    columns = ["evaluation", "unit", *(f"{world} rank(s)" for world in cost.seconds), "ratio"]
    table = _table("Evaluation", caption, columns)
    for name, peaks in described_peaks(setting, cost).items():
        table.add_row(name, "MiB", *(f"{peak:,.0f}" for peak in peaks.values()), f"{peaks[2] / peaks[1]:.2f}")
    seconds = cost.seconds
    numbers = (f"{one:.1f}" for one in seconds.values())
    table.add_row(f"{setting.timed:,} pictures", "s", *numbers, f"{seconds[2] / seconds[1]:.2f}")
    console.print(table)
    same = "yes" if cost.same_outcomes else "NO"
    console.print(f"outcomes of two ranks equal those of one, item by item: {same}")
    _print_files(console, files)


_DATA_RATIOS = {
    "1 crop / (a)": (ONE, RAW),
    "1 crop / bound": (ONE, BOUND),
    "1 crop that the device cuts / (a)": (DEVICE, RAW),
    "YUV420 shards / JPEG": (PLANES, ONE),
    "1 crop / (c)": (ONE, PEER),
}


def print_data_report(found: Sequence[DataRates], files: Sequence[Path]) -> None:
    """Rates of each size, and their ratios."""
    console = _console()
    kinds = [kind for kind in NAMES if any(kind in one.samples_per_second for one in found)]
    sizes = [f"{one.side} px, {one.kilobytes:.0f} kB" for one in found]
    table = _table("Samples per CPU second", "best of the repeats, one thread", ["", *sizes])
    for kind in kinds:
        table.add_row(NAMES[kind], *(f"{one.samples_per_second[kind]:,.0f}" for one in found))
    table.add_section()
    for label, (ours, other) in _DATA_RATIOS.items():
        if ours in kinds and other in kinds:
            ratios = (one.samples_per_second[ours] / one.samples_per_second[other] for one in found)
            table.add_row(label, *(f"{ratio:.2f}" for ratio in ratios))
    console.print(table)
    for one in (one for one in found if one.worker_megabytes):
        megabytes = ", ".join(map(str, one.worker_megabytes))
        console.print(f"{one.side} px: private memory of our worker after each epoch: {megabytes} MB")
    _print_files(console, files)


def print_store_report(rates: Sequence[StoreRate], files: Sequence[Path]) -> None:
    """Samples per second of every reader, and what it asked of the store."""
    console = _console()
    columns = ["reader", "window", "loader processes", "samples/s", "GETs/sample", "kB/sample", "unreadable"]
    table = _table("Samples per second from a store", "encoded images and captions, not decoded", columns)
    for one in rates:
        table.add_row(
            one.reader,
            f"{one.window:,}",
            str(one.workers),
            f"{one.samples_per_second:,.0f}",
            f"{one.gets_per_sample:.3f}",
            f"{one.kilobytes_per_sample:.1f}",
            str(one.faults),
        )
    console.print(table)
    _print_files(console, files)


def print_run_report(found: RunTime, files: Sequence[Path]) -> None:
    """Seconds and share of each phase, by stage."""
    console, stages = _console(), found.columns()
    sessions = f", {found.num_sessions} commands" if found.num_sessions > 1 else ""
    title = f"{found.name}: {found.seconds:,.1f} s{sessions}"
    table = _table(title, "seconds; a phase does not count those inside it", ["phase", *stages, "all", "share"])
    table.add_column("", style="dim")
    for one in found.phases:
        seconds = [f"{one.seconds_of[stage]:,.2f}" if stage in one.seconds_of else UNKNOWN for stage in stages]
        share = f"{one.seconds / found.seconds:.1%}"
        table.add_row(one.name, *seconds, f"{one.seconds:,.2f}", share, PHASES.get(one.name, ""))
    console.print(table)
    _print_files(console, files)


def _ratios(one: CaseSummary) -> tuple[float | None, float | None]:
    return None if one.time_ratio is None else one.time_ratio.value, one.counted_ratio


def _console() -> Console:
    console = Console(highlight=False)
    console.width = min(console.width, WIDTH)
    return console


def _heading(setting: StepSetting, rounds: int, warmup: int, steps: int) -> str:
    crops = f", {setting.local_crops} local crops" if setting.local_crops else ""
    compiled = ", compiled" if setting.compile else ""
    return (
        f"{setting.model.name}, batch {setting.batch}{crops}, {setting.precision}{compiled}, {setting.device}, "
        f"captions {setting.captions.name}; {rounds} round(s) of {warmup} + {steps} steps"
    )


def _print_files(console: Console, files: Sequence[Path]) -> None:
    console.print(f"written: {', '.join(map(str, files))}", soft_wrap=True, markup=False)


def _captions_table(captions: Sequence[CaptionLengths]) -> Table:
    columns = ["captions", "mean", *(f"{level:.0%}" for level in QUANTILES)]
    descriptions = "\n".join(f"{one.name}: {one.description}" for one in captions)
    table = _table("Caption lengths in tokens, start and end included", descriptions, columns)
    for one in captions:
        table.add_row(one.name, f"{one.mean:.1f}", *(str(one.quantile(level)) for level in QUANTILES))
    return table


def _agreement_table(report: StepReport) -> Table:
    title = f"One step in float32, ours against each: errors must be at most {TOLERANCE:g}"
    table = _table(title, "", ["contestant", "loss", "its loss", "error", "gradient error", "agrees"])
    for one in report.agreements:
        verdict = "yes" if one.holds else "NO"
        losses = (f"{one.our_loss:.6f}", f"{one.peer_loss:.6f}")
        table.add_row(one.peer, *losses, f"{one.loss_error:.1e}", f"{one.gradient_error:.1e}", verdict)
    return table


def _rates_table(report: StepReport) -> Table:
    caption = (
        "median over the rounds; ours / it: geometric mean, t-interval over the rounds\n"
        "by CPU time: the same ratio of processor seconds, which other processes hardly change"
    )
    columns = ["contestant", "pairs/s", "ours / it", "95 % interval", "by CPU time", "peak MiB"]
    table = _table("Steps", caption, columns)
    for one in report.summaries():
        peak = UNKNOWN if one.peak_mebibytes is None else f"{one.peak_mebibytes:,.0f}"
        by_processor, _ = ratio_cells(one.ours_over_it_by_processor)
        table.add_row(one.name, f"{one.pairs_per_second:,.1f}", *ratio_cells(one.ours_over_it), by_processor, peak)
    return table


def ratio_cells(ratio: Ratio | None) -> tuple[str, str]:
    """The value and the interval of a ratio."""
    if ratio is None:
        return UNKNOWN, UNKNOWN
    interval = UNKNOWN if ratio.low is None else f"[{ratio.low:.3f}, {ratio.high:.3f}]"
    return f"{ratio.value:.3f}", interval


def _ceiling_table(report: StepReport) -> Table:
    """The matrix products, and our share of the fastest."""
    setting, rounds = report.plan.setting, report.rounds
    kind = "bfloat16" if setting.precision == "bf16-mixed" else "float32"
    caption = (
        f"ours: {report.flops_per_second() / 1e9:,.1f} GFLOP/s, {report.share_of_ceiling():.1%} of the fastest product"
    )
    table = _table(f"Matrix products in {kind}", caption, ["product", "m", "k", "n", "GFLOP/s"])
    for name, shape in product_shapes(setting).items():
        rate = median(one.product_rates[name] for one in rounds)
        table.add_row(name, *map(str, shape), f"{rate / 1e9:,.1f}")
    return table


def _batches_line(report: StepReport) -> str:
    mean, longest = (
        fmean(getattr(one, name) for one in report.rounds) for name in ("caption_tokens", "longest_tokens")
    )
    return f"captions of the batches: {mean:.1f} tokens on average, the longest of a batch {longest:.1f}"


def _table(title: str, caption: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", caption=caption or None, caption_justify="left")
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left")
    return table
